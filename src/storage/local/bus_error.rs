//! Copies out of mapped files that survive pages which cannot be had.
//!
//! Where a file was cut short under its map, or its disk fails, the processor reports a bus error and the kernel sends
//! SIGBUS, which ends a process. Here a handler looks whether the address belongs to the copy that its thread is at; if so it puts
//! a page of zeros there, the copy goes on, and is told afterwards that its bytes are none. Any other SIGBUS goes to whoever
//! handled it before. Java's virtual machine treats its mapped buffers alike.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, compiler_fence};

/// A copy out of a map: its addresses, and what to set where one of them cannot be had.
type Copying = (usize, usize, *const AtomicBool);

thread_local! {
    /// The copy that this thread is at. Without a constructor or destructor: the handler may look at any time.
    static COPYING: Cell<Copying> = const { Cell::new((0, 0, std::ptr::null())) };
}

/// The action that SIGBUS had before, and the bytes of a page; `None` where the handler could not be installed.
static INSTALLED: OnceLock<Option<(libc::sigaction, usize)>> = OnceLock::new();

/// Makes [`copy`] possible; false where this system does not let it.
pub fn install() -> bool {
    INSTALLED
        .get_or_init(|| {
            // SAFETY: an all-zero sigaction is a valid one, of no flags and an empty mask.
            let (mut action, mut before): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_bus_error;
            action.sa_sigaction = handler as usize;
            // On the thread's own signal stack, if it has one; and again while it runs, for what is forwarded.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            // SAFETY: both are valid, and the handler does only what handlers may do.
            let installed = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before) } == 0;
            installed.then(|| (before, rustix::param::page_size()))
        })
        .is_some()
}

/// Copies `into.len()` bytes from `from`. Sets `broken` where some could not be had, before anybody can see the zeros that are
/// in their place from then on.
///
/// # Safety
/// `from` is so many bytes of a map that nobody else unmaps or replaces, which do not overlap `into`; [`install`] said yes.
pub unsafe fn copy(from: *const u8, into: &mut [u8], broken: &AtomicBool) {
    COPYING.set((from.addr(), from.addr() + into.len(), broken));
    // The handler, on this thread, sees what is set before the copy.
    compiler_fence(Ordering::SeqCst);
    // SAFETY: as the caller says; a page that is not there becomes one of zeros.
    unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
    compiler_fence(Ordering::SeqCst);
    COPYING.set((0, 0, std::ptr::null()));
}

/// The handler: mends a fault of this thread's copy, or hands the signal on.
extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // The handler is there from within `get_or_init` on, a moment before what it knows.
    let Some(Some((before, page))) = INSTALLED.get() else { return reset(signal) };
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid one, with an address where it is a fault.
    let (address, is_fault) = unsafe { ((*info).si_addr().addr(), (*info).si_code > 0) };
    let (start, end, broken) = COPYING.get();
    if is_fault && (start..end).contains(&address) {
        // SAFETY: `copy` borrows it for as long as there are addresses.
        unsafe { &*broken }.store(true, Ordering::SeqCst);
        if put_zeros(address / page * page, *page) {
            return;
        }
    }
    forward(before, signal, info, context);
}

/// Puts a page of zeros at an address; whether that could be done.
fn put_zeros(page: usize, len: usize) -> bool {
    let at = std::ptr::with_exposed_provenance_mut(page);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the page is one of a map that this thread copies from, so nothing but that map is replaced, with as many bytes.
    let placed = unsafe { libc::mmap(at, len, libc::PROT_READ, flags, -1, 0) };
    placed == at
}

/// Does what would have been done without this handler.
fn forward(before: &libc::sigaction, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    match before.sa_sigaction {
        libc::SIG_IGN => {}
        libc::SIG_DFL => reset(signal),
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: an action with SA_SIGINFO that is neither of the two above is a function of this type.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: an action without SA_SIGINFO that is neither of the two above is a function of this type.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

/// Ends the process by the signal, as its default action does.
fn reset(signal: c_int) {
    // SAFETY: both calls may be made in a handler.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}
