//! numpy arrays to and from the core's vectors. Vectors that leave become arrays without a copy, and
//! come back to their pool when the last array on them is gone.

use std::sync::Arc;

use numpy::{Element, PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyAny;

use crate::error::DaoError;
use crate::number::{Num, Values, for_dtype_values};
use crate::read::Pool;

/// A C-contiguous array of any number type, of any shape, copied.
pub fn values(array: &Bound<'_, PyAny>) -> PyResult<Values> {
    fn typed<T: Element + Clone>(array: &Bound<'_, PyAny>) -> Option<PyResult<Vec<T>>> {
        let array = array.cast::<PyArrayDyn<T>>().ok()?;
        if !array.is_c_contiguous() {
            return Some(Err(DaoError::value("an array is not C-contiguous").into()));
        }
        let read = array.try_readonly().map_err(|e| DaoError::value(e.to_string()).into());
        Some(read.and_then(|array| Ok(array.as_slice().map_err(|e| DaoError::value(e.to_string()))?.to_vec())))
    }
    macro_rules! any {
        ($($name:ident $type:ty,)*) => {
            $(if let Some(found) = typed::<$type>(array) { return found.map(Values::$name); })*
        };
    }
    any! { F32 f32, F64 f64, U8 u8, U16 u16, U32 u32, U64 u64, I8 i8, I16 i16, I32 i32, I64 i64, }
    if let Some(found) = typed::<bool>(array) {
        return found.map(|bools| Values::U8(bools.into_iter().map(u8::from).collect()));
    }
    Err(DaoError::value(format!("cannot read a {} as numbers", array.get_type()))
        .expected("a numpy array of integers, floats or bools")
        .into())
}

/// Column or row numbers.
pub fn indices(array: &Bound<'_, PyAny>) -> PyResult<Vec<i32>> {
    match values(array)? {
        Values::I32(indices) => Ok(indices),
        other => Ok(for_dtype_values!(other, v => crate::number::cast_vec::<_, i32>(&v))?),
    }
}

/// Offsets.
pub fn offsets(array: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    match values(array)? {
        Values::I64(offsets) => Ok(offsets),
        other => Ok(for_dtype_values!(other, v => crate::number::cast_vec::<_, i64>(&v))?),
    }
}

/// What an array stands on: numbers that go back to their pool.
#[pyclass(module = "dao_polars._core", frozen)]
struct Lent {
    values: Option<Values>,
    /// Whether they are column numbers; data may be of the same type.
    indices: bool,
    pool: Arc<Pool>,
    pid: u32,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return; // a forked child: some thread of its parent may have held the pool's lock
        }
        match self.values.take() {
            Some(Values::I32(indices)) if self.indices => self.pool.give_indices(indices),
            Some(data) => self.pool.give_data(data),
            None => {}
        }
    }
}

/// A one-dimensional, writable array on `values`: data of a batch, or its column numbers (`indices`).
pub fn lend<'py>(py: Python<'py>, values: Values, indices: bool, pool: &Arc<Pool>) -> PyResult<Bound<'py, PyAny>> {
    for_dtype_values!(values, v => {
        let view = numpy::ndarray::ArrayView1::from_shape(v.len(), &v).map_err(|e| DaoError::value(e.to_string()))?;
        // Borrowed from the vector's memory, which moving the vector into its owner does not move.
        let view: numpy::ndarray::ArrayView1<'static, _> =
            // SAFETY: the memory lives as long as `owner`, which the array keeps alive, and nothing
            // else reads or writes it: `Lent` gives no access, and gives it back when it is dropped.
            unsafe { numpy::ndarray::ArrayView1::from_shape_ptr(v.len(), view.as_ptr()) };
        let owner = Bound::new(py, Lent { values: Some(Num::wrap(v)), indices, pool: pool.clone(), pid: std::process::id() })?;
        // SAFETY: as above.
        Ok(unsafe { PyArray1::borrow_from_array(&view, owner.into_any()) }.into_any())
    })
}
