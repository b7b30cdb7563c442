//! What of a store's objects is kept on this machine: read from there, and put there as it comes.
//!
//! What is kept of an object says which state of it is read ([`super::state`]): bytes of another are never mixed with it, and what
//! was kept of the store goes where the server shows another.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::super::File;
use super::super::cache::{Cache, Entry};
use super::super::seen::Seen;
use super::{Remote, RemoteFile};
use crate::error::Result;

impl Remote {
    /// What is kept of an object, if anything is, of the state that is read.
    fn kept(&self, path: &str) -> Option<Arc<Entry>> {
        let cache = self.shared.cache.as_ref().filter(|_| Cache::keeps(path) && self.is_own())?;
        let entry = cache.entry(path)?;
        if self.shared.states.check(path, entry.seen()).is_err() {
            // It is of what the object was before, or cut short.
            entry.remove();
            return None;
        }
        Some(entry)
    }

    /// Leaves out the ranges of an object that are kept.
    pub(super) fn without_kept(&self, path: &str, ranges: &mut Vec<Range<u64>>) {
        if let Some(entry) = self.kept(path) {
            ranges.retain(|range| !entry.has(range));
        }
    }

    /// Widens ranges of an object to what is kept as a whole, where they are kept.
    pub(super) fn widen(&self, path: &str, ranges: &mut [Range<u64>]) {
        if self.shared.cache.is_none() || !Cache::keeps(path) {
            return;
        }
        if let Some(size) = self.shared.states.size(path) {
            ranges.iter_mut().for_each(|range| *range = Cache::widened(range, size));
        }
    }

    /// Keeps what has come of an object.
    pub(super) async fn keep(&self, path: &str, seen: Seen, range: Range<u64>, bytes: &Bytes) {
        let Some(cache) = self.shared.cache.clone().filter(|_| Cache::keeps(path)) else { return };
        let (path, bytes) = (path.to_owned(), bytes.clone());
        // A disk may be slow, and the threads of the network must not be. Who waits for these bytes waits for this too, so that
        // no more is read than the disk takes.
        let put = tokio::task::spawn_blocking(move || cache.put(&path, &seen, &range, &bytes));
        // It does not panic; what is not kept is asked for again.
        let _ = put.await;
    }

    /// Removes what is kept of the store, of which an object was replaced.
    pub(super) fn forget_kept(&self) {
        self.shared.cache.iter().for_each(|cache| cache.forget());
    }

    /// The bytes of some ranges of an object, in their order: what is kept, and what is asked for. `None` for a missing object.
    pub(super) fn ranges(&self, path: &str, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>> {
        self.check_process()?;
        let Some(entry) = self.kept(path) else { return self.asked(path, ranges) };
        let mut found: Vec<Option<Bytes>> = ranges.iter().map(|range| entry.get(range)).collect();
        let missing: Vec<usize> = (0..ranges.len()).filter(|&i| found[i].is_none()).collect();
        if !missing.is_empty() {
            let wanted: Vec<Range<u64>> = missing.iter().map(|&i| ranges[i].clone()).collect();
            let Some(read) = self.asked(path, &wanted)? else { return Ok(None) };
            missing.into_iter().zip(read).for_each(|(i, bytes)| found[i] = Some(bytes));
        }
        Ok(found.into_iter().collect())
    }

    /// An object of `len` bytes that may be kept.
    pub(super) fn kept_file(&self, path: &str, len: u64) -> Option<Arc<dyn File>> {
        self.shared.cache.as_ref().filter(|_| Cache::keeps(path))?;
        Some(Arc::new(KeptFile {
            asked: RemoteFile { remote: self.clone(), path: path.to_owned(), len },
            entry: OnceLock::new(),
            is_rest_asked: AtomicBool::new(false),
        }))
    }
}

/// An object that may be kept.
struct KeptFile {
    /// The object as its server has it.
    asked: RemoteFile,
    /// What is kept of it, once something is.
    entry: OnceLock<Arc<Entry>>,
    /// Whether the rest of it was asked for.
    is_rest_asked: AtomicBool,
}

impl KeptFile {
    /// What is kept of it.
    fn entry(&self) -> Option<&Entry> {
        if let Some(entry) = self.entry.get() {
            return Some(entry);
        }
        let entry = self.asked.remote.kept(&self.asked.path)?;
        Some(self.entry.get_or_init(|| entry))
    }

    /// Asks for what little is not there yet: a file that is whole is read like any other of this machine.
    fn ask_for_rest(&self, entry: &Entry) {
        if !self.is_rest_asked.load(Ordering::Relaxed)
            && let Some(rest) = entry.rest()
            && !self.is_rest_asked.swap(true, Ordering::Relaxed)
        {
            // What does not come is asked for when it is wanted, and is an error then.
            let _ = self.asked.remote.asked(&self.asked.path, &rest);
        }
    }
}

impl File for KeptFile {
    fn len(&self) -> u64 {
        self.asked.len
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        if self.entry.get().is_some_and(|entry| entry.read_at(offset, into)) {
            return Ok(());
        }
        self.asked.read_at(offset, into)
    }

    fn random_access(&self) -> bool {
        let Some(entry) = self.entry() else { return false };
        entry.note_use();
        if !entry.is_complete() {
            self.ask_for_rest(entry);
        }
        entry.is_complete()
    }

    fn has(&self, range: &Range<u64>) -> bool {
        self.entry().is_some_and(|entry| entry.has(range))
    }

    fn will_read(&self, range: &Range<u64>) {
        if let Some(entry) = self.entry.get() {
            entry.will_read(range);
        }
    }
}
