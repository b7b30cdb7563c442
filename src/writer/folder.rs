//! Folders of a dataset that is being written, and the list of the files written to them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::error::{DaoError, Result};
use crate::storage::{Local, Storage};
use crate::store::{FileMeta, Files};

/// A folder below that of a new dataset. Notes size and checksum of each file from the bytes that were meant, so
/// that what the disk made of them is held against that later.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
    /// The folder's path below `root`: empty, or with a slash at its end.
    below: String,
    files: Arc<Mutex<Files>>,
}

impl Folder {
    /// The folder of a dataset.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), below: String::new(), files: Arc::default() }
    }

    /// The folder of this name in this one; it need not exist.
    pub fn join(&self, name: &str) -> Self {
        Self { below: format!("{}{name}/", self.below), ..self.clone() }
    }

    /// The folder's path.
    pub fn path(&self) -> PathBuf {
        self.root.join(&self.below)
    }

    /// Makes the folder and those above it.
    pub fn make(&self) -> Result<()> {
        make_folder(&self.path())
    }

    /// Writes the file `name`, flushes it to the disk and notes it. The folder has to exist.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = format!("{}{name}", self.below);
        write_file(&self.root.join(&path), bytes)?;
        self.note(path, FileMeta::of(bytes));
        Ok(())
    }

    /// Writes the metadata of a zarr group.
    pub fn write_group(&self, attributes: &Value) -> Result<()> {
        let metadata = json!({"zarr_format": 3, "node_type": "group", "attributes": attributes});
        self.write("zarr.json", metadata.to_string().as_bytes())
    }

    /// All files of the dataset. Those that others wrote, tables, are flushed to the disk and read.
    pub fn list(&self) -> Result<Files> {
        for (path, _) in Local::new(&self.root)?.list_files("")? {
            if !self.noted().contains_key(&path) {
                let at = self.root.join(&path);
                let synced = File::open(&at).and_then(|file| file.sync_all());
                let bytes = synced.and_then(|()| std::fs::read(&at)).map_err(io(&at, "reading back"))?;
                self.note(path, FileMeta::of(&bytes));
            }
        }
        Ok(self.noted().clone())
    }

    fn note(&self, path: String, meta: FileMeta) {
        self.noted().insert(path, meta);
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Files> {
        // A panic elsewhere cannot leave the list half changed, so a poisoned lock is safe to use.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of the system while `doing` something with a file.
pub fn io<'a>(path: &'a Path, doing: &'a str) -> impl FnOnce(std::io::Error) -> DaoError + 'a {
    move |e| DaoError::io(path, doing, &e)
}

/// Makes a folder and those above it.
pub fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(io(folder, "making the folder"))
}

/// Writes a file and flushes it to the disk.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()
    });
    written.map_err(io(path, "writing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_listed_by_whoever_wrote_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let zarr = folder.join("zarr").join("X");
        zarr.make().unwrap();
        zarr.write("shard", b"ours").unwrap();
        zarr.write_group(&json!({})).unwrap();
        std::fs::write(root.path().join("zarr/obs.parquet"), b"theirs").unwrap();
        // What the disk makes of our bytes is not what is listed.
        std::fs::write(root.path().join("zarr/X/shard"), b"0urs").unwrap();
        let files = folder.list().unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["zarr/X/shard", "zarr/X/zarr.json", "zarr/obs.parquet"]);
        assert_eq!(files["zarr/X/shard"], FileMeta::of(b"ours"));
        assert_eq!(files["zarr/obs.parquet"], FileMeta::of(b"theirs"));
    }
}
