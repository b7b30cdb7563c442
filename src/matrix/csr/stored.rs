//! A stored array of a CSR matrix, and any ranges of its values.

use std::ops::Range;
use std::slice::from_ref;
use std::sync::Arc;

use super::super::array::ZarrArray;
use super::super::packed::{Fetched, Packed};
use super::super::plan::{Run, runs};
use crate::error::{DaoError, Result};
use crate::number::{Num, cast_values, for_dtype, zeros};
use crate::storage::{Storage, Wanted};

/// The values of a whole array that are read at once, at least.
const READ_AT_ONCE: u64 = 1 << 20;

/// The most chunks that are read at once: each takes some memory, however few values are in it.
const MAX_CHUNKS: u64 = 1 << 20;

/// One of the arrays `indices`, `data` and `indptr`, by how it is read.
pub(super) enum StoredArray {
    /// An array in `dao_polars.pfor`: rows are decoded one by one, straight to their place.
    Packed(Packed),
    /// An array in other codecs: inner chunks are decoded one by one, and their rows put together.
    Chunked(ZarrArray),
}

/// Ranges of an array, ready to be written out one by one.
#[expect(clippy::large_enum_variant, reason = "two exist for each call of read")]
pub(super) enum ReadyRanges<'a, T> {
    Fetched(&'a Packed, Fetched),
    /// The values of the ranges, one after another.
    Decoded(Vec<T>),
}

impl StoredArray {
    pub(super) fn open(storage: &Arc<dyn Storage>, path: &str) -> Result<Self> {
        let array = ZarrArray::open(storage, path)?;
        match Packed::kind(&array) {
            Some(kind) => Packed::new(array, kind).map(Self::Packed),
            None => Ok(Self::Chunked(array)),
        }
    }

    pub(super) fn array(&self) -> &ZarrArray {
        match self {
            Self::Packed(packed) => packed.array(),
            Self::Chunked(array) => array,
        }
    }

    /// Reads what writing `ranges` (ascending) needs.
    pub(super) fn ready<T: Num>(&self, ranges: &[Range<u64>]) -> Result<ReadyRanges<'_, T>> {
        match self {
            Self::Packed(packed) => Ok(ReadyRanges::Fetched(packed, packed.fetch(ranges)?)),
            Self::Chunked(array) => gather(array, ranges).map(ReadyRanges::Decoded),
        }
    }

    /// Whether reading `ranges` (ascending) waits for no server.
    pub(super) fn is_near(&self, ranges: &[Range<u64>]) -> Result<bool> {
        match self {
            Self::Packed(packed) => packed.is_near(ranges),
            // Which of its chunks are near is for the storage to say.
            Self::Chunked(_) => Ok(false),
        }
    }

    /// Where the directories lie that [`StoredArray::wanted`] needs.
    pub(super) fn wanted_directories(&self, ranges: &[Range<u64>]) -> Result<Vec<Wanted>> {
        match self {
            Self::Packed(packed) => packed.wanted_directories(ranges),
            Self::Chunked(_) => Ok(Vec::new()),
        }
    }

    /// Where the bytes lie that reading `ranges` (ascending) needs.
    pub(super) fn wanted(&self, ranges: &[Range<u64>]) -> Result<Vec<Wanted>> {
        match self {
            Self::Packed(packed) => packed.wanted(ranges),
            Self::Chunked(array) => {
                let chunk_len = array.inner_shape().first().copied().unwrap_or(1);
                let runs = ranges.iter().flat_map(|range| runs(range.clone(), chunk_len));
                let mut chunks: Vec<Vec<u64>> = runs.map(|run| vec![run.chunk]).collect();
                chunks.dedup();
                array.wanted(&chunks)
            }
        }
    }

    /// The values `range`.
    pub(super) fn values<T: Num>(&self, range: Range<u64>) -> Result<Vec<T>> {
        let mut values = zeros(to_len(range.end - range.start)?)?;
        self.ready(from_ref(&range))?.write(range, 0, &mut values)?;
        Ok(values)
    }
}

impl<'a, T: Num> ReadyRanges<'a, T> {
    /// The array, where nothing was fetched: it is told ahead what is decoded.
    pub(super) fn told_ahead(&self) -> Option<&'a Packed> {
        match self {
            Self::Fetched(packed, fetched) if fetched.scattered => Some(packed),
            Self::Fetched(..) | Self::Decoded(_) => None,
        }
    }

    /// Writes the values `range`, before which the other ranges have `at` values.
    pub(super) fn write(&mut self, range: Range<u64>, at: usize, out: &mut [T]) -> Result<()> {
        match self {
            Self::Fetched(packed, fetched) => packed.decode(range, out, fetched),
            Self::Decoded(values) => {
                out.copy_from_slice(&values[at..at + out.len()]);
                Ok(())
            }
        }
    }
}

/// All `n` values of a one-dimensional array.
pub(in super::super) fn read_all<T: Num>(array: &ZarrArray, n: u64) -> Result<Vec<T>> {
    let mut all = zeros(to_len(n)?)?;
    // Shard after shard: what metadata claim too much of ends at the first that is not there.
    let shard_len = array.inner_shape()[0].saturating_mul(array.per_shard()[0]);
    let step = shard_len.saturating_mul(READ_AT_ONCE.div_ceil(shard_len));
    for (start, out) in (0..n).step_by(to_len(step)?).zip(all.chunks_mut(to_len(step)?)) {
        gather_into(array, from_ref(&(start..start.saturating_add(step).min(n))), out)?;
    }
    Ok(all)
}

/// The values of `ranges` (ascending) of a one-dimensional array, one after another.
fn gather<T: Num>(array: &ZarrArray, ranges: &[Range<u64>]) -> Result<Vec<T>> {
    let mut out = zeros(to_len(ranges.iter().map(|range| range.end - range.start).sum())?)?;
    gather_into(array, ranges, &mut out)?;
    Ok(out)
}

/// Writes the values of `ranges` (ascending) to `out`, which has as many.
fn gather_into<T: Num>(array: &ZarrArray, ranges: &[Range<u64>], out: &mut [T]) -> Result<()> {
    let chunk_len = array.inner_shape().first().copied().unwrap_or(1);
    if out.len() as u64 / chunk_len > MAX_CHUNKS {
        return Err(DaoError::corrupt(array.uri(), "the array's chunks are too small to be read")
            .expected(format!("at most {MAX_CHUNKS} for {} values", out.len()))
            .found(format!("chunks of {chunk_len} values")));
    }
    let runs: Vec<Run> = ranges.iter().flat_map(|range| runs(range.clone(), chunk_len)).collect();
    let by_chunk: Vec<&[Run]> = runs.chunk_by(|a, b| a.chunk == b.chunk).collect();
    let chunks: Vec<Vec<u64>> = by_chunk.iter().map(|runs| vec![runs[0].chunk]).collect();
    let mut rest = out;
    let mut place = |runs: &&[Run]| rest.split_off_mut(..runs.iter().map(|run| run.values.len()).sum());
    let mut places: Vec<&mut [T]> = by_chunk.iter().map(|runs| place(runs).unwrap_or_default()).collect();
    for_dtype!(array.dtype(), S => array.decode::<S>(&chunks, |i, values| {
        let mut place = std::mem::take(&mut places[i]);
        for run in by_chunk[i] {
            let (here, later) = place.split_at_mut(run.values.len());
            cast_values(&values[run.values.clone()], here).map_err(|e| e.at(format!("path '{}'", array.uri())))?;
            place = later;
        }
        Ok(())
    }))
}

/// A number of values as a length in memory, or an error where memory cannot hold so many.
pub(super) fn to_len(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| DaoError::value("the selection does not fit into memory"))
}
