//! Waiting for the network: its threads, and what ends a wait.
//!
//! A wait ends with the answer, when its thread is to break off ([`crate::interrupt`]), or when its time is over.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::error::{DaoError, ErrorKind, Result};
use crate::interrupt::Watch;
use crate::per_process::PerProcess;

/// The time after which a wait looks again whether to go on.
const LOOK: Duration = Duration::from_millis(100);
/// The slowest that a network may be, in bytes per millisecond: what arrives prolongs a wait so far.
const SLOWEST: u64 = 100;

/// The longest wait of what cannot be broken off, which may come after one that was.
const WHEN_UNDISTURBED: Duration = Duration::from_secs(10);

/// One small runtime for all remote stores of a process, started with the first. A forked child has none of its parent's
/// threads, and would wait for them for ever: it starts its own.
struct Network(std::io::Result<Runtime>);

static NETWORK: PerProcess<Network> = PerProcess::new();

impl Default for Network {
    fn default() -> Self {
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        Self(threads.worker_threads(2).enable_all().thread_name("dao-remote").build())
    }
}

pub(super) fn runtime() -> Result<&'static Runtime> {
    let Network(runtime) = NETWORK.get();
    runtime.as_ref().map_err(|e| DaoError::new(ErrorKind::Io, format!("starting the network threads failed: {e}")))
}

/// The time that so many bytes take on the slowest network.
pub fn slowest(bytes: u64) -> Duration {
    Duration::from_millis(bytes / SLOWEST)
}

/// Waits for `answer`, at most for `patience` and as long as what arrives meanwhile would take a slow network; `arrived` is what
/// has arrived so far, of this answer and of others on the same line.
///
/// # Errors
/// `Io` when the time is over, `Interrupted`.
pub fn wait_for<T>(patience: Duration, arrived: &AtomicU64, answer: impl Future<Output = T>) -> Result<T> {
    let (watch, begun, before) = (Watch::start(), Instant::now(), arrived.load(Ordering::Relaxed));
    let patience = if watch.is_undisturbed() { patience.min(WHEN_UNDISTURBED) } else { patience };
    runtime()?.block_on(async {
        let mut answer = pin!(answer);
        loop {
            watch.check()?;
            if let Ok(value) = tokio::time::timeout(LOOK, &mut answer).await {
                return Ok(value);
            }
            let arrived = arrived.load(Ordering::Relaxed).wrapping_sub(before);
            if begun.elapsed() > patience.saturating_add(slowest(arrived)) {
                return Err(too_slow(begun.elapsed(), arrived));
            }
        }
    })
}

fn too_slow(waited: Duration, arrived: u64) -> DaoError {
    let seconds = waited.as_secs_f32();
    DaoError::new(ErrorKind::Io, format!("no answer in {seconds:.1} s ({arrived} bytes arrived)")).hint(
        "check the network and the server, or wait longer: storage_options={\"retry_timeout_ms\": …}, in milliseconds",
    )
}
