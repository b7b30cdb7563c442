//! `_core.Store`.

use std::collections::HashMap;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyTuple};

use super::genes::{PyGenes, request};
use super::manifest::{PyDataset, PyDescription};
use super::progress::Progress;
use crate::lookup::stores;
use crate::read::OpenStore;
use crate::storage::StorageOptions;
use crate::store::{Categories, Store};
use crate::writer::add_gene_index;

/// An opened store.
#[pyclass(name = "Store", module = "dao_polars._core", frozen)]
pub struct PyStore {
    pub opened: Arc<OpenStore>,
    /// The datasets as Python has them, made once.
    datasets: PyOnceLock<Py<PyTuple>>,
}

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
        stores::remember_options(store.uri(), &storage_options);
        Ok(Self { opened: Arc::new(OpenStore::new(store)), datasets: PyOnceLock::new() })
    }

    /// The options that the store at `uri` was last opened with in this process: cells do not carry them.
    #[staticmethod]
    fn options_of(uri: &str) -> HashMap<String, String> {
        stores::options_of(uri).into_iter().collect()
    }

    /// Refuses a store that is not the one that cells were selected from, at `uri` then.
    fn check_is(&self, uri: &str, id: &str) -> PyResult<()> {
        let cells = stores::CellStore { uri: uri.to_owned(), id: id.to_owned() };
        Ok(stores::check_is(self.opened.store(), &cells)?)
    }

    /// The id of a dataset's feature space.
    fn feature_space(&self, py: Python<'_>, number: u32) -> PyResult<String> {
        let store = self.opened.store();
        Ok(py.detach(|| self.opened.spaces().id(store, store.dataset_numbered(number)?))?)
    }

    /// The genes that a request means in the datasets `numbers`; empty for a selection without cells.
    #[pyo3(signature = (numbers, genes=None, *, gene_key=None, duplicates="error"))]
    fn genes(
        &self,
        py: Python<'_>,
        numbers: Vec<u32>,
        genes: Option<&Bound<'_, PyAny>>,
        gene_key: Option<String>,
        duplicates: &str,
    ) -> PyResult<PyGenes> {
        let request = request(genes, gene_key, duplicates)?;
        Ok(PyGenes(Arc::new(py.detach(|| self.opened.spaces().genes(self.opened.store(), &numbers, &request))?)))
    }

    #[getter]
    fn uri(&self) -> &str {
        self.opened.store().uri()
    }

    #[getter]
    fn id(&self) -> &str {
        &self.opened.store().manifest().id
    }

    /// Whether the store's tables are pandas' parquet and pickles, as sfaira wrote them.
    #[getter]
    fn has_sfaira_tables(&self) -> bool {
        self.opened.store().has_sfaira_tables()
    }

    /// The datasets, by their numbers.
    #[getter]
    fn datasets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let made = self.datasets.get_or_try_init(py, || -> PyResult<_> {
            let datasets = &self.opened.store().manifest().datasets;
            let datasets = datasets.iter().map(|dataset| PyDataset::new(py, dataset)).collect::<PyResult<Vec<_>>>()?;
            Ok(PyTuple::new(py, datasets)?.unbind())
        });
        Ok(made?.bind(py).clone())
    }

    /// The sorted union of the values of each string-like obs column; `None` where they are too many.
    #[getter]
    fn categories(&self) -> Categories {
        self.opened.store().manifest().categories.clone()
    }

    fn description(&self, py: Python<'_>, dataset: &str) -> PyResult<PyDescription> {
        let store = self.opened.store();
        let description = py.detach(|| store.description(store.dataset(dataset)?))?;
        PyDescription::new(py, &description)
    }

    #[pyo3(signature = (path, checksum_of=None))]
    fn get_bytes<'py>(&self, py: Python<'py>, path: &str, checksum_of: Option<&str>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| {
            let store = self.opened.store();
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
            let entry = self.opened.store().dataset(dataset)?;
            let added = add_gene_index(&self.opened, entry, |cells| progress.advance(cells))?;
            self.opened.forget_gene_index(entry);
            stores::forget();
            Ok(added)
        });
        progress.or_raised(added)
    }

    fn has_gene_index(&self, py: Python<'_>, dataset: &str) -> PyResult<bool> {
        let store = self.opened.store();
        Ok(py.detach(|| store.gene_index(store.dataset(dataset)?)).map(|path| path.is_some())?)
    }

    fn verify(&self, py: Python<'_>, dataset: &str) -> PyResult<Vec<(String, String)>> {
        Ok(py.detach(|| self.opened.verify(self.opened.store().dataset(dataset)?))?)
    }
}
