//! Rows of anndata's `csr_matrix` encoding: arrays `data`, `indices`, `indptr`.
//!
//! Owns what must hold between the three arrays, and that no column is out of order or range.
//! The encoding: <https://anndata.readthedocs.io/en/stable/fileformat-prose.html>.

mod few;
mod offsets;
mod stored;

use std::ops::Range;
use std::sync::Arc;

use super::RowSink;
use super::array::ZarrArray;
use super::packed::Packed;
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Num, ascend};
use crate::storage::{Held, Storage};
use offsets::Offsets;
pub(super) use stored::read_all;
use stored::{StoredArray, to_len};

/// The number of rows that are put together at a time, where an array is not packed.
const STEP: usize = 4096;

/// The rows between the one that is decoded and the one whose bytes are asked for; twice as many to the one whose place
/// is.
const AHEAD: usize = 4;

/// A CSR matrix.
pub struct Csr {
    shape: [u64; 2],
    indptr: Offsets,
    indices: StoredArray,
    data: StoredArray,
}

impl Csr {
    /// Opens the three arrays; `NotFound`/`Corrupt` if they are missing or contradict each other.
    pub fn open(storage: &Arc<dyn Storage>, path: &str, shape: [u64; 2]) -> Result<Self> {
        let indices = StoredArray::open(storage, &format!("{path}/indices"))?;
        let data = StoredArray::open(storage, &format!("{path}/data"))?;
        let indptr = Offsets::open(storage, &format!("{path}/indptr"), shape)?;
        let nnz = indptr.end();
        for array in [indices.array(), data.array()] {
            if array.shape() != [nnz] {
                return Err(DaoError::corrupt(array.uri(), "the array's length contradicts indptr")
                    .expected(format!("{nnz} values"))
                    .found(format!("shape {:?}", array.shape())));
            }
        }
        if indices.array().dtype().is_float() {
            return Err(DaoError::corrupt(indices.array().uri(), "column numbers are not integers"));
        }
        i32::try_from(shape[1])
            .map_err(|_| DaoError::value("more than 2^31 - 1 columns").at(format!("path '{path}'")))?;
        Ok(Self { shape, indptr, indices, data })
    }

    /// The numbers of rows and columns.
    pub fn shape(&self) -> [u64; 2] {
        self.shape
    }

    /// The array of values.
    pub fn array(&self) -> &ZarrArray {
        self.data.array()
    }

    /// The number type that the values are stored in.
    pub fn dtype(&self) -> Dtype {
        self.data.array().dtype()
    }

    /// Holds in memory where rows lie; see [`super::Matrix::hold_rows`].
    pub fn hold_rows(&self) -> Result<()> {
        self.indptr.hold()
    }

    /// The number of stored values of a row; 0 past the end.
    pub fn row_nnz(&self, row: u32) -> Result<u64> {
        Ok(self.indptr.row(row)?.map_or(0, |range| range.end - range.start))
    }

    /// The number of stored values of each row; 0 past the end.
    pub fn row_lengths(&self, rows: &[u32]) -> Result<Vec<u64>> {
        let found = self.indptr.rows(rows)?;
        Ok(found.into_iter().map(|range| range.map_or(0, |range| range.end - range.start)).collect())
    }

    /// The number of stored values of a row, or of the mean row where it would have to be looked up.
    pub fn about_nnz(&self, row: u32) -> u64 {
        match self.indptr.held_row(row) {
            Some(range) => range.end - range.start,
            None => self.nnz() / self.shape[0].max(1),
        }
    }

    /// Where a row lies in `indices` and `data`; past the end `0..0`.
    pub fn row_place(&self, row: u32) -> Result<Range<u64>> {
        Ok(self.indptr.row(row)?.unwrap_or(0..0))
    }

    /// Whether both arrays are in the codec `dao_polars.pfor`.
    pub fn is_packed(&self) -> bool {
        matches!((&self.indices, &self.data), (StoredArray::Packed(_), StoredArray::Packed(_)))
    }

    /// The number of stored values of all rows.
    pub fn nnz(&self) -> u64 {
        self.indptr.end()
    }

    /// The range, in `indices` and `data`, of `part` of a row, counted from its first; `Value` past its end.
    fn range(&self, row: u32, part: Range<u64>) -> Result<Range<u64>> {
        let all = self.indptr.row(row)?.unwrap_or(0..0);
        if part.start > part.end || part.end > all.end - all.start {
            return Err(DaoError::value(format!("values {part:?} of row {row}, which has {}", all.end - all.start))
                .at(format!("path '{}'", self.data.array().uri())));
        }
        Ok(all.start + part.start..all.start + part.end)
    }

    /// The columns of part of a row.
    pub fn columns(&self, row: u32, part: Range<u64>) -> Result<Vec<i32>> {
        let columns = self.indices.values(self.range(row, part)?)?;
        self.check_columns(row, &columns)?;
        Ok(columns)
    }

    /// The columns and values of part of a row, which may be long.
    pub fn part<T: Num>(&self, row: u32, part: Range<u64>) -> Result<(Vec<i32>, Vec<T>)> {
        Ok((self.columns(row, part.clone())?, self.data.values(self.range(row, part)?)?))
    }

    /// Whether rows are decoded one by one; see [`super::Matrix::reads_rows`].
    pub fn reads_rows(&self) -> bool {
        self.is_packed() && !self.is_remote()
    }

    /// Whether values or columns are on another machine, as far as is known without asking.
    pub fn is_remote(&self) -> bool {
        let is_whole = |array: &StoredArray| matches!(array, StoredArray::Packed(packed) if packed.is_whole());
        self.array().storage().local_root().is_none() && ![&self.indices, &self.data].into_iter().all(is_whole)
    }

    /// Begins to read where rows (ascending) lie; see [`super::Matrix::locate_ahead`].
    pub fn locate_ahead(&self, rows: &[u32], wanted: Option<&[bool]>) -> Result<Option<Box<dyn Held>>> {
        if !self.is_remote() {
            return Ok(None);
        }
        let ranges = self.row_ranges(rows)?;
        self.locate(&self.arrays_ahead(&ranges, wanted), &ranges)
    }

    /// Begins to read rows (ascending) that are decoded soon; see [`super::Matrix::read_ahead`].
    pub fn read_ahead(&self, rows: &[u32], wanted: Option<&[bool]>) -> Result<Option<Box<dyn Held>>> {
        if self.is_remote() { self.ask(&self.row_ranges(rows)?, wanted) } else { Ok(None) }
    }

    fn row_ranges(&self, rows: &[u32]) -> Result<Vec<Range<u64>>> {
        let ranges: Vec<Range<u64>> = self.indptr.rows(rows)?.into_iter().flatten().collect();
        self.indptr.check_ascend(rows, &ranges)?;
        Ok(ranges)
    }

    fn locate(&self, arrays: &[&StoredArray], ranges: &[Range<u64>]) -> Result<Option<Box<dyn Held>>> {
        let directories = arrays.iter().map(|array| array.wanted_directories(ranges)).collect::<Result<Vec<_>>>()?;
        self.array().storage().read_ahead(directories.concat())
    }

    /// Begins to read what rows in `ranges` need, unless it is here.
    fn ask(&self, ranges: &[Range<u64>], wanted: Option<&[bool]>) -> Result<Option<Box<dyn Held>>> {
        let arrays = self.arrays_ahead(ranges, wanted);
        if arrays.iter().map(|array| array.is_near(ranges)).collect::<Result<Vec<_>>>()?.iter().all(|&near| near) {
            return Ok(None);
        }
        let _directories = self.locate(&arrays, ranges)?;
        let values = arrays.iter().map(|array| array.wanted(ranges)).collect::<Result<Vec<_>>>()?;
        self.array().storage().read_ahead(values.concat())
    }

    /// The arrays that are read ahead: columns and values together, unless it depends on the columns which values are needed.
    fn arrays_ahead(&self, ranges: &[Range<u64>], wanted: Option<&[bool]>) -> Vec<&StoredArray> {
        let looks_first = wanted.is_some_and(|wanted| self.looks_first(ranges, wanted));
        if looks_first { vec![&self.indices] } else { vec![&self.indices, &self.data] }
    }

    /// Decodes rows into `sink`; see [`super::Matrix::read`].
    pub fn read<T: Num>(&self, rows: &[u32], wanted: Option<&[bool]>, sink: &mut dyn RowSink<T>) -> Result<()> {
        let there = |(&row, range): (&u32, Option<Range<u64>>)| {
            range.ok_or_else(|| {
                DaoError::value(format!("row {row} was asked for and the matrix has {}", self.shape[0]))
                    .at(format!("path '{}'", self.data.array().uri()))
                    .hint("the frame belongs to another state of this store")
            })
        };
        let ranges: Vec<Range<u64>> = rows.iter().zip(self.indptr.rows(rows)?).map(there).collect::<Result<_>>()?;
        self.indptr.check_ascend(rows, &ranges)?;
        // Columns and values are asked for together.
        let _held = if self.is_remote() { self.ask(&ranges, wanted)? } else { None };
        if let Some(wanted) = wanted.filter(|wanted| self.looks_first(&ranges, wanted)) {
            return self.read_few(rows, &ranges, wanted, sink);
        }
        let step = if self.is_packed() { rows.len().max(1) } else { STEP };
        for (number, (rows, ranges)) in rows.chunks(step).zip(ranges.chunks(step)).enumerate() {
            let (mut indices, mut data) = (self.indices.ready(ranges)?, self.data.ready(ranges)?);
            let told_ahead = [indices.told_ahead(), data.told_ahead()];
            let mut at = 0;
            for (i, (&row, range)) in rows.iter().zip(ranges).enumerate() {
                let nnz = to_len(range.end - range.start)?;
                if let Some(range) = ranges.get(i + 2 * AHEAD) {
                    told_ahead.iter().flatten().for_each(|array| array.will_locate(range));
                }
                // One after the other: the processor waits for some twenty lines at a time, and no more.
                let will_decode = |array: Option<&Packed>| {
                    if let (Some(array), Some(range)) = (array, ranges.get(i + AHEAD)) {
                        array.will_decode(range);
                    }
                };
                will_decode(told_ahead[0]);
                sink.row(number * step + i, nnz, &mut |columns, values| {
                    indices.write(range.clone(), at, columns)?;
                    self.check_columns(row, columns)?;
                    will_decode(told_ahead[1]);
                    data.write(range.clone(), at, values)
                })?;
                at += nnz;
            }
        }
        Ok(())
    }

    /// Refuses columns that do not ascend within their row or lie outside the matrix: values would land on
    /// wrong genes.
    fn check_columns(&self, row: u32, columns: &[i32]) -> Result<()> {
        let n_vars = i32::try_from(self.shape[1]).unwrap_or(i32::MAX);
        if ascend(columns) && columns.first().is_none_or(|&c| c >= 0) && columns.last().is_none_or(|&c| c < n_vars) {
            return Ok(());
        }
        Err(DaoError::corrupt(self.indices.array().uri(), "column numbers of a row are out of order or out of range")
            .at(format!("row {row}"))
            .expected(format!("ascending numbers below {n_vars}"))
            .hint("restore the dataset from a copy, or write it again"))
    }
}

#[cfg(test)]
mod tests;
