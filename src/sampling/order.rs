//! Permutations of a selection.

use super::random::{Stream, generator, shuffle};

/// The sequence in which an epoch visits the positions `0..n` of a selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The order of the frame.
    Frame,
    /// A uniform random permutation that `seed` and the epoch fix.
    Shuffled {
        /// The user's seed.
        seed: u64,
    },
    /// Blocks of neighbours in random order, then the cells of so many blocks shuffled together.
    Blocks {
        /// The user's seed.
        seed: u64,
        /// The number of cells of a block, at least 1.
        size: usize,
        /// The number of blocks that are shuffled together, at least 1.
        window: usize,
    },
}

impl Order {
    /// The positions of `epoch`, each of `0..n` once.
    pub fn positions(self, n: u32, epoch: u64) -> Vec<u32> {
        self.arranged(n, epoch).0
    }

    /// The positions of `epoch`, and where each lot of them ends that were shuffled together and with no others; no ends where
    /// there are no lots.
    pub fn arranged(self, n: u32, epoch: u64) -> (Vec<u32>, Vec<usize>) {
        let mut ends = Vec::new();
        let positions = match self {
            Self::Frame => (0..n).collect(),
            Self::Shuffled { seed } => {
                let mut positions: Vec<u32> = (0..n).collect();
                shuffle(&mut positions, &mut generator(seed, epoch, Stream::Order));
                positions
            }
            Self::Blocks { seed, size, window } => {
                let rng = &mut generator(seed, epoch, Stream::Order);
                let all: Vec<u32> = (0..n).collect();
                let mut blocks: Vec<&[u32]> = all.chunks(size.max(1)).collect();
                shuffle(&mut blocks, rng);
                let mut positions = Vec::with_capacity(all.len());
                for together in blocks.chunks(window.max(1)) {
                    let start = positions.len();
                    positions.extend(together.iter().copied().flatten());
                    shuffle(&mut positions[start..], rng);
                    ends.push(positions.len());
                }
                positions
            }
        };
        (positions, ends)
    }

    /// The seed, where there is one.
    pub fn seed(self) -> Option<u64> {
        match self {
            Self::Frame => None,
            Self::Shuffled { seed } | Self::Blocks { seed, .. } => Some(seed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_epoch_is_a_permutation(n in 0u32..500, seed: u64, epoch: u64, size in 1usize..50, window in 1usize..9) {
            for order in [Order::Frame, Order::Shuffled { seed }, Order::Blocks { seed, size, window }] {
                let mut positions = order.positions(n, epoch);
                prop_assert_eq!(&positions, &order.positions(n, epoch));
                positions.sort_unstable();
                prop_assert_eq!(positions, (0..n).collect::<Vec<_>>());
            }
        }

        #[test]
        fn a_lot_is_whole_blocks(n in 0u32..500, seed: u64, size in 1usize..50, window in 1usize..9) {
            let (positions, ends) = Order::Blocks { seed, size, window }.arranged(n, 0);
            let (mut start, mut seen) = (0, BTreeSet::new());
            for end in ends {
                let lot = &positions[start..end];
                let blocks: BTreeSet<usize> = lot.iter().map(|&position| position as usize / size).collect();
                prop_assert!(blocks.len() <= window && blocks.is_disjoint(&seen));
                seen.extend(blocks);
                start = end;
            }
            prop_assert_eq!(start, positions.len());
        }

        #[test]
        fn a_window_is_of_few_blocks(blocks in 1u32..60, seed: u64, size in 1u32..50, window in 1usize..9) {
            let order = Order::Blocks { seed, size: size as usize, window };
            let positions = order.positions(blocks * size, 0);
            for window_cells in positions.chunks(size as usize * window) {
                let blocks: BTreeSet<u32> = window_cells.iter().map(|position| position / size).collect();
                prop_assert!(blocks.len() <= window);
            }
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        for order in [|seed| Order::Shuffled { seed }, |seed| Order::Blocks { seed, size: 8, window: 2 }] {
            let at = |seed, epoch| order(seed).positions(100, epoch);
            assert_ne!(at(0, 0), at(0, 1));
            assert_ne!(at(0, 0), at(1, 0));
            assert_ne!(at(0, 1), at(1, 0));
        }
    }

    #[test]
    fn a_seed_means_the_same_epoch_in_every_version() {
        assert_eq!(Order::Shuffled { seed: 7 }.positions(8, 3), [3, 6, 4, 5, 2, 0, 7, 1]);
    }

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
