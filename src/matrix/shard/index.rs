//! Shard indexes: which bytes of a shard are which inner chunk.
//!
//! Owns reading, checking and keeping them. Knows no values: what the bytes hold is
//! [`crate::matrix::array`]'s. <https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html>

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use moka::sync::Cache;
use zarrs::array::codec::CodecChain;
use zarrs::array::{
    ArrayBytes, ArrayToBytesCodecTraits, BytesRepresentation, ChunkShape, CodecOptions, FillValue, data_type,
};
use zarrs::metadata_ext::codec::sharding::{ShardingCodecConfigurationV1, ShardingIndexLocation};

use super::ShardTag;
use crate::error::{DaoError, Result};
use crate::matrix::array::missing_file;
use crate::storage::Storage;

/// The byte range of an inner chunk in its shard; `None` where the shard leaves it out (all fill value).
pub type ChunkRange = Option<Range<u64>>;

/// The most bytes of shard indexes that an array keeps: metadata may claim any number of shards.
const KEPT_BYTES: u64 = 64 << 20;

/// The shard indexes of one array.
pub struct ShardIndexes {
    codecs: CodecChain,
    shape: ChunkShape,
    /// The bytes of an encoded index.
    encoded_len: u64,
    at_end: bool,
    tag: Option<ShardTag>,
    options: CodecOptions,
    /// The indexes by the grid position of the shard.
    kept: OnceLock<Cache<Vec<u64>, Arc<Vec<ChunkRange>>>>,
}

impl ShardIndexes {
    /// The indexes of shards of `per_shard` inner chunks along each axis; or why the configuration cannot be used.
    pub fn new(
        sharding: &ShardingCodecConfigurationV1,
        per_shard: &[u64],
        tag: Option<ShardTag>,
        options: CodecOptions,
    ) -> std::result::Result<Self, String> {
        let codecs = CodecChain::from_metadata(&sharding.index_codecs).map_err(|e| e.to_string())?;
        let shape: Option<ChunkShape> = per_shard.iter().chain(&[2]).map(|&n| std::num::NonZeroU64::new(n)).collect();
        let shape = shape.ok_or("its inner chunks are larger than its shards")?;
        let BytesRepresentation::FixedSize(encoded_len) = codecs
            .encoded_representation(&shape, &data_type::uint64(), &FillValue::from(u64::MAX))
            .map_err(|e| e.to_string())?
        else {
            return Err("its shard index is compressed".to_owned());
        };
        let at_end = matches!(sharding.index_location, ShardingIndexLocation::End);
        if tag.is_some() && !at_end {
            return Err("its shards have tags and no index at their end".to_owned());
        }
        Ok(Self { codecs, shape, encoded_len, at_end, tag, options, kept: OnceLock::new() })
    }

    /// The index of the shard at a grid position, whose file is `key`, read once as long as it is kept.
    pub fn get(&self, storage: &dyn Storage, key: &str, position: &[u64]) -> Result<Arc<Vec<ChunkRange>>> {
        // An empty one takes 18 KB: of an array whose shards are kept by others there is none.
        let kept = self.kept.get_or_init(|| Cache::builder().max_capacity(KEPT_BYTES).weigher(weight).build());
        if let Some(index) = kept.get(position) {
            return Ok(index);
        }
        let index = Arc::new(self.read(storage, key, position)?);
        kept.insert(position.to_vec(), index.clone());
        Ok(index)
    }

    /// Reads the index of the shard at a grid position, whose file is `key`. `NotFound` for a missing shard; `Corrupt`
    /// for one that is truncated, or another, or whose index fails its checksum or points outside the file.
    pub fn read(&self, storage: &dyn Storage, key: &str, position: &[u64]) -> Result<Vec<ChunkRange>> {
        let path = format!("{}/{key}", storage.uri());
        let broken = |e: &dyn std::fmt::Display| {
            DaoError::corrupt(&path, format!("the shard's index cannot be read: {e}"))
                .hint("the file is truncated or changed; restore it from a copy, or write the dataset again")
        };
        let missing = || missing_file(storage, key, "a shard is missing");
        let size = storage.size(key)?.ok_or_else(missing)?;
        // Tagged arrays are cut along their first axis alone.
        let tag = self.tag.map(|tag| tag.bytes(position.first().copied().unwrap_or(0)));
        let tag = tag.as_ref().map_or(&[][..], |tag| tag);
        let length = self.encoded_len.saturating_add(tag.len() as u64);
        if size < length {
            return Err(broken(&format!("expected at least {length} bytes, found {size}")));
        }
        let range = if self.at_end { size - length..size } else { 0..length };
        let read = storage.get_ranges(key, &[range])?.ok_or_else(missing)?;
        let (found, bytes) = read.first().and_then(|bytes| bytes.split_at_checked(tag.len())).ok_or_else(missing)?;
        let decoded = self
            .codecs
            .decode(Cow::Borrowed(bytes), &self.shape, &data_type::uint64(), &FillValue::from(u64::MAX), &self.options)
            .map_err(|e| broken(&e))?;
        let ArrayBytes::Fixed(raw) = decoded else { return Err(broken(&"it does not hold numbers")) };
        if found != tag {
            return Err(DaoError::corrupt(&path, "not the shard that belongs here")
                .expected(format!("tag {}", hex(tag)))
                .found(hex(found))
                .hint("it is of another array, or changed; restore it from a copy, or write the dataset again"));
        }
        // Offset and length of each inner chunk; both all ones where it is left out.
        bytemuck::pod_collect_to_vec::<u8, u64>(&raw)
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&[offset, length]| match offset.checked_add(length) {
                _ if offset == u64::MAX && length == u64::MAX => Ok(None),
                Some(end) if end <= size => Ok(Some(offset..end)),
                _ => Err(broken(&format!("it points to {length} bytes from {offset} of a file of {size}"))),
            })
            .collect()
    }
}

/// The bytes of a kept index.
#[expect(clippy::ptr_arg, reason = "what the cache calls it with")]
fn weight(position: &Vec<u64>, index: &Arc<Vec<ChunkRange>>) -> u32 {
    let bytes = 8 * position.len() + size_of::<ChunkRange>() * index.len();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::checksum::crc32c;
    use crate::error::ErrorKind;
    use crate::matrix::testing::{assert_says, damage, storage};

    fn indexes(location: &str, per_shard: &[u64], more: Value) -> std::result::Result<ShardIndexes, String> {
        tagged(location, per_shard, more, None)
    }

    fn tagged(
        location: &str,
        per_shard: &[u64],
        more: Value,
        tag: Option<ShardTag>,
    ) -> std::result::Result<ShardIndexes, String> {
        let little = json!({"name": "bytes", "configuration": {"endian": "little"}});
        let mut index_codecs = vec![little.clone(), json!({"name": "crc32c"})];
        index_codecs.extend(more.as_array().cloned().unwrap_or_default());
        let sharding = json!({
            "chunk_shape": [4], "codecs": [little], "index_codecs": index_codecs, "index_location": location,
        });
        ShardIndexes::new(&serde_json::from_value(sharding).unwrap(), per_shard, tag, CodecOptions::default())
    }

    /// A shard of eleven bytes and an index of these ranges, by offset and length.
    fn shard(ranges: &[[u64; 2]], at_end: bool) -> Vec<u8> {
        let mut index: Vec<u8> = ranges.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        index.extend(crc32c(&index).to_le_bytes());
        if at_end { [b"hello world".to_vec(), index].concat() } else { [index, b"hello world".to_vec()].concat() }
    }

    const ABSENT: [u64; 2] = [u64::MAX; 2];

    #[test]
    fn an_index_says_where_chunks_are() {
        let folder = tempfile::tempdir().unwrap();
        for at_end in [true, false] {
            let indexes = indexes(if at_end { "end" } else { "start" }, &[2, 2], Value::Null).unwrap();
            std::fs::write(folder.path().join("0"), shard(&[[6, 5], ABSENT, [0, 6], [11, 0]], at_end)).unwrap();
            let index = indexes.get(storage(folder.path()).as_ref(), "0", &[0, 1]).unwrap();
            assert_eq!(*index, [Some(6..11), None, Some(0..6), Some(11..11)]);
            // It is kept: the file is not read again.
            std::fs::remove_file(folder.path().join("0")).unwrap();
            let again = indexes.get(storage(folder.path()).as_ref(), "0", &[0, 1]).unwrap();
            assert!(Arc::ptr_eq(&index, &again));
            let missing = indexes.get(storage(folder.path()).as_ref(), "0", &[1, 0]).unwrap_err();
            assert_says(&missing, ErrorKind::NotFound, folder.path(), "a shard is missing");
        }
    }

    #[test]
    fn a_damaged_index_is_an_error_that_names_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(folder.path().join("0"), bytes).unwrap();
            indexes("end", &[2], Value::Null).unwrap().read(storage(folder.path()).as_ref(), "0", &[0])
        };
        let whole = shard(&[[0, 5], [6, 5]], true);
        assert_eq!(read(&whole).unwrap(), [Some(0..5), Some(6..11)]);
        // Whatever byte of the index is changed, and wherever the file is cut.
        for at in 11..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            assert_says(&read(&changed).unwrap_err(), ErrorKind::Corrupt, folder.path(), "index cannot be read");
            let cut = read(&whole[..at]).unwrap_err();
            assert_says(&cut, ErrorKind::Corrupt, folder.path(), "index cannot be read");
        }
        let short = read(&whole[..30]).unwrap_err();
        assert_says(&short, ErrorKind::Corrupt, folder.path(), "expected at least 36 bytes, found 30");
        // Checksums that hold do not help: past the end, and past what 64 bits count.
        for range in [[40, 8], [u64::MAX - 1, 4], [u64::MAX, 3], [3, u64::MAX]] {
            let error = read(&shard(&[[0, 5], range], true)).unwrap_err();
            assert_says(&error, ErrorKind::Corrupt, folder.path(), "of a file of 47");
        }
        damage(&folder.path().join("0"), Vec::clear);
        assert!(indexes("end", &[2], Value::Null).unwrap().read(storage(folder.path()).as_ref(), "0", &[0]).is_err());
    }

    #[test]
    fn a_shard_of_another_array_or_place_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (tag, other) = (ShardTag::new(), ShardTag::new());
        let whole = shard(&[[0, 5], [6, 5]], true);
        let read = |bytes: &[u8]| {
            let bytes = [&whole[..11], bytes, &whole[11..]].concat();
            std::fs::write(folder.path().join("0"), bytes).unwrap();
            let indexes = tagged("end", &[2], Value::Null, Some(tag)).unwrap();
            indexes.read(storage(folder.path()).as_ref(), "0", &[3])
        };
        assert_eq!(read(&tag.bytes(3)).unwrap(), [Some(0..5), Some(6..11)]);
        for wrong in [tag.bytes(2), other.bytes(3), [0; 16]] {
            assert_says(
                &read(&wrong).unwrap_err(),
                ErrorKind::Corrupt,
                folder.path(),
                "not the shard that belongs here",
            );
        }
        assert!(tagged("start", &[2], Value::Null, Some(tag)).is_err());
    }

    #[test]
    fn indexes_of_no_fixed_length_are_refused() {
        let compressed = indexes("end", &[2], json!([{"name": "gzip", "configuration": {"level": 1}}]));
        assert!(compressed.err().unwrap().contains("compressed"));
        assert!(indexes("end", &[0], Value::Null).err().unwrap().contains("larger than its shards"));
        assert!(indexes("end", &[2], json!([{"name": "no such codec"}])).is_err());
    }
}
