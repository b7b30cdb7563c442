//! [`Storage`] as zarrs wants it: the one adapter between the two.

use std::sync::Arc;

use bytes::Bytes;
use zarrs::storage::byte_range::{ByteRange, ByteRangeIterator};
use zarrs::storage::{MaybeBytes, MaybeBytesIterator, ReadableStorageTraits, StorageError, StoreKey};

use super::Storage;
use crate::error::DaoError;

/// A [`Storage`] that zarrs can open arrays in.
pub struct ZarrStorage(pub Arc<dyn Storage>);

fn failed(error: &DaoError) -> StorageError {
    StorageError::Other(error.to_string())
}

impl ReadableStorageTraits for ZarrStorage {
    fn get(&self, key: &StoreKey) -> Result<MaybeBytes, StorageError> {
        self.0.get(key.as_str()).map_err(|e| failed(&e))
    }

    fn get_partial_many<'a>(
        &'a self,
        key: &StoreKey,
        byte_ranges: ByteRangeIterator<'a>,
    ) -> Result<MaybeBytesIterator<'a>, StorageError> {
        let Some(size) = self.size_key(key)? else { return Ok(None) };
        let ranges: Vec<_> = byte_ranges
            .map(|range| {
                if let ByteRange::Suffix(length) = range
                    && length > size
                {
                    return Err(StorageError::Other(format!(
                        "path '{key}': file is truncated; expected at least {length} bytes, found {size} bytes"
                    )));
                }
                Ok(range.start(size)..range.end(size))
            })
            .collect::<Result<_, _>>()?;
        let Some(parts) = self.0.get_ranges(key.as_str(), &ranges).map_err(|e| failed(&e))? else {
            return Ok(None);
        };
        Ok(Some(Box::new(parts.into_iter().map(Ok::<Bytes, StorageError>))))
    }

    fn size_key(&self, key: &StoreKey) -> Result<Option<u64>, StorageError> {
        self.0.size(key.as_str()).map_err(|e| failed(&e))
    }

    fn supports_get_partial(&self) -> bool {
        true
    }
}
