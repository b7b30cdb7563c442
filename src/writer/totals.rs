//! Each cell's sum and count, kept while its row is written: what quality control asks for first.

use std::path::PathBuf;

use super::array::{Coding, write_array};
use super::spill::Block;
use crate::error::Result;
use crate::matrix::TOTALS;
use crate::number::{Dtype, Num};

/// Totals of the rows written so far; 12 bytes a row.
pub struct RowTotals {
    folder: PathBuf,
    portable: bool,
    sums: Vec<f64>,
    counts: Vec<u32>,
}

impl RowTotals {
    /// The totals of no rows yet; they will lie in the new folder `folder`.
    pub fn new(folder: PathBuf, portable: bool) -> Self {
        Self { folder, portable, sums: Vec::new(), counts: Vec::new() }
    }

    /// Adds the next rows, without duplicates.
    pub fn push<T: Num>(&mut self, block: &Block<T>) {
        for ends in block.indptr.windows(2) {
            let values = &block.data[ends[0]..ends[1]];
            self.sums.push(values.iter().map(|&value| -> f64 { value.as_() }).sum());
            // Columns are numbered with 31 bits.
            let count = values.iter().filter(|&&value| value != T::zero()).count();
            self.counts.push(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    /// Writes the totals, for `n_rows` rows.
    ///
    /// # Errors
    /// `Io` for a full disk.
    pub fn finish(mut self, n_rows: usize) -> Result<()> {
        // Rows that a source without columns never sent.
        self.sums.resize(n_rows, 0.0);
        self.counts.resize(n_rows, 0);
        let whole = self.sums.iter().all(|&sum| sum.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&sum));
        let (sums, coding) = (if whole { Dtype::U32 } else { Dtype::F64 }, Coding::new(self.portable, false));
        write_array(&self.folder.join(TOTALS[0]), sums, coding, &self.sums)?;
        write_array(&self.folder.join(TOTALS[1]), Dtype::U32, coding, &self.counts)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::matrix::Totals;
    use crate::storage::{Local, Storage};

    /// The totals of rows, written and read back.
    fn round_trip<T: Num>(blocks: &[Block<T>], n_rows: usize, portable: bool) -> Vec<(f64, u32)> {
        let folder = tempfile::tempdir().unwrap();
        let mut totals = RowTotals::new(folder.path().join("X"), portable);
        for block in blocks {
            totals.push(block);
        }
        totals.finish(n_rows).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
        let totals = Totals::open(&storage, "X", n_rows as u64).unwrap();
        (0..u32::try_from(n_rows).unwrap()).map(|row| totals.cell(row)).collect()
    }

    #[test]
    fn rows_are_summed_and_counted_over_blocks() {
        for portable in [false, true] {
            let blocks = [
                Block { indptr: vec![0, 2, 2], indices: vec![0, 3], data: vec![200_u8, 255] },
                Block { indptr: vec![0, 3], indices: vec![0, 1, 2], data: vec![1, 0, 4] },
            ];
            // A stored zero counts as no value; the fourth row never came.
            assert_eq!(round_trip(&blocks, 4, portable), [(455.0, 2), (0.0, 0), (5.0, 2), (0.0, 0)]);
        }
    }

    #[test]
    fn sums_that_are_no_counts_stay_exact() {
        let block =
            |data: Vec<f64>| [Block { indptr: vec![0, data.len()], indices: (0..).take(data.len()).collect(), data }];
        assert_eq!(round_trip(&block(vec![0.25, 0.5]), 1, false), [(0.75, 2)]);
        assert_eq!(round_trip(&block(vec![-3.0, 1.0]), 1, false), [(-2.0, 2)]);
        assert_eq!(round_trip(&block(vec![4_294_967_295.0, 1.0]), 1, true), [(4_294_967_296.0, 2)]);
        assert!(round_trip(&block(vec![f64::NAN]), 1, false)[0].0.is_nan());
    }

    #[test]
    fn no_rows_have_totals_too() {
        assert_eq!(round_trip::<u16>(&[], 0, false), []);
    }
}
