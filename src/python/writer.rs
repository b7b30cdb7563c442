//! `_core.DatasetWriter`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use super::arrays;
use super::manifest::{PyMatrixName, PyTableMeta, json};
use crate::error::{DaoError, Result};
use crate::number::Layout;
use crate::store::Description;
use crate::writer::{DatasetWriter, MatrixSpec, ValueScan};

/// A dataset being written, and the scan of the values of its next matrix.
#[pyclass(name = "DatasetWriter", module = "dao_polars._core", frozen)]
pub struct PyDatasetWriter(Mutex<Option<(DatasetWriter, ValueScan)>>);

impl PyDatasetWriter {
    fn lock(&self) -> MutexGuard<'_, Option<(DatasetWriter, ValueScan)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        run: impl FnOnce(&mut DatasetWriter, &mut ValueScan) -> Result<T> + Send,
    ) -> PyResult<T> {
        Ok(py.detach(|| {
            let mut guard = self.lock();
            let (writer, scan) = guard.as_mut().ok_or_else(finished)?;
            run(writer, scan)
        })?)
    }
}

fn finished() -> DaoError {
    DaoError::value("this writer is already finished")
}

#[pymethods]
impl PyDatasetWriter {
    #[staticmethod]
    fn begin(py: Python<'_>, uri: &str, dataset: &str) -> PyResult<Self> {
        let writer = py.detach(|| DatasetWriter::begin(uri, dataset))?;
        Ok(Self(Mutex::new(Some((writer, ValueScan::default())))))
    }

    #[getter]
    fn staging(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |writer, _| Ok(writer.folder().to_string_lossy().into_owned()))
    }

    fn scan(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<u64> {
        let values = arrays::values(data)?;
        self.with(py, |_, scan| {
            scan.update(&values);
            Ok(scan.nonzero())
        })
    }

    #[pyo3(signature = (name, layout, shape, source_dtype, *, portable=false, columns=None, most_summed=1, rows=None))]
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
    ) -> PyResult<()> {
        let layout = Layout::from_name(layout)?;
        let columns = columns.map(arrays::numbers).transpose()?;
        let rows = rows.map(arrays::numbers).transpose()?;
        self.with(py, |writer, scan| {
            let mut scan = std::mem::take(scan);
            scan.widen_to_sums(most_summed);
            let (stored, source_nnz, transposed) = (scan.stored(), scan.nonzero(), false);
            let spec =
                MatrixSpec { name: name.0, layout, portable, shape, stored, columns, rows, source_nnz, transposed };
            writer.begin_matrix(spec, source_dtype, scan.max_abs()).map(drop)
        })
    }

    fn push_sparse(
        &self,
        py: Python<'_>,
        by_columns: bool,
        indptr: &Bound<'_, PyAny>,
        indices: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (indptr, indices, data) = (arrays::numbers(indptr)?, arrays::numbers(indices)?, arrays::values(data)?);
        self.with(py, |writer, _| match (writer.matrix()?, by_columns) {
            (matrix, true) => matrix.push_columns(&indptr, &indices, &data),
            (matrix, false) => matrix.push_rows(&indptr, &indices, &data),
        })
    }

    fn push_dense(&self, py: Python<'_>, block: &Bound<'_, PyAny>) -> PyResult<()> {
        let (_, width): (usize, usize) = block.getattr("shape")?.extract()?;
        let data = arrays::values(block)?;
        self.with(py, |writer, _| writer.matrix()?.push_dense(width, &data))
    }

    fn finish_matrix(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |writer, _| writer.finish_matrix())
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
        let (obs, var, constants) = (obs.core(py)?, var.core(py)?, json(constants)?);
        let tables = Description { obs, var, constants, feature_space, ..Description::default() };
        let categories = categories.into_iter().map(|(name, values)| (name, values.map(BTreeSet::from_iter))).collect();
        let (writer, _) = self.lock().take().ok_or_else(finished)?;
        Ok(py.detach(|| writer.commit(tables, organism, categories))?)
    }

    fn abort(&self, py: Python<'_>) {
        let writer = self.lock().take();
        py.detach(|| drop(writer));
    }
}
