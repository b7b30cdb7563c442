//! Inner chunks: read, and their wanted rows taken out of them.
//!
//! A frame of blosc is read and decoded by the blocks that wanted rows lie in, everything else whole, and what is
//! not compressed is read by rows.

use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use zarrs::array::codec::{blosc_decompress_bytes_partial, blosc_typesize, blosc_validate};

use super::compact_row::{ColumnMask, CompactRow, RowBuilder};
use super::frame::{HEAD, block_len, decodes_in_parts, part};
use super::{Dense, WantedColumns};
use crate::error::Result;
use crate::matrix::array::{ChunkEncoding, MAX_GAP, MAX_READ, StoredChunk};
use crate::matrix::decode::room;
use crate::matrix::plan::{coalesce, to_usize};
use crate::number::Num;

/// The most bytes of a frame that are decoded at once, but for a single row.
const MAX_DECODED: usize = 16 << 20;

/// An inner chunk, with as much of it read as decoding any of its rows needs.
enum DenseChunk {
    /// The chunk is not stored: all of it is fill value.
    Absent,
    /// The bytes of all values.
    Plain(Vec<u8>),
    /// Uncompressed values, in the file `key` from `start`.
    Raw { key: String, start: u64 },
    /// A frame of blosc, with the blocks that are needed at least.
    Blosc { key: String, frame: Bytes },
}

impl Dense {
    /// Decodes `rows` of one band of chunks.
    pub(super) fn band<S: Num>(
        &self,
        rows: &[u32],
        wanted: &WantedColumns,
        builders: &mut Vec<RowBuilder>,
    ) -> Result<Vec<CompactRow>> {
        let ([height, width], n_vars) = ([self.array.inner_shape()[0], self.array.inner_shape()[1]], self.shape()[1]);
        let Some(&first) = rows.first() else { return Ok(Vec::new()) };
        let band = u64::from(first) / height;
        let within: Vec<usize> = rows.iter().map(|&row| to_usize(u64::from(row) - band * height)).collect();
        builders.resize_with(builders.len().max(rows.len()), RowBuilder::default);
        let builders = &mut builders[..rows.len()];
        builders.iter_mut().try_for_each(|row| row.begin(to_usize(n_vars)))?;
        for &chunk in &wanted.chunks {
            let rows = ChunkRows {
                rows: &within,
                column: to_usize(chunk * width),
                row_len: to_usize(width) * size_of::<S>(),
                used_len: to_usize((n_vars - chunk * width).min(width)) * size_of::<S>(),
                wanted: wanted.mask.as_ref(),
            };
            match self.chunk(band, chunk, Some(&rows))? {
                DenseChunk::Absent => {
                    let fill = self.array.fill_value::<S>();
                    if fill != S::zero() {
                        let columns = rows.column..rows.column + rows.used_len / size_of::<S>();
                        builders.iter_mut().for_each(|row| row.fill(fill, columns.clone(), rows.wanted));
                    }
                }
                DenseChunk::Plain(bytes) => rows.add::<S>(0..rows.rows.len(), &bytes, 0, builders),
                DenseChunk::Raw { key, start } => self.add_raw::<S>(&key, start, &rows, builders)?,
                DenseChunk::Blosc { key, frame } => self.add_blosc::<S>(&key, &frame, &rows, builders)?,
            }
        }
        let done: Vec<CompactRow> = builders.iter().map(RowBuilder::finish::<S>).collect();
        let values: usize = done.iter().map(CompactRow::nnz).sum();
        self.seen[0].fetch_add(done.len() as u64, Ordering::Relaxed);
        self.seen[1].fetch_add(values as u64, Ordering::Relaxed);
        Ok(done)
    }

    /// Bytes of values that are decoded together, in the chunks read so far; `chunk` of `band` is read where
    /// none was.
    pub(super) fn block_len(&self, band: u64, chunk: u64) -> Result<usize> {
        if self.block_len.load(Ordering::Relaxed) == 0 {
            self.chunk(band, chunk, None)?;
        }
        Ok(self.block_len.load(Ordering::Relaxed))
    }

    /// The inner chunk of a band in a column of chunks; of a frame of blosc, the blocks that hold `rows` may be all
    /// there is.
    fn chunk(&self, band: u64, column: u64, rows: Option<&ChunkRows<'_>>) -> Result<DenseChunk> {
        let Some(StoredChunk { key, range, read }) = self.array.find(&[band, column])? else {
            return Ok(DenseChunk::Absent);
        };
        let (stored, size) = (range.end - range.start, self.array.dtype().size());
        let expected = self.array.inner_bytes() as u64;
        let raw = self.encoding == ChunkEncoding::Raw;
        if raw && stored != expected {
            return Err(self.array.broken(&key, &format!("expected {expected} bytes, found {stored}")));
        }
        let by_blocks = self.encoding == ChunkEncoding::Blosc && self.array.storage().local_root().is_some();
        let bytes = match (read, rows) {
            (Some(bytes), _) if raw => return Ok(DenseChunk::Plain(bytes.into())),
            (Some(bytes), _) => bytes,
            (None, _) if raw => return Ok(DenseChunk::Raw { key, start: range.start }),
            (None, Some(rows)) if by_blocks => self.read_blocks(&key, range, expected, rows)?,
            (None, _) => self.array.read_one(&key, range)?,
        };
        if self.encoding == ChunkEncoding::Blosc
            && blosc_validate(&bytes) == Some(to_usize(expected))
            && decodes_in_parts(&bytes, size)
        {
            self.block_len.store(block_len(&bytes), Ordering::Relaxed);
            return Ok(DenseChunk::Blosc { key, frame: bytes });
        }
        self.block_len.store(to_usize(expected), Ordering::Relaxed);
        Ok(DenseChunk::Plain(self.array.decode_bytes(&key, &bytes)?.into_owned()))
    }

    /// Reads a frame of blosc that holds `values` bytes of values, without the blocks that none of `rows` needs.
    fn read_blocks(&self, key: &str, range: Range<u64>, values: u64, rows: &ChunkRows<'_>) -> Result<Bytes> {
        let stored = range.end - range.start;
        let head = self.array.read_one(key, range.start..range.start + stored.min(HEAD))?;
        let read = |mut blocks: Vec<Range<u64>>| {
            blocks.iter_mut().for_each(|block| *block = range.start + block.start..range.start + block.end);
            self.array.read(key, &blocks)
        };
        let wanted = rows.rows.iter().map(|row| row * rows.row_len..row * rows.row_len + rows.used_len);
        // A frame that is decoded whole has to be read whole.
        let in_parts = decodes_in_parts(&head, self.array.dtype().size());
        let needed = if in_parts { part(&head, stored, values, wanted, read)? } else { None };
        needed.map_or_else(|| self.array.read_one(key, range), |frame| Ok(frame.into()))
    }

    /// Adds rows that lie in the file as they are, the chunk's first from `start`.
    fn add_raw<S: Num>(&self, key: &str, start: u64, rows: &ChunkRows<'_>, builders: &mut [RowBuilder]) -> Result<()> {
        let begins = rows.rows.iter().map(|row| start + (row * rows.row_len) as u64);
        let ranges: Vec<Range<u64>> = begins.map(|at| at..at + rows.used_len as u64).collect();
        for fetch in coalesce(&ranges, MAX_GAP, MAX_READ) {
            let read = self.array.read_one(key, fetch.bytes)?;
            let first = rows.rows[fetch.serves.start];
            rows.add::<S>(fetch.serves, &read, first, builders);
        }
        Ok(())
    }

    /// Adds rows of a frame of blosc.
    fn add_blosc<S: Num>(
        &self,
        key: &str,
        frame: &[u8],
        rows: &ChunkRows<'_>,
        builders: &mut [RowBuilder],
    ) -> Result<()> {
        let typesize = blosc_typesize(frame).unwrap_or(1);
        // c-blosc takes three blocks beside its output.
        room(block_len(frame).saturating_mul(4)).map_err(|e| self.array.broken(key, &e))?;
        for run in rows.runs(block_len(frame)) {
            let (first, last) = (rows.rows[run.start], rows.rows[run.end - 1]);
            let len = (last - first) * rows.row_len + rows.used_len;
            let decoded = blosc_decompress_bytes_partial(frame, first * rows.row_len, len, typesize);
            let decoded = decoded.map_err(|e| self.array.broken(key, &e))?;
            if decoded.len() != len {
                return Err(self.array.broken(key, &format!("expected {len} bytes, found {}", decoded.len())));
            }
            rows.add::<S>(run, &decoded, first, builders);
        }
        Ok(())
    }
}

/// The wanted rows of one chunk.
struct ChunkRows<'a> {
    /// The rows' numbers in the chunk, ascending.
    rows: &'a [usize],
    /// The chunk's first column.
    column: usize,
    /// The bytes of a row of the chunk.
    row_len: usize,
    /// The bytes of those columns of a row that the matrix has.
    used_len: usize,
    wanted: Option<&'a ColumnMask>,
}

impl ChunkRows<'_> {
    /// Runs of rows that are decoded together: each shares a block of `block` bytes with the one before.
    fn runs(&self, block: usize) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (i, &row) in self.rows.iter().enumerate() {
            match runs.last_mut() {
                Some(run)
                    if row * self.row_len / block <= (self.rows[i - 1] * self.row_len + self.used_len - 1) / block
                        && (row + 1 - self.rows[run.start]) * self.row_len <= MAX_DECODED =>
                {
                    run.end = i + 1;
                }
                _ => runs.push(i..i + 1),
            }
        }
        runs
    }

    /// Adds the rows `which`; `bytes` are the chunk's from the row `first`.
    fn add<S: Num>(&self, which: Range<usize>, bytes: &[u8], first: usize, builders: &mut [RowBuilder]) {
        for (row, builder) in self.rows[which.clone()].iter().zip(&mut builders[which]) {
            let at = (row - first) * self.row_len;
            builder.add::<S>(&bytes[at..at + self.used_len], self.column, self.wanted);
        }
    }
}
