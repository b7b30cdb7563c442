//! Statistics of each gene over groups of cells, in one pass over their rows.
//!
//! `units` cuts the cells into units, `moments` adds a unit's values up, and this module merges units in their
//! order, so that the same cells give the same numbers in every run. Memory is what groups × genes take,
//! and some tens of MB a thread.

mod moments;
mod units;

use std::sync::{Mutex, PoisonError};

use crate::error::{DaoError, Result};
use crate::number::{Dtype, Num};
use crate::read::schedule;
use crate::read::{MatrixRequest, ReadRequest};
pub use moments::GroupSums;
use moments::{GroupScratch, UnitSums};
use units::{Unit, units};

/// The group of each cell of a request, and the limits that values are clipped at.
pub struct CellGrouping<'a> {
    /// The group of each key, below `n_groups`.
    pub groups: &'a [u32],
    /// The number of groups.
    pub n_groups: usize,
    /// The largest value that counts, groups × columns; others count as it.
    pub clip: Option<&'a [f64]>,
}

/// The most bytes that the sums of a unit take while it is read.
const UNIT_BYTES: usize = 16 << 20;

/// Counts, sums and squared deviations of the values that are not zero, groups × columns.
///
/// `advance` is told how many cells were read since.
///
/// # Errors
/// `Value` for groups that do not fit the cells or a number type other than float; as
/// [`crate::matrix::Matrix::read`], with the dataset named; and what `advance` fails with.
pub fn moments(
    request: &ReadRequest,
    cells: &CellGrouping<'_>,
    threads: Option<usize>,
    advance: impl FnMut(usize) -> Result<()>,
) -> Result<GroupSums> {
    let [matrix] = &request.matrices[..] else {
        return Err(DaoError::value("statistics are of one matrix").found(request.matrices.len()));
    };
    match matrix.form.dtype {
        Dtype::F32 => moments_as::<f32>(request, matrix, cells, threads, advance),
        Dtype::F64 => moments_as::<f64>(request, matrix, cells, threads, advance),
        other => Err(DaoError::value(format!("statistics of {}", other.name())).expected("float32 or float64")),
    }
}

fn moments_as<T: Num>(
    request: &ReadRequest,
    matrix: &MatrixRequest,
    cells: &CellGrouping<'_>,
    threads: Option<usize>,
    mut advance: impl FnMut(usize) -> Result<()>,
) -> Result<GroupSums> {
    let n_columns = matrix.form.n_columns;
    let size = cells.n_groups.checked_mul(n_columns);
    let fits = cells.groups.len() == request.keys.len()
        && cells.groups.iter().all(|&group| (group as usize) < cells.n_groups)
        && size.is_some_and(|size| cells.clip.is_none_or(|clip| clip.len() == size));
    if !fits {
        return Err(DaoError::value("groups do not fit the cells"));
    }
    let at_once = (UNIT_BYTES / (n_columns.max(1) * GroupScratch::BYTES)).max(1);
    let units = units(&request.keys, matrix, cells.groups, at_once);
    let mut all = GroupSums::new(cells.n_groups, n_columns)?;
    // Sums that a finished unit no longer uses, for the next one.
    let spare: Mutex<Vec<GroupScratch>> = Mutex::default();
    schedule::in_order(
        units.len(),
        schedule::threads(threads),
        |i| -> Result<(usize, Vec<UnitSums>)> {
            let unit: &Unit = &units[i];
            let take = || spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let (partials, used) = moments::add_up::<T>(request, matrix, unit, cells.clip, take)?;
            spare.lock().unwrap_or_else(PoisonError::into_inner).extend(used);
            Ok((unit.n_cells(), partials))
        },
        |(n_cells, partials)| {
            for partial in partials {
                all.merge(&partial);
            }
            advance(n_cells)
        },
        || Ok(()),
    )?;
    Ok(all)
}
