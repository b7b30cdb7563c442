//! `_core.DatasetWriter`, `_core.MatrixWriter`, `_core.ValueScan`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use super::arrays;
use super::manifest::{PyMatrixName, PyTableMeta, json};
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Layout, Values};
use crate::store::MatrixName;
use crate::writer::{DatasetTables, DatasetWriter, MatrixSpec, MatrixWriter, ValueScan};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed(what: &str) -> DaoError {
    DaoError::value(format!("this {what} is already finished"))
}

/// Finds the narrowest number type that holds every value it is shown.
#[pyclass(name = "ValueScan", module = "dao_polars._core", frozen)]
#[derive(Default)]
pub struct PyValueScan(Mutex<ValueScan>);

#[pymethods]
impl PyValueScan {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Take values into account; any shape, any integer, float or bool type.
    fn update(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let values = arrays::values(data)?;
        py.detach(|| lock(&self.0).update(&values));
        Ok(())
    }

    /// ``uint8`` … ``uint64``; with negatives ``int8`` … ``int64``; else ``float32``/``64``.
    fn stored(&self) -> &'static str {
        lock(&self.0).stored().name()
    }

    /// The largest absolute value.
    fn max_abs(&self) -> f64 {
        lock(&self.0).max_abs()
    }

    /// The number of values that are not zero.
    fn nonzero(&self) -> u64 {
        lock(&self.0).nonzero()
    }
}

/// A dataset being written: invisible until ``commit``, gone if dropped before.
#[pyclass(name = "DatasetWriter", module = "dao_polars._core", frozen)]
pub struct PyDatasetWriter(Arc<Mutex<Option<DatasetWriter>>>);

#[pymethods]
impl PyDatasetWriter {
    /// Make the store if it is missing, and a folder to write to; clean up after dead writers.
    ///
    /// Raises DaoFileExistsError if the id is taken, DaoValueError if it cannot be a name.
    #[staticmethod]
    fn begin(py: Python<'_>, uri: &str, dataset: &str) -> PyResult<Self> {
        let writer = py.detach(|| DatasetWriter::begin(uri, dataset))?;
        Ok(Self(Arc::new(Mutex::new(Some(writer)))))
    }

    /// The folder that becomes the dataset's; ``parquet/`` is in it.
    #[getter]
    fn staging(&self) -> PyResult<String> {
        let guard = lock(&self.0);
        let writer = guard.as_ref().ok_or_else(|| closed("writer"))?;
        Ok(writer.folder().to_string_lossy().into_owned())
    }

    /// Begin a matrix of this output shape.
    ///
    /// ``portable``: CSR arrays in zarr's core codecs alone, instead of ``dao_polars.pfor``. ``columns`` (int32) maps
    /// source to output columns (-1: dropped), ``rows`` (uint32) source to output rows.
    #[pyo3(signature = (name, layout, shape, stored, source_dtype, *, portable=false, columns=None, rows=None, source_nnz=0, max_abs=0.0))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python method")]
    fn matrix(
        &self,
        py: Python<'_>,
        name: PyMatrixName,
        layout: &str,
        shape: [u64; 2],
        stored: &str,
        source_dtype: &str,
        portable: bool,
        columns: Option<&Bound<'_, PyAny>>,
        rows: Option<&Bound<'_, PyAny>>,
        source_nnz: u64,
        max_abs: f64,
    ) -> PyResult<PyMatrixWriter> {
        let rows = match rows.map(arrays::values).transpose()? {
            None => None,
            Some(Values::U32(rows)) => Some(rows),
            Some(_) => return Err(DaoError::value("row numbers must be uint32").into()),
        };
        let spec = MatrixSpec {
            totals: name.0.is_of_genes(),
            name: name.0.clone(),
            layout: Layout::from_name(layout)?,
            portable,
            shape,
            stored: Dtype::from_name(stored)?,
            columns: columns.map(arrays::indices).transpose()?,
            rows,
            source_nnz,
            transposed: false,
        };
        let matrix = py.detach(|| {
            let mut guard = lock(&self.0);
            guard.as_mut().ok_or_else(|| closed("writer"))?.matrix(spec, source_dtype, max_abs)
        })?;
        Ok(PyMatrixWriter { name: name.0, dataset: self.0.clone(), matrix: Mutex::new(Some(matrix)) })
    }

    /// Describe the dataset and publish it.
    ///
    /// ``constants`` are values that all cells share, ``categories`` the values of each string-like obs column, None
    /// where they are too many.
    #[pyo3(signature = (*, obs, var, organism, constants, categories, feature_space))]
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
    ) -> PyResult<()> {
        let constants = match json(constants)? {
            serde_json::Value::Object(constants) => constants,
            _ => return Err(DaoError::value("constants are a dict").into()),
        };
        let categories = categories.into_iter().map(|(name, values)| (name, values.map(BTreeSet::from_iter))).collect();
        let tables =
            DatasetTables { obs: obs.core(py)?, var: var.core(py)?, organism, constants, categories, feature_space };
        let writer = lock(&self.0).take().ok_or_else(|| closed("writer"))?;
        Ok(py.detach(|| writer.commit(tables))?)
    }

    /// Remove what was written.
    fn abort(&self, py: Python<'_>) {
        let writer = lock(&self.0).take();
        py.detach(|| drop(writer));
    }
}

/// Takes one matrix in source order, by rows, columns or dense rows.
#[pyclass(name = "MatrixWriter", module = "dao_polars._core", frozen)]
pub struct PyMatrixWriter {
    name: MatrixName,
    dataset: Arc<Mutex<Option<DatasetWriter>>>,
    matrix: Mutex<Option<MatrixWriter>>,
}

impl PyMatrixWriter {
    fn with(&self, py: Python<'_>, run: impl FnOnce(&mut MatrixWriter) -> Result<()> + Send) -> PyResult<()> {
        Ok(py.detach(|| run(lock(&self.matrix).as_mut().ok_or_else(|| closed("matrix"))?))?)
    }
}

#[pymethods]
impl PyMatrixWriter {
    /// Take the next rows, CSR; unsorted columns are sorted, duplicates summed.
    fn push_rows(
        &self,
        py: Python<'_>,
        indptr: &Bound<'_, PyAny>,
        indices: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (indptr, indices, data) = (arrays::offsets(indptr)?, arrays::indices(indices)?, arrays::values(data)?);
        self.with(py, |matrix| matrix.push_rows(&indptr, &indices, &data))
    }

    /// Take the next columns, CSC.
    fn push_columns(
        &self,
        py: Python<'_>,
        indptr: &Bound<'_, PyAny>,
        indices: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (indptr, indices, data) = (arrays::offsets(indptr)?, arrays::indices(indices)?, arrays::values(data)?);
        self.with(py, |matrix| matrix.push_columns(&indptr, &indices, &data))
    }

    /// Take the next rows, (rows, columns).
    fn push_dense(&self, py: Python<'_>, block: &Bound<'_, PyAny>) -> PyResult<()> {
        let shape: Vec<usize> = block.getattr("shape")?.extract()?;
        let [_, width] = shape[..] else {
            return Err(DaoError::value("a dense block must have two axes").into());
        };
        let data = arrays::values(block)?;
        self.with(py, |matrix| matrix.push_dense(width, &data))
    }

    /// Write the rest; returns the number of stored values.
    fn finish(&self, py: Python<'_>) -> PyResult<u64> {
        let matrix = lock(&self.matrix).take().ok_or_else(|| closed("matrix"))?;
        let nnz = py.detach(|| matrix.finish())?;
        if let Some(dataset) = lock(&self.dataset).as_mut() {
            dataset.set_nnz(&self.name, nnz);
        }
        Ok(nnz)
    }
}
