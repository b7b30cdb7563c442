//! `_core.TableFile`, `_core.ObsTables`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::super::progress::Progress;
use crate::error::{DaoError, ErrorKind};
use crate::read::{ObsTable, ObsTables};
use crate::storage::{self, Local, Storage};
use crate::store::{Removed, TableFile};

/// The checksums of a parquet file: of its columns, and of what else is read with each.
#[pyclass(name = "TableFile", module = "dao_polars._core", frozen, eq, from_py_object)]
#[derive(Clone, PartialEq, Eq)]
pub struct PyTableFile(Arc<TableFile>);

impl PyTableFile {
    pub fn new(file: Arc<TableFile>) -> Self {
        Self(file)
    }
}

#[pymethods]
impl PyTableFile {
    /// The checksums of the file at a path.
    ///
    /// Raises DaoFileNotFoundError where there is none, DaoCorruptError for what is no parquet file.
    #[staticmethod]
    fn of(py: Python<'_>, path: &str) -> PyResult<Self> {
        let read = || {
            let (folder, name) = (Path::new(path).parent(), Path::new(path).file_name().and_then(OsStr::to_str));
            let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let file = Local::new(folder)?.file(name.unwrap_or_default())?;
            let file =
                file.ok_or_else(|| DaoError::new(ErrorKind::NotFound, "no file").at(format!("path '{path}'")))?;
            TableFile::of(file.as_ref(), path)
        };
        Ok(Self::new(py.detach(read)?.into()))
    }

    /// Of what `json` gives.
    ///
    /// Raises DaoValueError for other text.
    #[staticmethod]
    fn parse(text: &str) -> PyResult<Self> {
        let parsed = serde_json::from_str(text).map_err(|e| DaoError::value(format!("no checksums of a table: {e}")));
        Ok(Self(Arc::new(parsed?)))
    }

    /// JSON, as it stands in a manifest.
    #[getter]
    fn json(&self) -> PyResult<String> {
        Ok(serde_json::to_string(&*self.0).map_err(|e| DaoError::value(format!("no JSON: {e}")))?)
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<(Py<PyAny>, (String,))> {
        Ok((slf.get_type().getattr("parse")?.unbind(), (slf.get().json()?,)))
    }
}

/// A part's dataset, its table's path, its number of cells, its ``obs_file``.
type Listed = (String, String, u64, Option<PyTableFile>);

fn tables(parts: Vec<Listed>) -> Vec<ObsTable> {
    let table = |(part, path, n_obs, file): Listed| ObsTable { part, path, n_obs, file: file.map(|file| file.0) };
    parts.into_iter().map(table).collect()
}

/// The obs tables of one opened store, which are checked before they are read.
///
/// What was checked is remembered: of local files in the process, for each state of a file (size, times, inode). Of remote
/// ones the columns themselves are kept here, up to 64 MB.
#[pyclass(name = "ObsTables", module = "dao_polars._core", frozen)]
pub struct PyObsTables(ObsTables);

#[pymethods]
impl PyObsTables {
    #[new]
    #[pyo3(signature = (uri, storage_options=None))]
    fn with(uri: &str, storage_options: Option<HashMap<String, String>>) -> Self {
        Self(ObsTables::new(uri, storage_options.unwrap_or_default().into_iter().collect()))
    }

    /// Whether the tables lie on another machine: polars reads what ``fetch`` gives of them, and local ones where they lie.
    #[getter]
    fn is_remote(&self) -> bool {
        self.0.is_remote()
    }

    /// Check what reading columns (by their names in the files) reads of some parts' tables, unless it is known to hold.
    ///
    /// ``parts``: of each its dataset, its table's path, its number of cells, its ``obs_file``. Raises DaoFileNotFoundError,
    /// DaoIOError or DaoCorruptError for the first file that is not as it was written, named.
    fn check(&self, py: Python<'_>, parts: Vec<Listed>, columns: Vec<String>) -> PyResult<()> {
        let (tables, mut progress) = (tables(parts), Progress::new(None));
        let checked = py.detach(|| self.0.check(&tables, &columns, || progress.advance(0)));
        progress.or_raised(checked)
    }

    /// The removed rows of a part, (n,) ascending: of its dataset's name, its number of rows, and the file of the removed
    /// ones, its checksum and their number.
    ///
    /// Raises DaoFileNotFoundError or DaoCorruptError for a file that is missing or not as it was written.
    fn removed<'py>(
        &self,
        py: Python<'py>,
        dataset: &str,
        n_obs: u64,
        path: String,
        checksum: String,
        n_removed: u64,
    ) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let rows = py.detach(|| {
            let storage = storage::open(self.0.uri(), self.0.options())?;
            let removed = Removed { path, checksum, n_obs: n_removed, nnz: None };
            removed.rows(&*storage, &removed.path, n_obs).map_err(|e| e.at(format!("dataset '{dataset}'")))
        })?;
        Ok(PyArray1::from_iter(py, rows.rows()))
    }

    /// Check the same, and give of each table a parquet file in which the columns are; the others are named in it, and
    /// cannot be read.
    fn fetch<'py>(
        &self,
        py: Python<'py>,
        parts: Vec<Listed>,
        columns: Vec<String>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let (tables, mut progress) = (tables(parts), Progress::new(None));
        let fetched = py.detach(|| self.0.fetch(&tables, &columns, || progress.advance(0)));
        // One after another, so that hardly more than one is there twice.
        Ok(progress.or_raised(fetched)?.into_iter().map(|bytes| PyBytes::new(py, &bytes)).collect())
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> (Py<PyAny>, (String, HashMap<String, String>)) {
        let tables = &slf.get().0;
        let options = tables.options().iter().cloned().collect();
        (slf.get_type().into_any().unbind(), (tables.uri().to_owned(), options))
    }
}
