//! Totals of each cell, kept when its matrix was written: the sum of its values, and how many are not zero.

use std::sync::Arc;

use super::array::ZarrArray;
use super::csr::read_all;
use crate::error::{DaoError, Result};
use crate::number::Num;
use crate::storage::Storage;

/// The names of the two arrays, which are scanpy's for the same numbers.
pub const TOTALS: [&str; 2] = ["total_counts", "n_genes_by_counts"];

/// The sums and counts of all cells of one matrix.
pub struct Totals {
    sums: Vec<f64>,
    counts: Vec<u32>,
}

impl Totals {
    /// Reads the arrays below `path`, of `n_obs` cells.
    ///
    /// # Errors
    /// `NotFound`/`Corrupt` if they are missing, damaged or of another length.
    pub fn open(storage: &Arc<dyn Storage>, path: &str, n_obs: u64) -> Result<Self> {
        let [sums, counts] = TOTALS.map(|name| format!("{path}/{name}"));
        Ok(Self { sums: values(storage, &sums, n_obs)?, counts: values(storage, &counts, n_obs)? })
    }

    /// A cell's sum and count; zeros past the end.
    pub fn cell(&self, row: u32) -> (f64, u32) {
        let at = row as usize;
        (self.sums.get(at).copied().unwrap_or(0.0), self.counts.get(at).copied().unwrap_or(0))
    }
}

/// The values of the array at `path`, which has one a cell.
fn values<T: Num>(storage: &Arc<dyn Storage>, path: &str, n_obs: u64) -> Result<Vec<T>> {
    let array = ZarrArray::open(storage, path)?;
    if array.shape() != [n_obs] {
        return Err(DaoError::corrupt(array.uri(), "the array does not have one value a cell")
            .expected(n_obs)
            .found(format!("shape {:?}", array.shape())));
    }
    read_all(&array, n_obs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::matrix::testing::{assert_says, portable, sharded, storage, write_array};

    #[test]
    fn totals_come_back_and_must_be_one_a_cell() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("X");
        write_array(&path.join(TOTALS[0]), &[1.5_f64, 0.0, 7.0], &sharded::<f64>(3, 4, 2, &portable(), "end"));
        let missing = Totals::open(&storage(folder.path()), "X", 3).err().unwrap();
        assert_says(&missing, ErrorKind::NotFound, folder.path(), TOTALS[1]);
        write_array(&path.join(TOTALS[1]), &[2_u32, 0, 1], &sharded::<u32>(3, 4, 2, &portable(), "end"));
        let totals = Totals::open(&storage(folder.path()), "X", 3).unwrap();
        assert_eq!([0, 1, 2, 3].map(|row| totals.cell(row)), [(1.5, 2), (0.0, 0), (7.0, 1), (0.0, 0)]);
        let error = Totals::open(&storage(folder.path()), "X", 4).err().unwrap();
        assert_says(&error, ErrorKind::Corrupt, folder.path(), "expected 4, found shape [3]");
    }
}
