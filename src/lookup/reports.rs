//! How cells were looked up, for who wants to know: kept until somebody takes it, so that nobody is called from the
//! threads that look up.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::per_process::PerProcess;
use super::{Found, Request};

/// Reports that wait to be taken; the oldest go first.
const KEPT: usize = 10_000;

/// How the cells of one call were looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What was asked of them, a few names.
    pub names: String,
    /// How many cells.
    pub n_cells: usize,
    /// How many datasets in which way.
    pub strategies: String,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    wanted: bool,
    waiting: VecDeque<Report>,
}

static QUEUE: PerProcess<Queue> = PerProcess::new();

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole at every point where a panic could be.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether reports are kept from now on; without, who waits for the next is let go.
pub fn keep(wanted: bool) {
    let queue = QUEUE.get();
    queue.lock().wanted = wanted;
    queue.changed.notify_all();
}

/// The next report, when there is one; `None` once reports are not kept any more and none waits.
#[must_use]
pub fn next() -> Option<Report> {
    let queue = QUEUE.get();
    let waits = |state: &mut State| state.wanted && state.waiting.is_empty();
    let mut state = queue.changed.wait_while(queue.lock(), waits).unwrap_or_else(PoisonError::into_inner);
    state.waiting.pop_front()
}

/// Reports what a lookup found, if that is wanted.
pub fn report(request: &Request, found: &Found, n_cells: usize) {
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
