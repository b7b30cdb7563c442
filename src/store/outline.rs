//! The outline of a part: what a reader has to know before it reads values, in one file.
//!
//! Over a network every small file costs a wait: the metadata of each array, the index of each shard, `indptr`, the directories
//! of packed chunks. The outline has copies of these pieces of the part's files, so that one request brings what opening X
//! takes. It adds nothing: every piece is also where it belongs, and is checked as if it came from there. docs/format.md
//! describes the file; on a folder nobody reads it.

use std::collections::HashMap;
use std::ops::Range;
use std::slice::from_ref;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use super::files::{FileMeta, changed};
use crate::checksum::crc32c;
use crate::error::{DaoError, Result};
use crate::storage::Storage;

/// The outline's file, as a version lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlineFile {
    /// The file, relative to the part.
    pub path: String,
    pub size: u64,
    /// Checksum of all of it.
    pub checksum: String,
    /// The bytes of its head, which is read at once, and their CRC-32C.
    pub head: u64,
    pub head_crc32c: u32,
}

impl OutlineFile {
    /// The file as one of those of its part.
    pub fn listed(&self) -> (String, FileMeta) {
        (self.path.clone(), FileMeta { size: self.size, checksum: self.checksum.clone() })
    }
}

/// What an outline begins with, after the length of this in JSON: which pieces there are, in their order.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Pieces of files (path, first byte, bytes): those that are read together are a section, and the first section ends
    /// with the head.
    pub sections: Vec<Vec<(String, u64, u64)>>,
    /// Files with many pieces of one length (path, bytes of a piece, pieces). Where each begins in its file follows, as `u64`,
    /// little-endian; the pieces themselves are the end of the outline.
    pub many: Vec<(String, u64, u64)>,
}

/// The bytes of the length that an outline begins with.
pub const LENGTH: usize = 8;
/// The bytes of `many` that are read at once, so that those near each other cost one request.
const UNIT: u64 = 64 << 10;
/// The most bytes of `many` that are kept for one part.
const MOST_KEPT: u64 = 32 << 20;

/// An opened outline.
pub struct Outline {
    /// The file, relative to the store.
    path: String,
    place: String,
    /// By file: where pieces begin in it, ascending; their bytes; the section; and where they begin in that.
    pieces: HashMap<String, Vec<(u64, u64, usize, u64)>>,
    /// Where each section lies in the file, and its bytes once they were read.
    sections: Vec<(Range<u64>, Mutex<Option<Bytes>>)>,
    many: HashMap<String, Many>,
    /// Where the pieces of `many` lie in the file, and those units of it that were read, by number.
    end: Range<u64>,
    units: Cache<u64, Bytes>,
}

struct Many {
    len: u64,
    /// Where the first of them lies in the outline.
    at: u64,
    /// Where each begins in its file, ascending.
    starts: Vec<u64>,
}

impl Outline {
    /// Reads the head of the outline that `file` is of a part in the folder `part`.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt` for one that is not as it was written, `Io`.
    pub fn open(storage: &dyn Storage, part: &str, file: &OutlineFile) -> Result<Self> {
        let path = format!("{part}/{}", file.path);
        let place = format!("{}/{path}", storage.uri());
        storage.expect(&path, file.size);
        let missing = || super::files::missing(&place);
        let head =
            storage.get_ranges(&path, from_ref(&(0..file.head)))?.ok_or_else(missing)?.pop().ok_or_else(missing)?;
        let crc = crc32c(&head);
        if crc != file.head_crc32c {
            let what = "checksum mismatch: the file is not as it was written";
            return Err(changed(&place, what, format!("{:08x}", file.head_crc32c), format!("{crc:08x}")));
        }
        Self::parse(head, file.size, path, &place)
            .ok_or_else(|| DaoError::corrupt(&place, "the outline contradicts itself").hint("write the dataset again"))
    }

    fn parse(head: Bytes, size: u64, path: String, place: &str) -> Option<Self> {
        let (length, rest) = head.split_first_chunk::<LENGTH>()?;
        let json = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let contents: Contents = serde_json::from_slice(rest.get(..json)?).ok()?;
        let mut starts = rest.get(json..)?;
        let mut at = (LENGTH + json) as u64;
        let mut listed = Vec::new();
        for (file, len, count) in contents.many {
            let bytes = usize::try_from(count.checked_mul(8)?).ok()?;
            let (here, later) = starts.split_at_checked(bytes)?;
            let begins: Vec<u64> = here.as_chunks::<8>().0.iter().map(|start| u64::from_le_bytes(*start)).collect();
            (starts, at) = (later, at + bytes as u64);
            listed.push((file, len, begins));
        }
        let (mut pieces, mut sections) = (HashMap::<String, Vec<_>>::new(), Vec::new());
        for (number, section) in contents.sections.into_iter().enumerate() {
            let start = at;
            for (file, first, len) in section {
                first.checked_add(len)?; // so that no sum of the two overflows later
                pieces.entry(file).or_default().push((first, len, number, at - start));
                at = at.checked_add(len)?;
            }
            let bytes = (number == 0).then(|| head.get(usize::try_from(start).ok()?..)).flatten();
            let bytes = bytes.map(|bytes| head.slice_ref(bytes));
            sections.push((start..at, Mutex::new(bytes)));
        }
        pieces.values_mut().for_each(|pieces| pieces.sort_unstable());
        let first = at;
        let mut many = HashMap::new();
        for (file, len, starts) in listed {
            let here = at;
            at = at.checked_add(len.checked_mul(starts.len() as u64)?)?;
            many.insert(file, Many { len, at: here, starts });
        }
        let head_end = sections.first().map_or(first, |(range, _)| range.end);
        let units = Cache::builder()
            .max_capacity(MOST_KEPT)
            .weigher(|_, bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX))
            .build();
        let place = place.to_owned();
        (at == size && head_end == head.len() as u64).then_some(Self {
            path,
            place,
            pieces,
            sections,
            many,
            end: first..at,
            units,
        })
    }

    /// The bytes that it holds now.
    pub fn bytes(&self) -> u64 {
        let held = self.sections.iter().map(|(range, _)| range.end - range.start).next().unwrap_or(0);
        held + self.many.values().map(|many| 8 * many.starts.len() as u64).sum::<u64>()
    }

    /// The bytes `range` of a file, relative to the part, where a piece has them; a section that was not read yet is read.
    pub fn get(&self, storage: &dyn Storage, file: &str, range: &Range<u64>) -> Result<Option<Bytes>> {
        let Some((section, at)) = self.piece(file, range) else { return Ok(None) };
        let (place, bytes) = &self.sections[section];
        // Only whole bytes are put there, so a poisoned lock is safe to use.
        let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.is_none() {
            *bytes = self.read(storage, from_ref(place))?.pop();
        }
        let end = at + (range.end - range.start);
        let within = usize::try_from(at).ok().zip(usize::try_from(end).ok());
        let cut = |bytes: &Bytes| within.filter(|&(_, end)| end <= bytes.len()).map(|(at, end)| bytes.slice(at..end));
        Ok(bytes.as_ref().and_then(cut))
    }

    /// All of a file, where that is a piece.
    pub fn whole(&self, storage: &dyn Storage, file: &str) -> Result<Option<Bytes>> {
        let Some([(0, len, ..)]) = self.pieces.get(file).map(Vec::as_slice) else { return Ok(None) };
        self.get(storage, file, &(0..*len))
    }

    /// Whether a piece has the bytes `range` of a file.
    pub fn has(&self, file: &str, range: &Range<u64>) -> bool {
        self.piece(file, range).is_some()
    }

    fn piece(&self, file: &str, range: &Range<u64>) -> Option<(usize, u64)> {
        let pieces = self.pieces.get(file)?;
        let at = pieces.partition_point(|piece| piece.0 <= range.start).checked_sub(1)?;
        let &(first, len, section, place) = pieces.get(at)?;
        (range.end <= first + len).then(|| (section, place + range.start - first))
    }

    /// Where the bytes `range` of a file lie in the outline, where they are of one of many pieces.
    pub fn place(&self, file: &str, range: &Range<u64>) -> Option<Range<u64>> {
        let many = self.many.get(file)?;
        let rank = many.starts.binary_search(&range.start).ok()?;
        let at = many.at + rank as u64 * many.len;
        let len = range.end - range.start;
        (len <= many.len).then_some(at..at + len)
    }

    /// The units that have these places and were not read yet: where they lie, ascending.
    pub fn missing_units(&self, places: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut units: Vec<u64> = places.iter().flat_map(|place| self.units_of(place)).collect();
        units.sort_unstable();
        units.dedup();
        units.into_iter().filter(|unit| !self.units.contains_key(unit)).map(|unit| self.unit(unit)).collect()
    }

    fn units_of(&self, place: &Range<u64>) -> Range<u64> {
        (place.start - self.end.start) / UNIT..(place.end - self.end.start).div_ceil(UNIT)
    }

    fn unit(&self, unit: u64) -> Range<u64> {
        let start = self.end.start + unit * UNIT;
        start..(start + UNIT).min(self.end.end)
    }

    /// The bytes at these places, which [`Outline::place`] gave.
    pub fn at(&self, storage: &dyn Storage, places: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let missing = self.missing_units(places);
        let mut read = HashMap::new();
        for (range, bytes) in missing.iter().zip(self.read(storage, &missing)?) {
            let unit = (range.start - self.end.start) / UNIT;
            self.units.insert(unit, bytes.clone());
            read.insert(unit, bytes);
        }
        let bytes_of = |place: &Range<u64>| {
            let mut all = Vec::new();
            for unit in self.units_of(place) {
                let bytes = match read.get(&unit).cloned().or_else(|| self.units.get(&unit)) {
                    Some(bytes) => bytes,
                    // It was dropped since it was looked for.
                    None => self.read(storage, &[self.unit(unit)])?.pop().unwrap_or_default(),
                };
                let here = self.unit(unit);
                let within = |at: u64| usize::try_from(at.clamp(here.start, here.end) - here.start).unwrap_or(0);
                let part = within(place.start)..within(place.end);
                if all.is_empty() && here.end >= place.end {
                    return Ok(bytes.slice(part));
                }
                all.extend_from_slice(&bytes[part]);
            }
            Ok(Bytes::from(all))
        };
        places.iter().map(bytes_of).collect()
    }

    /// The outline's path, relative to the store.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn read(&self, storage: &dyn Storage, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        storage.get_ranges(&self.path, ranges)?.ok_or_else(|| super::files::missing(&self.place))
    }
}
