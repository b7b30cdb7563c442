//! The tag of a shard: which array it is of, and which of its shards it is.
//!
//! Checksums say that the bytes of a shard are as they were written, not that they belong here: without a tag, shards
//! of two parts of one shape could be swapped unseen. It is the array's id and the shard's number, each a
//! little-endian `u64`, right before the shard's index; other zarr readers follow the index and do not see it. The id is
//! random, and an attribute of the array: 16 hex digits. Arrays that others wrote have none.

use serde::{Serialize, Serializer};
use uuid::Uuid;

/// The tag of an array's shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardTag(u64);

impl ShardTag {
    /// The attribute of the array that holds the id.
    pub const ATTRIBUTE: &str = "dao_polars.shard_tag";
    /// The bytes of a tag.
    pub const LEN: usize = 16;

    /// The tag of a new array.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        Self(Uuid::new_v4().as_u64_pair().0)
    }

    /// The tag that an array's attributes name, if they do; or why they cannot be used.
    pub fn of(attributes: &serde_json::Map<String, serde_json::Value>) -> Result<Option<Self>, String> {
        let Some(value) = attributes.get(Self::ATTRIBUTE) else { return Ok(None) };
        let digits = value
            .as_str()
            .filter(|text| text.len() == 16 && !text.starts_with('+'))
            .and_then(|text| u64::from_str_radix(text, 16).ok());
        digits.map(|id| Some(Self(id))).ok_or_else(|| format!("its {} is not 16 hex digits: {value}", Self::ATTRIBUTE))
    }

    /// The tag of the shard `number`.
    pub fn bytes(self, number: u64) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        bytes[8..].copy_from_slice(&number.to_le_bytes());
        bytes
    }
}

impl Serialize for ShardTag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn a_tag_comes_back_from_attributes() {
        let tag = ShardTag::new();
        let attributes = |value| Map::from_iter([(ShardTag::ATTRIBUTE.to_owned(), value)]);
        assert_eq!(ShardTag::of(&attributes(json!(tag))), Ok(Some(tag)));
        assert_eq!(ShardTag::of(&Map::new()), Ok(None));
        for wrong in [json!(7), json!("12"), json!("+123456789abcdef"), json!(null)] {
            assert!(ShardTag::of(&attributes(wrong)).is_err());
        }
        assert_ne!(tag.bytes(0), tag.bytes(1));
        assert_ne!(tag.bytes(0), ShardTag::new().bytes(0));
    }
}
