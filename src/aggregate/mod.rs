//! Statistics of each gene over groups of cells, in one pass over their rows.
//!
//! `units` cuts the cells into units, `moments` adds a unit's values up, and this module merges units in their
//! order, so that the same cells give the same numbers in every run. Memory is what groups × genes take,
//! and some tens of MB a thread.

mod moments;
mod units;

use crate::error::{DaoError, Result};
use crate::number::Dtype;
use crate::read::{ReadRequest, schedule};
use moments::GroupScratch;
pub use moments::{GroupSums, squared_deviations};

/// The group of each cell of a request, and the limits of values.
pub struct CellGrouping<'a> {
    /// The group of each key, below `n_groups`.
    pub groups: &'a [u32],
    /// The number of groups.
    pub n_groups: usize,
    /// The largest value that is added up, groups × columns; those above are counted.
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
    mut advance: impl FnMut(usize) -> Result<()>,
) -> Result<GroupSums> {
    let [matrix] = &request.matrices[..] else {
        return Err(DaoError::value("statistics are of one matrix").found(request.matrices.len()));
    };
    let (n_columns, dtype) = (matrix.form.n_columns, matrix.form.dtype);
    if !dtype.is_float() {
        return Err(DaoError::value(format!("statistics of {}", dtype.name())).expected("float32 or float64"));
    }
    let size = cells.n_groups.checked_mul(n_columns);
    let fits = cells.groups.len() == request.keys.len()
        && cells.groups.iter().all(|&group| (group as usize) < cells.n_groups)
        && size.is_some_and(|size| cells.clip.is_none_or(|clip| clip.len() == size));
    if !fits {
        return Err(DaoError::value("groups do not fit the cells"));
    }
    let at_once = (UNIT_BYTES / (n_columns.max(1) * GroupScratch::BYTES)).max(1);
    let units = units::units(&request.keys, matrix, cells.groups, at_once);
    let mut all = GroupSums::new(cells.n_groups, n_columns, cells.clip.is_some())?;
    let spare = moments::SpareScratch::default();
    schedule::in_order(
        units.len(),
        schedule::threads(threads),
        |i| {
            let sums = match dtype {
                Dtype::F32 => moments::add_up::<f32>(request, matrix, &units[i], cells.clip, &spare)?,
                _ => moments::add_up::<f64>(request, matrix, &units[i], cells.clip, &spare)?,
            };
            Ok((units[i].cells.len(), sums))
        },
        |(n_cells, sums)| {
            sums.iter().for_each(|sums| all.merge(sums));
            advance(n_cells)
        },
        || Ok(()),
    )?;
    all.finish();
    Ok(all)
}
