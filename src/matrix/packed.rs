//! A one-dimensional array in the codec `dao_polars.pfor`: any run of values, by the blocks it lies in.
//!
//! Keeps the directories of the chunks met so far, four bytes for 512 values.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::array::{MAX_GAP, MAX_READ, ZarrArray};
use super::plan::{Run, coalesce, runs};
use crate::codec::{self, BLOCK, Broken, Kind, SCRATCH, Scratch, Stored};
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Num, for_dtype};
use crate::number::{always_exact, cast_values};
use crate::storage::File;

/// More shards than any array has: metadata may claim what it likes.
const MAX_SHARDS: u64 = 1 << 24;
/// The most bytes of one read where reads are cheap: what stays in the processor's cache.
const MAX_LOCAL_READ: u64 = 256 << 10;

/// See the module.
pub struct Packed {
    array: ZarrArray,
    kind: Kind,
    chunk_len: u64,
    per_shard: u64,
    shards: Vec<OnceLock<Shard>>,
}

struct Shard {
    file: Arc<dyn File>,
    key: String,
    chunks: Vec<Chunk>,
}

struct Chunk {
    /// Bytes in the shard; `None` where it is left out (all fill value).
    place: Option<Range<u64>>,
    /// Where the blocks begin and the last one ends, from the chunk's start.
    blocks: OnceLock<Vec<u32>>,
}

/// A chunk's place in its shard, and the bytes of its directory.
type Head = (usize, Range<u64>);

/// What a thread reads with: bytes fetched beforehand, and room for those that are not.
pub struct Fetched {
    held: HashMap<u64, Vec<(u64, Bytes)>>,
    buffer: Vec<u8>,
    scratch: Scratch,
}

impl Default for Fetched {
    fn default() -> Self {
        Self { held: HashMap::new(), buffer: Vec::new(), scratch: SCRATCH }
    }
}

impl Packed {
    /// The array, if it is one-dimensional, sharded and in that codec alone; otherwise given back.
    ///
    /// # Errors
    /// `Corrupt` for more shards than can be.
    pub fn new(array: ZarrArray) -> Result<std::result::Result<Self, ZarrArray>> {
        let (Some(pfor), &[len]) = (array.pfor(), array.shape()) else { return Ok(Err(array)) };
        let (chunk_len, per_shard) = (array.inner_shape()[0], array.per_shard()[0]);
        if chunk_len % BLOCK as u64 != 0 {
            return Ok(Err(array)); // never written so; the codec's own way reads it
        }
        let n_shards = len.div_ceil(chunk_len.saturating_mul(per_shard));
        if n_shards > MAX_SHARDS {
            return Err(DaoError::corrupt(array.place(), "the array claims too many shards")
                .expected(format!("at most {MAX_SHARDS}"))
                .found(n_shards));
        }
        let shards = (0..n_shards).map(|_| OnceLock::new()).collect();
        Ok(Ok(Self { kind: pfor.kind(array.dtype()), array, chunk_len, per_shard, shards }))
    }

    /// The array, for its shape, type and place.
    pub fn array(&self) -> &ZarrArray {
        &self.array
    }

    /// The array alone.
    pub fn into_array(self) -> ZarrArray {
        self.array
    }

    /// Gets ready to read `ranges` (ascending): joined reads, where ranges are neighbours or each read
    /// costs a request. Others are read one by one when they are decoded.
    ///
    /// # Errors
    /// As [`ZarrArray::decode`].
    pub fn fetch(&self, ranges: &[Range<u64>], fetched: &mut Fetched) -> Result<()> {
        fetched.held.clear();
        let mut wanted: Vec<(u64, Vec<Range<u64>>)> = Vec::new();
        let all = ranges.iter().flat_map(|range| runs(range.clone(), self.chunk_len));
        let filled = || ranges.iter().filter(|range| !range.is_empty());
        let (Some(first), Some(last)) = (filled().next(), filled().next_back()) else { return Ok(()) };
        let cheap = self.shard(first.start / (self.chunk_len * self.per_shard))?.file.random_access();
        let wanted_values: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        if cheap && last.end - first.start > 2 * wanted_values {
            return Ok(());
        }
        let max_read = if cheap { MAX_LOCAL_READ } else { MAX_READ };
        self.fetch_directories(all.clone())?;
        for run in all {
            let (number, shard, at) = self.chunk(run.chunk)?;
            let Some((bytes, _)) = self.bytes(shard, at, &run)? else { continue };
            match wanted.last_mut() {
                Some((last, ranges)) if *last == number => ranges.push(bytes),
                _ => wanted.push((number, vec![bytes])),
            }
        }
        for (number, ranges) in wanted {
            let parts = self.get(number, &ranges, max_read)?;
            fetched.held.entry(number).or_default().extend(parts);
        }
        Ok(())
    }

    /// The directories of `runs`' chunks that are not yet known, joined.
    fn fetch_directories(&self, runs: impl Iterator<Item = Run>) -> Result<()> {
        let mut missing: Vec<(u64, Vec<Head>)> = Vec::new();
        for run in runs {
            let (number, shard, at) = self.chunk(run.chunk)?;
            let chunk = &shard.chunks[at];
            let Some(place) = chunk.place.clone().filter(|_| chunk.blocks.get().is_none()) else { continue };
            let head = (at, place.start..place.end.min(place.start + self.directory_len()));
            match missing.last_mut() {
                Some((last, heads)) if *last == number => {
                    if heads.last() != Some(&head) {
                        heads.push(head);
                    }
                }
                _ => missing.push((number, vec![head])),
            }
        }
        for (number, heads) in missing {
            let shard = self.shard(number)?;
            let ranges: Vec<_> = heads.iter().map(|(_, range)| range.clone()).collect();
            let parts = self.get(number, &ranges, MAX_READ)?;
            for (at, range) in heads {
                let head = held(&parts, &range).ok_or_else(|| self.broken(shard, Broken("a chunk is cut short")))?;
                self.keep_directory(shard, at, head)?;
            }
        }
        Ok(())
    }

    /// Joined ranges of a shard, ascending, each with where it begins.
    fn get(&self, number: u64, ranges: &[Range<u64>], max_read: u64) -> Result<Vec<(u64, Bytes)>> {
        let shard = self.shard(number)?;
        // A shard may have its chunks in any order.
        let mut ranges = ranges.to_vec();
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        let joined: Vec<Range<u64>> =
            coalesce(&ranges, MAX_GAP, max_read).into_iter().map(|fetch| fetch.bytes).collect();
        let parts = self.array.storage().get_ranges(&shard.key, &joined)?;
        let parts = parts.ok_or_else(|| self.array.missing(&shard.key))?;
        Ok(joined.iter().map(|range| range.start).zip(parts).collect())
    }

    /// Decodes the values `range` into `out`, which has as many.
    ///
    /// # Errors
    /// `NotFound` for a missing shard; `Corrupt` for one that is truncated or fails a checksum;
    /// `Value` for a number that `T` cannot hold.
    pub fn decode<T: Num>(&self, range: Range<u64>, out: &mut [T], fetched: &mut Fetched) -> Result<()> {
        for_dtype!(self.array.dtype(), S => {
            // What batches are mostly made of is decoded to its place. One decoder for each pair of
            // types would be a hundred; the others go by way of the stored type.
            if always_exact::<S, T>()
                && let Ok(out) = bytemuck::try_cast_slice_mut::<T, f32>(out)
                && T::DTYPE == Dtype::F32
            {
                return self.decode_as::<S, f32>(range, out, fetched);
            }
            if always_exact::<S, T>()
                && let Ok(out) = bytemuck::try_cast_slice_mut::<T, i32>(out)
                && T::DTYPE == Dtype::I32
            {
                return self.decode_as::<S, i32>(range, out, fetched);
            }
            let mut stored = vec![<S as num_traits::Zero>::zero(); out.len()];
            self.decode_as::<S, S>(range, &mut stored, fetched)?;
            cast_values(&stored, out).map_err(|e| e.at(format!("path '{}'", self.array.place())))
        })
    }

    fn decode_as<S: Stored, T: Num>(&self, range: Range<u64>, mut out: &mut [T], fetched: &mut Fetched) -> Result<()> {
        for run in runs(range, self.chunk_len) {
            let (here, later) = out.split_at_mut(run.values.len());
            out = later;
            let (number, shard, at) = self.chunk(run.chunk)?;
            let Some((bytes, starts)) = self.bytes(shard, at, &run)? else {
                here.fill(T::of(self.array.fill_value::<S>()));
                continue;
            };
            let Fetched { held: all, buffer, scratch } = fetched;
            let encoded = match all.get(&number).and_then(|parts| held(parts, &bytes)) {
                Some(encoded) => encoded,
                None => {
                    // A chunk's bytes were held against the file's when its index was read.
                    let len = to_usize(bytes.end - bytes.start);
                    if buffer.len() < len {
                        buffer.resize(len, 0);
                    }
                    shard.file.read_at(bytes.start, &mut buffer[..len])?;
                    &buffer[..len]
                }
            };
            let (mut rest, mut first) = (here, run.blocks().start * BLOCK);
            for ends in starts.windows(2) {
                let within = |at: usize| at.clamp(first, first + BLOCK) - first;
                let wanted = within(run.values.start)..within(run.values.end);
                let (here, later) = rest.split_at_mut(wanted.len());
                // The starts ascend, and the bytes are those from the first to the last of them.
                let encoded = &encoded[(ends[0] - starts[0]) as usize..(ends[1] - starts[0]) as usize];
                codec::decode_block::<S, T>(encoded, self.kind, wanted, here, scratch)
                    .map_err(|e| self.broken(shard, e))?;
                (rest, first) = (later, first + BLOCK);
            }
        }
        Ok(())
    }

    /// The bytes of a run's blocks in their shard, and where the blocks start and the last one ends in
    /// their chunk; `None` where the chunk is left out.
    fn bytes<'a>(&self, shard: &'a Shard, at: usize, run: &Run) -> Result<Option<(Range<u64>, &'a [u32])>> {
        let Some(place) = shard.chunks.get(at).and_then(|chunk| chunk.place.as_ref()) else { return Ok(None) };
        let wanted = run.blocks();
        let starts = self.blocks(shard, at)?.get(wanted.start..=wanted.end);
        let Some(starts @ [first, .., last]) = starts else {
            return Err(self.broken(shard, Broken("a block outside its chunk was asked for")));
        };
        Ok(Some((place.start + u64::from(*first)..place.start + u64::from(*last), starts)))
    }

    fn blocks<'a>(&self, shard: &'a Shard, at: usize) -> Result<&'a [u32]> {
        let chunk = &shard.chunks[at];
        if let Some(blocks) = chunk.blocks.get() {
            return Ok(blocks);
        }
        let place = chunk.place.clone().unwrap_or(0..0);
        let mut head = vec![0; to_usize(self.directory_len().min(place.end - place.start))];
        shard.file.read_at(place.start, &mut head)?;
        self.keep_directory(shard, at, &head)
    }

    fn keep_directory<'a>(&self, shard: &'a Shard, at: usize, head: &[u8]) -> Result<&'a [u32]> {
        let chunk = &shard.chunks[at];
        let place = chunk.place.clone().unwrap_or(0..0);
        let blocks = codec::directory(head, to_usize(self.chunk_len), place.end - place.start)
            .map_err(|e| self.broken(shard, e))?;
        Ok(chunk.blocks.get_or_init(|| blocks))
    }

    fn directory_len(&self) -> u64 {
        codec::directory_len(to_usize(self.chunk_len)) as u64
    }

    /// The shard of a chunk, its number, and the chunk's place in it.
    fn chunk(&self, chunk: u64) -> Result<(u64, &Shard, usize)> {
        let number = chunk / self.per_shard;
        Ok((number, self.shard(number)?, to_usize(chunk % self.per_shard)))
    }

    fn shard(&self, number: u64) -> Result<&Shard> {
        let Some(slot) = self.shards.get(to_usize(number)) else {
            return Err(DaoError::corrupt(self.array.place(), "a shard outside the array was asked for"));
        };
        if let Some(shard) = slot.get() {
            return Ok(shard);
        }
        let (key, places) = self.array.shard(&[number])?;
        let file = self.array.storage().file(&key)?.ok_or_else(|| self.array.missing(&key))?;
        let chunks = places
            .iter()
            .map(|place| Chunk { place: place.map(|(start, stop)| start..stop), blocks: OnceLock::new() })
            .collect();
        Ok(slot.get_or_init(|| Shard { file, key, chunks }))
    }

    fn broken(&self, shard: &Shard, e: Broken) -> DaoError {
        self.array.broken(&shard.key, &e)
    }
}

/// The bytes of `range` among parts in ascending order.
fn held<'a>(parts: &'a [(u64, Bytes)], range: &Range<u64>) -> Option<&'a [u8]> {
    let at = parts.partition_point(|(start, _)| *start <= range.start).checked_sub(1)?;
    let (start, bytes) = &parts[at];
    bytes.get(to_usize(range.start - start)..to_usize(range.end - start))
}

/// For numbers of things in memory; past it, one that finds nothing.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
