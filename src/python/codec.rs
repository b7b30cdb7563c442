//! `_core.pfor_encode`, `_core.pfor_decode`: chunks of the codec `dao_polars.pfor`, for zarr-python.

use numpy::PyArray1;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyAny, PyBytes};

use super::arrays;
use crate::codec::{Broken, NAME, Pfor, decode, encode};
use crate::error::{DaoError, ErrorKind};
use crate::number::{Dtype, Num, Values, for_dtype, for_dtype_values};

/// Make a chunk of ``dao_polars.pfor``: any integer, float or bool type; any shape, flattened.
///
/// Raises DaoValueError for other arrays, and for a chunk of 4 GiB or more.
#[pyfunction]
pub fn pfor_encode<'py>(py: Python<'py>, values: &Bound<'py, PyAny>, delta: bool) -> PyResult<Bound<'py, PyBytes>> {
    fn words<T: Num>(values: &[T], codec: Pfor) -> Result<Vec<u8>, Broken> {
        encode::<T::Word>(bytemuck::cast_slice(values), codec.kind(T::DTYPE))
    }
    let values = arrays::values(values)?;
    let chunk = py.detach(|| {
        for_dtype_values!(values, v => words(&v, Pfor { delta }))
            .map_err(|e| DaoError::value(format!("{NAME} cannot encode a chunk: {e}")).hint("choose smaller chunks"))
    })?;
    Ok(PyBytes::new(py, &chunk))
}

/// Read the ``n`` values of a chunk, one-dimensional; those of ``"bool"`` come as uint8.
///
/// Raises DaoCorruptError for bytes that are no chunk of so many values, DaoValueError for an unknown type.
#[pyfunction]
pub fn pfor_decode<'py>(
    py: Python<'py>,
    encoded: PyBuffer<u8>,
    dtype: &str,
    n: usize,
    delta: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let dtype = Dtype::from_name(dtype)?;
    // Copied: other threads may write to what is not `bytes` while none of Python is looked at.
    let encoded = encoded.to_vec(py)?;
    let values: Values = py.detach(|| {
        let kind = Pfor { delta }.kind(dtype);
        for_dtype!(dtype, T => decode::<T>(&encoded, n, kind).map(Num::wrap)).map_err(|e| {
            DaoError::new(ErrorKind::Corrupt, format!("{NAME} cannot decode a chunk: {e}"))
                .hint("the data are truncated or damaged, or not of the type that the metadata say")
        })
    })?;
    Ok(for_dtype_values!(values, v => PyArray1::from_vec(py, v).into_any()))
}
