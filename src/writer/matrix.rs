//! One matrix of a new part, from blocks of source rows or columns.
//!
//! Owns the way from source to output: columns may be mapped or dropped, rows permuted.

use std::ops::Range;
use std::path::PathBuf;

use super::canonical::{CanonicalRows, columns_dtype, for_columns};
use super::folder::Folder;
use super::parallel;
use super::rows::{Columns, Source};
use super::source::{Indices, Slice};
use super::spill::{Block, Entries, Spill};
use crate::error::{DaoError, ErrorKind, Result};
use crate::number::{Dtype, Layout, Num, for_dtype, zeros};
use crate::store::MatrixName;

/// The form that a matrix will have, and how its source maps to it.
#[derive(Debug, Clone)]
pub struct MatrixSpec {
    /// The matrix's name in the part.
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

    /// The source's columns, and what becomes of them.
    fn columns<'a>(&'a self, name: &'a str) -> Columns<'a> {
        Columns { name, source: self.source_columns(), map: self.columns.as_deref() }
    }

    /// The bytes of a value and its column, as rows have them on their way to other places.
    fn entry_bytes(&self) -> usize {
        columns_dtype(self.shape[1]).size() + self.stored.size()
    }

    /// The error for a source that is not what it promised.
    fn broken(&self, what: impl Into<String>, expected: u64, found: u64) -> DaoError {
        DaoError::corrupt(&self.name.to_string(), what).expected(expected).found(found)
    }
}

/// The values of sparse rows that are made ready at a time.
const STEP: usize = 4 << 20;
/// The entries that one thread casts at a time.
const PIECE: usize = 256 << 10;

/// Writes one matrix from the blocks of its source; see the module.
pub struct MatrixWriter {
    spec: MatrixSpec,
    /// The matrix's name, for errors.
    name: String,
    output: CanonicalRows,
    spill_folder: PathBuf,
    spill: Option<Spill>,
    /// The number of source rows (or columns, from a CSC source) taken so far.
    taken: u64,
    by_columns: bool,
}

impl MatrixWriter {
    /// A matrix below the part folder `part`.
    ///
    /// # Errors
    /// `Value` for a spec that contradicts itself, `Io` if the folders cannot be made.
    pub fn new(part: &Folder, spec: MatrixSpec) -> Result<Self> {
        spec.validate()?;
        let output = CanonicalRows::new(part, &spec)?;
        let spill_folder = part.scratch(&format!(".spill-{}", spec.name.to_string().replace('/', "-")));
        let name = spec.name.to_string();
        Ok(Self { spec, name, output, spill_folder, spill: None, taken: 0, by_columns: false })
    }

    /// The matrix's name in the part.
    #[must_use]
    pub fn name(&self) -> &MatrixName {
        &self.spec.name
    }

    /// The next source rows, as CSR.
    ///
    /// # Errors
    /// `Corrupt` for offsets or columns out of range, `Value` for a value the stored type cannot
    /// hold, `Io` for a full disk.
    pub fn push_rows<'a>(
        &mut self,
        indptr: &[i64],
        indices: impl Into<Indices<'a>>,
        data: impl Into<Slice<'a>>,
    ) -> Result<()> {
        let (indices, data) = (indices.into(), data.into());
        let indptr = offsets(indptr, indices.len(), data.len())?;
        let rows: Vec<Range<usize>> = indptr.windows(2).map(|ends| ends[0]..ends[1]).collect();
        self.ranges(&rows, indices, data)
    }

    /// The next source rows, each of which is a range of `indices` and `data`: those of the whole source, in any order.
    ///
    /// # Errors
    /// As [`MatrixWriter::push_rows`].
    pub fn push_ranges<'a>(
        &mut self,
        starts: &[i64],
        stops: &[i64],
        indices: impl Into<Indices<'a>>,
        data: impl Into<Slice<'a>>,
    ) -> Result<()> {
        let (indices, data) = (indices.into(), data.into());
        let len = indices.len().min(data.len());
        let range = |(&start, &stop): (&i64, &i64)| {
            let range = usize::try_from(start).ok()?..usize::try_from(stop).ok()?;
            (range.start <= range.end && range.end <= len).then_some(range)
        };
        let rows: Option<Vec<Range<usize>>> = starts.iter().zip(stops).map(range).collect();
        self.ranges(&rows.ok_or_else(|| broken_block("a row is outside of the arrays"))?, indices, data)
    }

    /// The next source columns, as CSC.
    ///
    /// # Errors
    /// As [`MatrixWriter::push_rows`].
    pub fn push_columns<'a>(
        &mut self,
        indptr: &[i64],
        indices: impl Into<Indices<'a>>,
        data: impl Into<Slice<'a>>,
    ) -> Result<()> {
        self.by_columns = true;
        let (indices, data) = (indices.into(), data.into());
        let indptr = offsets(indptr, indices.len(), data.len())?;
        let mut columns = Vec::new();
        for ends in indptr.windows(2) {
            let column = self.spec.column(self.taken)?;
            self.taken += 1;
            columns.extend(column.filter(|_| ends[0] < ends[1]).map(|column| (column, ends[0]..ends[1])));
        }
        let rows = self.rows_of(indices)?;
        for_dtype!(self.spec.stored, T => {
            let mut cast = zeros::<T>(data.len())?;
            parallel::each_piece(&mut cast, PIECE, |start, to| {
                data.cast(start..start + to.len(), to).map_err(|e| e.at(self.name.clone()))
            })?;
            self.spill(Spill::entry_bytes(size_of::<T>()))?
                .push_entries(&Entries { columns: &columns, rows: &rows, data: &cast })
        })
    }

    /// The next source rows, row-major, `width` values each.
    ///
    /// # Errors
    /// As [`MatrixWriter::push_rows`].
    pub fn push_dense<'a>(&mut self, width: usize, data: impl Into<Slice<'a>>) -> Result<()> {
        let data = data.into();
        if width as u64 != self.spec.source_columns() {
            let what = "a block has the wrong number of columns";
            return Err(self.spec.broken(what, self.spec.source_columns(), width as u64));
        }
        self.rows(Source::Dense { data, width }, data.len() / width.max(1))
    }

    /// Writes the rest; returns the number of stored values.
    ///
    /// # Errors
    /// `Corrupt` if rows or columns are missing, `Io` for a full disk, `Interrupted`.
    pub fn finish(mut self) -> Result<u64> {
        let (what, expected) =
            if self.by_columns { ("columns", self.spec.source_columns()) } else { ("rows", self.spec.shape[0]) };
        // A matrix without columns has rows all the same.
        let empty = self.spec.shape[1] == 0 || self.spec.source_columns() == 0;
        if self.taken != expected && !empty {
            let what = format!("the source ended before all its {what} came");
            return Err(self.spec.broken(what, expected, self.taken));
        }
        // What was spilled has the output's columns.
        let columns = Columns { name: &self.name, source: self.spec.shape[1], map: None };
        match self.spill.take() {
            None => {}
            Some(spill) if self.by_columns => for_dtype!(self.spec.stored, T => {
                spill.finish_entries(|Block { rows, indices, data }: Block<T>| {
                    let data = T::wrap(data);
                    let source = Source::Sparse { rows: &rows, indices: (&indices).into(), data: (&data).into() };
                    self.output.write(source, columns)
                })
            })?,
            Some(spill) => spill.finish_rows(self.spec.entry_bytes(), |rows, bytes| {
                self.output.write(Source::Spilled { rows, bytes }, columns)
            })?,
        }
        self.output.finish()
    }

    /// Takes the next sparse rows, so many at a time that their copies are bounded.
    fn ranges(&mut self, mut rows: &[Range<usize>], indices: Indices<'_>, data: Slice<'_>) -> Result<()> {
        while !rows.is_empty() {
            let (mut n, mut values) = (0, 0);
            while n < rows.len() && (n == 0 || n + values + rows[n].len() <= STEP) {
                values += rows[n].len();
                n += 1;
            }
            let (here, later) = rows.split_at(n);
            self.rows(Source::Sparse { rows: here, indices, data }, n)?;
            rows = later;
        }
        Ok(())
    }

    /// Takes the next `n` source rows: straight on, or where rows are permuted through the spill.
    fn rows(&mut self, source: Source<'_>, n: usize) -> Result<()> {
        let before = self.taken;
        self.taken += n as u64;
        let Some(to) = &self.spec.rows else { return self.output.write(source, self.spec.columns(&self.name)) };
        let range = usize::try_from(before).ok().and_then(|start| to.get(start..start + n));
        let to = range.ok_or_else(|| self.spec.broken("more rows than there are", self.spec.shape[0], self.taken))?;
        let to = to.to_vec();
        let mut lengths = source.lengths()?;
        let room = lengths.iter().sum();
        for_columns!(columns_dtype(self.spec.shape[1]), I => for_dtype!(self.spec.stored, T => {
            let (mut indices, mut data) = (zeros::<I>(room)?, zeros::<T>(room)?);
            source.write(self.spec.columns(&self.name), &mut lengths, &mut indices, &mut data)?;
            self.spill(self.spec.entry_bytes())?.push_rows(&to, &lengths, &indices, &data)
        }))
    }

    /// Where entries of `entry_bytes` go on their way to their rows.
    fn spill(&mut self, entry_bytes: usize) -> Result<&mut Spill> {
        match &mut self.spill {
            Some(spill) => Ok(spill),
            empty => {
                let [n_rows, _] = self.spec.shape;
                Ok(empty.insert(Spill::new(&self.spill_folder, entry_bytes, n_rows, self.spec.source_nnz)?))
            }
        }
    }

    /// The output rows of the entries of columns, whose source rows are `indices`.
    fn rows_of(&self, indices: Indices<'_>) -> Result<Vec<u32>> {
        let mut to = zeros::<u32>(indices.len())?;
        let row = |source: u64| {
            let row = match &self.spec.rows {
                Some(rows) => usize::try_from(source).ok().and_then(|source| rows.get(source)).copied(),
                None => u32::try_from(source).ok().filter(|_| source < self.spec.shape[0]),
            };
            row.ok_or_else(|| self.spec.broken("a row number is out of range", self.spec.shape[0], source))
        };
        parallel::each_piece(&mut to, PIECE, |start, to| {
            for (i, to) in (start..).zip(to) {
                *to = row(indices.get(i))?;
            }
            Ok(())
        })?;
        Ok(to)
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
    Err(broken_block(what))
}

fn broken_block(what: &str) -> DaoError {
    DaoError::new(ErrorKind::Corrupt, format!("a block of the source is broken: {what}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::matrix::Matrix;
    use crate::number::Values;
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
        let mut writer =
            MatrixWriter::new(&Folder::new(Arc::new(Local::new(folder.path()).unwrap()), "p").unwrap(), spec)?;
        push(&mut writer)?;
        let nnz = writer.finish()?;
        let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
        let rows: Vec<u32> = (0..u32::try_from(shape[0]).unwrap()).collect();
        let found = Matrix::open(&storage, &format!("p/zarr/{name}"), shape).unwrap().rows::<u8>(&rows).unwrap();
        assert_eq!(found.data.len() as u64, nnz);
        let mut dense = vec![vec![0; usize::try_from(shape[1]).unwrap()]; rows.len()];
        for (row, ends) in dense.iter_mut().zip(found.indptr.windows(2)) {
            for at in ends[0]..ends[1] {
                row[usize::try_from(found.indices[at]).unwrap()] = found.data[at];
            }
        }
        let left: Vec<_> =
            folder.path().join("p").read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
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

    /// Rows that lie in the source's arrays in another order, with something between them.
    fn by_ranges(writer: &mut MatrixWriter) -> Result<()> {
        let (indices, data) = ([0, 1, 3, 9, 2, 0, 3_i64], Values::F32(vec![4.0, 5.0, 6.0, 0.5, 2.0, 1.0, 3.0]));
        writer.push_ranges(&[4, 6, 0], &[6, 7, 3], &indices[..], &data)
    }

    const WAYS: [fn(&mut MatrixWriter) -> Result<()>; 4] = [by_rows, by_columns, dense, by_ranges];

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
            let error =
                MatrixWriter::new(&Folder::new(Arc::new(Local::new(folder.path()).unwrap()), "p").unwrap(), spec)
                    .err()
                    .unwrap();
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
        assert_eq!(kind(|w| w.push_ranges(&[0, 1], &[1, 3], &[0, 1], &Values::U8(vec![1, 2]))), ErrorKind::Corrupt);
        assert_eq!(kind(|w| w.push_ranges(&[0, -1], &[1, 1], &[0, 1], &Values::U8(vec![1, 2]))), ErrorKind::Corrupt);
        assert_eq!(kind(|w| w.push_dense(3, &Values::U8(vec![1, 2, 3]))), ErrorKind::Corrupt);
        assert_eq!(kind(|w| w.push_rows(&[0, 1], &[0], &Values::I16(vec![256]))), ErrorKind::Value);
    }
}
