//! A URL made into bytes: ranges in, bytes out.
//!
//! Owns where bytes live (a folder, S3, GCS, Azure, HTTP). Knows no format:
//! neither zarr nor manifests. Every path is relative to the root, `/`-separated.

mod local;
mod remote;
mod zarr;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
pub use local::Local;
pub use zarr::ZarrStorage;

/// Options for object stores (`aws_region`, `endpoint`, …), as `object_store` and polars name them.
pub type StorageOptions = Vec<(String, String)>;

/// Read access to the files below one root.
pub trait Storage: Send + Sync {
    /// The root: an absolute path, or a URL without a trailing slash.
    fn uri(&self) -> &str;

    /// The size in bytes of the file at `path`; `None` if there is none.
    ///
    /// # Errors
    /// When the layer below fails for any reason but a missing file.
    fn size(&self, path: &str) -> Result<Option<u64>>;

    /// The whole file at `path`; `None` if there is none.
    ///
    /// # Errors
    /// As [`Storage::size`].
    fn get(&self, path: &str) -> Result<Option<Bytes>>;

    /// Byte ranges of the file at `path`, in the order asked for; `None` if there is no such file.
    ///
    /// # Errors
    /// As [`Storage::size`], and `Corrupt` if the file ends before a range does.
    fn get_ranges(&self, path: &str, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>>;

    /// Names of the folders directly below `path`, sorted.
    ///
    /// # Errors
    /// As [`Storage::size`], and where listing is not possible (plain HTTP).
    fn list_folders(&self, path: &str) -> Result<Vec<String>>;

    /// Bytes of all files below `path`.
    ///
    /// # Errors
    /// As [`Storage::list_folders`].
    fn total_size(&self, path: &str) -> Result<u64>;

    /// The folder on this machine, where the root is one.
    fn local_root(&self) -> Option<&Path> {
        None
    }
}

/// Opens the root that `uri` names: a path, `file://`, `s3://`, `gs://`, `az://`, `http(s)://`.
///
/// A path need not exist.
///
/// # Errors
/// `Value` for a scheme or options that cannot be used.
pub fn open(uri: &str, options: &StorageOptions) -> Result<Arc<dyn Storage>> {
    if let Some(path) = uri.strip_prefix("file://") {
        Ok(Arc::new(Local::new(Path::new(path))?))
    } else if uri.contains("://") {
        Ok(Arc::new(remote::Remote::new(uri, options)?))
    } else {
        Ok(Arc::new(Local::new(Path::new(uri))?))
    }
}
