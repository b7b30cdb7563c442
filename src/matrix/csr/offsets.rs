//! Where each row of a CSR matrix begins: held in memory, or looked up in `indptr` where that is quick.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::super::packed::{Fetched, Packed};
use super::stored::{StoredArray, read_all};
use crate::error::{DaoError, Result};
use crate::storage::Storage;

/// The rows that count from one offset.
const TOGETHER: usize = 32;

/// The offsets `indptr` of a matrix.
pub struct Offsets {
    array: StoredArray,
    shape: [u64; 2],
    /// The last offset.
    nnz: u64,
    held: OnceLock<HeldOffsets>,
}

impl Offsets {
    /// Opens the array at `path` of a matrix of `shape`; reads it, unless any row can be looked up quickly. `NotFound` or
    /// `Corrupt` if it is missing or not what it should be.
    pub fn open(storage: &Arc<dyn Storage>, path: &str, shape: [u64; 2]) -> Result<Self> {
        let array = StoredArray::open(storage, path)?;
        let (n_obs, len) = (shape[0], shape[0].saturating_add(1));
        if array.array().shape() != [len] {
            return Err(DaoError::corrupt(array.array().uri(), "indptr has the wrong length")
                .expected(format!("{len} values"))
                .found(format!("shape {:?}", array.array().shape())));
        }
        let mut offsets = Self { array, shape, nnz: u64::MAX, held: OnceLock::new() };
        if offsets.quick().is_none() {
            offsets.hold()?;
        }
        offsets.nnz = match offsets.held.get() {
            Some(held) => held.end,
            None => {
                offsets.begins()?;
                offsets.array.values::<u64>(n_obs..len)?.first().copied().unwrap_or(0)
            }
        };
        Ok(offsets)
    }

    /// The array, where looking up a row takes no longer than decoding a few values.
    fn quick(&self) -> Option<&Packed> {
        match &self.array {
            StoredArray::Packed(packed) if packed.array().storage().local_root().is_some() => Some(packed),
            _ => None,
        }
    }

    /// Holds all offsets, two bytes a row (four where there are more than 65,535 columns), so that none is looked up.
    pub fn hold(&self) -> Result<()> {
        if self.held.get().is_none() {
            let _ = self.held.set(self.read()?); // another thread's are the same
        }
        Ok(())
    }

    fn read(&self) -> Result<HeldOffsets> {
        let all: Vec<u64> = read_all(self.array.array(), self.shape[0].saturating_add(1))?;
        if all.first() != Some(&0) {
            return Err(self.descends(0));
        }
        let mut held = HeldOffsets::new(all.len() - 1, self.shape[1]);
        for (row, ends) in (0..).zip(all.windows(2)) {
            held.push(self.length(row, ends[0], ends[1])?);
        }
        Ok(held)
    }

    /// Refuses a first offset that is not 0.
    fn begins(&self) -> Result<()> {
        if self.array.values::<u64>(0..1)? == [0] { Ok(()) } else { Err(self.descends(0)) }
    }

    /// The length of a row from `start` to `end`, or what is wrong with it: what is read of a row, and where, is as long as
    /// that.
    fn length(&self, row: u64, start: u64, end: u64) -> Result<u32> {
        let Some(length) = end.checked_sub(start).filter(|_| end <= self.nnz) else {
            return Err(self.descends(row));
        };
        u32::try_from(length).ok().filter(|_| length <= self.shape[1]).ok_or_else(|| {
            DaoError::corrupt(self.array.array().uri(), "a row has more values than columns")
                .at(format!("row {row}"))
                .expected(format!("at most {}", self.shape[1]))
                .found(length)
        })
    }

    fn descends(&self, row: u64) -> DaoError {
        DaoError::corrupt(self.array.array().uri(), "indptr does not ascend from 0").at(format!("row {row}"))
    }

    /// Refuses ranges of `rows` (ascending) of which one begins before another ends.
    pub fn check_ascend(&self, rows: &[u32], ranges: &[Range<u64>]) -> Result<()> {
        match ranges.windows(2).position(|pair| pair[0].end > pair[1].start) {
            Some(at) => Err(self.descends(rows.get(at + 1).copied().unwrap_or(0).into())),
            None => Ok(()),
        }
    }

    /// The number of values of all rows.
    pub fn end(&self) -> u64 {
        self.nnz
    }

    /// The range of a row's values; `None` past the last row. Fails as [`Packed::decode`], and for a row that cannot be.
    pub fn row(&self, row: u32) -> Result<Option<Range<u64>>> {
        match (self.held.get(), self.quick()) {
            (None, Some(packed)) => self.find(row, packed, &mut packed.fetch(&[])?),
            _ => Ok(self.held_row(row)),
        }
    }

    /// The range of a row's values, if that is held.
    pub fn held_row(&self, row: u32) -> Option<Range<u64>> {
        self.held.get()?.row(row as usize)
    }

    /// The range of each of `rows`, as [`Offsets::row`] has it: quickest where they ascend.
    pub fn rows(&self, rows: &[u32]) -> Result<Vec<Option<Range<u64>>>> {
        match (self.held.get(), self.quick()) {
            (None, Some(packed)) => {
                let mut fetched = packed.fetch(&[])?;
                rows.iter().map(|&row| self.find(row, packed, &mut fetched)).collect()
            }
            _ => Ok(rows.iter().map(|&row| self.held_row(row)).collect()),
        }
    }

    fn find(&self, row: u32, packed: &Packed, fetched: &mut Fetched) -> Result<Option<Range<u64>>> {
        let row = u64::from(row);
        if row >= self.shape[0] {
            return Ok(None);
        }
        let mut ends = [0_u64; 2];
        packed.decode(row..row + 2, &mut ends, fetched)?;
        self.length(row, ends[0], ends[1])?;
        Ok(Some(ends[0]..ends[1]))
    }
}

/// Offsets in memory: every 32nd, and the lengths of rows, which are added to it.
struct HeldOffsets {
    starts: Vec<u64>,
    lengths: Lengths,
    end: u64,
}

enum Lengths {
    Short(Vec<u16>),
    Long(Vec<u32>),
}

impl HeldOffsets {
    /// Of no rows yet, with room for `n` of them, of a matrix of so many columns.
    fn new(n: usize, n_vars: u64) -> Self {
        let lengths = if n_vars <= u16::MAX.into() {
            Lengths::Short(Vec::with_capacity(n))
        } else {
            Lengths::Long(Vec::with_capacity(n))
        };
        Self { starts: Vec::with_capacity(n / TOGETHER + 1), lengths, end: 0 }
    }

    /// Appends a row; its length is at most the number of columns.
    fn push(&mut self, length: u32) {
        if self.len().is_multiple_of(TOGETHER) {
            self.starts.push(self.end);
        }
        match &mut self.lengths {
            // A length is at most the number of columns, which has 16 bits here.
            Lengths::Short(lengths) => lengths.push(u16::try_from(length).unwrap_or(u16::MAX)),
            Lengths::Long(lengths) => lengths.push(length),
        }
        self.end += u64::from(length);
    }

    fn len(&self) -> usize {
        match &self.lengths {
            Lengths::Short(lengths) => lengths.len(),
            Lengths::Long(lengths) => lengths.len(),
        }
    }

    fn row(&self, row: usize) -> Option<Range<u64>> {
        fn range<T: Copy + Into<u64>>(base: u64, row: usize, lengths: &[T]) -> Option<Range<u64>> {
            let length = (*lengths.get(row)?).into();
            let before = &lengths[row - row % TOGETHER..row];
            let start = base + before.iter().map(|&length| length.into()).sum::<u64>();
            Some(start..start + length)
        }
        let base = *self.starts.get(row / TOGETHER)?;
        match &self.lengths {
            Lengths::Short(lengths) => range(base, row, lengths),
            Lengths::Long(lengths) => range(base, row, lengths),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(lengths: &[u32], n_vars: u64) -> HeldOffsets {
        let mut held = HeldOffsets::new(lengths.len(), n_vars);
        lengths.iter().for_each(|&length| held.push(length));
        let mut start = 0;
        for (row, &length) in lengths.iter().enumerate() {
            assert_eq!(held.row(row), Some(start..start + u64::from(length)));
            start += u64::from(length);
        }
        assert!(held.row(lengths.len()).is_none() && held.row(usize::MAX).is_none());
        assert_eq!(held.end, start);
        held
    }

    proptest! {
        #[test]
        fn rows_are_where_they_were(lengths in prop::collection::vec(0_u32..65_536, 0..300)) {
            prop_assert!(matches!(check(&lengths, 65_535).lengths, Lengths::Short(_)));
            prop_assert!(matches!(check(&lengths, 65_536).lengths, Lengths::Long(_)));
        }
    }

    #[test]
    fn rows_may_be_as_long_as_there_are_columns() {
        check(&[u32::MAX, 0, u32::MAX], u32::MAX.into());
    }
}
