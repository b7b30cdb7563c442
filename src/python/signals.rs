//! Signals during waits of the core: Python's handlers run, and what one raises is handed on.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::interrupt::{self, Host};

thread_local! {
    /// What a handler raised, until somebody hands it on.
    static RAISED: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

/// Makes Python the host of the core's waits.
pub fn install(py: Python<'_>) -> PyResult<()> {
    let main_thread = py.import("threading")?.call_method0("main_thread")?.getattr("native_id")?.extract()?;
    interrupt::set_host(Host { run_handlers, raise_later, main_thread });
    Ok(())
}

/// The exception that broke off a wait of this thread.
pub fn raised() -> PyErr {
    RAISED.take().unwrap_or_else(|| PyKeyboardInterrupt::new_err(()))
}

fn run_handlers() -> bool {
    // No interpreter: it is shutting down, and runs no handlers.
    let checked = Python::try_attach(|py| py.check_signals()).unwrap_or(Ok(()));
    checked.map_err(|error| RAISED.set(Some(error))).is_err()
}

fn raise_later() {
    if RAISED.with_borrow(Option::is_some) {
        // SAFETY: may be called on any thread, attached or not; the call needs no argument.
        unsafe { ffi::Py_AddPendingCall(Some(raise_now), std::ptr::null_mut()) };
    }
}

/// Python calls this on the main thread, which alone runs handlers, so that it finds what they raised.
extern "C" fn raise_now(_: *mut c_void) -> c_int {
    match RAISED.take() {
        Some(error) => Python::attach(|py| {
            error.restore(py);
            -1
        }),
        None => 0,
    }
}
