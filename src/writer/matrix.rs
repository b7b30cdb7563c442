//! One matrix of a new dataset, from blocks of source rows or columns.
//!
//! Owns the way from source to output: columns may be mapped or dropped, rows permuted.

use std::path::{Path, PathBuf};

use super::canonical::CanonicalRows;
use super::spec::MatrixSpec;
use super::spill::{Block, Spill};
use super::totals::RowTotals;
use crate::error::{DaoError, Result};
use crate::number::{Num, Values, cast_vec, for_dtype, for_dtype_values};

/// Writes one matrix from the blocks of its source; see the module.
pub struct MatrixWriter {
    inner: Box<dyn BlockConsumer>,
}

impl MatrixWriter {
    /// A matrix below the dataset folder `dataset`.
    ///
    /// # Errors
    /// `Value` for a spec that contradicts itself, `Io` if the folders cannot be made.
    pub fn new(dataset: &Path, spec: MatrixSpec) -> Result<Self> {
        let n_rows = spec.shape[0];
        if u32::try_from(n_rows).is_err() || i32::try_from(spec.shape[1]).is_err() {
            return Err(DaoError::value(format!("a matrix of {} × {} is too large", n_rows, spec.shape[1]))
                .expected("fewer than 2^32 rows and 2^31 columns"));
        }
        if let Some(rows) = &spec.rows {
            let mut seen = vec![false; rows.len()];
            let permutation = rows.len() as u64 == n_rows
                && rows
                    .iter()
                    .all(|&row| seen.get_mut(row as usize).is_some_and(|seen| !std::mem::replace(seen, true)));
            if !permutation {
                return Err(DaoError::value("the new row numbers are no permutation"));
            }
        }
        if let Some(columns) = &spec.columns
            && columns.iter().any(|&column| i64::from(column) >= i64::try_from(spec.shape[1]).unwrap_or(i64::MAX))
        {
            return Err(DaoError::value("a new column number is past the output's columns"));
        }
        let stored = spec.stored;
        let inner: Box<dyn BlockConsumer> = for_dtype!(stored, T => Box::new(TypedWriter::<T>::new(dataset, spec)?));
        Ok(Self { inner })
    }

    /// The next source rows, as CSR.
    ///
    /// # Errors
    /// `Corrupt` for offsets or columns out of range, `Value` for a value the stored type cannot
    /// hold, `Io` for a full disk.
    pub fn push_rows(&mut self, indptr: &[i64], indices: &[i32], data: &Values) -> Result<()> {
        self.inner.rows(&offsets(indptr, indices.len(), data.len())?, indices, data)
    }

    /// The next source columns, as CSC.
    ///
    /// # Errors
    /// As [`MatrixWriter::push_rows`].
    pub fn push_columns(&mut self, indptr: &[i64], indices: &[i32], data: &Values) -> Result<()> {
        self.inner.columns(&offsets(indptr, indices.len(), data.len())?, indices, data)
    }

    /// The next source rows, row-major, `width` values each.
    ///
    /// # Errors
    /// As [`MatrixWriter::push_rows`].
    pub fn push_dense(&mut self, width: usize, data: &Values) -> Result<()> {
        self.inner.dense(width, data)
    }

    /// Writes the rest; returns the number of stored values.
    ///
    /// # Errors
    /// `Corrupt` if rows or columns are missing, `Io` for a full disk.
    pub fn finish(self) -> Result<u64> {
        self.inner.finish()
    }
}

/// Takes blocks of a source, whatever number type the matrix is stored in.
trait BlockConsumer: Send {
    fn rows(&mut self, indptr: &[usize], indices: &[i32], data: &Values) -> Result<()>;
    fn columns(&mut self, indptr: &[usize], indices: &[i32], data: &Values) -> Result<()>;
    fn dense(&mut self, width: usize, data: &Values) -> Result<()>;
    fn finish(self: Box<Self>) -> Result<u64>;
}

/// The writer of a matrix stored as `T`.
struct TypedWriter<T> {
    spec: MatrixSpec,
    output: CanonicalRows,
    spill_folder: PathBuf,
    spill: Option<Spill<T>>,
    /// Source rows (or columns, from a CSC source) taken so far.
    taken: u64,
    by_columns: bool,
}

impl<T: Num> TypedWriter<T> {
    fn new(dataset: &Path, spec: MatrixSpec) -> Result<Self> {
        let folder = dataset.join("zarr").join(spec.name.to_string());
        let totals =
            spec.totals.then(|| RowTotals::new(dataset.join("zarr/totals").join(spec.name.to_string()), spec.portable));
        let output = CanonicalRows::new(&folder, &spec, totals)?;
        let spill_folder = dataset.join(format!(".spill-{}", spec.name.to_string().replace('/', "-")));
        Ok(Self { spec, output, spill_folder, spill: None, taken: 0, by_columns: false })
    }

    fn source_columns(&self) -> u64 {
        self.spec.columns.as_ref().map_or(self.spec.shape[1], |columns| columns.len() as u64)
    }

    /// The output column of a source column; `None` if it is dropped.
    fn column(&self, source: u64) -> Result<Option<i32>> {
        if source >= self.source_columns() {
            return Err(DaoError::corrupt(&self.spec.name.to_string(), "a column number is out of range")
                .expected(format!("below {}", self.source_columns()))
                .found(source));
        }
        let column = match &self.spec.columns {
            Some(columns) => usize::try_from(source).ok().and_then(|source| columns.get(source)).copied().unwrap_or(-1),
            None => i32::try_from(source).unwrap_or(-1),
        };
        Ok((column >= 0).then_some(column))
    }

    /// The output row of a source row.
    fn row(&self, source: u64) -> Result<u32> {
        let row = match &self.spec.rows {
            Some(rows) => usize::try_from(source).ok().and_then(|source| rows.get(source)).copied(),
            None => u32::try_from(source).ok().filter(|_| source < self.spec.shape[0]),
        };
        row.ok_or_else(|| {
            DaoError::corrupt(&self.spec.name.to_string(), "a row number is out of range")
                .expected(format!("below {}", self.spec.shape[0]))
                .found(source)
        })
    }

    fn spill(&mut self) -> Result<&mut Spill<T>> {
        match &mut self.spill {
            Some(spill) => Ok(spill),
            empty => Ok(empty.insert(Spill::new(&self.spill_folder, self.spec.shape[0], self.spec.source_nnz)?)),
        }
    }

    fn cast(data: &Values, place: &str) -> Result<Vec<T>> {
        for_dtype_values!(data, values => cast_vec(values)).map_err(|e| e.at(place.to_owned()))
    }

    /// Sends rows with mapped columns to their place: straight on, or through the spill.
    fn place(&mut self, first: u64, block: Block<T>) -> Result<()> {
        if self.spec.rows.is_none() {
            return self.output.write(block, &self.spec.name.to_string());
        }
        for (i, ends) in (first..).zip(block.indptr.windows(2)) {
            let row = self.row(i)?;
            let spill = self.spill()?;
            for at in ends[0]..ends[1] {
                spill.push(row, block.indices[at], block.data[at])?;
            }
        }
        self.spill()?;
        Ok(())
    }
}

impl<T: Num> BlockConsumer for TypedWriter<T> {
    fn rows(&mut self, indptr: &[usize], indices: &[i32], data: &Values) -> Result<()> {
        let data = Self::cast(data, &self.spec.name.to_string())?;
        let mut block =
            Block { indptr: vec![0], indices: Vec::with_capacity(indices.len()), data: Vec::with_capacity(data.len()) };
        for ends in indptr.windows(2) {
            for at in ends[0]..ends[1] {
                if let Some(column) = self.column(u64::try_from(indices[at]).unwrap_or(u64::MAX))? {
                    block.indices.push(column);
                    block.data.push(data[at]);
                }
            }
            block.indptr.push(block.indices.len());
        }
        let first = self.taken;
        self.taken += indptr.len().saturating_sub(1) as u64;
        self.place(first, block)
    }

    fn columns(&mut self, indptr: &[usize], indices: &[i32], data: &Values) -> Result<()> {
        self.by_columns = true;
        let data = Self::cast(data, &self.spec.name.to_string())?;
        self.spill()?;
        for ends in indptr.windows(2) {
            let column = self.column(self.taken)?;
            self.taken += 1;
            let Some(column) = column else { continue };
            for at in ends[0]..ends[1] {
                let row = self.row(u64::try_from(indices[at]).unwrap_or(u64::MAX))?;
                self.spill()?.push(row, column, data[at])?;
            }
        }
        Ok(())
    }

    fn dense(&mut self, width: usize, data: &Values) -> Result<()> {
        if width as u64 != self.source_columns() {
            return Err(DaoError::corrupt(&self.spec.name.to_string(), "a block has the wrong number of columns")
                .expected(self.source_columns())
                .found(width));
        }
        let data = Self::cast(data, &self.spec.name.to_string())?;
        let mut block = Block { indptr: vec![0], indices: Vec::new(), data: Vec::new() };
        let n_rows = data.len().checked_div(width).unwrap_or(0);
        for row in data.chunks_exact(width.max(1)) {
            for (source, &value) in (0_u64..).zip(row) {
                if value != T::zero()
                    && let Some(column) = self.column(source)?
                {
                    block.indices.push(column);
                    block.data.push(value);
                }
            }
            block.indptr.push(block.indices.len());
        }
        let first = self.taken;
        self.taken += n_rows as u64;
        self.place(first, block)
    }

    fn finish(mut self: Box<Self>) -> Result<u64> {
        let (what, expected) =
            if self.by_columns { ("columns", self.source_columns()) } else { ("rows", self.spec.shape[0]) };
        // A matrix without columns has rows all the same.
        let empty = self.spec.shape[1] == 0 || self.source_columns() == 0;
        if self.taken != expected && !empty {
            return Err(DaoError::corrupt(
                &self.spec.name.to_string(),
                format!("the source ended before all its {what} came"),
            )
            .expected(expected)
            .found(self.taken));
        }
        if let Some(spill) = self.spill.take() {
            let (output, name) = (&mut self.output, self.spec.name.to_string());
            spill.finish(|block| output.write(block, &name))?;
        }
        self.output.finish(self.spec.shape)
    }
}

/// Checks offsets against the arrays that they point into.
fn offsets(indptr: &[i64], n_indices: usize, n_data: usize) -> Result<Vec<usize>> {
    let wrong = |what: &str| {
        Err(DaoError::new(crate::error::ErrorKind::Corrupt, format!("a block of the source is broken: {what}")))
    };
    let Ok(offsets) = indptr.iter().map(|&at| usize::try_from(at)).collect::<std::result::Result<Vec<_>, _>>() else {
        return wrong("a negative offset");
    };
    if offsets.first() != Some(&0) || offsets.windows(2).any(|pair| pair[0] > pair[1]) {
        return wrong("offsets do not ascend from 0");
    }
    if offsets.last() != Some(&n_indices) || n_indices != n_data {
        return wrong("offsets, indices and data differ in length");
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::ErrorKind;
    use crate::matrix::Matrix;
    use crate::number::{Dtype, Layout};
    use crate::storage::{Local, Storage};
    use crate::store::MatrixName;

    fn spec(shape: [u64; 2]) -> MatrixSpec {
        MatrixSpec {
            name: MatrixName::Layer("counts".into()),
            layout: Layout::Csr,
            portable: false,
            shape,
            stored: Dtype::U8,
            columns: None,
            rows: None,
            source_nnz: 8,
            totals: false,
            transposed: false,
        }
    }

    /// Writes a matrix and reads it back, dense, row by row.
    fn written(spec: MatrixSpec, push: impl FnOnce(&mut MatrixWriter) -> Result<()>) -> Result<Vec<Vec<u8>>> {
        let folder = tempfile::tempdir().unwrap();
        let (shape, name) = (spec.shape, spec.name.to_string());
        let mut writer = MatrixWriter::new(folder.path(), spec)?;
        push(&mut writer)?;
        let nnz = writer.finish()?;
        let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
        let rows: Vec<u32> = (0..u32::try_from(shape[0]).unwrap()).collect();
        let found = Matrix::open(&storage, &format!("zarr/{name}"), shape).unwrap().rows::<u8>(&rows).unwrap();
        assert_eq!(found.data.len() as u64, nnz);
        let mut dense = vec![vec![0; usize::try_from(shape[1]).unwrap()]; rows.len()];
        for (row, ends) in dense.iter_mut().zip(found.indptr.windows(2)) {
            for at in ends[0]..ends[1] {
                row[usize::try_from(found.indices[at]).unwrap()] = found.data[at];
            }
        }
        let left: Vec<_> = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["zarr"], "no spill stays");
        Ok(dense)
    }

    const SOURCE: [[u8; 4]; 3] = [[1, 0, 2, 0], [0, 0, 0, 3], [4, 5, 0, 6]];

    fn by_rows(writer: &mut MatrixWriter) -> Result<()> {
        writer.push_rows(&[0, 2, 3], &[2, 0, 3], &Values::F32(vec![2.0, 1.0, 3.0]))?;
        writer.push_rows(&[0, 3], &[0, 1, 3], &Values::I64(vec![4, 5, 6]))
    }

    fn by_columns(writer: &mut MatrixWriter) -> Result<()> {
        writer.push_columns(&[0, 2], &[0, 2], &Values::F64(vec![1.0, 4.0]))?;
        writer.push_columns(&[0, 1, 2, 4], &[2, 0, 2, 1], &Values::U8(vec![5, 2, 6, 3]))
    }

    fn dense(writer: &mut MatrixWriter) -> Result<()> {
        writer.push_dense(4, &Values::U8(SOURCE.concat()))
    }

    const WAYS: [fn(&mut MatrixWriter) -> Result<()>; 3] = [by_rows, by_columns, dense];

    #[test]
    fn rows_columns_and_dense_blocks_are_one_matrix() {
        for push in WAYS {
            assert_eq!(written(spec([3, 4]), push).unwrap(), SOURCE);
        }
    }

    #[test]
    fn columns_are_mapped_and_rows_permuted() {
        for push in WAYS {
            // Source columns 0, 1, 2, 3 go to 2, nowhere, 4, 0; rows 0, 1, 2 to 1, 2, 0: no involution.
            let moved = MatrixSpec { columns: Some(vec![2, -1, 4, 0]), rows: Some(vec![1, 2, 0]), ..spec([3, 5]) };
            assert_eq!(written(moved, push).unwrap(), [[6, 0, 4, 0, 0], [0, 0, 1, 0, 2], [3, 0, 0, 0, 0]]);
        }
    }

    #[test]
    fn specs_that_contradict_themselves_are_refused() {
        let refused = |spec: MatrixSpec| {
            let folder = tempfile::tempdir().unwrap();
            let error = MatrixWriter::new(folder.path(), spec).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Value);
            error.to_string()
        };
        for rows in [vec![0, 1], vec![0, 0, 1], vec![0, 1, 3]] {
            assert!(refused(MatrixSpec { rows: Some(rows), ..spec([3, 4]) }).contains("no permutation"));
        }
        assert!(
            refused(MatrixSpec { columns: Some(vec![0, 4]), ..spec([3, 4]) }).contains("past the output's columns")
        );
        assert!(refused(spec([1 << 32, 4])).contains("too large"));
        assert!(refused(spec([3, 1 << 31])).contains("too large"));
    }

    #[test]
    fn sources_that_end_early_or_point_outside_are_corrupt() {
        let kind = |push: fn(&mut MatrixWriter) -> Result<()>| written(spec([3, 4]), push).unwrap_err().kind();
        assert_eq!(kind(|w| w.push_rows(&[0, 0], &[], &Values::U8(vec![]))), ErrorKind::Corrupt);
        assert_eq!(kind(|w| w.push_columns(&[0, 0], &[], &Values::U8(vec![]))), ErrorKind::Corrupt);
        assert_eq!(kind(|w| w.push_rows(&[0, 1], &[4], &Values::U8(vec![1]))), ErrorKind::Corrupt);
        assert_eq!(kind(|w| w.push_columns(&[0, 1], &[3], &Values::U8(vec![1]))), ErrorKind::Corrupt);
        assert_eq!(kind(|w| w.push_dense(3, &Values::U8(vec![1, 2, 3]))), ErrorKind::Corrupt);
        assert_eq!(kind(|w| w.push_rows(&[0, 1], &[0], &Values::I16(vec![256]))), ErrorKind::Value);
    }
}
