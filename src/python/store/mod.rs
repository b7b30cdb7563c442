//! `_core.Store`.

pub mod manifest;
pub mod obs_tables;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::cell_keys::PyCellKeys;
use super::genes::{PyGenes, request};
use super::progress::Progress;
use super::signals;
use crate::interrupt;
use crate::lookup::{CellStore, CellStores, stores};
use crate::read::{self, OpenStore};
use crate::storage::{self, StorageOptions};
use crate::store::{Record, Store, Summary, summaries};
use crate::writer::{Copying, add_gene_index};
use manifest::{PyDescription, PyPart};

/// A version, as Python gets it.
type VersionRow =
    (u64, String, String, String, u64, u64, Option<String>, String, Option<String>, Option<u64>, Option<String>);

/// An opened store: its manifest, its small files, its matrices.
#[pyclass(name = "Store", module = "dao_polars._core", frozen)]
pub struct PyStore {
    pub opened: Arc<OpenStore>,
    /// The parts (a tuple of `Part`), in the order of the frame: those of a dataset follow each other.
    #[pyo3(get)]
    parts: Py<PyTuple>,
    /// What the store was opened with, and the user and password of its URL, as ``username`` and ``password``.
    #[pyo3(get)]
    storage_options: HashMap<String, String>,
}

#[pymethods]
impl PyStore {
    /// Open a version of the store at a path or URL, the last one where it is None: reads of its number, of that version
    /// and of the one that it is based on; or a listing.
    ///
    /// Raises DaoFileNotFoundError where there is no store, DaoValueError for another format version, a version that is not
    /// there or an unusable URL, DaoCorruptError for a version that cannot be understood.
    #[staticmethod]
    #[pyo3(signature = (uri, storage_options=None, version=None))]
    fn open(
        py: Python<'_>,
        uri: &str,
        storage_options: Option<HashMap<String, String>>,
        version: Option<u64>,
    ) -> PyResult<Self> {
        let storage_options: StorageOptions = storage_options.unwrap_or_default().into_iter().collect();
        let (uri, storage_options) = storage::split(uri, &storage_options)?;
        let store = py.detach(|| Store::open(&uri, &storage_options, version))?;
        stores::remember_options(store.uri(), &storage_options);
        stores::has_seen(&store);
        let opened = Arc::new(OpenStore::new(store));
        let parts = PyPart::all(py, &opened)?;
        Ok(Self { opened, parts, storage_options: storage_options.into_iter().collect() })
    }

    /// The options that the store at ``uri`` was last opened with in this process: cells do not carry them.
    #[staticmethod]
    fn options_of(uri: &str) -> HashMap<String, String> {
        stores::options_of(uri).into_iter().collect()
    }

    /// Several stores (each opened alone, in this order) as one, in whose parts' numbers the upper eight bits are the store's
    /// place; one alone is itself.
    ///
    /// Raises DaoValueError for none, more than 256, a store that is there twice, or one that has had more than 2^24 parts.
    #[staticmethod]
    fn join(py: Python<'_>, stores: Vec<PyRef<'_, Self>>) -> PyResult<Self> {
        let each = stores.iter().map(|store| store.opened.store().again()).collect::<Result<_, _>>()?;
        let opened = Arc::new(OpenStore::new(Store::join(each)?));
        let parts = PyPart::all(py, &opened)?;
        Ok(Self { opened, parts, storage_options: HashMap::new() })
    }

    /// Raise DaoValueError unless it is of the stores that cells are of: of each in order the URI when they were selected,
    /// and the id.
    fn check_is(&self, cells: Vec<(String, String)>) -> PyResult<()> {
        let cells = cells.into_iter().map(|(uri, id)| CellStore { uri, id, version: None });
        Ok(CellStores::new(cells.collect()).check(self.opened.store())?)
    }

    /// Raise DaoValueError for what is not written to: a store that sfaira wrote, or several as one.
    fn check_writable(&self) -> PyResult<()> {
        Ok(self.opened.store().check_writable()?)
    }

    /// The numbers of the parts that cells are of, ascending; and the positions of keys whose cells the version has no more,
    /// (n,) ascending.
    ///
    /// Raises DaoValueError for keys that never were cells of the store.
    fn locate<'py>(&self, py: Python<'py>, cells: &PyCellKeys) -> PyResult<(Vec<u32>, Bound<'py, PyArray1<u64>>)> {
        let (numbers, gone) = py.detach(|| read::locate(&cells.0, &self.opened))?;
        Ok((numbers, PyArray1::from_iter(py, gone.into_iter().map(|at| at as u64))))
    }

    /// The positions, ``n`` + 1 of them ascending from 0, that cut cells into ``n`` pieces of about the same cost (cells and their
    /// stored values of X), in their order: near by where a part or a shard ends.
    ///
    /// Raises DaoValueError for keys that are no cells of the store; as opening matrices does.
    fn cut(&self, py: Python<'_>, cells: &PyCellKeys, n: usize) -> PyResult<Vec<usize>> {
        Ok(py.detach(|| read::cut_cells(&self.opened, &cells.0, n))?)
    }

    /// The rows of the part of this number that were removed, (n,) ascending.
    ///
    /// Raises DaoFileNotFoundError or DaoCorruptError for a file that is missing or not as it was written.
    fn removed<'py>(&self, py: Python<'py>, number: u32) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let rows = py.detach(|| self.opened.removed(self.opened.store().part_numbered(number)?))?;
        Ok(PyArray1::from_iter(py, rows.iter().flat_map(|rows| rows.rows())))
    }

    /// The feature space id of the part of this number: equal exactly where the genes and their order are.
    fn feature_space(&self, py: Python<'_>, number: u32) -> PyResult<String> {
        let store = self.opened.store();
        Ok(py.detach(|| self.opened.spaces().id(store, store.part_numbered(number)?))?)
    }

    /// The genes that a request means in the parts of these numbers; [] for no cells.
    ///
    /// Raises DaoValueError for several feature spaces and no ``genes``, for a name that is there twice or has several
    /// genes in a part, DaoKeyError for a gene that no part of the store has and for a ``gene_key`` that is no
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

    /// An absolute path with links resolved, or the URL without a trailing slash; of several stores theirs, with ``+`` between.
    #[getter]
    fn uri(&self) -> &str {
        self.opened.store().uri()
    }

    /// A UUID; ``sfaira-<fingerprint>`` for a store that sfaira wrote; of several stores theirs, with ``+`` between.
    #[getter]
    fn id(&self) -> &str {
        &self.opened.store().manifest().id
    }

    /// Whether the tables are pandas' parquet and pickles, as sfaira wrote them; of several stores, in all of them.
    #[getter]
    fn has_sfaira_tables(&self) -> bool {
        self.opened.store().members().iter().all(|member| member.by_sfaira)
    }

    /// The union of the values of each string-like obs column, as sets by column; None where they are too many.
    ///
    /// Empty for a store that sfaira wrote, whose tables say it, and for several stores, which say their own.
    #[getter]
    fn categories(&self) -> BTreeMap<&str, Option<BTreeSet<&str>>> {
        let categories = self.opened.store().manifest().categories.0.iter();
        categories.map(|(column, values)| (&column[..], values.listed().map(Iterator::collect))).collect()
    }

    /// The number of the version; None for a store that sfaira wrote, which has none, and for several stores, which have theirs.
    #[getter]
    fn version(&self) -> Option<u64> {
        let store = self.opened.store().alone().ok()?;
        (!store.by_sfaira).then_some(store.version)
    }

    /// The operation that made the version, and what was said about it; None where there is no version.
    #[getter]
    fn made_by(&self) -> Option<(&str, &str)> {
        let store = self.opened.store();
        let Record { operation, message, .. } = &store.manifest().record;
        store.alone().ok().filter(|store| !store.by_sfaira).map(|_| (&operation[..], &message[..]))
    }

    /// The versions that are there, ascending: number, time (RFC 3339), operation, message, datasets, cells, author, package,
    /// and of the source its name, size and checksum.
    ///
    /// Raises DaoValueError for several stores as one, DaoCorruptError for a version that cannot be understood.
    fn versions(&self, py: Python<'_>) -> PyResult<Vec<VersionRow>> {
        let found = py.detach(|| summaries(&**self.opened.store().storage()?))?;
        let row = |Summary { number, record, n_datasets, n_obs, .. }: Summary| {
            let Record { operation, message, time, package, author, source, .. } = record;
            let (name, size, checksum) = match source {
                Some(source) => (Some(source.name), Some(source.size), source.checksum),
                None => (None, None, None),
            };
            (number, time, operation, message, n_datasets, n_obs, author, package, name, size, checksum)
        };
        Ok(found.into_iter().map(row).collect())
    }

    /// Remove what no version from ``oldest`` on names, or say what that is: path and size of each file.
    ///
    /// Raises DaoCorruptError for a version or a description that cannot be read.
    #[pyo3(signature = (oldest, dry_run, message, author=None))]
    fn vacuum(
        &self,
        py: Python<'_>,
        oldest: u64,
        dry_run: bool,
        message: String,
        author: Option<String>,
    ) -> PyResult<Vec<(String, u64)>> {
        let record = Record { author, ..Record::now("vacuum", message) };
        let gone = py.detach(|| self.opened.store().vacuum(oldest, dry_run, &record))?;
        Ok(gone.into_iter().collect())
    }

    /// Make a version like an older one; the number of the new version.
    ///
    /// Raises DaoValueError if there is no such version.
    #[pyo3(signature = (version, message, author=None))]
    fn restore(&self, py: Python<'_>, version: u64, message: String, author: Option<String>) -> PyResult<u64> {
        let record = Record { author, ..Record::now("restore", message) };
        Ok(py.detach(|| self.opened.store().restore(version, &record))?.version)
    }

    /// The description of the part of this number, checked against the manifest.
    ///
    /// Raises DaoFileNotFoundError or DaoCorruptError for a file that is missing or not the one that was written.
    fn description(&self, py: Python<'_>, number: u32) -> PyResult<PyDescription> {
        let store = self.opened.store();
        PyDescription::new(py, &py.detach(|| store.description(store.part_numbered(number)?))?)
    }

    /// A file of the part of this number by its path in the part's folder: its name in errors, and its bytes, whose
    /// checksum is checked where there is one.
    ///
    /// Raises DaoFileNotFoundError or DaoCorruptError for a file that is missing or not as it was written.
    fn read_file<'py>(&self, py: Python<'py>, number: u32, path: &str) -> PyResult<(String, Bound<'py, PyBytes>)> {
        let (store, part) = (self.opened.store(), self.opened.store().part_numbered(number)?);
        let bytes = py.detach(|| store.part_file(part, path))?;
        let name = format!("dataset '{}', '{}/{}/{path}'", part.name, store.member(part).uri(), part.path);
        Ok((name, PyBytes::new(py, &bytes)))
    }

    /// Copy datasets (None: all) byte for byte into the store at ``uri``, which is made if it is missing, as one version.
    ///
    /// Gives the number of the version. ``advance`` is told how many bytes were copied since.
    /// Raises DaoKeyError for a dataset that is not there, DaoFileExistsError for a name that is taken, DaoValueError for a
    /// store that sfaira wrote or one that is not written to, DaoCorruptError for a damaged file; nothing is visible then.
    #[pyo3(signature = (uri, storage_options, datasets, message, author=None, advance=None))]
    #[expect(clippy::too_many_arguments, reason = "arguments of the Python method")]
    fn copy(
        &self,
        py: Python<'_>,
        uri: &str,
        storage_options: HashMap<String, String>,
        datasets: Option<Vec<String>>,
        message: String,
        author: Option<String>,
        advance: Option<Py<PyAny>>,
    ) -> PyResult<u64> {
        let storage_options: StorageOptions = storage_options.into_iter().collect();
        let (uri, storage_options) = storage::split(uri, &storage_options)?;
        let record = Record { author, ..Record::now("copy", message) };
        let mut progress = Progress::new(advance);
        let made = py.detach(|| {
            let copying = Copying::new(self.opened.store(), datasets.as_deref())?;
            copying.run(&uri, &storage_options, &record, |bytes| {
                progress.advance(usize::try_from(bytes).unwrap_or(usize::MAX))
            })
        });
        Ok(progress.or_raised(made)?.version)
    }

    /// Make a version in which the part of this number has a gene-major copy of X; False if it has one.
    ///
    /// ``advance`` is told how many cells were copied since. Raises DaoValueError for a store that is not written to,
    /// DaoIOError for a full disk; nothing of it stays then.
    #[pyo3(signature = (number, advance=None))]
    fn add_gene_index(&self, py: Python<'_>, number: u32, advance: Option<Py<PyAny>>) -> PyResult<bool> {
        let mut progress = Progress::new(advance);
        let added = py.detach(|| {
            let entry = self.opened.store().part_numbered(number)?;
            add_gene_index(&self.opened, entry, |cells| progress.advance(cells))
        });
        progress.or_raised(added)
    }

    /// Whether the part of this number has a gene-major copy of X.
    fn has_gene_index(&self, py: Python<'_>, number: u32) -> PyResult<bool> {
        let store = self.opened.store();
        Ok(py.detach(|| store.description(store.part_numbered(number)?))?.gene_index.is_some())
    }

    /// Read all of the part of this number but its tables' contents; gives (path, problem) of each fault.
    fn verify(&self, py: Python<'_>, number: u32) -> PyResult<Vec<(String, String)>> {
        let problems = py.detach(|| self.opened.verify(self.opened.store().part_numbered(number)?))?;
        // A file that was not read to its end is no problem of the file.
        if interrupt::take_broken_off() { Err(signals::raised()) } else { Ok(problems) }
    }
}
