//! `_core.PartWriter`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::{PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use super::arrays;
use super::store::manifest::{PyMatrixName, PyTableMeta, json};
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Layout};
use crate::store::{Description, Record, SourceFile};
use crate::writer::{Hdf5Filter, Indices, MatrixSpec, Mode, PartWriter, Slice, StoredChunk, ValueScan, decode_hdf5};

/// A part being written: invisible until ``commit``, gone if dropped before.
#[pyclass(name = "PartWriter", module = "dao_polars._core", frozen)]
pub struct PyPartWriter(Mutex<Option<(PartWriter, Looked)>>);

/// What was seen of a matrix's values: before it was begun; or, where their type was known, as they came.
#[derive(Default)]
struct Looked {
    scan: ValueScan,
    as_they_come: bool,
}

impl Looked {
    /// Looks at values that come, unless they were looked at before.
    fn at(&mut self, values: Slice<'_>) -> Result<()> {
        if self.as_they_come { self.scan.update(values) } else { Ok(()) }
    }
}

impl PyPartWriter {
    fn lock(&self) -> MutexGuard<'_, Option<(PartWriter, Looked)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        run: impl FnOnce(&mut PartWriter, &mut Looked) -> Result<T> + Send,
    ) -> PyResult<T> {
        Ok(py.detach(|| {
            let mut guard = self.lock();
            let (writer, looked) = guard.as_mut().ok_or_else(finished)?;
            run(writer, looked)
        })?)
    }
}

fn finished() -> DaoError {
    DaoError::value("this writer is already finished")
}

/// Calls `take` with the numbers of a C-contiguous array of any number type and any shape, which are not copied: whoever
/// wrote to them meanwhile would get some of theirs stored, as from numpy's own functions.
pub(super) fn borrowed<R>(array: &Bound<'_, PyAny>, take: impl FnOnce(Slice<'_>) -> PyResult<R>) -> PyResult<R> {
    macro_rules! any {
        ($($type:ty)*) => {
            $(if let Ok(array) = array.cast::<PyArrayDyn<$type>>() {
                let array = array.try_readonly().map_err(|e| DaoError::value(e.to_string()))?;
                if !array.is_c_contiguous() {
                    return Err(DaoError::value("an array is not C-contiguous").into());
                }
                return take(array.as_slice().map_err(|e| DaoError::value(e.to_string()))?.into());
            })*
        };
    }
    any! { f32 f64 u8 u16 u32 u64 i8 i16 i32 i64 }
    // Bools, and whatever is no array of numbers, which is an error.
    take((&arrays::values(array)?).into())
}

/// [`borrowed`], of the indices and values of a sparse matrix.
fn borrowed_sparse<R>(
    indices: &Bound<'_, PyAny>,
    data: &Bound<'_, PyAny>,
    take: impl FnOnce(Indices<'_>, Slice<'_>) -> PyResult<R>,
) -> PyResult<R> {
    borrowed(indices, |indices| {
        let indices = match indices {
            Slice::I32(indices) => Indices::from(indices),
            Slice::I64(indices) => Indices::from(indices),
            _ => return Err(DaoError::value("indices are neither int32 nor int64").into()),
        };
        borrowed(data, |data| take(indices, data))
    })
}

#[pymethods]
impl PyPartWriter {
    /// Make the store if it is missing, and a folder to write to. ``mode`` says what becomes of a dataset of that name:
    /// "error", "replace", "append".
    ///
    /// Raises DaoFileExistsError if the name is taken, DaoValueError if it cannot be one.
    #[staticmethod]
    #[pyo3(signature = (uri, dataset, mode, storage_options=None))]
    fn begin(
        py: Python<'_>,
        uri: &str,
        dataset: &str,
        mode: &str,
        storage_options: Option<HashMap<String, String>>,
    ) -> PyResult<Self> {
        let storage_options = storage_options.unwrap_or_default().into_iter().collect();
        let mode = match mode {
            "error" => Mode::New,
            "replace" => Mode::Replace,
            "append" => Mode::Append,
            _ => return Err(DaoError::value(format!("no mode '{mode}'")).into()),
        };
        let writer = py.detach(|| PartWriter::begin(uri, &storage_options, dataset, mode))?;
        Ok(Self(Mutex::new(Some((writer, Looked::default())))))
    }

    /// The folder on this machine that ``obs.parquet``, ``var.parquet`` and ``uns.json`` are written to.
    #[getter]
    fn staging(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |writer, _| Ok(writer.staging().to_string_lossy().into_owned()))
    }

    /// Look at values of the next matrix: any shape, any integer, float or bool type.
    ///
    /// Returns how many of its values were not zero so far.
    fn scan(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<u64> {
        borrowed(data, |values| {
            self.with(py, |_, looked| {
                looked.scan.update(values)?;
                Ok(looked.scan.nonzero())
            })
        })
    }

    /// The odd values among those that were scanned: how many are NaN, how many infinite, and the least one (or 0.0).
    fn odd_values(&self, py: Python<'_>) -> PyResult<(u64, u64, f64)> {
        self.with(py, |_, looked| Ok(looked.scan.odd_values()))
    }

    /// Begin the matrix that was scanned, in this output shape.
    ///
    /// It is stored in the narrowest type that holds every value and every sum of ``most_summed``: ``uint8`` …
    /// ``uint64``; with negatives ``int8`` … ``int64``; else ``float32`` or ``float64``. ``portable``: CSR arrays in
    /// zarr's core codecs alone, instead of ``dao_polars.pfor``. ``columns`` maps source to output columns (-1:
    /// dropped), ``rows`` source to output rows. ``known``: a number type that holds every value, and about how many
    /// are not zero, of a matrix that was not scanned. ``column_names`` are an embedding's.
    #[pyo3(signature = (
        name, layout, shape, source_dtype, *, portable=false, columns=None, most_summed=1, rows=None, known=None,
        column_names=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python method")]
    fn begin_matrix(
        &self,
        py: Python<'_>,
        name: PyMatrixName,
        layout: &str,
        shape: [u64; 2],
        source_dtype: &str,
        portable: bool,
        columns: Option<&Bound<'_, PyAny>>,
        most_summed: u32,
        rows: Option<&Bound<'_, PyAny>>,
        known: Option<(String, u64)>,
        column_names: Option<Vec<String>>,
    ) -> PyResult<()> {
        let layout = Layout::from_name(layout)?;
        let columns = columns.map(arrays::numbers).transpose()?;
        let rows = rows.map(arrays::numbers).transpose()?;
        let known = known.map(|(dtype, nnz)| Ok((Dtype::from_name(&dtype)?, nnz)));
        let known = known.transpose().map_err(|e: DaoError| PyErr::from(e))?;
        self.with(py, |writer, looked| {
            looked.as_they_come = known.is_some();
            looked.scan.widen_to_sums(most_summed);
            let (stored, source_nnz) = known.unwrap_or_else(|| (looked.scan.stored(), looked.scan.nonzero()));
            let transposed = false;
            let spec =
                MatrixSpec { name: name.0, layout, portable, shape, stored, columns, rows, source_nnz, transposed };
            writer.begin_matrix(spec, source_dtype, looked.scan.max_abs())?;
            column_names.map_or(Ok(()), |names| writer.name_columns(names))
        })
    }

    /// Take the matrix's next rows (CSR) or columns (CSC) in source order; ``indices`` are int32 or int64.
    ///
    /// Unsorted columns are sorted, duplicates summed. Nobody may write to the arrays meanwhile.
    fn push_sparse(
        &self,
        py: Python<'_>,
        by_columns: bool,
        indptr: &Bound<'_, PyAny>,
        indices: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let indptr: Vec<i64> = arrays::numbers(indptr)?;
        borrowed_sparse(indices, data, |indices, data| {
            self.with(py, |writer, looked| {
                looked.at(data)?;
                match (writer.matrix()?, by_columns) {
                    (matrix, true) => matrix.push_columns(&indptr, indices, data),
                    (matrix, false) => matrix.push_rows(&indptr, indices, data),
                }
            })
        })
    }

    /// Take the matrix's next rows from the arrays of the whole source: ``[starts[i], stops[i])`` of each, in any order.
    fn push_ranges(
        &self,
        py: Python<'_>,
        starts: &Bound<'_, PyAny>,
        stops: &Bound<'_, PyAny>,
        indices: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (starts, stops): (Vec<i64>, Vec<i64>) = (arrays::numbers(starts)?, arrays::numbers(stops)?);
        borrowed_sparse(indices, data, |indices, data| {
            self.with(py, |writer, _| writer.matrix()?.push_ranges(&starts, &stops, indices, data))
        })
    }

    /// Take the matrix's next rows, (rows, columns).
    fn push_dense(&self, py: Python<'_>, block: &Bound<'_, PyAny>) -> PyResult<()> {
        let (_, width): (usize, usize) = block.getattr("shape")?.extract()?;
        borrowed(block, |data| {
            self.with(py, |writer, looked| {
                looked.at(data)?;
                writer.matrix()?.push_dense(width, data)
            })
        })
    }

    /// Write the rest of the matrix; returns the number of stored values.
    fn finish_matrix(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |writer, looked| {
            let Looked { scan, .. } = std::mem::take(looked);
            writer.set_max_abs(scan.max_abs())?;
            writer.finish_matrix()
        })
    }

    /// Describe the part and make the version that has it; the version's number.
    ///
    /// ``constants`` are values that all cells share, ``categories`` the values of each string-like obs column, None
    /// where they are too many, ``author`` who made it, ``source`` the path of the file that it was
    /// made of, which is read for its checksum; or, with ``source_size``, the name of one elsewhere.
    #[pyo3(signature = (*, obs, var, organism, constants, categories, feature_space, message, author=None, source=None, source_size=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python method")]
    fn commit(
        &self,
        py: Python<'_>,
        obs: &PyTableMeta,
        var: &PyTableMeta,
        organism: Option<String>,
        constants: &Bound<'_, PyAny>,
        categories: BTreeMap<String, Option<Vec<String>>>,
        feature_space: String,
        message: String,
        author: Option<String>,
        source: Option<PathBuf>,
        source_size: Option<u64>,
    ) -> PyResult<u64> {
        let (obs, var, constants) = (obs.core(py)?, var.core(py)?, json(constants)?);
        let categories = categories.into_iter().map(|(name, values)| (name, values.map(BTreeSet::from_iter))).collect();
        let tables = Description { obs, var, constants, feature_space, categories, ..Description::default() };
        let (writer, _) = self.lock().take().ok_or_else(finished)?;
        let commit = || {
            let source = match (source, source_size) {
                (Some(name), Some(size)) => {
                    Some(SourceFile { name: name.to_string_lossy().into_owned(), size, checksum: None })
                }
                (source, _) => source.as_deref().map(SourceFile::of).transpose()?,
            };
            let record = Record { author, source, ..Record::now("write_dataset", message) };
            writer.commit(tables, organism, &record)
        };
        Ok(py.detach(commit)?.version)
    }

    /// Remove what was written.
    fn abort(&self, py: Python<'_>) {
        let writer = self.lock().take();
        py.detach(|| drop(writer));
    }
}

/// Fill ``out`` with the values from ``skip`` on of consecutive chunks of an HDF5 dataset, each its filter mask and its
/// bytes as they are stored. ``filters`` are the pipeline's: "lzf", "gzip", "shuffle".
///
/// Raises DaoCorruptError for chunks that are not of ``chunk_len`` values.
#[pyfunction]
pub fn decode_hdf5_chunks(
    py: Python<'_>,
    chunks: Vec<(u32, PyBackedBytes)>,
    filters: Vec<String>,
    chunk_len: usize,
    skip: usize,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let filter = |name: &String| match name.as_str() {
        "lzf" => Ok(Hdf5Filter::Lzf),
        "gzip" => Ok(Hdf5Filter::Gzip),
        "shuffle" => Ok(Hdf5Filter::Shuffle),
        _ => Err(DaoError::value(format!("no filter '{name}'"))),
    };
    let filters = filters.iter().map(filter).collect::<Result<Vec<_>>>()?;
    let chunks: Vec<StoredChunk<'_>> = chunks.iter().map(|(mask, bytes)| (&bytes[..], *mask)).collect();
    macro_rules! any {
        ($($type:ty)*) => {
            $(if let Ok(array) = out.cast::<PyArrayDyn<$type>>() {
                let mut array = array.try_readwrite().map_err(|e| DaoError::value(e.to_string()))?;
                let values = array.as_slice_mut().map_err(|e| DaoError::value(e.to_string()))?;
                let size = size_of::<$type>();
                let bytes = bytemuck::cast_slice_mut(values);
                let lens = (size, chunk_len.saturating_mul(size), skip.saturating_mul(size));
                return Ok(py.detach(|| decode_hdf5(&chunks, &filters, lens, bytes))?);
            })*
        };
    }
    any! { f32 f64 u8 u16 u32 u64 i8 i16 i32 i64 }
    Err(DaoError::value(format!("cannot fill a {}", out.get_type())).into())
}
