//! A lease on a bucket: an object that a thread of its holder puts again and again, as long as it lives.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::error::{DaoError, ErrorKind, Result};
use crate::interrupt::undisturbed;
use crate::storage::Storage;

/// The age from which on a lease is a dead writer's, where [`VARIABLE`] does not say another: for tests.
const DEAD_AFTER: Duration = Duration::from_mins(10);
const VARIABLE: &str = "DAO_POLARS_LEASE_SECONDS";

/// The age from which on a lease is a dead writer's.
pub fn dead_after() -> Duration {
    static SET: OnceLock<Duration> = OnceLock::new();
    *SET.get_or_init(|| {
        let seconds = std::env::var(VARIABLE).ok().and_then(|seconds| seconds.parse().ok());
        seconds.map_or(DEAD_AFTER, Duration::from_secs)
    })
}

/// The time after which a lease is put again.
fn beat() -> Duration {
    dead_after() / 20
}

/// The age from which on its holder gives a lease up: well before others take it for a dead writer's.
fn lost_after() -> Duration {
    dead_after() / 2
}

/// An object that is put again and again.
pub struct Heartbeat(Arc<Shared>);

struct Shared {
    storage: Arc<dyn Storage>,
    path: String,
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    /// When the last put began that succeeded, by two clocks: the first stands still while the machine sleeps, and the
    /// second may be set.
    renewed: (Instant, SystemTime),
    ends: bool,
    /// Whether the object stays at the end.
    stays: bool,
}

impl State {
    fn age(&self) -> Duration {
        self.renewed.0.elapsed().max(self.renewed.1.elapsed().unwrap_or_default())
    }
}

impl Shared {
    /// A panic elsewhere cannot leave the state half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the object again, unless it is lost: it may be gone, and must not come back as if nothing had happened.
    fn renew(&self, state: &mut State) -> Result<()> {
        if state.age() > lost_after() {
            return Err(self.lost(state.age()));
        }
        let begun = clocks();
        self.storage.replace(&self.path, b"")?;
        state.renewed = begun;
        Ok(())
    }

    fn lost(&self, age: Duration) -> DaoError {
        let what = format!("nothing told the store for {} s that this writer lives", age.as_secs());
        DaoError::new(ErrorKind::Io, format!("{what}, so vacuum may have removed what it wrote"))
            .at(format!("path '{}/{}'", self.storage.uri(), self.path))
            .expected(format!("at most {} s: was this machine asleep, or without a network?", lost_after().as_secs()))
            .hint("write it again")
    }

    /// Puts the object until it ends, or is lost.
    fn run(&self) {
        let mut state = self.lock();
        while state.age() <= lost_after() {
            let waited = self.ended.wait_timeout_while(state, beat(), |state| !state.ends);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.ends {
                return;
            }
            // Locked meanwhile: who ends it knows then that nobody puts it after. One that fails is made up for by the next.
            let _ = undisturbed(|| self.renew(&mut state));
        }
    }
}

fn clocks() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

impl Heartbeat {
    /// Puts the object at a new `path`, and again from a thread of its own.
    ///
    /// # Errors
    /// `Value` for a store that is not written to, `Io`.
    pub fn start(storage: &Arc<dyn Storage>, path: String) -> Result<Self> {
        let state = State { renewed: clocks(), ends: false, stays: false };
        // Whose answer was lost finds it there: its name is random.
        storage.put_new(&path, b"")?;
        let shared =
            Arc::new(Shared { storage: storage.clone(), path, state: Mutex::new(state), ended: Condvar::new() });
        let running = shared.clone();
        let started = std::thread::Builder::new().name("dao-lease".to_owned()).spawn(move || running.run());
        let heartbeat = Self(shared);
        started.map_err(|e| {
            heartbeat.end();
            DaoError::new(ErrorKind::Io, format!("starting a thread failed: {e}"))
        })?;
        Ok(heartbeat)
    }

    /// Makes sure that nobody takes the holder for dead.
    ///
    /// # Errors
    /// `Io` if somebody may have.
    pub fn confirm(&self) -> Result<()> {
        let mut state = self.0.lock();
        if state.age() > 2 * beat() { self.0.renew(&mut state) } else { Ok(()) }
    }

    /// Lets the object stay at the end.
    pub fn leave(&mut self) {
        self.0.lock().stays = true;
    }

    /// Stops, and removes the object.
    pub fn end(&self) {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.ends, true) {
            return;
        }
        self.0.ended.notify_all();
        if !state.stays {
            // Best effort: vacuum removes what stays.
            let _ = self.0.storage.remove(&self.0.path);
        }
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Heartbeat").field(&self.0.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Local;

    fn shared(folder: &std::path::Path, age: Duration) -> Shared {
        let storage: Arc<dyn Storage> = Arc::new(Local::new(folder).unwrap());
        let then = (Instant::now(), SystemTime::now() - age);
        let state = Mutex::new(State { renewed: then, ends: false, stays: false });
        Shared { storage, path: "writing/a".to_owned(), state, ended: Condvar::new() }
    }

    #[test]
    fn a_lease_is_renewed_until_it_may_have_been_taken_for_dead() {
        let folder = tempfile::tempdir().unwrap();
        let late = shared(folder.path(), lost_after() - Duration::from_secs(9));
        late.renew(&mut late.lock()).unwrap();
        assert!(late.lock().age() < Duration::from_secs(9));
        std::fs::remove_file(folder.path().join("writing/a")).unwrap();
        let lost = shared(folder.path(), lost_after() + Duration::from_secs(9));
        lost.run();
        let error = Heartbeat(Arc::new(lost)).confirm().unwrap_err();
        assert!(error.to_string().contains("writing/a") && error.to_string().contains("Write it again"), "{error}");
        assert!(!folder.path().join("writing/a").exists(), "what may be gone does not come back");
    }

    #[test]
    fn a_lease_ends_once_and_may_stay() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
        for (stays, path) in [(false, "writing/a"), (true, "writing/b")] {
            let mut heartbeat = Heartbeat::start(&storage, path.to_owned()).unwrap();
            heartbeat.confirm().unwrap();
            if stays {
                heartbeat.leave();
            }
            heartbeat.end();
            heartbeat.end();
            assert_eq!(storage.size(path).unwrap().is_some(), stays);
        }
    }
}
