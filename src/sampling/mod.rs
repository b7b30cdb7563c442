//! Which cells an epoch visits, in which order, cut into which batches, and who gets them.
//!
//! Owns seeds, permutations, draws and shares. Sees positions in a selection, never cells, and does
//! no I/O: everything here follows from its arguments, the same on every machine.

mod groups;
mod order;
mod random;
mod share;
mod weighted;

use std::ops::Range;
use std::sync::Arc;

use crate::error::{DaoError, Result};
pub use order::Order;
use random::{Stream, generator};
pub use share::{EpochStart, Share};

/// The settings of the epochs over a selection.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// The number of cells of the selection.
    pub n: u32,
    /// The order in which an epoch visits its positions.
    pub order: Order,
    /// The draw of the cells of an epoch; `None`: every position comes once.
    pub draw: Option<Draw>,
    /// The group of each position, below `n`; each batch is then of one group.
    pub groups: Option<Arc<[u32]>>,
    /// The number of cells of a batch.
    pub batch_size: usize,
    /// Whether smaller batches are left out.
    pub drop_last: bool,
}

/// A random sample of positions.
#[derive(Debug, Clone)]
pub struct Draw {
    /// The number of positions drawn in an epoch.
    pub n_samples: usize,
    /// Whether a position may be drawn again.
    pub replacement: bool,
    /// The weight of each position, in any unit; `None` for equal weights.
    pub weights: Option<Arc<[f64]>>,
    /// The user's seed.
    pub seed: u64,
}

/// One epoch: positions in the order they are visited, and where batches begin and end in that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochPlan {
    /// Positions in the selection.
    pub order: Arc<[u32]>,
    /// The batches: consecutive ranges that together are all of `order`.
    pub batches: Vec<Range<usize>>,
    /// Where each lot ends of the places in `order` that were shuffled together, and with no others; empty where there are no
    /// lots.
    pub together: Vec<usize>,
}

impl EpochPlan {
    /// The epoch of these batches of positions.
    fn of_batches<'a>(all: impl Iterator<Item = &'a [u32]>) -> Self {
        let (mut order, mut batches) = (Vec::new(), Vec::new());
        for batch in all {
            batches.push(order.len()..order.len() + batch.len());
            order.extend_from_slice(batch);
        }
        Self { order: order.into(), batches, together: Vec::new() }
    }
}

impl Sampler {
    /// Checks settings against each other; `Value` for what cannot be drawn.
    pub fn validate(&self) -> Result<()> {
        if self.batch_size == 0 {
            return Err(DaoError::value("batch_size is 0").expected("at least 1"));
        }
        if let Some(groups) = &self.groups
            && (groups.len() != self.n as usize || groups.iter().any(|&group| group >= self.n))
        {
            return Err(DaoError::value("groups do not fit the selection"));
        }
        self.draw.as_ref().map_or(Ok(()), |draw| draw.validate(self.n))
    }

    /// The number of cells of an epoch, before `drop_last` removes any.
    pub fn n_samples(&self) -> usize {
        self.draw.as_ref().map_or(self.n as usize, |draw| draw.n_samples)
    }

    /// The whole epoch, for all ranks.
    pub fn epoch(&self, epoch: u64) -> EpochPlan {
        let ((order, mut together), seed) = match &self.draw {
            Some(draw) => ((draw.positions(self.n, epoch), Vec::new()), Some(draw.seed)),
            None => (self.order.arranged(self.n, epoch), self.order.seed()),
        };
        let Some(groups) = &self.groups else {
            let batches = batches(order.len(), self.batch_size, self.drop_last);
            let used = batches.last().map_or(0, |last| last.end);
            together.iter_mut().for_each(|end| *end = (*end).min(used));
            together.dedup();
            return EpochPlan { order: order[..used].into(), batches, together };
        };
        let rng = seed.map(|seed| generator(seed, epoch, Stream::Batches));
        groups::plan(&order, groups, self.batch_size, self.drop_last, rng)
    }

    /// The number of batches of an epoch, for all ranks together, before they are shared out.
    pub fn n_batches(&self, epoch: u64) -> usize {
        let whole = |n: usize| if self.drop_last { n / self.batch_size } else { n.div_ceil(self.batch_size) };
        match (&self.groups, &self.draw) {
            (None, _) => whole(self.n_samples()),
            (Some(groups), None) => groups::sizes(groups).into_iter().map(whole).sum(),
            // How many batches each group fills depends on which cells are drawn, so they are drawn here.
            (Some(_), Some(_)) => self.epoch(epoch).batches.len(),
        }
    }
}

impl Draw {
    fn validate(&self, n: u32) -> Result<()> {
        let mut possible = n as usize;
        if let Some(weights) = &self.weights {
            if weights.len() != n as usize {
                return Err(DaoError::value("weights do not fit the selection").expected(n).found(weights.len()));
            }
            if let Some(at) = weights.iter().position(|weight| !weight.is_finite() || *weight < 0.0) {
                return Err(DaoError::value(format!("the weight of row {at} is {}", weights[at]))
                    .expected("numbers of at least 0, none of them null, infinite or NaN"));
            }
            possible = weights.iter().filter(|&&weight| weight > 0.0).count();
            if !weights.iter().sum::<f64>().is_finite() {
                return Err(DaoError::value("the weights' sum is infinite").hint("divide them by a number"));
            }
        }
        let most = if self.replacement && possible > 0 { u32::MAX as usize } else { possible };
        if self.n_samples > most {
            let what = if self.replacement { "" } else { " without replacement" };
            return Err(DaoError::value(format!("{} cells cannot be drawn{what}", self.n_samples))
                .expected(format!("at most {most}, as many as have a weight above 0")));
        }
        Ok(())
    }

    fn positions(&self, n: u32, epoch: u64) -> Vec<u32> {
        let mut rng = generator(self.seed, epoch, Stream::Order);
        match (&self.weights, self.replacement) {
            (Some(weights), true) => weighted::with_replacement(weights, self.n_samples, &mut rng),
            (Some(weights), false) => weighted::without_replacement(weights, self.n_samples, &mut rng),
            (None, true) => weighted::uniform(n, self.n_samples, &mut rng),
            (None, false) => {
                let mut order = Order::Shuffled { seed: self.seed }.positions(n, epoch);
                order.truncate(self.n_samples);
                order
            }
        }
    }
}

/// The batches of an epoch over `n` cells, as ranges of places in its order.
///
/// The last one is short, or left out with `drop_last`.
pub fn batches(n: usize, batch_size: usize, drop_last: bool) -> Vec<Range<usize>> {
    debug_assert!(batch_size > 0);
    let whole = if drop_last { n - n % batch_size } else { n };
    (0..whole).step_by(batch_size).map(|start| start..(start + batch_size).min(whole)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn sampler() -> impl Strategy<Value = Sampler> {
        let draw = (any::<bool>(), 0usize..80, any::<bool>(), any::<bool>());
        (0u32..60, 0usize..4, draw, any::<bool>(), 1usize..20, any::<bool>(), any::<u64>()).prop_map(
            |(n, order, (drawn, n_samples, replacement, weighted), grouped, batch_size, drop_last, seed)| {
                let order = match order {
                    0 => Order::Frame,
                    1 => Order::Shuffled { seed },
                    size => Order::Blocks { seed, size: size * 2, window: 3 },
                };
                let weights: Arc<[f64]> = (0..n).map(|i| f64::from(i % 3)).collect();
                let possible = if weighted { weights.iter().filter(|w| **w > 0.0).count() } else { n as usize };
                let n_samples = if replacement && possible > 0 { n_samples } else { n_samples.min(possible) };
                let weights = weighted.then_some(weights);
                let draw = drawn.then_some(Draw { n_samples, replacement, weights, seed });
                let groups = grouped.then(|| (0..n).map(|i| i * i % 5 % n.max(1)).collect());
                Sampler { n, order, draw, groups, batch_size, drop_last }
            },
        )
    }

    proptest! {
        #[test]
        fn epochs_are_what_was_asked_for(sampler in sampler(), epoch in 0u64..5) {
            sampler.validate().unwrap();
            let plan = sampler.epoch(epoch);
            prop_assert_eq!(&plan, &sampler.epoch(epoch));
            prop_assert_eq!(sampler.n_batches(epoch), plan.batches.len());
            prop_assert_eq!(plan.batches.iter().cloned().flatten().collect::<Vec<_>>(), (0..plan.order.len()).collect::<Vec<_>>());
            prop_assert!(plan.order.iter().all(|&position| position < sampler.n));
            for batch in &plan.batches {
                prop_assert!(!batch.is_empty() && batch.len() <= sampler.batch_size);
                prop_assert!(!sampler.drop_last || batch.len() == sampler.batch_size);
                if let Some(groups) = &sampler.groups {
                    let groups: BTreeSet<u32> = plan.order[batch.clone()].iter().map(|&p| groups[p as usize]).collect();
                    prop_assert_eq!(groups.len(), 1);
                }
            }
            let distinct: BTreeSet<u32> = plan.order.iter().copied().collect();
            if sampler.draw.as_ref().is_none_or(|draw| !draw.replacement) {
                prop_assert_eq!(distinct.len(), plan.order.len());
            }
            if !sampler.drop_last {
                prop_assert_eq!(plan.order.len(), sampler.n_samples());
            }
            if let Some(weights) = sampler.draw.as_ref().and_then(|draw| draw.weights.as_ref()) {
                prop_assert!(plan.order.iter().all(|&p| weights[p as usize] > 0.0));
            }
        }

        #[test]
        fn batches_cover_the_epoch_in_order(n in 0usize..500, batch_size in 1usize..100, drop_last: bool) {
            let batches = batches(n, batch_size, drop_last);
            let covered: Vec<usize> = batches.iter().cloned().flatten().collect();
            let whole = if drop_last { n / batch_size * batch_size } else { n };
            prop_assert_eq!(covered, (0..whole).collect::<Vec<_>>());
            prop_assert!(batches.iter().rev().skip(1).all(|b| b.len() == batch_size));
            prop_assert!(batches.iter().all(|b| !b.is_empty()));
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let draw = |n_samples, replacement, weights: &[f64]| {
            let weights = Some(Arc::from(weights));
            Draw { n_samples, replacement, weights, seed: 0 }.validate(3)
        };
        assert!(draw(2, false, &[1.0, 0.0, 1.0]).is_ok());
        assert!(draw(3, false, &[1.0, 0.0, 1.0]).is_err());
        assert!(draw(9, true, &[1.0, 0.0, 1.0]).is_ok());
        assert!(draw(1, true, &[0.0; 3]).is_err());
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(draw(1, true, &[1.0, bad, 1.0]).is_err());
        }
        assert!(draw(1, true, &[f64::MAX; 3]).is_err());
        assert!(draw(1, true, &[1.0; 2]).is_err());
    }
}
