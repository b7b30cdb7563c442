//! `_core.Store`.

pub mod manifest;
pub mod obs_tables;

use std::collections::HashMap;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::cell_keys::PyCellKeys;
use super::genes::{PyGenes, request};
use super::progress::Progress;
use super::signals;
use crate::interrupt;
use crate::lookup::stores;
use crate::read::{self, OpenStore};
use crate::storage::{self, StorageOptions};
use crate::store::{Categories, Store};
use crate::writer::add_gene_index;
use manifest::{PyDataset, PyDescription};

/// An opened store: its manifest, its small files, its matrices.
#[pyclass(name = "Store", module = "dao_polars._core", frozen)]
pub struct PyStore {
    pub opened: Arc<OpenStore>,
    /// The datasets (a tuple of `Dataset`), by their numbers.
    #[pyo3(get)]
    datasets: Py<PyTuple>,
    /// What the store was opened with, and the user and password of its URL, as ``username`` and ``password``.
    #[pyo3(get)]
    storage_options: HashMap<String, String>,
}

#[pymethods]
impl PyStore {
    /// Open the store at a path or URL: one read of ``dao.json``, or a listing.
    ///
    /// Raises DaoFileNotFoundError where there is no store, DaoValueError for a newer format version or an unusable
    /// URL, DaoCorruptError for an unreadable manifest.
    #[staticmethod]
    #[pyo3(signature = (uri, storage_options=None))]
    fn open(py: Python<'_>, uri: &str, storage_options: Option<HashMap<String, String>>) -> PyResult<Self> {
        let storage_options: StorageOptions = storage_options.unwrap_or_default().into_iter().collect();
        let (uri, storage_options) = storage::split(uri, &storage_options)?;
        let store = py.detach(|| Store::open(&uri, &storage_options))?;
        stores::remember_options(store.uri(), &storage_options);
        let opened = Arc::new(OpenStore::new(store));
        let datasets = PyDataset::all(py, &opened)?;
        Ok(Self { opened, datasets, storage_options: storage_options.into_iter().collect() })
    }

    /// The options that the store at ``uri`` was last opened with in this process: cells do not carry them.
    #[staticmethod]
    fn options_of(uri: &str) -> HashMap<String, String> {
        stores::options_of(uri).into_iter().collect()
    }

    /// Raise DaoValueError unless it is the store ``id`` that cells at ``uri`` were of.
    fn check_is(&self, uri: &str, id: &str) -> PyResult<()> {
        let cells = stores::CellStore { uri: uri.to_owned(), id: id.to_owned() };
        Ok(stores::check_is(self.opened.store(), &cells)?)
    }

    /// The numbers of the datasets that cells are of, ascending.
    ///
    /// Raises DaoValueError for keys that are no cells of the store.
    fn datasets_of(&self, py: Python<'_>, cells: &PyCellKeys) -> PyResult<Vec<u32>> {
        Ok(py.detach(|| read::datasets_of(&cells.0, self.opened.store()))?)
    }

    /// The feature space id of the dataset of this number: equal exactly where the genes and their order are.
    fn feature_space(&self, py: Python<'_>, number: u32) -> PyResult<String> {
        let store = self.opened.store();
        Ok(py.detach(|| self.opened.spaces().id(store, store.dataset_numbered(number)?))?)
    }

    /// The genes that a request means in the datasets of these numbers; [] for no cells.
    ///
    /// Raises DaoValueError for several feature spaces and no ``genes``, for a name that is there twice or has several
    /// genes in a dataset, DaoKeyError for a gene that no dataset of the store has and for a ``gene_key`` that is no
    /// column of var.
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

    /// An absolute path with links resolved, or the URL without a trailing slash.
    #[getter]
    fn uri(&self) -> &str {
        self.opened.store().uri()
    }

    /// A UUID; ``sfaira-<fingerprint>`` for a store that sfaira wrote.
    #[getter]
    fn id(&self) -> &str {
        &self.opened.store().manifest().id
    }

    /// Whether the tables are pandas' parquet and pickles, as sfaira wrote them.
    #[getter]
    fn has_sfaira_tables(&self) -> bool {
        self.opened.store().has_sfaira_tables()
    }

    /// The union of the values of each string-like obs column, as sets by column; None where they are too many.
    ///
    /// Empty for a store that sfaira wrote, whose tables say it.
    #[getter]
    fn categories(&self) -> Categories {
        self.opened.store().manifest().categories.clone()
    }

    /// The description of a dataset, checked against the manifest.
    ///
    /// Raises DaoKeyError for an unknown name, DaoFileNotFoundError or DaoCorruptError for a ``dao.json`` that is
    /// missing or not the one that was written.
    fn description(&self, py: Python<'_>, dataset: &str) -> PyResult<PyDescription> {
        let store = self.opened.store();
        PyDescription::new(py, &py.detach(|| store.description(store.dataset(dataset)?))?)
    }

    /// A dataset's file by its path in the dataset's folder: its name in errors, and its bytes, whose checksum is checked
    /// where there is one.
    ///
    /// Raises DaoKeyError for an unknown name, DaoFileNotFoundError or DaoCorruptError for a file that is missing or not
    /// as it was written.
    fn read_file<'py>(&self, py: Python<'py>, dataset: &str, path: &str) -> PyResult<(String, Bound<'py, PyBytes>)> {
        let (store, dataset) = (self.opened.store(), self.opened.store().dataset(dataset)?);
        let bytes = py.detach(|| store.dataset_file(dataset, path))?;
        let name = format!("dataset '{}', '{}/{}/{path}'", dataset.name, store.uri(), dataset.path);
        Ok((name, PyBytes::new(py, &bytes)))
    }

    /// Write the gene-major copy of a dataset's X; False if there is one.
    ///
    /// ``advance`` is told how many cells were copied since. Raises DaoValueError for a store that is not written to,
    /// DaoIOError for a full disk; nothing of it stays then.
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

    /// Whether a dataset has a gene-major copy of X.
    fn has_gene_index(&self, py: Python<'_>, dataset: &str) -> PyResult<bool> {
        let store = self.opened.store();
        Ok(py.detach(|| store.gene_index(store.dataset(dataset)?))?.is_some())
    }

    /// Read all of a dataset but its tables' contents; gives (path, problem) of each fault.
    fn verify(&self, py: Python<'_>, dataset: &str) -> PyResult<Vec<(String, String)>> {
        let problems = py.detach(|| self.opened.verify(self.opened.store().dataset(dataset)?))?;
        // A file that was not read to its end is no problem of the file.
        if interrupt::take_broken_off() { Err(signals::raised()) } else { Ok(problems) }
    }
}
