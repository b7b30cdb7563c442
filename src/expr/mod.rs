//! The polars expression plugin: numbers of cells as columns of a query.
//!
//! Turns the column `cell` into keys, and what [`crate::lookup`] finds into polars columns, with nulls where
//! there is no cell or no such gene. Everything that an expression needs is in its arguments and in the type of its
//! column: no Python is called, and any thread will do. Polars' interface:
//! <https://docs.pola.rs/user-guide/plugins/expr_plugins/>.

mod plugin;

use std::sync::Arc;

use polars_arrow::array::{ArrayRef, FixedSizeListArray, PrimitiveArray};
use polars_arrow::bitmap::Bitmap;
use polars_core::prelude::*;

use crate::error::DaoError;
use crate::lookup::stores::{self, CellStore, Resolved};
use crate::lookup::{Found, LookupRequest, Shape, reports};
use crate::number::{Dtype, Num, Values, for_dtype_values};
use crate::read::split_key;

/// The number of cells from which several threads look them up; fewer are left to polars' calling thread.
const THREADS_FROM: usize = 1024;

/// The name and type of the column that a request gives for cells, and a second input whose type is that of the numbers.
fn output(inputs: &[Field], request: &[u8]) -> PolarsResult<Field> {
    let cell = inputs.first().ok_or_else(no_cells)?;
    let resolved = resolve(cell, request, true)?;
    let stored = NUMBERS.into_iter().find(|(dtype, _)| *dtype == resolved.lookup.dtype).map(|(_, stored)| stored);
    let number = inputs.get(1).map(|number| number.dtype().clone()).or(stored).unwrap_or(DataType::Null);
    let is_count = |i: usize| resolved.request.shape == Shape::Sums && i == 1;
    let field = |(i, name): (usize, String)| {
        Field::new(name.into(), if is_count(i) { DataType::UInt32 } else { number.clone() })
    };
    let dtype = match resolved.request.shape {
        Shape::One => number,
        Shape::Array => DataType::Array(Box::new(number), resolved.lookup.width),
        Shape::Struct | Shape::Sums => {
            DataType::Struct(resolved.request.fields().into_iter().enumerate().map(field).collect())
        }
    };
    Ok(Field::new(cell.name().clone(), dtype))
}

/// Numbers of the cells of the first column, of the type of the second, where there is one.
fn look_up(inputs: &[Series], request: &[u8]) -> PolarsResult<Series> {
    let cell = inputs.first().ok_or_else(no_cells)?;
    let resolved = resolve(&cell.field(), request, false)?;
    let dtype = match inputs.get(1) {
        Some(number) => {
            let found = NUMBERS.into_iter().find(|(_, dtype)| dtype == number.dtype());
            found.ok_or_else(|| polars_err!(ComputeError: "'{}' is not a number type", number.dtype()))?.0
        }
        None => resolved.lookup.dtype,
    };
    let cells = cell.to_storage().u64()?;
    let keys: Vec<u64> = cells.iter().flatten().collect();
    let threads = (keys.len() < THREADS_FROM).then_some(1);
    let found = resolved.lookup.read(&keys, dtype, threads).map_err(failed)?;
    reports::report(&resolved.request, &found, keys.len());
    let column = column(cell.name(), &resolved, found, &keys)?;
    if keys.len() == cells.len() {
        return Ok(column);
    }
    // What is no cell has no numbers.
    let mut positions = 0..;
    let positions: IdxCa = cells.iter().map(|cell| cell.and_then(|_| positions.next())).collect();
    column.take(&positions)
}

fn resolve(cell: &Field, request: &[u8], planning: bool) -> PolarsResult<Arc<Resolved>> {
    let parse = |request: &[u8]| -> crate::error::Result<LookupRequest> {
        // By way of JSON's types, in which a text can name a variant of an enum.
        let options = serde_pickle::DeOptions::default();
        let request = serde_pickle::from_slice::<serde_json::Value>(request, options).map_err(|e| e.to_string());
        let request = request.and_then(|request| serde_json::from_value(request).map_err(|e| e.to_string()));
        request.map_err(|e| DaoError::value(format!("the expression's arguments cannot be read: {e}")))
    };
    stores::resolved(cell_store(cell)?, request, planning, parse).map_err(failed)
}

fn no_cells() -> PolarsError {
    polars_err!(ComputeError: "a lookup needs the column 'cell'")
}

fn nothing_found() -> PolarsError {
    polars_err!(ComputeError: "a lookup that gives nothing")
}

fn failed(error: DaoError) -> PolarsError {
    PolarsError::ComputeError(error.to_string().into())
}

/// The store that a column of cells belongs to.
fn cell_store(column: &Field) -> PolarsResult<CellStore> {
    let (name, dtype) = (column.name(), column.dtype());
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

/// The column of what was found for `keys`, null where a cell's dataset has no such gene.
fn column(name: &PlSmallStr, resolved: &Resolved, found: Found, keys: &[u64]) -> PolarsResult<Series> {
    let Found { values, absent, .. } = found;
    // The outputs that each cell's dataset lacks; empty where no dataset lacks any.
    let lacking: Vec<Option<&Vec<bool>>> = match absent.is_empty() {
        true => Vec::new(),
        false => keys.iter().map(|&key| absent.get(&split_key(key).0)).collect(),
    };
    let is_there = |lacks: &Option<&Vec<bool>>, output: usize| !lacks.is_some_and(|lacks| lacks[output]);
    let field = |(name, (output, values)): (&str, (usize, Values))| {
        let lacks_some = absent.values().any(|absent| absent[output]);
        let valid = lacks_some.then(|| lacking.iter().map(|lacks| is_there(lacks, output)).collect());
        Series::from_arrow(name.into(), array(values, valid))
    };
    let mut outputs = values.into_iter().enumerate();
    let outputs: Vec<(usize, Values)> = match resolved.request.shape {
        Shape::One => {
            let output = outputs.next().ok_or_else(nothing_found)?;
            return field((name, output));
        }
        Shape::Array => {
            let (_, values) = outputs.next().ok_or_else(nothing_found)?;
            let width = resolved.lookup.width;
            let valid = lacking.iter().flat_map(|lacks| (0..width).map(move |output| is_there(lacks, output)));
            let inner = array(values, (!lacking.is_empty()).then(|| valid.collect()));
            let dtype = FixedSizeListArray::default_datatype(inner.dtype().clone(), width);
            return Series::from_arrow(name.clone(), FixedSizeListArray::new(dtype, keys.len(), inner, None).boxed());
        }
        Shape::Struct => outputs.collect(),
        Shape::Sums => sums(outputs.filter_map(|(_, values)| f64::unwrap(values)).collect()),
    };
    let names = resolved.request.fields();
    let fields = names.iter().map(String::as_str).zip(outputs).map(field).collect::<PolarsResult<Vec<_>>>()?;
    Ok(StructChunked::from_series(name.clone(), keys.len(), fields.iter())?.into_series())
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

fn array(values: Values, valid: Option<Bitmap>) -> ArrayRef {
    for_dtype_values!(values, values => PrimitiveArray::from_vec(values).with_validity(valid).boxed())
}

/// The number types, as the core and as polars name them.
const NUMBERS: [(Dtype, DataType); 10] = [
    (Dtype::U8, DataType::UInt8),
    (Dtype::U16, DataType::UInt16),
    (Dtype::U32, DataType::UInt32),
    (Dtype::U64, DataType::UInt64),
    (Dtype::I8, DataType::Int8),
    (Dtype::I16, DataType::Int16),
    (Dtype::I32, DataType::Int32),
    (Dtype::I64, DataType::Int64),
    (Dtype::F32, DataType::Float32),
    (Dtype::F64, DataType::Float64),
];
