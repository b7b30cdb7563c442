//! One zarr array: inner chunks fetched by coalesced ranges and decoded one at a time.
//!
//! zarrs reads metadata and runs codecs; which bytes are read when is decided here.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use zarrs::array::codec::{BloscCodec, BytesCodec, CodecChain};
use zarrs::array::{
    Array, ArrayBytes, ArrayCreateError, ArrayShardedExt, ArrayToBytesCodecTraits, BytesRepresentation, ChunkShape,
    CodecOptions, DataType, FillValue, data_type,
};
use zarrs::metadata::ConfigurationSerialize;
use zarrs::metadata_ext::codec::sharding::{ShardingCodecConfiguration, ShardingIndexLocation};
use zarrs::plugin::PluginCreateError;

use super::plan::coalesce;
use crate::codec::Pfor;
use crate::error::{DaoError, ErrorKind, Result};
use crate::number::{Dtype, Num};
use crate::storage::{Storage, ZarrStorage};

/// Bytes between two wanted ranges that are cheaper to read than to skip.
pub const MAX_GAP: u64 = 16 << 10;
/// The most bytes of one read.
pub const MAX_READ: u64 = 8 << 20;

/// Where an inner chunk lies in its file; `None` where the shard leaves it out (all fill value).
pub type Place = Option<(u64, u64)>;

/// What its inner chunks are encoded with, as far as parts of them can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Values as they are in memory.
    Raw,
    /// The same in a frame of blosc.
    Blosc,
    /// Something that decodes whole chunks.
    Other,
}

/// An inner chunk as it is stored.
pub enum Found {
    /// Left out: all fill value.
    Absent,
    /// These bytes of a file.
    At(String, Range<u64>),
    /// All of a file.
    Read(String, Bytes),
}

/// An opened array.
pub struct ZarrArray {
    array: Array<ZarrStorage>,
    storage: Arc<dyn Storage>,
    place: String,
    dtype: Dtype,
    inner_shape: ChunkShape,
    inner_codecs: Arc<CodecChain>,
    /// Inner chunks of a shard along each axis; all ones where the array is not sharded.
    per_shard: Vec<u64>,
    sharding: Option<Sharding>,
    pfor: Option<Pfor>,
    absent_is_fill: bool,
    options: CodecOptions,
}

struct Sharding {
    index_codecs: CodecChain,
    index_shape: ChunkShape,
    index_bytes: u64,
    index_at_end: bool,
    /// By grid position of the shard. A map: metadata may claim any number of shards.
    indexes: Mutex<HashMap<Vec<u64>, Arc<Vec<Place>>>>,
}

impl ZarrArray {
    /// Opens the array at `path`.
    ///
    /// # Errors
    /// `NotFound`/`Corrupt` if its metadata is missing or cannot be used.
    pub fn open(storage: &Arc<dyn Storage>, path: &str) -> Result<Self> {
        let place = format!("{}/{path}", storage.uri());
        let has_metadata = ["zarr.json", ".zarray"]
            .iter()
            .map(|name| storage.size(&format!("{path}/{name}")))
            .collect::<Result<Vec<_>>>()?;
        if has_metadata.iter().all(Option::is_none) {
            return Err(DaoError::new(ErrorKind::NotFound, "zarr metadata is missing")
                .at(format!("path '{place}'"))
                .hint("restore it from a copy, or write the dataset again"));
        }
        let unusable =
            |what: &dyn std::fmt::Display| DaoError::corrupt(&place, format!("cannot read this zarr array: {what}"));
        let array = Array::open(Arc::new(ZarrStorage(storage.clone())), &format!("/{path}")).map_err(|e| match e {
            ArrayCreateError::CodecsCreateError(PluginCreateError::Unsupported(what)) => {
                DaoError::value(format!("this build cannot decode the array: {what}"))
                    .at(format!("path '{place}'"))
                    .hint("write the matrix again with another compressor")
            }
            e => unusable(&e),
        })?;
        let dtype = dtype_of(array.data_type())
            .ok_or_else(|| unusable(&format!("its data type {:?} is no plain number", array.data_type())))?;
        let origin = vec![0; array.dimensionality()];
        let outer = array.chunk_shape(&origin).map_err(|e| unusable(&e))?;
        let mut pfor = None;
        let (inner_shape, inner_codecs, sharding) = if array.is_exclusively_sharded() {
            let configuration = array
                .codecs()
                .array_to_bytes_codec()
                .configuration_v3(&zarrs::array::CodecMetadataOptions::default())
                .ok_or_else(|| unusable(&"its sharding codec has no configuration"))?;
            let Ok(ShardingCodecConfiguration::V1(sharding)) =
                ShardingCodecConfiguration::try_from_configuration(configuration)
            else {
                return Err(unusable(&"its sharding codec has an unknown configuration"));
            };
            let codecs = CodecChain::from_metadata(&sharding.codecs).map_err(|e| unusable(&e))?;
            if codecs.array_to_array_codecs().is_empty() && codecs.bytes_to_bytes_codecs().is_empty() {
                pfor = codecs.array_to_bytes_codec().as_any().downcast_ref().copied();
            }
            let index_codecs = CodecChain::from_metadata(&sharding.index_codecs).map_err(|e| unusable(&e))?;
            let two = std::num::NonZeroU64::MIN.saturating_add(1);
            let per_shard = outer.iter().zip(&sharding.chunk_shape).map(|(outer, inner)| outer.get() / inner.get());
            let index_shape: Option<ChunkShape> = per_shard.map(std::num::NonZeroU64::new).chain([Some(two)]).collect();
            let index_shape = index_shape.ok_or_else(|| unusable(&"its inner chunks are larger than its shards"))?;
            let BytesRepresentation::FixedSize(index_bytes) = index_codecs
                .encoded_representation(&index_shape, &data_type::uint64(), &FillValue::from(u64::MAX))
                .map_err(|e| unusable(&e))?
            else {
                return Err(unusable(&"its shard index is compressed"));
            };
            let index_at_end = matches!(sharding.index_location, ShardingIndexLocation::End);
            let read = Sharding { index_codecs, index_shape, index_bytes, index_at_end, indexes: Mutex::default() };
            (sharding.chunk_shape, Arc::new(codecs), Some(read))
        } else {
            (outer.clone(), array.codecs(), None)
        };
        let absent_is_fill = sharding.is_none() && leaves_out_empty_chunks(storage, path)?;
        let per_shard = outer.iter().zip(&inner_shape).map(|(outer, inner)| outer.get() / inner.get()).collect();
        let options = CodecOptions::default().with_concurrent_target(1).with_validate_checksums(true);
        Ok(Self {
            array,
            storage: storage.clone(),
            place,
            dtype,
            inner_shape,
            inner_codecs,
            per_shard,
            sharding,
            pfor,
            absent_is_fill,
            options,
        })
    }

    /// The array's shape.
    pub fn shape(&self) -> &[u64] {
        self.array.shape()
    }

    /// The stored type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The shape of what is decoded at a time.
    pub fn inner_shape(&self) -> Vec<u64> {
        self.inner_shape.iter().map(|n| n.get()).collect()
    }

    /// Inner chunks of a shard along each axis.
    pub fn per_shard(&self) -> &[u64] {
        &self.per_shard
    }

    /// The codec of its inner chunks, where that is `dao_polars.pfor` alone.
    pub fn pfor(&self) -> Option<Pfor> {
        self.pfor
    }

    /// What its inner chunks are encoded with.
    pub fn coding(&self) -> Coding {
        let codecs = &self.inner_codecs;
        let bytes = codecs.array_to_bytes_codec();
        let endian = bytes.as_any().is::<BytesCodec>().then(|| {
            let configuration = bytes.configuration_v3(&zarrs::array::CodecMetadataOptions::default())?;
            configuration.get("endian").and_then(|endian| endian.as_str().map(str::to_owned))
        });
        let in_memory = match endian {
            Some(Some(endian)) => cfg!(target_endian = "little") && endian == "little",
            Some(None) => cfg!(target_endian = "little") && self.dtype.size() == 1,
            None => false,
        };
        match codecs.bytes_to_bytes_codecs() {
            _ if !in_memory || !codecs.array_to_array_codecs().is_empty() => Coding::Other,
            [] => Coding::Raw,
            [codec] if codec.as_any().is::<BloscCodec>() => Coding::Blosc,
            _ => Coding::Other,
        }
    }

    /// Where an inner chunk is stored.
    ///
    /// # Errors
    /// As [`ZarrArray::decode`].
    pub fn find(&self, chunk: &[u64]) -> Result<Found> {
        let file = self.file_of(chunk);
        let key = self.array.chunk_key(&file).as_str().to_owned();
        if self.sharding.is_some() {
            let place = self.place_in_shard(&file, chunk, &key)?;
            return Ok(place.map_or(Found::Absent, |(start, stop)| Found::At(key, start..stop)));
        }
        let found = if self.storage.local_root().is_some() {
            self.storage.size(&key)?.map(|size| Found::At(key.clone(), 0..size))
        } else {
            // A request for the size would cost as much as one for the bytes.
            self.storage.get(&key)?.map(|bytes| Found::Read(key.clone(), bytes))
        };
        match found {
            Some(found) => Ok(found),
            None if self.absent_is_fill => Ok(Found::Absent),
            None => Err(self.missing(&key)),
        }
    }

    /// Reads bytes of a file that [`ZarrArray::find`] found.
    ///
    /// # Errors
    /// As [`ZarrArray::decode`].
    pub fn read(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.storage.get_ranges(key, ranges)?.ok_or_else(|| self.missing(key))
    }

    /// What its files are read through.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The file of the shard at a grid position, and where its inner chunks lie in it.
    ///
    /// # Errors
    /// As [`ZarrArray::decode`].
    pub fn shard(&self, file: &[u64]) -> Result<(String, Vec<Place>)> {
        let key = self.array.chunk_key(file).as_str().to_owned();
        let places = match &self.sharding {
            Some(sharding) => self.read_index(sharding, &key)?,
            None => Vec::new(),
        };
        Ok((key, places))
    }

    /// Where it lies, for errors.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Decodes the inner chunks at the grid positions `chunks` and shows each to `visit`, with its
    /// position in the list. Chunks in ascending order are read in the fewest reads.
    ///
    /// # Errors
    /// `NotFound` for a missing shard, `Corrupt` for one that is truncated or fails its checksum.
    pub fn decode<S: Num>(&self, chunks: &[Vec<u64>], mut visit: impl FnMut(usize, &[S]) -> Result<()>) -> Result<()> {
        debug_assert_eq!(S::DTYPE, self.dtype);
        let mut at = 0;
        while at < chunks.len() {
            let file = self.file_of(&chunks[at]);
            let stop = at + chunks[at..].iter().take_while(|chunk| self.file_of(chunk) == file).count();
            self.decode_file(&file, at, &chunks[at..stop], &mut visit)?;
            at = stop;
        }
        Ok(())
    }

    /// The grid position of the file (shard or chunk) that holds an inner chunk.
    fn file_of(&self, chunk: &[u64]) -> Vec<u64> {
        chunk.iter().zip(&self.per_shard).map(|(chunk, per)| chunk / per).collect()
    }

    fn decode_file<S: Num>(
        &self,
        file: &[u64],
        first: usize,
        chunks: &[Vec<u64>],
        visit: &mut impl FnMut(usize, &[S]) -> Result<()>,
    ) -> Result<()> {
        let key = self.array.chunk_key(file);
        let key = key.as_str();
        if self.sharding.is_none() {
            return match self.storage.get(key)? {
                Some(bytes) => visit(first, &self.decode_one::<S>(key, bytes)?),
                None if self.absent_is_fill => visit(first, &self.fill::<S>()),
                None => Err(self.missing(key)),
            };
        }
        let places = chunks.iter().map(|chunk| self.place_in_shard(file, chunk, key)).collect::<Result<Vec<_>>>()?;
        let stored: Vec<(usize, Range<u64>)> =
            places.iter().enumerate().filter_map(|(i, place)| place.map(|(start, stop)| (i, start..stop))).collect();
        for (i, place) in places.iter().enumerate() {
            if place.is_none() {
                visit(first + i, &self.fill::<S>())?;
            }
        }
        let wanted: Vec<Range<u64>> = stored.iter().map(|(_, range)| range.clone()).collect();
        for fetch in coalesce(&wanted, MAX_GAP, MAX_READ) {
            let read =
                self.storage.get_ranges(key, std::slice::from_ref(&fetch.bytes))?.ok_or_else(|| self.missing(key))?;
            let read = read.into_iter().next().ok_or_else(|| self.missing(key))?;
            for (i, range) in &stored[fetch.serves] {
                let (start, stop) = (range.start - fetch.bytes.start, range.end - fetch.bytes.start);
                // Both are within one read, which is in memory.
                let bytes = read.slice(usize::try_from(start).unwrap_or(0)..usize::try_from(stop).unwrap_or(0));
                visit(first + i, &self.decode_one::<S>(key, bytes)?)?;
            }
        }
        Ok(())
    }

    fn place_in_shard(&self, file: &[u64], chunk: &[u64], key: &str) -> Result<Place> {
        let Some(sharding) = &self.sharding else { return Ok(None) };
        // The map is whole whatever happened to its last holder.
        let known = sharding.indexes.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned();
        let places = match known {
            Some(places) => places,
            None => {
                let read = Arc::new(self.read_index(sharding, key)?);
                let mut indexes = sharding.indexes.lock().unwrap_or_else(PoisonError::into_inner);
                indexes.entry(file.to_vec()).or_insert(read).clone()
            }
        };
        let at = chunk.iter().zip(&self.per_shard).fold(0, |at, (chunk, per)| at * per + chunk % per);
        usize::try_from(at)
            .ok()
            .and_then(|at| places.get(at).copied())
            .ok_or_else(|| DaoError::corrupt(&self.place, "an inner chunk outside the array was asked for"))
    }

    /// A shard's index: `(offset, length)` of each inner chunk, both all ones where it is left out.
    /// <https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html>
    fn read_index(&self, sharding: &Sharding, key: &str) -> Result<Vec<Place>> {
        let path = format!("{}/{key}", self.storage.uri());
        let broken = |e: &dyn std::fmt::Display| {
            DaoError::corrupt(&path, format!("the shard's index cannot be read: {e}"))
                .hint("the file is truncated or changed; restore it from a copy, or write the dataset again")
        };
        let size = self.storage.size(key)?.ok_or_else(|| self.missing(key))?;
        let length = sharding.index_bytes;
        if size < length {
            return Err(broken(&format!("expected at least {length} bytes, found {size}")));
        }
        let range = if sharding.index_at_end { size - length..size } else { 0..length };
        let read = self.storage.get_ranges(key, &[range])?.ok_or_else(|| self.missing(key))?;
        let bytes = read.first().ok_or_else(|| self.missing(key))?;
        let decoded = sharding
            .index_codecs
            .decode(
                Cow::Borrowed(bytes.as_ref()),
                &sharding.index_shape,
                &data_type::uint64(),
                &FillValue::from(u64::MAX),
                &self.options,
            )
            .map_err(|e| broken(&e))?;
        let ArrayBytes::Fixed(raw) = decoded else { return Err(broken(&"it does not hold numbers")) };
        bytemuck::pod_collect_to_vec::<u8, u64>(&raw)
            .chunks_exact(2)
            .map(|place| match (place[0], place[0].checked_add(place[1])) {
                (u64::MAX, _) if place[1] == u64::MAX => Ok(None),
                (start, Some(stop)) if stop <= size => Ok(Some((start, stop))),
                _ => Err(broken(&format!("it points to {} bytes from {} of a file of {size}", place[1], place[0]))),
            })
            .collect()
    }

    /// The error for a file that is not there.
    pub fn missing(&self, key: &str) -> DaoError {
        let what = if self.sharding.is_some() { "a shard is missing" } else { "a chunk is missing" };
        DaoError::new(ErrorKind::NotFound, what)
            .at(format!("path '{}/{key}'", self.storage.uri()))
            .hint("restore it from a copy, or write the dataset again")
    }

    /// The error for bytes that cannot be decoded.
    pub fn broken(&self, key: &str, e: &dyn std::fmt::Display) -> DaoError {
        DaoError::corrupt(&format!("{}/{key}", self.storage.uri()), format!("a chunk cannot be decoded: {e}"))
            .hint("the file is truncated or changed; restore it from a copy, or write the dataset again")
    }

    fn decode_one<S: Num>(&self, key: &str, bytes: Bytes) -> Result<Vec<S>> {
        self.decode_bytes(key, &bytes).map(|raw| bytemuck::pod_collect_to_vec(&raw))
    }

    /// The bytes of an inner chunk's values, from those that are stored.
    ///
    /// # Errors
    /// `Corrupt` for bytes that cannot be decoded.
    pub fn decode_bytes<'a>(&self, key: &str, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        let broken = |e: &dyn std::fmt::Display| self.broken(key, e);
        // Decoders of compressed bytes are C libraries and other crates: one that panics on
        // bytes that are not what they should be must not take the process with it.
        let decoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.inner_codecs.decode(
                Cow::Borrowed(bytes),
                &self.inner_shape,
                self.array.data_type(),
                self.array.fill_value(),
                &self.options,
            )
        }))
        .map_err(|_| broken(&"the decoder gave up"))?
        .map_err(|e| broken(&e))?;
        let ArrayBytes::Fixed(raw) = decoded else { return Err(broken(&"not of fixed-size numbers")) };
        let expected = self.inner_len().saturating_mul(self.dtype.size());
        if raw.len() != expected {
            return Err(broken(&format!("expected {expected} bytes, found {}", raw.len())));
        }
        Ok(raw)
    }

    /// What left-out chunks hold.
    pub fn fill_value<S: Num>(&self) -> S {
        bytemuck::try_pod_read_unaligned(self.array.fill_value().as_ne_bytes()).unwrap_or_else(|_| S::zero())
    }

    fn fill<S: Num>(&self) -> Vec<S> {
        vec![self.fill_value(); self.inner_len()]
    }

    fn inner_len(&self) -> usize {
        self.inner_shape.iter().map(|n| usize::try_from(n.get()).unwrap_or(usize::MAX)).product()
    }
}

/// Whether an absent chunk of an array that is not sharded means fill value, as zarr defines.
///
/// Our own writer writes every shard. So does zarr-python 2, sfaira's, write every chunk, and an
/// absent one is a lost one: better an error than zeros. zarr-python 3 leaves empty chunks out; what
/// tells its version 2 metadata apart is that it always names the `dimension_separator`.
fn leaves_out_empty_chunks(storage: &Arc<dyn Storage>, path: &str) -> Result<bool> {
    #[derive(serde::Deserialize)]
    struct Head {
        dimension_separator: Option<String>,
    }
    let Some(bytes) = storage.get(&format!("{path}/.zarray"))? else { return Ok(true) };
    Ok(serde_json::from_slice::<Head>(&bytes).is_ok_and(|head| head.dimension_separator.is_some()))
}

/// The number type that zarr calls `found`; bools are stored as bytes.
pub fn dtype_of(found: &DataType) -> Option<Dtype> {
    [
        (data_type::uint8(), Dtype::U8),
        (data_type::bool(), Dtype::U8),
        (data_type::uint16(), Dtype::U16),
        (data_type::uint32(), Dtype::U32),
        (data_type::uint64(), Dtype::U64),
        (data_type::int8(), Dtype::I8),
        (data_type::int16(), Dtype::I16),
        (data_type::int32(), Dtype::I32),
        (data_type::int64(), Dtype::I64),
        (data_type::float32(), Dtype::F32),
        (data_type::float64(), Dtype::F64),
    ]
    .into_iter()
    .find_map(|(known, dtype)| (*found == known).then_some(dtype))
}
