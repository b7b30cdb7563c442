//! An allocator that refuses what no small input needs.
//!
//! Code that tries before it allocates goes on with an error; other code aborts, after the case was named.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The most bytes of one allocation, and of all that live.
const LARGEST: usize = 256 << 20;
const MOST: usize = 1 << 30;

static LIVING: AtomicUsize = AtomicUsize::new(0);
static CASE: Mutex<(&str, u64, u64)> = Mutex::new(("", 0, 0));

struct Bounded;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

/// The most bytes of memory that the program may ever have in use, those of libraries in C among them.
const RESIDENT: u64 = 1 << 30;

/// Fails where the program has had more memory in use than any input explains. Linux alone says how much.
pub fn check_peak() -> Result<(), String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB"));
    match peak.and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok()) {
        Some(kilobytes) if kilobytes << 10 > RESIDENT => Err(format!("{kilobytes} kilobytes of memory were in use")),
        _ => Ok(()),
    }
}

/// Notes which case runs.
pub fn begin(target: &'static str, seed: u64, case: u64) {
    *CASE.lock().unwrap() = (target, seed, case);
}

// SAFETY: all memory is System's, under the caller's own promises; null is how an allocator refuses. `realloc` is the
// trait's own, by way of these two.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let size = layout.size();
        if size > LARGEST || LIVING.load(Relaxed) + size > MOST {
            let (target, seed, case) = *CASE.lock().unwrap();
            // Standard error has no buffer and formatting takes no memory.
            let _ = writeln!(
                std::io::stderr(),
                "fuzz {target}: case {case} of DAO_FUZZ_SEED={seed} is refused {size} bytes"
            );
            crate::refused();
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        let memory = unsafe { System.alloc(layout) };
        if !memory.is_null() {
            LIVING.fetch_add(size, Relaxed);
        }
        memory
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVING.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
