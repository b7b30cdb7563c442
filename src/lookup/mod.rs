//! Numbers about cells in any order, with repeats: values of a few genes, or sums over genes.
//!
//! An expression sends a [`LookupRequest`]. `stores` finds its store among those kept open, and `resolve` works out
//! which columns it means there. `strategy` chooses how each dataset's cells are looked up, `rows` and `gene_index` do
//! it, and this module puts the numbers that they find in their places. Knows no frames and no Python.

mod gene_index;
pub mod reports;
mod request;
mod resolve;
mod rows;
pub mod stores;
mod strategy;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::{DaoError, Result};
use crate::genes::Mapping;
use crate::number::{Dtype, Num, Values, for_dtype, zeros};
use crate::read::{Normalize, OpenStore, RowPlan, schedule};
use crate::store::MatrixName;
pub use request::{LookupRequest, Members, SetRule, Shape};
pub use stores::Resolved;
pub use strategy::Strategy;
use strategy::{Task, tasks};

/// The numbers that are wanted of a dataset's cells.
#[derive(Debug, PartialEq, Eq)]
enum WantedNumbers {
    /// The values of these columns.
    Genes(Mapping),
    /// The sum over all columns, the number of those that are not zero, and the sum over each of some
    /// sets: bit `i` of a column's number says whether it is in the `i`-th.
    Sums(Vec<u64>),
    /// Nothing can be read, for this reason.
    Refused(String),
}

/// A request resolved in an open store: the numbers to read, and how they are returned.
pub struct Lookup {
    source: Arc<OpenStore>,
    matrix: MatrixName,
    dtype: Dtype,
    normalize: Option<Normalize>,
    /// The number of outputs of each cell.
    width: usize,
    /// Whether all numbers of a cell lie side by side in one vector; otherwise each output has its own vector.
    together: bool,
    /// The wanted numbers of each dataset, by the dataset's number.
    wanted: HashMap<u32, Arc<WantedNumbers>>,
}

/// The numbers that a lookup found.
pub struct Found {
    /// `width` vectors with a number for each key; or one with `width` numbers for each key.
    pub values: Vec<Values>,
    /// The outputs that a dataset has no gene for, by the number of each dataset that lacks any; they are zeros.
    pub absent: BTreeMap<u32, Vec<bool>>,
    /// The number of datasets that were looked up by each strategy.
    pub strategies: BTreeMap<Strategy, usize>,
}

/// A number that was found, with the position of its row among those wanted and its output.
struct Entry<T> {
    row: u32,
    output: u32,
    value: T,
}

/// One dataset in a lookup: its number, the rows to look up, and what is wanted of them.
struct DatasetLookup<'a> {
    number: u32,
    rows: &'a [u32],
    wanted: Arc<WantedNumbers>,
}

impl Lookup {
    /// The number type of what is found.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The number of outputs of each cell.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The wanted numbers of a dataset; `last` is the largest row that is looked up, for a check.
    fn wanted(&self, number: u32, last: u32) -> Result<Arc<WantedNumbers>> {
        const CHANGED: &str = "the store has changed since the keys were made, or the query; make it again";
        let entry = self.source.store().dataset_numbered(number)?;
        if u64::from(last) >= entry.n_obs {
            let what = format!("a cell key names row {last} and the dataset has {} cells", entry.n_obs);
            return Err(DaoError::value(what).at(entry.place()).hint(CHANGED));
        }
        match self.wanted.get(&number) {
            Some(wanted) => match &**wanted {
                WantedNumbers::Refused(why) => Err(DaoError::value(why.clone())),
                _ => Ok(wanted.clone()),
            },
            None => Err(DaoError::value("a dataset that was not there when the query was made")
                .at(entry.place())
                .hint(CHANGED)),
        }
    }

    /// Looks up the cells `keys`.
    ///
    /// # Errors
    /// `Value` for keys that are no cells of the store or of datasets that nothing can be had of, and as
    /// [`crate::matrix::Matrix::read`], with the dataset named.
    pub fn read(&self, keys: &[u64], threads: Option<usize>) -> Result<Found> {
        for_dtype!(self.dtype, T => self.read_as::<T>(keys, threads))
    }

    fn read_as<T: Num>(&self, keys: &[u64], threads: Option<usize>) -> Result<Found> {
        let plan = RowPlan::new(keys);
        let mut targets = Vec::with_capacity(plan.datasets.len());
        for dataset in &plan.datasets {
            let wanted = self.wanted(dataset.number, dataset.rows.last().copied().unwrap_or(0))?;
            targets.push(DatasetLookup { number: dataset.number, rows: &dataset.rows, wanted });
        }
        let (mut all, mut strategies) = (Vec::new(), BTreeMap::new());
        for (i, target) in targets.iter().enumerate() {
            let (strategy, tasks) = tasks(self, target)?;
            *strategies.entry(strategy).or_insert(0) += 1;
            all.extend(tasks.into_iter().map(|task| (i, task)));
        }
        let n = keys.len();
        let (vectors, length) = if self.together { (1, n.checked_mul(self.width)) } else { (self.width, Some(n)) };
        let values: Option<Vec<Vec<T>>> = (0..vectors).map(|_| zeros(length?)).collect();
        let mut values = values.ok_or_else(|| {
            DaoError::value(format!("{} numbers of {n} cells do not fit into memory", self.width))
                .hint("take fewer genes at a time, or .dao.iter_batches")
        })?;
        schedule::in_order(
            all.len(),
            schedule::threads(threads),
            |i| {
                let (target, task) = &all[i];
                let entries = self.run::<T>(&targets[*target], task);
                Ok((*target, entries.map_err(|e| self.in_dataset(targets[*target].number, e))?))
            },
            |(target, entries): (usize, Vec<Entry<T>>)| {
                let ranges = &plan.datasets[target].slot_ranges;
                for Entry { row, output, value } in entries {
                    for &slot in &plan.slots[ranges[row as usize].clone()] {
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
        let absent = targets.iter().map(|target| (target.number, self.absent(&target.wanted)));
        let absent = absent.filter(|(_, absent)| absent.contains(&true)).collect();
        Ok(Found { absent, values: values.into_iter().map(T::wrap).collect(), strategies })
    }

    /// Whether a dataset lacks the gene of each output.
    fn absent(&self, wanted: &WantedNumbers) -> Vec<bool> {
        match wanted {
            WantedNumbers::Genes(mapping) => mapping.first_columns(self.width).iter().map(Option::is_none).collect(),
            WantedNumbers::Sums(sets) => {
                // A set without genes has no sum. The first two outputs, over all genes, always have a value.
                let members = sets.iter().fold(0, |all, set| all | set);
                (0..self.width).map(|output| output >= 2 && members >> (output - 2) & 1 == 0).collect()
            }
            WantedNumbers::Refused(_) => Vec::new(),
        }
    }

    fn run<T: Num>(&self, target: &DatasetLookup<'_>, task: &Task) -> Result<Vec<Entry<T>>> {
        match task {
            Task::Rows { matrix, rows } => rows::look_up(self, target, matrix, rows.clone()),
            Task::Totals { totals, rows } => Ok(rows::totals(target, totals, rows.clone())),
            Task::Genes { index, genes, output, totals } => {
                gene_index::look_up(self, target, index, (genes, *output), totals.as_deref())
            }
        }
    }

    fn in_dataset(&self, number: u32, error: DaoError) -> DaoError {
        match self.source.store().dataset_numbered(number) {
            Ok(entry) => error.at(entry.place()),
            Err(_) => error,
        }
    }
}
