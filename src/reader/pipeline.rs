//! Batches made ahead of their consumer, on all cores, within a budget of bytes, in order.
//!
//! Worker threads live as long as the [`Epoch`]: dropping it stops and joins them. A window is
//! claimed when its estimate fits into the budget, or when the consumer waits for it, so that one
//! batch larger than the whole budget still gets through.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::assemble::assemble;
use super::plan::{plan, windows};
use super::{Batch, Request};
use crate::error::{DaoError, ErrorKind, Result};
use crate::matrix::{Num, Rows, for_dtype};
use crate::sampling;

/// Small batches are read together until a window has this many cells.
const WINDOW_CELLS: usize = 1024;

/// Cells read between two looks at whether the consumer still waits.
const STEP_CELLS: usize = 4096;

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
    order: Vec<u32>,
    batches: Vec<Range<usize>>,
    windows: Vec<Range<usize>>,
    budget: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    claimed: usize,
    wanted: usize,
    held: u64,
    done: BTreeMap<usize, (u64, Result<Vec<Batch>>)>,
    stop: bool,
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
    /// Starts `threads` workers on the cells of `request` in `order` (positions into its keys).
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn start(
        request: Arc<Request>,
        order: Vec<u32>,
        batch_size: usize,
        drop_last: bool,
        budget: u64,
        threads: usize,
    ) -> Result<Self> {
        let batches = sampling::batches(order.len(), batch_size, drop_last);
        let windows = windows(&batches, WINDOW_CELLS);
        let threads = threads.clamp(1, windows.len().max(1));
        let shared = Arc::new(Shared {
            request,
            order,
            batches,
            windows,
            budget,
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

    /// The next batch, waiting at most `patience`.
    ///
    /// # Errors
    /// The first error of reading; the epoch is over after it.
    pub fn next(&mut self, patience: Duration) -> Result<Next> {
        if self.pid != std::process::id() {
            return Err(DaoError::value("this iterator was started before the process forked")
                .hint("start iterating in the process that uses the batches"));
        }
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
        self.lock().stop = true;
        self.changed.notify_all();
    }

    fn work(&self) {
        while let Some((window, estimate)) = self.claim() {
            let result =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.read(window))).unwrap_or_else(|_| {
                    Err(DaoError::new(ErrorKind::Corrupt, "reading gave up on data that contradicts itself"))
                });
            let mut state = self.lock();
            let bytes = match &result {
                Ok(batches) => batches.iter().map(Batch::bytes).sum(),
                Err(_) => 0,
            };
            state.held = state.held.saturating_sub(estimate) + bytes;
            state.done.insert(window, (bytes, result));
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next window and its estimated bytes, once the budget has room for it.
    fn claim(&self) -> Option<(usize, u64)> {
        let mut state = self.lock();
        let mut estimated: Option<(usize, u64)> = None;
        loop {
            let window = state.claimed;
            if state.stop || window >= self.windows.len() {
                return None;
            }
            let (_, estimate) = *match &mut estimated {
                Some(known) if known.0 == window => known,
                stale => stale.insert((window, self.estimate(window))),
            };
            if window == state.wanted || state.held + estimate <= self.budget {
                state.claimed += 1;
                state.held += estimate;
                return Some((window, estimate));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn places(&self, window: usize) -> Range<usize> {
        let batches = &self.batches[self.windows[window].clone()];
        batches.first().map_or(0, |b| b.start)..batches.last().map_or(0, |b| b.end)
    }

    fn keys(&self, window: usize) -> Vec<u64> {
        self.order[self.places(window)].iter().map(|&position| self.request.keys[position as usize]).collect()
    }

    /// Bytes while a window is read: decoded rows, and the batches made of them.
    fn estimate(&self, window: usize) -> u64 {
        let keys = self.keys(window);
        let rows: u64 = keys
            .iter()
            .map(|&key| {
                let (number, row) = super::split_key(key);
                self.request.parts.get(&number).map_or(0, |part| part.matrix.row_bytes(row))
            })
            .sum();
        let out = match self.request.layout {
            super::Layout::Csr => rows,
            super::Layout::Dense => (keys.len() * self.request.n_columns * self.request.dtype.size()) as u64,
        };
        rows + out
    }

    fn read(&self, window: usize) -> Result<Vec<Batch>> {
        for_dtype!(self.request.dtype, T => self.read_as::<T>(window))
    }

    fn read_as<T: Num>(&self, window: usize) -> Result<Vec<Batch>> {
        let plan = plan(&self.keys(window));
        let mut decoded: Vec<Rows<T>> = Vec::with_capacity(plan.needs.len());
        for need in &plan.needs {
            let part = self.request.part(need.number)?;
            let wanted = part.columns.as_ref().map(super::Columns::wanted);
            let mut rows = Rows::empty();
            for some in need.rows.chunks(STEP_CELLS) {
                if self.lock().stop {
                    return Ok(Vec::new()); // nobody waits for it any more
                }
                let mut read =
                    part.matrix.read::<T>(some, wanted).map_err(|e| e.at(format!("dataset '{}'", part.dataset)))?;
                if let Some(columns) = &part.columns {
                    columns.apply(&mut read);
                }
                rows.append(read);
            }
            decoded.push(rows);
        }
        let first = self.places(window).start;
        Ok(self.batches[self.windows[window].clone()]
            .iter()
            .map(|batch| {
                let slots = batch.start - first..batch.end - first;
                let positions = self.order[batch.clone()].to_vec();
                assemble(&plan, slots, &decoded, positions, self.request.layout, self.request.n_columns)
            })
            .collect())
    }
}
