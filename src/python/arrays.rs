//! numpy arrays to and from the core's vectors. Vectors that leave become arrays without a copy.

use numpy::{Element, PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyAny;

use crate::error::DaoError;
use crate::matrix::{Values, for_dtype_values};

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
        other => Ok(for_dtype_values!(other, v => crate::matrix::cast_vec::<_, i32>(&v))?),
    }
}

/// Offsets.
pub fn offsets(array: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    match values(array)? {
        Values::I64(offsets) => Ok(offsets),
        other => Ok(for_dtype_values!(other, v => crate::matrix::cast_vec::<_, i64>(&v))?),
    }
}

/// A one-dimensional array that owns `values`.
pub fn to_numpy(py: Python<'_>, values: Values) -> Bound<'_, PyAny> {
    for_dtype_values!(values, v => PyArray1::from_vec(py, v).into_any())
}
