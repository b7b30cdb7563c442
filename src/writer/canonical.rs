//! Rows in output order made canonical and written: as CSR arrays, or as one dense array.
//!
//! Canonical: columns ascend within a row, duplicates are summed.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::array::{ArrayWriter, Coding, make_folder, write_array, write_group};
use super::matrix::MatrixSpec;
use super::spill::Block;
use super::totals::RowTotals;
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Layout, Num};

/// Makes rows canonical, in output order, and writes them.
pub struct CanonicalRows {
    name: String,
    folder: PathBuf,
    shape: [u64; 2],
    transposed: bool,
    ascending: Coding,
    /// The offset of each row's values so far, as in CSR; counts them for a dense array too.
    indptr: Vec<i64>,
    /// The columns of CSR; none for a dense array.
    indices: Option<ArrayWriter>,
    data: ArrayWriter,
    totals: Option<RowTotals>,
}

impl CanonicalRows {
    /// A matrix below the dataset folder `dataset`, with totals of its rows beside it where it has them.
    ///
    /// # Errors
    /// `Io` if the folders cannot be made.
    pub fn new(dataset: &Path, spec: &MatrixSpec) -> Result<Self> {
        let MatrixSpec { shape, stored, portable, source_nnz, transposed, .. } = *spec;
        let name = spec.name.to_string();
        let folder = dataset.join("zarr").join(&name);
        let totals_folder = dataset.join("zarr/totals").join(&name);
        let ascending = Coding::new(portable, true);
        let (indices, data) = if spec.layout == Layout::Dense {
            let len = shape[0] * shape[1];
            (None, ArrayWriter::new(&folder, stored, len, Some(shape[1]), Coding::Portable)?)
        } else {
            make_folder(&folder)?;
            let narrow = match shape[1] {
                0..=0x100 => Dtype::U8,
                0x101..=0x1_0000 => Dtype::U16,
                _ => Dtype::U32,
            };
            let indices = ArrayWriter::new(&folder.join("indices"), narrow, source_nnz, None, ascending)?;
            let coding = Coding::new(portable, false);
            (Some(indices), ArrayWriter::new(&folder.join("data"), stored, source_nnz, None, coding)?)
        };
        let totals = spec.has_totals().then(|| RowTotals::new(totals_folder, portable));
        Ok(Self { name, folder, shape, transposed, ascending, indptr: vec![0], indices, data, totals })
    }

    /// The next rows.
    ///
    /// # Errors
    /// `Value` for duplicates whose sum does not fit, `Io` for a full disk.
    pub fn write<T: Num>(&mut self, mut block: Block<T>) -> Result<()> {
        canonicalize(&mut block, &self.name)?;
        if let Some(totals) = &mut self.totals {
            totals.push(&block);
        }
        let start = self.nnz();
        self.indptr.extend(block.indptr[1..].iter().map(|&end| start + i64::try_from(end).unwrap_or(i64::MAX)));
        if let Some(indices) = &mut self.indices {
            indices.push(&block.indices)?;
            return self.data.push(&block.data);
        }
        let mut row = vec![T::zero(); usize::try_from(self.shape[1]).unwrap_or(0)];
        for ends in block.indptr.windows(2) {
            row.fill(T::zero());
            for at in ends[0]..ends[1] {
                // In range: columns were checked against the output when they were mapped.
                row[usize::try_from(block.indices[at]).unwrap_or(usize::MAX)] = block.data[at];
            }
            self.data.push(&row)?;
        }
        Ok(())
    }

    /// Writes what is left; returns the number of stored values.
    ///
    /// # Errors
    /// `Io` for a full disk.
    pub fn finish(mut self) -> Result<u64> {
        let nnz = self.nnz();
        let n_rows = usize::try_from(self.shape[0]).unwrap_or(0);
        if let Some(totals) = self.totals {
            totals.finish(n_rows)?;
        }
        self.data.finish()?;
        if let Some(indices) = self.indices {
            indices.finish()?;
            // Rows that a source without columns never sent.
            self.indptr.resize(n_rows + 1, nnz);
            write_array(&self.folder.join("indptr"), Dtype::I64, self.ascending, &self.indptr)?;
            let [rows, columns] = self.shape;
            let (encoding, shape) =
                if self.transposed { ("csc_matrix", [columns, rows]) } else { ("csr_matrix", [rows, columns]) };
            let attributes = json!({"encoding-type": encoding, "encoding-version": "0.1.0", "shape": shape});
            write_group(&self.folder, &attributes)?;
        }
        Ok(u64::try_from(nnz).unwrap_or(0))
    }

    fn nnz(&self) -> i64 {
        self.indptr.last().copied().unwrap_or(0)
    }
}

/// Sorts each row by column and sums duplicates.
fn canonicalize<T: Num>(block: &mut Block<T>, name: &str) -> Result<()> {
    if block.indptr.windows(2).all(|ends| block.indices[ends[0]..ends[1]].windows(2).all(|pair| pair[0] < pair[1])) {
        return Ok(());
    }
    let (mut kept, mut start) = (0, 0);
    let mut row: Vec<(i32, T)> = Vec::new();
    for i in 1..block.indptr.len() {
        let stop = block.indptr[i];
        row.clear();
        row.extend(block.indices[start..stop].iter().copied().zip(block.data[start..stop].iter().copied()));
        row.sort_by_key(|&(column, _)| column);
        for same in row.chunk_by(|a, b| a.0 == b.0) {
            let sum = same[1..].iter().try_fold(same[0].1, |total, &(_, value)| add(total, value, name))?;
            (block.indices[kept], block.data[kept]) = (same[0].0, sum);
            kept += 1;
        }
        start = stop;
        block.indptr[i] = kept;
    }
    block.indices.truncate(kept);
    block.data.truncate(kept);
    Ok(())
}

fn add<T: Num>(a: T, b: T, name: &str) -> Result<T> {
    if T::DTYPE.is_float() {
        return Ok(a + b);
    }
    let (a, b): (i128, i128) = (a.as_(), b.as_());
    let total = T::of_i128(a + b);
    let back: i128 = total.as_();
    if back == a + b {
        return Ok(total);
    }
    let what = format!("repeated entries of one cell and gene sum to {}, too large for {}", a + b, T::DTYPE.name());
    Err(DaoError::value(what)
        .at(name.to_owned())
        .hint("read the study with anndata, call X.sum_duplicates() and write that AnnData"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::ErrorKind;
    use crate::matrix::Matrix;
    use crate::storage::{Local, Storage};
    use crate::store::MatrixName;

    fn spec(layout: Layout, shape: [u64; 2], portable: bool) -> MatrixSpec {
        MatrixSpec {
            name: MatrixName::X,
            layout,
            portable,
            shape,
            stored: Dtype::U16,
            columns: None,
            rows: None,
            source_nnz: 10,
            transposed: false,
        }
    }

    #[test]
    fn rows_are_sorted_and_duplicates_summed() {
        let mut block = Block {
            indptr: vec![0, 4, 4, 6, 7],
            indices: vec![5, 2, 5, 0, 3, 3, 1],
            data: vec![1_u16, 2, 3, 4, 5, 6, 7],
        };
        canonicalize(&mut block, "X").unwrap();
        assert_eq!(block.indptr, [0, 3, 3, 4, 5]);
        assert_eq!(block.indices, [0, 2, 5, 3, 1]);
        assert_eq!(block.data, [4, 2, 4, 11, 7]);
    }

    #[test]
    fn duplicates_whose_sum_does_not_fit_are_refused() {
        let block = |data: Vec<u8>| Block { indptr: vec![0, 2], indices: vec![1, 1], data };
        canonicalize(&mut block(vec![200, 55]), "X").unwrap();
        let error = canonicalize(&mut block(vec![200, 56]), "layers/counts").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        let text = error.to_string();
        assert!(text.contains("sum to 256") && text.contains("uint8") && text.contains("layers/counts"), "{text}");
    }

    #[test]
    fn both_layouts_read_back_as_they_were_written() {
        for (layout, portable) in [(Layout::Csr, false), (Layout::Csr, true), (Layout::Dense, true)] {
            let folder = tempfile::tempdir().unwrap();
            let mut rows = CanonicalRows::new(folder.path(), &spec(layout, [4, 6], portable)).unwrap();
            rows.write(Block { indptr: vec![0, 2], indices: vec![5, 0], data: vec![9_u16, 8] }).unwrap();
            rows.write(Block { indptr: vec![0, 0, 1, 3], indices: vec![3, 1, 1], data: vec![7_u16, 1, 2] }).unwrap();
            assert_eq!(rows.finish().unwrap(), 4);
            let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
            let found = Matrix::open(&storage, "zarr/X", [4, 6]).unwrap().rows::<u16>(&[0, 1, 2, 3]).unwrap();
            assert_eq!(found.indptr, [0, 2, 2, 3, 4]);
            assert_eq!(found.indices, [0, 5, 3, 1]);
            assert_eq!(found.data, [8, 9, 7, 3]);
        }
    }

    #[test]
    fn rows_that_never_came_are_empty() {
        let folder = tempfile::tempdir().unwrap();
        let rows = CanonicalRows::new(folder.path(), &spec(Layout::Csr, [3, 0], false)).unwrap();
        assert_eq!(rows.finish().unwrap(), 0);
        let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
        let found = Matrix::open(&storage, "zarr/X", [3, 0]).unwrap().rows::<u16>(&[0, 1, 2]).unwrap();
        assert_eq!(found.indptr, [0, 0, 0, 0]);
    }
}
