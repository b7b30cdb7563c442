//! What a user should know though nothing failed, from threads that cannot tell them: Python asks for it, and warns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::per_process::PerProcess;

/// The most that wait to be told.
const MOST: usize = 16;

#[derive(Default)]
struct Notices {
    /// Whether there are some: looking costs nothing.
    any: AtomicBool,
    texts: Mutex<Vec<String>>,
}

static NOTICES: PerProcess<Notices> = PerProcess::new();

/// Keeps a notice until somebody takes it.
pub fn add(text: String) {
    let Notices { any, texts } = NOTICES.get();
    // A text is put whole, so a poisoned lock is safe to use.
    let mut texts = texts.lock().unwrap_or_else(PoisonError::into_inner);
    if texts.len() < MOST {
        texts.push(text);
    }
    any.store(true, Ordering::Release);
}

/// The notices that nobody has taken yet.
pub fn take() -> Vec<String> {
    let Notices { any, texts } = NOTICES.get();
    if !any.swap(false, Ordering::AcqRel) {
        return Vec::new();
    }
    std::mem::take(&mut *texts.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_taken_is_told() {
        super::add("a".to_owned());
        assert!(super::take().contains(&"a".to_owned()));
        assert!(!super::take().contains(&"a".to_owned()));
    }
}
