//! A sharded zarr v3 array, written shard by shard from a stream of values.
//!
//! Inner chunks are in the codec `dao_polars.pfor`, or portable, in core codecs alone: `bytes` →
//! `blosc` (lz4, bit-shuffled) → `crc32c`. The shard's index has a `crc32c` either way, and before it a tag that says
//! which shard of which array it is: see [`ShardTag`].

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use num_traits::Zero;
use serde_json::{Value, json};
use zarrs::array::{Array, ArrayBytes, ArrayMetadata, ArrayToBytesCodecTraits, CodecOptions};

use super::folder::{Folder, ListedFile};
use super::parallel;
use crate::checksum::crc32c;
use crate::codec::{self, BLOCK, Pfor};
use crate::error::{DaoError, Result};
use crate::matrix::ShardTag;
use crate::number::{Dtype, Num, Values, cast_values, for_dtype, for_dtype_values, resize};
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
/// The bytes of a shard's values before they are encoded, and the most values: few files, of 50 to 150 MB for counts.
const SHARD_BYTES: u64 = 256 << 20;
const SHARD: u64 = 128 << 20;
/// The most inner chunks of a shard. Readers read its index whole: 16 bytes a chunk.
const MAX_CHUNKS: u64 = 8192;
/// The values that are cast at a time.
const STEP: usize = 4 << 20;

/// Takes values in C order. Inner chunks are encoded as they become full, many at once, and appended to their shard.
pub struct ArrayWriter {
    folder: Folder,
    metadata: Value,
    tag: ShardTag,
    coding: Coding,
    /// An array of one inner chunk, for the codecs of portable ones.
    inner: Array<ZarrStorage>,
    dtype: Dtype,
    /// The number of values of a row: 1, or the columns of a matrix.
    width: u64,
    two_axes: bool,
    /// The values of an inner chunk.
    chunk_len: usize,
    /// The inner chunks of a shard.
    per_shard: usize,
    /// Values that are not written yet: the first `filled`; what is behind them is room.
    buffer: Values,
    filled: usize,
    /// The shard that is being written.
    shard: Option<Shard>,
    shards: u64,
    len: u64,
}

/// A shard that is being written.
struct Shard {
    file: ListedFile,
    /// Offset and length of each inner chunk so far.
    index: Vec<[u64; 2]>,
}

/// What the index says of an inner chunk that is left out, as all its values are zero.
const LEFT_OUT: [u64; 2] = [u64::MAX; 2];

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
        let shard = (SHARD_BYTES / dtype.size() as u64).min(SHARD);
        let most = (shard / (inner_rows * width)).clamp(1, MAX_CHUNKS);
        let inner_per_shard = rows.div_ceil(inner_rows).clamp(1, most);
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
        let metadata = |chunk_rows: u64, codecs: &Value| {
            json!({
                "zarr_format": 3,
                "node_type": "array",
                "shape": shape_of(0),
                "data_type": dtype.name(),
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape_of(chunk_rows)}},
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": if dtype.is_float() { json!(0.0) } else { json!(0) },
                "codecs": codecs,
                "attributes": {"encoding-type": "array", "encoding-version": "0.2.0", ShardTag::ATTRIBUTE: tag},
            })
        };
        let sharding = json!([{"name": "sharding_indexed", "configuration": {
            "chunk_shape": shape_of(inner_rows),
            "codecs": codecs,
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }}]);
        let path = folder.place();
        let failed = |e: &dyn Display| failed(&path, "cannot make a zarr array", e);
        let parsed: ArrayMetadata = serde_json::from_value(metadata(inner_rows, &codecs)).map_err(|e| failed(&e))?;
        let storage = Arc::new(ZarrStorage(Arc::new(Local::new(&path)?)));
        let inner = Array::new_with_metadata(storage, "/", parsed).map_err(|e| failed(&e))?;
        Ok(Self {
            metadata: metadata(inner_rows * inner_per_shard, &sharding),
            tag,
            coding,
            inner,
            dtype,
            width,
            two_axes: columns.is_some(),
            chunk_len: usize::try_from(inner_rows * width).map_err(|e| failed(&e))?,
            per_shard: usize::try_from(inner_per_shard).map_err(|e| failed(&e))?,
            buffer: for_dtype!(dtype, T => T::wrap(Vec::new())),
            filled: 0,
            shard: None,
            shards: 0,
            len: 0,
            folder,
        })
    }

    /// The type of the array's values.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Room for the next `n` values, of the array's type `T`, with anything in it. [`ArrayWriter::take`] takes them.
    pub fn room<T: Num>(&mut self, n: usize) -> Result<&mut [T]> {
        let end = self.filled + n;
        for_dtype_values!(&mut self.buffer, values => {
            if values.len() < end {
                resize(values, end)?;
            }
            let room = bytemuck::try_cast_slice_mut(&mut values[self.filled..end]);
            room.map_err(|_| DaoError::internal("room of another type"))
        })
    }

    /// Takes the first `n` values of the room that was given last.
    pub fn take(&mut self, n: usize) {
        self.filled += n;
        self.len += n as u64;
    }

    /// Appends values.
    ///
    /// # Errors
    /// `Value` for one that the array's type cannot hold, `Io` if a shard cannot be written.
    pub fn push<S: Num>(&mut self, values: &[S]) -> Result<()> {
        for values in values.chunks(STEP) {
            for_dtype!(self.dtype, T => cast_values(values, self.room::<T>(values.len())?)?);
            self.take(values.len());
            Self::write_full(&mut [self])?;
        }
        Ok(())
    }

    /// Encodes and writes all full inner chunks that `arrays` have taken, on all cores.
    ///
    /// # Errors
    /// `Io` if a shard cannot be written.
    pub fn write_full(arrays: &mut [&mut Self]) -> Result<()> {
        let chunks_of = |array: &Self| {
            let len = array.chunk_len;
            (0..array.filled / len).map(move |chunk| chunk * len..(chunk + 1) * len)
        };
        let jobs = arrays.iter().enumerate().flat_map(|(i, array)| chunks_of(array).map(move |values| (i, values)));
        let encoded = parallel::each(jobs.collect(), |(i, values)| Ok((i, arrays[i].encode(values)?)))?;
        for (i, chunk) in encoded {
            arrays[i].append(chunk.as_deref())?;
        }
        for array in arrays {
            let written = array.filled - array.filled % array.chunk_len;
            for_dtype_values!(&mut array.buffer, values => values.copy_within(written..array.filled, 0));
            array.filled -= written;
        }
        Ok(())
    }

    /// Writes what is left, and the metadata.
    pub fn finish(mut self) -> Result<()> {
        Self::write_full(&mut [&mut self])?;
        if self.filled > 0 {
            // The last chunk is filled up.
            let rest = self.chunk_len - self.filled;
            for_dtype!(self.dtype, T => self.room::<T>(rest)?.fill(<T as Zero>::zero()));
            self.filled = self.chunk_len;
            Self::write_full(&mut [&mut self])?;
        }
        self.finish_shard()?;
        self.metadata["shape"][0] = json!(self.len / self.width);
        self.folder.write("zarr.json", self.metadata.to_string().as_bytes())
    }

    /// An inner chunk; `None` where all its values are zero, which is the fill value.
    fn encode(&self, range: Range<usize>) -> Result<Option<Vec<u8>>> {
        let failed = |e: &dyn Display| failed(&self.folder.place(), "encoding failed", e);
        for_dtype_values!(&self.buffer, values => {
            let bytes: &[u8] = bytemuck::cast_slice(&values[range.clone()]);
            if bytes.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            if let Coding::Pfor(pfor) = self.coding {
                return encode_pfor(&values[range], pfor).map(Some).map_err(|e| failed(&e));
            }
            let array = &self.inner;
            let shape = array.chunk_shape(&vec![0; array.dimensionality()]).map_err(|e| failed(&e))?;
            let (values, options) = (ArrayBytes::new_flen(bytes), CodecOptions::default());
            let encoded = array.codecs().encode(values, &shape, array.data_type(), array.fill_value(), &options);
            encoded.map(|bytes| Some(bytes.into_owned())).map_err(|e| failed(&e))
        })
    }

    /// Appends the next inner chunk to its shard.
    fn append(&mut self, chunk: Option<&[u8]>) -> Result<()> {
        let shard = match &mut self.shard {
            Some(shard) => shard,
            none => {
                let name = format!("c/{}{}", self.shards, if self.two_axes { "/0" } else { "" });
                none.insert(Shard { file: self.folder.begin(&name)?, index: Vec::new() })
            }
        };
        let place = chunk.map_or(LEFT_OUT, |chunk| [shard.file.size(), chunk.len() as u64]);
        shard.index.push(place);
        if let Some(chunk) = chunk {
            if matches!(self.coding, Coding::Pfor(_)) {
                shard.file.note_piece(&chunk[..codec::directory_len(self.chunk_len).min(chunk.len())]);
            }
            shard.file.write(chunk)?;
        }
        if shard.index.len() == self.per_shard { self.finish_shard() } else { Ok(()) }
    }

    /// Ends the shard that is being written, if there is one. Every shard has a file, one of nothing but fill values
    /// too: a missing file is then always an error.
    fn finish_shard(&mut self) -> Result<()> {
        let Some(Shard { mut file, mut index }) = self.shard.take() else { return Ok(()) };
        index.resize(self.per_shard, LEFT_OUT);
        let mut end = self.tag.bytes(self.shards).to_vec();
        let start = end.len();
        end.extend(index.iter().flatten().flat_map(|number| number.to_le_bytes()));
        end.extend(crc32c(&end[start..]).to_le_bytes());
        file.write_end(&end)?;
        self.shards += 1;
        file.finish()
    }
}

fn encode_pfor<T: Num>(values: &[T], pfor: Pfor) -> std::result::Result<Vec<u8>, codec::Broken> {
    codec::encode::<T::Word>(bytemuck::cast_slice(values), pfor.kind(T::DTYPE))
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

    /// The folder of a new array.
    fn folder_at(path: &Path) -> Folder {
        let (root, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
        Folder::new(Arc::new(Local::new(root).unwrap()), name).unwrap()
    }

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
                let mut writer = ArrayWriter::new(folder_at(&at), Dtype::U32, u64::from(shard), None, coding).unwrap();
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
            ArrayWriter::new(folder_at(&at), Dtype::I64, 0, None, coding).unwrap().finish().unwrap();
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
            ArrayWriter::new(folder_at(&at), Dtype::F32, rows * width / 3, Some(width), Coding::Portable).unwrap();
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
            ArrayWriter::new(folder_at(&folder.path().join("a")), Dtype::U8, 10, None, Coding::Portable).unwrap();
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
            ArrayWriter::new(folder_at(&at), Dtype::U16, 100, None, Coding::Pfor(Pfor { delta: false })).unwrap();
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
        let mut writer = ArrayWriter::new(folder_at(&file.join("a")), Dtype::U8, 1, None, Coding::Portable).unwrap();
        writer.push(&[1_u8]).unwrap();
        let error = writer.finish().unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Io);
        assert!(error.to_string().contains("file/a"), "{error}");
    }
}
