//! The buffers of one matrix of a batch while it is filled: allocated whole, filled in parts.

use std::ops::Range;

use super::BatchMatrix;
use super::parted::Parted;
use super::pool::MatrixBuffers;
use crate::error::{DaoError, Result};
use crate::number::Num;

/// The buffers of one matrix of one batch.
pub struct Buffers<T> {
    n_rows: usize,
    /// The number of rows of each part but the last.
    part: usize,
    /// The row offsets; empty where the batch is dense.
    indptr: Vec<i64>,
    indices: Parted<i32>,
    data: Parted<T>,
}

impl<T: Num> Buffers<T> {
    /// CSR buffers for rows of `lengths` values, in parts of `part` rows.
    ///
    /// # Errors
    /// None for a `part` of at least 1.
    pub fn csr(lengths: &[usize], part: usize, pool: &MatrixBuffers) -> Result<Self> {
        let mut end = 0;
        let mut indptr = Vec::with_capacity(lengths.len() + 1);
        indptr.push(0);
        let mut ends = Vec::new();
        for (row, length) in lengths.iter().enumerate() {
            end += length;
            // A vector's length always fits.
            indptr.push(i64::try_from(end).unwrap_or(i64::MAX));
            if (row + 1) % part == 0 || row + 1 == lengths.len() {
                ends.push(end);
            }
        }
        let indices = Parted::new(pool.indices(end), ends.clone())?;
        Ok(Self { n_rows: lengths.len(), part, indptr, indices, data: Parted::new(pool.data(end), ends)? })
    }

    /// Dense buffers, of any values, in parts of `part` rows.
    ///
    /// # Errors
    /// None for a `part` of at least 1.
    pub fn dense(n_rows: usize, n_columns: usize, part: usize, pool: &MatrixBuffers) -> Result<Self> {
        let ends: Vec<usize> =
            (0..n_rows).step_by(part.max(1)).map(|row| (row + part).min(n_rows) * n_columns).collect();
        let none = Parted::new(Vec::new(), vec![0; ends.len()])?;
        let data = Parted::new(pool.data(n_rows * n_columns), ends)?;
        Ok(Self { n_rows, part, indptr: Vec::new(), indices: none, data })
    }

    /// The batch's rows, when all parts have been filled.
    pub fn finish(self) -> BatchMatrix {
        let (indices, data) = (self.indices.finish(), T::wrap(self.data.finish()));
        BatchMatrix { indptr: self.indptr, indices, data }
    }

    /// The rows of several CSR buffers, one after another.
    pub fn join(all: impl Iterator<Item = Self>, pool: &MatrixBuffers) -> BatchMatrix {
        let all: Vec<Self> = all.collect();
        let total = all.iter().map(|buffers| buffers.data.len()).sum();
        let (mut indices, mut data) = (pool.indices(total), pool.data::<T>(total));
        let (mut indptr, mut at) = (vec![0], 0);
        for buffers in all {
            let start = indptr.last().copied().unwrap_or(0);
            indptr.extend(buffers.indptr.iter().skip(1).map(|end| start + end));
            let range = at..at + buffers.data.len();
            at = range.end;
            indices[range.clone()].copy_from_slice(&buffers.indices.finish());
            data[range].copy_from_slice(&buffers.data.finish());
        }
        BatchMatrix { indptr, indices, data: T::wrap(data) }
    }
}

/// The slots that the rows of one piece go to.
pub struct Slots<'a, T> {
    batches: Vec<BatchSlots<'a, T>>,
    /// The number of columns where rows are dense; `None` for CSR.
    n_columns: Option<usize>,
}

/// The slots of a piece that lie in one batch.
struct BatchSlots<'a, T> {
    /// The slot of the batch's first row.
    first: usize,
    indptr: &'a [i64],
    indices: &'a mut [i32],
    data: &'a mut [T],
}

impl<'a, T: Num> Slots<'a, T> {
    /// The slots of part `piece` of each of `buffers`: one buffer, or several that have only one part each;
    /// with `n_columns` they are dense.
    ///
    /// # Errors
    /// `Internal` for a part that was given out before.
    pub fn new(buffers: &'a [Buffers<T>], piece: usize, n_columns: Option<usize>) -> Result<Self> {
        let mut first = 0;
        let mut batches = Vec::with_capacity(buffers.len());
        for buffers in buffers {
            let rows = (piece * buffers.part).min(buffers.n_rows)..((piece + 1) * buffers.part).min(buffers.n_rows);
            let parts = buffers.indices.part(piece).zip(buffers.data.part(piece));
            let (indices, data) = parts.ok_or_else(|| DaoError::internal("a part of a batch was read twice"))?;
            let n_rows = rows.len();
            let indptr = if n_columns.is_some() { &[][..] } else { &buffers.indptr[rows.start..=rows.end] };
            batches.push(BatchSlots { first, indptr, indices, data });
            first += n_rows;
        }
        Ok(Self { batches, n_columns })
    }

    /// The batch of a slot, and which of that batch's values are the slot's.
    fn values_of(&self, slot: usize) -> (usize, Range<usize>) {
        let batch = match self.batches.len() {
            1 => 0,
            _ => self.batches.partition_point(|batch| batch.first <= slot).saturating_sub(1),
        };
        let slots = &self.batches[batch];
        let row = slot - slots.first;
        let range = match self.n_columns {
            Some(n_columns) => row * n_columns..(row + 1) * n_columns,
            None => {
                let at = |i: usize| usize::try_from(slots.indptr[i] - slots.indptr[0]).unwrap_or(0);
                at(row)..at(row + 1)
            }
        };
        (batch, range)
    }

    /// The columns (none where it is dense) and values of a slot.
    pub fn row(&mut self, slot: usize) -> (&mut [i32], &mut [T]) {
        let (batch, range) = self.values_of(slot);
        let slots = &mut self.batches[batch];
        let indices = if self.n_columns.is_some() { &mut [][..] } else { &mut slots.indices[range.clone()] };
        (indices, &mut slots.data[range])
    }

    /// Copies the row of one slot to another.
    pub fn repeat(&mut self, from: usize, to: usize) {
        let (from, to) = (self.values_of(from), self.values_of(to));
        let sparse = self.n_columns.is_none();
        if let Ok([source, target]) = self.batches.get_disjoint_mut([from.0, to.0]) {
            target.data[to.1.clone()].copy_from_slice(&source.data[from.1.clone()]);
            if sparse {
                target.indices[to.1].copy_from_slice(&source.indices[from.1]);
            }
        } else {
            let batch = &mut self.batches[from.0];
            batch.data.copy_within(from.1.clone(), to.1.start);
            if sparse {
                batch.indices.copy_within(from.1, to.1.start);
            }
        }
    }
}
