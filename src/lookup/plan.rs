//! By which road a dataset's cells are looked up, and in which pieces.
//!
//! Every cell's row can be decoded; the gene-major copy, where there is one, has a gene's values of all
//! cells together; totals were kept when the dataset was written.

use std::ops::Range;
use std::sync::Arc;

use super::{Asked, Lookup, Target};
use crate::error::Result;
use crate::matrix::{GeneIndex, Matrix, Totals};
use crate::store::MatrixName;

/// Where the numbers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Road {
    /// The cells' rows.
    Rows,
    /// The gene-major copy.
    GeneIndex,
    /// The totals that were kept.
    Totals,
    /// Nowhere: the dataset has none of the genes.
    Nowhere,
}

impl Road {
    /// Its name, for log lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::GeneIndex => "gene index",
            Self::Totals => "totals",
            Self::Nowhere => "no such gene",
        }
    }
}

/// A piece of work; `rows` are places among the rows wanted.
pub(super) enum Job {
    Rows { matrix: Arc<Matrix>, rows: Range<usize> },
    Totals { totals: Arc<Totals>, rows: Range<usize> },
    Gene { index: Arc<GeneIndex>, gene: u32, output: u32, values: Range<u64>, totals: Option<Arc<Totals>> },
}

/// Cells of a piece that is read row by row, and of one for which many rows are decoded together.
const PIECE: usize = 256;
const WIDE_PIECE: usize = 8192;
/// Values of a gene that are decoded in one piece: few, so that memory is used again and threads share them.
const GENE_PIECE: u64 = 32 << 10;

/// What reading costs, in nanoseconds, on the machine where it was measured: their ratios matter.
const ROW: f64 = 1200.0;
const ROW_VALUE: f64 = 2.0;
const GENE: f64 = 20_000.0;
const GENE_VALUE: f64 = 4.0;

/// Whether the genes' own values are cheaper to go through than the cells' rows.
///
/// `rows` cells of `row_values` values each; `genes` columns with `gene_values` values in all.
pub(super) fn index_pays(rows: u64, row_values: f64, genes: u64, gene_values: u64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let by_rows = rows as f64 * (ROW + row_values * ROW_VALUE);
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let by_genes = genes as f64 * GENE + gene_values as f64 * GENE_VALUE;
    by_genes < by_rows
}

/// The road to a dataset's numbers, and the pieces of the work.
pub(super) fn jobs(lookup: &Lookup, target: &Target<'_>) -> Result<(Road, Vec<Job>)> {
    let entry = lookup.source.store().dataset_numbered(target.number)?;
    let n_rows = target.rows.len();
    match &*target.asked {
        Asked::Columns(columns) => {
            let wanted: Vec<(u32, u32)> =
                (0..).zip(columns).filter_map(|(output, column)| Some((output, (*column)?))).collect();
            if wanted.is_empty() {
                return Ok((Road::Nowhere, Vec::new()));
            }
            let index = if lookup.matrix == MatrixName::X { lookup.source.gene_index(entry)? } else { None };
            if let Some(index) = index
                && let Some(jobs) = by_genes(lookup, target, &index, &wanted)?
            {
                return Ok((Road::GeneIndex, jobs));
            }
        }
        Asked::Sums(_) if lookup.width == 2 => {
            if let Some(totals) = lookup.source.totals(entry, &lookup.matrix)? {
                let pieces = pieces(n_rows, 64 * WIDE_PIECE);
                return Ok((Road::Totals, pieces.map(|rows| Job::Totals { totals: totals.clone(), rows }).collect()));
            }
        }
        Asked::Sums(_) | Asked::Refused(_) => {}
    }
    let matrix = lookup.source.matrix(entry, &lookup.matrix)?;
    let piece = if matrix.reads_rows() { PIECE } else { WIDE_PIECE };
    let jobs = pieces(n_rows, piece).map(|rows| Job::Rows { matrix: matrix.clone(), rows }).collect();
    Ok((Road::Rows, jobs))
}

/// The pieces of the genes' values, if that pays.
fn by_genes(
    lookup: &Lookup,
    target: &Target<'_>,
    index: &Arc<GeneIndex>,
    wanted: &[(u32, u32)],
) -> Result<Option<Vec<Job>>> {
    let entry = lookup.source.store().dataset_numbered(target.number)?;
    let (Some(&first), Some(&last)) = (target.rows.first(), target.rows.last()) else { return Ok(Some(Vec::new())) };
    let all: u64 = wanted.iter().map(|&(_, gene)| index.nnz(gene)).sum();
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let (mean, share) = (
        index.total_nnz() as f64 / entry.n_obs.max(1) as f64,
        (f64::from(last - first) + 1.0) / entry.n_obs.max(1) as f64,
    );
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an estimate"
    )]
    let within = (all as f64 * share) as u64;
    if !index_pays(target.rows.len() as u64, mean, wanted.len() as u64, within) {
        return Ok(None);
    }
    let mut totals = None;
    if lookup.normalize.is_some_and(|normalize| normalize.target_sum.is_some()) {
        // A sum of floats depends on its order, so that the rows' own would not be quite the same.
        totals = if index.dtype().is_float() { None } else { lookup.source.totals(entry, &lookup.matrix)? };
        if totals.is_none() {
            return Ok(None);
        }
    }
    let mut jobs = Vec::new();
    for &(output, gene) in wanted {
        let values = if share < 0.5 {
            index.between(gene, first, last).map_err(|e| e.at(entry.place()))?
        } else {
            0..index.nnz(gene)
        };
        let mut start = values.start;
        while start < values.end {
            let stop = values.end.min(start + GENE_PIECE);
            jobs.push(Job::Gene { index: index.clone(), gene, output, values: start..stop, totals: totals.clone() });
            start = stop;
        }
    }
    Ok(Some(jobs))
}

fn pieces(n: usize, piece: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(piece).map(move |start| start..(start + piece).min(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_cells_are_read_by_rows_and_many_by_genes() {
        assert!(!index_pays(10, 1400.0, 1, 60_000));
        assert!(index_pays(200_000, 1400.0, 1, 200_000));
        assert!(index_pays(200_000, 1400.0, 100, 2_000_000));
        assert!(!index_pays(200_000, 1400.0, 20_000, 280_000_000));
    }
}
