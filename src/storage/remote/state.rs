//! Which state of an object is read: its length, and what its server calls it.
//!
//! Objects of a store are not changed. One that is, by hand or by a program that knows nothing of stores, must not be read as a
//! mixture of what it was and what it is: the first answer says which state is read, and every later one has to be of it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use object_store::ObjectMeta;

use super::super::seen::Seen;
use super::Failure;

/// The most objects whose states are known; then all are forgotten but what is expected.
const MOST: usize = 100_000;

/// The states of objects, by path.
#[derive(Debug, Default)]
pub struct States(Mutex<HashMap<String, State>>);

#[derive(Debug, Default)]
struct State {
    /// The length that it is expected to have.
    expected: Option<u64>,
    /// As it was first seen.
    seen: Option<Seen>,
}

/// What an answer says of its object.
pub fn seen(meta: &ObjectMeta) -> Seen {
    let modified = meta.e_tag.is_none().then(|| meta.last_modified.timestamp());
    Seen { size: meta.size, tag: meta.e_tag.clone(), modified }
}

impl States {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, State>> {
        // An entry is changed whole, so a poisoned lock is safe to use.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how long an object has to be.
    pub fn expect(&self, path: &str, size: u64) {
        self.lock().entry(path.to_owned()).or_default().expected = Some(size);
    }

    /// How long an object is, as far as that is known without asking.
    pub fn size(&self, path: &str) -> Option<u64> {
        let states = self.lock();
        let state = states.get(path)?;
        state.expected.or(state.seen.as_ref().map(|seen| seen.size))
    }

    /// Holds the state that an answer shows against what is known of its object.
    pub fn check(&self, path: &str, now: &Seen) -> Result<(), Failure> {
        let mut states = self.lock();
        if states.len() >= MOST {
            states.retain(|_, state| state.expected.is_some());
        }
        let state = states.entry(path.to_owned()).or_default();
        if let Some(expected) = state.expected.filter(|&expected| expected != now.size) {
            return Err(Failure::OtherSize { expected, size: now.size });
        }
        match &state.seen {
            Some(seen) if seen != now => Err(Failure::Replaced),
            Some(_) => Ok(()),
            None => {
                state.seen = Some(now.clone());
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::path::Path as ObjectPath;

    use super::*;

    fn meta(size: u64, tag: Option<&str>) -> Seen {
        let location = ObjectPath::from("a");
        let (last_modified, e_tag) = (chrono::DateTime::default(), tag.map(Into::into));
        seen(&ObjectMeta { location, last_modified, size, e_tag, version: None })
    }

    #[test]
    fn an_object_stays_what_it_was() {
        let states = States::default();
        states.check("a", &meta(5, Some("x"))).unwrap();
        states.check("a", &meta(5, Some("x"))).unwrap();
        states.check("b", &meta(5, Some("y"))).unwrap();
        assert_eq!(states.size("a"), Some(5));
        for other in [meta(5, Some("y")), meta(6, Some("x")), meta(5, None)] {
            assert!(matches!(states.check("a", &other), Err(Failure::Replaced)));
        }
        states.expect("c", 7);
        assert_eq!((states.size("c"), states.size("d")), (Some(7), None));
        let error = states.check("c", &meta(6, None)).unwrap_err();
        assert!(matches!(error, Failure::OtherSize { expected: 7, size: 6 }));
    }
}
