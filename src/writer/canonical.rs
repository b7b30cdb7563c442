//! Rows in output order made canonical and written: as CSR arrays, or as one dense array.
//!
//! Canonical: columns ascend within a row, duplicates are summed.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::array::{ArrayWriter, Coding, make_folder, write_group};
use super::spec::MatrixSpec;
use super::spill::Block;
use super::totals::RowTotals;
use crate::codec::Pfor;
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Layout, Num};

/// Makes rows canonical, in output order, and writes them.
pub struct CanonicalRows {
    arrays: ArrayWriters,
    totals: Option<RowTotals>,
}

#[expect(clippy::large_enum_variant, reason = "one exists for each matrix being written")]
enum ArrayWriters {
    Csr {
        folder: PathBuf,
        indices: ArrayWriter,
        data: ArrayWriter,
        indptr: Vec<i64>,
        ascending: Coding,
        transposed: bool,
    },
    Dense {
        array: ArrayWriter,
        width: usize,
        nnz: u64,
    },
}

impl CanonicalRows {
    /// A matrix in the new folder `folder`, with `totals` of its rows beside it.
    ///
    /// # Errors
    /// `Io` if the folders cannot be made.
    pub fn new(folder: &Path, spec: &MatrixSpec, totals: Option<RowTotals>) -> Result<Self> {
        Ok(Self { arrays: ArrayWriters::new(folder, spec)?, totals })
    }

    /// The next rows.
    ///
    /// # Errors
    /// `Value` for duplicates whose sum does not fit, `Io` for a full disk.
    pub fn write<T: Num>(&mut self, mut block: Block<T>, name: &str) -> Result<()> {
        canonicalize(&mut block, name)?;
        if let Some(totals) = &mut self.totals {
            totals.push(&block);
        }
        match &mut self.arrays {
            ArrayWriters::Csr { indices, data, indptr, .. } => {
                let start = indptr.last().copied().unwrap_or(0);
                indptr.extend(block.indptr[1..].iter().map(|&end| start + i64::try_from(end).unwrap_or(i64::MAX)));
                indices.push(&block.indices)?;
                data.push(&block.data)
            }
            ArrayWriters::Dense { array, width, nnz } => {
                *nnz += block.data.len() as u64;
                let mut row = vec![T::zero(); *width];
                for ends in block.indptr.windows(2) {
                    row.fill(T::zero());
                    for at in ends[0]..ends[1] {
                        // In range: columns were checked against the output when they were mapped.
                        row[usize::try_from(block.indices[at]).unwrap_or(usize::MAX)] = block.data[at];
                    }
                    array.push(&row)?;
                }
                Ok(())
            }
        }
    }

    /// Writes what is left of a matrix of `shape`; returns the number of stored values.
    ///
    /// # Errors
    /// `Io` for a full disk.
    pub fn finish(self, shape: [u64; 2]) -> Result<u64> {
        if let Some(totals) = self.totals {
            totals.finish(usize::try_from(shape[0]).unwrap_or(0))?;
        }
        match self.arrays {
            ArrayWriters::Csr { folder, indices, data, mut indptr, ascending, transposed } => {
                let nnz = indptr.last().copied().unwrap_or(0);
                // Rows that a source without columns never sent.
                indptr.resize(usize::try_from(shape[0]).unwrap_or(0) + 1, nnz);
                indices.finish()?;
                data.finish()?;
                let mut pointers =
                    ArrayWriter::new(&folder.join("indptr"), Dtype::I64, indptr.len() as u64, None, ascending)?;
                pointers.push(&indptr)?;
                pointers.finish()?;
                let (encoding, shape) =
                    if transposed { ("csc_matrix", [shape[1], shape[0]]) } else { ("csr_matrix", shape) };
                let attributes = json!({"encoding-type": encoding, "encoding-version": "0.1.0", "shape": shape});
                write_group(&folder, &attributes)?;
                Ok(u64::try_from(nnz).unwrap_or(0))
            }
            ArrayWriters::Dense { array, nnz, .. } => array.finish().map(|()| nnz),
        }
    }
}

impl ArrayWriters {
    fn new(folder: &Path, spec: &MatrixSpec) -> Result<Self> {
        let [n_rows, n_columns] = spec.shape;
        if spec.layout == Layout::Dense {
            let array = ArrayWriter::new(folder, spec.stored, n_rows * n_columns, Some(n_columns), Coding::Portable)?;
            return Ok(Self::Dense { array, width: usize::try_from(n_columns).unwrap_or(0), nnz: 0 });
        }
        make_folder(folder)?;
        let narrow = match n_columns {
            0..=0x100 => Dtype::U8,
            0x101..=0x1_0000 => Dtype::U16,
            _ => Dtype::U32,
        };
        let coding = |delta| if spec.portable { Coding::Portable } else { Coding::Pfor(Pfor { delta }) };
        Ok(Self::Csr {
            indices: ArrayWriter::new(&folder.join("indices"), narrow, spec.source_nnz, None, coding(true))?,
            data: ArrayWriter::new(&folder.join("data"), spec.stored, spec.source_nnz, None, coding(false))?,
            folder: folder.to_owned(),
            indptr: vec![0],
            ascending: coding(true),
            transposed: spec.transposed,
        })
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
        let first = kept;
        for &(column, value) in &row {
            if kept > first && block.indices[kept - 1] == column {
                block.data[kept - 1] = sum(block.data[kept - 1], value, name)?;
            } else {
                block.indices[kept] = column;
                block.data[kept] = value;
                kept += 1;
            }
        }
        start = stop;
        block.indptr[i] = kept;
    }
    block.indices.truncate(kept);
    block.data.truncate(kept);
    Ok(())
}

fn sum<T: Num>(a: T, b: T, name: &str) -> Result<T> {
    if T::DTYPE.is_float() {
        return Ok(a + b);
    }
    let (a, b): (i128, i128) = (a.as_(), b.as_());
    let total = T::of_i128(a + b);
    let back: i128 = total.as_();
    if back == a + b {
        return Ok(total);
    }
    Err(DaoError::value(format!(
        "repeated entries of one cell and gene sum to {}, too large for {}",
        a + b,
        T::DTYPE.name()
    ))
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
            totals: false,
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
            let mut rows = CanonicalRows::new(&folder.path().join("X"), &spec(layout, [4, 6], portable), None).unwrap();
            rows.write(Block { indptr: vec![0, 2], indices: vec![5, 0], data: vec![9_u16, 8] }, "X").unwrap();
            rows.write(Block { indptr: vec![0, 0, 1, 3], indices: vec![3, 1, 1], data: vec![7, 1, 2] }, "X").unwrap();
            assert_eq!(rows.finish([4, 6]).unwrap(), 4);
            let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
            let found = Matrix::open(&storage, "X", [4, 6]).unwrap().rows::<u16>(&[0, 1, 2, 3]).unwrap();
            assert_eq!(found.indptr, [0, 2, 2, 3, 4]);
            assert_eq!(found.indices, [0, 5, 3, 1]);
            assert_eq!(found.data, [8, 9, 7, 3]);
        }
    }

    #[test]
    fn rows_that_never_came_are_empty() {
        let folder = tempfile::tempdir().unwrap();
        let rows = CanonicalRows::new(&folder.path().join("X"), &spec(Layout::Csr, [3, 0], false), None).unwrap();
        assert_eq!(rows.finish([3, 0]).unwrap(), 0);
        let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
        let found = Matrix::open(&storage, "X", [3, 0]).unwrap().rows::<u16>(&[0, 1, 2]).unwrap();
        assert_eq!(found.indptr, [0, 0, 0, 0]);
    }
}
