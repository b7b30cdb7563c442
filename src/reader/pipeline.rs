//! Batches made ahead of their consumer, on all cores, within a budget of bytes, in order.
//!
//! Worker threads live as long as the [`Epoch`]: dropping it stops and joins them. A window is
//! claimed when its estimate fits into the budget, or when the consumer waits for it, so that one
//! batch larger than the whole budget still gets through.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::assemble::assemble;
use super::plan::{Plan, plan, windows};
use super::pool::Pool;
use super::{Batch, Request};
use crate::error::{DaoError, ErrorKind, Result};
use crate::matrix::for_dtype;
use crate::sampling;

/// Small batches are read together until a window has this many cells.
const WINDOW_CELLS: usize = 1024;

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
    windows: Vec<Range<usize>>,
    budget: u64,
    /// Windows read before they are asked for.
    ahead: usize,
    pool: Arc<Pool>,
    stop: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    claimed: usize,
    wanted: usize,
    held: u64,
    done: BTreeMap<usize, (u64, Result<Vec<Batch>>)>,
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
    /// Starts `threads` workers on the cells of `request` in `order` (positions into its keys), with
    /// buffers from `pool`.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn start(
        request: Arc<Request>,
        order: Arc<[u32]>,
        batch_size: usize,
        drop_last: bool,
        budget: u64,
        threads: usize,
        pool: Arc<Pool>,
    ) -> Result<Self> {
        let batches = sampling::batches(order.len(), batch_size, drop_last);
        let windows = windows(&batches, WINDOW_CELLS);
        let threads = threads.clamp(1, windows.len().max(1));
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
        // Under the lock, so that no worker goes to wait after it has looked.
        let state = self.lock();
        self.stop.store(true, Ordering::Relaxed);
        drop(state);
        self.changed.notify_all();
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn work(&self) {
        while let Some(window) = self.claim() {
            let plan = plan(&self.keys(window));
            let Some(estimate) = self.admit(window, &plan) else { return };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.read(window, &plan)))
                .unwrap_or_else(|_| {
                    Err(DaoError::new(ErrorKind::Corrupt, "reading gave up on data that contradicts itself"))
                });
            let bytes = match &result {
                Ok(batches) => batches.iter().map(Batch::bytes).sum(),
                Err(_) => 0,
            };
            let mut state = self.lock();
            state.held = state.held.saturating_sub(estimate) + bytes;
            state.done.insert(window, (bytes, result));
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next window that no worker has.
    fn claim(&self) -> Option<usize> {
        let mut state = self.lock();
        if self.stopped() || state.claimed >= self.windows.len() {
            return None;
        }
        state.claimed += 1;
        Some(state.claimed - 1)
    }

    /// Waits until the budget has room for a window, or the consumer waits for it. Its estimate, or
    /// `None` where it is not to be read any more.
    fn admit(&self, window: usize, plan: &Plan) -> Option<u64> {
        let mut estimate = self.estimate(plan);
        let mut state = self.lock();
        // Few buffers that are used again and again stay in the processor's cache.
        let far = |state: &State, estimate| window > state.wanted + self.ahead || state.held + estimate > self.budget;
        while !self.stopped() && window != state.wanted && far(&state, estimate) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            // What rows of dense matrices take is known once some were read.
            estimate = self.estimate(plan);
        }
        state.held += estimate;
        (!self.stopped()).then_some(estimate)
    }

    fn places(&self, window: usize) -> Range<usize> {
        let batches = &self.batches[self.windows[window].clone()];
        batches.first().map_or(0, |b| b.start)..batches.last().map_or(0, |b| b.end)
    }

    fn keys(&self, window: usize) -> Vec<u64> {
        self.order[self.places(window)].iter().map(|&position| self.request.keys[position as usize]).collect()
    }

    /// Bytes while a window is read: decoded rows, and the batches made of them.
    fn estimate(&self, plan: &Plan) -> u64 {
        let (mut rows, mut direct) = (0, self.request.layout == super::Layout::Csr);
        for need in &plan.needs {
            let Some(part) = self.request.parts.get(&need.number) else { continue };
            direct &= part.columns.is_none();
            for (&row, waiting) in need.rows.iter().zip(&need.waiting) {
                direct &= part.matrix.row_nnz(row).is_some();
                rows += part.matrix.row_bytes(row) * waiting.len() as u64;
            }
        }
        match self.request.layout {
            super::Layout::Csr if direct => rows,
            super::Layout::Csr => 2 * rows,
            super::Layout::Dense => {
                rows + (plan.slots.len() * self.request.n_columns * self.request.dtype.size()) as u64
            }
        }
    }

    fn read(&self, window: usize, plan: &Plan) -> Result<Vec<Batch>> {
        let batches = &self.batches[self.windows[window].clone()];
        let batch_len = batches.first().map_or(1, Range::len);
        let mut read = for_dtype!(self.request.dtype, T => {
            assemble::<T>(&self.request, plan, batch_len, &self.pool, &self.stop)
        })?;
        for (batch, places) in read.iter_mut().zip(batches) {
            batch.places = places.clone();
        }
        Ok(read)
    }
}
