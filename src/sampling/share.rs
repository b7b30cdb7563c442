//! Who gets which batches of an epoch: ranks that train together, and the workers of a rank.
//!
//! Batches are dealt out in rounds, one to each rank; the batches of a rank go round its workers. So
//! whatever the numbers of ranks and workers, batches are visited in one and the same sequence, and
//! all ranks do as many steps, or those that wait for each other would hang.

use std::ops::Range;

use super::EpochPlan;
use crate::error::{DaoError, Result};

/// One of the workers who share an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The number of the rank, below `world_size`.
    pub rank: usize,
    /// The number of ranks.
    pub world_size: usize,
    /// The number of the worker, among its rank's.
    pub worker: usize,
    /// The number of workers of each rank.
    pub workers: usize,
}

/// The point of an epoch to begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EpochStart {
    /// The number of cells, in the epoch's sequence, that were visited before the rest was shared out.
    pub cells: usize,
    /// The rounds of batches that all ranks have had since then.
    pub rounds: usize,
}

impl Share {
    /// Checks that rank and worker are below their numbers; `Value` if not.
    pub fn validate(self) -> Result<()> {
        for (what, i, n) in [("rank", self.rank, self.world_size), ("worker", self.worker, self.workers)] {
            if i >= n {
                return Err(DaoError::value(format!("{what} {i} of {n}")).expected(format!("a {what} below {n}")));
            }
        }
        Ok(())
    }

    /// Whether a batch of the leveled sequence belongs to this share.
    fn has(self, batch: usize) -> bool {
        batch % self.world_size == self.rank && batch / self.world_size % self.workers == self.worker
    }
}

impl EpochPlan {
    /// The batches that are left from `start` on, for all ranks: as many for each.
    pub fn shared(&self, world_size: usize, drop_last: bool, start: EpochStart) -> Vec<Range<usize>> {
        let rest = self.batches.iter().filter(|batch| batch.end > start.cells);
        let rest = rest.map(|batch| batch.start.max(start.cells)..batch.end).collect();
        let mut leveled = level(rest, world_size, drop_last);
        leveled.drain(..start.rounds.saturating_mul(world_size).min(leveled.len()));
        leveled
    }

    /// The plan of one share of what is left from `start` on, without its first `skip` batches.
    pub fn share(&self, share: Share, drop_last: bool, start: EpochStart, skip: usize) -> Self {
        let all = self.shared(share.world_size, drop_last, start);
        let mine = all.into_iter().enumerate().filter(|&(i, _)| share.has(i));
        let mine: Vec<Range<usize>> = mine.skip(skip).map(|(_, batch)| batch).collect();
        let mut plan = Self::of_batches(mine.iter().map(|batch| &self.order[batch.clone()]));
        plan.together = self.lots_of(&mine);
        plan
    }

    /// Where each lot ends in the order of these batches, one after another.
    fn lots_of(&self, batches: &[Range<usize>]) -> Vec<usize> {
        let (mut ends, mut n, mut last) = (Vec::new(), 0, None);
        for batch in batches {
            let mut start = batch.start;
            while start < batch.end {
                let lot = self.together.partition_point(|&end| end <= start);
                let Some(&end) = self.together.get(lot) else { return ends };
                let end = end.min(batch.end);
                n += end - start;
                match ends.last_mut().filter(|_| last == Some(lot)) {
                    Some(before) => *before = n,
                    None => ends.push(n),
                }
                (start, last) = (end, Some(lot));
            }
        }
        ends
    }

    /// The number of cells that all ranks together have had after `rounds` since `start.cells`.
    pub fn cells_after(&self, world_size: usize, drop_last: bool, start: EpochStart) -> usize {
        let all = self.shared(world_size, drop_last, EpochStart { rounds: 0, ..start });
        let had = &all[..start.rounds.saturating_mul(world_size).min(all.len())];
        had.iter().map(|batch| batch.end).max().unwrap_or(start.cells)
    }
}

/// The batches, in a multiple of `world_size`: those of the last round are cut smaller (earlier ones too, where
/// they have not the cells), or left out with `drop_last`. What still cannot be shared, a rest of
/// batches of one cell, is filled up with the first ones again.
fn level(mut batches: Vec<Range<usize>>, world_size: usize, drop_last: bool) -> Vec<Range<usize>> {
    let over = batches.len() % world_size;
    if over == 0 {
        return batches;
    }
    if drop_last {
        batches.truncate(batches.len() - over);
        return batches;
    }
    let missing = world_size - over;
    let (mut cut, mut cells) = (over, 0);
    loop {
        let last = &batches[batches.len() - cut..];
        cells += last[..if cut == over { over } else { world_size }].iter().map(Range::len).sum::<usize>();
        if cells >= cut + missing {
            break;
        }
        if cut + world_size > batches.len() {
            let again: Vec<_> = batches.iter().cycle().take(missing).cloned().collect();
            batches.extend(again);
            return batches;
        }
        cut += world_size;
    }
    let last = batches.split_off(batches.len() - cut);
    // Each step cuts the largest piece.
    let mut pieces = vec![1; last.len()];
    for _ in 0..missing {
        let size = |i: &usize| last[*i].len().div_ceil(pieces[*i]);
        // Of several largest pieces, the first.
        if let Some(largest) = (0..last.len()).rev().max_by_key(size) {
            pieces[largest] += 1;
        }
    }
    for (batch, n) in last.into_iter().zip(pieces) {
        let end = |i: usize| batch.start + batch.len() * i / n;
        batches.extend((0..n).map(|i| end(i)..end(i + 1)));
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Order, Sampler, batches};
    use super::*;

    fn plan(n: u32, batch_size: usize, drop_last: bool) -> EpochPlan {
        let order = Order::Shuffled { seed: 9 };
        Sampler { n, order, draw: None, groups: None, batch_size, drop_last }.epoch(0)
    }

    /// The cells that the ranks have, round by round.
    fn visited(
        plan: &EpochPlan,
        world_size: usize,
        workers: usize,
        drop_last: bool,
        start: EpochStart,
    ) -> Vec<Vec<Vec<u32>>> {
        let share = |rank, worker| {
            let share = Share { rank, world_size, worker, workers };
            share.validate().unwrap();
            let plan = plan.share(share, drop_last, start, 0);
            plan.batches.iter().map(|batch| plan.order[batch.clone()].to_vec()).collect::<Vec<_>>()
        };
        let ranks: Vec<Vec<Vec<Vec<u32>>>> =
            (0..world_size).map(|rank| (0..workers).map(|worker| share(rank, worker)).collect()).collect();
        // A rank takes a batch of each worker in turn, as a DataLoader does.
        let steps = |rank: &Vec<Vec<Vec<u32>>>| {
            let n = rank.iter().map(Vec::len).sum::<usize>();
            (0..n).map(|step| rank[step % workers][step / workers].clone()).collect::<Vec<_>>()
        };
        let ranks: Vec<Vec<Vec<u32>>> = ranks.iter().map(steps).collect();
        assert!(ranks.iter().all(|rank| rank.len() == ranks[0].len()), "ranks do as many steps");
        (0..ranks[0].len()).map(|step| ranks.iter().map(|rank| rank[step].clone()).collect()).collect()
    }

    proptest! {
        #[test]
        fn shares_are_one_epoch_in_one_sequence(n in 1u32..200, batch_size in 2usize..30, world_size in 1usize..7, workers in 1usize..5) {
            prop_assume!(n as usize >= world_size);
            let plan = plan(n, batch_size, false);
            let rounds = visited(&plan, world_size, workers, false, EpochStart::default());
            let cells: Vec<u32> = rounds.iter().flatten().flatten().copied().collect();
            prop_assert_eq!(&cells[..], &plan.order[..]);
            prop_assert!(rounds.iter().flatten().all(|batch| !batch.is_empty() && batch.len() <= batch_size));
        }

        #[test]
        fn a_rest_goes_on_where_it_was_left(
            n in 7u32..200, batch_size in 2usize..30, world_size in 1usize..7, other in 1usize..7, drop_last: bool, at: prop::sample::Index
        ) {
            let plan = plan(n, batch_size, drop_last);
            let whole = visited(&plan, world_size, 1, drop_last, EpochStart::default());
            let at = at.index(whole.len() + 1);
            let start = EpochStart { cells: 0, rounds: at };
            prop_assert_eq!(&visited(&plan, world_size, 2, drop_last, start)[..], &whole[at..]);
            // With another number of ranks: the same cells in the same sequence.
            let had: Vec<u32> = whole[..at].iter().flatten().flatten().copied().collect();
            let cells = plan.cells_after(world_size, drop_last, start);
            prop_assert_eq!(&had[..], &plan.order[..cells]);
            let rest = visited(&plan, other, 1, drop_last, EpochStart { cells, rounds: 0 });
            let rest: Vec<u32> = rest.iter().flatten().flatten().copied().collect();
            if !drop_last && plan.order.len() - cells >= other {
                prop_assert_eq!(&rest[..], &plan.order[cells..]);
            } else if drop_last {
                prop_assert_eq!(&rest[..], &plan.order[cells..cells + rest.len()]);
            }
        }

        #[test]
        fn every_rank_has_as_many(n in 0usize..100, batch_size in 1usize..9, world_size in 1usize..9, drop_last: bool) {
            let leveled = level(batches(n, batch_size, drop_last), world_size, drop_last);
            prop_assert_eq!(leveled.len() % world_size, 0);
            let distinct: std::collections::BTreeSet<usize> = leveled.iter().cloned().flatten().collect();
            if !drop_last {
                prop_assert_eq!(distinct.len(), n);
            }
        }
    }
}
