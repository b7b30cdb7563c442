//! The rows of one matrix decoded into the batches of a window, piece by piece, by as many threads as there
//! are pieces.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::BatchMatrix;
use super::buffers::{Buffers, Slot};
use super::pool::PoolSection;
use crate::error::{DaoError, Result};
use crate::genes::Columns;
use crate::matrix::{FillRow, RowBuffer, RowSink, Rows};
use crate::number::{Layout, Num, for_dtype};
use crate::read::{MatrixRequest, PartRows, ReadRequest, RowPlan, split_key};

/// The batches of a window in one matrix, while they are read.
pub trait Assembly: Send + Sync {
    /// Reads the rows of `plan`, which are those of a piece, each once; fails early once `stop` is set.
    fn read(&self, piece: usize, plan: &RowPlan, stop: &AtomicBool) -> Result<()>;

    /// The rows of each batch, when all pieces have been read.
    fn finish(self: Box<Self>) -> Result<Vec<BatchMatrix>>;
}

/// Makes room for the `matrix`-th matrix of cells `keys`, in batches of so many rows, read in pieces of `piece`
/// cells, each of which may be of several batches.
pub fn assembly(
    request: &Arc<ReadRequest>,
    matrix: usize,
    keys: &[u64],
    batches: Vec<usize>,
    piece: usize,
    sections: [PoolSection; 2],
) -> Result<Box<dyn Assembly>> {
    let Some(wanted) = request.matrices.get(matrix) else { return Err(DaoError::internal("no such matrix")) };
    let lengths = match wanted.form.layout {
        Layout::Dense => Some(vec![wanted.form.n_columns; keys.len()]),
        Layout::Csr => lengths(wanted, keys)?,
    };
    for_dtype!(wanted.form.dtype, T => {
        let target = match lengths {
            Some(lengths) => Target::Known(buffers(wanted.form.layout, &batches, lengths, piece, &sections)?),
            None => Target::Unknown(Mutex::default()),
        };
        Ok(Box::new(TypedAssembly::<T> { request: request.clone(), matrix, batches, sections, target }))
    })
}

struct TypedAssembly<T> {
    request: Arc<ReadRequest>,
    /// The position of the matrix in the request.
    matrix: usize,
    /// The number of rows of each batch.
    batches: Vec<usize>,
    sections: [PoolSection; 2],
    target: Target<T>,
}

enum Target<T> {
    /// The place of every row is known before it is read.
    Known(Vec<Buffers<T>>),
    /// The places are known only when all has been read: the pieces, by number.
    Unknown(Mutex<BTreeMap<usize, StagedPiece<T>>>),
}

/// The rows of a piece one after another, and which of them each slot has.
struct StagedPiece<T> {
    rows: Rows<T>,
    row_of_slot: Vec<usize>,
}

impl<T> StagedPiece<T> {
    /// The columns and values of each slot.
    fn slots(&self) -> impl Iterator<Item = (&[i32], &[T])> {
        let Rows { indptr, indices, data } = &self.rows;
        let ranges = self.row_of_slot.iter().map(|&row| indptr[row]..indptr[row + 1]);
        ranges.map(|range| (&indices[range.clone()], &data[range]))
    }
}

impl<T: Num> Assembly for TypedAssembly<T> {
    fn read(&self, piece: usize, plan: &RowPlan, stop: &AtomicBool) -> Result<()> {
        let wanted = &self.request.matrices[self.matrix];
        let (row, positions) = (RowBuffer::default(), Vec::new());
        match &self.target {
            Target::Known(buffers) => {
                let mut slots = Vec::with_capacity(plan.slots.len());
                buffers.iter().try_for_each(|buffers| buffers.slots(piece, &mut slots))?;
                let (layout, slots) = (wanted.form.layout, &mut slots[..]);
                let mut sink =
                    SlotSink { plan, part: &PartRows::default(), layout, columns: None, slots, row, positions, stop };
                for part in &plan.parts {
                    (sink.part, sink.columns) = (part, wanted.part(part.number)?.columns.as_deref());
                    self.request.read(wanted, part.number, &part.rows, &mut sink)?;
                }
            }
            Target::Unknown(pieces) => {
                let mut row_of_slot = vec![0; plan.slots.len()];
                let ranges = plan.parts.iter().flat_map(|part| &part.slot_ranges);
                for (row, range) in ranges.enumerate() {
                    plan.slots[range.clone()].iter().for_each(|&slot| row_of_slot[slot] = row);
                }
                let mut sink = StagingSink { rows: Rows::empty(), columns: None, positions, stop };
                for part in &plan.parts {
                    sink.columns = wanted.part(part.number)?.columns.as_deref();
                    self.request.read(wanted, part.number, &part.rows, &mut sink)?;
                }
                let staged = StagedPiece { rows: sink.rows, row_of_slot };
                pieces.lock().unwrap_or_else(PoisonError::into_inner).insert(piece, staged);
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<BatchMatrix>> {
        let pieces = match self.target {
            Target::Known(buffers) => return Ok(buffers.into_iter().map(Buffers::finish).collect()),
            Target::Unknown(pieces) => pieces.into_inner().unwrap_or_else(PoisonError::into_inner),
        };
        let lengths = pieces.values().flat_map(StagedPiece::slots).map(|(columns, _)| columns.len()).collect();
        let buffers = buffers(Layout::Csr, &self.batches, lengths, usize::MAX, &self.sections)?;
        let mut slots = Vec::new();
        buffers.iter().try_for_each(|buffers| buffers.slots(0, &mut slots))?;
        let mut slots = slots.into_iter();
        // Each piece is dropped once it was copied, so that the rows are hardly ever in memory twice.
        for piece in pieces.into_values() {
            for ((columns, values), (to_columns, to_values)) in piece.slots().zip(slots.by_ref()) {
                to_columns.copy_from_slice(columns);
                to_values.copy_from_slice(values);
            }
        }
        Ok(buffers.into_iter().map(Buffers::finish).collect())
    }
}

/// Buffers of each batch of so many rows, for rows of `lengths` values that are read in pieces of `piece` cells.
fn buffers<T: Num>(
    layout: Layout,
    batches: &[usize],
    lengths: Vec<usize>,
    piece: usize,
    sections: &[PoolSection; 2],
) -> Result<Vec<Buffers<T>>> {
    let mut lengths = lengths.into_iter();
    let mut first = 0;
    let next = |&n_rows: &usize| {
        let buffers = Buffers::new(layout, lengths.by_ref().take(n_rows), first, piece, sections);
        first += n_rows;
        buffers
    };
    batches.iter().map(next).collect()
}

/// Fails once nobody waits for what is read.
fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(DaoError::value("reading was stopped")) } else { Ok(()) }
}

/// A sink that decodes the rows of one part into their slots: straight, or scattered where these are dense.
struct SlotSink<'a, 'b, T> {
    plan: &'a RowPlan,
    part: &'a PartRows,
    layout: Layout,
    columns: Option<&'a Columns>,
    slots: &'a mut [Slot<'b, T>],
    row: RowBuffer<T>,
    positions: Vec<u32>,
    stop: &'a AtomicBool,
}

impl<T: Num> RowSink<T> for SlotSink<'_, '_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        check(self.stop)?;
        let filled = &self.plan.slots[self.part.slot_ranges[i].clone()];
        let Some((&first, others)) = filled.split_first() else { return Ok(()) };
        let (to_columns, to_values) = &mut self.slots[first];
        match self.layout {
            Layout::Csr => fill(to_columns, to_values)?,
            Layout::Dense => {
                let (columns, values) = self.row.fill(nnz, fill)?;
                to_values.fill(T::zero());
                // In range: columns were checked against the matrix when decoded, and the map when it was made.
                let mut put = |column: i32, value| to_values[usize::try_from(column).unwrap_or(usize::MAX)] = value;
                match self.columns {
                    Some(map) => {
                        for &position in map.kept(columns, &mut self.positions) {
                            put(map.target(columns[position as usize]), values[position as usize]);
                        }
                    }
                    None => columns.iter().zip(&*values).for_each(|(&column, &value)| put(column, value)),
                }
            }
        }
        for &slot in others {
            if let Ok([from, to]) = self.slots.get_disjoint_mut([first, slot]) {
                to.0.copy_from_slice(from.0);
                to.1.copy_from_slice(from.1);
            }
        }
        Ok(())
    }
}

/// A sink that keeps rows one after another, for rows whose lengths are not known before they are read.
struct StagingSink<'a, T> {
    rows: Rows<T>,
    columns: Option<&'a Columns>,
    positions: Vec<u32>,
    stop: &'a AtomicBool,
}

impl<T: Num> RowSink<T> for StagingSink<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        check(self.stop)?;
        let start = self.rows.data.len();
        self.rows.row(i, nnz, fill)?;
        if let Some(map) = self.columns {
            let kept = map.apply(&mut self.rows.indices[start..], &mut self.rows.data[start..], &mut self.positions);
            self.rows.indices.truncate(start + kept);
            self.rows.data.truncate(start + kept);
            if let Some(end) = self.rows.indptr.last_mut() {
                *end = start + kept;
            }
        }
        Ok(())
    }
}

/// The number of values in the row of each key, where that is known before the row is read.
fn lengths(matrix: &MatrixRequest, keys: &[u64]) -> Result<Option<Vec<usize>>> {
    let mut lengths = Vec::with_capacity(keys.len());
    let mut rows = Vec::new();
    for run in keys.chunk_by(|a, b| split_key(*a).0 == split_key(*b).0) {
        let part = matrix.part(split_key(run[0]).0)?; // a run has a key
        if part.columns.is_some() {
            return Ok(None);
        }
        rows.clear();
        rows.extend(run.iter().map(|&key| split_key(key).1));
        let Some(found) = part.matrix.row_lengths(&rows)? else { return Ok(None) };
        // A length that memory cannot hold fails later, where the buffer is allocated.
        lengths.extend(found.into_iter().map(|nnz| usize::try_from(nnz).unwrap_or(usize::MAX)));
    }
    Ok(Some(lengths))
}

#[cfg(test)]
mod tests {
    use super::super::pool::BufferPool;
    use super::*;
    use crate::number::Values;

    /// Rows 3 and 7 in slots 7, 3, 7 | 7: repeated within a batch and in another.
    fn fill(sink: &mut dyn RowSink<f32>) {
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
        let plan = RowPlan::new(&[7, 3, 7, 7]);
        let filled = |layout, lengths: [&[usize]; 2], piece: usize| {
            let sections = BufferPool::new(1).sections(0);
            let batches = lengths.map(<[usize]>::len);
            let buffers = buffers::<f32>(layout, &batches, lengths.concat(), piece, &sections).unwrap();
            let mut slots = Vec::new();
            for number in 0..4_usize.div_ceil(piece) {
                buffers.iter().for_each(|buffers| buffers.slots(number, &mut slots).unwrap());
            }
            assert_eq!(slots.len(), 4);
            assert!(buffers[0].slots(0, &mut slots).is_err(), "given out once");
            let (part, row, stop) = (&plan.parts[0], RowBuffer::default(), &AtomicBool::new(false));
            let (columns, positions) = (None, Vec::new());
            fill(&mut SlotSink { plan: &plan, part, layout, columns, slots: &mut slots, row, positions, stop });
            buffers.into_iter().map(Buffers::finish).collect::<Vec<_>>()
        };
        for piece in 1..=5 {
            let batches = filled(Layout::Csr, [&[2, 3, 2], &[2]], piece);
            assert_eq!(batches[0].indptr, [0, 2, 5, 7]);
            assert_eq!(batches[0].data, Values::F32(vec![4., 5., 1., 2., 3., 4., 5.]));
            assert_eq!(batches[0].indices, [1, 3, 0, 1, 2, 1, 3]);
            assert_eq!((&batches[1].indptr[..], &batches[1].indices[..]), (&[0, 2][..], &[1, 3][..]));
            let batches = filled(Layout::Dense, [&[4, 4, 4], &[4]], piece);
            assert_eq!(batches[0].data, Values::F32(vec![0., 4., 0., 5., 1., 2., 3., 0., 0., 4., 0., 5.]));
            assert_eq!(batches[1].data, Values::F32(vec![0., 4., 0., 5.]));
        }
    }
}
