//! The buffers of one matrix of a batch while it is filled: allocated whole, filled in parts.

use std::ops::Range;

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
    /// The first row's position in the window.
    first: usize,
    /// The cells of a piece of the window: a part of a batch is what one piece has of it.
    piece: usize,
    /// The offsets of the rows in `data`, one more than rows.
    offsets: Vec<usize>,
    indices: Parted<i32>,
    data: Parted<T>,
}

impl<T: Num> Buffers<T> {
    /// Buffers of arbitrary values for rows of `lengths` values, which begin with the `first` of a window that is read
    /// in pieces of `piece` cells (at least 1).
    pub fn new(
        layout: Layout,
        lengths: impl Iterator<Item = usize>,
        first: usize,
        piece: usize,
        [indices, data]: &[PoolSection; 2],
    ) -> Result<Self> {
        let mut offsets = vec![0];
        offsets.extend(lengths.scan(0, |end, length| {
            *end = usize::saturating_add(*end, length);
            Some(*end)
        }));
        let n = offsets.len() - 1;
        let rows = (first / piece..(first + n).div_ceil(piece)).map(|number| rows_of(number, piece, first, n));
        let ends: Vec<usize> = rows.map(|rows| offsets[rows.end]).collect();
        let index_ends = if layout == Layout::Csr { ends.clone() } else { vec![0; ends.len()] };
        let indices = Parted::new(indices.take(index_ends.last().copied().unwrap_or(0))?, index_ends)?;
        let data = Parted::new(data.take(ends.last().copied().unwrap_or(0))?, ends)?;
        Ok(Self { layout, first, piece, offsets, indices, data })
    }

    /// Appends the slots of the rows that piece `number` has to `slots`; `Internal` if they were given out before.
    pub fn slots<'a>(&'a self, number: usize, slots: &mut Vec<Slot<'a, T>>) -> Result<()> {
        let rows = rows_of(number, self.piece, self.first, self.offsets.len() - 1);
        if rows.is_empty() {
            return Ok(());
        }
        let part = number - self.first / self.piece;
        let parts = self.indices.part(part).zip(self.data.part(part));
        let (mut indices, mut data) = parts.ok_or_else(|| DaoError::internal("a part of a batch was read twice"))?;
        for ends in self.offsets.windows(2).skip(rows.start).take(rows.len()) {
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

/// The rows, of `n` that begin with the `first` of a window, that lie in its piece `number`.
fn rows_of(number: usize, piece: usize, first: usize, n: usize) -> Range<usize> {
    let row = |cell: usize| cell.saturating_sub(first).min(n);
    row(number.saturating_mul(piece))..row((number + 1).saturating_mul(piece))
}
