//! How often Ctrl-C was pressed in the console of Windows, for threads on which no handler of Python runs.
//!
//! The system calls those who want to know one after the other, the last who asked first: here it is counted, and left to
//! the others, of which Python is one. A notebook server that interrupts its kernel sends no Ctrl-C, and is not counted.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use windows_sys::Win32::System::Console::{CTRL_C_EVENT, SetConsoleCtrlHandler};
use windows_sys::core::BOOL;

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// How often Ctrl-C came, as far as it was counted: from the first call on.
pub fn count() -> usize {
    static ASKED: Once = Once::new();
    ASKED.call_once(|| {
        // SAFETY: a handler of the type that is asked for, which is never taken away.
        let added = unsafe { SetConsoleCtrlHandler(Some(counting), 1) };
        // Without it nothing is counted, as where there is no console.
        let _ = added;
    });
    COUNT.load(Ordering::Relaxed)
}

unsafe extern "system" fn counting(kind: u32) -> BOOL {
    if kind == CTRL_C_EVENT {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
    0
}
