//! The order of an epoch, and how it is cut into batches.
//!
//! Owns seeds and permutations. Sees positions in a selection, never cells, and does no I/O.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// In which sequence an epoch visits the positions `0..n` of a selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they come.
    Frame,
    /// A uniform random permutation that `seed` and the epoch fix.
    Shuffled {
        /// The user's seed.
        seed: u64,
    },
}

impl Order {
    /// The positions of `epoch`, each of `0..n` once.
    #[must_use]
    pub fn positions(self, n: u32, epoch: u64) -> Vec<u32> {
        let mut positions: Vec<u32> = (0..n).collect();
        if let Self::Shuffled { seed } = self {
            shuffle(&mut positions, &mut generator(seed, epoch));
        }
        positions
    }
}

/// ChaCha8 keyed with seed and epoch: independent streams, the same on every machine.
fn generator(seed: u64, epoch: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// Fisher and Yates's shuffle. Written out, because libraries change how many random numbers
/// theirs takes, and a seed has to give the same epoch tomorrow.
fn shuffle(values: &mut [u32], rng: &mut impl RngCore) {
    for i in (1..values.len()).rev() {
        values.swap(i, below(i as u64 + 1, rng));
    }
}

/// A uniform number below `bound` (at most 2^32), without bias: Lemire's multiplication with
/// rejection, <https://arxiv.org/abs/1805.10941>.
fn below(bound: u64, rng: &mut impl RngCore) -> usize {
    let bound = u128::from(bound);
    let threshold = ((1_u128 << 64) - bound) % bound;
    loop {
        let product = u128::from(rng.next_u64()) * bound;
        if product % (1 << 64) >= threshold {
            // The upper half is below `bound`, which a slice's length fits.
            return usize::try_from(product >> 64).unwrap_or(0);
        }
    }
}

/// The batches of an epoch over `n` cells, as ranges of places in its order.
///
/// The last one is short, or left out with `drop_last`.
#[must_use]
pub fn batches(n: usize, batch_size: usize, drop_last: bool) -> Vec<Range<usize>> {
    debug_assert!(batch_size > 0);
    let whole = if drop_last { n - n % batch_size } else { n };
    (0..whole).step_by(batch_size).map(|start| start..(start + batch_size).min(whole)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_epoch_is_a_permutation(n in 0u32..500, seed: u64, epoch: u64) {
            let order = Order::Shuffled { seed };
            let mut positions = order.positions(n, epoch);
            prop_assert_eq!(&positions, &order.positions(n, epoch));
            positions.sort_unstable();
            prop_assert_eq!(positions, (0..n).collect::<Vec<_>>());
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
    fn epochs_and_seeds_differ() {
        let at = |seed, epoch| Order::Shuffled { seed }.positions(100, epoch);
        assert_ne!(at(0, 0), at(0, 1));
        assert_ne!(at(0, 0), at(1, 0));
        assert_ne!(at(0, 1), at(1, 0));
    }

    #[test]
    fn a_seed_means_the_same_epoch_in_every_version() {
        assert_eq!(Order::Shuffled { seed: 7 }.positions(8, 3), PINNED);
    }

    const PINNED: [u32; 8] = [3, 6, 4, 5, 2, 0, 7, 1];

    #[test]
    fn permutations_of_four_are_equally_likely() {
        let mut seen: HashMap<Vec<u32>, u32> = HashMap::new();
        let trials = 24_000;
        for epoch in 0..trials {
            *seen.entry(Order::Shuffled { seed: 1 }.positions(4, epoch)).or_default() += 1;
        }
        assert_eq!(seen.len(), 24);
        // Chi-square with 23 degrees of freedom: 49.7 has probability 0.001.
        let chi: f64 = seen.values().map(|&k| (f64::from(k) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 49.7, "{chi}");
    }
}
