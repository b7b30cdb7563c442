//! The choice of where a part's numbers are read from, and the tasks that this is cut into.
//!
//! Every cell's row can be decoded; the gene-major copy, where there is one, has a gene's values of all
//! cells together; totals were kept when the part was written.

use std::ops::Range;
use std::sync::Arc;

use super::gene_index::GeneTask;
use super::{Entry, PartLookup, WantedNumbers, gene_index, rows};
use crate::error::Result;
use crate::genes::{Columns, Mapping};
use crate::matrix::{GeneIndex, Matrix, Totals};
use crate::number::Num;
use crate::store::MatrixName;

/// A task for one thread; ranges are positions among the wanted rows.
pub(super) enum Task {
    /// Genes, by the map from the matrix's columns to them, or sums.
    Rows(Arc<Matrix>, Option<Arc<Columns>>, Range<usize>),
    Totals(Arc<Totals>, Range<usize>),
    Genes(GeneTask),
}

impl Task {
    /// The entries that the task finds.
    pub fn run<T: Num>(&self, target: &PartLookup<'_>) -> Result<Vec<Entry<T>>> {
        match self {
            Self::Rows(matrix, columns, rows) => rows::look_up(target, matrix, columns.as_deref(), rows.clone()),
            Self::Totals(totals, rows) => Ok(rows::totals(target, totals, rows.clone())),
            Self::Genes(task) => gene_index::look_up(target, task),
        }
    }
}

/// The cells of a task: where rows are decoded one by one, and where many are decoded together.
const PIECE: usize = 256;
const WIDE_PIECE: usize = 8192;
/// The values of a gene that one task decodes: few, so that memory is used again and threads share a gene.
const GENE_PIECE: usize = 32 << 10;

/// The costs of reading, in nanoseconds on the machine where they were measured; only their ratios matter.
const ROW: f64 = 1200.0;
const ROW_VALUE: f64 = 2.0;
const GENE: f64 = 20_000.0;
const GENE_VALUE: f64 = 4.0;

/// Whether decoding all values of the genes is cheaper than decoding the rows of the cells.
///
/// `rows` cells of `row_values` values each; `genes` columns with `gene_values` values in all.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn index_pays(rows: usize, row_values: f64, genes: usize, gene_values: f64) -> bool {
    genes as f64 * GENE + gene_values * GENE_VALUE < rows as f64 * (ROW + row_values * ROW_VALUE)
}

/// The name of the strategy for a part, as log lines have it, and the tasks that it consists of.
pub(super) fn tasks(target: &PartLookup<'_>) -> Result<(&'static str, Vec<Task>)> {
    let (source, name) = (&target.lookup.source, &target.lookup.matrix);
    let mut columns = None;
    match target.wanted {
        WantedNumbers::Genes(mapping) if mapping.pairs().is_empty() => return Ok(("no such gene", Vec::new())),
        WantedNumbers::Genes(mapping) => {
            if *name == MatrixName::X
                && let Some(index) = source.gene_index(target.part)?
                && let Some(tasks) = by_genes(target, &index, mapping)?
            {
                return Ok(("gene index", tasks));
            }
            columns = Some(Arc::new(mapping.columns()));
        }
        WantedNumbers::Sums(_) if target.lookup.width == 2 => {
            if let Some(totals) = source.totals(target.part, name)? {
                let pieces = pieces(target.rows.len(), 64 * WIDE_PIECE);
                return Ok(("totals", pieces.map(|rows| Task::Totals(totals.clone(), rows)).collect()));
            }
        }
        WantedNumbers::Sums(_) => {}
    }
    let matrix = source.matrix(target.part, name)?;
    let piece = if matrix.reads_rows() { PIECE } else { WIDE_PIECE };
    let tasks = pieces(target.rows.len(), piece).map(|rows| Task::Rows(matrix.clone(), columns.clone(), rows));
    Ok(("rows", tasks.collect()))
}

/// The tasks that read the genes from the gene-major copy, where that is cheaper than the rows.
fn by_genes(target: &PartLookup<'_>, index: &Arc<GeneIndex>, mapping: &Mapping) -> Result<Option<Vec<Task>>> {
    let (lookup, part) = (target.lookup, target.part);
    let (Some(&first), Some(&last)) = (target.rows.first(), target.rows.last()) else { return Ok(Some(Vec::new())) };
    let pairs = mapping.pairs();
    let nnz = pairs.iter().map(|&(gene, _)| index.nnz(gene)).collect::<Result<Vec<_>>>()?;
    let all: u64 = nnz.iter().sum();
    let n_obs = f64::from(u32::try_from(part.n_obs.max(1)).unwrap_or(u32::MAX)); // cells are numbered with 32 bits
    let share = (f64::from(last - first) + 1.0) / n_obs;
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let (row_values, gene_values) = (index.total_nnz() as f64 / n_obs, all as f64 * share);
    if !index_pays(target.rows.len(), row_values, pairs.len(), gene_values) {
        return Ok(None);
    }
    let mut totals = None;
    if lookup.normalize.is_some_and(|normalize| normalize.target_sum.is_some()) {
        // A sum of floats depends on the order of adding: the kept total may differ a little from the row's own.
        totals = if index.dtype().is_float() { None } else { lookup.source.totals(part, &lookup.matrix)? };
        if totals.is_none() {
            return Ok(None);
        }
    }
    let mut tasks = Vec::new();
    let mut push = |genes, output| {
        tasks.push(Task::Genes(GeneTask { index: index.clone(), genes, output, totals: totals.clone() }));
    };
    let mut by_output = pairs.to_vec();
    by_output.sort_by_key(|&(_, output)| output);
    for pairs in by_output.chunk_by(|a, b| a.1 == b.1) {
        let within = |&(gene, _): &(u32, u32)| -> Result<(u32, Range<u64>)> {
            Ok((gene, if share < 0.5 { index.between(gene, first, last)? } else { 0..index.nnz(gene)? }))
        };
        let genes: Vec<_> = pairs.iter().map(within).collect::<Result<_>>().map_err(|e| e.at(part.place()))?;
        match &genes[..] {
            [(gene, values)] => {
                for start in values.clone().step_by(GENE_PIECE) {
                    push(vec![(*gene, start..values.end.min(start + GENE_PIECE as u64))], pairs[0].1);
                }
            }
            // The genes of a sum have values of the same cells, which must meet in one task: not cut.
            _ => push(genes, pairs[0].1),
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
        assert!(!index_pays(10, 1400.0, 1, 60_000.0));
        assert!(index_pays(200_000, 1400.0, 1, 200_000.0));
        assert!(index_pays(200_000, 1400.0, 100, 2_000_000.0));
        assert!(!index_pays(200_000, 1400.0, 20_000, 280_000_000.0));
    }
}
