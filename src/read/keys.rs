//! The keys of some cells in frame order: as they are, or as runs of cells that follow each other.
//!
//! Pure. A selection of a hundred million cells in the order of their store is a run a part, which takes nothing; as
//! numbers it would take 800 MB.

use std::ops::Range;

use super::split_key;

/// The cells that a run has at least, on the average: where it has fewer, keys are kept as they are.
const MEAN_RUN: usize = 16;

/// Cell keys, `part_number << 32 | row`, in frame order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellKeys(Kept);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kept {
    /// One key a cell.
    Each(Vec<u64>),
    /// The first key of each run, whose rows follow each other in one part, and the position after its last.
    Runs { firsts: Vec<u64>, ends: Vec<usize> },
}

impl Default for CellKeys {
    fn default() -> Self {
        Self(Kept::Each(Vec::new()))
    }
}

impl From<Vec<u64>> for CellKeys {
    fn from(keys: Vec<u64>) -> Self {
        Self::of_runs(keys.len(), keys.iter().copied()).unwrap_or(Self(Kept::Each(keys)))
    }
}

impl CellKeys {
    /// The keys of all pieces, one piece after another; `None` where memory cannot hold them.
    pub fn new(pieces: &[&[u64]]) -> Option<Self> {
        let n = pieces.iter().map(|piece| piece.len()).sum();
        let all = || pieces.iter().flat_map(|piece| piece.iter().copied());
        Self::of_runs(n, all()).or_else(|| {
            let mut keys = Vec::new();
            keys.try_reserve_exact(n).ok()?;
            pieces.iter().for_each(|piece| keys.extend_from_slice(piece));
            Some(Self(Kept::Each(keys)))
        })
    }

    /// These keys as runs; `None` where there are too many of them.
    fn of_runs(n: usize, keys: impl Iterator<Item = u64>) -> Option<Self> {
        let (mut firsts, mut ends) = (Vec::new(), Vec::new());
        let mut next = None;
        for (at, key) in keys.enumerate() {
            // A run ends with its part, whatever numbers come next.
            if next != Some(key) || split_key(key).1 == 0 {
                if firsts.len() > n / MEAN_RUN {
                    return None;
                }
                firsts.try_reserve(1).ok()?;
                ends.try_reserve(1).ok()?;
                firsts.push(key);
                ends.push(at);
            }
            if let Some(end) = ends.last_mut() {
                *end = at + 1;
            }
            next = key.checked_add(1);
        }
        Some(Self(Kept::Runs { firsts, ends }))
    }

    /// The number of cells.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kept::Each(keys) => keys.len(),
            Kept::Runs { ends, .. } => ends.last().copied().unwrap_or(0),
        }
    }

    /// Whether there are no cells.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys, where each is kept as it is.
    pub fn as_slice(&self) -> Option<&[u64]> {
        match &self.0 {
            Kept::Each(keys) => Some(keys),
            Kept::Runs { .. } => None,
        }
    }

    /// The key at a position, which has to be below `len()`, as of a slice.
    #[inline]
    pub fn at(&self, position: usize) -> u64 {
        match &self.0 {
            Kept::Each(keys) => keys[position],
            Kept::Runs { firsts, ends } => {
                let run = ends.partition_point(|&end| end <= position);
                firsts[run] + (position - begin(ends, run)) as u64
            }
        }
    }

    /// The keys at some positions that follow each other, which have to be below `len()`.
    pub fn range(&self, positions: Range<usize>) -> impl Iterator<Item = u64> + '_ {
        let mut run = match &self.0 {
            Kept::Each(_) => 0,
            Kept::Runs { ends, .. } => ends.partition_point(|&end| end <= positions.start),
        };
        positions.map(move |position| match &self.0 {
            Kept::Each(keys) => keys[position],
            Kept::Runs { firsts, ends } => {
                run += usize::from(position >= ends[run]);
                firsts[run] + (position - begin(ends, run)) as u64
            }
        })
    }

    /// All keys.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.range(0..self.len())
    }

    /// The number of a part, and the positions of cells of it that follow each other: together all.
    pub fn by_part(&self) -> impl Iterator<Item = (u32, Range<usize>)> + '_ {
        let mut start = 0;
        std::iter::from_fn(move || {
            let (number, end) = match &self.0 {
                Kept::Each(keys) => {
                    let number = split_key(*keys.get(start)?).0;
                    let others = keys[start..].iter().position(|&key| split_key(key).0 != number);
                    (number, others.map_or(keys.len(), |n| start + n))
                }
                Kept::Runs { firsts, ends } => {
                    let run = ends.partition_point(|&end| end <= start);
                    let number = split_key(*firsts.get(run)?).0;
                    let others = firsts[run..].iter().position(|&key| split_key(key).0 != number);
                    (number, ends[others.map_or(ends.len(), |n| run + n) - 1])
                }
            };
            Some((number, std::mem::replace(&mut start, end)..end))
        })
    }
}

/// The position of a run's first cell.
fn begin(ends: &[usize], run: usize) -> usize {
    run.checked_sub(1).map_or(0, |before| ends[before])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_runs(keys: &CellKeys) -> bool {
        keys.as_slice().is_none()
    }

    proptest! {
        #[test]
        fn keys_are_what_they_were(
            runs in prop::collection::vec((0_u64..3, 0_u64..5, 1_u64..60), 0..20), cut in any::<prop::sample::Index>(),
        ) {
            let keys: Vec<u64> = runs.iter().flat_map(|&(part, row, n)| (row..row + n).map(move |row| part << 32 | row)).collect();
            let at = cut.index(keys.len() + 1);
            let made = CellKeys::new(&[&keys[..at], &keys[at..]]).unwrap();
            prop_assert_eq!(&made, &CellKeys::from(keys.clone()));
            prop_assert_eq!((made.len(), made.is_empty()), (keys.len(), keys.is_empty()));
            prop_assert_eq!(made.iter().collect::<Vec<_>>(), keys.clone());
            prop_assert_eq!(made.range(at..keys.len()).collect::<Vec<_>>(), &keys[at..]);
            for (position, &key) in keys.iter().enumerate() {
                prop_assert_eq!(made.at(position), key);
            }
            let mut before = 0;
            for ((number, range), part) in made.by_part().zip(keys.chunk_by(|a, b| a >> 32 == b >> 32)) {
                prop_assert_eq!((u64::from(number), range.start, range.len()), (part[0] >> 32, before, part.len()));
                before = range.end;
            }
            prop_assert_eq!(before, keys.len());
        }
    }

    #[test]
    fn runs_are_kept_as_such_and_end_with_their_part() {
        let of = |keys: &[u64]| CellKeys::from(keys.to_vec());
        let part: Vec<u64> = (0..100).chain(1 << 32..(1 << 32) + 100).collect();
        assert!(is_runs(&of(&part)));
        assert!(!is_runs(&of(&part.iter().rev().copied().collect::<Vec<_>>())));
        assert!(!is_runs(&of(&part.iter().step_by(2).copied().collect::<Vec<_>>())));
        let across: Vec<u64> = ((1 << 32) - 50..(1 << 32) + 50).collect();
        let keys = of(&across);
        assert!(is_runs(&keys));
        assert_eq!(keys.by_part().collect::<Vec<_>>(), [(0, 0..50), (1, 50..100)]);
        assert!(of(&[u64::MAX, 0]).iter().eq([u64::MAX, 0]));
    }
}
