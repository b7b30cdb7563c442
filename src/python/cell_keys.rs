//! `_core.CellKeys`.

use std::sync::Arc;

use numpy::ndarray::ArrayView1;
use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::codec::{Pfor, decode, encode};
use crate::error::{DaoError, ErrorKind};
use crate::number::Dtype;

/// The keys that are packed at a time.
const PIECE: usize = 1 << 22;

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

    /// Pickle as packed numbers: of a run of cells that is next to nothing.
    #[expect(clippy::type_complexity, reason = "what pickle wants")]
    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Vec<(Bound<'py, PyBytes>, usize, bool)>,))> {
        let keys = &slf.get().0;
        let pack = |piece: &[u64]| {
            let delta = piece.is_sorted();
            let packed = encode(piece, Pfor { delta }.kind(Dtype::U64));
            packed.map(|packed| (packed, piece.len(), delta)).map_err(|e| DaoError::internal(e.0))
        };
        let packed = slf.py().detach(|| keys.chunks(PIECE).map(pack).collect::<Result<Vec<_>, _>>())?;
        let pieces = packed.into_iter().map(|(bytes, n, delta)| (PyBytes::new(slf.py(), &bytes), n, delta));
        Ok((slf.get_type().getattr("unpack")?, (pieces.collect(),)))
    }

    /// The keys that were packed: of each piece its bytes, how many they are, and whether they ascend.
    ///
    /// Raises DaoCorruptError for bytes that are no such piece.
    #[staticmethod]
    fn unpack(py: Python<'_>, pieces: Vec<(Vec<u8>, usize, bool)>) -> PyResult<Self> {
        let unpack = |(bytes, n, delta): &(Vec<u8>, usize, bool)| {
            decode::<u64>(bytes, *n, Pfor { delta: *delta }.kind(Dtype::U64)).map_err(|e| {
                DaoError::new(ErrorKind::Corrupt, format!("packed cell keys: {e}")).hint("pickle them again")
            })
        };
        let keys = py.detach(|| pieces.iter().map(unpack).collect::<Result<Vec<_>, _>>())?;
        Ok(Self(Arc::new(keys.concat())))
    }
}
