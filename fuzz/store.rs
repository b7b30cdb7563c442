//! A storage in memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use dao_polars::error::{DaoError, Result};
use dao_polars::storage::{File, Storage};

/// Files by their paths.
pub type Files = BTreeMap<String, Bytes>;

/// A storage of these files.
pub struct Memory {
    pub files: Files,
    /// Whether reads are small and many, as from a disk, or few and large, as over a network.
    pub is_local: bool,
}

struct InMemory(Bytes, bool);

fn part(bytes: &Bytes, range: Range<u64>) -> Result<Bytes> {
    if range.start > range.end || range.end > bytes.len() as u64 {
        return Err(DaoError::corrupt("memory", "file is truncated"));
    }
    Ok(bytes.slice(range.start as usize..range.end as usize))
}

impl Storage for Memory {
    fn uri(&self) -> &str {
        "memory"
    }

    fn size(&self, path: &str) -> Result<Option<u64>> {
        Ok(self.files.get(path).map(|bytes| bytes.len() as u64))
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>> {
        Ok(self.files.get(path).cloned())
    }

    fn get_ranges(&self, path: &str, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>> {
        let Some(bytes) = self.files.get(path) else { return Ok(None) };
        ranges.iter().map(|range| part(bytes, range.clone())).collect::<Result<_>>().map(Some)
    }

    fn file(&self, path: &str) -> Result<Option<Arc<dyn File>>> {
        Ok(self.files.get(path).map(|bytes| Arc::new(InMemory(bytes.clone(), self.is_local)) as _))
    }

    fn list_folders(&self, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn list_files(&self, _: &str) -> Result<Vec<(String, u64)>> {
        Ok(self.files.iter().map(|(path, bytes)| (path.clone(), bytes.len() as u64)).collect())
    }

    fn local_root(&self) -> Option<&Path> {
        self.is_local.then_some(Path::new("memory"))
    }
}

impl File for InMemory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        into.copy_from_slice(&part(&self.0, offset..offset.saturating_add(into.len() as u64))?);
        Ok(())
    }

    fn random_access(&self) -> bool {
        self.1
    }
}
