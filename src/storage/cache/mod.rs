//! What was read of objects on other machines, kept in a folder of this one.
//!
//! Owns the folder ([`room`]), and a file for each object in it ([`entry`]) that has those of its pages that were read. Knows no
//! servers: who asks says which state of an object is meant. What goes wrong here is never an error of reading: what cannot be
//! had from the cache is asked for.

mod bits;
mod entry;
mod layout;
mod room;
mod settings;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::seen::Seen;
use crate::error::Result;
pub use entry::Entry;
pub use settings::{Settings, split};

/// The folder of a store below which no file ever changes.
const UNCHANGING: &str = "parts/";

/// The most objects whose files are kept open by one who reads.
const MOST_OPEN: usize = 100_000;

/// What is kept of the objects of one store.
pub struct Cache {
    room: Arc<room::Room>,
    store: String,
    /// The files that were opened, by their objects' paths.
    entries: Mutex<HashMap<String, Arc<Entry>>>,
}

impl Cache {
    /// What is kept of `store`: its address without secrets, and all that says where it is beside.
    ///
    /// # Errors
    /// As [`room::Room::open`].
    pub fn open(settings: &Settings, store: String) -> Result<Self> {
        Ok(Self { room: room::Room::open(settings)?, store, entries: Mutex::default() })
    }

    /// Whether the object at `path` may be kept: those that never change are.
    pub fn keeps(path: &str) -> bool {
        path.starts_with(UNCHANGING)
    }

    /// What is kept of an object, if anything is.
    pub fn entry(&self, path: &str) -> Option<Arc<Entry>> {
        let known = self.lock().get(path).cloned();
        if let Some(entry) = known.filter(|entry| !entry.is_gone()) {
            entry.note_use();
            return Some(entry);
        }
        // A file that cannot be opened is as good as none.
        let opened = Entry::open(&self.room.path(&self.name(path)), &self.store, path).ok().flatten()?;
        Some(self.keep(path, opened))
    }

    /// Keeps the bytes `range` of an object in this state.
    pub fn put(&self, path: &str, seen: &Seen, range: &Range<u64>, bytes: &[u8]) {
        if !self.room.has_room() {
            return;
        }
        let entry = match self.entry(path) {
            Some(entry) if entry.seen() == seen => entry,
            Some(other) => return other.remove(),
            None => match Entry::create(&self.room.path(&self.name(path)), &self.store, path, seen) {
                Ok(Some(made)) => {
                    self.room.note(2 * layout::PAGE);
                    self.keep(path, made)
                }
                Ok(None) => return,
                Err(e) => return self.room.give_up(&e),
            },
        };
        match entry.put(range, bytes) {
            Ok(written) => self.room.note(written),
            Err(e) => self.room.give_up(&e),
        }
    }

    /// Removes what is kept of the store.
    pub fn forget(&self) {
        let entries = std::mem::take(&mut *self.lock());
        entries.values().for_each(|entry| entry.remove());
        self.room.remove(&self.beginning());
    }

    /// `range`, widened to whole pages of an object of `size` bytes.
    pub fn widened(range: &Range<u64>, size: u64) -> Range<u64> {
        if range.is_empty() || range.end > size {
            return range.clone();
        }
        layout::bytes(&layout::pages(range), size)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Entry>>> {
        // Entries are put and taken whole, so a poisoned lock is safe to use.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of an object, once for all who read it.
    fn keep(&self, path: &str, opened: Entry) -> Arc<Entry> {
        let mut entries = self.lock();
        if entries.len() >= MOST_OPEN {
            entries.clear();
        }
        match entries.get(path).filter(|known| !known.is_gone()) {
            Some(known) => known.clone(),
            None => {
                let opened = Arc::new(opened);
                entries.insert(path.to_owned(), opened.clone());
                opened
            }
        }
    }

    /// What the names of the store's files begin with.
    fn beginning(&self) -> String {
        format!("{}-", hex(&Sha256::digest(&self.store)[..8]))
    }

    /// The name of an object's file.
    fn name(&self, path: &str) -> String {
        format!("{}{}{}", self.beginning(), hex(&Sha256::digest(path)[..16]), room::KEPT)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
