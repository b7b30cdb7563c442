//! A one-dimensional array in the codec `dao_polars.pfor`: any run of values, by the blocks it lies in.
//!
//! Keeps the [`Directories`] of the chunks read so far, as long as there is room; others are read each time. Of rows of few
//! values, the [`LastBlock`] is kept too. Knows nothing of rows.
//! The format is described in docs/pfor.md.

mod directories;
mod last_block;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::array::{MAX_GAP, ZarrArray};
use super::plan::{Run, coalesce, runs, to_usize};
use super::shard::ChunkRange;
use crate::codec::{self, BLOCK, Broken, Kind, SCRATCH, Scratch};
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Num, always_exact, cast_values, for_dtype, resize, zeros};
use crate::storage::{File, Wanted};
use directories::{Directories, Starts};
use last_block::LastBlock;

/// The most shards of an array: each is a file, and metadata may claim any number. Their places take 72 MiB.
const MAX_SHARDS: u64 = 1 << 20;
/// The most bytes of one read where reads are cheap: what stays in the processor's cache.
const MAX_LOCAL_READ: u64 = 256 << 10;
/// The most values of a range that is read alone when it is decoded.
const ALONE: u64 = 16 * BLOCK as u64;
/// The most values of a block that are few.
const FEW: usize = BLOCK / 4;

/// A one-dimensional array in the codec `dao_polars.pfor`; see the module.
pub struct Packed {
    array: ZarrArray,
    kind: Kind,
    chunk_len: u64,
    per_shard: u64,
    shards: Vec<OnceLock<Shard>>,
}

/// An open shard.
struct Shard {
    file: Arc<dyn File>,
    key: String,
    /// Where each inner chunk lies; `None` for one that is left out.
    chunks: Vec<ChunkRange>,
    directories: Directories,
}

/// The bytes that were fetched ahead of decoding, and the memory that decoding needs.
pub struct Fetched {
    /// The parts of each shard, by its number: ascending, each with the offset where it begins.
    parts: HashMap<u64, Vec<(u64, Bytes)>>,
    /// The directories of chunks, by their numbers, that were read ahead and are not kept.
    directories: HashMap<u64, Vec<u64>>,
    buffer: Vec<u8>,
    scratch: Scratch,
    last: LastBlock,
    /// Whether nothing was fetched, as the ranges lie apart and each is read when it is decoded.
    pub scattered: bool,
}

impl Shard {
    /// Where the chunk `at` lies; `None` for one that is left out.
    fn chunk(&self, at: usize) -> Option<&Range<u64>> {
        self.chunks.get(at)?.as_ref()
    }
}

impl Packed {
    /// How blocks of `array` are packed, if it is one-dimensional, sharded and in that codec alone.
    pub fn kind(array: &ZarrArray) -> Option<Kind> {
        let pfor = array.pfor().filter(|_| array.shape().len() == 1)?;
        // Our writer never cuts a block; zarrs reads such arrays through the codec.
        let whole_blocks = array.inner_shape()[0].is_multiple_of(BLOCK as u64);
        whole_blocks.then(|| pfor.kind(array.dtype()))
    }

    /// The array, whose blocks are of `kind`; `Corrupt` for more shards than can be.
    pub fn new(array: ZarrArray, kind: Kind) -> Result<Self> {
        let (chunk_len, per_shard) = (array.inner_shape()[0], array.per_shard()[0]);
        let n_shards = array.shape()[0].div_ceil(chunk_len.saturating_mul(per_shard));
        if n_shards > MAX_SHARDS {
            return Err(DaoError::corrupt(array.uri(), "the array claims too many shards")
                .expected(format!("at most {MAX_SHARDS}"))
                .found(n_shards));
        }
        let shards = (0..n_shards).map(|_| OnceLock::new()).collect();
        Ok(Self { array, kind, chunk_len, per_shard, shards })
    }

    /// The array, for its shape, type and path.
    pub fn array(&self) -> &ZarrArray {
        &self.array
    }

    /// Gets ready to read `ranges` (ascending): joined reads, where ranges are neighbours or each read
    /// costs a request. Others are read one by one when they are decoded.
    pub fn fetch(&self, ranges: &[Range<u64>]) -> Result<Fetched> {
        let (parts, directories) = (HashMap::new(), HashMap::new());
        let (buffer, last) = (Vec::new(), LastBlock::default());
        let mut fetched = Fetched { parts, directories, buffer, scratch: SCRATCH, last, scattered: false };
        let all = ranges.iter().flat_map(|range| runs(range.clone(), self.chunk_len));
        let filled = || ranges.iter().filter(|range| !range.is_empty());
        let (Some(first), Some(last)) = (filled().next(), filled().next_back()) else { return Ok(fetched) };
        let cheap = self.is_near(ranges)?;
        let wanted_values: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        // A row alone is read as others that lie apart: what is fetched ahead costs opening its file.
        let is_small = filled().nth(1).is_none() && wanted_values <= ALONE;
        if cheap && (is_small || last.end - first.start > 2 * wanted_values) {
            fetched.scattered = true;
            return Ok(fetched);
        }
        fetched.directories = self.fetch_directories(all.clone())?;
        for of_shard in self.blocks_of(all, &fetched.directories)?.chunk_by(|a, b| a.0 == b.0) {
            let ranges = of_shard.iter().map(|(_, range)| range.clone());
            fetched.parts.insert(of_shard[0].0, self.get(of_shard[0].0, ranges.collect(), cheap)?);
        }
        Ok(fetched)
    }

    /// Whether reading each of `ranges` (ascending) alone is cheap: whether their bytes are on this machine.
    pub fn is_near(&self, ranges: &[Range<u64>]) -> Result<bool> {
        if self.is_whole() {
            return Ok(true);
        }
        let mut whole = None;
        for run in ranges.iter().flat_map(|range| runs(range.clone(), self.chunk_len)) {
            let (number, shard, at) = self.chunk(run.chunk)?;
            // Nearly all rows lie in the shard of the row before.
            let is_whole = match whole {
                Some((last, is_whole)) if last == number => is_whole,
                _ => shard.file.random_access(),
            };
            whole = Some((number, is_whole));
            if is_whole || shard.chunk(at).is_none() {
                continue;
            }
            // Where a block lies may be known of copies elsewhere, and be far itself.
            let starts = shard.directories.get(at, run.blocks());
            if !starts.as_ref().and_then(Starts::all).is_some_and(|bytes| shard.file.has(&bytes)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether all of it is on this machine, as far as is known without asking.
    pub fn is_whole(&self) -> bool {
        self.shards.iter().all(|shard| shard.get().is_some_and(|shard| shard.file.random_access()))
    }

    /// Where the directories lie that reading `ranges` (ascending) needs and that are not kept.
    pub fn wanted_directories(&self, ranges: &[Range<u64>]) -> Result<Vec<Wanted>> {
        let all = ranges.iter().flat_map(|range| runs(range.clone(), self.chunk_len));
        let missing = self.missing_directories(all)?;
        self.of_shards(missing.into_iter().map(|(number, _, range)| (number, range)))
    }

    /// Where the bytes lie that reading `ranges` (ascending) needs, the directories read.
    pub fn wanted(&self, ranges: &[Range<u64>]) -> Result<Vec<Wanted>> {
        let all = ranges.iter().flat_map(|range| runs(range.clone(), self.chunk_len));
        let directories = self.fetch_directories(all.clone())?;
        self.of_shards(self.blocks_of(all, &directories)?.into_iter())
    }

    /// The byte ranges of each shard.
    fn of_shards(&self, ranges: impl Iterator<Item = (u64, Range<u64>)>) -> Result<Vec<Wanted>> {
        let mut wanted: Vec<(u64, Wanted)> = Vec::new();
        for (number, range) in ranges {
            match wanted.last_mut().filter(|(last, _)| *last == number) {
                Some((_, wanted)) => wanted.ranges.push(range),
                None => wanted.push((number, Wanted { path: self.shard(number)?.key.clone(), ranges: vec![range] })),
            }
        }
        Ok(wanted.into_iter().map(|(_, wanted)| wanted).collect())
    }

    /// The bytes of the blocks that each run lies in, with the number of its shard.
    fn blocks_of(
        &self,
        runs: impl Iterator<Item = Run>,
        directories: &HashMap<u64, Vec<u64>>,
    ) -> Result<Vec<(u64, Range<u64>)>> {
        let mut wanted = Vec::new();
        for run in runs {
            let (number, shard, at) = self.chunk(run.chunk)?;
            let starts = self.starts(shard, at, &run, directories)?;
            wanted.extend(starts.as_ref().and_then(Starts::all).map(|bytes| (number, bytes)));
        }
        Ok(wanted)
    }

    /// Asks for the directory entries of the values `range`, which [`Packed::will_decode`] looks at soon.
    pub fn will_locate(&self, range: &Range<u64>) {
        for run in runs(range.clone(), self.chunk_len) {
            let Ok((_, shard, at)) = self.chunk(run.chunk) else { continue };
            if shard.directories.has(at) {
                shard.directories.prefetch(at, run.blocks());
            } else if let Some(chunk) = shard.chunk(at) {
                shard.file.will_read(&self.directory_range(chunk));
            }
        }
    }

    /// Tells the storage that the values `range` are decoded soon.
    pub fn will_decode(&self, range: &Range<u64>) {
        for run in runs(range.clone(), self.chunk_len) {
            // What fails here fails when it is decoded.
            let Ok((_, shard, at)) = self.chunk(run.chunk) else { continue };
            if let Some(chunk) = shard.chunk(at).filter(|chunk| shard.directories.would_keep(at, chunk.end)) {
                let _ = self.read_directory(shard, at, chunk);
            }
            if let Some(starts) = shard.directories.get(at, run.blocks())
                && let Some(bytes) = starts.all()
            {
                shard.file.will_read(&bytes);
            }
        }
    }

    /// The directories of `runs`' chunks that are not kept: the number of the shard, the chunk's, and where each lies.
    fn missing_directories(&self, runs: impl Iterator<Item = Run>) -> Result<Vec<(u64, u64, Range<u64>)>> {
        let mut missing: Vec<(u64, u64, Range<u64>)> = Vec::new();
        for run in runs {
            let (number, shard, at) = self.chunk(run.chunk)?;
            let Some(chunk) = shard.chunk(at).filter(|_| !shard.directories.has(at)) else { continue };
            missing.push((number, run.chunk, self.directory_range(chunk)));
        }
        missing.dedup();
        Ok(missing)
    }

    /// Reads the directories of `runs`' chunks that are not kept, joined; returns those for which there is no room.
    fn fetch_directories(&self, runs: impl Iterator<Item = Run>) -> Result<HashMap<u64, Vec<u64>>> {
        let missing = self.missing_directories(runs)?;
        let mut not_kept = HashMap::new();
        for of_shard in missing.chunk_by(|a, b| a.0 == b.0) {
            let ranges = of_shard.iter().map(|(_, _, range)| range.clone());
            let cheap = self.shard(of_shard[0].0)?.file.random_access();
            let parts = self.get(of_shard[0].0, ranges.collect(), cheap)?;
            for (_, chunk, range) in of_shard {
                let (_, shard, at) = self.chunk(*chunk)?;
                let bytes = within_parts(&parts, range);
                let bytes = bytes.ok_or_else(|| self.broken(shard, Broken("a chunk is cut short")))?;
                let starts = self.keep_directory(shard, at, bytes)?;
                if !shard.directories.has(at) {
                    not_kept.insert(*chunk, starts);
                }
            }
        }
        Ok(not_kept)
    }

    /// The byte `ranges` of a shard as parts of it, ascending, each with the offset where it begins. Where reads are cheap
    /// they are joined here; else their storage does that as it costs least.
    fn get(&self, number: u64, mut ranges: Vec<Range<u64>>, cheap: bool) -> Result<Vec<(u64, Bytes)>> {
        // A shard may have its chunks in any order.
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        ranges.dedup();
        if cheap {
            ranges = coalesce(&ranges, MAX_GAP, MAX_LOCAL_READ).into_iter().map(|fetch| fetch.bytes).collect();
        }
        let parts = self.array.read(&self.shard(number)?.key, &ranges)?;
        Ok(ranges.iter().map(|range| range.start).zip(parts).collect())
    }

    /// Decodes the values `range` into `out`, which has as many. `NotFound` for a missing shard; `Corrupt` for one that
    /// is truncated or fails a checksum; `Value` for a number that `T` cannot hold.
    pub fn decode<T: Num>(&self, range: Range<u64>, out: &mut [T], fetched: &mut Fetched) -> Result<()> {
        for_dtype!(self.array.dtype(), S => {
            // The types that batches mostly have are decoded straight to their place. A decoder for each pair of
            // types would be a hundred decoders; the other pairs go by way of the stored type.
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
            let mut stored = zeros::<S>(out.len())?;
            self.decode_as::<S, S>(range, &mut stored, fetched)?;
            cast_values(&stored, out).map_err(|e| e.at(format!("path '{}'", self.array.uri())))
        })
    }

    /// Decodes as [`Packed::decode`], an array of `S` into any type that it can be cast to.
    fn decode_as<S: Num, T: Num>(&self, range: Range<u64>, mut out: &mut [T], fetched: &mut Fetched) -> Result<()> {
        for run in runs(range, self.chunk_len) {
            let (here, later) = out.split_at_mut(run.values.len());
            out = later;
            let (number, shard, at) = self.chunk(run.chunk)?;
            let Fetched { parts, directories, buffer, scratch, last, .. } = &mut *fetched;
            let starts = self.starts(shard, at, &run, directories)?;
            let Some((starts, bytes)) = starts.as_ref().and_then(|starts| Some((starts, starts.all()?))) else {
                here.fill(T::cast(self.array.fill_value::<S>()));
                continue;
            };
            let encoded = match parts.get(&number).and_then(|parts| within_parts(parts, &bytes)) {
                Some(encoded) => encoded,
                None => {
                    // The chunk lies within the file: that was checked when the index was read.
                    let len = to_usize(bytes.end - bytes.start);
                    if buffer.len() < len {
                        resize(buffer, len)?;
                    }
                    shard.file.read_at(bytes.start, &mut buffer[..len])?;
                    &buffer[..len]
                }
            };
            let mut rest = here;
            for (i, number) in run.blocks().enumerate() {
                let first = number * BLOCK;
                let block = starts.block(i).ok_or_else(|| DaoError::internal("a block without its place"))?;
                let within = |at: usize| at.clamp(first, first + BLOCK) - first;
                let wanted = within(run.values.start)..within(run.values.end);
                let (here, later) = rest.split_at_mut(wanted.len());
                rest = later;
                // The starts ascend, and the bytes are those from the first to the last of them.
                let encoded = &encoded[to_usize(block.start - bytes.start)..to_usize(block.end - bytes.start)];
                let mut decode = |wanted: Range<usize>, out: &mut [T]| {
                    codec::decode_block::<S, T>(encoded, self.kind, wanted, out, scratch)
                        .map_err(|e| self.broken(shard, e))
                };
                if wanted.len() <= FEW
                    && let Some(values) = last.get(run.chunk, number, |all| decode(0..BLOCK, all))?
                {
                    here.copy_from_slice(&values[wanted]);
                } else {
                    decode(wanted, here)?;
                }
            }
        }
        Ok(())
    }

    /// Where the blocks lie that a run needs; `None` where the chunk is left out. `fetched` are directories that were read
    /// ahead.
    fn starts<'a>(
        &self,
        shard: &'a Shard,
        at: usize,
        run: &Run,
        fetched: &HashMap<u64, Vec<u64>>,
    ) -> Result<Option<Starts<'a>>> {
        if let Some(kept) = shard.directories.get(at, run.blocks()) {
            return Ok(Some(kept));
        }
        let Some(range) = shard.chunk(at) else { return Ok(None) };
        let wanted = run.blocks();
        let wanted = wanted.start..wanted.end.saturating_add(1);
        let starts = match fetched.get(&run.chunk) {
            Some(starts) => starts.get(wanted).map(<[u64]>::to_vec),
            None => self.read_directory(shard, at, range)?.get(wanted).map(<[u64]>::to_vec),
        };
        let outside = || self.broken(shard, Broken("a block outside its chunk was asked for"));
        Ok(Some(Starts::Read(starts.ok_or_else(outside)?)))
    }

    /// The directory of the chunk `at`, which lies in `chunk`; it is kept where there is room.
    fn read_directory(&self, shard: &Shard, at: usize, chunk: &Range<u64>) -> Result<Vec<u64>> {
        let range = self.directory_range(chunk);
        let mut bytes = zeros(to_usize(range.end - range.start))?;
        shard.file.read_at(range.start, &mut bytes)?;
        self.keep_directory(shard, at, &bytes)
    }

    /// The directory in `bytes`, once it was checked; it is kept where there is room.
    fn keep_directory(&self, shard: &Shard, at: usize, bytes: &[u8]) -> Result<Vec<u64>> {
        let range = shard.chunk(at).cloned().unwrap_or(0..0);
        let starts = codec::directory(bytes, to_usize(self.chunk_len), range.end - range.start)
            .map_err(|e| self.broken(shard, e))?;
        let starts: Vec<u64> = starts.into_iter().map(|start| range.start + u64::from(start)).collect();
        shard.directories.keep(at, &starts);
        Ok(starts)
    }

    /// Where the directory of a chunk lies, as far as there is so much of the chunk.
    fn directory_range(&self, chunk: &Range<u64>) -> Range<u64> {
        let len = codec::directory_len(to_usize(self.chunk_len)) as u64;
        chunk.start..chunk.end.min(chunk.start + len)
    }

    /// The number of a chunk's shard, the shard, and which of the shard's chunks it is.
    fn chunk(&self, chunk: u64) -> Result<(u64, &Shard, usize)> {
        let number = chunk / self.per_shard;
        Ok((number, self.shard(number)?, to_usize(chunk % self.per_shard)))
    }

    /// A shard, which is opened if it was not before.
    fn shard(&self, number: u64) -> Result<&Shard> {
        let Some(slot) = self.shards.get(to_usize(number)) else {
            return Err(DaoError::corrupt(self.array.uri(), "a shard outside the array was asked for"));
        };
        if let Some(shard) = slot.get() {
            return Ok(shard);
        }
        let (key, ranges) = self.array.shard(&[number])?;
        let file = self.array.storage().file(&key)?.ok_or_else(|| self.array.missing(&key))?;
        let directories = Directories::new(ranges.len(), to_usize(self.chunk_len).div_ceil(BLOCK));
        Ok(slot.get_or_init(|| Shard { file, key, chunks: ranges, directories }))
    }

    /// The error for bytes of a shard that cannot be decoded.
    fn broken(&self, shard: &Shard, e: Broken) -> DaoError {
        self.array.broken(&shard.key, &e)
    }
}

/// The bytes of `range`, where one of `parts` (ascending) has them all.
fn within_parts<'a>(parts: &'a [(u64, Bytes)], range: &Range<u64>) -> Option<&'a [u8]> {
    let at = parts.partition_point(|(start, _)| *start <= range.start).checked_sub(1)?;
    let (start, bytes) = &parts[at];
    bytes.get(to_usize(range.start - start)..to_usize(range.end - start))
}

#[cfg(test)]
mod tests;
