//! Reports of how cells were looked up, for the log. They are kept until Python takes them, so that the threads that
//! look up never call Python.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Found, LookupRequest};
use crate::per_process::PerProcess;

/// The most reports that wait to be taken; past that new ones are dropped.
const KEPT: usize = 10_000;

/// A report of how the cells of one call were looked up: the first few names, the number of cells, and the number of
/// parts by each strategy, as text.
pub type Report = (String, usize, String);

/// The two ends of the queue, while reports are wanted.
#[derive(Default)]
struct Reports {
    sender: Mutex<Option<SyncSender<Report>>>,
    receiver: Mutex<Option<Receiver<Report>>>,
}

static REPORTS: PerProcess<Reports> = PerProcess::new();

/// A panic elsewhere cannot leave an end of the queue half changed, so a poisoned lock is safe to use.
fn lock<T>(end: &Mutex<T>) -> MutexGuard<'_, T> {
    end.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets whether reports are kept from now on; if not, a thread that waits for the next one returns.
pub fn keep(wanted: bool) {
    let reports = REPORTS.get();
    let mut sender = lock(&reports.sender);
    if !wanted {
        *sender = None;
    } else if sender.is_none() {
        let (start, end) = sync_channel(KEPT);
        (*sender, *lock(&reports.receiver)) = (Some(start), Some(end));
    }
}

/// The next report, when there is one; `None` once reports are not kept any more and none waits.
#[must_use]
pub fn next() -> Option<Report> {
    lock(&REPORTS.get().receiver).as_ref()?.recv().ok()
}

/// Reports what a lookup found, if that is wanted.
pub fn report(request: &LookupRequest, found: &Found, n_cells: usize) {
    let sender = lock(&REPORTS.get().sender);
    let Some(sender) = &*sender else { return };
    let mut names = request.fields();
    let more = if names.len() > 3 { ", …" } else { "" };
    names.truncate(3);
    let strategies: Vec<String> =
        found.strategies.iter().map(|(strategy, parts)| format!("{parts} by {strategy}")).collect();
    let strategies = if strategies.is_empty() { "none".into() } else { strategies.join(", ") };
    // A full queue means that nobody takes reports: this one is dropped.
    drop(sender.try_send((names.join(", ") + more, n_cells, strategies)));
}
