//! A store's layout: manifest, datasets, their small files.
//!
//! Owns `dao.json` (of the store and of each dataset), the list of files in it, and the way into stores that sfaira wrote,
//! which look from outside as ours do. Decodes no matrix; of parquet it reads footers and the names of genes alone.

mod constants;
mod description;
mod files;
mod manifest;
mod matrix_name;
mod sfaira;
mod tables;
mod versioned;

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{DaoError, ErrorKind, Result};
use crate::storage::{self, Storage, StorageOptions};
pub use constants::{Constants, Names, Scalar};
pub use description::{ColumnMeta, DATASET_FORMAT, Description, GeneIndexMeta, MatrixMeta, TableMeta};
pub use files::{FileMeta, Files, ListedFiles, changed, checksum, missing};
pub use manifest::{Categories, Columns, Dataset, Manifest};
pub use matrix_name::MatrixName;
pub use tables::{INDEX, TableFile, VarColumn, VarTable, excerpt, row_count};
#[cfg(test)]
pub use versioned::seal;

/// File name of the manifest of a store and of a dataset.
pub const MANIFEST: &str = "dao.json";
/// File of a dataset's folder that is in its place and not in the manifest yet.
pub const UNPUBLISHED: &str = ".unpublished";
/// Folder of a dataset that holds the gene-major copy of its X, at `zarr/X` below it, and a `dao.json`.
pub const GENE_INDEX: &str = "gene_index";
/// A dataset's table of cells, relative to the dataset.
pub const OBS: &str = "parquet/obs.parquet";
/// A dataset's table of genes, relative to the dataset.
pub const VAR: &str = "parquet/var.parquet";

/// An opened store: its manifest and a way to its bytes.
pub struct Store {
    storage: Arc<dyn Storage>,
    manifest: Manifest,
    /// Whether sfaira wrote the store: its tables are then others, see [`Store::has_sfaira_tables`].
    by_sfaira: bool,
}

impl Store {
    /// Opens the store at `uri`: one read of the manifest, or, where there is none, a look at the folders for datasets
    /// that sfaira wrote.
    ///
    /// # Errors
    /// `NotFound` where there is no store, `Value` for a store of a newer format version, `Corrupt` for a manifest that
    /// cannot be understood.
    pub fn open(uri: &str, options: &StorageOptions) -> Result<Self> {
        Self::read(storage::open(uri, options)?)
    }

    /// Opens the store in `storage`, as [`Store::open`] does.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn read(storage: Arc<dyn Storage>) -> Result<Self> {
        let found = storage.get(MANIFEST)?;
        let by_sfaira = found.is_none();
        let manifest = match found {
            Some(bytes) => Manifest::parse(&bytes, &format!("{}/{MANIFEST}", storage.uri()))?,
            None => sfaira::discover(storage.as_ref())?,
        };
        Ok(Self { storage, manifest, by_sfaira })
    }

    /// An absolute path, or a URL.
    pub fn uri(&self) -> &str {
        self.storage.uri()
    }

    /// `Value` for a store that sfaira wrote.
    pub fn check_writable(&self) -> Result<()> {
        if !self.by_sfaira {
            return Ok(());
        }
        Err(DaoError::value(format!("'{}' is a store that sfaira wrote, which is read and not written", self.uri()))
            .hint("write the study to a new folder with dao.write_dataset"))
    }

    /// Whether sfaira wrote its tables, which are then pandas' parquet and pickles: for who reads these.
    pub fn has_sfaira_tables(&self) -> bool {
        self.by_sfaira
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

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

    /// The files of a dataset, which are held against those that its description lists; sfaira's are taken as they
    /// are. Paths are relative to the store.
    pub fn files(&self, dataset: &Dataset, listed: Files) -> Arc<dyn Storage> {
        if self.by_sfaira {
            return self.storage.clone();
        }
        Arc::new(ListedFiles::new(self.storage.clone(), &dataset.path, listed))
    }

    /// A dataset's file, `path` relative to the dataset, with its checksum checked.
    ///
    /// # Errors
    /// `NotFound`, or `Corrupt` if the bytes are not those that were written.
    pub fn dataset_file(&self, dataset: &Dataset, path: &str) -> Result<Bytes> {
        let path = format!("{}/{path}", dataset.path);
        let found = self.files(dataset, self.description(dataset)?.files).get(&path);
        found
            .and_then(|bytes| bytes.ok_or_else(|| files::missing(&format!("{}/{path}", self.uri()))))
            .map_err(|e| e.at(dataset.place()))
    }

    /// The description of a dataset; for one of sfaira's it is made from its matrix's metadata.
    ///
    /// # Errors
    /// `NotFound`, `Value` for a newer format version, or `Corrupt` if it contradicts the manifest.
    pub fn description(&self, dataset: &Dataset) -> Result<Description> {
        if self.by_sfaira {
            return Ok(sfaira::description(dataset));
        }
        let path = format!("{}/{MANIFEST}", dataset.path);
        let place = format!("{}/{path}", self.uri());
        let read = || {
            let bytes = self.storage.get(&path)?.ok_or_else(|| files::missing(&place))?;
            let found = checksum(&bytes);
            if let Some(expected) = dataset.checksum.as_ref().filter(|&expected| *expected != found) {
                let what = "checksum mismatch: the file is not the one that the manifest lists";
                return Err(files::changed(&place, what, expected, found));
            }
            Description::parse(&bytes, &place, dataset)
        };
        read().map_err(|e| e.at(dataset.place()))
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

    /// The files of the gene-major copy of a dataset's X, which lies at [`gene_index_path`], if there is one.
    ///
    /// # Errors
    /// `Corrupt` for one that was made of another dataset, `Value` for a newer format version.
    pub fn gene_index(&self, dataset: &Dataset) -> Result<Option<ListedFiles>> {
        let folder = format!("{}/{GENE_INDEX}", dataset.path);
        if self.by_sfaira {
            return Ok(None);
        }
        let Some(bytes) = self.storage.get(&format!("{folder}/{MANIFEST}"))? else { return Ok(None) };
        let place = format!("{}/{folder}/{MANIFEST}", self.uri());
        let meta = GeneIndexMeta::parse(&bytes, &place, dataset).map_err(|e| e.at(dataset.place()))?;
        Ok(Some(ListedFiles::new(self.storage.clone(), &folder, meta.files)))
    }
}

/// The path of the gene-major copy of a dataset's X, relative to the store.
pub fn gene_index_path(dataset: &Dataset) -> String {
    format!("{}/{GENE_INDEX}/zarr/X", dataset.path)
}

#[cfg(test)]
pub mod testing {
    use std::sync::Arc;

    use parquet::data_type::Int64Type;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::{Dataset, TableFile};
    use crate::number::Dtype;

    /// A test's table of so many cells.
    pub fn obs_table(n_obs: usize) -> Vec<u8> {
        let schema = parse_message_type("message schema { required int64 cell; }").unwrap();
        let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&vec![7; n_obs], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.into_inner().unwrap()
    }

    /// A test's dataset, as a manifest lists it.
    pub fn dataset(name: &str, n_obs: u64, n_vars: u64) -> Dataset {
        let dtype = Some(Dtype::U16);
        let checksum = Some("crc32c:00000000".into());
        let obs_file = Some(Arc::new(TableFile { rows: n_obs, ..TableFile::default() }));
        Dataset { name: name.into(), path: name.into(), n_obs, n_vars, dtype, checksum, obs_file, ..Dataset::default() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::testing::dataset;
    use super::*;

    /// A store of one dataset with one small file.
    fn written() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let mut lung = dataset("lung", 3, 2);
        std::fs::create_dir(folder.path().join("lung")).unwrap();
        let description = json!({
            "format": DATASET_FORMAT, "version": 1, "id": "lung", "n_obs": 3, "n_vars": 2, "nnz": null,
            "matrices": {}, "obs": {"columns": []}, "var": {"columns": []},
            "files": {"uns.json": FileMeta::of(b"{}")},
        });
        let description = versioned::seal(&description.to_string());
        std::fs::write(folder.path().join("lung/dao.json"), &description).unwrap();
        std::fs::write(folder.path().join("lung/uns.json"), "{}").unwrap();
        lung.checksum = Some(checksum(description.as_bytes()));
        let mut manifest = Manifest::new();
        manifest.datasets.push(lung);
        manifest.next_number = 1;
        std::fs::write(folder.path().join(MANIFEST), manifest.to_json().unwrap()).unwrap();
        let store = Store::open(folder.path().to_str().unwrap(), &Vec::new()).unwrap();
        (folder, store)
    }

    fn says(error: &DaoError, kind: ErrorKind, what: &str) {
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }

    #[test]
    fn the_check_value_of_crc32c() {
        assert_eq!(checksum(b"123456789"), "crc32c:e3069283");
    }

    #[test]
    fn a_store_gives_its_datasets_and_files() {
        let (_folder, store) = written();
        let lung = store.dataset("lung").unwrap();
        assert_eq!(store.dataset_numbered(0).unwrap(), lung);
        assert_eq!(store.dataset_file(lung, "uns.json").unwrap(), "{}");
        assert_eq!(store.description(lung).unwrap().n_obs, 3);
        assert!(store.gene_index(lung).unwrap().is_none() && !store.has_sfaira_tables());
        store.check_writable().unwrap();
        says(&store.dataset("heart").unwrap_err(), ErrorKind::Key, "no dataset 'heart'");
        says(&store.dataset_numbered(1).unwrap_err(), ErrorKind::Value, "dataset number 1");
    }

    #[test]
    fn changed_and_missing_files_are_errors() {
        let (folder, store) = written();
        let lung = store.dataset("lung").unwrap();
        std::fs::write(folder.path().join("lung/uns.json"), "[]").unwrap();
        let error = store.dataset_file(lung, "uns.json").unwrap_err();
        says(&error, ErrorKind::Corrupt, "checksum mismatch");
        says(&error, ErrorKind::Corrupt, "dataset 'lung', path '");
        std::fs::remove_file(folder.path().join("lung/uns.json")).unwrap();
        says(&store.dataset_file(lung, "uns.json").unwrap_err(), ErrorKind::NotFound, "Restore it from a copy");
        std::fs::write(folder.path().join("lung/dao.json"), "{}").unwrap();
        says(&store.description(lung).unwrap_err(), ErrorKind::Corrupt, "checksum mismatch");
    }

    #[test]
    fn what_is_no_store_is_an_error() {
        let (folder, _) = written();
        let open = || Store::open(folder.path().to_str().unwrap(), &Vec::new()).err().unwrap();
        std::fs::write(folder.path().join(MANIFEST), "{").unwrap();
        says(&open(), ErrorKind::Corrupt, "not a readable manifest");
        std::fs::remove_file(folder.path().join(MANIFEST)).unwrap();
        says(&open(), ErrorKind::NotFound, "the store's manifest is missing");
        std::fs::remove_dir_all(folder.path().join("lung")).unwrap();
        says(&open(), ErrorKind::NotFound, "no store at");
    }

    #[test]
    fn a_store_of_sfaira_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lung/zarr/X");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(".zarray"), r#"{"shape": [3, 2], "dtype": "<f4"}"#).unwrap();
        let store = Store::open(folder.path().to_str().unwrap(), &Vec::new()).unwrap();
        says(&store.check_writable().unwrap_err(), ErrorKind::Value, "dao.write_dataset");
        assert!(store.has_sfaira_tables());
        assert_eq!(store.description(store.dataset("lung").unwrap()).unwrap().matrices[&MatrixName::X].shape, [3, 2]);
    }
}
