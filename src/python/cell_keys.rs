//! `_core.CellKeys`.

use std::borrow::Cow;
use std::sync::Arc;

use numpy::ndarray::ArrayView1;
use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::codec::{Pfor, decode, encode};
use crate::error::{DaoError, ErrorKind};
use crate::number::Dtype;
use crate::read::CellKeys;

/// The keys that are packed at a time.
const PIECE: usize = 1 << 22;

/// The keys of cells in frame order, (n_cells,) uint64, held once for Python and the core: cells in the order of their
/// store take next to nothing.
///
/// Made of arrays of keys, one after another, which are copied. Raises DaoValueError where memory cannot hold them.
#[pyclass(name = "CellKeys", module = "dao_polars._core", frozen)]
pub struct PyCellKeys(pub Arc<CellKeys>);

#[pymethods]
impl PyCellKeys {
    #[new]
    fn new(pieces: Vec<PyReadonlyArray1<'_, u64>>) -> PyResult<Self> {
        let whole = |piece: &PyReadonlyArray1<'_, u64>| piece.as_array().to_vec();
        let pieces: Vec<Cow<'_, [u64]>> =
            pieces.iter().map(|piece| piece.as_slice().map_or_else(|_| whole(piece).into(), Cow::from)).collect();
        let slices: Vec<&[u64]> = pieces.iter().map(|piece| &piece[..]).collect();
        let keys = CellKeys::new(&slices).ok_or_else(|| {
            let n: usize = slices.iter().map(|piece| piece.len()).sum();
            DaoError::value(format!("memory cannot hold the keys of {n} cells")).hint("select fewer")
        })?;
        Ok(Self(Arc::new(keys)))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// The keys as a read-only array, on the same memory unless they were held as runs.
    fn numpy<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let array = match slf.get().0.as_slice() {
            Some(keys) => {
                // SAFETY: the array keeps `slf` alive, and with it the vector, which nothing moves or changes. Nobody has the
                // array before it is read-only.
                unsafe { PyArray1::borrow_from_array(&ArrayView1::from(keys), slf.clone().into_any()) }
            }
            None => PyArray1::from_iter(slf.py(), slf.get().0.iter()),
        };
        array.try_readwrite().map_err(|e| DaoError::internal(&e.to_string()))?.make_nonwriteable();
        Ok(array)
    }

    /// The keys at some positions, (n,). Raises DaoValueError for one that is none.
    fn take<'py>(&self, py: Python<'py>, positions: PyReadonlyArray1<'py, u32>) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let (keys, positions) = (&self.0, positions.as_array());
        if let Some(position) = positions.iter().find(|&&position| position as usize >= keys.len()) {
            return Err(outside(*position as usize, &format!("below {}", keys.len())).into());
        }
        Ok(PyArray1::from_iter(py, positions.iter().map(|&position| keys.at(position as usize))))
    }

    /// The keys at positions ``start`` to ``stop``, (n,). Raises DaoValueError for positions that are none.
    fn slice<'py>(&self, py: Python<'py>, start: usize, stop: usize) -> PyResult<Bound<'py, PyArray1<u64>>> {
        if stop > self.0.len() {
            return Err(outside(stop, &format!("at most {}", self.0.len())).into());
        }
        Ok(PyArray1::from_iter(py, self.0.range(start..stop)))
    }

    /// Pickle as packed numbers: of a run of cells that is next to nothing.
    #[expect(clippy::type_complexity, reason = "what pickle wants")]
    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Vec<(Bound<'py, PyBytes>, usize, bool)>,))> {
        let keys = &slf.get().0;
        let pack = |start: usize| {
            let piece: Vec<u64> = keys.range(start..start.saturating_add(PIECE).min(keys.len())).collect();
            let delta = piece.is_sorted();
            let packed = encode(&piece, Pfor { delta }.kind(Dtype::U64));
            packed.map(|packed| (packed, piece.len(), delta)).map_err(|e| DaoError::internal(e.0))
        };
        let pieces = (0..keys.len()).step_by(PIECE);
        let packed = slf.py().detach(|| pieces.map(pack).collect::<Result<Vec<_>, _>>())?;
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
        Ok(Self(Arc::new(keys.concat().into())))
    }
}

fn outside(position: usize, expected: &str) -> DaoError {
    DaoError::value(format!("position {position} of cell keys")).expected(expected)
}
