//! Pieces of objects that are on their way, or here and held until who wanted them is done.
//!
//! Who reads ahead says what is wanted ([`Remote::begin`]), and holds what comes; who reads then finds it here
//! ([`Pieces::find`]). Objects are not changed while they are read, which [`super::state`] sees to.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use super::super::{Held, Wanted};
use super::join::join;
use super::{Failure, Remote, body, state, wait};
use crate::error::Result;

/// What may be read for nothing, by what is wanted.
const WASTE: f64 = 0.5;

/// The requests of one read that are under way or wait to be, at most: more than are under way at a time, of all.
const WAITING: usize = 512;

/// The pieces before a range that are looked at for one that has it.
const NESTED: usize = 32;

/// The bytes of a piece, or why there are none.
pub type Answer = std::result::Result<Bytes, Failure>;

/// A range of an object.
#[derive(Debug)]
pub struct Piece {
    range: Range<u64>,
    /// The number of the read that asked for it.
    number: u64,
    /// Fails where the request was given up.
    answer: Shared<oneshot::Receiver<Answer>>,
}

impl Piece {
    fn key(&self) -> (u64, u64) {
        (self.range.start, self.number)
    }

    /// The bytes `range`, which lie in it, once they are here; `None` where they were given up.
    pub async fn bytes(&self, range: &Range<u64>) -> Option<Answer> {
        let answer = self.answer.clone().await.ok()?;
        let at = |at: u64| usize::try_from(at - self.range.start).unwrap_or(usize::MAX);
        // An object that is shorter than it should be was found out when the piece came.
        let cut = |bytes: &Bytes| bytes.slice(at(range.start).min(bytes.len())..at(range.end).min(bytes.len()));
        Some(answer.map(|bytes| cut(&bytes)))
    }
}

/// The pieces of one object, by their start and the number of their read.
type OfObject = BTreeMap<(u64, u64), Weak<Piece>>;

/// The pieces of all objects, by path.
#[derive(Debug, Default)]
pub struct Pieces {
    by_object: Mutex<HashMap<String, OfObject>>,
    /// The number of the next read: who came first is served first.
    reads: std::sync::atomic::AtomicU64,
}

impl Pieces {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, OfObject>> {
        // Entries are put and taken whole, so a poisoned lock is safe to use.
        self.by_object.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pieces that `ranges` of an object lie in, each the one that was asked for first: it comes first.
    pub fn find(&self, path: &str, ranges: &[Range<u64>]) -> Vec<Option<Arc<Piece>>> {
        let all = self.lock();
        let Some(of_object) = all.get(path) else { return vec![None; ranges.len()] };
        // A piece across a gap may have others in it, which somebody else wanted.
        let before = |range: &Range<u64>| of_object.range(..=(range.start, u64::MAX)).rev().take(NESTED);
        let find = |range: &Range<u64>| {
            let here = before(range).filter_map(|(_, piece)| piece.upgrade());
            here.filter(|piece| range.end <= piece.range.end).min_by_key(|piece| piece.number)
        };
        ranges.iter().map(find).collect()
    }

    fn keep(&self, path: &str, pieces: &[Arc<Piece>]) {
        let mut all = self.lock();
        let of_object = all.entry(path.to_owned()).or_default();
        of_object.extend(pieces.iter().map(|piece| (piece.key(), Arc::downgrade(piece))));
    }

    /// Lets go of pieces; those that nobody else holds are not found any more.
    fn forget(&self, held: HashMap<String, Vec<Arc<Piece>>>) {
        let mut all = self.lock();
        for (path, pieces) in held {
            let keys: Vec<(u64, u64)> = pieces.iter().map(|piece| piece.key()).collect();
            drop(pieces);
            let Some(of_object) = all.get_mut(&path) else { continue };
            for key in keys {
                if of_object.get(&key).is_some_and(|piece| piece.strong_count() == 0) {
                    of_object.remove(&key);
                }
            }
            if of_object.is_empty() {
                all.remove(&path);
            }
        }
    }
}

/// Pieces that somebody wanted. Dropped, what has not come is given up.
#[derive(Debug)]
pub struct HeldPieces {
    remote: Remote,
    pieces: HashMap<String, Vec<Arc<Piece>>>,
    bytes: u64,
    sending: Option<AbortHandle>,
}

impl Held for HeldPieces {
    fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for HeldPieces {
    fn drop(&mut self) {
        // In a forked child the tasks are its parent's.
        if self.remote.is_own() {
            self.remote.shared.pieces.forget(std::mem::take(&mut self.pieces));
            self.sending.take().iter().for_each(AbortHandle::abort);
        }
    }
}

impl Remote {
    /// Sends requests for what of `wanted` is not held; several ranges at a time, as the line wants it.
    pub(super) fn begin(&self, wanted: Vec<Wanted>) -> Result<HeldPieces> {
        self.check_process()?;
        let shared = &self.shared;
        let number = shared.pieces.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let gap = shared.line.gap();
        let mut held = HeldPieces { remote: self.clone(), pieces: HashMap::new(), bytes: 0, sending: None };
        let mut requests = Vec::new();
        for Wanted { path, mut ranges } in wanted {
            self.without_kept(&path, &mut ranges);
            let found = shared.pieces.find(&path, &ranges);
            let mut is_held = found.iter().map(Option::is_some);
            ranges.retain(|_| !is_held.next().unwrap_or(false));
            self.widen(&path, &mut ranges);
            ranges.sort_unstable_by_key(|range| (range.start, range.end));
            let mut pieces = Vec::new();
            for range in join(&ranges, gap, WASTE) {
                let (sender, receiver) = oneshot::channel();
                held.bytes += range.end - range.start;
                requests.push((path.clone(), range.clone(), sender));
                pieces.push(Arc::new(Piece { range, number, answer: receiver.shared() }));
            }
            shared.pieces.keep(&path, &pieces);
            // What others hold is held here too: they may be done before.
            pieces.extend(found.into_iter().flatten());
            held.pieces.entry(path).or_default().extend(pieces);
        }
        if !requests.is_empty() {
            let sending = wait::runtime()?.spawn(send(self.clone(), number, requests));
            held.sending = Some(sending.abort_handle());
        }
        Ok(held)
    }
}

/// Sends requests in their order. Many wait at the gate, not one after the other: others that were wanted later would pass between.
async fn send(remote: Remote, number: u64, requests: Vec<(String, Range<u64>, oneshot::Sender<Answer>)>) {
    let mut under_way = JoinSet::new();
    for (path, range, sender) in requests {
        while under_way.len() >= WAITING {
            under_way.join_next().await;
        }
        let remote = remote.clone();
        under_way.spawn(async move {
            let shared = &remote.shared;
            let most = (shared.line.in_flight(), shared.line.most());
            let pass = shared.gate.pass(number, range.end - range.start, most).await;
            let answer = remote.fetch(&path, range).await;
            drop(pass);
            // Nobody may want it any more.
            drop(sender.send(answer));
        });
    }
    while under_way.join_next().await.is_some() {}
}

impl Remote {
    /// A range of an object, by one request and its retries.
    pub(super) async fn fetch(&self, path: &str, range: Range<u64>) -> Answer {
        let (shared, begun) = (&self.shared, Instant::now());
        let answer = body::range(&*self.store, &self.object(path), range.clone(), |came| {
            self.note_arrival(&came);
            match came {
                body::Came::Head => shared.line.answered(begun.elapsed()),
                body::Came::Bytes(n) => shared.line.arrived(n),
            }
        })
        .await;
        let (bytes, meta) = answer.map_err(Failure::from)?;
        let seen = state::seen(&meta);
        shared.states.check(path, &seen).inspect_err(|_| self.forget_kept())?;
        let end = range.start + bytes.len() as u64;
        if end < range.end {
            return Err(Failure::Short { end: range.end, size: meta.size.min(end) });
        }
        self.keep(path, seen, range, &bytes).await;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use object_store::path::Path as ObjectPath;
    use object_store::{ObjectStore, ObjectStoreExt};

    use super::super::super::Storage;
    use super::*;

    fn remote() -> (Arc<InMemory>, Remote) {
        let store = Arc::new(InMemory::new());
        let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        wait::runtime().unwrap().block_on(store.put(&ObjectPath::from("root/a"), bytes.into())).unwrap();
        (store.clone(), Remote::of(store as Arc<dyn ObjectStore>, "mem://root"))
    }

    fn wanted(ranges: &[Range<u64>]) -> Vec<Wanted> {
        vec![Wanted { path: "a".to_owned(), ranges: ranges.to_vec() }]
    }

    #[test]
    fn what_is_held_is_not_asked_for_again() {
        let (store, remote) = remote();
        let held = remote.read_ahead(wanted(&[0..10, 10..30, 500_000..500_004])).unwrap().unwrap();
        assert_eq!(held.bytes(), 34);
        // Another reader of the same, who is done first.
        let other = remote.begin(wanted(std::slice::from_ref(&(12..20)))).unwrap();
        assert_eq!(other.bytes(), 0);
        drop(other);
        assert_eq!(remote.get_ranges("a", &[2..4, 9..12]).unwrap().unwrap()[1], [9, 10, 11][..]);
        // Nothing of it is there any more but what is held.
        wait::runtime().unwrap().block_on(store.delete(&ObjectPath::from("root/a"))).unwrap();
        assert_eq!(remote.get_ranges("a", &[28..30, 500_001..500_003]).unwrap().unwrap()[0], [28, 29][..]);
        assert!(remote.get_ranges("a", std::slice::from_ref(&(29..31))).unwrap().is_none());
        drop(held);
        assert!(remote.get_ranges("a", std::slice::from_ref(&(28..30))).unwrap().is_none());
        assert!(remote.shared.pieces.lock().is_empty());
    }

    #[test]
    fn a_piece_is_found_behind_others_that_lie_in_it() {
        let (_, remote) = remote();
        let small = remote.begin(wanted(&[1000..1010, 2000..2010])).unwrap();
        let large = remote.begin(wanted(&[0..3000, 5000..5010])).unwrap();
        assert_eq!((small.bytes(), large.bytes()), (20, 3010));
        assert_eq!(remote.begin(wanted(&[2500..2600, 1005..1500, 2001..2009])).unwrap().bytes(), 0);
    }

    #[test]
    fn of_two_pieces_the_one_that_was_asked_for_first_is_found() {
        let (_, remote) = remote();
        let first = remote.begin(wanted(&[900..1100, 5000..5010])).unwrap();
        let later = remote.begin(wanted(&[1000..1200, 5000..5020])).unwrap();
        assert_eq!((first.bytes(), later.bytes()), (210, 220));
        let ranges = |all: &[Range<u64>]| -> Vec<Range<u64>> {
            remote.shared.pieces.find("a", all).into_iter().map(|piece| piece.unwrap().range.clone()).collect()
        };
        assert_eq!(ranges(&[1000..1050, 5000..5010]), [900..1100, 5000..5010]);
        drop(first);
        assert_eq!(ranges(&[1000..1050, 5000..5010]), [1000..1200, 5000..5020]);
    }

    #[test]
    fn an_object_that_was_replaced_is_an_error() {
        let (store, remote) = remote();
        let one = |range: Range<u64>| remote.get_ranges("a", std::slice::from_ref(&range));
        assert!(one(0..4).unwrap().is_some());
        let bytes = vec![7_u8; 1 << 20];
        wait::runtime().unwrap().block_on(store.put(&ObjectPath::from("root/a"), bytes.into())).unwrap();
        let error = one(4..8).unwrap_err();
        assert!(error.to_string().contains("object was replaced while the store was open"), "{error}");
        let fresh = Remote::of(store as Arc<dyn ObjectStore>, "mem://root");
        assert!(fresh.expect("a", 1000));
        let error = fresh.get_ranges("a", std::slice::from_ref(&(4..8))).unwrap_err();
        assert!(error.to_string().contains("expected 1000 bytes, found 1048576 bytes"), "{error}");
    }

    #[test]
    fn what_somebody_gave_up_is_asked_for_by_who_needs_it() {
        let (_, remote) = remote();
        let many: Vec<Range<u64>> = (0..1000).map(|i| 1000 * i..1000 * i + 3).collect();
        for _ in 0..20 {
            let held = remote.begin(wanted(&many)).unwrap();
            let other = remote.begin(wanted(&many[500..])).unwrap();
            drop(held);
            assert_eq!(remote.get_ranges("a", &many).unwrap().unwrap().len(), 1000);
            drop(other);
        }
    }
}
