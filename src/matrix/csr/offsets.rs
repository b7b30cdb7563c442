//! Where each row of a CSR matrix begins: four bytes a row, as rows that are near each other begin near each other.

use std::ops::Range;

/// The rows that count from one offset.
const TOGETHER: usize = 4096;

/// Offsets that ascend from 0, one more than rows.
pub enum Offsets {
    /// The offset of every 4,096th row, and how far each begins after that.
    Near { bases: Vec<u64>, distances: Vec<u32> },
    /// The offsets of rows so long that some of them lie too far apart.
    Far(Vec<u64>),
}

impl Offsets {
    /// The offsets `all`, which ascend.
    pub fn new(all: Vec<u64>) -> Self {
        let bases: Vec<u64> = all.iter().step_by(TOGETHER).copied().collect();
        let distance = |(i, &offset): (usize, &u64)| u32::try_from(offset - bases[i / TOGETHER]).ok();
        match all.iter().enumerate().map(distance).collect() {
            Some(distances) => Self::Near { bases, distances },
            None => Self::Far(all),
        }
    }

    /// The offset of a row; `None` past the last one.
    #[inline]
    fn get(&self, row: usize) -> Option<u64> {
        match self {
            Self::Near { bases, distances } => Some(bases.get(row / TOGETHER)? + u64::from(*distances.get(row)?)),
            Self::Far(all) => all.get(row).copied(),
        }
    }

    /// The range of a row's values; `None` past the last row.
    #[inline]
    pub fn row(&self, row: usize) -> Option<Range<u64>> {
        Some(self.get(row)?..self.get(row.checked_add(1)?)?)
    }

    /// The number of values of all rows.
    pub fn end(&self) -> u64 {
        let n = match self {
            Self::Near { distances, .. } => distances.len(),
            Self::Far(all) => all.len(),
        };
        n.checked_sub(1).and_then(|last| self.get(last)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(lengths: &[u64]) -> Offsets {
        let mut all = vec![0];
        all.extend(lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        }));
        let offsets = Offsets::new(all.clone());
        for (row, ends) in all.windows(2).enumerate() {
            assert_eq!(offsets.row(row), Some(ends[0]..ends[1]));
        }
        assert!(offsets.row(lengths.len()).is_none() && offsets.row(usize::MAX).is_none());
        assert_eq!(offsets.end(), all[lengths.len()]);
        offsets
    }

    proptest! {
        #[test]
        fn rows_are_where_they_were(lengths in prop::collection::vec(0_u64..1 << 20, 0..9000)) {
            let is_near = matches!(check(&lengths), Offsets::Near { .. });
            prop_assert!(is_near);
        }
    }

    #[test]
    fn long_rows_lie_far_apart() {
        assert!(matches!(check(&[1 << 31, 1 << 31, 5]), Offsets::Far(_)));
        assert!(matches!(check(&[u64::from(u32::MAX)]), Offsets::Near { .. }));
    }
}
