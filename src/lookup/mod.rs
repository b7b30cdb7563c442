//! Numbers about cells in any order, with repeats: values of a few genes, or sums over genes.
//!
//! An expression sends a [`LookupRequest`]. `stores` finds its store among those kept open, and `resolve` works out
//! which columns it means there. `strategy` chooses how each part's cells are looked up, `rows` and `gene_index` do
//! it, and this module puts the numbers that they find in their places. Knows no frames and no Python.

mod cell_stores;
mod gene_index;
pub mod reports;
mod request;
mod resolve;
mod rows;
pub mod stores;
mod strategy;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{DaoError, Result};
use crate::genes::Mapping;
use crate::number::{Dtype, Num, Values, for_dtype, zeros};
use crate::read::{Normalize, OpenStore, PartRows, RowPlan, check_rows, schedule};
use crate::store::{MatrixName, Part};
pub use cell_stores::{CellStore, CellStores};
pub use request::{LookupRequest, Shape};
use strategy::tasks;

/// The numbers that are wanted of a part's cells.
#[derive(Debug, PartialEq, Eq)]
enum WantedNumbers {
    /// The values of these columns.
    Genes(Mapping),
    /// The sum over all columns, the number of those that are not zero, and the sum over each of some
    /// sets: bit `i` of a column's number says whether it is in the `i`-th.
    Sums(Vec<u64>),
}

/// A request resolved in an open store: the numbers to read, and how they are returned.
pub struct Lookup {
    source: Arc<OpenStore>,
    matrix: MatrixName,
    /// The number type of the result, unless another is asked for.
    pub dtype: Dtype,
    normalize: Option<Normalize>,
    /// The number of outputs of each cell.
    pub width: usize,
    /// Whether all numbers of a cell lie side by side in one vector; otherwise each output has its own vector.
    together: bool,
    /// The wanted numbers of each part, by the part's number, or why nothing can be read of it.
    wanted: BTreeMap<u32, Result<Arc<WantedNumbers>>>,
}

/// The numbers that a lookup found.
pub struct Found {
    /// `width` vectors with a number for each key; or one with `width` numbers for each key.
    pub values: Vec<Values>,
    /// The outputs that a part has no gene for, by the number of each part that lacks any; they are zeros.
    pub absent: BTreeMap<u32, Vec<bool>>,
    /// The number of parts that were looked up by each strategy, by its name.
    pub strategies: BTreeMap<&'static str, usize>,
}

/// A number that was found, with the position of its row among those wanted and its output.
#[derive(Debug, PartialEq)]
struct Entry<T> {
    row: u32,
    output: u32,
    value: T,
}

/// One part in a lookup: the rows to look up (ascending, each once), and what is wanted of them.
struct PartLookup<'a> {
    lookup: &'a Lookup,
    part: &'a Part,
    rows: &'a [u32],
    wanted: &'a WantedNumbers,
}

impl Lookup {
    /// Looks up the cells `keys`, as numbers of `dtype`.
    ///
    /// # Errors
    /// `Value` for keys that are no cells of the store or of parts that nothing can be had of, and as
    /// [`crate::matrix::Matrix::read`], with the dataset named.
    pub fn read(&self, keys: &[u64], dtype: Dtype, threads: Option<usize>) -> Result<Found> {
        for_dtype!(dtype, T => self.read_as::<T>(keys, threads))
    }

    fn read_as<T: Num>(&self, keys: &[u64], threads: Option<usize>) -> Result<Found> {
        let plan = RowPlan::new(keys);
        let targets = plan.parts.iter().map(|rows| self.part(rows)).collect::<Result<Vec<_>>>()?;
        let (mut all, mut strategies) = (Vec::new(), BTreeMap::new());
        for (target, rows) in targets.iter().zip(&plan.parts) {
            let (strategy, tasks) = tasks(target)?;
            *strategies.entry(strategy).or_insert(0) += 1;
            all.extend(tasks.into_iter().map(|task| (target, &rows.slot_ranges, task)));
        }
        let n = keys.len();
        let (vectors, length) = if self.together { (1, n.checked_mul(self.width)) } else { (self.width, Some(n)) };
        let values: Option<Vec<Vec<T>>> = (0..vectors).map(|_| zeros(length?).ok()).collect();
        let mut values = values.ok_or_else(|| {
            DaoError::value(format!("{} numbers of {n} cells do not fit into memory", self.width))
                .hint("take fewer genes at a time, or .dao.iter_batches")
        })?;
        schedule::in_order(
            all.len(),
            schedule::threads(threads),
            |i| {
                let (target, slot_ranges, task) = &all[i];
                let entries = task.run(target).map_err(|e| e.at(target.part.place()))?;
                Ok((slot_ranges, entries))
            },
            |(slot_ranges, entries)| {
                for Entry { row, output, value } in entries {
                    for &slot in &plan.slots[slot_ranges[row as usize].clone()] {
                        match self.together {
                            true => values[0][slot * self.width + output as usize] = value,
                            false => values[output as usize][slot] = value,
                        }
                    }
                }
                Ok(())
            },
            || Ok(()),
        )?;
        let absent = targets.iter().map(|target| (target.part.number, self.absent(target.wanted)));
        let absent = absent.filter(|(_, absent)| absent.contains(&true)).collect();
        Ok(Found { absent, values: values.into_iter().map(T::wrap).collect(), strategies })
    }

    /// What is to be looked up of one part.
    fn part<'a>(&'a self, wanted: &'a PartRows) -> Result<PartLookup<'a>> {
        const CHANGED: &str = "the store has changed since the keys were made, or the query; make it again";
        let part = self.source.store().part_numbered(wanted.number)?;
        check_rows(&self.source, part, wanted.rows.iter().copied())?;
        let numbers = self.wanted.get(&wanted.number).ok_or_else(|| {
            DaoError::value("a dataset that was not there when the query was made").at(part.place()).hint(CHANGED)
        })?;
        let numbers = numbers.as_ref().map_err(DaoError::clone)?;
        Ok(PartLookup { lookup: self, part, rows: &wanted.rows, wanted: numbers })
    }

    /// Whether a part lacks the gene of each output.
    fn absent(&self, wanted: &WantedNumbers) -> Vec<bool> {
        match wanted {
            WantedNumbers::Genes(mapping) => mapping.first_columns(self.width).iter().map(Option::is_none).collect(),
            WantedNumbers::Sums(sets) => {
                // A set without genes has no sum. The first two outputs, over all genes, always have a value.
                let members = sets.iter().fold(0, |all, set| all | set);
                (0..self.width).map(|output| output >= 2 && members >> (output - 2) & 1 == 0).collect()
            }
        }
    }
}
