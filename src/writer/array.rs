//! A sharded zarr v3 array, written shard by shard from a stream of values.
//!
//! Inner chunks are in the codec `dao_polars.pfor`, or portable, in core codecs alone: `bytes` →
//! `blosc` (lz4, bit-shuffled) → `crc32c`. The shard's index has a `crc32c` either way.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use zarrs::array::{Array, ArrayBytes, ArrayMetadata, ArrayToBytesCodecTraits, CodecOptions};

use crate::codec::{self, BLOCK, Pfor};
use crate::error::{DaoError, Result};
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

/// The values of a portable inner chunk: a few rows of a matrix, so that a random row costs little.
const INNER: u64 = 4096;
/// The values of an inner chunk that is read by blocks: as many as another zarr reader may decode for one row.
const INNER_PFOR: u64 = 64 << 10;
/// The values of a shard: large enough for few files, small enough for a buffer in memory.
const SHARD: u64 = 8 << 20;

/// Takes values in C order and writes a shard whenever one is full.
pub struct ArrayWriter {
    folder: PathBuf,
    array: Array<ZarrStorage>,
    metadata: Value,
    dtype: Dtype,
    /// The number of values of a row: 1, or the columns of a matrix.
    width: u64,
    shard_bytes: usize,
    buffer: Vec<u8>,
    shards: u64,
    len: u64,
    options: CodecOptions,
}

impl ArrayWriter {
    /// An array in the new folder `folder` of about `len_hint` values; with `columns`, two-dimensional.
    ///
    /// # Errors
    /// `Io` if the folder cannot be made.
    pub fn new(folder: &Path, dtype: Dtype, len_hint: u64, columns: Option<u64>, coding: Coding) -> Result<Self> {
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
            "attributes": {"encoding-type": "array", "encoding-version": "0.2.0"},
        });
        make_folder(folder)?;
        let shown = folder.display().to_string();
        let unusable = |e: &dyn std::fmt::Display| {
            DaoError::value(format!("cannot make a zarr array: {e}")).at(format!("path '{shown}'"))
        };
        let parsed: ArrayMetadata = serde_json::from_value(metadata.clone()).map_err(|e| unusable(&e))?;
        let storage = Arc::new(ZarrStorage(Arc::new(Local::new(folder)?)));
        let array = Array::new_with_metadata(storage, "/", parsed).map_err(|e| unusable(&e))?;
        let shard_bytes = usize::try_from(shard_rows * width).map_err(|e| unusable(&e))? * dtype.size();
        Ok(Self {
            folder: folder.to_owned(),
            array,
            metadata,
            dtype,
            width,
            shard_bytes,
            buffer: Vec::new(),
            shards: 0,
            len: 0,
            options: CodecOptions::default(),
        })
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
    ///
    /// # Errors
    /// As [`ArrayWriter::push`].
    pub fn finish(mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.buffer.resize(self.shard_bytes, 0);
            self.write_shard()?;
        }
        self.metadata["shape"][0] = json!(self.len / self.width);
        write_json(&self.folder.join("zarr.json"), &self.metadata)
    }

    fn write_shard(&mut self) -> Result<()> {
        let two_axes = self.metadata["shape"].as_array().is_some_and(|shape| shape.len() == 2);
        let position: Vec<u64> = if two_axes { vec![self.shards, 0] } else { vec![self.shards] };
        let key = self.array.chunk_key(&position);
        let path = self.folder.join(key.as_str());
        let shown = path.display().to_string();
        let failed =
            |e: &dyn std::fmt::Display| DaoError::value(format!("encoding failed: {e}")).at(format!("path '{shown}'"));
        let shape = self.array.chunk_shape(&position).map_err(|e| failed(&e))?;
        let encoded = self
            .array
            .codecs()
            .encode(
                ArrayBytes::new_flen(&self.buffer),
                &shape,
                self.array.data_type(),
                self.array.fill_value(),
                &self.options,
            )
            .map_err(|e| failed(&e))?;
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        // Every shard is written, one of nothing but fill values too: a missing file is then always an error.
        write_file(&path, &encoded)?;
        self.buffer.clear();
        self.shards += 1;
        Ok(())
    }
}

/// Makes a folder and those above it.
///
/// # Errors
/// `Io`.
pub fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| DaoError::io(&folder.display().to_string(), "making the folder", &e))
}

/// Writes a file and flushes it to the disk.
///
/// # Errors
/// `Io`, a full disk among them.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::File::create(path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()
        })
        .map_err(|e| DaoError::io(&path.display().to_string(), "writing", &e))
}

/// Writes JSON.
///
/// # Errors
/// As [`write_file`].
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_file(path, value.to_string().as_bytes())
}

/// Writes the metadata of a zarr group.
///
/// # Errors
/// `Io`.
pub fn write_group(folder: &Path, attributes: &serde_json::Value) -> Result<()> {
    write_json(&folder.join("zarr.json"), &json!({"zarr_format": 3, "node_type": "group", "attributes": attributes}))
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
                let mut writer = ArrayWriter::new(&at, Dtype::U32, u64::from(shard), None, coding).unwrap();
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
            ArrayWriter::new(&at, Dtype::I64, 0, None, coding).unwrap().finish().unwrap();
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
        let mut writer = ArrayWriter::new(&at, Dtype::F32, rows * width / 3, Some(width), Coding::Portable).unwrap();
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
        let mut writer = ArrayWriter::new(&folder.path().join("a"), Dtype::U8, 10, None, Coding::Portable).unwrap();
        writer.push(&[0.0_f32, 255.0]).unwrap();
        for wrong in [0.5_f32, 256.0, -1.0, f32::NAN] {
            assert_eq!(writer.push(&[wrong]).unwrap_err().kind(), crate::error::ErrorKind::Value);
        }
    }

    #[test]
    fn shards_of_zeros_are_written_too() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("a");
        let mut writer = ArrayWriter::new(&at, Dtype::U16, 100, None, Coding::Pfor(Pfor { delta: false })).unwrap();
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
        let error = ArrayWriter::new(&file.join("a"), Dtype::U8, 1, None, Coding::Portable).err().unwrap();
        assert_eq!(error.kind(), crate::error::ErrorKind::Io);
        assert!(error.to_string().contains("file/a"), "{error}");
    }
}
