//! The choice of where a dataset's numbers are read from, and the tasks that this is cut into.
//!
//! Every cell's row can be decoded; the gene-major copy, where there is one, has a gene's values of all
//! cells together; totals were kept when the dataset was written.

use std::ops::Range;
use std::sync::Arc;

use super::{DatasetLookup, Lookup, WantedNumbers};
use crate::error::Result;
use crate::genes::Mapping;
use crate::matrix::{GeneIndex, Matrix, Totals};
use crate::store::MatrixName;

/// The source of a dataset's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strategy {
    /// The rows of the cells.
    Rows,
    /// The gene-major copy of the matrix.
    GeneIndex,
    /// The totals that were kept when the matrix was written.
    Totals,
    /// No source: the dataset has none of the genes.
    Nowhere,
}

impl Strategy {
    /// The name of the strategy, for log lines.
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

/// A task for one thread; `rows` are positions among the wanted rows.
pub(super) enum Task {
    Rows {
        matrix: Arc<Matrix>,
        rows: Range<usize>,
    },
    Totals {
        totals: Arc<Totals>,
        rows: Range<usize>,
    },
    /// Some values of each of an output's genes.
    Genes {
        index: Arc<GeneIndex>,
        genes: Vec<(u32, Range<u64>)>,
        output: u32,
        totals: Option<Arc<Totals>>,
    },
}

/// The cells of a task: where rows are decoded one by one, and where many are decoded together.
const PIECE: usize = 256;
const WIDE_PIECE: usize = 8192;
/// The values of a gene that one task decodes: few, so that memory is used again and threads share a gene.
const GENE_PIECE: u64 = 32 << 10;

/// The costs of reading, in nanoseconds on the machine where they were measured; only their ratios matter.
const ROW: f64 = 1200.0;
const ROW_VALUE: f64 = 2.0;
const GENE: f64 = 20_000.0;
const GENE_VALUE: f64 = 4.0;

/// Whether decoding all values of the genes is cheaper than decoding the rows of the cells.
///
/// `rows` cells of `row_values` values each; `genes` columns with `gene_values` values in all.
pub(super) fn index_pays(rows: u64, row_values: f64, genes: u64, gene_values: u64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let by_rows = rows as f64 * (ROW + row_values * ROW_VALUE);
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let by_genes = genes as f64 * GENE + gene_values as f64 * GENE_VALUE;
    by_genes < by_rows
}

/// The strategy for a dataset, and the tasks that it consists of.
pub(super) fn tasks(lookup: &Lookup, target: &DatasetLookup<'_>) -> Result<(Strategy, Vec<Task>)> {
    let entry = lookup.source.store().dataset_numbered(target.number)?;
    let n_rows = target.rows.len();
    match &*target.wanted {
        WantedNumbers::Genes(mapping) => {
            if mapping.pairs().is_empty() {
                return Ok((Strategy::Nowhere, Vec::new()));
            }
            let index = if lookup.matrix == MatrixName::X { lookup.source.gene_index(entry)? } else { None };
            if let Some(index) = index
                && let Some(tasks) = by_genes(lookup, target, &index, mapping)?
            {
                return Ok((Strategy::GeneIndex, tasks));
            }
        }
        WantedNumbers::Sums(_) if lookup.width == 2 => {
            if let Some(totals) = lookup.source.totals(entry, &lookup.matrix)? {
                let pieces = pieces(n_rows, 64 * WIDE_PIECE);
                return Ok((
                    Strategy::Totals,
                    pieces.map(|rows| Task::Totals { totals: totals.clone(), rows }).collect(),
                ));
            }
        }
        WantedNumbers::Sums(_) | WantedNumbers::Refused(_) => {}
    }
    let matrix = lookup.source.matrix(entry, &lookup.matrix)?;
    let piece = if matrix.reads_rows() { PIECE } else { WIDE_PIECE };
    let tasks = pieces(n_rows, piece).map(|rows| Task::Rows { matrix: matrix.clone(), rows }).collect();
    Ok((Strategy::Rows, tasks))
}

/// The tasks that read the genes from the gene-major copy, where that is cheaper than the rows.
fn by_genes(
    lookup: &Lookup,
    target: &DatasetLookup<'_>,
    index: &Arc<GeneIndex>,
    mapping: &Mapping,
) -> Result<Option<Vec<Task>>> {
    let entry = lookup.source.store().dataset_numbered(target.number)?;
    let (Some(&first), Some(&last)) = (target.rows.first(), target.rows.last()) else { return Ok(Some(Vec::new())) };
    let pairs = mapping.pairs();
    let all: u64 = pairs.iter().map(|&(gene, _)| index.nnz(gene)).sum();
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
    if !index_pays(target.rows.len() as u64, mean, pairs.len() as u64, within) {
        return Ok(None);
    }
    let mut totals = None;
    if lookup.normalize.is_some_and(|normalize| normalize.target_sum.is_some()) {
        // A sum of floats depends on the order of adding: the kept total may differ a little from the row's own.
        totals = if index.dtype().is_float() { None } else { lookup.source.totals(entry, &lookup.matrix)? };
        if totals.is_none() {
            return Ok(None);
        }
    }
    let mut tasks = Vec::new();
    let mut by_output = pairs.to_vec();
    by_output.sort_by_key(|&(_, output)| output);
    for genes in by_output.chunk_by(|a, b| a.1 == b.1) {
        let within = |&(gene, _): &(u32, u32)| -> Result<(u32, Range<u64>)> {
            let all = 0..index.nnz(gene);
            Ok((gene, if share < 0.5 { index.between(gene, first, last)? } else { all }))
        };
        let output = genes[0].1;
        let genes: Vec<_> = genes.iter().map(within).collect::<Result<_>>().map_err(|e| e.at(entry.place()))?;
        let mut push = |genes| {
            tasks.push(Task::Genes { index: index.clone(), genes, output, totals: totals.clone() });
        };
        match &genes[..] {
            [(gene, values)] => {
                let mut start = values.start;
                while start < values.end {
                    let stop = values.end.min(start + GENE_PIECE);
                    push(vec![(*gene, start..stop)]);
                    start = stop;
                }
            }
            // The genes of a sum have values of the same cells, which must meet in one task: not cut.
            _ => push(genes),
        }
    }
    Ok(Some(tasks))
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
