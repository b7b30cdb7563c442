//! Decoded rows placed into a batch: slot by slot, columns mapped, CSR or dense.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::plan::{Needs, Plan};
use super::pool::Pool;
use super::{Batch, Layout, Part, Request};
use crate::error::{DaoError, Result};
use crate::matrix::{Fill, Num, Rows, Sink, for_dtype_values};

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

    /// Moves a row to the output's columns, in place; how many of its values are left.
    fn apply<T: Num>(&self, columns: &mut [i32], values: &mut [T]) -> usize {
        let mut kept = 0;
        for at in 0..columns.len() {
            let target = usize::try_from(columns[at]).ok().and_then(|column| self.target.get(column));
            let target = target.copied().unwrap_or(-1);
            // Written whether or not it stays: no branch to mispredict.
            columns[kept] = target;
            values[kept] = values[at];
            kept += usize::from(target >= 0);
        }
        if !self.ascending {
            let mut pairs: Vec<(i32, T)> =
                columns[..kept].iter().copied().zip(values[..kept].iter().copied()).collect();
            pairs.sort_unstable_by_key(|&(column, _)| column);
            for (at, (column, value)) in pairs.into_iter().enumerate() {
                columns[at] = column;
                values[at] = value;
            }
        }
        kept
    }
}

/// The batches of a window while they are filled.
pub struct Outs<T> {
    /// Rows of each batch but the last.
    batch_len: usize,
    batches: Vec<Out<T>>,
}

struct Out<T> {
    indptr: Vec<i64>,
    indices: Vec<i32>,
    data: Vec<T>,
}

impl<T: Num> Outs<T> {
    /// CSR batches for slots of `lengths` values, cut into batches of `batch_len` slots.
    fn csr(lengths: &[usize], batch_len: usize, pool: &Pool) -> Self {
        let batches = lengths
            .chunks(batch_len.max(1))
            .map(|lengths| {
                let mut end = 0;
                let ends = lengths.iter().map(|length| {
                    end += length;
                    // A vector's length always fits.
                    i64::try_from(end).unwrap_or(i64::MAX)
                });
                let indptr = std::iter::once(0).chain(ends).collect();
                Out { indptr, indices: pool.indices(end), data: pool.data(end) }
            })
            .collect();
        Self { batch_len, batches }
    }

    /// Dense batches of zeros.
    fn dense(n_slots: usize, n_columns: usize, batch_len: usize, pool: &Pool) -> Self {
        let batches = (0..n_slots)
            .step_by(batch_len.max(1))
            .map(|start| {
                let mut data = pool.data((n_slots - start).min(batch_len) * n_columns);
                data.fill(T::zero());
                Out { indptr: Vec::new(), indices: Vec::new(), data }
            })
            .collect();
        Self { batch_len, batches }
    }

    /// A slot's batch, and which of its values are the slot's.
    fn place(&self, slot: usize, n_columns: Option<usize>) -> (usize, Range<usize>) {
        let (batch, row) = (slot / self.batch_len, slot % self.batch_len);
        let range = match n_columns {
            Some(n_columns) => row * n_columns..(row + 1) * n_columns,
            None => {
                let at = |i: usize| usize::try_from(self.batches[batch].indptr[i]).unwrap_or(0);
                at(row)..at(row + 1)
            }
        };
        (batch, range)
    }

    /// Copies one slot's values to another's.
    fn repeat(&mut self, from: (usize, Range<usize>), to: (usize, Range<usize>)) {
        let sparse = !self.batches[from.0].indices.is_empty();
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

    /// The batches, their places still to be filled in.
    fn finish(self) -> Vec<Batch> {
        let batch =
            |out: Out<T>| Batch { places: 0..0, indptr: out.indptr, indices: out.indices, data: T::wrap(out.data) };
        self.batches.into_iter().map(batch).collect()
    }
}

/// Rows whose lengths are known, straight to their slots.
struct Direct<'a, T> {
    plan: &'a Plan,
    waiting: &'a [Range<usize>],
    outs: &'a mut Outs<T>,
}

impl<T: Num> Sink<T> for Direct<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: Fill<'_, T>) -> Result<()> {
        let slots = &self.plan.slots[self.waiting[i].clone()];
        let Some((&first, others)) = slots.split_first() else { return Ok(()) };
        let place = self.outs.place(first, None);
        debug_assert_eq!(place.1.len(), nnz);
        let out = &mut self.outs.batches[place.0];
        fill(&mut out.indices[place.1.clone()], &mut out.data[place.1.clone()])?;
        for &slot in others {
            let other = self.outs.place(slot, None);
            self.outs.repeat(place.clone(), other);
        }
        Ok(())
    }
}

/// Rows scattered into dense ones.
struct Scatter<'a, T> {
    plan: &'a Plan,
    waiting: &'a [Range<usize>],
    columns: Option<&'a Columns>,
    n_columns: usize,
    outs: &'a mut Outs<T>,
    row: (Vec<i32>, Vec<T>),
}

impl<T: Num> Sink<T> for Scatter<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: Fill<'_, T>) -> Result<()> {
        let slots = &self.plan.slots[self.waiting[i].clone()];
        let Some((&first, others)) = slots.split_first() else { return Ok(()) };
        let (columns, values) = (&mut self.row.0, &mut self.row.1);
        columns.resize(nnz, 0);
        values.resize(nnz, T::zero());
        fill(columns, values)?;
        let kept = self.columns.map_or(nnz, |map| map.apply(columns, values));
        let place = self.outs.place(first, Some(self.n_columns));
        let out = &mut self.outs.batches[place.0].data[place.1.clone()];
        for (&column, &value) in columns[..kept].iter().zip(&values[..kept]) {
            // Columns were checked against the matrix when they were decoded.
            out[usize::try_from(column).unwrap_or(usize::MAX)] = value;
        }
        for &slot in others {
            let other = self.outs.place(slot, Some(self.n_columns));
            self.outs.repeat(place.clone(), other);
        }
        Ok(())
    }
}

/// Rows whose lengths are known once they are read, one after another.
struct Staged<'a, T> {
    rows: Rows<T>,
    columns: Option<&'a Columns>,
}

impl<T: Num> Sink<T> for Staged<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: Fill<'_, T>) -> Result<()> {
        let start = self.rows.data.len();
        self.rows.row(i, nnz, fill)?;
        if let Some(map) = self.columns {
            let kept = map.apply(&mut self.rows.indices[start..], &mut self.rows.data[start..]);
            self.rows.indices.truncate(start + kept);
            self.rows.data.truncate(start + kept);
            if let Some(end) = self.rows.indptr.last_mut() {
                *end = start + kept;
            }
        }
        Ok(())
    }
}

/// A sink that fails once nobody waits for it any more.
struct Stoppable<'a, T> {
    sink: &'a mut dyn Sink<T>,
    stop: &'a AtomicBool,
}

impl<T> Sink<T> for Stoppable<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: Fill<'_, T>) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(DaoError::value("reading was stopped"));
        }
        self.sink.row(i, nnz, fill)
    }
}

/// Reads what `plan` needs into batches of `batch_len` slots; fails early once `stop` is set.
///
/// # Errors
/// As [`crate::matrix::Matrix::read`], with the dataset named.
pub fn assemble<T: Num>(
    request: &Request,
    plan: &Plan,
    batch_len: usize,
    pool: &Pool,
    stop: &AtomicBool,
) -> Result<Vec<Batch>> {
    let parts = plan.needs.iter().map(|need| request.part(need.number)).collect::<Result<Vec<_>>>()?;
    let mapped = parts.iter().any(|part| part.columns.is_some());
    let outs = match (request.layout, lengths(plan, &parts).filter(|_| !mapped)) {
        (Layout::Csr, Some(lengths)) => {
            let mut outs = Outs::csr(&lengths, batch_len, pool);
            for (need, part) in plan.needs.iter().zip(&parts) {
                read(request, part, need, stop, &mut Direct { plan, waiting: &need.waiting, outs: &mut outs })?;
            }
            outs
        }
        (Layout::Csr, None) => {
            let mut staged: Vec<Rows<T>> = Vec::with_capacity(parts.len());
            for (need, part) in plan.needs.iter().zip(&parts) {
                let mut sink = Staged { rows: Rows::empty(), columns: part.columns.as_ref() };
                read(request, part, need, stop, &mut sink)?;
                staged.push(sink.rows);
            }
            gather(plan, &staged, batch_len, pool)
        }
        (Layout::Dense, _) => {
            let n_columns = request.n_columns;
            let mut outs = Outs::dense(plan.slots.len(), n_columns, batch_len, pool);
            for (need, part) in plan.needs.iter().zip(&parts) {
                let mut sink = Scatter {
                    plan,
                    waiting: &need.waiting,
                    columns: part.columns.as_ref(),
                    n_columns,
                    outs: &mut outs,
                    row: (Vec::new(), Vec::new()),
                };
                read(request, part, need, stop, &mut sink)?;
            }
            outs
        }
    };
    Ok(outs.finish())
}

fn read<T: Num>(request: &Request, part: &Part, need: &Needs, stop: &AtomicBool, sink: &mut dyn Sink<T>) -> Result<()> {
    let mut sink = Stoppable { sink, stop };
    let wanted = part.columns.as_ref().map(Columns::wanted);
    let cache = (&request.cache, need.number);
    part.matrix.read_with(&need.rows, wanted, cache, &mut sink).map_err(|e| e.at(format!("dataset '{}'", part.dataset)))
}

/// For each slot how many values it will have, where that is known before it is read.
fn lengths(plan: &Plan, parts: &[&Part]) -> Option<Vec<usize>> {
    let mut lengths = vec![0; plan.slots.len()];
    for (need, part) in plan.needs.iter().zip(parts) {
        for (&row, waiting) in need.rows.iter().zip(&need.waiting) {
            // More than memory holds fails where it is allocated.
            let nnz = usize::try_from(part.matrix.row_nnz(row)?).unwrap_or(usize::MAX);
            for &slot in &plan.slots[waiting.clone()] {
                lengths[slot] = nnz;
            }
        }
    }
    Some(lengths)
}

/// Copies staged rows to their slots.
fn gather<T: Num>(plan: &Plan, staged: &[Rows<T>], batch_len: usize, pool: &Pool) -> Outs<T> {
    let mut sources = vec![(0, 0..0); plan.slots.len()];
    for (need, (needs, rows)) in plan.needs.iter().zip(staged).enumerate() {
        for (waiting, ends) in needs.waiting.iter().zip(rows.indptr.windows(2)) {
            for &slot in &plan.slots[waiting.clone()] {
                sources[slot] = (need, ends[0]..ends[1]);
            }
        }
    }
    let lengths: Vec<usize> = sources.iter().map(|(_, range)| range.len()).collect();
    let mut outs = Outs::csr(&lengths, batch_len, pool);
    for (slot, (need, range)) in sources.into_iter().enumerate() {
        let (batch, to) = outs.place(slot, None);
        let out = &mut outs.batches[batch];
        out.indices[to.clone()].copy_from_slice(&staged[need].indices[range.clone()]);
        out.data[to].copy_from_slice(&staged[need].data[range]);
    }
    outs
}

impl Batch {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Values;

    #[test]
    fn columns_move_and_are_dropped_and_stay_sorted() {
        let (mut columns, mut values) = (vec![0, 1, 2], vec![1., 2., 3.]);
        let map = Columns::new(vec![2, -1, 0, 1], 3).unwrap();
        assert_eq!(map.apply::<f32>(&mut columns, &mut values), 2);
        assert_eq!((&columns[..2], &values[..2]), (&[0, 2][..], &[3., 1.][..]));
    }

    #[test]
    fn bad_column_maps_are_refused() {
        assert!(Columns::new(vec![0, 0], 2).is_err());
        assert!(Columns::new(vec![0, 2], 2).is_err());
    }

    /// Rows 3 and 7 in slots 7, 3, 7 | 7: repeated within a batch and in another.
    fn fill(sink: &mut dyn Sink<f32>) {
        let rows: [(&[i32], &[f32]); 2] = [(&[0, 1, 2], &[1., 2., 3.]), (&[1, 3], &[4., 5.])];
        for (i, (columns, values)) in rows.into_iter().enumerate() {
            sink.row(i, columns.len(), &mut |to_columns, to_values| {
                to_columns.copy_from_slice(columns);
                to_values.copy_from_slice(values);
                Ok(())
            })
            .unwrap();
        }
    }

    #[test]
    fn slots_are_filled_in_their_order_with_repeats() {
        let plan = super::super::plan::plan(&[7, 3, 7, 7]);
        let pool = Pool::default();
        let waiting = &plan.needs[0].waiting;
        let mut direct = Outs::<f32>::csr(&[2, 3, 2, 2], 3, &pool);
        fill(&mut Direct { plan: &plan, waiting, outs: &mut direct });
        let mut staged = Staged { rows: Rows::empty(), columns: None };
        fill(&mut staged);
        for outs in [direct, gather(&plan, &[staged.rows], 3, &pool)] {
            let batches = outs.finish();
            assert_eq!(batches[0].indptr, [0, 2, 5, 7]);
            assert_eq!(batches[0].data, Values::F32(vec![4., 5., 1., 2., 3., 4., 5.]));
            assert_eq!(batches[0].indices, [1, 3, 0, 1, 2, 1, 3]);
            assert_eq!((&batches[1].indptr[..], &batches[1].indices[..]), (&[0, 2][..], &[1, 3][..]));
        }
        let mut dense = Outs::<f32>::dense(4, 4, 3, &pool);
        let row = (Vec::new(), Vec::new());
        fill(&mut Scatter { plan: &plan, waiting, columns: None, n_columns: 4, outs: &mut dense, row });
        let batches = dense.finish();
        assert_eq!(batches[0].data, Values::F32(vec![0., 4., 0., 5., 1., 2., 3., 0., 0., 4., 0., 5.]));
        assert_eq!(batches[1].data, Values::F32(vec![0., 4., 0., 5.]));
    }
}
