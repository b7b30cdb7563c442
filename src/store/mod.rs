//! A store's layout: manifest, datasets, their small files.
//!
//! Owns `dao.json` (of the store and of each dataset), checksums, and the way into
//! stores that sfaira wrote. Decodes no matrix and reads no parquet.

mod checksum;
mod legacy;
mod manifest;
mod names;

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{DaoError, ErrorKind, Result};
use crate::storage::{self, Storage, StorageOptions};
pub use checksum::checksum;
pub use manifest::{
    DATASET_FORMAT, DatasetEntry, DatasetMeta, FORMAT_VERSION, GeneIndexMeta, Manifest, MatrixMeta, STORE_FORMAT,
};

/// File name of the manifest of a store and of a dataset.
pub const MANIFEST: &str = "dao.json";
/// Folder of a dataset that holds the gene-major copy of its X, at `zarr/X` below it, and a `dao.json`.
pub const GENE_INDEX: &str = "gene_index";

/// An opened store: its manifest and a way to its bytes.
pub struct Store {
    storage: Arc<dyn Storage>,
    manifest: Manifest,
    text: String,
    legacy: bool,
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
        let (manifest, text, legacy) = match storage.get(MANIFEST)? {
            Some(bytes) => {
                let place = format!("{}/{MANIFEST}", storage.uri());
                let manifest = Manifest::parse(&bytes, &place)?;
                let text = String::from_utf8(bytes.to_vec())
                    .map_err(|_| DaoError::corrupt(&place, "the manifest is not UTF-8"))?;
                (manifest, text, false)
            }
            None => {
                let manifest = legacy::discover(storage.as_ref())?;
                let text = manifest.to_json()?;
                (manifest, text, true)
            }
        };
        Ok(Self { storage, manifest, text, legacy })
    }

    /// Where it is: an absolute path or a URL.
    #[must_use]
    pub fn uri(&self) -> &str {
        self.storage.uri()
    }

    /// Whether sfaira wrote it.
    #[must_use]
    pub fn legacy(&self) -> bool {
        self.legacy
    }

    /// What is in it.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest as JSON.
    #[must_use]
    pub fn manifest_text(&self) -> &str {
        &self.text
    }

    /// The bytes below it.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The dataset with this id.
    ///
    /// # Errors
    /// `Key` if there is none.
    pub fn dataset(&self, id: &str) -> Result<&DatasetEntry> {
        self.manifest
            .datasets
            .iter()
            .find(|d| d.id == id)
            .ok_or_else(|| DaoError::new(ErrorKind::Key, format!("no dataset '{id}' in store '{}'", self.uri())))
    }

    /// The dataset with this number.
    ///
    /// # Errors
    /// `Value` if there is none: a cell key that this store did not give.
    pub fn dataset_numbered(&self, number: u32) -> Result<&DatasetEntry> {
        self.manifest.datasets.iter().find(|d| d.number == number).ok_or_else(|| {
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
    pub fn dataset_file(&self, entry: &DatasetEntry, path: &str) -> Result<Bytes> {
        let full = format!("{}/{path}", entry.path);
        let bytes = self.file(&full).map_err(|e| e.at(format!("dataset '{}'", entry.id)))?;
        if let Some(meta) = self.dataset_meta(entry)?
            && let Some(expected) = meta.checksums.get(path)
        {
            self.check(entry, &full, &bytes, expected)?;
        }
        Ok(bytes)
    }

    /// The dataset's own `dao.json`; `None` in a store that sfaira wrote.
    ///
    /// # Errors
    /// `NotFound`, `Value` for a newer format version, or `Corrupt` if it contradicts the manifest.
    pub fn dataset_meta(&self, entry: &DatasetEntry) -> Result<Option<DatasetMeta>> {
        self.dataset_meta_text(entry)?
            .map(|text| DatasetMeta::parse(&text, &format!("{}/{}/{MANIFEST}", self.uri(), entry.path), entry))
            .transpose()
    }

    /// As [`Store::dataset_meta`], the text.
    ///
    /// # Errors
    /// `NotFound`, or `Corrupt` if the bytes are not those that were written.
    pub fn dataset_meta_text(&self, entry: &DatasetEntry) -> Result<Option<String>> {
        if self.legacy {
            return Ok(None);
        }
        let path = format!("{}/{MANIFEST}", entry.path);
        let bytes = self.file(&path).map_err(|e| e.at(format!("dataset '{}'", entry.id)))?;
        if let Some(expected) = &entry.checksum {
            self.check(entry, &path, &bytes, expected)?;
        }
        String::from_utf8(bytes.to_vec())
            .map(Some)
            .map_err(|_| DaoError::corrupt(&format!("{}/{path}", self.uri()), "the file is not UTF-8"))
    }

    /// A text column of a dataset's var, as [`names::text_column`] gives it.
    ///
    /// # Errors
    /// As [`Store::dataset_file`], and `Corrupt` for a file that is no table of this dataset.
    pub fn var_text(&self, entry: &DatasetEntry, column: &str) -> Result<Option<Vec<Option<String>>>> {
        const PATH: &str = "parquet/var.parquet";
        let bytes = self.dataset_file(entry, PATH)?;
        let place = format!("{}/{}/{PATH}", self.uri(), entry.path);
        let values = names::text_column(bytes, column, &place).map_err(|e| e.at(format!("dataset '{}'", entry.id)))?;
        match &values {
            Some(values) if values.len() as u64 != entry.n_vars => {
                Err(DaoError::corrupt(&place, "the table has another number of rows than the matrix has columns")
                    .at(format!("dataset '{}'", entry.id))
                    .expected(entry.n_vars)
                    .found(values.len()))
            }
            _ => Ok(values),
        }
    }

    /// Where the gene-major copy of a dataset's X is, relative to the store, if there is one.
    ///
    /// # Errors
    /// `Corrupt` for one that was made of another dataset, `Value` for a newer format version.
    pub fn gene_index(&self, entry: &DatasetEntry) -> Result<Option<String>> {
        let folder = format!("{}/{GENE_INDEX}", entry.path);
        if self.legacy {
            return Ok(None);
        }
        let Some(bytes) = self.storage.get(&format!("{folder}/{MANIFEST}"))? else { return Ok(None) };
        let place = format!("{}/{folder}/{MANIFEST}", self.uri());
        GeneIndexMeta::parse(&bytes, &place, entry).map_err(|e| e.at(format!("dataset '{}'", entry.id)))?;
        Ok(Some(format!("{folder}/zarr/X")))
    }

    /// The error for a file of the store that is not there.
    #[must_use]
    pub fn missing(&self, path: &str) -> DaoError {
        DaoError::new(ErrorKind::NotFound, "file is missing")
            .at(format!("path '{}/{path}'", self.uri()))
            .hint("restore it from a copy, or write the dataset again")
    }

    fn check(&self, entry: &DatasetEntry, path: &str, bytes: &[u8], expected: &str) -> Result<()> {
        let found = checksum(bytes);
        if found == *expected {
            return Ok(());
        }
        Err(DaoError::corrupt(
            &format!("{}/{path}", self.uri()),
            "checksum mismatch: the file is not as it was written",
        )
        .at(format!("dataset '{}'", entry.id))
        .expected(expected)
        .found(found)
        .hint("restore it from a copy, or write the dataset again"))
    }
}
