//! Reports of how cells were looked up, for the log. They are kept until Python takes them, so that the threads that
//! look up never call Python.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{Found, LookupRequest};
use crate::per_process::PerProcess;

/// The most reports that wait to be taken; past that the oldest are dropped.
const KEPT: usize = 10_000;

/// A report of how the cells of one call were looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The first few names that were looked up.
    pub names: String,
    /// The number of cells.
    pub n_cells: usize,
    /// The number of datasets by each strategy, as text.
    pub strategies: String,
}

#[derive(Default)]
struct Queue {
    state: Mutex<ReportState>,
    changed: Condvar,
}

#[derive(Default)]
struct ReportState {
    wanted: bool,
    waiting: VecDeque<Report>,
}

static QUEUE: PerProcess<Queue> = PerProcess::new();

impl Queue {
    fn lock(&self) -> MutexGuard<'_, ReportState> {
        // A panic elsewhere cannot leave the queue half changed, so a poisoned lock is safe to use.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets whether reports are kept from now on; if not, a thread that waits for the next one returns.
pub fn keep(wanted: bool) {
    let queue = QUEUE.get();
    queue.lock().wanted = wanted;
    queue.changed.notify_all();
}

/// The next report, when there is one; `None` once reports are not kept any more and none waits.
#[must_use]
pub fn next() -> Option<Report> {
    let queue = QUEUE.get();
    let waits = |state: &mut ReportState| state.wanted && state.waiting.is_empty();
    let mut state = queue.changed.wait_while(queue.lock(), waits).unwrap_or_else(PoisonError::into_inner);
    state.waiting.pop_front()
}

/// Reports what a lookup found, if that is wanted.
pub fn report(request: &LookupRequest, found: &Found, n_cells: usize) {
    let queue = QUEUE.get();
    let mut state = queue.lock();
    if !state.wanted {
        return;
    }
    let mut names = request.fields();
    let more = if names.len() > 3 { ", …" } else { "" };
    names.truncate(3);
    let strategies: Vec<String> =
        found.strategies.iter().map(|(strategy, datasets)| format!("{datasets} by {}", strategy.name())).collect();
    if state.waiting.len() == KEPT {
        state.waiting.pop_front();
    }
    state.waiting.push_back(Report {
        names: names.join(", ") + more,
        n_cells,
        strategies: if strategies.is_empty() { "none".into() } else { strategies.join(", ") },
    });
    queue.changed.notify_all();
}
