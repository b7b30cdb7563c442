//! How often Ctrl-C was pressed, for threads on which no handler of Python runs.
//!
//! While polars computes, its caller sleeps without looking for signals, and a thread that polars calls us on is told
//! nothing. So SIGINT is counted, in front of whoever handles it. Python (Jupyter before each cell) sets its handler
//! anew, which takes ours away: it is put back when a wait begins.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

static COUNT: AtomicUsize = AtomicUsize::new(0);
/// The handler that ours stands in front of; leaked, for it may be running.
static NEXT: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());
/// Set while the next handler runs: one that was put in front of ours may call ours again.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// How often SIGINT came, as far as it was counted: from the first call on.
pub fn count() -> usize {
    stand_in_front();
    COUNT.load(Ordering::Relaxed)
}

fn stand_in_front() {
    static LOCK: Mutex<()> = Mutex::new(());
    let _lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let mut current = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null action changes nothing, and the current one is written to memory of its type.
    if unsafe { libc::sigaction(libc::SIGINT, ptr::null(), current.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: the call that writes it succeeded.
    let current = unsafe { current.assume_init() };
    let handler = current.sa_sigaction;
    // Where nobody handles SIGINT, it ends the process, or is ignored: nothing to be told.
    if handler == counting as *const () as usize || handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return;
    }
    let mut ours = current;
    ours.sa_sigaction = counting as *const () as usize;
    ours.sa_flags |= libc::SA_SIGINFO;
    NEXT.store(Box::into_raw(Box::new(current)), Ordering::Release);
    // SAFETY: a handler of the type that SA_SIGINFO asks for, which is safe in a signal: atomics, and the next handler.
    unsafe { libc::sigaction(libc::SIGINT, &raw const ours, ptr::null_mut()) };
}

extern "C" fn counting(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    if RUNNING.swap(true, Ordering::Acquire) {
        return;
    }
    // SAFETY: set before this became the handler, and never freed.
    if let Some(next) = unsafe { NEXT.load(Ordering::Acquire).as_ref() } {
        let handler = next.sa_sigaction as *const ();
        if next.sa_flags & libc::SA_SIGINFO != 0 {
            // SAFETY: it was registered as a handler of this type; not SIG_DFL or SIG_IGN, which are never stored.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        } else {
            // SAFETY: as above, without SA_SIGINFO.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
    RUNNING.store(false, Ordering::Release);
}
