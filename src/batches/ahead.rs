//! What of an epoch is read ahead from another machine: groups of cells, each asked for at once and held until its batches are
//! made.
//!
//! Cells that are shuffled together are a group, so that what several batches have of one block of rows is read once. Without
//! such, groups grow: the first is as small as the first batches are, that these come soon, and later ones are asked for in
//! fewer requests. Cells in random order have little to share: their groups stay small. [`groups`] is pure.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::read::{MatrixRequest, ReadRequest, RowPlan, schedule};
use crate::storage::Held;

/// The cells of the first group, where nothing else says how many.
const FIRST: usize = 1024;
/// The groups that fit into what may be held, at least, where nothing else says how large they are.
const GROUPS: u64 = 4;
/// How many times what may be held lies between what is read and what is located: where something lies takes an answer, too.
const LOCATED: u64 = 2;
/// The most groups that are held, and located: each has to be planned, however little is read of it.
const MOST: usize = 16;
/// The parts that are asked for at a time: where something lies may have to be asked for first.
const PARTS_AT_ONCE: usize = 32;
/// The cells that are looked at for how many values one has.
const SEEN: usize = 1000;
/// What a stored value takes, about, column and all: an estimate in bytes.
const VALUE: u64 = 2;

/// The groups of an epoch.
pub struct ReadAhead {
    /// The rows of the epoch in each.
    groups: Vec<Range<usize>>,
    /// The most bytes that are held, but for what is waited for.
    budget: u64,
    /// How often each cell is read: once for all matrices that are read in pieces of one size.
    times: usize,
    /// The bytes that a cell takes, about, before any was asked for.
    mean: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The next group to ask for.
    next: usize,
    /// What says where the cells of later groups lie: of those from `next` on, in order.
    located: VecDeque<Vec<Box<dyn Held>>>,
    /// The groups that were asked for.
    held: BTreeMap<usize, HeldGroup>,
    bytes: u64,
    /// The bytes and cells that were asked for so far.
    asked: (u64, u64),
}

struct HeldGroup {
    _pieces: Vec<Box<dyn Held>>,
    bytes: u64,
    /// The cells that are still to be read, each so often.
    left: usize,
}

impl ReadAhead {
    /// Of an epoch in this order (positions into the request's keys), in which the rows up to each end in `together` are
    /// shuffled together, and in which each cell is read so many `times`; `budget` in bytes. `None` where nothing is read
    /// ahead.
    pub fn new(request: &ReadRequest, order: &[u32], together: &[usize], times: usize, budget: u64) -> Option<Self> {
        if !request.reads_ahead() {
            return None;
        }
        let some =
            order.iter().step_by((order.len() / SEEN).max(1)).map(|&position| request.keys.at(position as usize));
        let mean = (request.row_values(some) * VALUE).max(1);
        let keys = |pair: &[u32]| (request.keys.at(pair[0] as usize), request.keys.at(pair[1] as usize));
        // However little may be held: a request for each cell would be slower than all else.
        let most = match mostly_ascend(order.windows(2).map(keys)) {
            true => usize::try_from(budget / GROUPS / mean).unwrap_or(usize::MAX).max(FIRST),
            // A group comes in the order of its file, so that its first batch is there with its last.
            false => FIRST,
        };
        Some(Self { groups: groups(order.len(), together, most), budget, times, mean, state: Mutex::default() })
    }

    /// Has what `rows` of the epoch need asked for, and the groups after that which there is room for.
    ///
    /// # Errors
    /// As [`ReadRequest::read_ahead`].
    pub fn need(&self, request: &ReadRequest, rows: &Range<usize>, key: impl Fn(usize) -> u64 + Sync) -> Result<()> {
        // What a panic leaves behind is asked for by whoever needs it.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = |group: &Range<usize>| RowPlan::new(&group.clone().map(&key).collect::<Vec<_>>());
        while let Some(group) = self.groups.get(state.next) {
            let is_needed = group.start < rows.end;
            let is_full =
                state.held.len() >= MOST || state.bytes.saturating_add(self.estimate(&state, group)) > self.budget;
            if !is_needed && is_full {
                break;
            }
            self.locate(request, &mut state, plan)?;
            let located = state.located.pop_front();
            let pieces = each(request, &plan(group), |matrix, part, rows| request.read_ahead(matrix, part, rows))?;
            drop(located);
            let bytes = pieces.iter().map(|piece| piece.bytes()).sum();
            let (next, left) = (state.next, group.len() * self.times);
            state.held.insert(next, HeldGroup { _pieces: pieces, bytes, left });
            state.bytes += bytes;
            state.asked = (state.asked.0 + bytes, state.asked.1 + group.len() as u64);
            state.next += 1;
        }
        Ok(())
    }

    /// Asks where the cells of the next groups lie, far enough ahead that nobody waits for that.
    fn locate(&self, request: &ReadRequest, state: &mut State, plan: impl Fn(&Range<usize>) -> RowPlan) -> Result<()> {
        let mut bytes = 0_u64;
        for (at, group) in self.groups[state.next..].iter().take(MOST).enumerate() {
            // The next but one, too, however large groups are.
            if bytes / LOCATED > self.budget && at > 1 {
                break;
            }
            if at >= state.located.len() {
                let ask = |matrix: &_, part, rows: &[u32]| request.locate_ahead(matrix, part, rows);
                state.located.push_back(each(request, &plan(group), ask)?);
            }
            bytes = bytes.saturating_add(self.estimate(state, group));
        }
        Ok(())
    }

    /// The bytes of a group, about.
    fn estimate(&self, state: &State, group: &Range<usize>) -> u64 {
        let (bytes, cells) = state.asked;
        let mean = if bytes == 0 { self.mean } else { bytes / cells };
        mean.saturating_mul(group.len() as u64)
    }

    /// Notes that `rows` of the epoch were read once.
    pub fn done(&self, rows: &Range<usize>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let first = self.groups.partition_point(|group| group.end <= rows.start);
        for (number, group) in (first..).zip(&self.groups[first..]).take_while(|(_, group)| group.start < rows.end) {
            let read = group.end.min(rows.end) - group.start.max(rows.start);
            let Some(held) = state.held.get_mut(&number) else { continue };
            held.left = held.left.saturating_sub(read);
            if held.left == 0
                && let Some(held) = state.held.remove(&number)
            {
                state.bytes -= held.bytes;
            }
        }
    }
}

/// Whether nearly all keys are less than the next one, of some that are looked at.
fn mostly_ascend(pairs: impl ExactSizeIterator<Item = (u64, u64)>) -> bool {
    let step = (pairs.len() / SEEN).max(1);
    let (mut n, mut ascending) = (0, 0);
    for (key, next) in pairs.step_by(step) {
        n += 1;
        ascending += usize::from(key < next);
    }
    10 * ascending >= 9 * n
}

/// Asks for rows of each matrix and part of a plan.
fn each(
    request: &ReadRequest,
    plan: &RowPlan,
    ask: impl Fn(&MatrixRequest, u32, &[u32]) -> Result<Option<Box<dyn Held>>> + Send + Sync,
) -> Result<Vec<Box<dyn Held>>> {
    let jobs: Vec<_> =
        (request.matrices.iter()).flat_map(|matrix| plan.parts.iter().map(move |part| (matrix, part))).collect();
    let mut held = Vec::new();
    let ask = |job: usize| ask(jobs[job].0, jobs[job].1.number, &jobs[job].1.rows);
    let keep = |one| {
        held.extend(one);
        Ok(())
    };
    schedule::in_order(jobs.len(), PARTS_AT_ONCE, ask, keep, || Ok(()))?;
    Ok(held)
}

/// The groups of `n` cells, of at most about `most`; those up to each end in `together` are not cut, where there are such.
fn groups(n: usize, together: &[usize], most: usize) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let (mut start, mut size) = (0, FIRST.min(most).max(1));
    while start < n {
        let end = match together.get(together.partition_point(|&end| end <= start)) {
            Some(&end) => end.min(n),
            None => (start + size).min(n),
        };
        groups.push(start..end);
        (start, size) = (end, (2 * size).min(most.max(1)));
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn groups_grow_or_are_what_is_shuffled_together() {
        assert_eq!(groups(9000, &[], 4000), [0..1024, 1024..3072, 3072..7072, 7072..9000]);
        assert_eq!(groups(10, &[4, 8, 10], 2), [0..4, 4..8, 8..10]);
        assert_eq!(groups(2, &[], 0), [0..1, 1..2]);
    }

    #[test]
    fn an_order_is_told_from_a_shuffle() {
        let ascends = |keys: &[u64]| mostly_ascend(keys.windows(2).map(|pair| (pair[0], pair[1])));
        assert!(ascends(&[]) && ascends(&[3]) && ascends(&(0..5000).map(|i| 7 * i).collect::<Vec<_>>()));
        assert!(!ascends(&(0..5000).map(|i| i * 2_654_435_761 % 4999).collect::<Vec<_>>()));
    }

    proptest! {
        #[test]
        fn groups_are_all_cells(n in 0_usize..30_000, most in 0_usize..9000, together in prop::collection::btree_set(1_usize..30_000, 0..5)) {
            let together: Vec<usize> = together.into_iter().collect();
            let groups = groups(n, &together, most.max(100));
            prop_assert_eq!(groups.iter().map(Range::len).sum::<usize>(), n);
            prop_assert!(groups.windows(2).all(|pair| pair[0].end == pair[1].start));
            prop_assert!(groups.iter().all(|group| !group.is_empty()));
        }
    }
}
