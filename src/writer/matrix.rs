//! One matrix of a new dataset, from blocks of source rows or columns.
//!
//! Owns the way from source to output: columns may be mapped or dropped, rows permuted.

use std::path::PathBuf;

use super::canonical::CanonicalRows;
use super::folder::Folder;
use super::spill::{Block, Spill};
use crate::error::{DaoError, ErrorKind, Result};
use crate::number::{Dtype, Layout, Num, Values, cast_vec, for_dtype, for_dtype_values};
use crate::store::MatrixName;

/// The form that a matrix will have, and how its source maps to it.
#[derive(Debug, Clone)]
pub struct MatrixSpec {
    /// The matrix's name in the dataset.
    pub name: MatrixName,
    /// Whether it is stored as CSR arrays, or as one dense array.
    pub layout: Layout,
    /// Whether CSR arrays are in core codecs alone; dense ones always are.
    pub portable: bool,
    /// Output rows and columns.
    pub shape: [u64; 2],
    /// The number type that values are stored in.
    pub stored: Dtype,
    /// The output column of each source column, or -1; `None` where they are the same.
    pub columns: Option<Vec<i32>>,
    /// The output row of each source row; `None` where they are the same.
    pub rows: Option<Vec<u32>>,
    /// The number of entries of the source, about.
    pub source_nnz: u64,
    /// Whether it is described as the `csc_matrix` that its rows are the columns of.
    pub transposed: bool,
}

impl MatrixSpec {
    /// Whether each row's sum and count are kept beside the matrix: where rows are cells and columns genes.
    #[must_use]
    pub fn has_totals(&self) -> bool {
        self.name.is_of_genes() && !self.transposed
    }

    fn validate(&self) -> Result<()> {
        let [n_rows, n_columns] = self.shape;
        if u32::try_from(n_rows).is_err() || i32::try_from(n_columns.max(self.source_columns())).is_err() {
            return Err(DaoError::value(format!("a matrix of {n_rows} × {n_columns} is too large"))
                .expected("fewer than 2^32 rows and 2^31 columns"));
        }
        if let Some(rows) = &self.rows {
            let mut seen = vec![false; rows.len()];
            let mut is_new = |&row: &u32| seen.get_mut(row as usize).is_some_and(|seen| !std::mem::replace(seen, true));
            if rows.len() as u64 != n_rows || !rows.iter().all(&mut is_new) {
                return Err(DaoError::value("the new row numbers are no permutation"));
            }
        }
        let is_outside = |&column: &i32| u64::try_from(column).is_ok_and(|column| column >= n_columns);
        if self.columns.as_ref().is_some_and(|columns| columns.iter().any(is_outside)) {
            return Err(DaoError::value("a new column number is past the output's columns"));
        }
        Ok(())
    }

    fn source_columns(&self) -> u64 {
        self.columns.as_ref().map_or(self.shape[1], |columns| columns.len() as u64)
    }

    /// The output column of a source column; `None` if it is dropped.
    fn column(&self, source: u64) -> Result<Option<i32>> {
        let column = match &self.columns {
            Some(columns) => usize::try_from(source).ok().and_then(|source| columns.get(source)).copied(),
            None => i32::try_from(source).ok().filter(|_| source < self.shape[1]),
        };
        let column =
            column.ok_or_else(|| self.broken("a column number is out of range", self.source_columns(), source));
        Ok(Some(column?).filter(|&column| column >= 0))
    }

    /// The output row of a source row.
    fn row(&self, source: u64) -> Result<u32> {
        let row = match &self.rows {
            Some(rows) => usize::try_from(source).ok().and_then(|source| rows.get(source)).copied(),
            None => u32::try_from(source).ok().filter(|_| source < self.shape[0]),
        };
        row.ok_or_else(|| self.broken("a row number is out of range", self.shape[0], source))
    }

    /// The error for a source that is not what it promised.
    fn broken(&self, what: impl Into<String>, expected: u64, found: u64) -> DaoError {
        DaoError::corrupt(&self.name.to_string(), what).expected(expected).found(found)
    }
}

/// Writes one matrix from the blocks of its source; see the module.
pub struct MatrixWriter {
    spec: MatrixSpec,
    output: CanonicalRows,
    spill_folder: PathBuf,
    spill: Option<Spill>,
    /// The number of source rows (or columns, from a CSC source) taken so far.
    taken: u64,
    by_columns: bool,
}

impl MatrixWriter {
    /// A matrix below the dataset folder `dataset`.
    ///
    /// # Errors
    /// `Value` for a spec that contradicts itself, `Io` if the folders cannot be made.
    pub fn new(dataset: &Folder, spec: MatrixSpec) -> Result<Self> {
        spec.validate()?;
        let output = CanonicalRows::new(dataset, &spec)?;
        let spill_folder = dataset.path().join(format!(".spill-{}", spec.name.to_string().replace('/', "-")));
        Ok(Self { spec, output, spill_folder, spill: None, taken: 0, by_columns: false })
    }

    /// The matrix's name in the dataset.
    #[must_use]
    pub fn name(&self) -> &MatrixName {
        &self.spec.name
    }

    /// The next source rows, as CSR.
    ///
    /// # Errors
    /// `Corrupt` for offsets or columns out of range, `Value` for a value the stored type cannot
    /// hold, `Io` for a full disk.
    pub fn push_rows(&mut self, indptr: &[i64], indices: &[i32], data: &Values) -> Result<()> {
        let indptr = offsets(indptr, indices.len(), data.len())?;
        for_dtype!(self.spec.stored, T => self.rows::<T>(&indptr, indices, &self.cast(data)?))
    }

    /// The next source columns, as CSC.
    ///
    /// # Errors
    /// As [`MatrixWriter::push_rows`].
    pub fn push_columns(&mut self, indptr: &[i64], indices: &[i32], data: &Values) -> Result<()> {
        self.by_columns = true;
        let indptr = offsets(indptr, indices.len(), data.len())?;
        for_dtype!(self.spec.stored, T => self.scatter::<T>(&indptr, indices, &self.cast(data)?))
    }

    /// The next source rows, row-major, `width` values each.
    ///
    /// # Errors
    /// As [`MatrixWriter::push_rows`].
    pub fn push_dense(&mut self, width: usize, data: &Values) -> Result<()> {
        if width as u64 != self.spec.source_columns() {
            let what = "a block has the wrong number of columns";
            return Err(self.spec.broken(what, self.spec.source_columns(), width as u64));
        }
        for_dtype!(self.spec.stored, T => self.dense::<T>(width, &self.cast(data)?))
    }

    /// Writes the rest; returns the number of stored values.
    ///
    /// # Errors
    /// `Corrupt` if rows or columns are missing, `Io` for a full disk.
    pub fn finish(mut self) -> Result<u64> {
        let (what, expected) =
            if self.by_columns { ("columns", self.spec.source_columns()) } else { ("rows", self.spec.shape[0]) };
        // A matrix without columns has rows all the same.
        let empty = self.spec.shape[1] == 0 || self.spec.source_columns() == 0;
        if self.taken != expected && !empty {
            let what = format!("the source ended before all its {what} came");
            return Err(self.spec.broken(what, expected, self.taken));
        }
        if let Some(spill) = self.spill.take() {
            for_dtype!(self.spec.stored, T => spill.finish(|block: Block<T>| self.output.write(block)))?;
        }
        self.output.finish()
    }

    fn cast<T: Num>(&self, data: &Values) -> Result<Vec<T>> {
        for_dtype_values!(data, values => cast_vec(values)).map_err(|e| e.at(self.spec.name.to_string()))
    }

    fn dense<T: Num>(&mut self, width: usize, data: &[T]) -> Result<()> {
        let (mut indptr, mut indices, mut values) = (vec![0], Vec::new(), Vec::new());
        for row in data.chunks_exact(width.max(1)) {
            for (column, &value) in (0..).zip(row).filter(|&(_, &value)| value != T::zero()) {
                indices.push(column);
                values.push(value);
            }
            indptr.push(indices.len());
        }
        self.rows(&indptr, &indices, &values)
    }

    /// Takes the next source rows: straight on, or where rows are permuted through the spill.
    fn rows<T: Num>(&mut self, indptr: &[usize], indices: &[i32], data: &[T]) -> Result<()> {
        if self.spec.rows.is_some() {
            return self.scatter(indptr, indices, data);
        }
        let mut block =
            Block { indptr: vec![0], indices: Vec::with_capacity(indices.len()), data: Vec::with_capacity(data.len()) };
        for ends in indptr.windows(2) {
            for at in ends[0]..ends[1] {
                if let Some(column) = self.spec.column(u64::try_from(indices[at]).unwrap_or(u64::MAX))? {
                    block.indices.push(column);
                    block.data.push(data[at]);
                }
            }
            block.indptr.push(block.indices.len());
        }
        self.taken += indptr.len().saturating_sub(1) as u64;
        self.output.write(block)
    }

    /// Sends the entries of the next source rows, or columns, to their output rows.
    fn scatter<T: Num>(&mut self, indptr: &[usize], indices: &[i32], data: &[T]) -> Result<()> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            empty => {
                let [n_rows, _] = self.spec.shape;
                empty.insert(Spill::new(&self.spill_folder, T::DTYPE, n_rows, self.spec.source_nnz)?)
            }
        };
        for ends in indptr.windows(2) {
            for at in ends[0]..ends[1] {
                let other = u64::try_from(indices[at]).unwrap_or(u64::MAX);
                let (row, column) = if self.by_columns { (other, self.taken) } else { (self.taken, other) };
                let row = self.spec.row(row)?;
                if let Some(column) = self.spec.column(column)? {
                    spill.push(row, column, data[at])?;
                }
            }
            self.taken += 1;
        }
        Ok(())
    }
}

/// Checks offsets against the arrays that they point into.
fn offsets(indptr: &[i64], n_indices: usize, n_data: usize) -> Result<Vec<usize>> {
    let offsets: Option<Vec<usize>> = indptr.iter().map(|&at| usize::try_from(at).ok()).collect();
    let what = match offsets {
        None => "a negative offset",
        Some(offsets) if offsets.first() != Some(&0) || !offsets.is_sorted() => "offsets do not ascend from 0",
        Some(offsets) if offsets.last() != Some(&n_indices) || n_indices != n_data => {
            "offsets, indices and data differ in length"
        }
        Some(offsets) => return Ok(offsets),
    };
    Err(DaoError::new(ErrorKind::Corrupt, format!("a block of the source is broken: {what}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::matrix::Matrix;
    use crate::storage::{Local, Storage};

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
            transposed: false,
        }
    }

    /// Writes a matrix and reads it back, dense, row by row.
    fn written(spec: MatrixSpec, push: impl FnOnce(&mut MatrixWriter) -> Result<()>) -> Result<Vec<Vec<u8>>> {
        let folder = tempfile::tempdir().unwrap();
        let (shape, name) = (spec.shape, spec.name.to_string());
        let mut writer = MatrixWriter::new(&Folder::new(folder.path()), spec)?;
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
            let error = MatrixWriter::new(&Folder::new(folder.path()), spec).err().unwrap();
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
