//! The polars expression plugin: numbers of cells as columns of a query.
//!
//! Turns the column `cell` into keys, and what [`crate::lookup`] finds into polars columns, with nulls where
//! there is no cell or no such gene. Everything that an expression needs is in its arguments and in the type of its
//! column: no Python is called, and any thread will do. Polars' interface:
//! <https://docs.pola.rs/user-guide/plugins/expr_plugins/>.

mod plugin;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use polars_arrow::array::{Array, FixedSizeListArray, PrimitiveArray, StructArray};
use polars_arrow::bitmap::Bitmap;
use polars_arrow::datatypes::{ArrowDataType, Field};

use crate::error::{DaoError, Result};
use crate::lookup::stores::{self, Resolved};
use crate::lookup::{CellStores, Found, LookupRequest, Shape, reports};
use crate::number::{Dtype, Num, Values, for_dtype_values};
use crate::read::split_key;

/// The number of cells from which several threads look them up; fewer are left to polars' calling thread.
const THREADS_FROM: usize = 1024;

/// The name and type of the column that a request gives for cells, and perhaps a second input, whose type is that of
/// the numbers.
fn output(inputs: &[Field], request: &[u8]) -> Result<Field> {
    let cell = inputs.first().ok_or_else(no_cells)?;
    let resolved = resolve(cell, request, true)?;
    let number = number_type(inputs, &resolved)?;
    Ok(Field::new(cell.name.clone(), column_type(&resolved, number), true))
}

/// The numbers of the cells of the first column, whose keys come in chunks.
fn look_up(inputs: &[Field], chunks: &[Box<dyn Array>], request: &[u8]) -> Result<(Field, Box<dyn Array>)> {
    let cell = inputs.first().ok_or_else(no_cells)?;
    let resolved = resolve(cell, request, false)?;
    let number = number_type(inputs, &resolved)?;
    let chunks = chunks.iter().map(|chunk| chunk.as_any().downcast_ref::<PrimitiveArray<u64>>().cloned());
    let chunks: Option<Vec<_>> = chunks.collect();
    let chunks = chunks.ok_or_else(|| DaoError::internal("cell keys are not uint64"))?;
    let keys: Vec<u64> = chunks.iter().flatten().flatten().copied().collect();
    let threads = (keys.len() < THREADS_FROM).then_some(1);
    let found = resolved.lookup.read(&keys, number, threads)?;
    reports::report(&resolved.request, &found, keys.len());
    let field = Field::new(cell.name.clone(), column_type(&resolved, number), true);
    let column = column(&resolved, field.dtype.clone(), found, &chunks, &keys)?;
    Ok((field, column))
}

fn no_cells() -> DaoError {
    DaoError::value("a lookup needs the column 'cell'")
}

fn resolve(cell: &Field, request: &[u8], planning: bool) -> Result<Arc<Resolved>> {
    let parse = |request: &[u8]| -> Result<LookupRequest> {
        // By way of JSON's types, in which a text can name a variant of an enum.
        let options = serde_pickle::DeOptions::default();
        let request = serde_pickle::from_slice::<serde_json::Value>(request, options).map_err(|e| e.to_string());
        let request = request.and_then(|request| serde_json::from_value(request).map_err(|e| e.to_string()));
        request.map_err(|e| DaoError::value(format!("the expression's arguments cannot be read: {e}")))
    };
    stores::resolved(cell_stores(cell)?, request, planning, parse)
}

/// The stores that a column of cells belongs to.
fn cell_stores(Field { name, dtype, .. }: &Field) -> Result<CellStores> {
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

/// The type of the numbers: the second input's, where there is one.
fn number_type(inputs: &[Field], resolved: &Resolved) -> Result<Dtype> {
    let Some(number) = inputs.get(1) else { return Ok(resolved.lookup.dtype) };
    let found = Dtype::ALL.iter().copied().find(|&dtype| arrow_type(dtype) == number.dtype);
    found.ok_or_else(|| DaoError::value(format!("{:?} is not a number type", number.dtype)))
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

fn column_type(resolved: &Resolved, number: Dtype) -> ArrowDataType {
    let is_count = |i: usize| resolved.request.shape == Shape::Sums && i == 1;
    let field = |(i, name): (usize, String)| {
        Field::new(name.into(), if is_count(i) { ArrowDataType::UInt32 } else { arrow_type(number) }, true)
    };
    match resolved.request.shape {
        Shape::One => arrow_type(number),
        Shape::Array => FixedSizeListArray::default_datatype(arrow_type(number), resolved.lookup.width),
        Shape::Struct | Shape::Sums => {
            ArrowDataType::Struct(resolved.request.fields().into_iter().enumerate().map(field).collect())
        }
    }
}

/// The cells of a column of keys.
struct Cells<'a> {
    n_rows: usize,
    /// Whether each row is a cell; `None` where all are.
    valid: Option<Bitmap>,
    keys: &'a [u64],
    /// The outputs that a part lacks, by the number of each part that lacks any.
    absent: &'a BTreeMap<u32, Vec<bool>>,
}

impl Cells<'_> {
    /// `width` values for each row: those of the cells, and the default where there is none.
    fn spread<T: Copy + Default>(&self, found: Vec<T>, width: usize) -> Vec<T> {
        let Some(valid) = &self.valid else { return found };
        let mut all = vec![T::default(); self.n_rows * width];
        let rows = valid.iter().enumerate().filter(|(_, valid)| *valid).map(|(row, _)| row);
        for (row, from) in rows.zip(found.chunks_exact(width.max(1))) {
            all[row * width..(row + 1) * width].copy_from_slice(from);
        }
        all
    }

    /// The array of the values of some outputs, side by side; null where there is no cell or its part lacks one.
    fn array(&self, values: Values, outputs: Range<usize>) -> Box<dyn Array> {
        let width = outputs.len();
        let valid: Option<Bitmap> = if self.absent.values().any(|lacks| lacks[outputs.clone()].contains(&true)) {
            let all_there = vec![false; outputs.end];
            let lacks = |key: &u64| &self.absent.get(&split_key(*key).0).unwrap_or(&all_there)[outputs.clone()];
            let is_there = self.keys.iter().flat_map(lacks).map(|lacks| !lacks).collect();
            Some(self.spread(is_there, width).into_iter().collect())
        } else {
            self.valid.clone().filter(|_| width == 1)
        };
        for_dtype_values!(values, values => {
            PrimitiveArray::from_vec(self.spread(values, width)).with_validity(valid).boxed()
        })
    }
}

/// The column, of type `dtype`, of what was found for `keys`, which are those of `chunks` that are not null.
fn column(
    resolved: &Resolved,
    dtype: ArrowDataType,
    found: Found,
    chunks: &[PrimitiveArray<u64>],
    keys: &[u64],
) -> Result<Box<dyn Array>> {
    let Found { values, absent, .. } = found;
    let n_rows = chunks.iter().map(Array::len).sum();
    let valid = (keys.len() < n_rows).then(|| chunks.iter().flatten().map(|key| key.is_some()).collect());
    let cells = Cells { n_rows, valid, keys, absent: &absent };
    let mut outputs = values.into_iter().enumerate();
    let mut first = || outputs.next().map(|(_, values)| values).ok_or_else(|| DaoError::internal("nothing was found"));
    let outputs: Vec<(usize, Values)> = match resolved.request.shape {
        Shape::One => return Ok(cells.array(first()?, 0..1)),
        Shape::Array => {
            let inner = cells.array(first()?, 0..resolved.lookup.width);
            return Ok(FixedSizeListArray::new(dtype, n_rows, inner, cells.valid).boxed());
        }
        Shape::Struct => outputs.collect(),
        Shape::Sums => sums(outputs.filter_map(|(_, values)| f64::unwrap(values)).collect()),
    };
    let fields = outputs.into_iter().map(|(output, values)| cells.array(values, output..output + 1)).collect();
    Ok(StructArray::new(dtype, n_rows, fields, cells.valid).boxed())
}

/// The fields of sums, with the outputs whose genes they are of: total, count, and of each set its sum and its share of
/// the total in percent.
fn sums(sums: Vec<Vec<f64>>) -> Vec<(usize, Values)> {
    let mut fields = Vec::new();
    for (output, sum) in sums.iter().enumerate() {
        if output == 1 {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of genes")]
            fields.push((output, Values::U32(sum.iter().map(|&count| count as u32).collect())));
            continue;
        }
        fields.push((output, Values::F64(sum.clone())));
        if output > 1 {
            let share = sum.iter().zip(&sums[0]).map(|(part, total)| part / total * 100.0);
            fields.push((output, Values::F64(share.collect())));
        }
    }
    fields
}
