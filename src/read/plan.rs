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

/// Consecutive batches that are read together, and in which pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Which batches.
    pub batches: Range<usize>,
    /// Their places in the epoch's order.
    pub places: Range<usize>,
    /// Cells of a piece, but the last: all of several batches, or part of one.
    pub piece: usize,
}

impl Window {
    /// How many pieces.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.places.len().div_ceil(self.piece)
    }
}

/// Windows over consecutive batches: several as long as they have at most `together` cells, so that small
/// batches share reads; and one batch in pieces of at most `piece` cells, about equal.
#[must_use]
pub fn windows(batches: &[Range<usize>], together: usize, piece: usize) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut start = 0;
    while start < batches.len() {
        let (mut stop, mut cells) = (start, 0);
        while stop < batches.len() && (stop == start || cells + batches[stop].len() <= together) {
            cells += batches[stop].len();
            stop += 1;
        }
        let piece = if stop - start > 1 { cells } else { cells.div_ceil(cells.div_ceil(piece).max(1)) };
        let places = batches[start].start..batches[start].start + cells;
        windows.push(Window { batches: start..stop, places, piece: piece.max(1) });
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
        fn windows_cover_the_batches(n in 0usize..300, size in 1usize..40, together in 0usize..100, piece in 1usize..50) {
            let batches = crate::sampling::batches(n, size, false);
            let windows = windows(&batches, together, piece);
            let all = |places: fn(&Window) -> Range<usize>| windows.iter().flat_map(places).collect::<Vec<_>>();
            prop_assert_eq!(all(|w| w.batches.clone()), (0..batches.len()).collect::<Vec<_>>());
            prop_assert_eq!(all(|w| w.places.clone()), (0..n).collect::<Vec<_>>());
            for window in windows {
                prop_assert!(window.pieces() >= 1 && (window.pieces() - 1) * window.piece < window.places.len());
                match window.batches.len() {
                    1 => prop_assert!(window.piece <= piece),
                    _ => prop_assert!(window.pieces() == 1 && window.places.len() <= together),
                }
            }
        }
    }
}
