//! Batches made ahead of their consumer, on all cores, within a budget of bytes, in order.
//!
//! Worker threads live as long as the [`Epoch`]: dropping it stops and joins them. A window is begun
//! when its estimate fits into the budget, or when the consumer waits for it, so that one batch larger
//! than the whole budget still gets through; its pieces are read by any of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::assemble::{Assembly, Group, assembly};
use super::plan::{Window, windows};
use super::pool::Pool;
use super::{Batch, Request, split_key};
use crate::error::{DaoError, ErrorKind, Result};
use crate::number::Layout;

/// Small batches are read together until a window has this many cells.
const TOGETHER: usize = 1024;
/// Cells of a piece where each row is read for itself: few, so that threads share a batch and its
/// buffers stay in the processor's cache.
const PIECE: usize = 256;
/// Cells of a piece where rows are cheaper together: each costs a request, or a chunk of many rows.
const WIDE_PIECE: usize = 8192;

/// One pass over a request's cells, as finished batches.
pub struct Epoch {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    ready: std::vec::IntoIter<Batch>,
    next_window: usize,
    /// A forked child has the memory of the workers and not the workers.
    pid: u32,
}

struct Shared {
    request: Arc<Request>,
    order: Arc<[u32]>,
    batches: Vec<Range<usize>>,
    windows: Vec<Window>,
    budget: u64,
    /// Windows read before they are asked for.
    ahead: usize,
    pool: Arc<Pool>,
    stop: AtomicBool,
    /// Cells read so far.
    cells: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

/// A window's buffers, made by the first that needs them.
type Making = OnceLock<Result<Box<dyn Assembly>>>;

/// A window that is being read.
struct Open {
    making: Arc<Making>,
    /// Pieces not yet read.
    left: usize,
    estimate: u64,
    failed: Option<DaoError>,
}

#[derive(Default)]
struct State {
    /// The next piece: window and number.
    next: (usize, usize),
    wanted: usize,
    held: u64,
    open: BTreeMap<usize, Open>,
    done: BTreeMap<usize, (u64, Result<Vec<Batch>>)>,
}

/// A piece to be read.
struct Piece {
    window: usize,
    number: usize,
    making: Arc<Making>,
}

/// What waiting for the next batch gave.
pub enum Next {
    /// A batch.
    Batch(Batch),
    /// Nothing yet; ask again.
    Waiting,
    /// The epoch is over.
    Over,
}

impl Epoch {
    /// Starts `threads` workers on the cells of `request` in `order` (positions into its keys), cut
    /// into `batches` (consecutive places in that order), with buffers from `pool`.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn start(
        request: Arc<Request>,
        order: Arc<[u32]>,
        batches: Vec<Range<usize>>,
        budget: u64,
        threads: usize,
        pool: Arc<Pool>,
    ) -> Result<Self> {
        let piece = if request.parts.values().all(|part| part.matrix.reads_rows()) { PIECE } else { WIDE_PIECE };
        let windows = windows(&batches, TOGETHER, piece);
        let threads = threads.clamp(1, windows.iter().map(Window::pieces).sum::<usize>().max(1));
        // What is decoded along with wanted rows has half of the budget, where there is such.
        let shared_chunks = request.parts.values().any(|part| part.matrix.keeps_rows());
        let for_cache = if shared_chunks { budget / 2 } else { 0 };
        request.cache.limit(usize::try_from(for_cache).unwrap_or(usize::MAX));
        let shared = Arc::new(Shared {
            request,
            order,
            batches,
            windows,
            budget: budget - for_cache,
            ahead: 2 * threads,
            pool,
            stop: AtomicBool::new(false),
            cells: AtomicUsize::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut epoch = Self {
            shared,
            workers: Vec::new(),
            ready: Vec::new().into_iter(),
            next_window: 0,
            pid: std::process::id(),
        };
        for i in 0..threads {
            let shared = epoch.shared.clone();
            let worker = std::thread::Builder::new().name(format!("dao-read-{i}")).spawn(move || shared.work());
            epoch.workers.push(
                worker.map_err(|e| DaoError::new(ErrorKind::Io, format!("starting a reading thread failed: {e}")))?,
            );
        }
        Ok(epoch)
    }

    /// Cells read so far, ahead of the consumer too.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.shared.cells.load(Ordering::Relaxed)
    }

    /// The next batch, waiting at most `patience`.
    ///
    /// # Errors
    /// The first error of reading; the epoch is over after it.
    pub fn next(&mut self, patience: Duration) -> Result<Next> {
        if let Some(batch) = self.ready.next() {
            return Ok(Next::Batch(batch));
        }
        if self.next_window >= self.shared.windows.len() {
            return Ok(Next::Over);
        }
        let mut state = self.shared.lock();
        if !state.done.contains_key(&self.next_window) {
            let waited =
                self.shared.changed.wait_timeout_while(state, patience, |s| !s.done.contains_key(&self.next_window));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let Some((bytes, result)) = state.done.remove(&self.next_window) else { return Ok(Next::Waiting) };
        state.held = state.held.saturating_sub(bytes);
        self.next_window += 1;
        state.wanted = self.next_window;
        drop(state);
        self.shared.changed.notify_all();
        match result {
            Ok(batches) => {
                self.ready = batches.into_iter();
                self.ready.next().map_or(Ok(Next::Over), |batch| Ok(Next::Batch(batch)))
            }
            Err(error) => {
                self.next_window = self.shared.windows.len();
                self.shared.stop();
                Err(error)
            }
        }
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            // The threads, and whoever held the lock, are not in this process.
            for worker in self.workers.drain(..) {
                std::mem::forget(worker);
            }
            return;
        }
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // A worker that panicked has already told its consumer.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is only counters and finished batches: whole at every point where a panic could be.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        // Under the lock, so that no worker goes to wait after it has looked.
        let state = self.lock();
        self.stop.store(true, Ordering::Relaxed);
        drop(state);
        self.changed.notify_all();
    }

    fn work(&self) {
        while let Some(Piece { window, number, making }) = self.claim() {
            let read = catch_unwind(AssertUnwindSafe(|| self.read(window, number, &making)));
            let failed = read.unwrap_or_else(|_| Err(gave_up())).err();
            self.cells.fetch_add(self.piece(window, number).len(), Ordering::Relaxed);
            drop(making);
            self.end(window, failed);
        }
    }

    /// The next piece, once the budget has room for its window or the consumer waits for it; `None`
    /// when there is no more to do.
    fn claim(&self) -> Option<Piece> {
        let mut state = self.lock();
        loop {
            let (window, number) = state.next;
            if self.stop.load(Ordering::Relaxed) || window >= self.windows.len() {
                return None;
            }
            if number == 0 {
                // Again each time: what rows of dense matrices take is known once some were read.
                let estimate = self.estimate(window);
                // Few buffers that are used again and again stay in the processor's cache.
                let far = window > state.wanted + self.ahead || state.held + estimate > self.budget;
                if far && window != state.wanted {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                state.held += estimate;
                let left = self.windows[window].pieces();
                state.open.insert(window, Open { making: Arc::default(), left, estimate, failed: None });
                if left > 1 {
                    self.changed.notify_all(); // the other pieces are to be had
                }
            }
            state.next =
                if number + 1 < self.windows[window].pieces() { (window, number + 1) } else { (window + 1, 0) };
            // A window is open until all of its pieces have ended.
            return state.open.get(&window).map(|open| Piece { window, number, making: open.making.clone() });
        }
    }

    /// Takes a piece as read, or failed; the last of its window finishes that.
    fn end(&self, window: usize, failed: Option<DaoError>) {
        let mut state = self.lock();
        let Some(open) = state.open.get_mut(&window) else { return };
        open.left -= 1;
        open.failed = open.failed.take().or(failed);
        if open.left > 0 {
            return;
        }
        let Some(open) = state.open.remove(&window) else { return };
        drop(state);
        let result = catch_unwind(AssertUnwindSafe(|| self.finish(window, open.making, open.failed)));
        let result = result.unwrap_or_else(|_| Err(gave_up()));
        let bytes = result.as_ref().map_or(0, |batches| batches.iter().map(Batch::bytes).sum());
        let mut state = self.lock();
        state.held = state.held.saturating_sub(open.estimate) + bytes;
        state.done.insert(window, (bytes, result));
        drop(state);
        self.changed.notify_all();
    }

    /// The places of a piece.
    fn piece(&self, window: usize, number: usize) -> Range<usize> {
        let Window { places, piece, .. } = &self.windows[window];
        let start = places.start + number * piece;
        start..(start + piece).min(places.end)
    }

    fn keys(&self, window: usize) -> impl Iterator<Item = u64> {
        let places = self.windows[window].places.clone();
        self.order[places].iter().map(|&position| self.request.keys[position as usize])
    }

    /// Bytes while a window is read: decoded rows, and the batches made of them.
    fn estimate(&self, window: usize) -> u64 {
        let request = &self.request;
        let (mut rows, mut direct) = (0, true);
        for key in self.keys(window) {
            let (number, row) = split_key(key);
            let Some(part) = request.parts.get(&number) else { continue };
            direct &= part.columns.is_none() && part.matrix.row_nnz(row).is_some();
            rows += part.matrix.row_bytes(row);
        }
        match request.layout {
            Layout::Csr if direct => rows,
            Layout::Csr => 2 * rows,
            Layout::Dense => {
                let cells = self.windows[window].places.len();
                rows + (cells * request.n_columns * request.dtype.size()) as u64
            }
        }
    }

    fn read(&self, window: usize, number: usize, making: &Making) -> Result<()> {
        let made = making.get_or_init(|| {
            let Window { batches, piece, .. } = self.windows[window].clone();
            let batches = self.batches[batches].iter().map(Range::len).collect();
            let group = Group { keys: self.keys(window).collect(), batches, piece };
            assembly(self.request.clone(), group, self.pool.clone())
        });
        // Why there is none is told when the window is finished.
        made.as_ref().map_or(Ok(()), |made| made.read(number, &self.stop))
    }

    fn finish(&self, window: usize, making: Arc<Making>, failed: Option<DaoError>) -> Result<Vec<Batch>> {
        // The last that ended: all others have let go of it.
        let made = Arc::into_inner(making).and_then(OnceLock::into_inner);
        if let Some(error) = failed {
            return Err(error);
        }
        let mut batches = made.ok_or_else(gave_up)??.finish();
        for (batch, places) in batches.iter_mut().zip(&self.batches[self.windows[window].batches.clone()]) {
            batch.places = places.clone();
        }
        Ok(batches)
    }
}

fn gave_up() -> DaoError {
    DaoError::new(ErrorKind::Corrupt, "reading gave up on data that contradicts itself")
}
