//! The gene-major copy of a matrix: all cells' values of one gene together.
//!
//! anndata's `csc_matrix` encoding (<https://anndata.readthedocs.io/en/stable/fileformat-prose.html>), so
//! that a gene is what a row is of a [`super::csr`].

use std::ops::Range;
use std::sync::Arc;

use super::csr::Csr;
use crate::error::Result;
use crate::number::{Dtype, Num};
use crate::storage::Storage;

/// A gene-major copy of a matrix, opened. Reading fails as that of a [`super::Matrix`] does.
pub struct GeneIndex(Csr);

/// The number of values that are decoded whole when a cell is searched for.
const STEP: u64 = 512;

impl GeneIndex {
    /// Opens the copy at `path` of a matrix of `shape` (cells × genes).
    pub fn open(storage: &Arc<dyn Storage>, path: &str, shape: [u64; 2]) -> Result<Self> {
        super::check_encoding(storage, path, "csc_matrix", shape)?;
        Ok(Self(Csr::open(storage, path, [shape[1], shape[0]])?))
    }

    /// The number type that the values are stored in.
    pub fn dtype(&self) -> Dtype {
        self.0.dtype()
    }

    /// The number of stored values of a gene; 0 for one past the last.
    pub fn nnz(&self, gene: u32) -> Result<u64> {
        self.0.row_nnz(gene)
    }

    /// The number of stored values of all genes.
    pub fn total_nnz(&self) -> u64 {
        self.0.nnz()
    }

    /// The gene's values of this range, counted from its first: the cells' rows, ascending, and the values.
    pub fn read<T: Num>(&self, gene: u32, values: Range<u64>) -> Result<(Vec<i32>, Vec<T>)> {
        self.0.part(gene, values)
    }

    /// The range of a gene's values that are those of the cells `first` to `last`.
    pub fn between(&self, gene: u32, first: u32, last: u32) -> Result<Range<u64>> {
        let start = self.below(gene, u64::from(first))?;
        let stop = self.below(gene, u64::from(last) + 1)?;
        Ok(start..stop.max(start))
    }

    /// The number of a gene's values that are of cells below `cell`.
    fn below(&self, gene: u32, cell: u64) -> Result<u64> {
        let is_below = |&found: &i32| u64::try_from(found).is_ok_and(|found| found < cell);
        let (mut low, mut high) = (0, self.nnz(gene)?);
        while high - low > STEP {
            let middle = low + (high - low) / 2;
            if self.0.columns(gene, middle..middle + 1)?.iter().all(is_below) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low + self.0.columns(gene, low..high)?.partition_point(is_below) as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;
    use crate::matrix::testing::{SparseRows, assert_says, storage, write_sparse};

    fn written(encoding: &str, n_cells: u64, genes: &SparseRows) -> (tempfile::TempDir, Result<GeneIndex>) {
        let folder = tempfile::tempdir().unwrap();
        let shape = [n_cells, genes.len() as u64];
        write_sparse(&folder.path().join("X"), encoding, shape, genes, true);
        let index = GeneIndex::open(&storage(folder.path()), "X", shape);
        (folder, index)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn cells_of_a_gene_are_found(
            cells in prop::collection::btree_map(0..5000, 1_u16.., 0..3000), a in 0_u32..5100, b in 0_u32..5100,
        ) {
            // The second gene has enough cells to be searched for without decoding them all.
            let genes: SparseRows = vec![vec![(7, 1)], cells.iter().map(|(&cell, &value)| (cell, value)).collect()];
            let (_folder, index) = written("csc_matrix", 5000, &genes);
            let index = index.unwrap();
            let (first, last) = (a.min(b), a.max(b));
            let range = index.between(1, first, last).unwrap();
            let (found, values) = index.read::<u16>(1, range).unwrap();
            let expected: Vec<(i32, u16)> = genes[1]
                .iter().copied().filter(|&(cell, _)| (first..=last).contains(&cell.cast_unsigned())).collect();
            prop_assert_eq!(found.into_iter().zip(values).collect::<Vec<_>>(), expected);
            prop_assert_eq!(index.nnz(1).unwrap(), cells.len() as u64);
            prop_assert_eq!((index.nnz(2).unwrap(), index.total_nnz()), (0, cells.len() as u64 + 1));
        }
    }

    #[test]
    fn damage_and_other_encodings_are_errors() {
        let (folder, index) = written("csr_matrix", 10, &vec![vec![(1, 1)]]);
        assert_says(&index.err().unwrap(), ErrorKind::Corrupt, folder.path(), "expected encoding-type csc_matrix");
        let (folder, index) = written("csc_matrix", 10, &vec![vec![(1, 1)], vec![(12, 1)]]);
        assert_says(&index.unwrap().read::<u16>(1, 0..1).unwrap_err(), ErrorKind::Corrupt, folder.path(), "row 1");
    }
}
