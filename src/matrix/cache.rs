//! Rows that were decoded along with requested ones, kept until they are requested: within a number of bytes.
//!
//! A chunk of a dense matrix has many rows, and an epoch wants each row once. The rows most worth keeping are
//! therefore those not requested yet; a row that was given out makes room for others. Caches from libraries
//! (quick_cache, moka) do the opposite: they keep what was requested lately or often, which here nobody will
//! request again, and drop waiting rows for new ones.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::dense::CompactRow;

/// The bytes that a cached row takes besides its own, about.
const OVERHEAD: usize = 96;

/// Decoded rows of several parts; see the module.
///
/// A cache belongs to one request: its rows have only the columns that the request wants.
#[derive(Default)]
pub struct RowCache {
    state: Mutex<CacheState>,
    changed: Condvar,
    turn: AtomicUsize,
}

#[derive(Default)]
struct CacheState {
    limit: usize,
    bytes: usize,
    rows: HashMap<u64, CachedRow>,
    /// The keys of rows that were given out, the oldest first; a key may be there twice, or its row be gone.
    given: VecDeque<u64>,
    /// The keys of rows that were not given out yet, in the same way.
    waiting: VecDeque<u64>,
    given_bytes: usize,
    /// The bytes that were refused since a waiting row was last requested.
    refused: usize,
    busy: HashSet<(u32, u64)>,
}

/// A row, and whether it was given out since it was cached.
struct CachedRow {
    row: CompactRow,
    given: bool,
}

/// The right of one thread to decode a band of rows, until it is dropped.
pub struct Claim<'a> {
    cache: &'a RowCache,
    band: (u32, u64),
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.cache.lock().busy.remove(&self.band);
        self.cache.changed.notify_all();
    }
}

impl RowCache {
    fn lock(&self) -> MutexGuard<'_, CacheState> {
        // A panic elsewhere cannot leave the cache half changed, so a poisoned lock is safe to use.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps at most `limit` bytes from now on.
    pub fn limit(&self, limit: usize) {
        let mut state = self.lock();
        state.limit = limit;
        while state.bytes > limit && (state.drop_given() || state.drop_waiting()) {}
    }

    /// Whether the limit lets any rows be kept.
    pub fn keeps_any(&self) -> bool {
        self.lock().limit > 0
    }

    /// A number that grows with each call: threads that read the same rows begin at different places.
    pub fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Claims a band of a part's rows; with `wait`, once no other thread has it.
    pub fn claim(&self, band: (u32, u64), wait: bool) -> Option<Claim<'_>> {
        let mut state = self.lock();
        while !state.busy.insert(band) {
            if !wait {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Some(Claim { cache: self, band })
    }

    /// Puts the cached rows of `keys` into their places in `rows`.
    pub fn get(&self, keys: impl Iterator<Item = u64>, rows: &mut [Option<CompactRow>]) {
        let mut state = self.lock();
        let state = &mut *state;
        for (key, to) in keys.zip(rows) {
            if to.is_some() {
                continue;
            }
            let Some(kept) = state.rows.get_mut(&key) else { continue };
            *to = Some(kept.row.clone());
            if !kept.given {
                kept.given = true;
                state.refused = 0;
                state.given_bytes += weight(&kept.row);
                state.given.push_back(key);
            }
        }
    }

    /// Which of the rows `keys`, of about `weight` bytes each, are worth decoding to be kept: those that are not there
    /// yet, as many as there is room for.
    pub fn choose(&self, keys: impl Iterator<Item = u64>, weight: usize) -> Vec<bool> {
        let mut state = self.lock();
        let mut left = state.free_bytes() / weight;
        let mut refused = 0;
        let is_chosen = |key| {
            let is_missing = !state.rows.contains_key(&key);
            let is_chosen = is_missing && left > 0;
            left -= usize::from(is_chosen);
            refused += if is_missing && !is_chosen { weight } else { 0 };
            is_chosen
        };
        let chosen = keys.map(is_chosen).collect();
        state.refuse(refused);
        chosen
    }

    /// Keeps rows. A row that was already `given` never displaces another.
    pub fn put(&self, rows: impl Iterator<Item = (u64, CompactRow, bool)>) {
        let mut state = self.lock();
        for (key, row, given) in rows {
            let weight = weight(&row);
            if !given {
                while state.bytes + weight > state.limit && state.drop_given() {}
            }
            if state.bytes + weight > state.limit || state.rows.contains_key(&key) {
                continue;
            }
            state.bytes += weight;
            if given {
                state.given_bytes += weight;
                state.given.push_back(key);
            } else {
                state.waiting.push_back(key);
            }
            state.rows.insert(key, CachedRow { row, given });
        }
        if state.waiting.len() > 2 * state.rows.len() + 1024 {
            let CacheState { waiting, rows, .. } = &mut *state;
            waiting.retain(|key| rows.get(key).is_some_and(|kept| !kept.given));
        }
    }
}

fn weight(row: &CompactRow) -> usize {
    row.byte_len() + OVERHEAD
}

impl CacheState {
    /// The number of bytes that rows which nobody requested can still take.
    fn free_bytes(&self) -> usize {
        self.limit.saturating_sub(self.bytes - self.given_bytes)
    }

    /// Notes that rows of about `bytes` were not kept. If that goes on while none of the kept rows
    /// is requested, nobody will request them: they are of an earlier epoch, or of one that was broken off.
    fn refuse(&mut self, bytes: usize) {
        self.refused += bytes;
        if self.refused > self.limit {
            self.refused = 0;
            while self.drop_waiting() {}
        }
    }

    fn drop_given(&mut self) -> bool {
        while let Some(key) = self.given.pop_front() {
            if let Some(kept) = self.rows.remove(&key) {
                let weight = weight(&kept.row);
                self.bytes -= weight;
                self.given_bytes -= weight;
                return true;
            }
        }
        false
    }

    fn drop_waiting(&mut self) -> bool {
        while let Some(key) = self.waiting.pop_front() {
            // Rows that were given out since then are in the other queue.
            if self.rows.get(&key).is_some_and(|kept| !kept.given)
                && let Some(kept) = self.rows.remove(&key)
            {
                self.bytes -= weight(&kept.row);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(byte: u8) -> CompactRow {
        CompactRow::from_bytes(&[byte; 104])
    }

    fn get(cache: &RowCache, key: u64) -> Option<CompactRow> {
        let mut rows = [None];
        cache.get(std::iter::once(key), &mut rows);
        let [row] = rows;
        row
    }

    #[test]
    fn what_was_given_makes_room_and_nothing_else_does() {
        let cache = RowCache::default();
        cache.limit(800);
        cache.put((0..6).map(|key| (key, row(0), false)));
        let is_missing = |key| !cache.lock().rows.contains_key(&key);
        assert_eq!((0..6).filter(|&key| !is_missing(key)).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(cache.lock().free_bytes(), 0);
        assert!(get(&cache, 2).is_some() && get(&cache, 1).is_some());
        assert_eq!(cache.lock().free_bytes(), 400);
        assert_eq!(cache.choose([0, 8, 9, 10].into_iter(), 200), [false, true, true, false]);
        cache.put(std::iter::once((7, row(7), false)));
        assert!(get(&cache, 2).is_none());
        assert_eq!(get(&cache, 7), Some(row(7)));
        cache.put(std::iter::once((8, row(8), true)));
        assert!(get(&cache, 8).is_none());
        cache.lock().refuse(801);
        assert_eq!([0, 1, 3, 7].map(is_missing), [true, false, true, false]);
        cache.limit(0);
        let state = cache.lock();
        assert_eq!((state.bytes, state.given_bytes), (0, 0));
    }

    #[test]
    fn one_thread_has_a_band() {
        let cache = RowCache::default();
        let claim = cache.claim((0, 1), false);
        assert!(claim.is_some() && cache.claim((0, 1), false).is_none() && cache.claim((1, 1), false).is_some());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| cache.claim((0, 1), true).is_some());
            drop(claim);
            assert!(waits.join().unwrap());
        });
    }

    #[test]
    fn queues_stay_short() {
        let cache = RowCache::default();
        cache.limit(2000);
        for key in 0..50_000 {
            cache.put(std::iter::once((key, row(0), false)));
            get(&cache, key);
        }
        let state = cache.lock();
        assert!(state.waiting.len() + state.given.len() < 4096 && state.bytes <= 2000);
    }
}
