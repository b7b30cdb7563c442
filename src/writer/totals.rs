//! Each cell's sum and count, kept while its row is written: what quality control asks for first.

use std::path::PathBuf;

use super::array::{ArrayWriter, Coding};
use super::spill::Block;
use crate::codec::Pfor;
use crate::error::Result;
use crate::matrix::TOTALS;
use crate::number::{Dtype, Num};

/// Totals of the rows written so far; 12 bytes a row.
pub struct Kept {
    folder: PathBuf,
    portable: bool,
    sums: Vec<f64>,
    counts: Vec<u32>,
}

impl Kept {
    /// None yet; they will lie in the new folder `folder`.
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

    /// Writes them, for `n_rows` rows.
    ///
    /// # Errors
    /// `Io` for a full disk.
    pub fn finish(mut self, n_rows: usize) -> Result<()> {
        // Rows that a source without columns never sent.
        self.sums.resize(n_rows, 0.0);
        self.counts.resize(n_rows, 0);
        let whole = self.sums.iter().all(|&sum| sum.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&sum));
        let coding = if self.portable { Coding::Portable } else { Coding::Pfor(Pfor { delta: false }) };
        let sums_type = if whole { Dtype::U32 } else { Dtype::F64 };
        let array =
            |i: usize, dtype| ArrayWriter::new(&self.folder.join(TOTALS[i]), dtype, n_rows as u64, None, coding);
        let mut sums = array(0, sums_type)?;
        sums.push(&self.sums)?;
        sums.finish()?;
        let mut counts = array(1, Dtype::U32)?;
        counts.push(&self.counts)?;
        counts.finish()
    }
}
