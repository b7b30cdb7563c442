//! The directories of a shard's packed chunks that were read: where each block begins, four bytes for 512 values.
//!
//! They lie in one table, so that where a block's entry is needs no look at memory: of random rows each look is a wait.
//! All of them together, in the process, are kept up to a number of bytes.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use crate::storage::prefetch;

/// The most bytes of directories that the process keeps: those of three million cells of 1,400 values.
const MAX_KEPT: usize = 64 << 20;

/// The bytes of directories that are kept now.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// The directories of one shard.
pub struct Directories {
    /// The number of entries of a chunk: the starts of its blocks, and the end of the last one.
    entries: usize,
    /// The entries of all chunks, in bytes from the shard's start; zeros where a chunk's are not known. Memory that
    /// is not written to is not taken from the system.
    table: OnceLock<Vec<AtomicU32>>,
    /// Which chunks' entries are known.
    known: Vec<AtomicBool>,
}

/// Where some blocks of a chunk begin and the last one ends, in bytes from the shard's start.
pub enum Starts<'a> {
    /// They are kept.
    Kept(&'a [AtomicU32]),
    /// They were read for this.
    Read(Vec<u64>),
}

impl Starts<'_> {
    /// The bytes of the `i`-th of the blocks; `None` past the last one.
    #[inline]
    pub fn block(&self, i: usize) -> Option<Range<u64>> {
        Some(self.entry(i)?..self.entry(i + 1)?)
    }

    /// The bytes of all blocks; `None` where there are none.
    #[inline]
    pub fn all(&self) -> Option<Range<u64>> {
        let entries = match self {
            Self::Kept(starts) => starts.len(),
            Self::Read(starts) => starts.len(),
        };
        let last = entries.checked_sub(1).filter(|&last| last > 0)?;
        Some(self.entry(0)?..self.entry(last)?)
    }

    fn entry(&self, i: usize) -> Option<u64> {
        match self {
            // The flag that was looked at before makes the entries visible.
            Self::Kept(starts) => Some(starts.get(i)?.load(Ordering::Relaxed).into()),
            Self::Read(starts) => starts.get(i).copied(),
        }
    }
}

impl Directories {
    /// None known yet, of so many chunks with so many blocks each.
    pub fn new(n_chunks: usize, n_blocks: usize) -> Self {
        let known = (0..n_chunks).map(|_| AtomicBool::new(false)).collect();
        Self { entries: n_blocks + 1, table: OnceLock::new(), known }
    }

    /// Whether the entries of the chunk `at` are known.
    pub fn has(&self, at: usize) -> bool {
        self.known.get(at).is_some_and(|known| known.load(Ordering::Acquire))
    }

    /// Where the `blocks` of the chunk `at` lie, where that is known; `None` for blocks that it does not have, too.
    pub fn get(&self, at: usize, blocks: Range<usize>) -> Option<Starts<'_>> {
        if !self.has(at) || blocks.end >= self.entries {
            return None;
        }
        let first = at * self.entries;
        Some(Starts::Kept(self.table.get()?.get(first + blocks.start..=first + blocks.end)?))
    }

    /// Asks for the entries of `blocks` of the chunk `at`, which are looked at soon.
    pub fn prefetch(&self, at: usize, blocks: Range<usize>) {
        if let Some(table) = self.table.get()
            && let Some(entries) = table.get(at * self.entries + blocks.start..=at * self.entries + blocks.end)
        {
            prefetch(entries.as_ptr().cast(), size_of_val(entries));
        }
    }

    /// Whether the entries of the chunk `at`, which ends at `end`, would be kept: they are not known, and there is room.
    pub fn would_keep(&self, at: usize, end: u64) -> bool {
        !self.has(at)
            && u32::try_from(end).is_ok()
            && with_more(KEPT.load(Ordering::Relaxed), self.entries * size_of::<u32>()).is_some()
    }

    /// Keeps the entries of the chunk `at`, where there is room.
    pub fn keep(&self, at: usize, starts: &[u64]) {
        // Other shards than ours may be longer than four bytes can tell.
        let Ok(starts) = starts.iter().map(|&start| u32::try_from(start)).collect::<Result<Vec<u32>, _>>() else {
            return;
        };
        let len = size_of_val(&starts[..]);
        if starts.len() != self.entries || self.has(at) || !reserve(len) {
            return;
        }
        let table = self.table.get_or_init(|| bytemuck::zeroed_vec(self.known.len() * self.entries));
        let entries = table.get(at * self.entries..(at + 1) * self.entries);
        let (Some(entries), Some(known)) = (entries, self.known.get(at)) else { return release(len) };
        for (entry, start) in entries.iter().zip(starts) {
            // Another thread that keeps them too writes the same.
            entry.store(start, Ordering::Relaxed);
        }
        if known.swap(true, Ordering::AcqRel) {
            release(len);
        }
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        let n = self.known.iter().filter(|known| known.load(Ordering::Relaxed)).count();
        release(n * self.entries * size_of::<u32>());
    }
}

/// The bytes that are kept with `len` more; `None` where there is no room.
fn with_more(kept: usize, len: usize) -> Option<usize> {
    kept.checked_add(len).filter(|&kept| kept <= MAX_KEPT)
}

/// Counts `len` more bytes; false where there is no room.
fn reserve(len: usize) -> bool {
    KEPT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| with_more(kept, len)).is_ok()
}

fn release(len: usize) {
    KEPT.fetch_sub(len, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(starts: &Starts<'_>) -> Vec<Range<u64>> {
        let blocks: Vec<Range<u64>> = (0..).map_while(|i| starts.block(i)).collect();
        assert_eq!(starts.all(), Some(blocks[0].start..blocks[blocks.len() - 1].end));
        blocks
    }

    #[test]
    fn what_is_kept_is_found() {
        let directories = Directories::new(3, 2);
        assert!(directories.get(1, 0..1).is_none() && !directories.has(1));
        assert!(directories.would_keep(1, 40) && !directories.would_keep(1, u64::from(u32::MAX) + 1));
        directories.keep(1, &[10, 15, 40]);
        directories.keep(1, &[10, 15, 40]);
        assert!(!directories.would_keep(1, 40));
        assert_eq!(blocks(&directories.get(1, 0..2).unwrap()), [10..15, 15..40]);
        assert_eq!(blocks(&directories.get(1, 1..2).unwrap()), std::slice::from_ref(&(15..40)));
        assert!(
            directories.get(1, 1..3).is_none()
                && directories.get(0, 0..1).is_none()
                && directories.get(3, 0..1).is_none()
        );
        directories.prefetch(1, 0..2);
        directories.prefetch(9, 0..2);
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let directories = Directories::new(2, 1);
        directories.keep(0, &[5, u64::from(u32::MAX) + 1]);
        directories.keep(1, &[5]);
        directories.keep(2, &[5, 6]);
        assert!([0, 1, 2].iter().all(|&at| directories.get(at, 0..1).is_none()));
        assert!(!reserve(MAX_KEPT + 1) && !reserve(usize::MAX));
    }
}
