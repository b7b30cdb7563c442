//! The rows of one matrix decoded into the batches of a window, piece by piece, by as many threads as there
//! are pieces.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::BatchMatrix;
use super::buffers::{Buffers, Slots};
use super::pool::MatrixBuffers;
use crate::error::{DaoError, Result};
use crate::genes::Columns;
use crate::matrix::{FillRow, RowBuffer, RowSink, Rows};
use crate::number::{Layout, Num, for_dtype};
use crate::read::{MatrixRequest, ReadRequest, RowPlan, split_key};

/// The batches of a window in one matrix, while they are read.
pub trait Assembly: Send + Sync {
    /// Reads the rows of `plan`, which are those of a piece, each once; fails early once `stop` is set.
    ///
    /// # Errors
    /// As [`ReadRequest::read`].
    fn read(&self, piece: usize, plan: &RowPlan, stop: &AtomicBool) -> Result<()>;

    /// The rows of each batch, when all pieces have been read.
    fn finish(self: Box<Self>) -> Vec<BatchMatrix>;
}

/// Makes room for the `matrix`-th matrix of cells `keys`, in batches of so many rows, read in pieces of `piece`
/// cells: several batches in one piece, or one batch in several.
///
/// # Errors
/// `Value` for cells of a dataset that was not opened.
pub fn assembly(
    request: &Arc<ReadRequest>,
    matrix: usize,
    keys: &[u64],
    batches: &[usize],
    piece: usize,
    pool: MatrixBuffers,
) -> Result<Box<dyn Assembly>> {
    let Some(wanted) = request.matrices.get(matrix) else { return Err(DaoError::internal("no such matrix")) };
    for_dtype!(wanted.form.dtype, T => {
        let target = match wanted.form.layout {
            Layout::Dense => {
                let buffers = |&rows: &usize| Buffers::dense(rows, wanted.form.n_columns, piece, &pool);
                Target::Known(batches.iter().map(buffers).collect::<Result<_>>()?)
            }
            Layout::Csr => match lengths(wanted, keys)? {
                Some(lengths) => Target::Known(csr(&lengths, batches, piece, &pool)?),
                None => Target::Unknown(Mutex::default()),
            },
        };
        let (request, batches) = (request.clone(), batches.to_vec());
        Ok(Box::new(TypedAssembly::<T> { request, matrix, batches, pool, target }))
    })
}

struct TypedAssembly<T> {
    request: Arc<ReadRequest>,
    /// The position of the matrix in the request.
    matrix: usize,
    /// The number of rows of each batch.
    batches: Vec<usize>,
    pool: MatrixBuffers,
    target: Target<T>,
}

enum Target<T> {
    /// The place of every row is known before it is read.
    Known(Vec<Buffers<T>>),
    /// The places are known only after reading: the buffers of each batch that a piece gave, by piece.
    Unknown(Mutex<BTreeMap<usize, Vec<Buffers<T>>>>),
}

impl<T: Num> TypedAssembly<T> {
    fn wanted(&self) -> &MatrixRequest {
        &self.request.matrices[self.matrix]
    }

    /// The slots that the rows of a piece go to.
    fn slots<'a>(&self, buffers: &'a [Buffers<T>], piece: usize) -> Result<Slots<'a, T>> {
        let form = &self.wanted().form;
        Slots::new(buffers, piece, (form.layout == Layout::Dense).then_some(form.n_columns))
    }

    fn read_rows(&self, number: u32, rows: &[u32], stop: &AtomicBool, sink: &mut dyn RowSink<T>) -> Result<()> {
        self.request.read(self.wanted(), number, rows, true, &mut StoppableSink { sink, stop })
    }

    /// Reads rows whose lengths are not known before they are read, and then puts them in order.
    fn stage(&self, plan: &RowPlan, stop: &AtomicBool) -> Result<Vec<Buffers<T>>> {
        let mut staged: Vec<Rows<T>> = Vec::with_capacity(plan.datasets.len());
        for dataset in &plan.datasets {
            let columns = self.wanted().dataset(dataset.number)?.columns.as_deref();
            let mut sink = StagingSink { rows: Rows::empty(), columns, positions: Vec::new() };
            self.read_rows(dataset.number, &dataset.rows, stop, &mut sink)?;
            staged.push(sink.rows);
        }
        let mut sources = vec![(0, 0..0); plan.slots.len()];
        for (source, (dataset, rows)) in plan.datasets.iter().zip(&staged).enumerate() {
            for (range, ends) in dataset.slot_ranges.iter().zip(rows.indptr.windows(2)) {
                for &slot in &plan.slots[range.clone()] {
                    sources[slot] = (source, ends[0]..ends[1]);
                }
            }
        }
        let lengths: Vec<usize> = sources.iter().map(|(_, range)| range.len()).collect();
        // A piece is part of one batch, or all of several batches.
        let batches = if self.batches.len() == 1 { &[lengths.len()][..] } else { &self.batches };
        let buffers = csr(&lengths, batches, lengths.len(), &self.pool)?;
        let mut slots = self.slots(&buffers, 0)?;
        for (slot, (source, range)) in sources.into_iter().enumerate() {
            let (columns, values) = slots.row(slot);
            columns.copy_from_slice(&staged[source].indices[range.clone()]);
            values.copy_from_slice(&staged[source].data[range]);
        }
        drop(slots);
        Ok(buffers)
    }
}

impl<T: Num> Assembly for TypedAssembly<T> {
    fn read(&self, piece: usize, plan: &RowPlan, stop: &AtomicBool) -> Result<()> {
        let buffers = match &self.target {
            Target::Known(buffers) => buffers,
            Target::Unknown(pieces) => {
                let buffers = self.stage(plan, stop)?;
                pieces.lock().unwrap_or_else(PoisonError::into_inner).insert(piece, buffers);
                return Ok(());
            }
        };
        let mut slots = self.slots(buffers, piece)?;
        for dataset in &plan.datasets {
            let ranges = &dataset.slot_ranges;
            match self.wanted().form.layout {
                Layout::Csr => {
                    let mut sink = DirectSink { plan, ranges, slots: &mut slots };
                    self.read_rows(dataset.number, &dataset.rows, stop, &mut sink)?;
                }
                Layout::Dense => {
                    let columns = self.wanted().dataset(dataset.number)?.columns.as_deref();
                    let row = RowBuffer::default();
                    let mut sink = ScatterSink { plan, ranges, columns, slots: &mut slots, row, positions: Vec::new() };
                    self.read_rows(dataset.number, &dataset.rows, stop, &mut sink)?;
                }
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Vec<BatchMatrix> {
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
fn csr<T: Num>(lengths: &[usize], batches: &[usize], piece: usize, pool: &MatrixBuffers) -> Result<Vec<Buffers<T>>> {
    let mut rest = lengths;
    let mut buffers = Vec::with_capacity(batches.len());
    for &rows in batches {
        let (here, later) = rest.split_at(rows);
        buffers.push(Buffers::csr(here, piece, pool)?);
        rest = later;
    }
    Ok(buffers)
}

/// A sink that decodes rows of known length straight into their slots.
struct DirectSink<'a, 'b, T> {
    plan: &'a RowPlan,
    ranges: &'a [Range<usize>],
    slots: &'a mut Slots<'b, T>,
}

impl<T: Num> RowSink<T> for DirectSink<'_, '_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        let filled = &self.plan.slots[self.ranges[i].clone()];
        let Some((&first, others)) = filled.split_first() else { return Ok(()) };
        let (columns, values) = self.slots.row(first);
        debug_assert_eq!(values.len(), nnz);
        fill(columns, values)?;
        for &slot in others {
            self.slots.repeat(first, slot);
        }
        Ok(())
    }
}

/// A sink that scatters rows into dense slots.
struct ScatterSink<'a, 'b, T> {
    plan: &'a RowPlan,
    ranges: &'a [Range<usize>],
    columns: Option<&'a Columns>,
    slots: &'a mut Slots<'b, T>,
    row: RowBuffer<T>,
    positions: Vec<u32>,
}

impl<T: Num> RowSink<T> for ScatterSink<'_, '_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        let filled = &self.plan.slots[self.ranges[i].clone()];
        let Some((&first, others)) = filled.split_first() else { return Ok(()) };
        let (columns, values) = self.row.fill(nnz, fill)?;
        let (_, out) = self.slots.row(first);
        out.fill(T::zero());
        // In range: columns were checked against the matrix when decoded, and the map when it was made.
        let mut put = |column: i32, value| out[usize::try_from(column).unwrap_or(usize::MAX)] = value;
        match self.columns {
            Some(map) => {
                for &position in map.kept(columns, &mut self.positions) {
                    put(map.target(columns[position as usize]), values[position as usize]);
                }
            }
            None => columns.iter().zip(&*values).for_each(|(&column, &value)| put(column, value)),
        }
        for &slot in others {
            self.slots.repeat(first, slot);
        }
        Ok(())
    }
}

/// A sink that keeps rows one after another, for rows whose lengths are not known before they are read.
struct StagingSink<'a, T> {
    rows: Rows<T>,
    columns: Option<&'a Columns>,
    positions: Vec<u32>,
}

impl<T: Num> RowSink<T> for StagingSink<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
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

/// A sink that fails once nobody waits for it any more.
struct StoppableSink<'a, T> {
    sink: &'a mut dyn RowSink<T>,
    stop: &'a AtomicBool,
}

impl<T> RowSink<T> for StoppableSink<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(DaoError::value("reading was stopped"));
        }
        self.sink.row(i, nnz, fill)
    }
}

/// The number of values in the row of each key, where that is known before the row is read.
fn lengths(matrix: &MatrixRequest, keys: &[u64]) -> Result<Option<Vec<usize>>> {
    let mut lengths = Vec::with_capacity(keys.len());
    for &key in keys {
        let (number, row) = split_key(key);
        let dataset = matrix.dataset(number)?;
        let Some(nnz) = dataset.matrix.row_nnz(row).filter(|_| dataset.columns.is_none()) else { return Ok(None) };
        // A length that memory cannot hold fails later, where the buffer is allocated.
        lengths.push(usize::try_from(nnz).unwrap_or(usize::MAX));
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
        let pool = BufferPool::new(1).of_matrix(0);
        let ranges = &plan.datasets[0].slot_ranges;
        let buffers = csr::<f32>(&[2, 3, 2, 2], &[3, 1], 4, &pool).unwrap();
        let mut slots = Slots::new(&buffers, 0, None).unwrap();
        fill(&mut DirectSink { plan: &plan, ranges, slots: &mut slots });
        let batches: Vec<BatchMatrix> = buffers.into_iter().map(Buffers::finish).collect();
        assert_eq!(batches[0].indptr, [0, 2, 5, 7]);
        assert_eq!(batches[0].data, Values::F32(vec![4., 5., 1., 2., 3., 4., 5.]));
        assert_eq!(batches[0].indices, [1, 3, 0, 1, 2, 1, 3]);
        assert_eq!((&batches[1].indptr[..], &batches[1].indices[..]), (&[0, 2][..], &[1, 3][..]));
        let buffers = [3, 1].map(|rows| Buffers::<f32>::dense(rows, 4, 4, &pool).unwrap());
        let mut slots = Slots::new(&buffers, 0, Some(4)).unwrap();
        let row = RowBuffer::default();
        fill(&mut ScatterSink { plan: &plan, ranges, columns: None, slots: &mut slots, row, positions: Vec::new() });
        let [first, second] = buffers.map(Buffers::finish);
        assert_eq!(first.data, Values::F32(vec![0., 4., 0., 5., 1., 2., 3., 0., 0., 4., 0., 5.]));
        assert_eq!(second.data, Values::F32(vec![0., 4., 0., 5.]));
    }
}
