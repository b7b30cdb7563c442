//! Pieces of work on several threads, their results taken one after another, in order.
//!
//! Order makes what is added up the same in every run. Threads live as long as the call.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{DaoError, ErrorKind, Result};

/// Pieces that may be done and wait to be taken, for each thread.
const AHEAD: usize = 2;
/// How long to wait for a piece before `tick` is called.
const PATIENCE: Duration = Duration::from_millis(50);

struct State<R> {
    next: usize,
    taken: usize,
    stop: bool,
    done: BTreeMap<usize, Result<R>>,
}

/// One thread a core where none are named.
#[must_use]
pub fn threads(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Does `work` for each of `0..pieces` on at most `threads` threads, and `take`s what it gives in order,
/// on this one. `tick` is called now and then.
///
/// # Errors
/// The first error, in order, of `work` or `take`; or one of `tick`, which ends it early.
pub fn in_order<R: Send>(
    pieces: usize,
    threads: usize,
    work: impl Fn(usize) -> Result<R> + Sync,
    mut take: impl FnMut(R) -> Result<()>,
    mut tick: impl FnMut() -> Result<()>,
) -> Result<()> {
    let threads = threads.min(pieces);
    if threads < 2 {
        for piece in 0..pieces {
            take(work(piece)?)?;
            tick()?;
        }
        return Ok(());
    }
    let state = Mutex::new(State { next: 0, taken: 0, stop: false, done: BTreeMap::new() });
    let changed = Condvar::new();
    let worker = || {
        loop {
            let mut guard = lock(&state);
            while !guard.stop && guard.next < pieces && guard.next >= guard.taken + AHEAD * threads {
                guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            if guard.stop || guard.next >= pieces {
                return;
            }
            let piece = guard.next;
            guard.next += 1;
            drop(guard);
            let result = catch_unwind(AssertUnwindSafe(|| work(piece))).unwrap_or_else(|_| {
                Err(DaoError::new(ErrorKind::Corrupt, "reading gave up on data that contradicts itself"))
            });
            lock(&state).done.insert(piece, result);
            changed.notify_all();
        }
    };
    std::thread::scope(|scope| {
        let mut run = || -> Result<()> {
            for i in 0..threads {
                let started = std::thread::Builder::new().name(format!("dao-work-{i}")).spawn_scoped(scope, worker);
                started.map_err(|e| DaoError::new(ErrorKind::Io, format!("starting a thread failed: {e}")))?;
            }
            for piece in 0..pieces {
                let result = loop {
                    let mut guard = lock(&state);
                    if !guard.done.contains_key(&piece) {
                        let waited = changed.wait_timeout_while(guard, PATIENCE, |s| !s.done.contains_key(&piece));
                        guard = waited.unwrap_or_else(PoisonError::into_inner).0;
                    }
                    let found = guard.done.remove(&piece);
                    guard.taken += usize::from(found.is_some());
                    drop(guard);
                    tick()?;
                    if let Some(result) = found {
                        break result;
                    }
                };
                changed.notify_all();
                take(result?)?;
            }
            Ok(())
        };
        let result = catch_unwind(AssertUnwindSafe(&mut run));
        // The threads are joined at the end of the scope, whatever happened.
        lock(&state).stop = true;
        changed.notify_all();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn lock<R>(state: &Mutex<State<R>>) -> MutexGuard<'_, State<R>> {
    // Counters and finished results: whole at every point where a panic could be.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_pieces_are_taken_in_order(pieces in 0_usize..60, threads in 1_usize..6) {
            let mut taken = Vec::new();
            in_order(pieces, threads, |piece| Ok(piece * 3), |value| { taken.push(value); Ok(()) }, || Ok(())).unwrap();
            prop_assert_eq!(taken, (0..pieces).map(|piece| piece * 3).collect::<Vec<_>>());
        }

        #[test]
        fn the_first_error_in_order_is_told(pieces in 5_usize..60, threads in 1_usize..6, bad in 0_usize..5) {
            let mut taken = 0;
            let work = |piece| if piece >= bad { Err(DaoError::value(format!("piece {piece}"))) } else { Ok(piece) };
            let error = in_order(pieces, threads, work, |_| { taken += 1; Ok(()) }, || Ok(())).unwrap_err();
            prop_assert_eq!(error.to_string(), format!("piece {bad}"));
            prop_assert_eq!(taken, bad);
        }
    }

    #[test]
    fn panics_and_ticks_end_it() {
        let error = in_order(9, 3, |piece| if piece == 4 { panic!("no") } else { Ok(piece) }, |_| Ok(()), || Ok(()));
        assert!(error.unwrap_err().to_string().contains("gave up"));
        let mut ticks = 0;
        let stop = || {
            ticks += 1;
            if ticks > 2 { Err(DaoError::value("enough")) } else { Ok(()) }
        };
        assert_eq!(in_order(1000, 2, Ok, |_| Ok(()), stop).unwrap_err().to_string(), "enough");
    }
}
