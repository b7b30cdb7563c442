//! `_core.Store`.

use std::collections::HashMap;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::progress::Progress;
use crate::reader::Source;
use crate::storage::StorageOptions;
use crate::store::Store;
use crate::writer::add_gene_index;

/// An opened store.
#[pyclass(name = "Store", module = "dao_polars._core", frozen)]
pub struct PyStore(pub Arc<Source>);

pub fn options(options: Option<HashMap<String, String>>) -> StorageOptions {
    options.unwrap_or_default().into_iter().collect()
}

#[pymethods]
impl PyStore {
    #[staticmethod]
    #[pyo3(signature = (uri, storage_options=None))]
    fn open(py: Python<'_>, uri: &str, storage_options: Option<HashMap<String, String>>) -> PyResult<Self> {
        let storage_options = options(storage_options);
        let store = py.detach(|| Store::open(uri, &storage_options))?;
        Ok(Self(Arc::new(Source::new(store))))
    }

    #[getter]
    fn uri(&self) -> &str {
        self.0.store().uri()
    }

    #[getter]
    fn id(&self) -> &str {
        &self.0.store().manifest().id
    }

    #[getter]
    fn legacy(&self) -> bool {
        self.0.store().legacy()
    }

    fn manifest(&self) -> &str {
        self.0.store().manifest_text()
    }

    fn dataset_meta(&self, py: Python<'_>, dataset: &str) -> PyResult<String> {
        let meta = py.detach(|| {
            let store = self.0.store();
            let entry = store.dataset(dataset)?;
            store.dataset_meta(entry)?;
            store.dataset_meta_text(entry)
        })?;
        Ok(meta.unwrap_or_else(|| "{}".to_owned()))
    }

    #[pyo3(signature = (path, checksum_of=None))]
    fn get_bytes<'py>(&self, py: Python<'py>, path: &str, checksum_of: Option<&str>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| {
            let store = self.0.store();
            let Some(dataset) = checksum_of else { return store.file(path) };
            let entry = store.dataset(dataset)?;
            match path.strip_prefix(&format!("{}/", entry.path)) {
                Some(within) => store.dataset_file(entry, within),
                None => store.file(path),
            }
        })?;
        Ok(PyBytes::new(py, &bytes))
    }

    #[pyo3(signature = (dataset, advance=None))]
    fn add_gene_index(&self, py: Python<'_>, dataset: &str, advance: Option<Py<PyAny>>) -> PyResult<bool> {
        let mut progress = Progress::new(advance);
        let added = py.detach(|| {
            let entry = self.0.store().dataset(dataset)?;
            let added = add_gene_index(&self.0, entry, |cells| progress.advance(cells))?;
            self.0.forget_gene_index(entry);
            Ok(added)
        });
        progress.or_raised(added)
    }

    fn has_gene_index(&self, py: Python<'_>, dataset: &str) -> PyResult<bool> {
        let store = self.0.store();
        Ok(py.detach(|| store.gene_index(store.dataset(dataset)?)).map(|path| path.is_some())?)
    }

    fn var_text(&self, py: Python<'_>, dataset: &str, column: &str) -> PyResult<Option<Vec<Option<String>>>> {
        let store = self.0.store();
        Ok(py.detach(|| store.var_text(store.dataset(dataset)?, column))?)
    }

    fn verify(&self, py: Python<'_>, dataset: &str) -> PyResult<Vec<(String, String)>> {
        Ok(py.detach(|| self.0.verify(self.0.store().dataset(dataset)?))?)
    }
}
