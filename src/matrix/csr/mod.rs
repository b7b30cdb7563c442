//! Rows of anndata's `csr_matrix` encoding: arrays `data`, `indices`, `indptr`.
//!
//! Owns what must hold between the three arrays, and that no column is out of order or range.
//! The encoding: <https://anndata.readthedocs.io/en/stable/fileformat-prose.html>.

mod few;
mod offsets;

use std::ops::Range;
use std::slice::from_ref;
use std::sync::Arc;

use super::RowSink;
use super::array::ZarrArray;
use super::packed::{Fetched, Packed};
use super::plan::{Run, runs};
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Num, ascend, cast_values, for_dtype, zeros};
use crate::storage::{Held, Storage, Wanted};
use offsets::Offsets;

/// The number of rows that are put together at a time, where an array is not packed.
const STEP: usize = 4096;

/// The rows between the one that is decoded and the one whose bytes are asked for; twice as many to the one whose place
/// is.
const AHEAD: usize = 4;

/// The values of a whole array that are read at once, at least.
const READ_AT_ONCE: u64 = 1 << 20;

/// The most chunks that are read at once: each takes some memory, however few values are in it.
const MAX_CHUNKS: u64 = 1 << 20;

/// A CSR matrix whose `indptr` is in memory.
pub struct Csr {
    shape: [u64; 2],
    indptr: Offsets,
    indices: StoredArray,
    data: StoredArray,
}

/// One of the arrays `indices` and `data`, by how it is read.
enum StoredArray {
    /// An array in `dao_polars.pfor`: rows are decoded one by one, straight to their place.
    Packed(Packed),
    /// An array in other codecs: inner chunks are decoded one by one, and their rows put together.
    Chunked(ZarrArray),
}

/// Ranges of an array, ready to be written out one by one.
#[expect(clippy::large_enum_variant, reason = "two exist for each call of read")]
enum ReadyRanges<'a, T> {
    Fetched(&'a Packed, Fetched),
    /// The values of the ranges, one after another.
    Decoded(Vec<T>),
}

impl StoredArray {
    fn open(storage: &Arc<dyn Storage>, path: &str) -> Result<Self> {
        let array = ZarrArray::open(storage, path)?;
        match Packed::kind(&array) {
            Some(kind) => Packed::new(array, kind).map(Self::Packed),
            None => Ok(Self::Chunked(array)),
        }
    }

    fn array(&self) -> &ZarrArray {
        match self {
            Self::Packed(packed) => packed.array(),
            Self::Chunked(array) => array,
        }
    }

    /// Reads what writing `ranges` (ascending) needs.
    fn ready<T: Num>(&self, ranges: &[Range<u64>]) -> Result<ReadyRanges<'_, T>> {
        match self {
            Self::Packed(packed) => Ok(ReadyRanges::Fetched(packed, packed.fetch(ranges)?)),
            Self::Chunked(array) => gather(array, ranges).map(ReadyRanges::Decoded),
        }
    }

    /// Whether reading `ranges` (ascending) waits for no server.
    fn is_near(&self, ranges: &[Range<u64>]) -> Result<bool> {
        match self {
            Self::Packed(packed) => packed.is_near(ranges),
            // Which of its chunks are near is for the storage to say.
            Self::Chunked(_) => Ok(false),
        }
    }

    /// Where the directories lie that [`StoredArray::wanted`] needs.
    fn wanted_directories(&self, ranges: &[Range<u64>]) -> Result<Vec<Wanted>> {
        match self {
            Self::Packed(packed) => packed.wanted_directories(ranges),
            Self::Chunked(_) => Ok(Vec::new()),
        }
    }

    /// Where the bytes lie that reading `ranges` (ascending) needs.
    fn wanted(&self, ranges: &[Range<u64>]) -> Result<Vec<Wanted>> {
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
    fn values<T: Num>(&self, range: Range<u64>) -> Result<Vec<T>> {
        let mut values = zeros(to_len(range.end - range.start)?)?;
        self.ready(from_ref(&range))?.write(range, 0, &mut values)?;
        Ok(values)
    }
}

impl<'a, T: Num> ReadyRanges<'a, T> {
    /// The array, where nothing was fetched: it is told ahead what is decoded.
    fn told_ahead(&self) -> Option<&'a Packed> {
        match self {
            Self::Fetched(packed, fetched) if fetched.scattered => Some(packed),
            Self::Fetched(..) | Self::Decoded(_) => None,
        }
    }

    /// Writes the values `range`, before which the other ranges have `at` values.
    fn write(&mut self, range: Range<u64>, at: usize, out: &mut [T]) -> Result<()> {
        match self {
            Self::Fetched(packed, fetched) => packed.decode(range, out, fetched),
            Self::Decoded(values) => {
                out.copy_from_slice(&values[at..at + out.len()]);
                Ok(())
            }
        }
    }
}

impl Csr {
    /// Opens the three arrays and reads `indptr`, of which four bytes a row are kept; `NotFound`/`Corrupt` if they are
    /// missing or contradict each other.
    pub fn open(storage: &Arc<dyn Storage>, path: &str, shape: [u64; 2]) -> Result<Self> {
        let indices = StoredArray::open(storage, &format!("{path}/indices"))?;
        let data = StoredArray::open(storage, &format!("{path}/data"))?;
        let pointers = ZarrArray::open(storage, &format!("{path}/indptr"))?;
        let indptr = Offsets::new(read_indptr(&pointers, shape)?);
        let nnz = indptr.end();
        for array in [indices.array(), data.array()] {
            if array.shape() != [nnz] {
                return Err(DaoError::corrupt(array.uri(), "the array's length contradicts indptr")
                    .expected(format!("{nnz} values"))
                    .found(format!("shape {:?}", array.shape())));
            }
        }
        if indices.array().dtype().is_float() {
            return Err(DaoError::corrupt(indices.array().uri(), "column numbers are not integers"));
        }
        i32::try_from(shape[1])
            .map_err(|_| DaoError::value("more than 2^31 - 1 columns").at(format!("path '{path}'")))?;
        Ok(Self { shape, indptr, indices, data })
    }

    /// The numbers of rows and columns.
    pub fn shape(&self) -> [u64; 2] {
        self.shape
    }

    /// The array of values.
    pub fn array(&self) -> &ZarrArray {
        self.data.array()
    }

    /// The number type that the values are stored in.
    pub fn dtype(&self) -> Dtype {
        self.data.array().dtype()
    }

    /// The range of a row in `indices` and `data`; `None` past the end.
    fn row_range(&self, row: u32) -> Option<Range<u64>> {
        self.indptr.row(row as usize)
    }

    /// The number of stored values of a row; 0 past the end.
    pub fn row_nnz(&self, row: u32) -> u64 {
        self.row_range(row).map_or(0, |range| range.end - range.start)
    }

    /// Where a row begins in `indices` and `data`; past the end 0.
    pub fn row_start(&self, row: u32) -> u64 {
        self.row_range(row).map_or(0, |range| range.start)
    }

    /// Whether both arrays are in the codec `dao_polars.pfor`.
    pub fn is_packed(&self) -> bool {
        matches!((&self.indices, &self.data), (StoredArray::Packed(_), StoredArray::Packed(_)))
    }

    /// The number of stored values of all rows.
    pub fn nnz(&self) -> u64 {
        self.indptr.end()
    }

    /// The range, in `indices` and `data`, of `part` of a row, counted from its first; `Value` past its end.
    fn range(&self, row: u32, part: Range<u64>) -> Result<Range<u64>> {
        let all = self.row_range(row).unwrap_or(0..0);
        if part.start > part.end || part.end > all.end - all.start {
            return Err(DaoError::value(format!("values {part:?} of row {row}, which has {}", all.end - all.start))
                .at(format!("path '{}'", self.data.array().uri())));
        }
        Ok(all.start + part.start..all.start + part.end)
    }

    /// The columns of part of a row.
    pub fn columns(&self, row: u32, part: Range<u64>) -> Result<Vec<i32>> {
        let columns = self.indices.values(self.range(row, part)?)?;
        self.check_columns(row, &columns)?;
        Ok(columns)
    }

    /// The columns and values of part of a row, which may be long.
    pub fn part<T: Num>(&self, row: u32, part: Range<u64>) -> Result<(Vec<i32>, Vec<T>)> {
        Ok((self.columns(row, part.clone())?, self.data.values(self.range(row, part)?)?))
    }

    /// Whether rows are decoded one by one; see [`super::Matrix::reads_rows`].
    pub fn reads_rows(&self) -> bool {
        self.is_packed() && !self.is_remote()
    }

    /// Whether values or columns are on another machine, as far as is known without asking.
    pub fn is_remote(&self) -> bool {
        let is_whole = |array: &StoredArray| matches!(array, StoredArray::Packed(packed) if packed.is_whole());
        self.array().storage().local_root().is_none() && ![&self.indices, &self.data].into_iter().all(is_whole)
    }

    /// Begins to read where rows (ascending) lie; see [`super::Matrix::locate_ahead`].
    pub fn locate_ahead(&self, rows: &[u32], wanted: Option<&[bool]>) -> Result<Option<Box<dyn Held>>> {
        if !self.is_remote() {
            return Ok(None);
        }
        let ranges = self.row_ranges(rows);
        self.locate(&self.arrays_ahead(&ranges, wanted), &ranges)
    }

    /// Begins to read rows (ascending) that are decoded soon; see [`super::Matrix::read_ahead`].
    pub fn read_ahead(&self, rows: &[u32], wanted: Option<&[bool]>) -> Result<Option<Box<dyn Held>>> {
        if self.is_remote() { self.ask(&self.row_ranges(rows), wanted) } else { Ok(None) }
    }

    fn row_ranges(&self, rows: &[u32]) -> Vec<Range<u64>> {
        rows.iter().filter_map(|&row| self.row_range(row)).collect()
    }

    fn locate(&self, arrays: &[&StoredArray], ranges: &[Range<u64>]) -> Result<Option<Box<dyn Held>>> {
        let directories = arrays.iter().map(|array| array.wanted_directories(ranges)).collect::<Result<Vec<_>>>()?;
        self.array().storage().read_ahead(directories.concat())
    }

    /// Begins to read what rows in `ranges` need, unless it is here.
    fn ask(&self, ranges: &[Range<u64>], wanted: Option<&[bool]>) -> Result<Option<Box<dyn Held>>> {
        let arrays = self.arrays_ahead(ranges, wanted);
        if arrays.iter().map(|array| array.is_near(ranges)).collect::<Result<Vec<_>>>()?.iter().all(|&near| near) {
            return Ok(None);
        }
        let _directories = self.locate(&arrays, ranges)?;
        let values = arrays.iter().map(|array| array.wanted(ranges)).collect::<Result<Vec<_>>>()?;
        self.array().storage().read_ahead(values.concat())
    }

    /// The arrays that are read ahead: columns and values together, unless it depends on the columns which values are needed.
    fn arrays_ahead(&self, ranges: &[Range<u64>], wanted: Option<&[bool]>) -> Vec<&StoredArray> {
        let looks_first = wanted.is_some_and(|wanted| self.looks_first(ranges, wanted));
        if looks_first { vec![&self.indices] } else { vec![&self.indices, &self.data] }
    }

    /// Decodes rows into `sink`; see [`super::Matrix::read`].
    pub fn read<T: Num>(&self, rows: &[u32], wanted: Option<&[bool]>, sink: &mut dyn RowSink<T>) -> Result<()> {
        let range = |&row: &u32| {
            self.row_range(row).ok_or_else(|| {
                DaoError::value(format!("row {row} was asked for and the matrix has {}", self.shape[0]))
                    .at(format!("path '{}'", self.data.array().uri()))
                    .hint("the frame belongs to another state of this store")
            })
        };
        let ranges: Vec<Range<u64>> = rows.iter().map(range).collect::<Result<_>>()?;
        // Columns and values are asked for together.
        let _held = if self.is_remote() { self.ask(&ranges, wanted)? } else { None };
        if let Some(wanted) = wanted.filter(|wanted| self.looks_first(&ranges, wanted)) {
            return self.read_few(rows, &ranges, wanted, sink);
        }
        let step = if self.is_packed() { rows.len().max(1) } else { STEP };
        for (number, (rows, ranges)) in rows.chunks(step).zip(ranges.chunks(step)).enumerate() {
            let (mut indices, mut data) = (self.indices.ready(ranges)?, self.data.ready(ranges)?);
            let told_ahead = [indices.told_ahead(), data.told_ahead()];
            let mut at = 0;
            for (i, (&row, range)) in rows.iter().zip(ranges).enumerate() {
                let nnz = to_len(range.end - range.start)?;
                if let Some(range) = ranges.get(i + 2 * AHEAD) {
                    told_ahead.iter().flatten().for_each(|array| array.will_locate(range));
                }
                // One after the other: the processor waits for some twenty lines at a time, and no more.
                let will_decode = |array: Option<&Packed>| {
                    if let (Some(array), Some(range)) = (array, ranges.get(i + AHEAD)) {
                        array.will_decode(range);
                    }
                };
                will_decode(told_ahead[0]);
                sink.row(number * step + i, nnz, &mut |columns, values| {
                    indices.write(range.clone(), at, columns)?;
                    self.check_columns(row, columns)?;
                    will_decode(told_ahead[1]);
                    data.write(range.clone(), at, values)
                })?;
                at += nnz;
            }
        }
        Ok(())
    }

    /// Refuses columns that do not ascend within their row or lie outside the matrix: values would land on
    /// wrong genes.
    fn check_columns(&self, row: u32, columns: &[i32]) -> Result<()> {
        let n_vars = i32::try_from(self.shape[1]).unwrap_or(i32::MAX);
        if ascend(columns) && columns.first().is_none_or(|&c| c >= 0) && columns.last().is_none_or(|&c| c < n_vars) {
            return Ok(());
        }
        Err(DaoError::corrupt(self.indices.array().uri(), "column numbers of a row are out of order or out of range")
            .at(format!("row {row}"))
            .expected(format!("ascending numbers below {n_vars}"))
            .hint("restore the dataset from a copy, or write it again"))
    }
}

/// All `n` values of a one-dimensional array.
pub fn read_all<T: Num>(array: &ZarrArray, n: u64) -> Result<Vec<T>> {
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

/// Reads `indptr`, which must ascend from 0, by no more than there are columns.
fn read_indptr(array: &ZarrArray, [n_obs, n_vars]: [u64; 2]) -> Result<Vec<u64>> {
    let wrong = |what: &str| DaoError::corrupt(array.uri(), what.to_owned());
    let len = n_obs.saturating_add(1);
    if array.shape() != [len] {
        return Err(wrong("indptr has the wrong length")
            .expected(format!("{len} values"))
            .found(format!("shape {:?}", array.shape())));
    }
    let indptr: Vec<u64> = read_all(array, len)?;
    if indptr.first() != Some(&0) || indptr.windows(2).any(|pair| pair[0] > pair[1]) {
        return Err(wrong("indptr does not ascend from 0"));
    }
    // What is read of a row, and where, is as long as is said here.
    if let Some(row) = indptr.windows(2).position(|pair| pair[1] - pair[0] > n_vars) {
        return Err(wrong("a row has more values than columns")
            .at(format!("row {row}"))
            .expected(format!("at most {n_vars}"))
            .found(indptr[row + 1] - indptr[row]));
    }
    Ok(indptr)
}

/// A number of values as a length in memory, or an error where memory cannot hold so many.
fn to_len(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| DaoError::value("the selection does not fit into memory"))
}

#[cfg(test)]
mod tests;
