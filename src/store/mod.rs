//! A store's layout: its versions, their parts, the small files of these.
//!
//! Owns `dao.json`, the versions and how one is made, the description of each part with the list of its files, and the way
//! into stores that sfaira wrote, which look from outside as ours do. Decodes no matrix; of parquet it reads footers and the
//! names of genes alone.

mod categories;
mod constants;
mod dataset_name;
mod description;
mod files;
mod manifest;
mod matrix_name;
mod members;
mod outline;
mod outlines;
mod removed;
mod sfaira;
mod tables;
mod versioned;
mod versions;

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{DaoError, ErrorKind, Result};
use crate::storage::{self, Storage, StorageOptions, Together};
pub use categories::{Categories, PartCategories};
pub use constants::{Constants, Names, Scalar};
pub use dataset_name::{check_free, check_name, folder_name};
pub use description::{ColumnMeta, Description, MatrixMeta, TableMeta};
pub use files::{FileMeta, Files, ListedFiles, changed, checksum, missing};
pub use manifest::{Columns, Manifest, Part};
pub use matrix_name::MatrixName;
pub use members::Member;
pub use outline::{Contents, Outline, OutlineFile};
pub use removed::{Removed, RemovedRows};
pub use tables::{INDEX, TableFile, VarColumn, VarTable, excerpt, row_count};
#[cfg(test)]
pub use versioned::seal;
pub use versions::{
    Draft, Lease, Record, STORE_FILE, SourceFile, Summary, VERSIONS, Vacuumed, commit, describe, is_store, is_unnamed,
    latest, listed, summaries, version_path,
};

/// Folder of the parts.
pub const PARTS: &str = "parts";
/// Folder of a part's matrices.
pub const ZARR: &str = "zarr";

/// An opened store: its manifest and a way to its bytes. Or several that are read as one, see [`Store::join`].
pub struct Store {
    members: Vec<Member>,
    /// The URI; of several, theirs.
    uri: String,
    manifest: Manifest,
}

impl Store {
    /// Opens a version of the store at `uri`, the last one where none is named: reads of its number, of that version and of
    /// the one that it is based on; or, where there is none, a look at the folders for datasets that sfaira wrote.
    ///
    /// # Errors
    /// `NotFound` where there is no store, `Value` for a store of another format version or a version that is not there,
    /// `Corrupt` for one that cannot be understood.
    pub fn open(uri: &str, options: &StorageOptions, version: Option<u64>) -> Result<Self> {
        Self::read(storage::open(uri, options)?, version)
    }

    /// Opens the store in `storage`, as [`Store::open`] does.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn read(storage: Arc<dyn Storage>, version: Option<u64>) -> Result<Self> {
        if storage.local_root().is_some() {
            return Self::found(storage.clone(), storage, version);
        }
        let asked = Together::new(storage.clone());
        versions::ask(&asked, version)?;
        Self::found(Arc::new(asked), storage, version)
    }

    /// Opens the store whose bytes are in `bytes`; of its versions, some were read in `storage` already.
    fn found(storage: Arc<dyn Storage>, bytes: Arc<dyn Storage>, version: Option<u64>) -> Result<Self> {
        let found = match version {
            Some(version) if storage.size(&version_path(version))?.is_some() => Some(version),
            Some(version) if latest(&*storage)?.is_some() => return Err(versions::no_version(&*storage, version)),
            _ => latest(&*storage)?,
        };
        if let Some(version) = version.filter(|_| found.is_some()) {
            versions::check_kept(&*storage, version)?;
        }
        let (manifest, by_sfaira) = match found {
            Some(number) => (versions::read(&*storage, number)?, false),
            // Another may have made it in between.
            None if is_store(&*storage)? => match latest(&*bytes)? {
                Some(number) => (versions::read(&*bytes, number)?, false),
                None => return Err(no_versions(&*storage)),
            },
            None => (sfaira::discover(&*storage)?, true),
        };
        if found.is_none() && version.is_some() {
            return Err(DaoError::value("the store has no versions").at(format!("store '{}'", storage.uri())));
        }
        let uri = storage.uri().to_owned();
        Ok(Self { members: vec![Member::new(bytes, by_sfaira, &manifest)], uri, manifest })
    }

    /// An absolute path, or a URL; of several stores theirs, with ` + ` between them.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// `Value` for a store that sfaira wrote, and for several that were opened as one.
    pub fn check_writable(&self) -> Result<()> {
        if !self.alone()?.by_sfaira {
            return Ok(());
        }
        Err(DaoError::value(format!("'{}' is a store that sfaira wrote, which is read and not written", self.uri()))
            .hint("write the study to a new store with dao.write_dataset"))
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The way to the bytes of the one store that this is.
    ///
    /// # Errors
    /// `Value` for several that were opened as one.
    pub fn storage(&self) -> Result<&Arc<dyn Storage>> {
        Ok(&self.alone()?.storage)
    }

    /// The first part of the dataset of this name.
    ///
    /// # Errors
    /// `Key` if there is none.
    pub fn part(&self, name: &str) -> Result<&Part> {
        self.manifest
            .parts_of(name)
            .next()
            .ok_or_else(|| DaoError::new(ErrorKind::Key, format!("no dataset '{name}' in store '{}'", self.uri())))
    }

    /// The part with this number.
    ///
    /// # Errors
    /// `Value` if there is none: a cell key that this store did not give.
    pub fn part_numbered(&self, number: u32) -> Result<&Part> {
        self.manifest.parts.iter().find(|part| part.number == number).ok_or_else(|| {
            DaoError::value(format!("a cell key names part number {number}, which this store does not have"))
                .at(format!("store '{}'", self.uri()))
                .hint("the frame belongs to another store, or to a newer state of this one")
        })
    }

    /// The files of a part, which are held against those that its description lists; sfaira's are taken as they
    /// are. Paths are relative to the store that the part lies in.
    pub fn files(&self, part: &Part, listed: Files) -> Arc<dyn Storage> {
        let member = self.member(part);
        if member.by_sfaira {
            return member.storage.clone();
        }
        let files = ListedFiles::new(member.storage.clone(), &part.path, listed);
        Arc::new(match member.outlines.known(part) {
            Some(outline) => files.with_outline(outline),
            None => files,
        })
    }

    /// A part's file, `path` relative to the part, with its checksum checked.
    ///
    /// # Errors
    /// `NotFound`, or `Corrupt` if the bytes are not those that were written.
    pub fn part_file(&self, part: &Part, path: &str) -> Result<Bytes> {
        self.listed_file(part, self.description(part)?.files, path)
    }

    /// The same, with the files that its description lists.
    fn listed_file(&self, part: &Part, listed: Files, path: &str) -> Result<Bytes> {
        let files = self.files(part, listed);
        let path = part.file(path);
        let found = files.get(&path);
        found
            .and_then(|bytes| bytes.ok_or_else(|| files::missing(&format!("{}/{path}", files.uri()))))
            .map_err(|e| e.at(part.place()))
    }

    /// The description of a part; for one of sfaira's it is made from its matrix's metadata.
    ///
    /// # Errors
    /// `NotFound`, `Value` for a newer format version, or `Corrupt` if it contradicts the manifest.
    pub fn description(&self, part: &Part) -> Result<Description> {
        let Member { storage, by_sfaira, outlines, .. } = self.member(part);
        if *by_sfaira {
            return Ok(sfaira::description(part));
        }
        if storage.local_root().is_some() {
            return read_description(&**storage, part);
        }
        outlines.description(&**storage, part).map_err(|e| e.at(part.place()))
    }

    /// A part's table of genes.
    ///
    /// # Errors
    /// As [`Store::part_file`], and `Corrupt` for a file that is no table of this part.
    pub fn var(&self, part: &Part) -> Result<VarTable> {
        let Description { var_name: name, files, .. } = self.description(part)?;
        let bytes = self.listed_file(part, files, &name)?;
        let Member { storage, by_sfaira, .. } = self.member(part);
        let place = format!("{}/{}", storage.uri(), part.file(&name));
        let table = VarTable::open(bytes, *by_sfaira, &place).map_err(|e| e.at(part.place()))?;
        if table.n_rows() as u64 == part.n_vars {
            return Ok(table);
        }
        Err(DaoError::corrupt(&place, "the table has another number of rows than the matrix has columns")
            .at(part.place())
            .expected(part.n_vars)
            .found(table.n_rows())
            .hint("restore the file that is not the dataset's"))
    }
}

/// The description of a part of a store of ours.
///
/// # Errors
/// As [`Store::description`].
pub fn read_description(storage: &dyn Storage, part: &Part) -> Result<Description> {
    description_file(storage, part).map(|(_, description)| description)
}

/// The description of a part of a store of ours, and the bytes of its file.
///
/// # Errors
/// As [`Store::description`].
pub fn description_file(storage: &dyn Storage, part: &Part) -> Result<(Bytes, Description)> {
    let path = part.file(&part.description);
    let read = || -> Result<_> {
        let missing = || files::missing(&format!("{}/{path}", storage.uri()));
        let bytes = storage.get(&path)?.ok_or_else(missing)?;
        let description = described(storage, part, &bytes)?;
        Ok((bytes, description))
    };
    read().map_err(|e| e.at(part.place()))
}

/// The description of a part, from the bytes of its file.
fn described(storage: &dyn Storage, part: &Part, bytes: &[u8]) -> Result<Description> {
    let place = format!("{}/{}", storage.uri(), part.file(&part.description));
    let found = checksum(bytes);
    if let Some(expected) = part.checksum.as_ref().filter(|&expected| *expected != found) {
        let what = "checksum mismatch: the file is not the one that the version lists";
        return Err(files::changed(&place, what, expected, found));
    }
    Description::parse(bytes, &place, part)
}

fn no_versions(storage: &dyn Storage) -> DaoError {
    DaoError::new(ErrorKind::NotFound, "the store's versions are missing")
        .at(format!("path '{}/{VERSIONS}'", storage.uri()))
        .hint("restore them from a copy, or write the datasets to a new store")
}

#[cfg(test)]
pub mod testing {
    use std::path::Path;
    use std::sync::Arc;

    use parquet::data_type::Int64Type;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::{Part, Record, TableFile, commit};
    use crate::number::Dtype;
    use crate::storage::Local;

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

    /// Makes a version of a test's store of these parts, as they are numbered.
    pub fn publish(folder: &Path, id: &str, parts: Vec<Part>) {
        let storage = Local::new(folder).unwrap();
        commit(&storage, &Record::now("test", String::new()), |manifest| {
            manifest.id = id.to_owned();
            manifest.next_number = parts.iter().map(|part| part.number + 1).max().unwrap_or(0);
            manifest.parts.clone_from(&parts);
            Ok(true)
        })
        .unwrap();
    }

    /// A test's part, as a manifest lists it.
    pub fn part(name: &str, n_obs: u64, n_vars: u64) -> Part {
        let dtype = Some(Dtype::U16);
        let checksum = Some("crc32c:00000000".into());
        let obs_file = Some(Arc::new(TableFile { rows: n_obs, ..TableFile::default() }));
        Part {
            name: name.into(),
            path: format!("parts/{name}"),
            description: "part.json".into(),
            obs_name: "obs.parquet".into(),
            n_obs,
            n_vars,
            dtype,
            checksum,
            obs_file,
            ..Part::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::testing::part;
    use super::*;

    /// A store of one part with one small file.
    fn written() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let mut lung = part("lung", 3, 2);
        std::fs::create_dir_all(folder.path().join("parts/lung")).unwrap();
        let description = json!({
            "format": "dao-part", "version": 2, "n_obs": 3, "n_vars": 2, "nnz": null, "var_path": "var.parquet",
            "uns_path": "uns.json", "matrices": {}, "obs": {"columns": []}, "var": {"columns": []},
            "files": {"uns.json": FileMeta::of(b"{}")},
        });
        let description = versioned::seal(&description.to_string());
        std::fs::write(folder.path().join("parts/lung/part.json"), &description).unwrap();
        std::fs::write(folder.path().join("parts/lung/uns.json"), "{}").unwrap();
        lung.checksum = Some(checksum(description.as_bytes()));
        testing::publish(folder.path(), "id", vec![lung]);
        let store = Store::open(folder.path().to_str().unwrap(), &Vec::new(), None).unwrap();
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
    fn a_store_gives_its_parts_and_files() {
        let (_folder, store) = written();
        let lung = store.part("lung").unwrap();
        assert_eq!(store.part_numbered(0).unwrap(), lung);
        assert_eq!(store.part_file(lung, "uns.json").unwrap(), "{}");
        assert_eq!(store.description(lung).unwrap().n_obs, 3);
        assert!(!store.alone().unwrap().by_sfaira);
        store.check_writable().unwrap();
        says(&store.part("heart").unwrap_err(), ErrorKind::Key, "no dataset 'heart'");
        says(&store.part_numbered(1).unwrap_err(), ErrorKind::Value, "part number 1");
    }

    #[test]
    fn changed_and_missing_files_are_errors() {
        let (folder, store) = written();
        let lung = store.part("lung").unwrap();
        std::fs::write(folder.path().join("parts/lung/uns.json"), "[]").unwrap();
        let error = store.part_file(lung, "uns.json").unwrap_err();
        says(&error, ErrorKind::Corrupt, "checksum mismatch");
        says(&error, ErrorKind::Corrupt, "dataset 'lung', path '");
        std::fs::remove_file(folder.path().join("parts/lung/uns.json")).unwrap();
        says(&store.part_file(lung, "uns.json").unwrap_err(), ErrorKind::NotFound, "Restore it from a copy");
        std::fs::write(folder.path().join("parts/lung/part.json"), "{}").unwrap();
        says(&store.description(lung).unwrap_err(), ErrorKind::Corrupt, "checksum mismatch");
    }

    #[test]
    fn what_is_no_store_is_an_error() {
        let (folder, _) = written();
        let open = |version| Store::open(folder.path().to_str().unwrap(), &Vec::new(), version).err().unwrap();
        says(&open(Some(2)), ErrorKind::Value, "no version 2");
        std::fs::write(folder.path().join(version_path(1)), "{").unwrap();
        says(&open(None), ErrorKind::Corrupt, "not a readable manifest");
        std::fs::remove_dir_all(folder.path().join(VERSIONS)).unwrap();
        says(&open(None), ErrorKind::NotFound, "versions are missing");
        std::fs::remove_file(folder.path().join(STORE_FILE)).unwrap();
        says(&open(None), ErrorKind::NotFound, "no store at");
    }

    #[test]
    fn a_store_of_sfaira_is_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lung/zarr/X");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(".zarray"), r#"{"shape": [3, 2], "dtype": "<f4"}"#).unwrap();
        let store = Store::open(folder.path().to_str().unwrap(), &Vec::new(), None).unwrap();
        says(&store.check_writable().unwrap_err(), ErrorKind::Value, "dao.write_dataset");
        assert!(store.alone().unwrap().by_sfaira);
        assert_eq!(store.description(store.part("lung").unwrap()).unwrap().matrices[&MatrixName::X].shape, [3, 2]);
    }
}
