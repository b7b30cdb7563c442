//! [`Storage`] as zarrs reads from it: the one adapter between the two.
//! <https://docs.rs/zarrs_storage/latest/zarrs_storage/trait.ReadableStorageTraits.html>

use std::sync::Arc;

use bytes::Bytes;
use zarrs::storage::byte_range::{ByteRange, ByteRangeIterator};
use zarrs::storage::{MaybeBytes, MaybeBytesIterator, ReadableStorageTraits, StorageError, StoreKey};

use super::{Storage, check_end};
use crate::error::DaoError;

/// A [`Storage`] that zarrs can open arrays in.
pub struct ZarrStorage(pub Arc<dyn Storage>);

/// An error of a storage, in the form in which zarrs hands it on.
fn failed(error: DaoError) -> StorageError {
    StorageError::Other(error.to_string())
}

impl ReadableStorageTraits for ZarrStorage {
    fn get(&self, key: &StoreKey) -> Result<MaybeBytes, StorageError> {
        self.0.get(key.as_str()).map_err(failed)
    }

    fn get_partial_many<'a>(
        &'a self,
        key: &StoreKey,
        byte_ranges: ByteRangeIterator<'a>,
    ) -> Result<MaybeBytesIterator<'a>, StorageError> {
        let Some(size) = self.size_key(key)? else { return Ok(None) };
        let mut ranges = Vec::new();
        for range in byte_ranges {
            if let ByteRange::Suffix(length) = range {
                check_end("file", key, length, size).map_err(failed)?;
            }
            ranges.push(range.start(size)..range.end(size));
        }
        let parts = self.0.get_ranges(key.as_str(), &ranges).map_err(failed)?;
        Ok(parts.map(|parts| Box::new(parts.into_iter().map(Ok::<Bytes, StorageError>)) as _))
    }

    fn size_key(&self, key: &StoreKey) -> Result<Option<u64>, StorageError> {
        self.0.size(key.as_str()).map_err(failed)
    }

    fn supports_get_partial(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Local;

    fn zarr(folder: &std::path::Path) -> ZarrStorage {
        ZarrStorage(Arc::new(Local::new(folder).unwrap()))
    }

    #[test]
    fn files_are_read_whole_and_by_range() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "abcdef").unwrap();
        let (zarr, key) = (zarr(folder.path()), StoreKey::new("a").unwrap());
        let none = StoreKey::new("none").unwrap();
        assert_eq!(zarr.get(&key).unwrap().unwrap(), "abcdef");
        assert!(zarr.get(&none).unwrap().is_none() && zarr.size_key(&none).unwrap().is_none());
        assert_eq!(zarr.size_key(&key).unwrap(), Some(6));
        let ranges = [ByteRange::FromStart(1, Some(2)), ByteRange::FromStart(4, None), ByteRange::Suffix(3)];
        let parts = zarr.get_partial_many(&key, Box::new(ranges.into_iter())).unwrap().unwrap();
        assert_eq!(parts.collect::<Result<Vec<_>, _>>().unwrap(), ["bc", "ef", "def"]);
        assert!(zarr.get_partial_many(&none, Box::new(ranges.into_iter())).unwrap().is_none());
    }

    #[test]
    fn ranges_past_the_end_are_errors_that_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "abc").unwrap();
        let (zarr, key) = (zarr(folder.path()), StoreKey::new("a").unwrap());
        for range in [ByteRange::Suffix(4), ByteRange::FromStart(2, Some(2))] {
            let error = zarr.get_partial_many(&key, Box::new(std::iter::once(range))).err().unwrap().to_string();
            assert!(error.contains("a'") && error.contains("truncated"), "{error}");
        }
    }
}
