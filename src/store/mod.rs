//! A store's layout: manifest, datasets, their small files.
//!
//! Owns `dao.json` (of the store and of each dataset), checksums, and the way into stores that sfaira wrote,
//! which look from outside as ours do. Decodes no matrix; of parquet it reads the names of genes alone.

mod checksum;
mod description;
mod manifest;
mod matrix_name;
mod names;
mod sfaira;
mod versioned;

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{DaoError, ErrorKind, Result};
use crate::storage::{self, Storage, StorageOptions};
pub use checksum::checksum;
pub use description::{ColumnMeta, DATASET_FORMAT, Description, GeneIndexMeta, MatrixMeta, TableMeta};
pub use manifest::{Categories, Constants, Dataset, Manifest};
pub use matrix_name::MatrixName;
pub use names::{INDEX, VarColumn, VarTable};
pub use versioned::FORMAT_VERSION;

/// File name of the manifest of a store and of a dataset.
pub const MANIFEST: &str = "dao.json";
/// Folder of a dataset that holds the gene-major copy of its X, at `zarr/X` below it, and a `dao.json`.
pub const GENE_INDEX: &str = "gene_index";
/// A dataset's table of genes, relative to the dataset.
const VAR: &str = "parquet/var.parquet";

/// An opened store: its manifest and a way to its bytes.
pub struct Store {
    storage: Arc<dyn Storage>,
    manifest: Manifest,
    /// Whether sfaira wrote it. Asked in this room alone.
    by_sfaira: bool,
}

impl Store {
    /// Opens the store at `uri`: one read of the manifest, or, where there is none, a look at
    /// the folders for datasets that sfaira wrote.
    ///
    /// # Errors
    /// `NotFound` where there is no store, `Value` for a store of a newer format version,
    /// `Corrupt` for a manifest that cannot be understood.
    pub fn open(uri: &str, options: &StorageOptions) -> Result<Self> {
        let storage = storage::open(uri, options)?;
        let found = storage.get(MANIFEST)?;
        let by_sfaira = found.is_none();
        let manifest = match found {
            Some(bytes) => Manifest::parse(&bytes, &format!("{}/{MANIFEST}", storage.uri()))?,
            None => sfaira::discover(storage.as_ref())?,
        };
        Ok(Self { storage, manifest, by_sfaira })
    }

    /// Where it is: an absolute path or a URL.
    #[must_use]
    pub fn uri(&self) -> &str {
        self.storage.uri()
    }

    /// Refuses to write to a store that sfaira wrote.
    ///
    /// # Errors
    /// `Value` for such a store.
    pub fn check_writable(&self) -> Result<()> {
        if !self.by_sfaira {
            return Ok(());
        }
        Err(DaoError::value(format!("'{}' is a store that sfaira wrote, which is read and not written", self.uri()))
            .hint("write the study to a new folder with dao.write_dataset"))
    }

    /// Whether sfaira wrote its tables, which are then pandas' parquet and pickles: for who reads these.
    #[must_use]
    pub fn has_sfaira_tables(&self) -> bool {
        self.by_sfaira
    }

    /// What is in it.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The bytes below it.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The dataset of this name.
    ///
    /// # Errors
    /// `Key` if there is none.
    pub fn dataset(&self, name: &str) -> Result<&Dataset> {
        self.manifest
            .datasets
            .iter()
            .find(|dataset| dataset.name == name)
            .ok_or_else(|| DaoError::new(ErrorKind::Key, format!("no dataset '{name}' in store '{}'", self.uri())))
    }

    /// The dataset with this number.
    ///
    /// # Errors
    /// `Value` if there is none: a cell key that this store did not give.
    pub fn dataset_numbered(&self, number: u32) -> Result<&Dataset> {
        self.manifest.datasets.iter().find(|dataset| dataset.number == number).ok_or_else(|| {
            DaoError::value(format!("a cell key names dataset number {number}, which this store does not have"))
                .at(format!("store '{}'", self.uri()))
                .hint("the frame belongs to another store, or to a newer state of this one")
        })
    }

    /// A file below the store, whole.
    ///
    /// # Errors
    /// `NotFound` if it is missing.
    pub fn file(&self, path: &str) -> Result<Bytes> {
        self.storage.get(path)?.ok_or_else(|| self.missing(path))
    }

    /// A dataset's file, `path` relative to the dataset, with its checksum checked.
    ///
    /// # Errors
    /// `NotFound`, or `Corrupt` if the bytes are not those that were written.
    pub fn dataset_file(&self, dataset: &Dataset, path: &str) -> Result<Bytes> {
        let full = format!("{}/{path}", dataset.path);
        let bytes = self.file(&full).map_err(|e| e.at(dataset.place()))?;
        if let Some(expected) = self.description(dataset)?.checksums.get(path) {
            self.check(dataset, &full, &bytes, expected)?;
        }
        Ok(bytes)
    }

    /// What a dataset says of itself; of one of sfaira's what its matrix says.
    ///
    /// # Errors
    /// `NotFound`, `Value` for a newer format version, or `Corrupt` if it contradicts the manifest.
    pub fn description(&self, dataset: &Dataset) -> Result<Description> {
        if self.by_sfaira {
            return Ok(sfaira::description(dataset));
        }
        let path = format!("{}/{MANIFEST}", dataset.path);
        let bytes = self.file(&path).map_err(|e| e.at(dataset.place()))?;
        if let Some(expected) = &dataset.checksum {
            self.check(dataset, &path, &bytes, expected)?;
        }
        Description::parse(&bytes, &format!("{}/{path}", self.uri()), dataset)
    }

    /// A dataset's table of genes.
    ///
    /// # Errors
    /// As [`Store::dataset_file`], and `Corrupt` for a file that is no table of this dataset.
    pub fn var(&self, dataset: &Dataset) -> Result<VarTable> {
        let bytes = self.dataset_file(dataset, VAR)?;
        let place = format!("{}/{}/{VAR}", self.uri(), dataset.path);
        let table = VarTable::open(bytes, self.by_sfaira, &place).map_err(|e| e.at(dataset.place()))?;
        if table.n_rows() as u64 == dataset.n_vars {
            return Ok(table);
        }
        Err(DaoError::corrupt(&place, "the table has another number of rows than the matrix has columns")
            .at(dataset.place())
            .expected(dataset.n_vars)
            .found(table.n_rows())
            .hint("restore the file that is not the dataset's"))
    }

    /// Where the gene-major copy of a dataset's X is, relative to the store, if there is one.
    ///
    /// # Errors
    /// `Corrupt` for one that was made of another dataset, `Value` for a newer format version.
    pub fn gene_index(&self, dataset: &Dataset) -> Result<Option<String>> {
        let folder = format!("{}/{GENE_INDEX}", dataset.path);
        if self.by_sfaira {
            return Ok(None);
        }
        let Some(bytes) = self.storage.get(&format!("{folder}/{MANIFEST}"))? else { return Ok(None) };
        let place = format!("{}/{folder}/{MANIFEST}", self.uri());
        GeneIndexMeta::parse(&bytes, &place, dataset).map_err(|e| e.at(dataset.place()))?;
        Ok(Some(format!("{folder}/zarr/X")))
    }

    /// The error for a file of the store that is not there.
    #[must_use]
    pub fn missing(&self, path: &str) -> DaoError {
        DaoError::new(ErrorKind::NotFound, "file is missing")
            .at(format!("path '{}/{path}'", self.uri()))
            .hint("restore it from a copy, or write the dataset again")
    }

    fn check(&self, dataset: &Dataset, path: &str, bytes: &[u8], expected: &str) -> Result<()> {
        let found = checksum(bytes);
        if found == *expected {
            return Ok(());
        }
        Err(DaoError::corrupt(
            &format!("{}/{path}", self.uri()),
            "checksum mismatch: the file is not as it was written",
        )
        .at(dataset.place())
        .expected(expected)
        .found(found)
        .hint("restore it from a copy, or write the dataset again"))
    }
}
