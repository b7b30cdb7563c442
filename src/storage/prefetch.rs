//! Asking the processor for memory before it is read: a line from memory takes as long as some hundred instructions.

/// The bytes of a line of the processor's cache.
const LINE: usize = 64;

/// Asks for the lines that `bytes` lie in. Nothing is read: the memory may be anybody's, or a page that is not there.
#[inline]
pub fn prefetch(start: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = start.map_addr(|at| at & !(LINE - 1));
        for at in (0..len + (start.addr() - first.addr())).step_by(LINE) {
            // SAFETY: prefetching reads nothing, and does nothing where a page is not there.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(at).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, len, LINE);
}
