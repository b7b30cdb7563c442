//! Folders of a part that is being written, and the list of the files written to them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::outline::{FilePieces, Pieces, WHOLE, is_read_whole};
use super::temporary::TemporaryFolder;
use crate::checksum::crc32c_append;
use crate::error::{DaoError, Result};
use crate::storage::{Flushing, NewFile, Storage};
use crate::store::{FileMeta, Files, ZARR, missing};

/// The bytes of another's file that are read at a time.
const BLOCK: usize = 1 << 20;

/// A folder below that of a part. Notes size and checksum of each file from the bytes that were meant, so that what the
/// disk made of them is held against that later.
#[derive(Clone)]
pub struct Folder {
    storage: Arc<dyn Storage>,
    /// The part's folder in the storage, with a slash at its end.
    root: String,
    /// The folder's path below `root`: empty, or with a slash at its end.
    below: String,
    files: Arc<Mutex<Files>>,
    /// What of them belongs into the part's outline.
    pieces: Arc<Mutex<Pieces>>,
    /// Files on their way to the disk, or to a server.
    flushing: Arc<Mutex<Vec<Flushing>>>,
    here: Here,
}

/// A folder on this machine: for what others write, and for what is needed while a matrix is written.
#[derive(Clone)]
enum Here {
    /// The part's own.
    Own(PathBuf),
    /// That of a part on a bucket; it is gone with the last copy of this.
    ForAWhile(Arc<TemporaryFolder>),
}

impl Folder {
    /// The folder of a part.
    ///
    /// # Errors
    /// `Io`, where a temporary folder is needed and cannot be made.
    pub fn new(storage: Arc<dyn Storage>, path: &str) -> Result<Self> {
        let temporary = TemporaryFolder::where_needed(&*storage)?;
        Ok(Self::with(storage, path, temporary))
    }

    /// The folder of a part, with what a temporary folder has of it where one is needed.
    pub fn with(storage: Arc<dyn Storage>, path: &str, temporary: Option<Arc<TemporaryFolder>>) -> Self {
        let (files, pieces, flushing) = Default::default();
        let own = || storage.local_root().unwrap_or(Path::new("")).join(path);
        let here = temporary.map_or_else(|| Here::Own(own()), Here::ForAWhile);
        Self { storage, root: format!("{path}/"), below: String::new(), files, pieces, flushing, here }
    }

    /// The folder on this machine from which [`Folder::take`] takes files of the part.
    pub fn on_this_machine(&self) -> &Path {
        match &self.here {
            Here::Own(path) => path,
            Here::ForAWhile(folder) => folder.path(),
        }
    }

    /// The folder of this name in this one; it need not exist.
    pub fn join(&self, name: &str) -> Self {
        Self { below: format!("{}{name}/", self.below), ..self.clone() }
    }

    /// The folder's name in errors.
    pub fn place(&self) -> PathBuf {
        PathBuf::from(format!("{}/{}{}", self.storage.uri(), self.root, self.below))
    }

    /// A folder on this machine for files that are needed while a matrix is written.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.on_this_machine().join(&self.below).join(name)
    }

    /// Writes the file `name` and notes it.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.begin(name)?;
        file.write(bytes)?;
        file.finish()
    }

    /// Begins the file `name`, and makes the folders above it below this one.
    pub fn begin(&self, name: &str) -> Result<ListedFile> {
        let path = format!("{}{name}", self.below);
        let file = self.storage.create(&format!("{}{path}", self.root))?;
        let pieces = FilePieces { whole: Some(Vec::new()), ..FilePieces::default() };
        Ok(ListedFile { folder: self.clone(), path, file, size: 0, crc: 0, pieces })
    }

    /// What belongs into the part's outline of all that was written so far, below `zarr`.
    pub fn pieces(&self) -> Pieces {
        std::mem::take(&mut *lock(&self.pieces))
    }

    /// Writes the metadata of a zarr group.
    pub fn write_group(&self, attributes: &Value) -> Result<()> {
        let metadata = json!({"zarr_format": 3, "node_type": "group", "attributes": attributes});
        self.write("zarr.json", metadata.to_string().as_bytes())
    }

    /// Writes the groups below `zarr` that these arrays, given by their paths below it, lie in.
    pub fn write_groups(&self, arrays: impl Iterator<Item = String>) -> Result<()> {
        for group in arrays.flat_map(|path| above(&path)).collect::<BTreeSet<_>>() {
            group.iter().fold(self.join(ZARR), |at, name| at.join(name)).write_group(&json!({}))?;
        }
        Ok(())
    }

    /// Notes a file that another wrote whole, such as a table, and puts it where the part is.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Io`.
    pub fn take(&self, name: &str) -> Result<()> {
        let path = format!("{}{name}", self.below);
        let at = format!("{}{path}", self.root);
        let found = self.on_this_machine().join(&path);
        let mut found = File::open(&found).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => missing(&format!("{}/{at}", self.storage.uri())),
            _ => DaoError::io(&found, "reading", &e),
        })?;
        let mut put = matches!(self.here, Here::ForAWhile(_)).then(|| self.storage.create(&at)).transpose()?;
        let (mut size, mut crc, mut block) = (0, 0, vec![0; BLOCK]);
        loop {
            let read = found.read(&mut block).map_err(|e| DaoError::io(&at, "reading", &e))?;
            let Some(bytes) = block.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            put.as_mut().map_or(Ok(()), |put| put.write(bytes))?;
            (size, crc) = (size + bytes.len() as u64, crc32c_append(crc, bytes));
        }
        match put {
            Some(put) => lock(&self.flushing).extend(put.finish()?),
            None => self.storage.sync_file(&at)?,
        }
        self.note(path, FileMeta::new(size, crc));
        Ok(())
    }

    /// All files that were written, which are there to stay then.
    pub fn list(&self) -> Result<Files> {
        for flushing in std::mem::take(&mut *lock(&self.flushing)) {
            flushing()?;
        }
        self.storage.sync(self.root.trim_end_matches('/'))?;
        Ok(lock(&self.files).clone())
    }

    /// Gives up what is on its way: the folder is about to go.
    pub fn give_up(&self) {
        drop(std::mem::take(&mut *lock(&self.flushing)));
    }

    fn note(&self, path: String, meta: FileMeta) {
        lock(&self.files).insert(path, meta);
    }
}

/// The groups that a path below `zarr` lies in, that itself among them, each as the names of the folders on its way.
fn above(path: &str) -> Vec<Vec<String>> {
    let names: Vec<String> = path.split('/').map(str::to_owned).collect();
    (0..names.len()).map(|n| names[..n].to_vec()).collect()
}

/// A panic elsewhere cannot leave a list half changed, so a poisoned lock is safe to use.
fn lock<T>(list: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is written piece by piece, and listed once it is finished; see [`Folder`].
pub struct ListedFile {
    folder: Folder,
    path: String,
    file: Box<dyn NewFile>,
    size: u64,
    crc: u32,
    pieces: FilePieces,
}

impl ListedFile {
    /// The bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write(bytes)?;
        if let Some(whole) = &mut self.pieces.whole {
            if whole.len() + bytes.len() <= WHOLE || is_read_whole(&self.path) {
                whole.extend_from_slice(bytes);
            } else {
                self.pieces.whole = None;
            }
        }
        self.crc = crc32c_append(self.crc, bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Notes that the next bytes begin with a piece that readers look for first, among many of its length.
    pub fn note_piece(&mut self, bytes: &[u8]) {
        self.pieces.starts.push(self.size);
        self.pieces.many.extend_from_slice(bytes);
    }

    /// Appends the last bytes of the file, with which readers begin.
    pub fn write_end(&mut self, bytes: &[u8]) -> Result<()> {
        self.pieces.end = Some((self.size, bytes.to_vec()));
        self.write(bytes)
    }

    /// Ends the file and notes it. A large one may be on its way still: [`Folder::list`] waits for it, and has its error.
    pub fn finish(self) -> Result<()> {
        if self.path.starts_with(&format!("{ZARR}/")) {
            self.folder.pieces.lock().unwrap_or_else(PoisonError::into_inner).add(self.path.clone(), self.pieces);
        }
        self.folder.note(self.path, FileMeta::new(self.size, self.crc));
        if let Some(flushing) = self.file.finish()? {
            lock(&self.folder.flushing).push(flushing);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Local;

    #[test]
    fn groups_are_those_above() {
        let paths: Vec<_> = above("totals/layers/counts/array").iter().map(|names| names.join("/")).collect();
        assert_eq!(paths, ["", "totals", "totals/layers", "totals/layers/counts"]);
    }

    #[test]
    fn each_file_is_listed_by_whoever_wrote_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(Arc::new(Local::new(root.path()).unwrap()), "p").unwrap();
        let zarr = folder.join("zarr").join("X");
        zarr.write("shard", b"ours").unwrap();
        let mut streamed = zarr.begin("c/0").unwrap();
        streamed.write(b"piece ").unwrap();
        streamed.write(b"by piece").unwrap();
        assert_eq!(streamed.size(), 14);
        streamed.finish().unwrap();
        zarr.write_group(&json!({})).unwrap();
        std::fs::write(root.path().join("p/obs.parquet"), b"theirs").unwrap();
        folder.take("obs.parquet").unwrap();
        assert!(folder.take("var.parquet").is_err());
        // What the disk makes of our bytes is not what is listed.
        std::fs::write(root.path().join("p/zarr/X/shard"), b"0urs").unwrap();
        let files = folder.list().unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["obs.parquet", "zarr/X/c/0", "zarr/X/shard", "zarr/X/zarr.json"]);
        assert_eq!(files["zarr/X/c/0"], FileMeta::of(b"piece by piece"));
        assert_eq!(files["zarr/X/shard"], FileMeta::of(b"ours"));
        assert_eq!(files["obs.parquet"], FileMeta::of(b"theirs"));
    }
}
