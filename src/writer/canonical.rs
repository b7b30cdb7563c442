//! Rows in output order made canonical and written: as CSR arrays, or as one dense array.
//!
//! Canonical: columns ascend within a row, duplicates are summed. Each cell's sum and count, which quality
//! control asks for first, are kept on the way.

use serde_json::json;

use super::array::{ArrayWriter, Coding, write_array};
use super::folder::Folder;
use super::matrix::MatrixSpec;
use super::spill::Block;
use crate::error::{DaoError, Result};
use crate::matrix::TOTALS;
use crate::number::{Dtype, Layout, Num};

/// Makes rows canonical, in output order, and writes them.
pub struct CanonicalRows {
    /// The folder of the dataset's matrices.
    zarr: Folder,
    name: String,
    shape: [u64; 2],
    portable: bool,
    transposed: bool,
    /// The offset of each row's values so far, as in CSR; counts them for a dense array too.
    indptr: Vec<i64>,
    /// The columns of CSR; none for a dense array.
    indices: Option<ArrayWriter>,
    data: ArrayWriter,
    /// The sum of each row so far, and the number of its values that are not zero, where these are kept.
    totals: Option<(Vec<f64>, Vec<u32>)>,
}

impl CanonicalRows {
    /// A matrix below the dataset folder `dataset`, with totals of its rows beside it where it has them.
    pub fn new(dataset: &Folder, spec: &MatrixSpec) -> Result<Self> {
        let MatrixSpec { shape, stored, portable, source_nnz, transposed, .. } = *spec;
        let (zarr, name) = (dataset.join("zarr"), spec.name.to_string());
        let folder = zarr.join(&name);
        let (indices, data) = if spec.layout == Layout::Dense {
            let len = shape[0] * shape[1];
            (None, ArrayWriter::new(folder, stored, len, Some(shape[1]), Coding::Portable)?)
        } else {
            folder.make()?;
            let narrow = match shape[1] {
                0..=0x100 => Dtype::U8,
                0x101..=0x1_0000 => Dtype::U16,
                _ => Dtype::U32,
            };
            let array = |name, dtype, ascending| {
                ArrayWriter::new(folder.join(name), dtype, source_nnz, None, Coding::new(portable, ascending))
            };
            (Some(array("indices", narrow, true)?), array("data", stored, false)?)
        };
        let totals = spec.has_totals().then(Default::default);
        Ok(Self { zarr, name, shape, portable, transposed, indptr: vec![0], indices, data, totals })
    }

    /// The next rows.
    ///
    /// # Errors
    /// `Value` for duplicates whose sum does not fit, `Io` for a full disk.
    pub fn write<T: Num>(&mut self, mut block: Block<T>) -> Result<()> {
        canonicalize(&mut block, &self.name)?;
        if let Some((sums, counts)) = &mut self.totals {
            for ends in block.indptr.windows(2) {
                let values = &block.data[ends[0]..ends[1]];
                sums.push(values.iter().map(|&value| -> f64 { value.as_() }).sum());
                // Columns are numbered with 31 bits.
                let count = values.iter().filter(|&&value| value != T::zero()).count();
                counts.push(u32::try_from(count).unwrap_or(u32::MAX));
            }
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
    pub fn finish(mut self) -> Result<u64> {
        let nnz = self.nnz();
        // Rows that a source without columns never sent are empty.
        let n_rows = usize::try_from(self.shape[0]).unwrap_or(0);
        if let Some((mut sums, mut counts)) = self.totals {
            sums.resize(n_rows, 0.0);
            counts.resize(n_rows, 0);
            let whole = sums.iter().all(|&sum| sum.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&sum));
            let (dtype, coding) = (if whole { Dtype::U32 } else { Dtype::F64 }, Coding::new(self.portable, false));
            let folder = self.zarr.join("totals").join(&self.name);
            write_array(folder.join(TOTALS[0]), dtype, coding, &sums)?;
            write_array(folder.join(TOTALS[1]), Dtype::U32, coding, &counts)?;
        }
        self.data.finish()?;
        if let Some(indices) = self.indices {
            indices.finish()?;
            self.indptr.resize(n_rows + 1, nnz);
            let (folder, coding) = (self.zarr.join(&self.name), Coding::new(self.portable, true));
            write_array(folder.join("indptr"), Dtype::I64, coding, &self.indptr)?;
            let [rows, columns] = self.shape;
            let (encoding, shape) =
                if self.transposed { ("csc_matrix", [columns, rows]) } else { ("csr_matrix", [rows, columns]) };
            let attributes = json!({"encoding-type": encoding, "encoding-version": "0.1.0", "shape": shape});
            folder.write_group(&attributes)?;
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
    use crate::matrix::{Matrix, Totals};
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
            let mut rows = CanonicalRows::new(&Folder::new(folder.path()), &spec(layout, [4, 6], portable)).unwrap();
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
        let rows = CanonicalRows::new(&Folder::new(folder.path()), &spec(Layout::Csr, [3, 0], false)).unwrap();
        assert_eq!(rows.finish().unwrap(), 0);
        let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
        let found = Matrix::open(&storage, "zarr/X", [3, 0]).unwrap().rows::<u16>(&[0, 1, 2]).unwrap();
        assert_eq!(found.indptr, [0, 0, 0, 0]);
    }

    /// The totals of rows, written and read back.
    fn totals<T: Num>(blocks: impl IntoIterator<Item = Block<T>>, n_rows: usize, portable: bool) -> Vec<(f64, u32)> {
        let folder = tempfile::tempdir().unwrap();
        let spec = MatrixSpec { stored: T::DTYPE, ..spec(Layout::Csr, [n_rows as u64, 4], portable) };
        let mut rows = CanonicalRows::new(&Folder::new(folder.path()), &spec).unwrap();
        for block in blocks {
            rows.write(block).unwrap();
        }
        rows.finish().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
        let totals = Totals::open(&storage, "zarr/totals/X", n_rows as u64).unwrap();
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
            assert_eq!(totals(blocks, 4, portable), [(455.0, 2), (0.0, 0), (5.0, 2), (0.0, 0)]);
        }
    }

    #[test]
    fn sums_that_are_no_counts_stay_exact() {
        let block =
            |data: Vec<f64>| [Block { indptr: vec![0, data.len()], indices: (0..).take(data.len()).collect(), data }];
        assert_eq!(totals(block(vec![0.25, 0.5]), 1, false), [(0.75, 2)]);
        assert_eq!(totals(block(vec![-3.0, 1.0]), 1, false), [(-2.0, 2)]);
        assert_eq!(totals(block(vec![4_294_967_295.0, 1.0]), 1, true), [(4_294_967_296.0, 2)]);
        assert!(totals(block(vec![f64::NAN]), 1, false)[0].0.is_nan());
    }

    #[test]
    fn no_rows_have_totals_too() {
        assert_eq!(totals::<u16>([], 0, false), []);
    }
}
