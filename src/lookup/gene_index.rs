//! Numbers from the gene-major copy of a matrix.

use std::ops::Range;
use std::sync::Arc;

use super::{Entry, PartLookup};
use crate::error::{DaoError, Result};
use crate::genes::sum_exactly;
use crate::matrix::{GeneIndex, Totals};
use crate::number::{Num, cast_vec, for_dtype, is_always_exact};

/// The values of one output that one thread looks up.
pub struct GeneTask {
    pub index: Arc<GeneIndex>,
    /// Part of the values of the output's gene, or of several genes whose sum it is.
    pub genes: Vec<(u32, Range<u64>)>,
    pub output: u32,
    /// The cells' totals, where values are brought to one.
    pub totals: Option<Arc<Totals>>,
}

/// The entries that a task finds.
pub fn look_up<T: Num>(target: &PartLookup<'_>, task: &GeneTask) -> Result<Vec<Entry<T>>> {
    let GeneTask { index, genes, .. } = task;
    if let [(gene, values)] = &genes[..] {
        if is_always_exact(index.dtype(), T::DTYPE) {
            let (cells, values) = index.read::<T>(*gene, values.clone())?;
            return found(target, task, &cells, |at| Ok(values[at]));
        }
        // Only wanted values are cast: those of other cells may not fit into `T`.
        return for_dtype!(index.dtype(), S => {
            let (cells, values) = index.read::<S>(*gene, values.clone())?;
            found(target, task, &cells, |at| Ok(cast_vec::<S, T>(&values[at..=at])?[0]))
        });
    }
    for_dtype!(index.dtype(), S => {
        let mut all: Vec<(i32, S)> = Vec::new();
        for (gene, values) in genes {
            let (cells, values) = index.read::<S>(*gene, values.clone())?;
            all.extend(cells.into_iter().zip(values));
        }
        all.sort_by_key(|&(cell, _)| cell);
        let parts: Vec<&[(i32, S)]> = all.chunk_by(|a, b| a.0 == b.0).collect();
        let cells: Vec<i32> = parts.iter().map(|parts| parts[0].0).collect();
        let value = |at: usize| {
            // Each is cast and then added in the order of the genes, so that the sum is to the last digit the row's.
            let values: Vec<S> = parts[at].iter().map(|&(_, value)| value).collect();
            sum_exactly::<T>(cast_vec(&values)?.into_iter(), index.dtype())
        };
        found(target, task, &cells, value)
    })
}

/// The entries of those wanted rows that are among `cells` (ascending), each with the cell's value.
fn found<T: Num>(
    target: &PartLookup<'_>,
    task: &GeneTask,
    cells: &[i32],
    value: impl Fn(usize) -> Result<T>,
) -> Result<Vec<Entry<T>>> {
    let mut entries = Vec::with_capacity(cells.len().min(target.rows.len()));
    intersect_sorted(target.rows, cells, |row, at| {
        let mut value = value(at)?;
        if let Some(normalize) = target.lookup.normalize {
            let total = task.totals.as_ref().map_or(0.0, |totals| totals.cell(target.rows[row]).0);
            value = normalize.value(value, normalize.factor(total));
        }
        // Rows are numbered with 32 bits.
        let row = u32::try_from(row).map_err(|_| DaoError::value("more than 2^32 - 1 cells"))?;
        entries.push(Entry { row, output: task.output, value });
        Ok(())
    })?;
    Ok(entries)
}

/// Calls `both` with the positions in `rows` and in `cells` of each number that both (ascending) contain.
fn intersect_sorted(rows: &[u32], cells: &[i32], mut both: impl FnMut(usize, usize) -> Result<()>) -> Result<()> {
    let (Some(&first), Some(&last)) = (rows.first(), rows.last()) else { return Ok(()) };
    let number = |cell: i32| u32::try_from(cell).unwrap_or(u32::MAX); // not negative: they were checked
    if (last - first) as usize + 1 == rows.len() {
        // The rows have no gaps, so a row's position follows from its number.
        let start = cells.partition_point(|&cell| number(cell) < first);
        for (at, &cell) in cells.iter().enumerate().skip(start) {
            if number(cell) > last {
                break;
            }
            both((number(cell) - first) as usize, at)?;
        }
        return Ok(());
    }
    let (Some(&low), Some(&high)) = (cells.first(), cells.last()) else { return Ok(()) };
    let rows_from = rows.partition_point(|&row| row < number(low));
    let rows_to = rows.partition_point(|&row| row <= number(high));
    let mut at = 0;
    for (row, &wanted) in rows.iter().enumerate().take(rows_to).skip(rows_from) {
        // Steps that double, then a search within the last: few steps for near neighbours, few for far ones.
        let mut step = 1;
        while cells.get(at + step).is_some_and(|&cell| number(cell) < wanted) {
            step *= 2;
        }
        let stop = cells.len().min(at + step + 1);
        at += cells[at..stop].partition_point(|&cell| number(cell) < wanted);
        if cells.get(at).is_some_and(|&cell| number(cell) == wanted) {
            both(row, at)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_in_both_is_found(rows in prop::collection::btree_set(0_u32..300, 0..200), cells in prop::collection::btree_set(0_i32..300, 0..200), run: bool) {
            let rows: Vec<u32> = if run { (40..40 + u32::try_from(rows.len()).unwrap()).collect() } else { rows.into_iter().collect() };
            let cells: Vec<i32> = cells.into_iter().collect();
            let mut found = Vec::new();
            intersect_sorted(&rows, &cells, |row, at| { found.push((row, at)); Ok(()) }).unwrap();
            prop_assert!(found.iter().all(|&(row, at)| i64::from(rows[row]) == i64::from(cells[at])));
            let expected: BTreeSet<u32> = rows.iter().copied().filter(|&row| cells.contains(&i32::try_from(row).unwrap())).collect();
            prop_assert_eq!(found.iter().map(|&(row, _)| rows[row]).collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
        }
    }
}
