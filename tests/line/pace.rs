//! How long the line is, and how wide.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::until;

/// Sleeps end late on a busy machine, so as much may be made up for.
const LATE: Duration = Duration::from_millis(1);
/// Not worth a sleep.
const SOON: Duration = Duration::from_micros(200);

/// Latency, and a width that all connections share; both may be changed at any time.
pub struct Pace {
    /// A round trip, in microseconds.
    latency: AtomicU64,
    /// Bytes per second; 0 is without bound.
    width: AtomicU64,
    free: Mutex<Instant>,
}

impl Pace {
    pub fn new(latency: Duration, width: u64) -> Self {
        let pace = Self { latency: AtomicU64::new(0), width: AtomicU64::new(width), free: Mutex::new(Instant::now()) };
        pace.set_latency(latency);
        pace
    }

    pub fn set_latency(&self, latency: Duration) {
        self.latency.store(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn set_width(&self, width: u64) {
        self.width.store(width, Ordering::Relaxed);
    }

    pub fn latency(&self) -> Duration {
        Duration::from_micros(self.latency.load(Ordering::Relaxed))
    }

    /// What is sent at once: half a millisecond of the line.
    pub fn piece(&self) -> usize {
        match self.width.load(Ordering::Relaxed) {
            0 => 256 << 10,
            width => usize::try_from(width / 2000).unwrap_or(usize::MAX).clamp(16 << 10, 256 << 10),
        }
    }

    /// Waits for the line's turn for so many bytes. Who asks first is first.
    pub async fn turn(&self, bytes: usize) {
        let width = self.width.load(Ordering::Relaxed);
        if width == 0 || bytes == 0 {
            return;
        }
        let now = Instant::now();
        let due = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = now.checked_sub(LATE).map_or(*free, |back| back.max(*free));
            *free = begin + Duration::from_secs_f64(bytes as f64 / width as f64);
            *free
        };
        if due > now + SOON {
            until(due).await;
        }
    }
}
