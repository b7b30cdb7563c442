//! Folders of a dataset that is being written, and the list of the files written to them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::checksum::crc32c_append;
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
    /// Large files on their way to the disk.
    flushing: Arc<Mutex<Vec<JoinHandle<Result<()>>>>>,
}

/// A file from whose size on it is flushed to the disk beside other work.
const LARGE: u64 = 4 << 20;
/// The bytes of a file after which it is flushed though it is not finished, so that the disk is not idle until then.
const FLUSHED: u64 = 32 << 20;

impl Folder {
    /// The folder of a dataset.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), below: String::new(), files: Arc::default(), flushing: Arc::default() }
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

    /// Begins the file `name`, and makes the folders above it below this one.
    pub fn begin(&self, name: &str) -> Result<NewFile> {
        let path = format!("{}{name}", self.below);
        let at = self.root.join(&path);
        at.parent().map_or(Ok(()), make_folder)?;
        let file = File::create(&at).map_err(io(&at, "writing"))?;
        Ok(NewFile { folder: self.clone(), path, file: Arc::new(file), size: 0, crc: 0, flushed: 0 })
    }

    /// Writes the metadata of a zarr group.
    pub fn write_group(&self, attributes: &Value) -> Result<()> {
        let metadata = json!({"zarr_format": 3, "node_type": "group", "attributes": attributes});
        self.write("zarr.json", metadata.to_string().as_bytes())
    }

    /// All files of the dataset, which are on the disk then. Those that others wrote, tables, are flushed and read.
    pub fn list(&self) -> Result<Files> {
        for flushing in std::mem::take(&mut *lock(&self.flushing)) {
            flushing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
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
        lock(&self.files)
    }
}

/// A panic elsewhere cannot leave a list half changed, so a poisoned lock is safe to use.
fn lock<T>(list: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is written piece by piece, and listed once it is finished; see [`Folder`].
#[derive(Debug)]
pub struct NewFile {
    folder: Folder,
    path: String,
    file: Arc<File>,
    size: u64,
    crc: u32,
    /// What was there when it was flushed last.
    flushed: u64,
}

impl NewFile {
    /// The bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        (&*self.file).write_all(bytes).map_err(io(&self.folder.root.join(&self.path), "writing"))?;
        self.crc = crc32c_append(self.crc, bytes);
        self.size += bytes.len() as u64;
        // Another reference to the file is that of a thread that flushes it.
        if self.size - self.flushed >= FLUSHED && Arc::strong_count(&self.file) == 1 {
            self.flushed = self.size;
            self.flush()?;
        }
        Ok(())
    }

    /// Flushes the file to the disk and notes it. A large one is flushed beside what comes next; [`Folder::list`]
    /// waits for it, and has its error.
    pub fn finish(self) -> Result<()> {
        self.folder.note(self.path.clone(), FileMeta::new(self.size, self.crc));
        self.flush()
    }

    /// Flushes the file to the disk, a large one beside other work.
    fn flush(&self) -> Result<()> {
        let at = self.folder.root.join(&self.path);
        let flush = |file: &File, at: &Path| file.sync_data().map_err(io(at, "writing"));
        if self.size < LARGE {
            return flush(&self.file, &at);
        }
        let (file, its_path) = (self.file.clone(), at.clone());
        match std::thread::Builder::new().spawn(move || flush(&file, &its_path)) {
            Ok(flushing) => lock(&self.folder.flushing).push(flushing),
            // The system gives no more threads.
            Err(_) => flush(&self.file, &at)?,
        }
        Ok(())
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
        let mut streamed = zarr.begin("c/0").unwrap();
        streamed.write(b"piece ").unwrap();
        streamed.write(b"by piece").unwrap();
        assert_eq!(streamed.size(), 14);
        streamed.finish().unwrap();
        zarr.write_group(&json!({})).unwrap();
        std::fs::write(root.path().join("zarr/obs.parquet"), b"theirs").unwrap();
        // What the disk makes of our bytes is not what is listed.
        std::fs::write(root.path().join("zarr/X/shard"), b"0urs").unwrap();
        let files = folder.list().unwrap();
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            ["zarr/X/c/0", "zarr/X/shard", "zarr/X/zarr.json", "zarr/obs.parquet"]
        );
        assert_eq!(files["zarr/X/c/0"], FileMeta::of(b"piece by piece"));
        assert_eq!(files["zarr/X/shard"], FileMeta::of(b"ours"));
        assert_eq!(files["zarr/obs.parquet"], FileMeta::of(b"theirs"));
    }
}
