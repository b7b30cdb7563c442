//! Decoded rows placed into a batch: slot by slot, columns mapped, CSR or dense.

use super::plan::Plan;
use super::{Batch, Layout};
use crate::error::{DaoError, Result};
use crate::matrix::{Num, Rows, for_dtype_values};

/// Where a dataset's columns go in the output.
#[derive(Debug, Clone)]
pub struct Columns {
    /// For each source column the output column, or -1 for none.
    target: Vec<i32>,
    /// Which source columns go anywhere.
    wanted: Vec<bool>,
    /// Whether ascending source columns give ascending output columns.
    ascending: bool,
}

impl Columns {
    /// From `target`, which has an entry for each source column, below `n_columns`, none twice.
    ///
    /// # Errors
    /// `Value` if it has not.
    pub fn new(target: Vec<i32>, n_columns: usize) -> Result<Self> {
        let mut seen = vec![false; n_columns];
        for &column in target.iter().filter(|&&column| column >= 0) {
            match usize::try_from(column).ok().and_then(|column| seen.get_mut(column)) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(DaoError::value(format!("output column {column} is out of range or given twice"))),
            }
        }
        let kept: Vec<i32> = target.iter().copied().filter(|&column| column >= 0).collect();
        let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
        let wanted = target.iter().map(|&column| column >= 0).collect();
        Ok(Self { target, wanted, ascending })
    }

    /// Which source columns go anywhere.
    #[must_use]
    pub fn wanted(&self) -> &[bool] {
        &self.wanted
    }

    /// Source columns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.target.len()
    }

    /// Whether there are no source columns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.target.is_empty()
    }

    /// Moves rows to the output's columns, in place.
    pub fn apply<T: Num>(&self, rows: &mut Rows<T>) {
        let mut kept = 0;
        let mut start = 0;
        let mut pairs: Vec<(i32, T)> = Vec::new();
        for i in 1..rows.indptr.len() {
            let (first, stop) = (kept, rows.indptr[i]);
            for at in start..stop {
                let column =
                    usize::try_from(rows.indices[at]).ok().and_then(|c| self.target.get(c)).copied().unwrap_or(-1);
                if column >= 0 {
                    rows.indices[kept] = column;
                    rows.data[kept] = rows.data[at];
                    kept += 1;
                }
            }
            if !self.ascending {
                pairs.clear();
                pairs.extend(rows.indices[first..kept].iter().copied().zip(rows.data[first..kept].iter().copied()));
                pairs.sort_unstable_by_key(|&(column, _)| column);
                for (at, &(column, value)) in (first..).zip(&pairs) {
                    rows.indices[at] = column;
                    rows.data[at] = value;
                }
            }
            rows.indptr[i] = kept;
            start = stop;
        }
        rows.indices.truncate(kept);
        rows.data.truncate(kept);
    }
}

/// Builds the batch of `slots` (a run of the plan's) from the rows that the plan's needs became.
pub fn assemble<T: Num>(
    plan: &Plan,
    slots: std::ops::Range<usize>,
    decoded: &[Rows<T>],
    positions: Vec<u32>,
    layout: Layout,
    n_columns: usize,
) -> Batch {
    let row_of = |&(need, at): &(usize, usize)| {
        let rows = &decoded[need];
        let range = rows.indptr[at]..rows.indptr[at + 1];
        (&rows.indices[range.clone()], &rows.data[range])
    };
    let slots = &plan.slots[slots];
    match layout {
        Layout::Csr => {
            let mut indptr = Vec::with_capacity(slots.len() + 1);
            indptr.push(0);
            let mut nnz = 0;
            for slot in slots {
                nnz += row_of(slot).0.len();
                // A vector's length always fits.
                indptr.push(i64::try_from(nnz).unwrap_or(i64::MAX));
            }
            let (mut indices, mut data) = (Vec::with_capacity(nnz), Vec::with_capacity(nnz));
            for slot in slots {
                let (columns, values) = row_of(slot);
                indices.extend_from_slice(columns);
                data.extend_from_slice(values);
            }
            Batch { positions, indptr, indices, data: T::wrap(data) }
        }
        Layout::Dense => {
            let mut data = vec![T::zero(); slots.len() * n_columns];
            for (i, slot) in slots.iter().enumerate() {
                let (columns, values) = row_of(slot);
                let row = &mut data[i * n_columns..(i + 1) * n_columns];
                for (&column, &value) in columns.iter().zip(values) {
                    // Columns were checked against the matrix when they were decoded.
                    row[usize::try_from(column).unwrap_or(usize::MAX)] = value;
                }
            }
            Batch { positions, indptr: Vec::new(), indices: Vec::new(), data: T::wrap(data) }
        }
    }
}

impl Batch {
    /// Rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.positions.len()
    }

    /// Bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let values = for_dtype_values!(&self.data, values => std::mem::size_of_val(values.as_slice()));
        (values + 4 * self.indices.len() + 8 * self.indptr.len() + 4 * self.positions.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Values;

    fn rows() -> Rows<f32> {
        Rows { rows: vec![3, 7], indptr: vec![0, 3, 5], indices: vec![0, 1, 2, 1, 3], data: vec![1., 2., 3., 4., 5.] }
    }

    #[test]
    fn columns_move_and_are_dropped_and_stay_sorted() {
        let mut moved = rows();
        Columns::new(vec![2, -1, 0, 1], 3).unwrap().apply(&mut moved);
        assert_eq!((moved.indptr, moved.indices, moved.data), (vec![0, 2, 3], vec![0, 2, 1], vec![3., 1., 5.]));
    }

    #[test]
    fn bad_column_maps_are_refused() {
        assert!(Columns::new(vec![0, 0], 2).is_err());
        assert!(Columns::new(vec![0, 2], 2).is_err());
    }

    #[test]
    fn slots_are_filled_in_their_order_with_repeats() {
        let plan = super::super::plan::plan(&[7, 3, 7]);
        let batch = assemble(&plan, 0..3, &[rows()], vec![0, 1, 2], Layout::Csr, 4);
        assert_eq!(batch.indptr, [0, 2, 5, 7]);
        assert_eq!(batch.data, Values::F32(vec![4., 5., 1., 2., 3., 4., 5.]));
        let dense = assemble(&plan, 1..3, &[rows()], vec![1, 2], Layout::Dense, 4);
        assert_eq!(dense.data, Values::F32(vec![1., 2., 3., 0., 0., 4., 0., 5.]));
    }
}
