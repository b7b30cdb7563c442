//! Rows decoded into a group of batches, piece by piece, by as many threads as there are pieces.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::columns::Columns;
use super::normalize::Normalize;
use super::outs::{Buffers, Outs};
use super::plan::{Needs, Plan, plan};
use super::pool::Pool;
use super::{Batch, Part, Request, split_key};
use crate::error::{DaoError, Result};
use crate::matrix::{Fill, Rows, Sink};
use crate::number::{Layout, Num, for_dtype};

/// Batches that are read together: several small ones in one piece, or one in several.
pub struct Group {
    /// Their cells, in order.
    pub keys: Vec<u64>,
    /// Rows of each batch.
    pub batches: Vec<usize>,
    /// Cells of a piece, but the last.
    pub piece: usize,
}

/// A group while it is read.
pub trait Assembly: Send + Sync {
    /// Reads a piece, each once; fails early once `stop` is set.
    ///
    /// # Errors
    /// As [`crate::matrix::Matrix::read`], with the dataset named.
    fn read(&self, piece: usize, stop: &AtomicBool) -> Result<()>;

    /// The batches, when all pieces have been read; their places are still to be filled in.
    fn finish(self: Box<Self>) -> Vec<Batch>;
}

/// Makes room for a group.
///
/// # Errors
/// `Value` for cells of a dataset that was not opened.
pub fn assembly(request: Arc<Request>, group: Group, pool: Arc<Pool>) -> Result<Box<dyn Assembly>> {
    for_dtype!(request.dtype, T => Ok(Box::new(Building::<T>::new(request, group, pool)?)))
}

struct Building<T> {
    request: Arc<Request>,
    group: Group,
    pool: Arc<Pool>,
    target: Target<T>,
}

enum Target<T> {
    /// Every row's place is known.
    Known(Vec<Buffers<T>>),
    /// By piece, what was read of each batch.
    Unknown(Mutex<BTreeMap<usize, Vec<Buffers<T>>>>),
}

impl<T: Num> Building<T> {
    fn new(request: Arc<Request>, group: Group, pool: Arc<Pool>) -> Result<Self> {
        let Group { keys, batches, piece } = &group;
        let target = match (request.layout, lengths(&request, keys)?) {
            (Layout::Csr, Some(lengths)) => Target::Known(csr(&lengths, batches, *piece, &pool)?),
            (Layout::Csr, None) => Target::Unknown(Mutex::default()),
            (Layout::Dense, _) => {
                let buffers = |&rows: &usize| Buffers::dense(rows, request.n_columns, *piece, &pool);
                Target::Known(batches.iter().map(buffers).collect::<Result<_>>()?)
            }
        };
        Ok(Self { request, group, pool, target })
    }

    /// The parts of the buffers that a piece fills.
    fn outs<'a>(&self, buffers: &'a [Buffers<T>], piece: usize) -> Result<Outs<'a, T>> {
        let n_columns = (self.request.layout == Layout::Dense).then_some(self.request.n_columns);
        Outs::new(buffers, piece, n_columns)
    }

    fn part(&self, need: &Needs) -> Result<&Part> {
        self.request.part(need.number)
    }

    /// Rows whose lengths are known once they are read.
    fn stage(&self, plan: &Plan, stop: &AtomicBool) -> Result<Vec<Buffers<T>>> {
        let mut staged: Vec<Rows<T>> = Vec::with_capacity(plan.needs.len());
        for need in &plan.needs {
            let part = self.part(need)?;
            let mut sink = Staged { rows: Rows::empty(), columns: part.columns.as_ref(), places: Vec::new() };
            read(&self.request, part, need, stop, &mut sink)?;
            staged.push(sink.rows);
        }
        let mut sources = vec![(0, 0..0); plan.slots.len()];
        for (need, (needs, rows)) in plan.needs.iter().zip(&staged).enumerate() {
            for (waiting, ends) in needs.waiting.iter().zip(rows.indptr.windows(2)) {
                for &slot in &plan.slots[waiting.clone()] {
                    sources[slot] = (need, ends[0]..ends[1]);
                }
            }
        }
        let lengths: Vec<usize> = sources.iter().map(|(_, range)| range.len()).collect();
        // A piece is less than a batch, or all of the batches.
        let batches = if self.group.batches.len() == 1 { &[lengths.len()][..] } else { &self.group.batches };
        let buffers = csr(&lengths, batches, lengths.len(), &self.pool)?;
        let mut outs = self.outs(&buffers, 0)?;
        for (slot, (need, range)) in sources.into_iter().enumerate() {
            let (columns, values) = outs.row(slot);
            columns.copy_from_slice(&staged[need].indices[range.clone()]);
            values.copy_from_slice(&staged[need].data[range]);
        }
        drop(outs);
        Ok(buffers)
    }
}

impl<T: Num> Assembly for Building<T> {
    fn read(&self, piece: usize, stop: &AtomicBool) -> Result<()> {
        let first = piece * self.group.piece;
        let plan = plan(&self.group.keys[first..(first + self.group.piece).min(self.group.keys.len())]);
        let buffers = match &self.target {
            Target::Known(buffers) => buffers,
            Target::Unknown(pieces) => {
                let buffers = self.stage(&plan, stop)?;
                pieces.lock().unwrap_or_else(PoisonError::into_inner).insert(piece, buffers);
                return Ok(());
            }
        };
        let mut outs = self.outs(buffers, piece)?;
        for need in &plan.needs {
            let (part, waiting) = (self.part(need)?, &need.waiting);
            match self.request.layout {
                Layout::Csr => {
                    let mut sink = Direct { plan: &plan, waiting, outs: &mut outs };
                    read(&self.request, part, need, stop, &mut sink)?;
                }
                Layout::Dense => {
                    let columns = part.columns.as_ref();
                    let row = (Vec::new(), Vec::new());
                    let mut sink = Scatter { plan: &plan, waiting, columns, outs: &mut outs, row, places: Vec::new() };
                    read(&self.request, part, need, stop, &mut sink)?;
                }
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Vec<Batch> {
        let Self { target, pool, .. } = *self;
        let buffers = match target {
            Target::Known(buffers) => buffers,
            Target::Unknown(pieces) => {
                let pieces = pieces.into_inner().unwrap_or_else(PoisonError::into_inner);
                if pieces.len() == 1 {
                    pieces.into_values().flatten().collect()
                } else {
                    return vec![Buffers::join(pieces.into_values().flatten(), &pool)];
                }
            }
        };
        buffers.into_iter().map(Buffers::finish).collect()
    }
}

/// CSR buffers for rows of `lengths` values.
fn csr<T: Num>(lengths: &[usize], batches: &[usize], piece: usize, pool: &Pool) -> Result<Vec<Buffers<T>>> {
    let mut rest = lengths;
    let mut buffers = Vec::with_capacity(batches.len());
    for &rows in batches {
        let (here, later) = rest.split_at(rows);
        buffers.push(Buffers::csr(here, piece, pool)?);
        rest = later;
    }
    Ok(buffers)
}

/// Rows whose lengths are known, straight to their slots.
struct Direct<'a, 'b, T> {
    plan: &'a Plan,
    waiting: &'a [Range<usize>],
    outs: &'a mut Outs<'b, T>,
}

impl<T: Num> Sink<T> for Direct<'_, '_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: Fill<'_, T>) -> Result<()> {
        let slots = &self.plan.slots[self.waiting[i].clone()];
        let Some((&first, others)) = slots.split_first() else { return Ok(()) };
        let (columns, values) = self.outs.row(first);
        debug_assert_eq!(values.len(), nnz);
        fill(columns, values)?;
        for &slot in others {
            self.outs.repeat(first, slot);
        }
        Ok(())
    }
}

/// Rows scattered into dense ones.
struct Scatter<'a, 'b, T> {
    plan: &'a Plan,
    waiting: &'a [Range<usize>],
    columns: Option<&'a Columns>,
    outs: &'a mut Outs<'b, T>,
    row: (Vec<i32>, Vec<T>),
    places: Vec<u32>,
}

impl<T: Num> Sink<T> for Scatter<'_, '_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: Fill<'_, T>) -> Result<()> {
        let slots = &self.plan.slots[self.waiting[i].clone()];
        let Some((&first, others)) = slots.split_first() else { return Ok(()) };
        let (columns, values) = (&mut self.row.0, &mut self.row.1);
        columns.resize(nnz, 0);
        values.resize(nnz, T::zero());
        fill(columns, values)?;
        let (_, out) = self.outs.row(first);
        out.fill(T::zero());
        // Columns were checked against the matrix when they were decoded, and the map when it was made.
        let mut put = |column: i32, value| out[usize::try_from(column).unwrap_or(usize::MAX)] = value;
        match self.columns {
            Some(map) => {
                for &place in map.kept(columns, &mut self.places) {
                    put(map.target(columns[place as usize]), values[place as usize]);
                }
            }
            None => columns.iter().zip(&*values).for_each(|(&column, &value)| put(column, value)),
        }
        for &slot in others {
            self.outs.repeat(first, slot);
        }
        Ok(())
    }
}

/// Rows whose lengths are known once they are read, one after another.
struct Staged<'a, T> {
    rows: Rows<T>,
    columns: Option<&'a Columns>,
    places: Vec<u32>,
}

impl<T: Num> Sink<T> for Staged<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: Fill<'_, T>) -> Result<()> {
        let start = self.rows.data.len();
        self.rows.row(i, nnz, fill)?;
        if let Some(map) = self.columns {
            let kept = map.apply(&mut self.rows.indices[start..], &mut self.rows.data[start..], &mut self.places);
            self.rows.indices.truncate(start + kept);
            self.rows.data.truncate(start + kept);
            if let Some(end) = self.rows.indptr.last_mut() {
                *end = start + kept;
            }
        }
        Ok(())
    }
}

/// A sink that gets rows normalized.
struct Normalized<'a, T> {
    sink: &'a mut dyn Sink<T>,
    normalize: Normalize,
}

impl<T: Num> Sink<T> for Normalized<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: Fill<'_, T>) -> Result<()> {
        self.sink.row(i, nnz, &mut |columns, values| {
            fill(columns, values)?;
            self.normalize.apply(values);
            Ok(())
        })
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

fn read<T: Num>(request: &Request, part: &Part, need: &Needs, stop: &AtomicBool, sink: &mut dyn Sink<T>) -> Result<()> {
    let mut wanted = part.columns.as_ref().map(Columns::wanted);
    let mut normalized;
    let sink = match request.normalize {
        Some(normalize) => {
            // A row's total is over all of its columns.
            wanted = None;
            normalized = Normalized { sink, normalize };
            &mut normalized as &mut dyn Sink<T>
        }
        None => sink,
    };
    let mut sink = Stoppable { sink, stop };
    let cache = (&request.cache, need.number);
    part.matrix.read_with(&need.rows, wanted, cache, &mut sink).map_err(|e| e.at(format!("dataset '{}'", part.dataset)))
}

/// How many values the row of each key will have, where that is known before it is read.
fn lengths(request: &Request, keys: &[u64]) -> Result<Option<Vec<usize>>> {
    let mut lengths = Vec::with_capacity(keys.len());
    for &key in keys {
        let (number, row) = split_key(key);
        let part = request.part(number)?;
        let Some(nnz) = part.matrix.row_nnz(row).filter(|_| part.columns.is_none()) else { return Ok(None) };
        // More than memory holds fails where it is allocated.
        lengths.push(usize::try_from(nnz).unwrap_or(usize::MAX));
    }
    Ok(Some(lengths))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::Values;

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
        let plan = plan(&[7, 3, 7, 7]);
        let pool = Pool::default();
        let waiting = &plan.needs[0].waiting;
        let buffers = csr::<f32>(&[2, 3, 2, 2], &[3, 1], 4, &pool).unwrap();
        let mut outs = Outs::new(&buffers, 0, None).unwrap();
        fill(&mut Direct { plan: &plan, waiting, outs: &mut outs });
        let batches: Vec<Batch> = buffers.into_iter().map(Buffers::finish).collect();
        assert_eq!(batches[0].indptr, [0, 2, 5, 7]);
        assert_eq!(batches[0].data, Values::F32(vec![4., 5., 1., 2., 3., 4., 5.]));
        assert_eq!(batches[0].indices, [1, 3, 0, 1, 2, 1, 3]);
        assert_eq!((&batches[1].indptr[..], &batches[1].indices[..]), (&[0, 2][..], &[1, 3][..]));
        let buffers = [3, 1].map(|rows| Buffers::<f32>::dense(rows, 4, 4, &pool).unwrap());
        let mut outs = Outs::new(&buffers, 0, Some(4)).unwrap();
        let row = (Vec::new(), Vec::new());
        fill(&mut Scatter { plan: &plan, waiting, columns: None, outs: &mut outs, row, places: Vec::new() });
        let [first, second] = buffers.map(Buffers::finish);
        assert_eq!(first.data, Values::F32(vec![0., 4., 0., 5., 1., 2., 3., 0., 0., 4., 0., 5.]));
        assert_eq!(second.data, Values::F32(vec![0., 4., 0., 5.]));
    }
}
