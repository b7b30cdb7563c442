//! Which rows of which parts some cells are: each row once, ascending, and the slots that it fills.
//!
//! Pure: keys in, rows and slots out.

use std::ops::Range;

use super::split_key;

/// The rows of one part that are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartRows {
    /// The part's number.
    pub number: u32,
    /// The wanted rows, ascending, each once.
    pub rows: Vec<u32>,
    /// The range, in the plan's slots, of the slots that each row fills.
    pub slot_ranges: Vec<Range<usize>>,
}

/// The rows that a sequence of cells needs, and where each goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPlan {
    /// The rows of each part, by ascending part number.
    pub parts: Vec<PartRows>,
    /// Positions in the sequence, by the row that fills them.
    pub slots: Vec<usize>,
}

impl RowPlan {
    /// The plan for the cells `keys`, the first of which is slot 0.
    pub fn new(keys: &[u64]) -> Self {
        let mut slots: Vec<usize> = (0..keys.len()).collect();
        slots.sort_unstable_by_key(|&slot| keys[slot]);
        let mut parts: Vec<PartRows> = Vec::new();
        for (at, &slot) in slots.iter().enumerate() {
            let (number, row) = split_key(keys[slot]);
            if parts.last().is_none_or(|last| last.number != number) {
                parts.push(PartRows { number, ..PartRows::default() });
            }
            let Some(PartRows { rows, slot_ranges, .. }) = parts.last_mut() else { continue };
            match slot_ranges.last_mut() {
                Some(range) if rows.last() == Some(&row) => range.end = at + 1,
                _ => {
                    rows.push(row);
                    slot_ranges.push(at..at + 1);
                }
            }
        }
        Self { parts, slots }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_slot_finds_its_cell(keys in prop::collection::vec((0u64..4, 0u64..20), 0..200)) {
            let keys: Vec<u64> = keys.into_iter().map(|(number, row)| number << 32 | row).collect();
            let plan = RowPlan::new(&keys);
            for part in &plan.parts {
                prop_assert!(part.rows.windows(2).all(|pair| pair[0] < pair[1]));
            }
            prop_assert!(plan.parts.windows(2).all(|pair| pair[0].number < pair[1].number));
            let mut found = vec![u64::MAX; keys.len()];
            for part in &plan.parts {
                prop_assert_eq!(part.rows.len(), part.slot_ranges.len());
                for (&row, range) in part.rows.iter().zip(&part.slot_ranges) {
                    for &slot in &plan.slots[range.clone()] {
                        found[slot] = u64::from(part.number) << 32 | u64::from(row);
                    }
                }
            }
            prop_assert_eq!(found, keys);
        }
    }
}
