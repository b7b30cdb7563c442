//! Which rows a run of batches needs: grouped by dataset, each row once, ascending.
//!
//! Pure: keys in, rows and slots out.

use std::ops::Range;

use super::split_key;

/// Rows of one dataset, and who waits for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// The dataset's number.
    pub number: u32,
    /// Its rows, ascending, each once.
    pub rows: Vec<u32>,
    /// For each row, which of the plan's slots wait for it.
    pub waiting: Vec<Range<usize>>,
}

/// What a window needs, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By ascending dataset number.
    pub needs: Vec<Needs>,
    /// The slots, by the row that they wait for.
    pub slots: Vec<usize>,
}

/// Plans the cells `keys`, in the order of their slots.
#[must_use]
pub fn plan(keys: &[u64]) -> Plan {
    let mut slots: Vec<usize> = (0..keys.len()).collect();
    slots.sort_unstable_by_key(|&slot| keys[slot]);
    let mut needs: Vec<Needs> = Vec::new();
    for (at, &slot) in slots.iter().enumerate() {
        let (number, row) = split_key(keys[slot]);
        if needs.last().is_none_or(|last| last.number != number) {
            needs.push(Needs { number, rows: Vec::new(), waiting: Vec::new() });
        }
        let Some(last) = needs.last_mut() else { continue };
        match last.waiting.last_mut() {
            Some(waiting) if last.rows.last() == Some(&row) => waiting.end = at + 1,
            _ => {
                last.rows.push(row);
                last.waiting.push(at..at + 1);
            }
        }
    }
    Plan { needs, slots }
}

/// Runs of consecutive batches to be read together: as many as hold `min_cells`, so that small
/// batches share reads, and at least one.
#[must_use]
pub fn windows(batches: &[Range<usize>], min_cells: usize) -> Vec<Range<usize>> {
    let mut windows = Vec::new();
    let mut start = 0;
    while start < batches.len() {
        let (mut stop, mut cells) = (start, 0);
        while stop < batches.len() && (stop == start || cells + batches[stop].len() <= min_cells) {
            cells += batches[stop].len();
            stop += 1;
        }
        windows.push(start..stop);
        start = stop;
    }
    windows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_slot_finds_its_cell(keys in prop::collection::vec((0u64..4, 0u64..20), 0..200)) {
            let keys: Vec<u64> = keys.into_iter().map(|(number, row)| number << 32 | row).collect();
            let plan = plan(&keys);
            for need in &plan.needs {
                prop_assert!(need.rows.windows(2).all(|pair| pair[0] < pair[1]));
            }
            prop_assert!(plan.needs.windows(2).all(|pair| pair[0].number < pair[1].number));
            let mut found = vec![u64::MAX; keys.len()];
            for need in &plan.needs {
                prop_assert_eq!(need.rows.len(), need.waiting.len());
                for (&row, waiting) in need.rows.iter().zip(&need.waiting) {
                    for &slot in &plan.slots[waiting.clone()] {
                        found[slot] = u64::from(need.number) << 32 | u64::from(row);
                    }
                }
            }
            prop_assert_eq!(found, keys);
        }

        #[test]
        fn windows_cover_the_batches(n in 0usize..300, size in 1usize..40, min_cells in 0usize..100) {
            let batches = crate::sampling::batches(n, size, false);
            let windows = windows(&batches, min_cells);
            prop_assert_eq!(windows.iter().cloned().flatten().collect::<Vec<_>>(), (0..batches.len()).collect::<Vec<_>>());
            prop_assert!(windows.iter().all(|w| !w.is_empty()));
        }
    }
}
