//! Work in units that threads claim one after another, and whose results are taken in the units' order.
//!
//! The one scheduler of this crate: [`Workers`] are threads that live as long as their consumer (an epoch of
//! batches), [`in_order`] starts some for one call (lookups, aggregates). Either way a unit may be cut into
//! pieces which several threads do at once, and is begun when what it takes fits into a budget of bytes, or
//! when the consumer waits for it: one unit larger than the whole budget still gets through. Taking results in
//! order makes what is added up the same in every run. Each has threads of its own, which end with it: a forked
//! child would lack them. Knows nothing of what the work is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{DaoError, ErrorKind, Result, catch_panic};
use crate::interrupt::{self, Watch};

/// The units per thread that may be begun or finished beside the one that the consumer takes next.
const AHEAD: usize = 1;
/// The time that [`in_order`] waits for a unit before it calls `tick`.
const PATIENCE: Duration = Duration::from_millis(50);

/// The number of threads to use: the requested one, or one for each core.
pub fn threads(requested: Option<usize>) -> usize {
    requested.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Work in units, as the scheduler sees it. A unit fails with the first error of one of its steps.
pub trait Work: Send + Sync {
    /// The state that the pieces of one unit share while it is done.
    type Unit: Send + Sync;
    /// The result of a unit.
    type Output: Send;

    /// The number of units.
    fn n_units(&self) -> usize;

    /// The number of pieces of a unit, at least one.
    fn n_pieces(&self, _unit: usize) -> usize {
        1
    }

    /// About how many bytes a unit takes while it is done. Called again each time that the unit might begin.
    fn estimate(&self, _unit: usize) -> u64 {
        0
    }

    /// Makes the shared state of a unit, before its first piece.
    fn prepare(&self, unit: usize) -> Result<Self::Unit>;

    /// Does one piece of a unit. May give up early, with any error, once `stop` is set.
    fn piece(&self, unit: usize, shared: &Self::Unit, piece: usize, stop: &AtomicBool) -> Result<()>;

    /// The result of a unit, when all of its pieces are done.
    fn finish(&self, unit: usize, shared: Self::Unit) -> Result<Self::Output>;

    /// The bytes that a result holds until it is taken.
    fn bytes(&self, _output: &Self::Output) -> u64 {
        0
    }
}

/// So many units that are each done by one call.
struct Calls<F>(usize, F);

impl<R: Send, F: Fn(usize) -> Result<R> + Send + Sync> Work for Calls<F> {
    type Unit = ();
    type Output = R;

    fn n_units(&self) -> usize {
        self.0
    }

    fn prepare(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn piece(&self, _: usize, (): &(), _: usize, _: &AtomicBool) -> Result<()> {
        Ok(())
    }

    fn finish(&self, unit: usize, (): ()) -> Result<R> {
        (self.1)(unit)
    }
}

/// The state that threads and consumer of some work share.
struct Schedule<W: Work> {
    work: W,
    budget: u64,
    ahead: usize,
    /// Set when there is no more to do; breaks off waits of the threads too.
    stop: Arc<AtomicBool>,
    state: Mutex<ScheduleState<W>>,
    changed: Condvar,
}

/// The shared state of a unit, made by the first piece that needs it.
type Prepared<W> = OnceLock<Result<<W as Work>::Unit>>;

/// A unit that is being done.
struct Begun<W: Work> {
    prepared: Arc<Prepared<W>>,
    /// The number of pieces that have not ended.
    left: usize,
    estimate: u64,
    failed: Option<DaoError>,
}

struct ScheduleState<W: Work> {
    /// The next piece to claim: unit and number.
    next: (usize, usize),
    /// The unit that the consumer takes next.
    wanted: usize,
    /// The bytes that begun units are estimated to take, plus those that finished results hold.
    held: u64,
    begun: BTreeMap<usize, Begun<W>>,
    done: BTreeMap<usize, (u64, Result<W::Output>)>,
}

/// A piece that a thread has claimed: its unit, its number, and the state of the unit.
type ClaimedPiece<W> = (usize, usize, Arc<Prepared<W>>);

impl<W: Work> Schedule<W> {
    fn new(work: W, budget: u64, threads: usize) -> Self {
        let state = ScheduleState { next: (0, 0), wanted: 0, held: 0, begun: BTreeMap::new(), done: BTreeMap::new() };
        Self {
            work,
            budget,
            ahead: AHEAD * threads,
            stop: Arc::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ScheduleState<W>> {
        // A panic elsewhere cannot leave counters and results half changed, so a poisoned lock is safe to use.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        // Under the lock, so that no thread goes to wait after it has looked.
        let _state = self.lock();
        self.stop.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// The loop of each thread: does pieces until there are no more or the work is stopped.
    fn run(&self) {
        interrupt::until_stopped(&self.stop, || self.do_pieces());
    }

    fn do_pieces(&self) {
        while let Some((unit, number, prepared)) = self.claim() {
            let failed = catch_panic(|| match prepared.get_or_init(|| self.work.prepare(unit)) {
                Ok(shared) => self.work.piece(unit, shared, number, &self.stop),
                Err(_) => Ok(()), // told when the unit is finished
            });
            drop(prepared);
            self.end(unit, failed.err());
        }
    }

    /// The next piece, once there is room for its unit or the consumer waits for it; `None` when there is
    /// no more to do.
    fn claim(&self) -> Option<ClaimedPiece<W>> {
        let mut state = self.lock();
        loop {
            let (unit, number) = state.next;
            if self.stop.load(Ordering::Relaxed) || unit >= self.work.n_units() {
                return None;
            }
            let n_pieces = self.work.n_pieces(unit);
            if number == 0 {
                let Some(estimate) = self.estimate_if_fits(unit, &state) else {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                };
                state.held = state.held.saturating_add(estimate);
                state.begun.insert(unit, Begun { prepared: Arc::default(), left: n_pieces, estimate, failed: None });
                if n_pieces > 1 {
                    self.changed.notify_all(); // the other pieces are to be had
                }
            }
            state.next = if number + 1 < n_pieces { (unit, number + 1) } else { (unit + 1, 0) };
            // A unit stays begun until all of its pieces have ended.
            return state.begun.get(&unit).map(|begun| (unit, number, begun.prepared.clone()));
        }
    }

    /// The estimate of a unit that may begin now. Few results wait at a time, even where more would fit:
    /// buffers that are soon used again stay in the processor's cache.
    fn estimate_if_fits(&self, unit: usize, state: &ScheduleState<W>) -> Option<u64> {
        let awaited = unit == state.wanted;
        if !awaited && unit > state.wanted + self.ahead {
            return None;
        }
        // A panic here is reported by the unit, which runs into it again.
        let estimate = catch_panic(|| Ok(self.work.estimate(unit))).unwrap_or(0);
        (awaited || state.held.saturating_add(estimate) <= self.budget).then_some(estimate)
    }

    /// Notes that a piece is done or failed; the last piece of a unit finishes the unit.
    fn end(&self, unit: usize, failed: Option<DaoError>) {
        let mut state = self.lock();
        let Entry::Occupied(mut entry) = state.begun.entry(unit) else { return };
        let begun = entry.get_mut();
        begun.left -= 1;
        begun.failed = begun.failed.take().or(failed);
        if begun.left > 0 {
            return;
        }
        let begun = entry.remove();
        drop(state);
        let result = catch_panic(|| {
            if let Some(error) = begun.failed {
                return Err(error);
            }
            // This was the last piece, so no other thread holds the unit.
            let prepared = Arc::into_inner(begun.prepared).and_then(OnceLock::into_inner);
            self.work.finish(unit, prepared.ok_or_else(|| DaoError::internal("a unit of work was not prepared"))??)
        });
        let bytes = result.as_ref().map_or(0, |output| self.work.bytes(output));
        let mut state = self.lock();
        state.held = state.held.saturating_sub(begun.estimate).saturating_add(bytes);
        state.done.insert(unit, (bytes, result));
        drop(state);
        self.changed.notify_all();
    }

    /// The result of the unit that is wanted next, waiting at most `patience` for it.
    fn take(&self, patience: Duration) -> Option<Result<W::Output>> {
        let mut state = self.lock();
        let unit = state.wanted;
        if !state.done.contains_key(&unit) {
            let waited = self.changed.wait_timeout_while(state, patience, |state| !state.done.contains_key(&unit));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let (bytes, result) = state.done.remove(&unit)?;
        state.held = state.held.saturating_sub(bytes);
        state.wanted += 1;
        drop(state);
        self.changed.notify_all();
        Some(result)
    }
}

/// The outcome of waiting for the next result.
#[derive(Debug)]
pub enum Next<R> {
    /// A result.
    Ready(R),
    /// No result yet; call again.
    Waiting,
    /// There are no more results.
    Over,
}

/// Threads that do work ahead of its consumer. Dropping them stops and joins them.
pub struct Workers<W: Work + 'static> {
    schedule: Arc<Schedule<W>>,
    threads: Vec<JoinHandle<()>>,
    /// Units whose results are still to be taken.
    left: usize,
    /// The process that started the threads: a forked child has their memory and not the threads.
    pid: u32,
}

impl<W: Work + 'static> Workers<W> {
    /// Starts at most `threads` threads on `work`, which hold about `budget` bytes.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn start(work: W, budget: u64, threads: usize) -> Result<Self> {
        let n_units = work.n_units();
        let n_pieces = (0..n_units).map(|unit| work.n_pieces(unit)).sum::<usize>();
        let threads = threads.clamp(1, n_pieces.max(1));
        let schedule = Arc::new(Schedule::new(work, budget, threads));
        let mut workers = Self { schedule, threads: Vec::new(), left: n_units, pid: std::process::id() };
        for i in 0..threads {
            let schedule = workers.schedule.clone();
            let thread = std::thread::Builder::new().name(format!("dao-read-{i}")).spawn(move || schedule.run());
            workers.threads.push(thread.map_err(|e| no_thread(&e))?);
        }
        Ok(workers)
    }

    /// The work that the threads do.
    pub fn work(&self) -> &W {
        &self.schedule.work
    }

    /// The next result, waiting at most `patience` for it.
    ///
    /// # Errors
    /// The first error of the work, in order; there are no more results after it.
    pub fn next(&mut self, patience: Duration) -> Result<Next<W::Output>> {
        if self.left == 0 {
            return Ok(Next::Over);
        }
        let Some(result) = self.schedule.take(patience) else { return Ok(Next::Waiting) };
        self.left -= 1;
        result.map(Next::Ready).inspect_err(|_| {
            self.left = 0;
            self.schedule.stop();
        })
    }
}

impl<W: Work + 'static> Drop for Workers<W> {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            // A forked child has neither the threads nor the holder of the lock.
            self.threads.drain(..).for_each(std::mem::forget);
            return;
        }
        self.schedule.stop();
        for thread in self.threads.drain(..) {
            // The consumer has already been given the panic as an error.
            let _ = thread.join();
        }
    }
}

/// Does `work` for each of `0..n` on at most `threads` threads, and gives the results to `merge` in order, on
/// this one. `tick` is called now and then. The threads end with the call.
///
/// # Errors
/// The first error, in order, of `work` or `merge`; or one of `tick`, which ends it early.
pub fn in_order<R: Send>(
    n: usize,
    threads: usize,
    work: impl Fn(usize) -> Result<R> + Send + Sync,
    mut merge: impl FnMut(R) -> Result<()>,
    mut tick: impl FnMut() -> Result<()>,
) -> Result<()> {
    let threads = threads.min(n);
    if threads < 2 {
        for unit in 0..n {
            merge(catch_panic(|| work(unit))?)?;
            tick()?;
        }
        return Ok(());
    }
    let schedule = &Schedule::new(Calls(n, work), u64::MAX, threads);
    let watch = Watch::start();
    std::thread::scope(|scope| {
        // Threads are joined at the end of the scope, so they are stopped whatever happens before it.
        let result = catch_panic(|| {
            for i in 0..threads {
                let thread = std::thread::Builder::new().name(format!("dao-work-{i}"));
                thread.spawn_scoped(scope, || schedule.run()).map_err(|e| no_thread(&e))?;
            }
            for _ in 0..n {
                let result = loop {
                    let result = schedule.take(PATIENCE);
                    tick()?;
                    watch.check()?;
                    if let Some(result) = result {
                        break result;
                    }
                };
                merge(result?)?;
            }
            Ok(())
        });
        schedule.stop();
        result
    })
}

fn no_thread(error: &std::io::Error) -> DaoError {
    DaoError::new(ErrorKind::Io, format!("starting a thread failed: {error}"))
}

#[cfg(test)]
mod tests;
