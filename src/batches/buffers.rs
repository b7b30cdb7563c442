//! The buffers of one matrix of a batch while it is filled: allocated whole, filled in parts.

use super::BatchMatrix;
use super::parted::Parted;
use super::pool::PoolSection;
use crate::error::{DaoError, Result};
use crate::number::{Layout, Num};

/// The place of one row in a batch: of its columns (none where it is dense), and of its values.
pub type Slot<'a, T> = (&'a mut [i32], &'a mut [T]);

/// The buffers of one matrix of one batch.
pub struct Buffers<T> {
    layout: Layout,
    /// The number of rows of each part but the last.
    part: usize,
    /// The offsets of the rows in `data`, one more than rows.
    offsets: Vec<usize>,
    indices: Parted<i32>,
    data: Parted<T>,
}

impl<T: Num> Buffers<T> {
    /// Buffers of arbitrary values for rows of `lengths` values, in parts of `part` rows (at least 1).
    pub fn new(
        layout: Layout,
        lengths: impl Iterator<Item = usize>,
        part: usize,
        [indices, data]: &[PoolSection; 2],
    ) -> Result<Self> {
        let mut offsets = vec![0];
        offsets.extend(lengths.scan(0, |end, length| {
            *end = usize::saturating_add(*end, length);
            Some(*end)
        }));
        let ends: Vec<usize> = offsets[1..].chunks(part).filter_map(|rows| rows.last().copied()).collect();
        let index_ends = if layout == Layout::Csr { ends.clone() } else { vec![0; ends.len()] };
        let indices = Parted::new(indices.take(index_ends.last().copied().unwrap_or(0))?, index_ends)?;
        let data = Parted::new(data.take(ends.last().copied().unwrap_or(0))?, ends)?;
        Ok(Self { layout, part, offsets, indices, data })
    }

    /// Appends the slots of the rows of part `number` to `slots`; `Internal` if it was given out before.
    pub fn slots<'a>(&'a self, number: usize, slots: &mut Vec<Slot<'a, T>>) -> Result<()> {
        if self.offsets.len() == 1 {
            return Ok(()); // no rows, and so no parts
        }
        let parts = self.indices.part(number).zip(self.data.part(number));
        let (mut indices, mut data) = parts.ok_or_else(|| DaoError::internal("a part of a batch was read twice"))?;
        for ends in self.offsets.windows(2).skip(number * self.part).take(self.part) {
            let length = ends[1] - ends[0];
            let n_indices = if self.layout == Layout::Csr { length } else { 0 };
            let slot = indices.split_off_mut(..n_indices).zip(data.split_off_mut(..length));
            slots.push(slot.ok_or_else(|| DaoError::internal("a part of a batch is too short"))?);
        }
        Ok(())
    }

    /// The batch's rows, when all parts have been filled.
    pub fn finish(self) -> BatchMatrix {
        let indptr = if self.layout == Layout::Csr { self.offsets } else { Vec::new() };
        BatchMatrix { indptr, indices: self.indices.finish(), data: T::wrap(self.data.finish()) }
    }
}
