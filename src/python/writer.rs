//! `_core.DatasetWriter`, `_core.ValueScan`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use super::arrays;
use super::manifest::{PyMatrixName, PyTableMeta, json};
use crate::error::{DaoError, Result};
use crate::number::{Layout, Values};
use crate::writer::{DatasetTables, DatasetWriter, MatrixSpec, ValueScan};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> DaoError {
    DaoError::value("this writer is already finished")
}

/// Finds the narrowest number type for a matrix.
#[pyclass(name = "ValueScan", module = "dao_polars._core", frozen)]
#[derive(Default)]
pub struct PyValueScan(Mutex<ValueScan>);

#[pymethods]
impl PyValueScan {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    fn update(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let values = arrays::values(data)?;
        py.detach(|| lock(&self.0).update(&values));
        Ok(())
    }

    fn widen_to_sums(&self, n: u32) {
        lock(&self.0).widen_to_sums(n);
    }

    fn nonzero(&self) -> u64 {
        lock(&self.0).nonzero()
    }
}

/// A dataset being written.
#[pyclass(name = "DatasetWriter", module = "dao_polars._core", frozen)]
pub struct PyDatasetWriter(Mutex<Option<DatasetWriter>>);

impl PyDatasetWriter {
    fn with<T: Send>(&self, py: Python<'_>, run: impl FnOnce(&mut DatasetWriter) -> Result<T> + Send) -> PyResult<T> {
        Ok(py.detach(|| run(lock(&self.0).as_mut().ok_or_else(closed)?))?)
    }
}

#[pymethods]
impl PyDatasetWriter {
    #[staticmethod]
    fn begin(py: Python<'_>, uri: &str, dataset: &str) -> PyResult<Self> {
        let writer = py.detach(|| DatasetWriter::begin(uri, dataset))?;
        Ok(Self(Mutex::new(Some(writer))))
    }

    #[getter]
    fn staging(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |writer| Ok(writer.folder().to_string_lossy().into_owned()))
    }

    #[pyo3(signature = (name, layout, shape, scan, source_dtype, *, portable=false, columns=None, rows=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python method")]
    fn begin_matrix(
        &self,
        py: Python<'_>,
        name: PyMatrixName,
        layout: &str,
        shape: [u64; 2],
        scan: &PyValueScan,
        source_dtype: &str,
        portable: bool,
        columns: Option<&Bound<'_, PyAny>>,
        rows: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let rows = match rows.map(arrays::values).transpose()? {
            None => None,
            Some(Values::U32(rows)) => Some(rows),
            Some(_) => return Err(DaoError::value("row numbers must be uint32").into()),
        };
        let scan = lock(&scan.0).clone();
        let spec = MatrixSpec {
            name: name.0,
            layout: Layout::from_name(layout)?,
            portable,
            shape,
            stored: scan.stored(),
            columns: columns.map(arrays::indices).transpose()?,
            rows,
            source_nnz: scan.nonzero(),
            transposed: false,
        };
        self.with(py, |writer| writer.begin_matrix(spec, source_dtype, scan.max_abs()).map(drop))
    }

    fn push_sparse(
        &self,
        py: Python<'_>,
        by_columns: bool,
        indptr: &Bound<'_, PyAny>,
        indices: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (indptr, indices, data) = (arrays::offsets(indptr)?, arrays::indices(indices)?, arrays::values(data)?);
        self.with(py, |writer| {
            let matrix = writer.matrix()?;
            if by_columns {
                matrix.push_columns(&indptr, &indices, &data)
            } else {
                matrix.push_rows(&indptr, &indices, &data)
            }
        })
    }

    fn push_dense(&self, py: Python<'_>, block: &Bound<'_, PyAny>) -> PyResult<()> {
        let (_, width): (usize, usize) = block.getattr("shape")?.extract()?;
        let data = arrays::values(block)?;
        self.with(py, |writer| writer.matrix()?.push_dense(width, &data))
    }

    fn finish_matrix(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, DatasetWriter::finish_matrix)
    }

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
        let writer = lock(&self.0).take().ok_or_else(closed)?;
        Ok(py.detach(|| writer.commit(tables))?)
    }

    fn abort(&self, py: Python<'_>) {
        let writer = lock(&self.0).take();
        py.detach(|| drop(writer));
    }
}
