//! Shards of zarr arrays, but for what is in their inner chunks: the index and the tag.
//!
//! Owns which bytes of a shard are which inner chunk, and that a shard is the one that belongs in its place. Must not
//! know values, nor codecs other than the index's own.

mod index;
mod tag;

pub use index::{ChunkRange, ShardIndexes};
pub use tag::ShardTag;
