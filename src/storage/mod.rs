//! Bytes below a path or URL: ranges in, bytes out.
//!
//! Owns where bytes live (a folder, S3, GCS, Azure, HTTP). Must not know any format: neither zarr nor
//! manifests. Every path is relative to the root, `/`-separated.

mod cache;
mod local;
mod prefetch;
mod remote;
mod seen;
mod system;
mod together;
mod zarr;

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::error::{DaoError, Result};
pub use local::Local;
pub use local::{make_folder, write_error};
pub use prefetch::prefetch;
pub use system::{FileStamp, private_folder, stamp};
pub use together::Together;
pub use zarr::ZarrStorage;

/// Options for object stores (`aws_region`, `endpoint`, …), as `object_store` and polars name them.
pub type StorageOptions = Vec<(String, String)>;

/// Byte ranges of a file that are wanted soon.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub path: String,
    pub ranges: Vec<Range<u64>>,
}

/// What is read ahead: as long as this lives, [`Storage::get_ranges`] finds it. What has not come is given up with it.
pub trait Held: Send + Sync + std::fmt::Debug {
    /// The bytes that were asked for.
    fn bytes(&self) -> u64;
}

/// Read access to the files below one root.
///
/// Methods fail when the layer below does, for any reason but a missing file, and for what they say beside.
pub trait Storage: Send + Sync {
    /// The root: an absolute path, or a URL without a trailing slash.
    fn uri(&self) -> &str;

    /// The size in bytes of the file at `path`; `None` if there is none.
    fn size(&self, path: &str) -> Result<Option<u64>>;

    /// The whole file at `path`; `None` if there is none.
    fn get(&self, path: &str) -> Result<Option<Bytes>>;

    /// The whole files at `paths`, `None` for each that is not there: asked for all at once where one waits for answers.
    fn get_many(&self, paths: &[String]) -> Result<Vec<Option<Bytes>>> {
        paths.iter().map(|path| self.get(path)).collect()
    }

    /// The bytes of `ranges` of the file at `path`, in their order; `None` if there is no such file. `Corrupt` if the
    /// file ends before a range does. Where a read costs a request, those that lie near each other are joined.
    fn get_ranges(&self, path: &str, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>>;

    /// Begins to read ranges of several files, without waiting for them; `None` where reading waits for nobody.
    fn read_ahead(&self, _: Vec<Wanted>) -> Result<Option<Box<dyn Held>>> {
        Ok(None)
    }

    /// Notes how long the file at `path` has to be, whose length then need not be asked for: reading it fails where it is not.
    /// False where looking costs nothing, and nothing was noted.
    fn expect(&self, _: &str, _: u64) -> bool {
        false
    }

    /// Opens the file at `path`; `None` if there is none.
    fn file(&self, path: &str) -> Result<Option<Arc<dyn File>>>;

    /// Names of the folders directly below `path`, sorted. Plain HTTP cannot list.
    fn list_folders(&self, path: &str) -> Result<Vec<String>>;

    /// Whether files can be listed: an error of a list is then one.
    fn can_list(&self) -> bool {
        true
    }

    /// The paths and sizes of all files below `path`, at any depth. Plain HTTP cannot list.
    fn list_files(&self, path: &str) -> Result<Vec<(String, u64)>>;

    /// The bytes of all files below `path` together. Plain HTTP cannot list.
    fn total_size(&self, path: &str) -> Result<u64> {
        Ok(self.list_files(path)?.iter().map(|(_, size)| size).sum())
    }

    /// When the file at `path` was written last, by the clock of whoever keeps it: a server, or this machine. `None` if there
    /// is none, or nobody knows.
    fn modified(&self, _: &str) -> Result<Option<SystemTime>> {
        Ok(None)
    }

    /// The folder on this machine, where the root is one.
    fn local_root(&self) -> Option<&Path> {
        None
    }

    /// Begins the file at `path`, in the place of one that is there, and makes the folders above it.
    ///
    /// # Errors
    /// `Value` for a root that is not written to.
    fn create(&self, _path: &str) -> Result<Box<dyn NewFile>> {
        Err(not_writable(self.uri()))
    }

    /// Puts a small file to `path` if none is there, whole or not at all, and lasting when this returns; false if there is
    /// one. Of several who try at once one alone gets true.
    ///
    /// # Errors
    /// As [`Storage::create`].
    fn put_new(&self, _: &str, _: &[u8]) -> Result<bool> {
        Err(not_writable(self.uri()))
    }

    /// Puts a small file to `path`, whole, in the place of one that is there. It may be lost when the machine fails.
    ///
    /// # Errors
    /// As [`Storage::create`].
    fn replace(&self, _: &str, _: &[u8]) -> Result<()> {
        Err(not_writable(self.uri()))
    }

    /// Removes the file at `path`; it is no error if there is none.
    ///
    /// # Errors
    /// As [`Storage::create`].
    fn remove(&self, _: &str) -> Result<()> {
        Err(not_writable(self.uri()))
    }

    /// Removes the files at these paths, as [`Storage::remove`] does.
    ///
    /// # Errors
    /// As [`Storage::create`]; some may be gone then.
    fn remove_files(&self, paths: &[String]) -> Result<()> {
        paths.iter().try_for_each(|path| self.remove(path))
    }

    /// Removes all files below `path`, and the folder.
    ///
    /// # Errors
    /// As [`Storage::create`].
    fn remove_folder(&self, path: &str) -> Result<()> {
        self.list_files(path)?.iter().try_for_each(|(file, _)| self.remove(file))
    }

    /// Makes that the file at `path`, which another wrote, lasts when the machine fails.
    ///
    /// # Errors
    /// As [`Storage::create`].
    fn sync_file(&self, _path: &str) -> Result<()> {
        Ok(())
    }

    /// Makes that the names of all files below `path`, and `path` itself, last when the machine fails.
    ///
    /// # Errors
    /// As [`Storage::create`].
    fn sync(&self, _: &str) -> Result<()> {
        Ok(())
    }
}

/// A file that is written piece by piece. One that is not finished may be there in part, or not at all.
pub trait NewFile: Send + Sync + std::fmt::Debug {
    /// Appends bytes.
    ///
    /// # Errors
    /// `Io`, such as for a full disk.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Ends the file. It is lasting once what this returns says so, which may be asked later, beside other work.
    ///
    /// # Errors
    /// As [`NewFile::write`].
    fn finish(self: Box<Self>) -> Result<Lasting>;
}

/// What waits until a file that was written is there to stay. Dropped, the file may stay or not.
pub type Lasting = Option<Flushing>;

/// Waits until a file is there to stay; has the error of what was not written.
pub type Flushing = Box<dyn FnOnce() -> Result<()> + Send>;

/// The error for a root that is not written to.
pub fn not_writable(uri: &str) -> DaoError {
    DaoError::value(format!("cannot write to '{}'", shown(uri)))
        .expected("a folder on this machine, or an address of s3://, gs:// or az://")
        .hint("write the store to one of these and copy it there, versions/ last")
}

/// An open file: random reads without opening it again.
///
/// A local one keeps a file descriptor until it is dropped, unless too many are kept.
pub trait File: Send + Sync {
    /// The file's length in bytes, when it was opened.
    fn len(&self) -> u64;

    /// Whether the file had no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `into` with the file's bytes from `offset`. After an error `into` may hold anything.
    ///
    /// # Errors
    /// `Corrupt` if the file ends before that (also if it shrank since), `Io` if reading fails.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()>;

    /// Whether small reads are cheap. Where they are not (a request each), callers join ranges
    /// and use [`Storage::get_ranges`].
    fn random_access(&self) -> bool;

    /// Whether small reads of this range are cheap.
    fn has(&self, _: &Range<u64>) -> bool {
        self.random_access()
    }

    /// Tells that a range is about to be read, among others that lie apart.
    fn will_read(&self, _: &Range<u64>) {}
}

/// A file that was read as a whole.
pub struct InMemory {
    pub bytes: Bytes,
    /// Where it came from, for errors.
    pub path: String,
}

impl File for InMemory {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(into.len() as u64);
        check_end("file", &self.path, end, self.len())?;
        // Both lie within the bytes.
        let at = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        into.copy_from_slice(&self.bytes[at(offset)..at(end)]);
        Ok(())
    }

    fn random_access(&self) -> bool {
        true
    }
}

/// Refuses to read a file of `size` bytes up to `end` if it ends before; `what` it is (a file, an object), for errors.
fn check_end(what: &str, uri: impl Display, end: u64, size: u64) -> Result<()> {
    if end <= size {
        return Ok(());
    }
    Err(DaoError::corrupt(&uri.to_string(), format!("{what} is truncated"))
        .expected(format!("at least {end} bytes"))
        .found(format!("{size} bytes"))
        .hint("restore the file or write the dataset again"))
}

/// What `uri` and its options are without secrets in `uri`: user and password of an address become options.
///
/// # Errors
/// `Value` for an address that is malformed or has other secrets.
pub fn split(uri: &str, options: &StorageOptions) -> Result<(String, StorageOptions)> {
    if is_remote(uri) { remote::secrets::split(uri, options) } else { Ok((uri.to_owned(), options.clone())) }
}

/// `uri` as errors may show it.
#[must_use]
pub fn shown(uri: &str) -> String {
    if is_remote(uri) { remote::secrets::shown(uri) } else { uri.to_owned() }
}

/// Whether `uri` is an address, and no path.
#[must_use]
pub fn is_remote(uri: &str) -> bool {
    // One letter before it is a drive of Windows.
    uri.find("://").is_some_and(|at| !(cfg!(windows) && at == 1)) && !uri.starts_with("file://")
}

/// Opens the root that `uri` names: a path (which need not exist), `file://`, `s3://`, `gs://`, `az://`, `http(s)://`, `hf://`.
///
/// # Errors
/// `Value` for a scheme or options that cannot be used.
pub fn open(uri: &str, options: &StorageOptions) -> Result<Arc<dyn Storage>> {
    if is_remote(uri) {
        return Ok(Arc::new(remote::Remote::new(uri, options)?));
    }
    Ok(Arc::new(Local::new(Path::new(local_path(uri)))?))
}

/// The path that a URI of this machine names: on Windows a drive follows the third slash.
fn local_path(uri: &str) -> &str {
    let path = uri.strip_prefix("file://").unwrap_or(uri);
    match path.strip_prefix('/') {
        Some(drive) if cfg!(windows) && path.len() < uri.len() && drive.get(1..2) == Some(":") => drive,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn paths_and_urls_are_opened_alike() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "abc").unwrap();
        let path = folder.path().to_str().unwrap();
        let slashed = path.replace('\\', "/");
        let root = slashed.strip_prefix('/').unwrap_or(&slashed);
        for uri in [path.to_owned(), format!("file:///{root}")] {
            let storage = open(&uri, &Vec::new()).unwrap();
            assert_eq!(storage.get("a").unwrap().unwrap(), "abc");
            assert!(storage.get("b").unwrap().is_none() && storage.local_root().is_some());
        }
        assert!(open("/there/is/no/such/folder", &Vec::new()).is_ok());
        let error = open("ftp://host/store", &Vec::new()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().contains("cannot open 'ftp://host/store'"), "{error}");
    }
}
