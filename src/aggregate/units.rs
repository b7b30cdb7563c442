//! Cells cut into units: some rows of one part, and which groups each counts in.
//!
//! Pure: keys and groups in, units out.

use crate::read::{CellKeys, MatrixRequest, located};

/// The cells of a unit: where rows are decoded one by one, and where many are decoded together.
const CELLS: usize = 2048;
const WIDE_CELLS: usize = 8192;

/// Some rows of one part, which one thread reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The part's number.
    pub number: u32,
    /// The rows of the unit, ascending, each once.
    pub rows: Vec<u32>,
    /// The row of each cell, ascending, and the position in `groups` of its group; a cell that is there twice has two.
    pub cells: Vec<(u32, u32)>,
    /// The groups of the unit, ascending, each once.
    pub groups: Vec<u32>,
}

/// The units that together contain all cells `keys`, each of at most `at_once` groups.
///
/// Where a row is read for itself, cells of one group come together, so that what is added up stays in
/// the processor's cache; elsewhere neighbours do, so that a chunk is decoded once.
pub fn units(keys: &CellKeys, matrix: &MatrixRequest, groups: &[u32], at_once: usize) -> Vec<Unit> {
    cut(keys, groups, at_once, |number| matrix.part(number).is_ok_and(|part| part.matrix.reads_rows()))
}

fn cut(keys: &CellKeys, groups: &[u32], at_once: usize, by_group: impl Fn(u32) -> bool) -> Vec<Unit> {
    let mut order: Vec<(u32, u32, u32, u32)> = Vec::with_capacity(keys.len());
    for ((number, row, by_group), &group) in located(keys.iter(), &by_group).zip(groups) {
        order.push((number, if by_group { group } else { 0 }, row, group));
    }
    order.sort_unstable();
    let mut units = Vec::new();
    let mut start = 0;
    while start < order.len() {
        let (number, most) = (order[start].0, if by_group(order[start].0) { CELLS } else { WIDE_CELLS });
        let (mut stop, mut here) = (start, Vec::new());
        while stop < order.len() && order[stop].0 == number && stop - start < most {
            if let Err(at) = here.binary_search(&order[stop].3) {
                if here.len() == at_once.max(1) {
                    break;
                }
                here.insert(at, order[stop].3);
            }
            stop += 1;
        }
        units.push(unit(number, &order[start..stop], here));
        start = stop;
    }
    units
}

fn unit(number: u32, cells: &[(u32, u32, u32, u32)], groups: Vec<u32>) -> Unit {
    let position = |group| groups.partition_point(|&known| known < group);
    // 32 bits: fewer groups than cells.
    let cell = |&(_, _, row, group): &(_, _, u32, u32)| (row, u32::try_from(position(group)).unwrap_or(u32::MAX));
    let mut cells: Vec<(u32, u32)> = cells.iter().map(cell).collect();
    cells.sort_unstable();
    let mut rows: Vec<u32> = cells.iter().map(|&(row, _)| row).collect();
    rows.dedup();
    Unit { number, rows, cells, groups }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn units_have_each_cell_as_often_as_it_is_there(
            cells in prop::collection::vec((0_u64..3, 0_u64..30, 0_u32..9), 0..300), at_once in 1_usize..5,
        ) {
            let keys: Vec<u64> = cells.iter().map(|&(number, row, _)| number << 32 | row).collect();
            let groups: Vec<u32> = cells.iter().map(|&(_, _, group)| group).collect();
            let units = cut(&keys.into(), &groups, at_once, |number| number != 1);
            let mut found = Vec::new();
            for unit in &units {
                prop_assert!(unit.rows.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(unit.groups.len() <= at_once);
                let mut rows: Vec<u32> = unit.cells.iter().map(|cell| cell.0).collect();
                prop_assert!(rows.is_sorted());
                rows.dedup();
                prop_assert_eq!(&rows, &unit.rows);
                for &(row, position) in &unit.cells {
                    found.push((u64::from(unit.number), u64::from(row), unit.groups[position as usize]));
                }
            }
            let mut expected = cells;
            expected.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
