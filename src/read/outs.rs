//! The buffers of a batch while it is filled: allocated whole, filled in parts.

use std::ops::Range;

use super::Batch;
use super::parted::Parted;
use super::pool::Pool;
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Layout, Num, for_dtype, for_dtype_values};

/// One batch's buffers.
pub struct Buffers<T> {
    n_rows: usize,
    /// Rows of a part, but the last.
    part: usize,
    /// Empty where the batch is dense.
    indptr: Vec<i64>,
    indices: Parted<i32>,
    data: Parted<T>,
}

impl<T: Num> Buffers<T> {
    /// CSR, for rows of `lengths` values, in parts of `part` rows.
    ///
    /// # Errors
    /// None for a `part` of at least 1.
    pub fn csr(lengths: &[usize], part: usize, pool: &Pool) -> Result<Self> {
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

    /// Dense, of any values.
    ///
    /// # Errors
    /// None for a `part` of at least 1.
    pub fn dense(n_rows: usize, n_columns: usize, part: usize, pool: &Pool) -> Result<Self> {
        let ends: Vec<usize> =
            (0..n_rows).step_by(part.max(1)).map(|row| (row + part).min(n_rows) * n_columns).collect();
        let none = Parted::new(Vec::new(), vec![0; ends.len()])?;
        let data = Parted::new(pool.data(n_rows * n_columns), ends)?;
        Ok(Self { n_rows, part, indptr: Vec::new(), indices: none, data })
    }

    /// The batch, its places still to be filled in.
    pub fn finish(self) -> Batch {
        let (indices, data) = (self.indices.finish(), T::wrap(self.data.finish()));
        Batch { places: 0..0, indptr: self.indptr, indices, data }
    }

    /// One CSR batch of several, one after another.
    pub fn join(all: impl Iterator<Item = Self>, pool: &Pool) -> Batch {
        let all: Vec<Self> = all.collect();
        let total = all.iter().map(|buffers| buffers.data.len()).sum();
        let (mut indices, mut data) = (pool.indices(total), pool.data::<T>(total));
        let (mut indptr, mut at) = (vec![0], 0);
        for buffers in all {
            let start = indptr.last().copied().unwrap_or(0);
            indptr.extend(buffers.indptr.iter().skip(1).map(|end| start + end));
            let place = at..at + buffers.data.len();
            at = place.end;
            indices[place.clone()].copy_from_slice(&buffers.indices.finish());
            data[place].copy_from_slice(&buffers.data.finish());
        }
        Batch { places: 0..0, indptr, indices, data: T::wrap(data) }
    }
}

/// Where the rows of one piece go, slot by slot.
pub struct Outs<'a, T> {
    batches: Vec<Out<'a, T>>,
    n_columns: Option<usize>,
}

struct Out<'a, T> {
    /// Its first row's slot.
    first: usize,
    indptr: &'a [i64],
    indices: &'a mut [i32],
    data: &'a mut [T],
}

impl<'a, T: Num> Outs<'a, T> {
    /// The part `piece` of each of `buffers`: of one, or of several that have but one. `n_columns` where
    /// they are dense.
    ///
    /// # Errors
    /// `Value` for a part that was had before.
    pub fn new(buffers: &'a [Buffers<T>], piece: usize, n_columns: Option<usize>) -> Result<Self> {
        let mut first = 0;
        let mut batches = Vec::with_capacity(buffers.len());
        for buffers in buffers {
            let rows = (piece * buffers.part).min(buffers.n_rows)..((piece + 1) * buffers.part).min(buffers.n_rows);
            let parts = buffers.indices.part(piece).zip(buffers.data.part(piece));
            let (indices, data) = parts.ok_or_else(|| DaoError::value("a part of a batch was read twice"))?;
            let n_rows = rows.len();
            let indptr = if n_columns.is_some() { &[][..] } else { &buffers.indptr[rows.start..=rows.end] };
            batches.push(Out { first, indptr, indices, data });
            first += n_rows;
        }
        Ok(Self { batches, n_columns })
    }

    /// A slot's batch, and which of its values are the slot's.
    fn place(&self, slot: usize) -> (usize, Range<usize>) {
        let batch = match self.batches.len() {
            1 => 0,
            _ => self.batches.partition_point(|out| out.first <= slot).saturating_sub(1),
        };
        let out = &self.batches[batch];
        let row = slot - out.first;
        let range = match self.n_columns {
            Some(n_columns) => row * n_columns..(row + 1) * n_columns,
            None => {
                let at = |i: usize| usize::try_from(out.indptr[i] - out.indptr[0]).unwrap_or(0);
                at(row)..at(row + 1)
            }
        };
        (batch, range)
    }

    /// A slot's columns (none where it is dense) and values.
    pub fn row(&mut self, slot: usize) -> (&mut [i32], &mut [T]) {
        let (batch, range) = self.place(slot);
        let out = &mut self.batches[batch];
        let indices = if self.n_columns.is_some() { &mut [][..] } else { &mut out.indices[range.clone()] };
        (indices, &mut out.data[range])
    }

    /// Copies one slot's row to another's.
    pub fn repeat(&mut self, from: usize, to: usize) {
        let (from, to) = (self.place(from), self.place(to));
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

impl Batch {
    /// No rows.
    #[must_use]
    pub fn empty(layout: Layout, dtype: Dtype) -> Self {
        let indptr = if layout == Layout::Csr { vec![0] } else { Vec::new() };
        let data = for_dtype!(dtype, T => T::wrap(Vec::new()));
        Self { places: 0..0, indptr, indices: Vec::new(), data }
    }

    /// Rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.places.len()
    }

    /// Bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let values = for_dtype_values!(&self.data, values => std::mem::size_of_val(values.as_slice()));
        (values + 4 * self.indices.len() + 8 * self.indptr.len()) as u64
    }
}
