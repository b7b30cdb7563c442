//! Small files that were asked for together, and are then read one by one: over a network a wait for all, not one for each.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{File, Storage};
use crate::error::Result;

/// A storage some of whose files were read already; missing ones are known to be missing.
pub struct Together {
    storage: Arc<dyn Storage>,
    got: Mutex<HashMap<String, Option<Bytes>>>,
}

impl Together {
    /// The same files, none of which was read.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, got: Mutex::default() }
    }

    /// Reads these files, those of them that are there.
    ///
    /// # Errors
    /// What the storage fails with.
    pub fn ask(&self, paths: &[String]) -> Result<()> {
        let found = self.storage.get_many(paths)?;
        self.got().extend(paths.iter().cloned().zip(found));
        Ok(())
    }

    fn got(&self) -> MutexGuard<'_, HashMap<String, Option<Bytes>>> {
        // Entries are put whole, so a poisoned lock is safe to use.
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for Together {
    fn uri(&self) -> &str {
        self.storage.uri()
    }

    fn size(&self, path: &str) -> Result<Option<u64>> {
        let known = self.got().get(path).map(|bytes| bytes.as_ref().map(|bytes| bytes.len() as u64));
        known.map_or_else(|| self.storage.size(path), Ok)
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let known = self.got().get(path).cloned();
        known.map_or_else(|| self.storage.get(path), Ok)
    }

    fn get_ranges(&self, path: &str, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>> {
        self.storage.get_ranges(path, ranges)
    }

    fn file(&self, path: &str) -> Result<Option<Arc<dyn File>>> {
        self.storage.file(path)
    }

    fn list_folders(&self, path: &str) -> Result<Vec<String>> {
        self.storage.list_folders(path)
    }

    fn can_list(&self) -> bool {
        self.storage.can_list()
    }

    fn list_files(&self, path: &str) -> Result<Vec<(String, u64)>> {
        self.storage.list_files(path)
    }

    fn local_root(&self) -> Option<&Path> {
        self.storage.local_root()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Local;
    use super::*;

    #[test]
    fn what_was_asked_for_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "abc").unwrap();
        let files = Together::new(Arc::new(Local::new(folder.path()).unwrap()));
        files.ask(&["a".to_owned(), "b".to_owned()]).unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(folder.path().join(name), "later").unwrap();
        }
        assert_eq!(files.get("a").unwrap().unwrap(), "abc");
        assert_eq!(
            [files.size("a").unwrap(), files.size("b").unwrap(), files.size("c").unwrap()],
            [Some(3), None, Some(5)]
        );
    }
}
