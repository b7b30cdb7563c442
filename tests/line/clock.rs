//! Sleeps to a tenth of a millisecond: tokio's own end up to two milliseconds late, which is much of a short line.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

struct Sleeper {
    due: Instant,
    wake: oneshot::Sender<()>,
}

// Who is due first is the greatest.
impl Ord for Sleeper {
    fn cmp(&self, other: &Self) -> Ordering {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Sleeper {}

#[derive(Default)]
struct Clock {
    sleepers: Mutex<BinaryHeap<Sleeper>>,
    earlier: Condvar,
}

impl Clock {
    /// Wakes who is due, on a thread of its own.
    fn run(&self) -> ! {
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            while sleepers.peek().is_some_and(|first| first.due <= now) {
                if let Some(first) = sleepers.pop() {
                    let _ = first.wake.send(()); // who was waiting may have gone
                }
            }
            let wait = sleepers.peek().map_or(Duration::from_secs(3600), |first| first.due - now);
            let woken = self.earlier.wait_timeout(sleepers, wait);
            sleepers = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn sleep(&self, due: Instant) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = sleepers.peek().is_none_or(|first| due < first.due);
        sleepers.push(Sleeper { due, wake });
        if is_first {
            self.earlier.notify_one();
        }
        woken
    }
}

/// Waits until then, and hardly longer.
pub async fn until(due: Instant) {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    if due <= Instant::now() {
        return;
    }
    if CLOCK.get().is_none() && CLOCK.set(Clock::default()).is_ok() {
        std::thread::spawn(|| CLOCK.get().map(Clock::run));
    }
    if let Some(clock) = CLOCK.get() {
        let _ = clock.sleep(due).await;
    }
}
