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

/// A dataset being written: invisible until ``commit``, gone if dropped before.
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
    /// Make the store if it is missing, and a folder to write to; clean up after dead writers.
    ///
    /// Raises DaoFileExistsError if the id is taken, DaoValueError if it cannot be a name.
    #[staticmethod]
    fn begin(py: Python<'_>, uri: &str, dataset: &str) -> PyResult<Self> {
        let writer = py.detach(|| DatasetWriter::begin(uri, dataset))?;
        Ok(Self(Mutex::new(Some((writer, ValueScan::default())))))
    }

    /// The folder that becomes the dataset's; ``parquet/`` is in it.
    #[getter]
    fn staging(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |writer, _| Ok(writer.folder().to_string_lossy().into_owned()))
    }

    /// Look at values of the next matrix: any shape, any integer, float or bool type.
    ///
    /// Returns how many of its values were not zero so far.
    fn scan(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<u64> {
        let values = arrays::values(data)?;
        self.with(py, |_, scan| {
            scan.update(&values);
            Ok(scan.nonzero())
        })
    }

    /// Begin the matrix that was scanned, in this output shape.
    ///
    /// It is stored in the narrowest type that holds every value and every sum of ``most_summed``: ``uint8`` …
    /// ``uint64``; with negatives ``int8`` … ``int64``; else ``float32`` or ``float64``. ``portable``: CSR arrays in
    /// zarr's core codecs alone, instead of ``dao_polars.pfor``. ``columns`` maps source to output columns (-1:
    /// dropped), ``rows`` source to output rows.
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

    /// Take the matrix's next rows (CSR) or columns (CSC) in source order.
    ///
    /// Unsorted columns are sorted, duplicates summed.
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

    /// Take the matrix's next rows, (rows, columns).
    fn push_dense(&self, py: Python<'_>, block: &Bound<'_, PyAny>) -> PyResult<()> {
        let (_, width): (usize, usize) = block.getattr("shape")?.extract()?;
        let data = arrays::values(block)?;
        self.with(py, |writer, _| writer.matrix()?.push_dense(width, &data))
    }

    /// Write the rest of the matrix; returns the number of stored values.
    fn finish_matrix(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |writer, _| writer.finish_matrix())
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
        let (obs, var, constants) = (obs.core(py)?, var.core(py)?, json(constants)?);
        let tables = Description { obs, var, constants, feature_space, ..Description::default() };
        let categories = categories.into_iter().map(|(name, values)| (name, values.map(BTreeSet::from_iter))).collect();
        let (writer, _) = self.lock().take().ok_or_else(finished)?;
        Ok(py.detach(|| writer.commit(tables, organism, categories))?)
    }

    /// Remove what was written.
    fn abort(&self, py: Python<'_>) {
        let writer = self.lock().take();
        py.detach(|| drop(writer));
    }
}
