//! A sharded zarr v3 array, written shard by shard from a stream of values.
//!
//! Inner chunks are in the codec `dao_polars.pfor`, or portable, in core codecs alone: `bytes` →
//! `blosc` (lz4, bit-shuffled) → `crc32c`. The shard's index has a `crc32c` either way, and before it a tag that says
//! which shard of which array it is: see [`ShardTag`].

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use zarrs::array::{Array, ArrayBytes, ArrayMetadata, ArrayToBytesCodecTraits, CodecOptions};

use super::folder::{Folder, make_folder};
use crate::codec::{self, BLOCK, Pfor};
use crate::error::{DaoError, Result};
use crate::matrix::ShardTag;
use crate::number::{Dtype, Num, cast_vec, for_dtype};
use crate::storage::{Local, ZarrStorage};

/// The encoding of inner chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// The codec `dao_polars.pfor`, which decodes block by block: see [`crate::codec`].
    Pfor(Pfor),
    /// Core codecs, which any zarr reader knows.
    Portable,
}

impl Coding {
    /// The coding of values that ascend, mostly, or do not.
    pub fn new(portable: bool, ascending: bool) -> Self {
        if portable { Self::Portable } else { Self::Pfor(Pfor { delta: ascending }) }
    }
}

/// The values of a portable inner chunk: a few rows of a matrix, so that a random row costs little.
const INNER: u64 = 4096;
/// The values of an inner chunk that is read by blocks: as many as another zarr reader may decode for one row.
const INNER_PFOR: u64 = 64 << 10;
/// The values of a shard: large enough for few files, small enough for a buffer in memory.
const SHARD: u64 = 8 << 20;

/// Takes values in C order and writes a shard whenever one is full.
pub struct ArrayWriter {
    folder: Folder,
    array: Array<ZarrStorage>,
    metadata: Value,
    tag: ShardTag,
    /// The bytes of a shard's index.
    index_len: usize,
    dtype: Dtype,
    /// The number of values of a row: 1, or the columns of a matrix.
    width: u64,
    shard_bytes: usize,
    buffer: Vec<u8>,
    shards: u64,
    len: u64,
}

impl ArrayWriter {
    /// An array in the new folder `folder` of about `len_hint` values; with `columns`, two-dimensional.
    pub fn new(folder: Folder, dtype: Dtype, len_hint: u64, columns: Option<u64>, coding: Coding) -> Result<Self> {
        let width = columns.unwrap_or(1).max(1);
        let rows = len_hint.div_ceil(width);
        let inner_rows = match coding {
            Coding::Portable => (INNER / width).max(1),
            // A short array fits into one chunk, without much padding.
            Coding::Pfor(_) => rows.next_multiple_of(BLOCK as u64).clamp(BLOCK as u64, INNER_PFOR),
        };
        let inner_per_shard = rows.div_ceil(inner_rows).clamp(1, (SHARD / (inner_rows * width)).max(1));
        let shard_rows = inner_rows * inner_per_shard;
        let shape_of = |rows: u64| if columns.is_some() { json!([rows, width]) } else { json!([rows]) };
        let little = json!({"name": "bytes", "configuration": {"endian": "little"}});
        let bytes = if dtype.size() == 1 { json!({"name": "bytes"}) } else { little.clone() };
        let codecs = match coding {
            Coding::Pfor(pfor) => json!([{"name": codec::NAME, "configuration": pfor}]),
            Coding::Portable => json!([
                bytes,
                {"name": "blosc", "configuration": {
                    "cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": dtype.size(), "blocksize": 0,
                }},
                {"name": "crc32c"},
            ]),
        };
        let tag = ShardTag::new();
        let metadata = json!({
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape_of(0),
            "data_type": dtype.name(),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape_of(shard_rows)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": if dtype.is_float() { json!(0.0) } else { json!(0) },
            "codecs": [{"name": "sharding_indexed", "configuration": {
                "chunk_shape": shape_of(inner_rows),
                "codecs": codecs,
                "index_codecs": [little, {"name": "crc32c"}],
                "index_location": "end",
            }}],
            "attributes": {"encoding-type": "array", "encoding-version": "0.2.0", ShardTag::ATTRIBUTE: tag},
        });
        folder.make()?;
        let path = folder.path();
        let failed = |e: &dyn Display| failed(&path, "cannot make a zarr array", e);
        let parsed: ArrayMetadata = serde_json::from_value(metadata.clone()).map_err(|e| failed(&e))?;
        let storage = Arc::new(ZarrStorage(Arc::new(Local::new(&path)?)));
        let array = Array::new_with_metadata(storage, "/", parsed).map_err(|e| failed(&e))?;
        let shard_bytes = usize::try_from(shard_rows * width).map_err(|e| failed(&e))? * dtype.size();
        // Offset and length of each inner chunk, and a checksum.
        let index_len = 16 * usize::try_from(inner_per_shard).map_err(|e| failed(&e))? + 4;
        let (buffer, shards, len) = (Vec::new(), 0, 0);
        Ok(Self { folder, array, metadata, tag, index_len, dtype, width, shard_bytes, buffer, shards, len })
    }

    /// Appends values.
    ///
    /// # Errors
    /// `Value` for one that the array's type cannot hold, `Io` if a shard cannot be written.
    pub fn push<S: Num>(&mut self, mut values: &[S]) -> Result<()> {
        let size = self.dtype.size();
        self.len += values.len() as u64;
        while !values.is_empty() {
            let (now, later) = values.split_at(values.len().min((self.shard_bytes - self.buffer.len()) / size));
            for_dtype!(self.dtype, T => {
                self.buffer.extend_from_slice(bytemuck::cast_slice(&cast_vec::<S, T>(now)?));
            });
            values = later;
            if self.buffer.len() == self.shard_bytes {
                self.write_shard()?;
            }
        }
        Ok(())
    }

    /// Writes what is left, and the metadata.
    pub fn finish(mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.buffer.resize(self.shard_bytes, 0);
            self.write_shard()?;
        }
        self.metadata["shape"][0] = json!(self.len / self.width);
        self.folder.write("zarr.json", self.metadata.to_string().as_bytes())
    }

    fn write_shard(&mut self) -> Result<()> {
        let array = &self.array;
        let mut position = vec![0; array.dimensionality()];
        position[0] = self.shards;
        let key = array.chunk_key(&position).as_str().to_owned();
        let path = self.folder.path().join(&key);
        let failed = |e: &dyn Display| failed(&path, "encoding failed", e);
        let shape = array.chunk_shape(&position).map_err(|e| failed(&e))?;
        let (values, options) = (ArrayBytes::new_flen(&self.buffer), CodecOptions::default());
        let encoded = array.codecs().encode(values, &shape, array.data_type(), array.fill_value(), &options);
        let mut encoded = encoded.map_err(|e| failed(&e))?.into_owned();
        let index = encoded.len().saturating_sub(self.index_len);
        encoded.splice(index..index, self.tag.bytes(self.shards));
        path.parent().map_or(Ok(()), make_folder)?;
        // Every shard is written, one of nothing but fill values too: a missing file is then always an error.
        self.folder.write(&key, &encoded)?;
        self.buffer.clear();
        self.shards += 1;
        Ok(())
    }
}

/// Writes an array whose values are all here, one-dimensional.
pub fn write_array<S: Num>(folder: Folder, dtype: Dtype, coding: Coding, values: &[S]) -> Result<()> {
    let mut array = ArrayWriter::new(folder, dtype, values.len() as u64, None, coding)?;
    array.push(values)?;
    array.finish()
}

fn failed(path: &Path, what: &str, e: &dyn Display) -> DaoError {
    DaoError::value(format!("{what}: {e}")).at(format!("path '{}'", path.display()))
}

#[cfg(test)]
mod tests {
    use zarrs::array::ElementOwned;

    use super::*;

    /// The array at `folder`, as zarrs itself reads it.
    fn read<T: ElementOwned>(folder: &Path) -> (Vec<u64>, Vec<T>) {
        let storage = Arc::new(ZarrStorage(Arc::new(Local::new(folder).unwrap())));
        let array = Array::open(storage, "/").unwrap();
        let values = array.retrieve_array_subset::<Vec<T>>(&array.subset_all()).unwrap();
        (array.shape().to_vec(), values)
    }

    fn shards(folder: &Path) -> usize {
        let axis = folder.join("c");
        axis.read_dir().unwrap().count()
    }

    const CODINGS: [Coding; 3] =
        [Coding::Portable, Coding::Pfor(Pfor { delta: false }), Coding::Pfor(Pfor { delta: true })];

    #[test]
    fn shards_end_where_the_hint_says_and_the_last_may_be_partial() {
        for coding in CODINGS {
            let shard = 4096; // both an inner chunk of the portable coding and a multiple of a block
            for (n, files) in [(1, 1), (shard - 1, 1), (shard, 1), (shard + 1, 2), (3 * shard, 3), (10_000, 3)] {
                let folder = tempfile::tempdir().unwrap();
                let at = folder.path().join("a");
                let values: Vec<u32> = (0..n).map(|i| i * 7).collect();
                let mut writer =
                    ArrayWriter::new(Folder::new(&at), Dtype::U32, u64::from(shard), None, coding).unwrap();
                for block in values.chunks(1000) {
                    writer.push(block).unwrap();
                }
                writer.finish().unwrap();
                assert_eq!(read::<u32>(&at), (vec![u64::from(n)], values), "{coding:?}, {n} values");
                assert_eq!(shards(&at), files, "{coding:?}, {n} values");
            }
        }
    }

    #[test]
    fn nothing_is_an_array_too() {
        for coding in CODINGS {
            let folder = tempfile::tempdir().unwrap();
            let at = folder.path().join("a");
            ArrayWriter::new(Folder::new(&at), Dtype::I64, 0, None, coding).unwrap().finish().unwrap();
            assert_eq!(read::<i64>(&at), (vec![0], Vec::new()));
        }
    }

    #[test]
    fn two_axes_come_back_row_by_row() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("a");
        let (rows, width) = (1_111_u64, 7);
        let values: Vec<f32> = (0..7_777_u16).map(|i| f32::from(i) / 4.0).collect();
        // The hint is a third of the real number, so that several shards come to be.
        let mut writer =
            ArrayWriter::new(Folder::new(&at), Dtype::F32, rows * width / 3, Some(width), Coding::Portable).unwrap();
        for block in values.chunks(100) {
            writer.push(block).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(read::<f32>(&at), (vec![rows, width], values));
        assert_eq!(shards(&at), 2);
    }

    #[test]
    fn values_are_held_against_the_stored_type() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer =
            ArrayWriter::new(Folder::new(&folder.path().join("a")), Dtype::U8, 10, None, Coding::Portable).unwrap();
        writer.push(&[0.0_f32, 255.0]).unwrap();
        for wrong in [0.5_f32, 256.0, -1.0, f32::NAN] {
            assert_eq!(writer.push(&[wrong]).unwrap_err().kind(), crate::error::ErrorKind::Value);
        }
    }

    #[test]
    fn shards_of_zeros_are_written_too() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("a");
        let mut writer =
            ArrayWriter::new(Folder::new(&at), Dtype::U16, 100, None, Coding::Pfor(Pfor { delta: false })).unwrap();
        writer.push(&[0_u16; 100]).unwrap();
        writer.finish().unwrap();
        assert_eq!(shards(&at), 1);
        assert_eq!(read::<u16>(&at).1, vec![0; 100]);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = ArrayWriter::new(Folder::new(&file.join("a")), Dtype::U8, 1, None, Coding::Portable).err().unwrap();
        assert_eq!(error.kind(), crate::error::ErrorKind::Io);
        assert!(error.to_string().contains("file/a"), "{error}");
    }
}
