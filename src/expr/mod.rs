//! The polars expression plugin: numbers of cells as columns of a query.
//!
//! Turns the column `cell` into keys, and what [`crate::lookup`] finds into polars columns, with nulls where
//! there is no cell or no such gene. Everything that an expression needs is in its arguments and in the type of its
//! column: no Python is called, and any thread will do. Polars' interface:
//! <https://docs.pola.rs/user-guide/plugins/expr_plugins/>.

mod plugin;

use std::sync::Arc;

use polars_arrow::array::{FixedSizeListArray, PrimitiveArray};
use polars_arrow::bitmap::Bitmap;
use polars_core::prelude::*;
use serde::Deserialize;

use crate::error::DaoError;
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

/// The name and type of the column that a request gives.
fn output(inputs: &[Field], request: &[u8]) -> PolarsResult<Field> {
    let cell = first(inputs)?;
    let resolved = resolve(cell_type(cell.name(), cell.dtype())?, request, true)?;
    Ok(Field::new(cell.name().clone(), dtype(&resolved)))
}

/// Numbers of the cells of one column.
fn look_up(inputs: &[Series], request: &[u8]) -> PolarsResult<Series> {
    let cell = first(inputs)?;
    let resolved = resolve(cell_type(cell.name(), cell.dtype())?, request, false)?;
    let storage = cell.to_storage().u64()?;
    let keys: Vec<u64> = storage.iter().flatten().collect();
    let threads = (keys.len() < THREADS_FROM).then_some(1);
    let mut found = resolved.lookup.read(&keys, threads).map_err(failed)?;
    reports::report(&resolved.request, &found, keys.len());
    let cells = cells(cell.name().clone(), storage, &keys, &mut found);
    column(&resolved, found, &cells)
}

fn resolve(cell: CellType, request: &[u8], planning: bool) -> PolarsResult<Arc<Resolved>> {
    let key = stores::RequestKey { uri: cell.uri, id: cell.id, request: request.to_vec() };
    let parse = |request: &[u8]| -> crate::error::Result<LookupRequest> {
        serde_pickle::from_slice(request, serde_pickle::DeOptions::default())
            .map_err(|e| DaoError::value(format!("the expression's arguments cannot be read: {e}")))
    };
    stores::resolved(key, planning, parse).map_err(failed)
}

fn first<T>(inputs: &[T]) -> PolarsResult<&T> {
    inputs.first().ok_or_else(|| polars_err!(ComputeError: "a lookup needs the column 'cell'"))
}

fn failed(error: impl std::fmt::Display) -> PolarsError {
    PolarsError::ComputeError(error.to_string().into())
}

fn cell_type(name: &PlSmallStr, dtype: &DataType) -> PolarsResult<CellType> {
    if let DataType::Extension(cell, storage) = dtype
        && cell.name() == "dao.cell"
        && **storage == DataType::UInt64
    {
        let metadata = cell.serialize_metadata().unwrap_or_default();
        return serde_json::from_str(&metadata).map_err(|_| {
            polars_err!(
                ComputeError: "column '{name}': its type's metadata should be JSON with 'uri' and 'id', found \
                '{metadata}'; make the frame again from dao.scan"
            )
        });
    }
    polars_bail!(
        ComputeError: "column '{name}' should hold cell keys (dao.cell), found {dtype}: numbers alone do not say which \
        store they are of. Keep the column 'cell' that dao.scan gives, as it is"
    )
}

/// A column of keys.
struct Cells {
    name: PlSmallStr,
    n: usize,
    /// Whether each cell is not null; `None` where all are valid.
    valid: Option<Bitmap>,
    /// The position in `absent` of the dataset of each valid cell, if that dataset lacks outputs.
    lacks: Vec<Option<usize>>,
    /// The outputs that are missing, for each dataset that lacks any.
    absent: Vec<Vec<bool>>,
}

fn validity(storage: &UInt64Chunked) -> Option<Bitmap> {
    (storage.null_count() > 0).then(|| storage.iter().map(|key| key.is_some()).collect())
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
fn cells(name: PlSmallStr, storage: &UInt64Chunked, keys: &[u64], found: &mut Found) -> Cells {
    let absent = std::mem::take(&mut found.absent);
    let numbers: Vec<u32> = absent.keys().copied().collect();
    let lacks = match numbers.is_empty() {
        true => Vec::new(),
        false => keys.iter().map(|&key| numbers.binary_search(&split_key(key).0).ok()).collect(),
    };
    Cells { name, n: storage.len(), valid: validity(storage), lacks, absent: absent.into_values().collect() }
}

fn dtype(resolved: &Resolved) -> DataType {
    let number = polars_type(resolved.lookup.dtype());
    let fields = |dtype: &dyn Fn(usize) -> DataType| {
        let names = (0..).zip(resolved.request.fields());
        DataType::Struct(names.map(|(i, name)| Field::new(name.into(), dtype(i))).collect())
    };
    match resolved.request.shape {
        Shape::One => number,
        Shape::Array => DataType::Array(Box::new(number), resolved.lookup.width()),
        Shape::Struct => fields(&|_| number.clone()),
        Shape::Sums => fields(&|i| if i == 1 { DataType::UInt32 } else { DataType::Float64 }),
    }
}

fn column(resolved: &Resolved, found: Found, cells: &Cells) -> PolarsResult<Series> {
    match resolved.request.shape {
        Shape::One => {
            let values = found.values.into_iter().next().ok_or_else(|| failed("nothing was looked up"))?;
            Ok(numbers(cells.name.clone(), values, cells.mask(0), cells))
        }
        Shape::Struct => {
            let named = (0..).zip(found.values).zip(&resolved.request.names);
            let fields: Vec<Series> = named
                .map(|((output, values), name)| numbers(name.as_str().into(), values, cells.mask(output), cells))
                .collect();
            structs(cells, &fields)
        }
        Shape::Sums => {
            let mut sums = Vec::new();
            for values in found.values {
                match values {
                    Values::F64(values) => sums.push(cells.spread(values, 1)),
                    _ => return Err(failed("sums are float64")),
                }
            }
            let fields = sum_fields(&resolved.request.fields(), &sums, cells);
            structs(cells, &fields)
        }
        Shape::Array => {
            let width = resolved.lookup.width();
            let values = found.values.into_iter().next().ok_or_else(|| failed("nothing was looked up"))?;
            let inner = (!cells.absent.is_empty()).then(|| {
                let all = vec![false; width];
                let of = |at: &Option<usize>| at.map_or(&all, |at| &cells.absent[at]).iter().map(|absent| !absent);
                let present: Vec<bool> = cells.lacks.iter().flat_map(of).collect();
                cells.spread(present, width).into_iter().collect::<Bitmap>()
            });
            macro_rules! array {
                ($($variant:ident)*) => {
                    match values {
                        $(Values::$variant(values) => {
                            PrimitiveArray::from_vec(cells.spread(values, width)).with_validity(inner).boxed()
                        })*
                    }
                };
            }
            let inner = array! { U8 U16 U32 U64 I8 I16 I32 I64 F32 F64 };
            let dtype = dtype(resolved).to_arrow(CompatLevel::newest());
            let array = FixedSizeListArray::new(dtype, cells.n, inner, cells.valid.clone());
            Ok(ArrayChunked::with_chunk(cells.name.clone(), array).into_series())
        }
    }
}

/// A column of structs, null where there is no cell.
fn structs(cells: &Cells, fields: &[Series]) -> PolarsResult<Series> {
    let made = StructChunked::from_series(cells.name.clone(), cells.n, fields.iter())?;
    Ok(made.with_outer_validity(cells.valid.clone()).into_series())
}

/// The sums' columns: total, count, and of each set its sum and its share of the total in percent.
fn sum_fields(names: &[String], sums: &[Vec<f64>], cells: &Cells) -> Vec<Series> {
    let series = |i: usize, output: usize, values: Vec<f64>| {
        let name = names.get(i).map_or("", String::as_str);
        Float64Chunked::from_vec_validity(name.into(), values, cells.mask(output)).into_series()
    };
    let mut fields = Vec::new();
    for (i, sum) in sums.iter().enumerate() {
        match i {
            0 => fields.push(series(0, 0, sum.clone())),
            1 => {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of genes")]
                let counts: Vec<u32> = sum.iter().map(|&count| count as u32).collect();
                let name = names.get(1).map_or("", String::as_str);
                fields.push(UInt32Chunked::from_vec_validity(name.into(), counts, cells.valid.clone()).into_series());
            }
            _ => {
                let share = sum.iter().zip(&sums[0]).map(|(part, total)| part / total * 100.0).collect();
                fields.push(series(2 * i - 2, i, sum.clone()));
                fields.push(series(2 * i - 1, i, share));
            }
        }
    }
    fields
}

fn numbers(name: PlSmallStr, values: Values, valid: Option<Bitmap>, cells: &Cells) -> Series {
    macro_rules! series {
        ($($variant:ident $chunked:ident,)*) => {
            match values {
                $(Values::$variant(values) => {
                    $chunked::from_vec_validity(name, cells.spread(values, 1), valid).into_series()
                })*
            }
        };
    }
    series! {
        U8 UInt8Chunked, U16 UInt16Chunked, U32 UInt32Chunked, U64 UInt64Chunked,
        I8 Int8Chunked, I16 Int16Chunked, I32 Int32Chunked, I64 Int64Chunked,
        F32 Float32Chunked, F64 Float64Chunked,
    }
}

fn polars_type(dtype: Dtype) -> DataType {
    match dtype {
        Dtype::U8 => DataType::UInt8,
        Dtype::U16 => DataType::UInt16,
        Dtype::U32 => DataType::UInt32,
        Dtype::U64 => DataType::UInt64,
        Dtype::I8 => DataType::Int8,
        Dtype::I16 => DataType::Int16,
        Dtype::I32 => DataType::Int32,
        Dtype::I64 => DataType::Int64,
        Dtype::F32 => DataType::Float32,
        Dtype::F64 => DataType::Float64,
    }
}
