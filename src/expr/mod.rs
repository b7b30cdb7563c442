//! The polars expression plugin: numbers of cells as columns of a query.
//!
//! Turns the column `cell` into keys, and what [`crate::lookup`] finds into polars columns, with nulls where
//! there is no cell or no such gene. Everything that an expression needs is in its arguments and in the type of its
//! column: no Python is called, and any thread will do. Polars' interface:
//! <https://docs.pola.rs/user-guide/plugins/expr_plugins/>.

mod plugin;

use std::sync::Arc;

use polars_arrow::array::{Array, FixedSizeListArray, PrimitiveArray, StructArray};
use polars_arrow::bitmap::Bitmap;
use polars_arrow::datatypes::{ArrowDataType, Field};
use serde::Deserialize;

use crate::error::{DaoError, Result};
use crate::lookup::{Found, LookupRequest, Resolved, Shape, reports, stores};
use crate::number::{Dtype, Values};
use crate::read::split_key;

/// The number of cells from which several threads look them up; fewer are left to polars' calling thread.
const THREADS_FROM: usize = 1024;

/// The metadata of a column of cells: the store that they belong to.
#[derive(Deserialize)]
struct CellType {
    uri: String,
    id: String,
}

/// The name and type of the column that a request gives for a column of cells.
fn output(cell: &Field, request: &[u8]) -> Result<Field> {
    Ok(field(cell, &*resolve(cell, request, true)?))
}

/// The numbers of the cells of one column, whose keys come in chunks.
fn look_up(cell: &Field, chunks: &[Box<dyn Array>], request: &[u8]) -> Result<(Field, Box<dyn Array>)> {
    let resolved = resolve(cell, request, false)?;
    let chunks = chunks.iter().map(|chunk| chunk.as_any().downcast_ref::<PrimitiveArray<u64>>().cloned());
    let chunks: Option<Vec<_>> = chunks.collect();
    let chunks = chunks.ok_or_else(|| DaoError::internal("cell keys are not uint64"))?;
    let keys: Vec<u64> = chunks.iter().flatten().flatten().copied().collect();
    let threads = (keys.len() < THREADS_FROM).then_some(1);
    let mut found = resolved.lookup.read(&keys, threads)?;
    reports::report(&resolved.request, &found, keys.len());
    let cells = cells(&chunks, &keys, &mut found);
    Ok((field(cell, &resolved), column(&resolved, found, &cells)?))
}

fn field(cell: &Field, resolved: &Resolved) -> Field {
    Field::new(cell.name.clone(), dtype(resolved), true)
}

fn resolve(cell: &Field, request: &[u8], planning: bool) -> Result<Arc<Resolved>> {
    let CellType { uri, id } = cell_type(cell)?;
    let key = stores::RequestKey { uri, id, request: request.to_vec() };
    let parse = |request: &[u8]| -> Result<LookupRequest> {
        serde_pickle::from_slice(request, serde_pickle::DeOptions::default())
            .map_err(|e| DaoError::value(format!("the expression's arguments cannot be read: {e}")))
    };
    stores::resolved(key, planning, parse)
}

fn cell_type(Field { name, dtype, .. }: &Field) -> Result<CellType> {
    if let ArrowDataType::Extension(cell) = dtype
        && cell.name == "dao.cell"
        && cell.inner == ArrowDataType::UInt64
    {
        let metadata = cell.metadata.as_deref().unwrap_or_default();
        return serde_json::from_str(metadata).map_err(|_| {
            DaoError::value(format!(
                "column '{name}': its type's metadata should be JSON with 'uri' and 'id', found '{metadata}'; make the \
                frame again from dao.scan"
            ))
        });
    }
    Err(DaoError::value(format!(
        "column '{name}' should hold cell keys (dao.cell), found {dtype:?}: numbers alone do not say which store they \
        are of. Keep the column 'cell' that dao.scan gives, as it is"
    )))
}

/// A column of keys.
struct Cells {
    n: usize,
    /// Whether each cell is not null; `None` where all are valid.
    valid: Option<Bitmap>,
    /// The position in `absent` of the dataset of each valid cell, if that dataset lacks outputs.
    lacks: Vec<Option<usize>>,
    /// The outputs that are missing, for each dataset that lacks any.
    absent: Vec<Vec<bool>>,
}

impl Cells {
    /// A number, or `width` of them, for each row: zeros where there is no cell.
    fn spread<T: Copy + Default>(&self, found: Vec<T>, width: usize) -> Vec<T> {
        let Some(valid) = &self.valid else { return found };
        let mut all = vec![T::default(); self.n * width];
        let rows = valid.iter().enumerate().filter(|(_, valid)| *valid).map(|(row, _)| row);
        for (row, from) in rows.zip(found.chunks_exact(width.max(1))) {
            all[row * width..(row + 1) * width].copy_from_slice(from);
        }
        all
    }

    /// Whether each row has a number for an output; `None` where all do.
    fn mask(&self, output: usize) -> Option<Bitmap> {
        if !self.absent.iter().any(|absent| absent[output]) {
            return self.valid.clone();
        }
        let mut has = self.lacks.iter().map(|at| !at.is_some_and(|at| self.absent[at][output]));
        let mask: Bitmap = match &self.valid {
            None => has.collect(),
            Some(valid) => valid.iter().map(|valid| valid && has.next().unwrap_or(false)).collect(),
        };
        (mask.unset_bits() > 0).then_some(mask)
    }
}

/// The cells of a column after a lookup: which are null, and which outputs their datasets lack.
fn cells(chunks: &[PrimitiveArray<u64>], keys: &[u64], found: &mut Found) -> Cells {
    let n = chunks.iter().map(Array::len).sum();
    let valid = (keys.len() < n).then(|| chunks.iter().flatten().map(|key| key.is_some()).collect());
    let absent = std::mem::take(&mut found.absent);
    let numbers: Vec<u32> = absent.keys().copied().collect();
    let lacks = match numbers.is_empty() {
        true => Vec::new(),
        false => keys.iter().map(|&key| numbers.binary_search(&split_key(key).0).ok()).collect(),
    };
    Cells { n, valid, lacks, absent: absent.into_values().collect() }
}

fn dtype(resolved: &Resolved) -> ArrowDataType {
    let number = arrow_type(resolved.lookup.dtype());
    let fields = |dtype: &dyn Fn(usize) -> ArrowDataType| {
        let names = (0..).zip(resolved.request.fields());
        ArrowDataType::Struct(names.map(|(i, name)| Field::new(name.into(), dtype(i), true)).collect())
    };
    match resolved.request.shape {
        Shape::One => number,
        Shape::Array => {
            let item = Field::new("item".into(), number, true);
            ArrowDataType::FixedSizeList(Box::new(item), resolved.lookup.width())
        }
        Shape::Struct => fields(&|_| number.clone()),
        Shape::Sums => fields(&|i| if i == 1 { ArrowDataType::UInt32 } else { ArrowDataType::Float64 }),
    }
}

fn column(resolved: &Resolved, found: Found, cells: &Cells) -> Result<Box<dyn Array>> {
    let struct_of = |fields| StructArray::new(dtype(resolved), cells.n, fields, cells.valid.clone()).boxed();
    let mut outputs = (0..).zip(found.values);
    match resolved.request.shape {
        Shape::Struct => Ok(struct_of(outputs.map(|(i, values)| numbers(values, 1, cells.mask(i), cells)).collect())),
        Shape::Sums => Ok(struct_of(sum_fields(outputs.map(|(_, values)| values), cells)?)),
        Shape::One | Shape::Array => {
            let (_, values) = outputs.next().ok_or_else(|| DaoError::internal("nothing was looked up"))?;
            if matches!(resolved.request.shape, Shape::One) {
                return Ok(numbers(values, 1, cells.mask(0), cells));
            }
            let width = resolved.lookup.width();
            let valid = (!cells.absent.is_empty()).then(|| {
                let all = vec![false; width];
                let of = |at: &Option<usize>| at.map_or(&all, |at| &cells.absent[at]).iter().map(|absent| !absent);
                let present: Vec<bool> = cells.lacks.iter().flat_map(of).collect();
                cells.spread(present, width).into_iter().collect::<Bitmap>()
            });
            let inner = numbers(values, width, valid, cells);
            Ok(FixedSizeListArray::new(dtype(resolved), cells.n, inner, cells.valid.clone()).boxed())
        }
    }
}

/// The sums' columns: total, count, and of each set its sum and its share of the total in percent.
fn sum_fields(sums: impl Iterator<Item = Values>, cells: &Cells) -> Result<Vec<Box<dyn Array>>> {
    let mut totals = Vec::new();
    let mut fields = Vec::new();
    for (i, sum) in sums.enumerate() {
        let Values::F64(sum) = sum else { return Err(DaoError::internal("sums are float64")) };
        match i {
            0 => {
                totals.clone_from(&sum);
                fields.push(numbers(Values::F64(sum), 1, cells.mask(0), cells));
            }
            1 => {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of genes")]
                let counts = sum.iter().map(|&count| count as u32).collect();
                fields.push(numbers(Values::U32(counts), 1, cells.valid.clone(), cells));
            }
            _ => {
                let share = sum.iter().zip(&totals).map(|(part, total)| part / total * 100.0).collect();
                fields.push(numbers(Values::F64(sum), 1, cells.mask(i), cells));
                fields.push(numbers(Values::F64(share), 1, cells.mask(i), cells));
            }
        }
    }
    Ok(fields)
}

/// The array of `width` numbers for each row.
fn numbers(values: Values, width: usize, valid: Option<Bitmap>, cells: &Cells) -> Box<dyn Array> {
    macro_rules! array {
        ($($variant:ident)*) => {
            match values {
                $(Values::$variant(values) => {
                    PrimitiveArray::from_vec(cells.spread(values, width)).with_validity(valid).boxed()
                })*
            }
        };
    }
    array! { U8 U16 U32 U64 I8 I16 I32 I64 F32 F64 }
}

fn arrow_type(dtype: Dtype) -> ArrowDataType {
    match dtype {
        Dtype::U8 => ArrowDataType::UInt8,
        Dtype::U16 => ArrowDataType::UInt16,
        Dtype::U32 => ArrowDataType::UInt32,
        Dtype::U64 => ArrowDataType::UInt64,
        Dtype::I8 => ArrowDataType::Int8,
        Dtype::I16 => ArrowDataType::Int16,
        Dtype::I32 => ArrowDataType::Int32,
        Dtype::I64 => ArrowDataType::Int64,
        Dtype::F32 => ArrowDataType::Float32,
        Dtype::F64 => ArrowDataType::Float64,
    }
}
