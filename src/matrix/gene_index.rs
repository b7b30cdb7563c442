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

/// See the module.
pub struct GeneIndex(Csr);

/// Values within which a cell is looked for by decoding them all.
const STEP: u64 = 512;

impl GeneIndex {
    /// Opens the copy at `path` of a matrix of `shape` (cells × genes).
    ///
    /// # Errors
    /// As [`super::Matrix::open`].
    pub fn open(storage: &Arc<dyn Storage>, path: &str, shape: [u64; 2]) -> Result<Self> {
        super::check_encoding(storage, path, "csc_matrix", shape)?;
        Ok(Self(Csr::open(storage, path, [shape[1], shape[0]])?))
    }

    /// The stored type.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.0.dtype()
    }

    /// Stored values of a gene; 0 for one past the last.
    #[must_use]
    pub fn nnz(&self, gene: u32) -> u64 {
        self.0.row_nnz(gene)
    }

    /// Stored values of all genes.
    #[must_use]
    pub fn total_nnz(&self) -> u64 {
        self.0.nnz()
    }

    /// Some of a gene's values, counted from its first: the cells' rows, ascending, and the values.
    ///
    /// # Errors
    /// As [`super::Matrix::read`].
    pub fn read<T: Num>(&self, gene: u32, values: Range<u64>) -> Result<(Vec<i32>, Vec<T>)> {
        self.0.part(gene, values)
    }

    /// Which of a gene's values are those of the cells `first` to `last`.
    ///
    /// # Errors
    /// As [`super::Matrix::read`].
    pub fn between(&self, gene: u32, first: u32, last: u32) -> Result<Range<u64>> {
        let start = self.below(gene, u64::from(first))?;
        let stop = self.below(gene, u64::from(last) + 1)?;
        Ok(start..stop.max(start))
    }

    /// How many of a gene's values are of cells below `cell`.
    fn below(&self, gene: u32, cell: u64) -> Result<u64> {
        let is_below = |&found: &i32| u64::try_from(found).is_ok_and(|found| found < cell);
        let (mut low, mut high) = (0, self.nnz(gene));
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

    /// Reads everything once and tells the first thing that is wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub fn verify(&self) -> Result<()> {
        super::for_dtype!(self.dtype(), T => {
            for gene in 0..u32::try_from(self.0.shape()[0]).unwrap_or(u32::MAX) {
                self.read::<T>(gene, 0..self.nnz(gene))?;
            }
            Ok(())
        })
    }
}
