//! Numbers about cells in any order, with repeats: values of a few genes, or sums over genes.
//!
//! `plan` says which cells are looked up by which road, `rows` and `genes` go there, and this puts what
//! they find where it belongs. Knows no frames and no gene names: what is asked of a dataset is told
//! by its column numbers.

mod genes;
mod plan;
mod rows;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::{DaoError, Result};
use crate::number::{Dtype, Num, Values, for_dtype, zeros};
use crate::read::{Normalize, OpenStore, RowPlan, schedule};
use crate::store::MatrixName;
pub use plan::Road;
use plan::{Job, jobs};

/// What is asked of a dataset's cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The values of these columns, one for each output; `None` where the dataset has no such gene.
    Columns(Vec<Option<u32>>),
    /// The sum over all columns, the number of those that are not zero, and the sum over each of some
    /// sets: bit `i` of a column's number says whether it is in the `i`-th.
    Sums(Vec<u64>),
    /// Nothing can be asked of it; why.
    Refused(String),
}

/// What to look up; see the module.
pub struct Lookup {
    source: Arc<OpenStore>,
    matrix: MatrixName,
    dtype: Dtype,
    normalize: Option<Normalize>,
    /// Numbers for each cell.
    width: usize,
    /// By dataset number.
    asked: HashMap<u32, Arc<Asked>>,
}

/// What was found.
pub struct Found {
    /// `width` vectors with a number for each key; or one with `width` numbers for each key.
    pub values: Vec<Values>,
    /// By dataset number, of those that lack some, which outputs it has no gene for; their numbers are zeros.
    pub absent: BTreeMap<u32, Vec<bool>>,
    /// How many datasets were read by each road.
    pub roads: BTreeMap<Road, usize>,
}

/// A number found: which of the rows wanted, which output, and the number.
pub(super) struct Hit<T> {
    row: u32,
    output: u32,
    value: T,
}

/// A dataset, what is asked of it, and which of its rows are wanted.
pub(super) struct Target<'a> {
    number: u32,
    rows: &'a [u32],
    asked: Arc<Asked>,
}

impl Lookup {
    /// A lookup of `width` numbers in the matrix `matrix` of the store's datasets.
    #[must_use]
    pub fn new(
        source: Arc<OpenStore>,
        matrix: MatrixName,
        dtype: Dtype,
        normalize: Option<Normalize>,
        width: usize,
    ) -> Self {
        Self { source, matrix, dtype, normalize, width, asked: HashMap::new() }
    }

    /// The number type of what is found.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Numbers for each cell.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Says what is asked of some datasets.
    ///
    /// # Errors
    /// `Value` for another number of columns or outputs than there are.
    pub fn describe(&mut self, numbers: &[u32], asked: Asked) -> Result<()> {
        let asked = Arc::new(asked);
        for &number in numbers {
            let entry = self.source.store().dataset_numbered(number)?;
            let fits = match &*asked {
                Asked::Columns(columns) => {
                    columns.len() == self.width
                        && columns.iter().flatten().all(|&column| u64::from(column) < entry.n_vars)
                }
                Asked::Sums(sets) => sets.len() as u64 == entry.n_vars && (2..=66).contains(&self.width),
                Asked::Refused(_) => true,
            };
            if !fits {
                return Err(DaoError::value("what is asked of a dataset does not fit its genes").at(entry.place()));
            }
            self.asked.insert(number, asked.clone());
        }
        Ok(())
    }

    /// What is asked of a dataset of which rows up to `last` are wanted.
    fn asked(&self, number: u32, last: u32) -> Result<Arc<Asked>> {
        const CHANGED: &str = "the store has changed since the keys were made, or the query; make it again";
        let entry = self.source.store().dataset_numbered(number)?;
        if u64::from(last) >= entry.n_obs {
            let what = format!("a cell key names row {last} and the dataset has {} cells", entry.n_obs);
            return Err(DaoError::value(what).at(entry.place()).hint(CHANGED));
        }
        match self.asked.get(&number) {
            Some(asked) => match &**asked {
                Asked::Refused(why) => Err(DaoError::value(why.clone())),
                _ => Ok(asked.clone()),
            },
            None => Err(DaoError::value("a dataset that was not there when the query was made")
                .at(entry.place())
                .hint(CHANGED)),
        }
    }

    /// Looks up the cells `keys`; `together` wants all numbers of a cell in one vector.
    ///
    /// # Errors
    /// `Value` for keys that are no cells of the store or of datasets that nothing can be asked of, and as [`crate::matrix::Matrix::read`], with
    /// the dataset named.
    pub fn read(&self, keys: &[u64], together: bool, threads: Option<usize>) -> Result<Found> {
        for_dtype!(self.dtype, T => self.read_as::<T>(keys, together, threads))
    }

    fn read_as<T: Num>(&self, keys: &[u64], together: bool, threads: Option<usize>) -> Result<Found> {
        let plan = RowPlan::new(keys);
        let mut targets = Vec::with_capacity(plan.datasets.len());
        for dataset in &plan.datasets {
            let asked = self.asked(dataset.number, dataset.rows.last().copied().unwrap_or(0))?;
            targets.push(Target { number: dataset.number, rows: &dataset.rows, asked });
        }
        let (mut all, mut roads) = (Vec::new(), BTreeMap::new());
        for (i, target) in targets.iter().enumerate() {
            let (road, jobs) = jobs(self, target)?;
            *roads.entry(road).or_insert(0) += 1;
            all.extend(jobs.into_iter().map(|job| (i, job)));
        }
        let n = keys.len();
        let (vectors, length) = if together { (1, n.checked_mul(self.width)) } else { (self.width, Some(n)) };
        let values: Option<Vec<Vec<T>>> = (0..vectors).map(|_| zeros(length?)).collect();
        let mut values = values.ok_or_else(|| {
            DaoError::value(format!("{} numbers of {n} cells do not fit into memory", self.width))
                .hint("take fewer genes at a time, or .dao.iter_batches")
        })?;
        schedule::in_order(
            all.len(),
            schedule::threads(threads),
            |i| {
                let (target, job) = &all[i];
                let hits = self.run::<T>(&targets[*target], job);
                Ok((*target, hits.map_err(|e| self.in_dataset(targets[*target].number, e))?))
            },
            |(target, hits): (usize, Vec<Hit<T>>)| {
                let ranges = &plan.datasets[target].slot_ranges;
                for Hit { row, output, value } in hits {
                    for &slot in &plan.slots[ranges[row as usize].clone()] {
                        match together {
                            true => values[0][slot * self.width + output as usize] = value,
                            false => values[output as usize][slot] = value,
                        }
                    }
                }
                Ok(())
            },
            || Ok(()),
        )?;
        let absent = targets.iter().filter_map(|target| {
            let absent: Vec<bool> = match &*target.asked {
                Asked::Columns(columns) => columns.iter().map(Option::is_none).collect(),
                Asked::Sums(sets) => {
                    // A set that no gene is in has no sum; all genes and their number always are something.
                    let members = sets.iter().fold(0, |all, set| all | set);
                    (0..self.width).map(|output| output >= 2 && members >> (output - 2) & 1 == 0).collect()
                }
                Asked::Refused(_) => return None,
            };
            absent.contains(&true).then_some((target.number, absent))
        });
        Ok(Found { absent: absent.collect(), values: values.into_iter().map(T::wrap).collect(), roads })
    }

    fn run<T: Num>(&self, target: &Target<'_>, job: &Job) -> Result<Vec<Hit<T>>> {
        match job {
            Job::Rows { matrix, rows } => rows::look_up(self, target, matrix, rows.clone()),
            Job::Totals { totals, rows } => Ok(rows::totals(target, totals, rows.clone())),
            Job::Gene { index, gene, output, values, totals } => {
                genes::look_up(self, target, index, (*gene, *output), values.clone(), totals.as_deref())
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
