//! Rows of one two-dimensional array, of any chunking: sfaira's matrices, and `obsm`.
//!
//! What is decoded is the blocks of blosc that wanted rows lie in, the rows alone of chunks that are
//! not compressed, and whole chunks otherwise. Rows become small before they are written out (see
//! [`super::row`]); those that were decoded along with wanted ones are kept in a [`Cache`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::Sink;
use super::array::{Coding, Found, MAX_GAP, MAX_READ, ZarrArray};
use super::cache::Cache;
use super::plan::coalesce;
use super::row::{self, Bits, Building, Row};
use crate::codec::blosc::{self, Block, Frame, Scratch};
use crate::codec::{Broken, Stored};
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Num, for_dtype};
use crate::storage::Storage;

/// Chunks of fewer bytes are read whole: a second read costs as much.
const SMALL: u64 = 128 << 10;
/// Bytes that a frame's header and the starts of its blocks are looked for in.
const HEAD: u64 = 4 << 10;
/// Bytes of headers that are kept.
const KEPT_HEADERS: usize = 4 << 20;

/// A dense matrix.
pub struct Dense {
    array: ZarrArray,
    coding: Coding,
    headers: Mutex<Headers>,
    /// Rows and values met so far, for [`Dense::row_bytes`].
    seen: [AtomicU64; 2],
}

/// Headers of chunks' frames, with the length of the chunk that they were read from.
#[derive(Default)]
struct Headers {
    known: HashMap<[u64; 2], (u64, Arc<Frame>)>,
    bytes: usize,
}

/// An inner chunk, ready to be decoded.
enum Chunk {
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

/// What a thread decodes with.
#[derive(Default)]
struct Room {
    scratch: Scratch,
    building: Vec<Building>,
}

/// Columns that are wanted, and the column chunks that have some.
struct Wanted {
    bits: Option<Bits>,
    chunks: Vec<u64>,
}

impl Dense {
    /// Opens the array at `path`.
    ///
    /// # Errors
    /// `NotFound`/`Corrupt` if it is missing, or not two-dimensional.
    pub fn open(storage: &Arc<dyn Storage>, path: &str) -> Result<Self> {
        let array = ZarrArray::open(storage, path)?;
        if array.shape().len() != 2 || i32::try_from(array.shape()[1]).is_err() {
            return Err(DaoError::corrupt(array.place(), "not a matrix")
                .expected("two axes, fewer than 2^31 columns")
                .found(format!("shape {:?}", array.shape())));
        }
        Ok(Self { coding: array.coding(), array, headers: Mutex::default(), seen: Default::default() })
    }

    pub fn shape(&self) -> [u64; 2] {
        [self.array.shape()[0], self.array.shape()[1]]
    }

    pub fn dtype(&self) -> Dtype {
        self.array.dtype()
    }

    /// Bytes of a row's columns and values, by those met so far; before that, for one value in eight.
    pub fn row_bytes(&self) -> u64 {
        let [rows, values] = [0, 1].map(|i| self.seen[i].load(Ordering::Relaxed));
        let mean = values.checked_div(rows).unwrap_or(self.shape()[1] / 8);
        12 * (mean + mean / 4 + 1).min(self.shape()[1].max(1))
    }

    /// Whether rows are decoded along with others.
    pub fn keeps_rows(&self) -> bool {
        self.coding != Coding::Raw
    }

    /// See [`super::Matrix::read`]. Values other than zero are kept, NaN among them.
    pub fn read<T: Num>(
        &self,
        rows: &[u32],
        wanted: Option<&[bool]>,
        cache: Option<(&Cache, u32)>,
        sink: &mut dyn Sink<T>,
    ) -> Result<()> {
        for_dtype!(self.array.dtype(), S => self.read_stored::<S, T>(rows, wanted, cache, sink))
    }

    fn read_stored<S: Stored, T: Num>(
        &self,
        rows: &[u32],
        wanted: Option<&[bool]>,
        cache: Option<(&Cache, u32)>,
        sink: &mut dyn Sink<T>,
    ) -> Result<()> {
        let [n_obs, n_vars] = self.shape();
        if let Some(row) = rows.iter().find(|&&row| u64::from(row) >= n_obs) {
            return Err(DaoError::value(format!("row {row} was asked for and the matrix has {n_obs}"))
                .at(format!("path '{}'", self.array.place())));
        }
        let n_columns = len(n_vars)?;
        let wanted = self.wanted(wanted);
        let cache = cache.filter(|_| self.keeps_rows());
        let mut stored = Vec::new();
        let mut room = Room::default();
        let Some((cache, number)) = cache else {
            // Piece by piece: `rows` may be all of the matrix.
            let height = self.array.inner_shape()[0];
            let mut next = 0;
            for band in rows.chunk_by(|a, b| u64::from(*a) / height == u64::from(*b) / height) {
                for part in band.chunks(1024) {
                    let decoded = self.band::<S>(part, &wanted, &mut room)?;
                    for decoded in &decoded {
                        self.give::<S, T>(next, decoded, n_columns, sink, &mut stored)?;
                        next += 1;
                    }
                }
            }
            return Ok(());
        };
        let decoded = self.through_cache::<S>(rows, &wanted, cache, number, &mut room)?;
        for (i, row) in decoded.iter().enumerate() {
            let Some(row) = row else { continue };
            self.give::<S, T>(i, row, n_columns, sink, &mut stored)?;
        }
        Ok(())
    }

    fn give<S: Num, T: Num>(
        &self,
        i: usize,
        row: &Row,
        n_columns: usize,
        sink: &mut dyn Sink<T>,
        stored: &mut Vec<S>,
    ) -> Result<()> {
        sink.row(i, row::nnz(row), &mut |columns, values| {
            row::write::<S, T>(row, n_columns, columns, values, stored)
                .map_err(|e| e.at(format!("path '{}'", self.array.place())))
        })
    }

    fn wanted(&self, wanted: Option<&[bool]>) -> Wanted {
        let (n_vars, width) = (self.shape()[1], self.array.inner_shape()[1]);
        let used = |&chunk: &u64| {
            let Some(wanted) = wanted else { return true };
            let columns = to_usize(chunk * width)..to_usize(((chunk + 1) * width).min(n_vars));
            wanted.get(columns).is_none_or(|part| part.contains(&true))
        };
        let chunks = (0..n_vars.div_ceil(width)).filter(used).collect();
        Wanted { bits: wanted.filter(|wanted| wanted.contains(&false)).map(Bits::new), chunks }
    }

    /// The rows, from the cache or decoded; what is decoded along with them goes there.
    fn through_cache<S: Stored>(
        &self,
        rows: &[u32],
        wanted: &Wanted,
        cache: &Cache,
        number: u32,
        room: &mut Room,
    ) -> Result<Vec<Option<Row>>> {
        let key = |row: u32| u64::from(number) << 32 | u64::from(row);
        let height = self.array.inner_shape()[0];
        let mut all: Vec<Option<Row>> = vec![None; rows.len()];
        let mut start = 0;
        let mut bands: Vec<Range<usize>> = rows
            .chunk_by(|a, b| u64::from(*a) / height == u64::from(*b) / height)
            .map(|band| {
                start += band.len();
                start - band.len()..start
            })
            .collect();
        let scattered = rows.len() < 2 || ((rows[rows.len() - 1] - rows[0]) as usize) / 2 > rows.len();
        if scattered && !bands.is_empty() {
            // Threads that read at the same time go through the same chunks: each begins elsewhere.
            let n = bands.len();
            bands.rotate_left(cache.turn().wrapping_mul(n * 5 / 8 + 1) % n);
        }
        for wait in [false, true] {
            let mut later = Vec::new();
            for band in bands {
                let (rows, got) = (&rows[band.clone()], &mut all[band.clone()]);
                cache.get(rows.iter().map(|&row| key(row)), got);
                if got.iter().all(Option::is_some) {
                    continue;
                }
                let Some(_claim) = cache.claim((number, u64::from(rows[0]) / height), wait) else {
                    later.push(band);
                    continue;
                };
                if wait {
                    cache.get(rows.iter().map(|&row| key(row)), got);
                }
                let missing: Vec<u32> =
                    rows.iter().zip(&*got).filter(|(_, got)| got.is_none()).map(|(&row, _)| row).collect();
                if missing.is_empty() {
                    continue;
                }
                let more = self.neighbours(&missing, wanted, cache, number)?;
                let decoded = self.band::<S>(&more, wanted, room)?;
                for (to, row) in got.iter_mut().zip(rows) {
                    if to.is_none()
                        && let Ok(at) = more.binary_search(row)
                    {
                        *to = Some(decoded[at].clone());
                    }
                }
                cache.put(
                    more.iter()
                        .zip(decoded)
                        .map(|(&row, decoded)| (key(row), decoded, missing.binary_search(&row).is_ok())),
                );
            }
            bands = later;
        }
        Ok(all)
    }

    /// `rows` of one band, and those that cost little more to decode, as many as the cache has room for.
    fn neighbours(&self, rows: &[u32], wanted: &Wanted, cache: &Cache, number: u32) -> Result<Vec<u32>> {
        let [height, width] = self.array.inner_shape()[..] else { return Ok(rows.to_vec()) };
        let row_len = to_usize(width) * self.array.dtype().size();
        let Some(&first) = rows.first() else { return Ok(Vec::new()) };
        let (band, chunk) = (u64::from(first) / height, wanted.chunks.first().copied());
        let block = match (self.coding, chunk) {
            (_, None) | (Coding::Raw, _) => return Ok(rows.to_vec()),
            (Coding::Blosc, Some(chunk)) => match self.chunk(band, chunk, rows.len())? {
                Chunk::Blosc { frame, .. } if frame.is_copy() => return Ok(rows.to_vec()),
                Chunk::Blosc { frame, .. } => frame.block_len(),
                Chunk::Absent => return Ok(rows.to_vec()),
                _ => usize::MAX,
            },
            (Coding::Other, _) => usize::MAX,
        };
        let start = band * height;
        let n = to_usize(height.min(self.shape()[0] - start));
        // Rows that lie wholly in blocks which are decoded anyway.
        let mut more = vec![false; n];
        for &row in rows {
            let at = to_usize(u64::from(row) - start);
            let blocks = at * row_len / block..=((at + 1) * row_len - 1) / block;
            let first = (blocks.start() * block).div_ceil(row_len);
            let end = (blocks.end() + 1).saturating_mul(block) / row_len;
            more[first.min(at)..end.clamp(at + 1, n)].fill(true);
        }
        let number_of = |at: usize| u32::try_from(start + at as u64).unwrap_or(u32::MAX);
        let candidates: Vec<u32> = (0..n).filter(|&at| more[at]).map(number_of).collect();
        let missing = cache.missing(candidates.iter().map(|&row| u64::from(number) << 32 | u64::from(row)));
        // What a row takes there: see `super::row`.
        let weight = to_usize(self.shape()[1] / 8 + self.row_bytes() / 6) + 128;
        let mut left = cache.room() / weight;
        let mut refused = 0;
        let mut next = rows.iter().peekable();
        let chosen = candidates.into_iter().zip(missing).filter(|&(row, missing)| {
            if next.next_if_eq(&&row).is_some() {
                return true;
            }
            let keep = missing && left > 0;
            left -= usize::from(keep);
            refused += usize::from(missing && !keep);
            keep
        });
        let chosen = chosen.map(|(row, _)| row).collect();
        if refused > 0 {
            cache.refused(refused * weight);
        }
        Ok(chosen)
    }

    /// Decodes `rows` of one band of chunks.
    fn band<S: Stored>(&self, rows: &[u32], wanted: &Wanted, room: &mut Room) -> Result<Vec<Row>> {
        let ([height, width], n_vars) = ([self.array.inner_shape()[0], self.array.inner_shape()[1]], self.shape()[1]);
        let Some(&first) = rows.first() else { return Ok(Vec::new()) };
        let band = u64::from(first) / height;
        let within: Vec<usize> = rows.iter().map(|&row| to_usize(u64::from(row) - band * height)).collect();
        let Room { scratch, building } = room;
        building.resize_with(building.len().max(rows.len()), Building::default);
        let building = &mut building[..rows.len()];
        building.iter_mut().for_each(|row| row.begin(to_usize(n_vars)));
        for &chunk in &wanted.chunks {
            let column = to_usize(chunk * width);
            let place = Place {
                rows: &within,
                column,
                used: to_usize((n_vars - chunk * width).min(width)),
                width: to_usize(width),
                wanted: wanted.bits.as_ref(),
            };
            match self.chunk(band, chunk, rows.len())? {
                Chunk::Absent => {
                    let fill = self.array.fill_value::<S>();
                    if fill != S::zero() {
                        building.iter_mut().for_each(|row| row.fill(fill, column..column + place.used, place.wanted));
                    }
                }
                Chunk::Plain(bytes) => place.add::<S>(&Block::Plain(&bytes), 0..bytes.len(), building),
                Chunk::Raw { key, start } => self.add_raw::<S>(&key, start, &place, building)?,
                Chunk::Blosc { key, start, frame, bytes } => {
                    if frame.is_copy() {
                        self.add_raw::<S>(&key, start + blosc::HEAD as u64, &place, building)?;
                    } else {
                        self.add_blosc::<S>(&key, start, &frame, bytes.as_ref(), &place, building, scratch)?;
                    }
                }
            }
        }
        let done: Vec<Row> = building.iter().map(Building::finish::<S>).collect();
        let values: usize = done.iter().map(row::nnz).sum();
        self.seen[0].fetch_add(done.len() as u64, Ordering::Relaxed);
        self.seen[1].fetch_add(values as u64, Ordering::Relaxed);
        Ok(done)
    }

    /// Rows as they lie in the file.
    fn add_raw<S: Stored>(&self, key: &str, start: u64, place: &Place<'_>, rows: &mut [Building]) -> Result<()> {
        let size = size_of::<S>();
        let ranges: Vec<Range<u64>> = place
            .rows
            .iter()
            .map(|row| {
                let at = start + (row * place.width * size) as u64;
                at..at + (place.used * size) as u64
            })
            .collect();
        for fetch in coalesce(&ranges, MAX_GAP, MAX_READ) {
            let read = self.array.read(key, std::slice::from_ref(&fetch.bytes))?;
            let read = read.first().ok_or_else(|| self.array.missing(key))?;
            for (range, row) in ranges[fetch.serves.clone()].iter().zip(&mut rows[fetch.serves]) {
                let bytes = &read[to_usize(range.start - fetch.bytes.start)..to_usize(range.end - fetch.bytes.start)];
                row.add::<S>(&Block::Plain(bytes), 0..place.used, place.column, place.wanted);
            }
        }
        Ok(())
    }

    /// Rows by the blocks that they lie in.
    #[expect(clippy::too_many_arguments, reason = "each is one thing")]
    fn add_blosc<S: Stored>(
        &self,
        key: &str,
        start: u64,
        frame: &Frame,
        bytes: Option<&Bytes>,
        place: &Place<'_>,
        rows: &mut [Building],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let broken = |e: Broken| self.array.broken(key, &e);
        // Each block, and how much of it.
        let mut blocks: Vec<(usize, usize)> = Vec::new();
        for row in place.bytes::<S>() {
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
        let place_of = |block: usize| {
            frame
                .bytes(block)
                .map(|bytes| start + bytes.start..start + bytes.end)
                .ok_or(Broken("a block outside its frame"))
        };
        let mut ranges = blocks
            .iter()
            .map(|&(block, _)| place_of(block))
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
            let range = place_of(block).map_err(broken)?;
            let at = parts.partition_point(|(start, _)| *start <= range.start).saturating_sub(1);
            let encoded = parts.get(at).and_then(|(start, bytes)| {
                bytes.get(to_usize(range.start.checked_sub(*start)?)..to_usize(range.end - start))
            });
            let encoded = encoded.ok_or_else(|| broken(Broken("a block outside its frame")))?;
            let decoded = frame.decode(block, encoded, upto, scratch).map_err(broken)?;
            place.add::<S>(&decoded, frame.values(block), rows);
        }
        Ok(())
    }

    /// An inner chunk, of which `n_rows` rows are wanted.
    fn chunk(&self, band: u64, column: u64, n_rows: usize) -> Result<Chunk> {
        let at = [band, column];
        let (key, range, mut read) = match self.array.find(&at)? {
            Found::Absent => return Ok(Chunk::Absent),
            Found::At(key, range) => (key, range, None),
            Found::Read(key, bytes) => (key, 0..bytes.len() as u64, Some(bytes)),
        };
        let stored = range.end - range.start;
        let shape = self.array.inner_shape();
        let size = self.array.dtype().size();
        let expected = shape.iter().try_fold(size as u64, |all, n| all.checked_mul(*n)).unwrap_or(u64::MAX);
        if self.coding == Coding::Raw {
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
        if self.coding == Coding::Blosc {
            let known =
                self.lock().known.get(&at).filter(|(length, _)| *length == stored).map(|(_, frame)| frame.clone());
            let frame = match known {
                Some(frame) => Some(frame),
                None => {
                    // Most of it, or little: in one read, with what the header says.
                    if read.is_none() && (stored <= SMALL || n_rows as u64 * 2 > shape[0]) {
                        read = Some(whole(&key)?);
                    }
                    let frame = self.frame(&key, &range, read.as_ref(), to_usize(expected), size)?.map(Arc::new);
                    if let Some(frame) = &frame {
                        let mut headers = self.lock();
                        if headers.bytes > KEPT_HEADERS {
                            *headers = Headers::default();
                        }
                        headers.bytes += frame.weight();
                        headers.known.insert(at, (stored, frame.clone()));
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
            read = self.array.read(key, &[part(HEAD)])?;
            let wanted = Frame::head_len(read.first().map(Bytes::as_ref).unwrap_or_default()).map_err(broken)? as u64;
            if wanted > HEAD {
                read = self.array.read(key, &[part(wanted)])?;
            }
            head = read.first().map(Bytes::as_ref).unwrap_or_default();
        }
        Frame::head_len(head).map_err(broken)?;
        Frame::new(head, stored, expected, size).map_err(broken)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Headers> {
        // Whole at every point where a panic could be.
        self.headers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows of a chunk.
struct Place<'a> {
    /// Their numbers in the chunk, ascending.
    rows: &'a [usize],
    /// The chunk's first column.
    column: usize,
    /// How many of its columns the matrix has.
    used: usize,
    /// How many it has.
    width: usize,
    wanted: Option<&'a Bits>,
}

impl Place<'_> {
    /// The rows' bytes in the chunk.
    fn bytes<S>(&self) -> impl Iterator<Item = Range<usize>> {
        let size = size_of::<S>();
        self.rows.iter().map(move |row| row * self.width * size..(row * self.width + self.used) * size)
    }

    /// Adds what `block`, which has the chunk's bytes `held`, has of the rows.
    fn add<S: Stored>(&self, block: &Block<'_>, held: Range<usize>, rows: &mut [Building]) {
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

fn len(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| DaoError::value("the matrix is too large for this machine"))
}

/// For numbers of things in memory; past it, one that finds nothing.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zarrs::array::codec::{BloscCompressionLevel, BloscCompressor, BloscShuffleMode, blosc_compress_bytes};

    use super::*;
    use crate::matrix::Rows;

    /// How a test's chunks are compressed; blosc with a block size, or not at all.
    type Compression = Option<(BloscCompressor, BloscShuffleMode, usize)>;

    fn compression() -> impl Strategy<Value = Compression> {
        use BloscCompressor::{BloscLZ, LZ4, LZ4HC, Snappy, Zlib, Zstd};
        use BloscShuffleMode::{BitShuffle, NoShuffle, Shuffle};
        let compressor = prop::sample::select(vec![LZ4, Zstd, LZ4, Zstd, LZ4HC, Snappy, BloscLZ, Zlib]);
        let shuffle = prop::sample::select(vec![NoShuffle, Shuffle, BitShuffle]);
        prop::option::weighted(0.9, (compressor, shuffle, prop::sample::select(vec![0, 128, 1000, 4096])))
    }

    fn dtype<S: Num>() -> &'static str {
        match S::DTYPE {
            Dtype::U8 => "|u1",
            Dtype::I16 => "<i2",
            Dtype::F32 => "<f4",
            Dtype::F64 => "<f8",
            _ => "<i8",
        }
    }

    fn write<S: Num>(folder: &std::path::Path, values: &[Vec<S>], chunks: [usize; 2], compression: Compression) {
        let shape = [values.len(), values[0].len()];
        let id = compression
            .map(|_| serde_json::json!({"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}));
        let head = serde_json::json!({
            "zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": dtype::<S>(), "order": "C",
            "fill_value": 0, "filters": null, "compressor": id,
        });
        std::fs::write(folder.join(".zarray"), head.to_string()).unwrap();
        for i in 0..shape[0].div_ceil(chunks[0]) {
            for j in 0..shape[1].div_ceil(chunks[1]) {
                let value = |at: usize| {
                    let (row, column) = (i * chunks[0] + at / chunks[1], j * chunks[1] + at % chunks[1]);
                    values.get(row).and_then(|row| row.get(column)).copied().unwrap_or(S::one())
                };
                let chunk: Vec<S> = (0..chunks[0] * chunks[1]).map(value).collect();
                let mut bytes = bytemuck::cast_slice(&chunk).to_vec();
                if let Some((compressor, shuffle, block)) = compression {
                    let level = BloscCompressionLevel::try_from(5).unwrap();
                    bytes = blosc_compress_bytes(&bytes, level, shuffle, size_of::<S>(), compressor, block, 1).unwrap();
                }
                std::fs::write(folder.join(format!("{i}.{j}")), bytes).unwrap();
            }
        }
    }

    fn open(folder: &std::path::Path) -> Dense {
        let (root, name) = (folder.parent().unwrap(), folder.file_name().unwrap());
        let storage: Arc<dyn Storage> = Arc::new(crate::storage::Local::new(root).unwrap());
        Dense::open(&storage, name.to_str().unwrap()).unwrap()
    }

    /// Rows as columns and bits.
    fn shown<S: Num>(rows: &Rows<S>) -> Vec<Vec<(i32, Vec<u8>)>> {
        let row = |ends: &[usize]| {
            (ends[0]..ends[1]).map(|i| (rows.indices[i], bytemuck::bytes_of(&rows.data[i]).to_vec())).collect()
        };
        rows.indptr.windows(2).map(row).collect()
    }

    fn comes_back<S: Num + Stored>(
        values: &[Vec<S>],
        chunks: [usize; 2],
        compression: Compression,
        reads: &[Vec<u32>],
        wanted: Option<&[bool]>,
        limit: usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), values, chunks, compression);
        let dense = open(folder.path());
        let cache = Cache::default();
        cache.limit(limit);
        for rows in reads {
            let expected: Vec<Vec<(i32, Vec<u8>)>> = rows
                .iter()
                .map(|&row| {
                    let columns = (0_i32..).zip(&values[row as usize]);
                    let columns = columns
                        .filter(|&(column, value)| *value != S::zero() && wanted.is_none_or(|w| w[column as usize]));
                    columns.map(|(column, value)| (column, bytemuck::bytes_of(value).to_vec())).collect()
                })
                .collect();
            for cache in [None, Some((&cache, 7)), Some((&cache, 7))] {
                let mut got = Rows::<S>::empty();
                dense.read(rows, wanted, cache, &mut got).unwrap();
                assert_eq!(shown(&got), expected, "{cache:?}", cache = cache.is_some());
            }
        }
    }

    fn number<S: Num>(wide: u64, special: bool) -> S {
        let specials = [f64::NAN, -0.0, 0.5, 255.0, 256.0, -1.0, f64::INFINITY, 1e-310, 254.0, 40_000.0];
        match (special, S::DTYPE) {
            (true, Dtype::F32 | Dtype::F64) => S::of(specials[usize::try_from(wide % 64).unwrap() % specials.len()]),
            (true, _) => S::of(wide),
            _ => S::of(wide % 7),
        }
    }

    proptest! {
        #[test]
        fn rows_are_those_of_the_array(
            shape in (1_usize..70, 1_usize..400), chunks in (1_usize..40, 1_usize..450), compression in compression(),
            seed: u64, density in 0.0..0.3, kind in 0..5, limit in prop::sample::select(vec![0, 2000, 1 << 20]),
            reads in prop::collection::vec(prop::collection::btree_set(0_u32..70, 0..30), 1..4),
            wanted in prop::option::of((0_usize..400, 0_usize..400)),
        ) {
            let mut state = seed;
            let mut next = || { state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407); state >> 20 };
            let words: Vec<Vec<Option<(u64, bool)>>> = (0..shape.0).map(|_| (0..shape.1).map(|_| {
                ((next() % 1000) as f64 / 1000.0 < density).then(|| (next(), next() % 4 == 0))
            }).collect()).collect();
            let reads: Vec<Vec<u32>> = reads.into_iter()
                .map(|rows| rows.into_iter().filter(|&row| (row as usize) < shape.0).collect()).collect();
            let wanted: Option<Vec<bool>> = wanted.map(|(a, b)| (0..shape.1).map(|i| (a.min(b)..a.max(b)).contains(&i) || i % 50 == 3).collect());
            let chunks = [chunks.0, chunks.1];
            fn of<S: Num>(words: &[Vec<Option<(u64, bool)>>]) -> Vec<Vec<S>> {
                words.iter().map(|row| row.iter().map(|v| v.map_or(S::zero(), |(v, special)| number(v, special))).collect()).collect()
            }
            match kind {
                0 => comes_back::<u8>(&of(&words), chunks, compression, &reads, wanted.as_deref(), limit),
                1 => comes_back::<i16>(&of(&words), chunks, compression, &reads, wanted.as_deref(), limit),
                2 => comes_back::<f32>(&of(&words), chunks, compression, &reads, wanted.as_deref(), limit),
                3 => comes_back::<f64>(&of(&words), chunks, compression, &reads, wanted.as_deref(), limit),
                _ => comes_back::<i64>(&of(&words), chunks, compression, &reads, wanted.as_deref(), limit),
            }
        }

        #[test]
        fn changed_chunks_are_rows_or_an_error(
            compression in compression(), at: prop::sample::Index, to: u8, cut in prop::option::of(any::<prop::sample::Index>()),
            rows in prop::collection::btree_set(0_u32..40, 1..10),
        ) {
            let values: Vec<Vec<f32>> = (0_u16..40).map(|i| (0_u16..100).map(|j| f32::from(i * j % 11 / 9)).collect()).collect();
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &values, [40, 100], compression);
            let path = folder.path().join("0.0");
            let mut bytes = std::fs::read(&path).unwrap();
            // Mostly what lies near the front: header and starts.
            let at = if to % 3 == 0 { at.index(bytes.len()) } else { at.index(bytes.len().min(48)) };
            bytes[at] = to;
            if let Some(cut) = cut { bytes.truncate(cut.index(bytes.len())); }
            std::fs::write(&path, bytes).unwrap();
            let rows: Vec<u32> = rows.into_iter().collect();
            let cache = Cache::default();
            cache.limit(1 << 16);
            let dense = open(folder.path());
            let _ = dense.read::<f32>(&rows, None, Some((&cache, 0)), &mut Rows::empty());
            let _ = dense.read::<f32>(&rows, None, None, &mut Rows::empty());
        }
    }
}
