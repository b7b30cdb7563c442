//! One pass over a request's cells, as finished batches made ahead of their consumer.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::ahead::ReadAhead;
use super::assemble::{Assembly, assembly};
use super::pool::BufferPool;
use super::tokens::{EpochEncoding, Tokens};
use super::window::{Window, windows};
use super::{Batch, BatchMatrix};
use crate::error::{DaoError, Result};
use crate::number::Layout;
use crate::read::schedule::{Next, Work, Workers};
use crate::read::{MatrixRequest, ReadRequest, RowPlan, split_key};
use crate::sampling::EpochPlan;

/// The cells of a piece where rows are decoded one by one: few, so that threads share a batch and its
/// buffers stay in the processor's cache.
const PIECE: usize = 256;
/// The cells of a piece where rows are cheaper together, since each costs a request or a chunk of many rows.
const WIDE_PIECE: usize = 8192;

/// One pass over a request's cells. Dropping it stops and joins its threads.
pub struct Epoch {
    workers: Workers<Windows>,
    ready: std::vec::IntoIter<Batch>,
}

impl Epoch {
    /// Starts `threads` threads on the cells of `request` in the order of `plan` (positions into its keys), cut
    /// into its batches (consecutive rows of that order), with buffers from `pool` and, of an encoding, tokens.
    ///
    /// # Errors
    /// `Value` for an order that the keys do not have or batches that do not fit it, `Io` if the system gives
    /// no thread.
    pub fn start(
        request: Arc<ReadRequest>,
        plan: EpochPlan,
        encoding: Option<EpochEncoding>,
        budget: u64,
        threads: usize,
        pool: Arc<BufferPool>,
    ) -> Result<Self> {
        let EpochPlan { order, batches, together } = plan;
        if let Some(position) = order.iter().find(|&&position| position as usize >= request.keys.len()) {
            return Err(DaoError::value(format!("the plan has position {position}"))
                .expected(format!("positions below {}", request.keys.len())));
        }
        if batches.iter().any(|batch| batch.end > order.len()) {
            return Err(DaoError::value("the batches do not fit the plan"));
        }
        // Rows that are decoded along with wanted ones have at most half of the budget.
        let for_cache = kept_bytes(&request).min(budget / 2);
        request.cache.limit(usize::try_from(for_cache).unwrap_or(usize::MAX));
        // What is read one by one may change while the epoch goes on: more is on this machine then.
        let pieces: Vec<usize> = request.matrices.iter().map(piece_of).collect();
        let of_piece = |piece| (0..pieces.len()).filter(|&i| pieces[i] == piece).collect();
        let mut by_piece = vec![(PIECE, of_piece(PIECE)), (WIDE_PIECE, of_piece(WIDE_PIECE))];
        by_piece.retain(|(_, matrices): &(usize, Vec<usize>)| !matrices.is_empty());
        let windows = windows(&batches);
        let budget = budget - for_cache;
        // Two thirds of what is left are for what comes over a network, before it is decoded: of three lots that are shuffled one
        // is used, one has come, and one is on its way.
        let for_batches = budget / 3;
        let ahead = ReadAhead::new(&request, &order, &together, by_piece.len(), budget - for_batches);
        let budget = if ahead.is_some() { for_batches } else { budget };
        let cells = AtomicUsize::new(0);
        let work = Windows { request, order, batches, windows, pieces, by_piece, pool, encoding, ahead, cells };
        Ok(Self { workers: Workers::start(work, budget, threads)?, ready: Vec::new().into_iter() })
    }

    /// The cells that were read so far, ahead of the consumer too, each once for each matrix.
    pub fn cells(&self) -> usize {
        self.workers.work().cells.load(Ordering::Relaxed)
    }

    /// The next batch, waiting at most `patience`.
    ///
    /// # Errors
    /// The first error of reading; the epoch is over after it.
    pub fn next(&mut self, patience: Duration) -> Result<Next<Batch>> {
        loop {
            if let Some(batch) = self.ready.next() {
                return Ok(Next::Ready(batch));
            }
            match self.workers.next(patience)? {
                Next::Ready(batches) => self.ready = batches.into_iter(),
                Next::Waiting => return Ok(Next::Waiting),
                Next::Over => return Ok(Next::Over),
            }
        }
    }
}

/// The most cells of a piece of a matrix.
fn piece_of(matrix: &MatrixRequest) -> usize {
    if matrix.reads_rows() { PIECE } else { WIDE_PIECE }
}

/// The most bytes that rows decoded along with wanted ones can take.
fn kept_bytes(request: &ReadRequest) -> u64 {
    let parts = request.matrices.iter().flat_map(|matrix| &matrix.parts);
    let kept = parts.filter(|(_, part)| part.matrix.keeps_rows()).map(|(_, part)| {
        let [n_obs, n_columns] = part.matrix.shape();
        let row = n_columns.saturating_mul(part.matrix.dtype().size() as u64 + 1).saturating_add(128);
        n_obs.saturating_mul(row)
    });
    kept.fold(0, u64::saturating_add)
}

/// The work of an epoch, as the scheduler sees it: a unit is a window.
struct Windows {
    request: Arc<ReadRequest>,
    order: Arc<[u32]>,
    batches: Vec<Range<usize>>,
    windows: Vec<Window>,
    /// The most cells of a piece of each matrix.
    pieces: Vec<usize>,
    /// The most cells of a piece, and the positions in the request of the matrices that are read in such pieces.
    by_piece: Vec<(usize, Vec<usize>)>,
    pool: Arc<BufferPool>,
    /// How cells become tokens.
    encoding: Option<EpochEncoding>,
    /// What is read ahead, where the store is on another machine.
    ahead: Option<ReadAhead>,
    cells: AtomicUsize,
}

/// A window while it is read.
struct OpenWindow {
    /// The keys of the window's cells, in order.
    keys: Vec<u64>,
    /// The batches in the making, one entry for each matrix of the request.
    assemblies: Vec<Box<dyn Assembly>>,
}

impl Windows {
    fn keys(&self, window: usize) -> impl Iterator<Item = u64> {
        let rows = self.windows[window].rows.clone();
        self.order[rows].iter().map(|&position| self.request.keys.at(position as usize))
    }

    /// The bytes of one matrix while a window is read: decoded rows, and the batches made of them.
    fn matrix_bytes(&self, matrix: &MatrixRequest, window: usize) -> u64 {
        let (mut rows, mut direct) = (0, true);
        for key in self.keys(window) {
            let (number, row) = split_key(key);
            let Ok(part) = matrix.part(number) else { continue };
            direct &= part.columns.is_none() && part.matrix.is_csr();
            rows += part.matrix.row_bytes(row);
        }
        match matrix.form.layout {
            Layout::Csr if direct => rows,
            Layout::Csr => 2 * rows,
            Layout::Dense => {
                let cells = self.windows[window].rows.len();
                rows + (cells * matrix.form.n_columns * matrix.form.dtype.size()) as u64
            }
        }
    }
}

impl Work for Windows {
    type Unit = OpenWindow;
    type Output = Vec<Batch>;

    fn n_units(&self) -> usize {
        self.windows.len()
    }

    fn n_pieces(&self, window: usize) -> usize {
        let n_pieces = |&(most, _): &_| self.windows[window].n_pieces(most);
        self.by_piece.iter().map(n_pieces).sum::<usize>().max(1)
    }

    fn estimate(&self, window: usize) -> u64 {
        let tokens = self.encoding.as_ref().map_or(0, |encoding| encoding.bytes(self.windows[window].rows.len()));
        self.request.matrices.iter().map(|matrix| self.matrix_bytes(matrix, window)).fold(tokens, u64::saturating_add)
    }

    fn prepare(&self, unit: usize) -> Result<OpenWindow> {
        let window = &self.windows[unit];
        let keys: Vec<u64> = self.keys(unit).collect();
        let batches: Vec<usize> = self.batches[window.batches.clone()].iter().map(Range::len).collect();
        let assemblies = self.pieces.iter().enumerate().map(|(i, &most)| {
            let piece = window.piece(most);
            assembly(&self.request, i, &keys, batches.clone(), piece, self.pool.sections(i))
        });
        Ok(OpenWindow { assemblies: assemblies.collect::<Result<_>>()?, keys })
    }

    fn piece(&self, unit: usize, open: &OpenWindow, number: usize, stop: &AtomicBool) -> Result<()> {
        let (window, mut number) = (&self.windows[unit], number);
        for (most, matrices) in &self.by_piece {
            if let Some(later) = number.checked_sub(window.n_pieces(*most)) {
                number = later;
                continue;
            }
            let keys = open.keys.chunks(window.piece(*most)).nth(number).unwrap_or_default();
            let first = window.rows.start + number * window.piece(*most);
            let rows = first..first + keys.len();
            if let Some(ahead) = &self.ahead {
                let key = |row: usize| self.request.keys.at(self.order[row] as usize);
                ahead.need(&self.request, &rows, key)?;
            }
            let plan = RowPlan::new(keys);
            for &matrix in matrices {
                open.assemblies[matrix].read(number, &plan, stop)?;
                self.cells.fetch_add(keys.len(), Ordering::Relaxed);
            }
            self.ahead.iter().for_each(|ahead| ahead.done(&rows));
            break;
        }
        Ok(())
    }

    fn finish(&self, unit: usize, open: OpenWindow) -> Result<Vec<Batch>> {
        let mut batches: Vec<Batch> = self.batches[self.windows[unit].batches.clone()]
            .iter()
            .map(|rows| Batch { rows: rows.clone(), matrices: Vec::with_capacity(open.assemblies.len()), tokens: None })
            .collect();
        for assembly in open.assemblies {
            for (batch, matrix) in batches.iter_mut().zip(assembly.finish()?) {
                batch.matrices.push(matrix);
            }
        }
        if let Some(encoding) = &self.encoding {
            let mut keys = &open.keys[..];
            for batch in &mut batches {
                let (own, rest) = keys.split_at(batch.rows.len());
                keys = rest;
                batch.tokens = batch.matrices.first().map(|x| encoding.tokens(own, x)).transpose()?;
            }
        }
        Ok(batches)
    }

    fn bytes(&self, batches: &Vec<Batch>) -> u64 {
        let matrices = batches.iter().flat_map(|batch| &batch.matrices).map(BatchMatrix::bytes);
        matrices.chain(batches.iter().flat_map(|batch| &batch.tokens).map(Tokens::bytes)).sum()
    }
}
