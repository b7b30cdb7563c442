//! Inner chunks: opened as far as their rows are wanted, and those rows taken out of them.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use moka::sync::Cache;

use super::compact_row::{ColumnMask, CompactRow, RowBuilder};
use super::{DecodeScratch, Dense, Wanted};
use crate::codec::blosc::{self, Block, Frame, Scratch};
use crate::codec::{Broken, Stored};
use crate::error::Result;
use crate::matrix::array::{ChunkEncoding, MAX_GAP, MAX_READ, StoredChunk};
use crate::matrix::plan::{coalesce, to_usize};

/// Chunks of fewer bytes are read whole: a second read costs as much.
const SMALL: u64 = 128 << 10;
/// Bytes that a frame's header and the starts of its blocks are looked for in.
const HEADER_READ: u64 = 4 << 10;
/// Bytes of frame headers that a matrix keeps.
const KEPT_HEADERS: u64 = 4 << 20;

/// Headers of chunks' frames by the chunk's grid position, each with the length of the chunk it was read from.
pub type FrameHeaders = Cache<[u64; 2], (u64, Arc<Frame>)>;

/// No headers so far.
pub fn frame_headers() -> FrameHeaders {
    let weight = |_: &[u64; 2], (_, frame): &(u64, Arc<Frame>)| u32::try_from(frame.weight()).unwrap_or(u32::MAX);
    Cache::builder().max_capacity(KEPT_HEADERS).weigher(weight).build()
}

/// An inner chunk, ready to be decoded.
pub enum Chunk {
    Absent,
    /// Bytes of all values.
    Plain(Vec<u8>),
    /// Values in a file from here, as they are.
    Raw {
        key: String,
        start: u64,
    },
    /// A frame, and all of its bytes where they were read.
    Blosc {
        key: String,
        start: u64,
        frame: Arc<Frame>,
        bytes: Option<Bytes>,
    },
}

impl Dense {
    /// Decodes `rows` of one band of chunks.
    pub(super) fn band<S: Stored>(
        &self,
        rows: &[u32],
        wanted: &Wanted,
        scratch: &mut DecodeScratch,
    ) -> Result<Vec<CompactRow>> {
        let ([height, width], n_vars) = ([self.array.inner_shape()[0], self.array.inner_shape()[1]], self.shape()[1]);
        let Some(&first) = rows.first() else { return Ok(Vec::new()) };
        let band = u64::from(first) / height;
        let within: Vec<usize> = rows.iter().map(|&row| to_usize(u64::from(row) - band * height)).collect();
        let DecodeScratch { scratch, builders } = scratch;
        builders.resize_with(builders.len().max(rows.len()), RowBuilder::default);
        let builders = &mut builders[..rows.len()];
        builders.iter_mut().for_each(|row| row.begin(to_usize(n_vars)));
        for &chunk in &wanted.chunks {
            let column = to_usize(chunk * width);
            let chunk_rows = ChunkRows {
                rows: &within,
                column,
                used: to_usize((n_vars - chunk * width).min(width)),
                width: to_usize(width),
                wanted: wanted.mask.as_ref(),
            };
            match self.chunk(band, chunk, rows.len())? {
                Chunk::Absent => {
                    let fill = self.array.fill_value::<S>();
                    if fill != S::zero() {
                        builders
                            .iter_mut()
                            .for_each(|row| row.fill(fill, column..column + chunk_rows.used, chunk_rows.wanted));
                    }
                }
                Chunk::Plain(bytes) => chunk_rows.add::<S>(&Block::Plain(&bytes), 0..bytes.len(), builders),
                Chunk::Raw { key, start } => self.add_raw::<S>(&key, start, &chunk_rows, builders)?,
                Chunk::Blosc { key, start, frame, bytes } => {
                    if frame.is_copy() {
                        self.add_raw::<S>(&key, start + blosc::HEAD as u64, &chunk_rows, builders)?;
                    } else {
                        self.add_blosc::<S>(&key, start, &frame, bytes.as_ref(), &chunk_rows, builders, scratch)?;
                    }
                }
            }
        }
        let done: Vec<CompactRow> = builders.iter().map(RowBuilder::finish::<S>).collect();
        let values: usize = done.iter().map(CompactRow::nnz).sum();
        self.seen[0].fetch_add(done.len() as u64, Ordering::Relaxed);
        self.seen[1].fetch_add(values as u64, Ordering::Relaxed);
        Ok(done)
    }

    /// Adds rows that lie in the file as they are, the chunk's first from `start`.
    fn add_raw<S: Stored>(
        &self,
        key: &str,
        start: u64,
        chunk_rows: &ChunkRows<'_>,
        rows: &mut [RowBuilder],
    ) -> Result<()> {
        let size = size_of::<S>();
        let ranges: Vec<Range<u64>> = chunk_rows
            .rows
            .iter()
            .map(|row| {
                let at = start + (row * chunk_rows.width * size) as u64;
                at..at + (chunk_rows.used * size) as u64
            })
            .collect();
        for fetch in coalesce(&ranges, MAX_GAP, MAX_READ) {
            let read = self.array.read(key, std::slice::from_ref(&fetch.bytes))?;
            let read = read.first().ok_or_else(|| self.array.missing(key))?;
            for (range, row) in ranges[fetch.serves.clone()].iter().zip(&mut rows[fetch.serves]) {
                let bytes = &read[to_usize(range.start - fetch.bytes.start)..to_usize(range.end - fetch.bytes.start)];
                row.add::<S>(&Block::Plain(bytes), 0..chunk_rows.used, chunk_rows.column, chunk_rows.wanted);
            }
        }
        Ok(())
    }

    /// Adds rows of a frame that begins at `start`, by the blocks that they lie in.
    #[expect(clippy::too_many_arguments, reason = "each is one thing")]
    fn add_blosc<S: Stored>(
        &self,
        key: &str,
        start: u64,
        frame: &Frame,
        bytes: Option<&Bytes>,
        chunk_rows: &ChunkRows<'_>,
        rows: &mut [RowBuilder],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let broken = |e: Broken| self.array.broken(key, &e);
        // Each block, and how many of its bytes are wanted: `(block, upto)`.
        let mut blocks: Vec<(usize, usize)> = Vec::new();
        for row in chunk_rows.bytes::<S>() {
            let mut at = row.start;
            while at < row.end {
                let block = at / frame.block_len();
                let values = frame.values(block);
                let upto = row.end.min(values.end) - values.start;
                match blocks.last_mut() {
                    Some((last, to)) if *last == block => *to = upto,
                    _ => blocks.push((block, upto)),
                }
                at = values.end.max(at + 1);
            }
        }
        let range_of = |block: usize| {
            frame
                .bytes(block)
                .map(|bytes| start + bytes.start..start + bytes.end)
                .ok_or(Broken("a block outside its frame"))
        };
        let mut ranges = blocks
            .iter()
            .map(|&(block, _)| range_of(block))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(broken)?;
        ranges.sort_unstable_by_key(|range| range.start);
        let parts: Vec<(u64, Bytes)> = match bytes {
            Some(bytes) => vec![(start, bytes.clone())],
            None => {
                let joined: Vec<_> =
                    coalesce(&ranges, MAX_GAP, MAX_READ).into_iter().map(|fetch| fetch.bytes).collect();
                joined.iter().map(|range| range.start).zip(self.array.read(key, &joined)?).collect()
            }
        };
        for (block, upto) in blocks {
            let range = range_of(block).map_err(broken)?;
            let at = parts.partition_point(|(start, _)| *start <= range.start).saturating_sub(1);
            let encoded = parts.get(at).and_then(|(start, bytes)| {
                bytes.get(to_usize(range.start.checked_sub(*start)?)..to_usize(range.end - start))
            });
            let encoded = encoded.ok_or_else(|| broken(Broken("a block outside its frame")))?;
            let decoded = frame.decode(block, encoded, upto, scratch).map_err(broken)?;
            chunk_rows.add::<S>(&decoded, frame.values(block), rows);
        }
        Ok(())
    }

    /// An inner chunk, ready to be decoded, of which `n_rows` rows are wanted.
    pub(super) fn chunk(&self, band: u64, column: u64, n_rows: usize) -> Result<Chunk> {
        let at = [band, column];
        let (key, range, mut read) = match self.array.find(&at)? {
            StoredChunk::Absent => return Ok(Chunk::Absent),
            StoredChunk::InFile { key, range } => (key, range, None),
            StoredChunk::Read { key, bytes } => (key, 0..bytes.len() as u64, Some(bytes)),
        };
        let stored = range.end - range.start;
        let shape = self.array.inner_shape();
        let size = self.array.dtype().size();
        let expected = shape.iter().try_fold(size as u64, |all, n| all.checked_mul(*n)).unwrap_or(u64::MAX);
        if self.encoding == ChunkEncoding::Raw {
            if stored != expected {
                return Err(self.array.broken(&key, &format!("expected {expected} bytes, found {stored}")));
            }
            return Ok(match read {
                Some(bytes) => Chunk::Plain(bytes.into()),
                None => Chunk::Raw { key, start: range.start },
            });
        }
        let whole = |key: &str| -> Result<Bytes> {
            let read = self.array.read(key, std::slice::from_ref(&range))?;
            read.into_iter().next().ok_or_else(|| self.array.missing(key))
        };
        if self.encoding == ChunkEncoding::Blosc {
            let known = self.headers.get(&at).filter(|(length, _)| *length == stored).map(|(_, frame)| frame);
            let frame = match known {
                Some(frame) => Some(frame),
                None => {
                    // Most of it, or little: in one read, with what the header says.
                    if read.is_none() && (stored <= SMALL || n_rows as u64 * 2 > shape[0]) {
                        read = Some(whole(&key)?);
                    }
                    let frame = self.frame(&key, &range, read.as_ref(), to_usize(expected), size)?.map(Arc::new);
                    if let Some(frame) = &frame {
                        self.headers.insert(at, (stored, frame.clone()));
                    }
                    frame
                }
            };
            if let Some(frame) = frame {
                return Ok(Chunk::Blosc { key, start: range.start, frame, bytes: read });
            }
        }
        let bytes = match read {
            Some(bytes) => bytes,
            None => whole(&key)?,
        };
        Ok(Chunk::Plain(match self.array.decode_bytes(&key, &bytes)? {
            Cow::Owned(bytes) => bytes,
            Cow::Borrowed(bytes) => bytes.to_vec(),
        }))
    }

    /// The header of a chunk's frame; `None` for a form that is decoded whole.
    fn frame(
        &self,
        key: &str,
        range: &Range<u64>,
        bytes: Option<&Bytes>,
        expected: usize,
        size: usize,
    ) -> Result<Option<Frame>> {
        let broken = |e: Broken| self.array.broken(key, &e);
        let stored = range.end - range.start;
        let mut read;
        let mut head = bytes.map(Bytes::as_ref).unwrap_or_default();
        if bytes.is_none() {
            let part = |length: u64| range.start..range.start + stored.min(length);
            read = self.array.read(key, &[part(HEADER_READ)])?;
            let wanted = Frame::head_len(read.first().map(Bytes::as_ref).unwrap_or_default()).map_err(broken)? as u64;
            if wanted > HEADER_READ {
                read = self.array.read(key, &[part(wanted)])?;
            }
            head = read.first().map(Bytes::as_ref).unwrap_or_default();
        }
        Frame::head_len(head).map_err(broken)?;
        Frame::new(head, stored, expected, size).map_err(broken)
    }
}

/// The wanted rows of one chunk.
struct ChunkRows<'a> {
    /// The rows' numbers in the chunk, ascending.
    rows: &'a [usize],
    /// The chunk's first column.
    column: usize,
    /// How many of the chunk's columns the matrix has.
    used: usize,
    /// How many columns the chunk has.
    width: usize,
    wanted: Option<&'a ColumnMask>,
}

impl ChunkRows<'_> {
    /// The byte range of each row in the chunk.
    fn bytes<S>(&self) -> impl Iterator<Item = Range<usize>> {
        let size = size_of::<S>();
        self.rows.iter().map(move |row| row * self.width * size..(row * self.width + self.used) * size)
    }

    /// Adds what `block`, which has the chunk's bytes `held`, has of the rows.
    fn add<S: Stored>(&self, block: &Block<'_>, held: Range<usize>, rows: &mut [RowBuilder]) {
        let size = size_of::<S>();
        let first = self.rows.partition_point(|row| (row * self.width + self.used) * size <= held.start);
        for (bytes, row) in self.bytes::<S>().zip(rows).skip(first) {
            let part = bytes.start.max(held.start)..bytes.end.min(held.end);
            if part.is_empty() {
                return;
            }
            let column = self.column + (part.start - bytes.start) / size;
            row.add::<S>(block, (part.start - held.start) / size..(part.end - held.start) / size, column, self.wanted);
        }
    }
}
