//! State of this process alone: a forked child starts with its own, since a thread of its parent, which the child
//! does not have, may have held any lock of the parent's.

use std::sync::atomic::{AtomicPtr, Ordering};

/// A value that each process makes for itself; see the module.
pub struct PerProcess<T>(AtomicPtr<(u32, T)>);

impl<T: Default + Send + Sync> PerProcess<T> {
    /// A value that no process has made yet.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// The value of this process, made at the first call.
    pub fn get(&self) -> &T {
        let pid = std::process::id();
        let current = self.0.load(Ordering::Acquire);
        // SAFETY: null, or what `Box::leak` gave below: never freed, and only shared from then on.
        if let Some((_, state)) = unsafe { current.as_ref() }.filter(|(made_by, _)| *made_by == pid) {
            return state;
        }
        // The parent's value is leaked, not dropped: dropping it might wait for a lock that no thread here holds.
        let made = Box::into_raw(Box::new((pid, T::default())));
        let kept = match self.0.compare_exchange(current, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => made,
            Err(other) => {
                // SAFETY: `made` is this call's alone: another thread's was kept in its place.
                drop(unsafe { Box::from_raw(made) });
                other
            }
        };
        // SAFETY: not null, never freed, and only shared: `made` once it is kept, or another thread's that is.
        unsafe { &(*kept).1 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn all_threads_have_the_same() {
        static STATE: PerProcess<Mutex<usize>> = PerProcess::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| *STATE.get().lock().unwrap() += 1);
            }
        });
        assert_eq!(*STATE.get().lock().unwrap(), 8);
    }
}
