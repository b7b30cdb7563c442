//! Work of one call on all cores.
//!
//! Threads live as long as the call: nothing goes on behind a caller's back, and an error is the caller's. What comes
//! out does not depend on how many threads there are.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, available_parallelism, scope};

use crate::error::{DaoError, Result};

/// The number of threads that work on one call.
pub fn threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Does `work` on each of `jobs`, on all cores; what it gives, in the jobs' order. A single job stays on this thread.
///
/// # Errors
/// That of the first job that fails, in the jobs' order.
pub fn each<J: Send, R: Send>(jobs: Vec<J>, work: impl Fn(J) -> Result<R> + Sync) -> Result<Vec<R>> {
    if jobs.len() <= 1 || threads() == 1 {
        return jobs.into_iter().map(work).collect();
    }
    /// A job; then what came of it.
    enum Slot<J, R> {
        Job(J),
        Taken,
        Done(Result<R>),
    }
    let slots: Vec<Mutex<Slot<J, R>>> = jobs.into_iter().map(|job| Mutex::new(Slot::Job(job))).collect();
    let lock = |number: usize| slots[number].lock().unwrap_or_else(PoisonError::into_inner);
    on_all_cores(slots.len(), &|number| {
        let Slot::Job(job) = std::mem::replace(&mut *lock(number), Slot::Taken) else { return true };
        let result = work(job);
        let goes_on = result.is_ok();
        *lock(number) = Slot::Done(result);
        goes_on
    });
    // Jobs are taken in their order: those before one that failed have results.
    let done = slots.into_iter().map(|slot| match slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Slot::Done(result) => result,
        _ => Err(DaoError::internal("a job was left out")),
    });
    done.collect()
}

/// Does `work` on pieces of `values`, each of `len` but the last, on all cores; it gets the number of values before the
/// piece, too. What it gives, in the pieces' order.
///
/// # Errors
/// As [`each`].
pub fn each_piece<T: Send, R: Send>(
    values: &mut [T],
    len: usize,
    work: impl Fn(usize, &mut [T]) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let pieces = (0..).step_by(len).zip(values.chunks_mut(len)).collect();
    each(pieces, |(start, piece): (usize, &mut [T])| work(start, piece))
}

/// Calls `work` with each number below `n`, in their order, on all cores, until all are done or it gives false. A function
/// of its own, as it is the same for all that is done.
fn on_all_cores(n: usize, work: &(dyn Fn(usize) -> bool + Sync)) {
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let run = || {
        while !stopped.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= n {
                break;
            }
            if !work(number) {
                stopped.store(true, Ordering::Relaxed);
            }
        }
    };
    scope(|scope| {
        // Where the system gives no more threads, those that are there do the work. A panic of one is the caller's.
        let others: Vec<_> =
            (1..threads().min(n)).map_while(|_| Builder::new().spawn_scoped(scope, run).ok()).collect();
        run();
        for other in others {
            other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::DaoError;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let squares: Vec<u64> = (0..1000).map(|i| i * i).collect();
        assert_eq!(each((0..1000).collect(), |i: u64| Ok(i * i)).unwrap(), squares);
        assert!(each(Vec::<u64>::new(), Ok).unwrap().is_empty());
    }

    #[test]
    fn pieces_know_what_is_before_them() {
        let mut numbers = vec![0; 10];
        let lengths = each_piece(&mut numbers, 4, |start, piece| {
            (start..).zip(&mut *piece).for_each(|(i, number)| *number = i);
            Ok(piece.len())
        });
        assert_eq!((lengths.unwrap(), numbers), (vec![4, 4, 2], (0..10).collect()));
    }

    #[test]
    fn the_first_error_counts() {
        for _ in 0..50 {
            let error =
                each((0..100).collect(), |i: u64| if i < 7 { Ok(i) } else { Err(DaoError::value(format!("job {i}"))) });
            assert_eq!(error.unwrap_err().to_string(), DaoError::value("job 7").to_string());
        }
    }
}
