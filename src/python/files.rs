//! `_core.Files`.

use std::collections::HashMap;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::storage::{self, Storage, StorageOptions};

/// The files below a path or URL, as bytes: for readers of other formats than a store's.
#[pyclass(name = "Files", module = "dao_polars._core", frozen)]
pub struct PyFiles(Arc<dyn Storage>);

#[pymethods]
impl PyFiles {
    /// Open the root, which need not exist.
    ///
    /// Raises DaoValueError for an unusable URL or options, and what files of credentials are wrong with.
    #[new]
    #[pyo3(signature = (uri, storage_options=None))]
    fn with(py: Python<'_>, uri: &str, storage_options: Option<HashMap<String, String>>) -> PyResult<Self> {
        let options: StorageOptions = storage_options.unwrap_or_default().into_iter().collect();
        Ok(Self(py.detach(|| storage::open(uri, &options))?))
    }

    /// The root, without secrets.
    #[getter]
    fn uri(&self) -> &str {
        self.0.uri()
    }

    /// Whether files can be listed: plain HTTP and the hub do not.
    #[getter]
    fn can_list(&self) -> bool {
        self.0.can_list()
    }

    /// The size of a file; None if there is none.
    fn size(&self, py: Python<'_>, path: &str) -> PyResult<Option<u64>> {
        Ok(py.detach(|| self.0.size(path))?)
    }

    /// A whole file; None if there is none.
    fn get<'py>(&self, py: Python<'py>, path: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let found = py.detach(|| self.0.get(path))?;
        Ok(found.map(|bytes| PyBytes::new(py, &bytes)))
    }

    /// Ranges ``(start, stop)`` of a file, in their order; None if there is no such file.
    ///
    /// Raises DaoCorruptError for a range past the end.
    fn ranges<'py>(
        &self,
        py: Python<'py>,
        path: &str,
        ranges: Vec<(u64, u64)>,
    ) -> PyResult<Option<Vec<Bound<'py, PyBytes>>>> {
        let ranges: Vec<_> = ranges.into_iter().map(|(start, stop)| start..stop).collect();
        let found = py.detach(|| self.0.get_ranges(path, &ranges))?;
        Ok(found.map(|parts| parts.iter().map(|bytes| PyBytes::new(py, bytes)).collect()))
    }

    /// The names of the folders directly below one.
    fn folders(&self, py: Python<'_>, path: &str) -> PyResult<Vec<String>> {
        Ok(py.detach(|| self.0.list_folders(path))?)
    }
}
