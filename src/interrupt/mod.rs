//! Waits that can be broken off: by a signal such as Ctrl-C, or because nobody wants the result any more.
//!
//! Owns who may break off what. Handlers of signals run on the main thread alone, so a wait there runs them and fails
//! where one raises. Threads of a schedule stop when their consumer stops them. Other threads (polars' own, a user's)
//! have nobody who would tell them, and look whether Ctrl-C was pressed. Knows no Python: `python/signals.rs` is the
//! [`Host`].

#[cfg(windows)]
mod console;
#[cfg(unix)]
mod sigint;

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::{DaoError, ErrorKind, Result};
#[cfg(windows)]
use console::count as times_pressed;
#[cfg(unix)]
use sigint::count as times_pressed;

/// The interpreter around this library, which owns the handlers of signals.
pub struct Host {
    /// Runs, on the main thread, the handlers of signals that came; whether one raised an exception.
    pub run_handlers: fn() -> bool,
    /// Raises that exception later: for callers that cannot hand it on.
    pub raise_later: fn(),
    /// The main thread, as the system numbers it: for Windows, which does not say which it is, and does not fork.
    pub main_thread: u64,
}

static HOST: OnceLock<Host> = OnceLock::new();

thread_local! {
    /// What stops this thread, where it is one of a schedule's.
    static STOP: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
    /// Whether nothing may break off the waits of this thread.
    static UNDISTURBED: Cell<bool> = const { Cell::new(false) };
    /// Whether a wait of this thread was broken off and nobody has asked since.
    static BROKEN_OFF: Cell<bool> = const { Cell::new(false) };
}

/// Sets who runs the handlers; the first call counts.
pub fn set_host(host: Host) {
    let _ = HOST.set(host);
}

/// Does `work`, whose waits are broken off once `stop` is set, and by nothing else.
pub fn until_stopped<T>(stop: &Arc<AtomicBool>, work: impl FnOnce() -> T) -> T {
    STOP.set(Some(Arc::clone(stop)));
    let result = work();
    STOP.set(None);
    result
}

/// Does `work`, whose waits nothing breaks off, and which are short: for what cleans up, also after a wait was broken off.
pub fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let (broken_off, before) = (BROKEN_OFF.take(), UNDISTURBED.replace(true));
    let result = work();
    UNDISTURBED.set(before);
    BROKEN_OFF.set(broken_off);
    result
}

/// Whether a wait of this thread was broken off since the last call: an error may have lost its kind on the way here.
#[must_use]
pub fn take_broken_off() -> bool {
    BROKEN_OFF.take()
}

/// Has what broke off a wait of this thread raised later, if it was an exception.
pub fn raise_later() {
    if let Some(host) = HOST.get() {
        (host.raise_later)();
    }
}

/// Looks, during one wait of this thread, whether it is to be broken off.
pub struct Watch {
    by: By,
}

/// Who breaks off a wait.
enum By {
    Stop(Arc<AtomicBool>),
    Handlers(fn() -> bool),
    /// Ctrl-C after it was pressed so many times.
    CtrlC(usize),
    Nobody,
}

impl Watch {
    pub fn start() -> Self {
        if UNDISTURBED.get() {
            return Self { by: By::Nobody };
        }
        let by = match (STOP.with_borrow(Clone::clone), HOST.get()) {
            (Some(stop), _) => By::Stop(stop),
            (None, Some(host)) if is_main_thread() => By::Handlers(host.run_handlers),
            (None, Some(_)) => By::CtrlC(times_pressed()),
            (None, None) => By::Nobody,
        };
        Self { by }
    }

    /// Whether nothing may break off the wait: see [`undisturbed`].
    #[must_use]
    pub fn is_undisturbed(&self) -> bool {
        UNDISTURBED.get()
    }

    /// # Errors
    /// `Interrupted` once the wait is to be broken off.
    pub fn check(&self) -> Result<()> {
        // Once broken off, so are the next waits, until somebody has asked: a caller may go on with what is left.
        let broken_off = BROKEN_OFF.get()
            || match &self.by {
                By::Stop(stop) => stop.load(Ordering::Relaxed),
                By::Handlers(run_handlers) => run_handlers(),
                By::CtrlC(before) => times_pressed() != *before,
                By::Nobody => false,
            };
        if !broken_off {
            return Ok(());
        }
        BROKEN_OFF.set(true);
        Err(DaoError::new(ErrorKind::Interrupted, "interrupted"))
    }
}

#[cfg(target_os = "linux")]
fn is_main_thread() -> bool {
    // SAFETY: without arguments, and cannot fail.
    let thread = unsafe { libc::gettid() };
    u32::try_from(thread).is_ok_and(|thread| thread == std::process::id())
}

#[cfg(all(unix, not(target_os = "linux")))]
fn is_main_thread() -> bool {
    // SAFETY: without arguments, and cannot fail.
    unsafe { libc::pthread_main_np() != 0 }
}

#[cfg(windows)]
fn is_main_thread() -> bool {
    // SAFETY: without arguments, and cannot fail.
    let thread = unsafe { windows_sys::Win32::System::Threading::GetCurrentThreadId() };
    HOST.get().is_some_and(|host| host.main_thread == u64::from(thread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cleans_up_is_not_broken_off() {
        let stop = Arc::new(AtomicBool::new(true));
        until_stopped(&stop, || {
            assert!(Watch::start().check().is_err());
            undisturbed(|| assert!(Watch::start().is_undisturbed() && Watch::start().check().is_ok()));
            assert!(Watch::start().check().is_err() && take_broken_off());
        });
    }

    #[test]
    fn a_stopped_thread_breaks_off_and_says_so_once() {
        let stop = Arc::new(AtomicBool::new(false));
        until_stopped(&stop, || {
            let watch = Watch::start();
            assert!(watch.check().is_ok() && !take_broken_off());
            stop.store(true, Ordering::Relaxed);
            assert_eq!(watch.check().unwrap_err().kind(), ErrorKind::Interrupted);
            stop.store(false, Ordering::Relaxed);
            assert!(Watch::start().check().is_err(), "nobody has asked");
            assert!(take_broken_off() && !take_broken_off() && watch.check().is_ok());
        });
        assert!(Watch::start().check().is_ok(), "what stopped earlier work stops nothing later");
    }
}
