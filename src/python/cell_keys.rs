//! `_core.CellKeys`.

use std::sync::Arc;

use numpy::ndarray::ArrayView1;
use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::error::DaoError;

/// The keys of cells in frame order, (n_cells,) uint64, held once for Python and the core.
///
/// Made of arrays of keys, one after another, which are copied. Raises DaoValueError where memory cannot hold them.
#[pyclass(name = "CellKeys", module = "dao_polars._core", frozen)]
pub struct PyCellKeys(pub Arc<Vec<u64>>);

#[pymethods]
impl PyCellKeys {
    #[new]
    fn new(pieces: Vec<PyReadonlyArray1<'_, u64>>) -> PyResult<Self> {
        let mut keys = Vec::new();
        let n = pieces.iter().map(|piece| piece.as_array().len()).sum();
        keys.try_reserve_exact(n)
            .map_err(|_| DaoError::value(format!("memory cannot hold the keys of {n} cells")).hint("select fewer"))?;
        pieces.iter().for_each(|piece| keys.extend(piece.as_array()));
        Ok(Self(Arc::new(keys)))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// The keys as a read-only array on the same memory.
    fn numpy<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let keys = ArrayView1::from(&slf.get().0[..]);
        // SAFETY: the array keeps `slf` alive, and with it the vector, which nothing moves or changes. Nobody has the
        // array before it is read-only.
        let array = unsafe { PyArray1::borrow_from_array(&keys, slf.clone().into_any()) };
        array.try_readwrite().map_err(|e| DaoError::internal(&e.to_string()))?.make_nonwriteable();
        Ok(array)
    }

    #[expect(clippy::type_complexity, reason = "what pickle wants")]
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyType>, (Vec<Bound<'py, PyArray1<u64>>>,))> {
        Ok((slf.get_type(), (vec![Self::numpy(slf)?],)))
    }
}
