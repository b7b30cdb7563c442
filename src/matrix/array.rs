//! One zarr array: its metadata, where its inner chunks are stored, and their values.
//!
//! zarrs reads metadata and runs codecs; which bytes are read when is decided here. Knows nothing of
//! rows: [`super::csr`] and [`super::dense`] say which inner chunks they need.
//! <https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html>

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use zarrs::array::codec::{BloscCodec, BytesCodec, CodecChain};
use zarrs::array::{Array, ArrayCreateError, ArrayShardedExt, ChunkShape, CodecMetadataOptions, CodecOptions};
use zarrs::metadata::ConfigurationSerialize;
use zarrs::metadata_ext::codec::sharding::ShardingCodecConfiguration;
use zarrs::plugin::PluginCreateError;

use super::decode::{Decoder, known};
use super::plan::{coalesce, to_usize};
use super::shard::{ChunkRange, ShardIndexes, ShardTag};
use crate::codec::{Pfor, dtype_of};
use crate::error::{DaoError, ErrorKind, Result};
use crate::number::{Dtype, Num, zeros};
use crate::storage::{Storage, Wanted, ZarrStorage};

#[cfg(test)]
mod tests;

/// The most bytes between two wanted ranges that are cheaper to read than to skip.
pub const MAX_GAP: u64 = 16 << 10;
/// The most bytes of one read.
pub const MAX_READ: u64 = 8 << 20;
/// The inner chunks that are read at once from another machine.
const TOGETHER: usize = 1024;

/// The most inner chunks of a shard: an index of 64 MiB, which is decoded whole.
const MAX_INNER_CHUNKS: u64 = 1 << 22;

/// The encoding of inner chunks, as far as it lets parts of them be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkEncoding {
    /// Values as they are in memory.
    Raw,
    /// Values as they are in memory, in a frame of blosc.
    Blosc,
    /// Any other encoding: inner chunks are decoded whole.
    Whole,
}

/// The place of an inner chunk's bytes.
pub struct StoredChunk {
    pub key: String,
    /// The range of the file `key`.
    pub range: Range<u64>,
    /// The bytes, where finding them was reading them.
    pub read: Option<Bytes>,
}

/// An opened array.
pub struct ZarrArray {
    array: Array<ZarrStorage>,
    storage: Arc<dyn Storage>,
    uri: String,
    dtype: Dtype,
    inner_shape: ChunkShape,
    inner_codecs: Arc<CodecChain>,
    /// The number of inner chunks of a shard along each axis; all ones where the array is not sharded.
    per_shard: Vec<u64>,
    shard_indexes: Option<ShardIndexes>,
    pfor: Option<Pfor>,
    absent_is_fill: bool,
    decoder: Decoder,
}

impl ZarrArray {
    /// Opens the array at `path`; `NotFound`/`Corrupt` if its metadata is missing or cannot be used.
    pub fn open(storage: &Arc<dyn Storage>, path: &str) -> Result<Self> {
        let uri = format!("{}/{path}", storage.uri());
        let size = |name: &str| storage.size(&format!("{path}/{name}"));
        if size("zarr.json")?.is_none() && size(".zarray")?.is_none() {
            return Err(missing_file(storage.as_ref(), path, "zarr metadata is missing"));
        }
        let unusable =
            |what: &dyn std::fmt::Display| DaoError::corrupt(&uri, format!("cannot read this zarr array: {what}"));
        let array = Array::open(Arc::new(ZarrStorage(storage.clone())), &format!("/{path}")).map_err(|e| match e {
            ArrayCreateError::CodecsCreateError(PluginCreateError::Unsupported(what)) => {
                DaoError::value(format!("this build cannot decode the array: {what}"))
                    .at(format!("path '{uri}'"))
                    .hint("write the matrix again with another compressor")
            }
            e => unusable(&e),
        })?;
        let dtype = dtype_of(array.data_type())
            .ok_or_else(|| unusable(&format!("its data type {:?} is no plain number", array.data_type())))?;
        let options = CodecOptions::default().with_concurrent_target(1).with_validate_checksums(true);
        let origin = vec![0; array.dimensionality()];
        let outer = array.chunk_shape(&origin).map_err(|e| unusable(&e))?;
        let per_shard = |inner: &ChunkShape| -> Vec<u64> {
            outer.iter().zip(inner).map(|(outer, inner)| outer.get() / inner.get()).collect()
        };
        let mut pfor = None;
        let (inner_shape, inner_codecs, shard_indexes) = if array.is_exclusively_sharded() {
            let configuration = array
                .codecs()
                .array_to_bytes_codec()
                .configuration_v3(&CodecMetadataOptions::default())
                .ok_or_else(|| unusable(&"its sharding codec has no configuration"))?;
            let Ok(ShardingCodecConfiguration::V1(sharding)) =
                ShardingCodecConfiguration::try_from_configuration(configuration)
            else {
                return Err(unusable(&"its sharding codec has an unknown configuration"));
            };
            if sharding.chunk_shape.len() != outer.len() {
                return Err(unusable(&"its inner chunks have other axes than its shards"));
            }
            let codecs = CodecChain::from_metadata(&sharding.codecs).map_err(|e| unusable(&e))?;
            if codecs.array_to_array_codecs().is_empty() && codecs.bytes_to_bytes_codecs().is_empty() {
                pfor = codecs.array_to_bytes_codec().as_any().downcast_ref().copied();
            }
            let index_codecs = CodecChain::from_metadata(&sharding.index_codecs).map_err(|e| unusable(&e))?;
            known(&index_codecs).map_err(|e| unusable(&e))?;
            let counts = per_shard(&sharding.chunk_shape);
            if counts.iter().try_fold(1_u64, |n, count| n.checked_mul(*count)).is_none_or(|n| n > MAX_INNER_CHUNKS) {
                return Err(unusable(&format!("it claims {counts:?} inner chunks of a shard")));
            }
            let tag = ShardTag::of(array.attributes()).map_err(|e| unusable(&e))?;
            let indexes = ShardIndexes::new(&sharding, &counts, tag, options).map_err(|e| unusable(&e))?;
            (sharding.chunk_shape, Arc::new(codecs), Some(indexes))
        } else {
            (outer.clone(), array.codecs(), None)
        };
        let decoder = Decoder::new(inner_codecs.clone(), &inner_shape, array.data_type(), array.fill_value(), options)
            .map_err(|e| unusable(&e))?;
        let absent_is_fill = shard_indexes.is_none() && leaves_out_empty_chunks(storage, path)?;
        let per_shard = per_shard(&inner_shape);
        Ok(Self {
            array,
            storage: storage.clone(),
            uri,
            dtype,
            inner_shape,
            inner_codecs,
            per_shard,
            shard_indexes,
            pfor,
            absent_is_fill,
            decoder,
        })
    }

    /// The array's shape.
    pub fn shape(&self) -> &[u64] {
        self.array.shape()
    }

    /// The array's number type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The shape of an inner chunk, or of a chunk where the array is not sharded.
    pub fn inner_shape(&self) -> Vec<u64> {
        self.inner_shape.iter().map(|n| n.get()).collect()
    }

    /// The number of inner chunks of a shard along each axis.
    pub fn per_shard(&self) -> &[u64] {
        &self.per_shard
    }

    /// The codec of the inner chunks, where that is `dao_polars.pfor` alone.
    pub fn pfor(&self) -> Option<Pfor> {
        self.pfor
    }

    /// The encoding of the inner chunks.
    pub fn encoding(&self) -> ChunkEncoding {
        let codecs = &self.inner_codecs;
        let bytes = codecs.array_to_bytes_codec();
        let configuration = bytes.configuration_v3(&CodecMetadataOptions::default());
        let in_memory = match configuration.as_ref().and_then(|codec| codec.get("endian")?.as_str()) {
            Some(endian) => endian == "little",
            None => self.dtype.size() == 1,
        };
        let as_is = in_memory && cfg!(target_endian = "little") && bytes.as_any().is::<BytesCodec>();
        match codecs.bytes_to_bytes_codecs() {
            _ if !as_is || !codecs.array_to_array_codecs().is_empty() => ChunkEncoding::Whole,
            [] => ChunkEncoding::Raw,
            [codec] if codec.as_any().is::<BloscCodec>() => ChunkEncoding::Blosc,
            _ => ChunkEncoding::Whole,
        }
    }

    /// The place where the inner chunk at the grid position `chunk` is stored; `None` where it is not stored, as all
    /// of it is fill value.
    pub fn find(&self, chunk: &[u64]) -> Result<Option<StoredChunk>> {
        let file = self.file_of(chunk);
        let key = self.file_key(&file);
        if self.shard_indexes.is_some() {
            let range = self.range_in_shard(&file, chunk, &key)?;
            return Ok(range.map(|range| StoredChunk { key, range, read: None }));
        }
        // A remote file is read whole: asking for its size would cost as much as asking for its bytes.
        let (size, read) = match self.storage.local_root() {
            Some(_) => (self.storage.size(&key)?, None),
            None => {
                let read = self.storage.get(&key)?;
                (read.as_ref().map(|bytes| bytes.len() as u64), read)
            }
        };
        match size {
            Some(size) => Ok(Some(StoredChunk { key, range: 0..size, read })),
            None if self.absent_is_fill => Ok(None),
            None => Err(self.missing(&key)),
        }
    }

    /// The byte ranges of the file `key`.
    pub fn read(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.storage.get_ranges(key, ranges)?.ok_or_else(|| self.missing(key))
    }

    /// The bytes `range` of the file `key`.
    pub fn read_one(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.read(key, &[range])?.into_iter().next().ok_or_else(|| self.missing(key))
    }

    /// The storage that the array's files are in.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The file of the shard at a grid position, and where its inner chunks lie in it.
    pub fn shard(&self, position: &[u64]) -> Result<(String, Vec<ChunkRange>)> {
        let key = self.file_key(position);
        let ranges = match &self.shard_indexes {
            Some(indexes) => indexes.read(self.storage.as_ref(), &key, position)?,
            None => Vec::new(),
        };
        Ok((key, ranges))
    }

    /// The array's path or URL, for errors.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Decodes the inner chunks at the grid positions `chunks` and shows each to `visit`, with its
    /// position in the list. Chunks in ascending order are read in the fewest reads. `NotFound` for a missing shard,
    /// `Corrupt` for one that is truncated or fails its checksum.
    pub fn decode<S: Num>(&self, chunks: &[Vec<u64>], mut visit: impl FnMut(usize, &[S]) -> Result<()>) -> Result<()> {
        debug_assert_eq!(S::DTYPE, self.dtype);
        let mut first = 0;
        for of_file in chunks.chunk_by(|a, b| self.file_of(a) == self.file_of(b)) {
            self.decode_file(&self.file_of(&of_file[0]), first, of_file, &mut visit)?;
            first += of_file.len();
        }
        Ok(())
    }

    /// The grid position of the file (shard or chunk) that holds an inner chunk.
    fn file_of(&self, chunk: &[u64]) -> Vec<u64> {
        chunk.iter().zip(&self.per_shard).map(|(chunk, per)| chunk / per).collect()
    }

    /// Decodes inner chunks of one file; `first` is the position of the first of them in the list.
    fn decode_file<S: Num>(
        &self,
        file: &[u64],
        first: usize,
        chunks: &[Vec<u64>],
        visit: &mut impl FnMut(usize, &[S]) -> Result<()>,
    ) -> Result<()> {
        let key = &self.file_key(file);
        let decoded = |i: usize, bytes: &[u8], visit: &mut dyn FnMut(usize, &[S]) -> Result<()>| {
            let raw = self.decode_bytes(key, bytes)?;
            if let Ok(values) = bytemuck::try_cast_slice(&raw) {
                return visit(i, values);
            }
            let mut values = zeros::<S>(self.inner_len())?;
            bytemuck::cast_slice_mut(&mut values).copy_from_slice(&raw);
            visit(i, &values)
        };
        let fill = || {
            let mut values = zeros::<S>(self.inner_len())?;
            let fill = self.fill_value::<S>();
            if fill != S::zero() {
                values.fill(fill);
            }
            Ok(values)
        };
        if self.shard_indexes.is_none() {
            return match self.storage.get(key)? {
                Some(bytes) => decoded(first, &bytes, visit),
                None if self.absent_is_fill => visit(first, &fill()?),
                None => Err(self.missing(key)),
            };
        }
        let (mut stored, mut wanted) = (Vec::new(), Vec::new());
        for (i, chunk) in (first..).zip(chunks) {
            match self.range_in_shard(file, chunk, key)? {
                Some(range) => {
                    stored.push(i);
                    wanted.push(range);
                }
                None => visit(i, &fill()?)?,
            }
        }
        if self.storage.local_root().is_none() {
            // Their storage joins them as it costs least; a few at a time, as all may be much.
            for (stored, wanted) in stored.chunks(TOGETHER).zip(wanted.chunks(TOGETHER)) {
                for (&i, bytes) in stored.iter().zip(self.read(key, wanted)?) {
                    decoded(i, &bytes, visit)?;
                }
            }
            return Ok(());
        }
        for fetch in coalesce(&wanted, MAX_GAP, MAX_READ) {
            let read = self.read_one(key, fetch.bytes.clone())?;
            for (&i, range) in stored[fetch.serves.clone()].iter().zip(&wanted[fetch.serves]) {
                let (start, end) = (range.start - fetch.bytes.start, range.end - fetch.bytes.start);
                decoded(i, &read[to_usize(start)..to_usize(end)], visit)?;
            }
        }
        Ok(())
    }

    /// Where the inner chunks at the grid positions `chunks` lie that are stored, of an array that is sharded; chunks that are
    /// files of their own are not read ahead.
    pub fn wanted(&self, chunks: &[Vec<u64>]) -> Result<Vec<Wanted>> {
        if self.shard_indexes.is_none() {
            return Ok(Vec::new());
        }
        let mut wanted = Vec::new();
        for of_file in chunks.chunk_by(|a, b| self.file_of(a) == self.file_of(b)) {
            let file = self.file_of(&of_file[0]);
            let path = self.file_key(&file);
            let ranges = of_file.iter().map(|chunk| self.range_in_shard(&file, chunk, &path));
            let ranges: Vec<ChunkRange> = ranges.collect::<Result<_>>()?;
            wanted.push(Wanted { path, ranges: ranges.into_iter().flatten().collect() });
        }
        Ok(wanted)
    }

    /// The key of the file (shard or chunk) at a grid position.
    fn file_key(&self, position: &[u64]) -> String {
        self.array.chunk_key(position).as_str().to_owned()
    }

    /// The byte range of an inner chunk of the shard at the grid position `file`.
    fn range_in_shard(&self, file: &[u64], chunk: &[u64], key: &str) -> Result<ChunkRange> {
        let Some(indexes) = &self.shard_indexes else { return Ok(None) };
        let index = indexes.get(self.storage.as_ref(), key, file)?;
        let at = chunk.iter().zip(&self.per_shard).fold(0, |at, (chunk, per)| at * per + chunk % per);
        let range = index.get(to_usize(at)).cloned();
        range.ok_or_else(|| DaoError::corrupt(&self.uri, "an inner chunk outside the array was asked for"))
    }

    /// The error for a file that is not there.
    pub fn missing(&self, key: &str) -> DaoError {
        let what = if self.shard_indexes.is_some() { "a shard is missing" } else { "a chunk is missing" };
        missing_file(self.storage.as_ref(), key, what)
    }

    /// The error for bytes that cannot be decoded.
    pub fn broken(&self, key: &str, e: &dyn std::fmt::Display) -> DaoError {
        DaoError::corrupt(&format!("{}/{key}", self.storage.uri()), format!("a chunk cannot be decoded: {e}"))
            .hint("the file is truncated or changed; restore it from a copy, or write the dataset again")
    }

    /// The bytes of an inner chunk's values, from those that are stored.
    pub fn decode_bytes<'a>(&self, key: &str, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        let broken = |e: &dyn std::fmt::Display| self.broken(key, e);
        // Decoders of compressed bytes are C libraries and other crates: one that panics on
        // bytes that are not what they should be must not take the process with it.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.decoder.decode(bytes)))
            .map_err(|_| broken(&"the decoder gave up"))?
            .map_err(|e| broken(&e))
    }

    /// The value that chunks which are left out are full of.
    pub fn fill_value<S: Num>(&self) -> S {
        bytemuck::try_pod_read_unaligned(self.array.fill_value().as_ne_bytes()).unwrap_or_else(|_| S::zero())
    }

    /// The bytes of an inner chunk's values.
    pub fn inner_bytes(&self) -> usize {
        self.decoder.chunk_bytes()
    }

    /// The number of values in an inner chunk.
    fn inner_len(&self) -> usize {
        self.inner_bytes() / self.dtype.size()
    }
}

/// Whether an absent chunk of an array that is not sharded means fill value, as zarr defines.
///
/// Our own writer writes every shard, and zarr-python 2, which sfaira uses, every chunk: there an
/// absent chunk is a lost one, and an error is better than zeros. zarr-python 3 leaves empty chunks out; what
/// tells its version 2 metadata apart is that it always names the `dimension_separator`.
fn leaves_out_empty_chunks(storage: &Arc<dyn Storage>, path: &str) -> Result<bool> {
    #[derive(serde::Deserialize)]
    struct ArrayFields {
        dimension_separator: Option<String>,
    }
    let Some(bytes) = storage.get(&format!("{path}/.zarray"))? else { return Ok(true) };
    Ok(serde_json::from_slice::<ArrayFields>(&bytes).is_ok_and(|fields| fields.dimension_separator.is_some()))
}

/// The error for a file of an array that is not there.
pub fn missing_file(storage: &dyn Storage, key: &str, what: &str) -> DaoError {
    DaoError::new(ErrorKind::NotFound, what)
        .at(format!("path '{}/{key}'", storage.uri()))
        .hint("restore it from a copy, or write the dataset again")
}
