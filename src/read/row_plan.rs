//! Which rows of which datasets some cells are: each row once, ascending, and the slots that it fills.
//!
//! Pure: keys in, rows and slots out.

use std::ops::Range;

use super::split_key;

/// The rows of one dataset that are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatasetRows {
    /// The dataset's number.
    pub number: u32,
    /// The wanted rows, ascending, each once.
    pub rows: Vec<u32>,
    /// The range, in the plan's slots, of the slots that each row fills.
    pub slot_ranges: Vec<Range<usize>>,
}

/// The rows that a sequence of cells needs, and where each goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPlan {
    /// The rows of each dataset, by ascending dataset number.
    pub datasets: Vec<DatasetRows>,
    /// Positions in the sequence, by the row that fills them.
    pub slots: Vec<usize>,
}

impl RowPlan {
    /// The plan for the cells `keys`, the first of which is slot 0.
    pub fn new(keys: &[u64]) -> Self {
        let mut slots: Vec<usize> = (0..keys.len()).collect();
        slots.sort_unstable_by_key(|&slot| keys[slot]);
        let mut datasets: Vec<DatasetRows> = Vec::new();
        for (at, &slot) in slots.iter().enumerate() {
            let (number, row) = split_key(keys[slot]);
            if datasets.last().is_none_or(|last| last.number != number) {
                datasets.push(DatasetRows { number, ..DatasetRows::default() });
            }
            let Some(DatasetRows { rows, slot_ranges, .. }) = datasets.last_mut() else { continue };
            match slot_ranges.last_mut() {
                Some(range) if rows.last() == Some(&row) => range.end = at + 1,
                _ => {
                    rows.push(row);
                    slot_ranges.push(at..at + 1);
                }
            }
        }
        Self { datasets, slots }
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
            for dataset in &plan.datasets {
                prop_assert!(dataset.rows.windows(2).all(|pair| pair[0] < pair[1]));
            }
            prop_assert!(plan.datasets.windows(2).all(|pair| pair[0].number < pair[1].number));
            let mut found = vec![u64::MAX; keys.len()];
            for dataset in &plan.datasets {
                prop_assert_eq!(dataset.rows.len(), dataset.slot_ranges.len());
                for (&row, range) in dataset.rows.iter().zip(&dataset.slot_ranges) {
                    for &slot in &plan.slots[range.clone()] {
                        found[slot] = u64::from(dataset.number) << 32 | u64::from(row);
                    }
                }
            }
            prop_assert_eq!(found, keys);
        }
    }
}
