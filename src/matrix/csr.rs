//! Rows of anndata's `csr_matrix` encoding: arrays `data`, `indices`, `indptr`.
//!
//! Owns what must hold between the three arrays, and that no column is out of order or range.
//! The encoding: <https://anndata.readthedocs.io/en/stable/fileformat-prose.html>.

use std::ops::Range;
use std::sync::Arc;

use super::array::ZarrArray;
use super::packed::{Fetched, Packed};
use super::plan::{ElementRun, pieces};
use super::{RowSink, Rows};
use crate::error::{DaoError, Result};
use crate::number::cast_values;
use crate::number::{Dtype, Num, for_dtype};
use crate::storage::Storage;

/// The number of rows of chunked arrays that are put together at a time.
const STEP: usize = 4096;

/// A CSR matrix whose `indptr` is in memory.
pub struct Csr {
    shape: [u64; 2],
    indptr: Vec<u64>,
    arrays: StoredArrays,
}

/// The arrays `indices` and `data`, by how they are read.
enum StoredArrays {
    /// Both arrays are in `dao_polars.pfor`: rows are decoded one by one, straight to their place.
    Packed { indices: Packed, data: Packed },
    /// Other codecs: inner chunks are decoded one by one, and their rows put together.
    Chunked { indices: ZarrArray, data: ZarrArray },
}

impl Csr {
    /// Opens the three arrays and reads `indptr` (8 bytes a row).
    ///
    /// # Errors
    /// `NotFound`/`Corrupt` if they are missing or contradict each other.
    pub fn open(storage: &Arc<dyn Storage>, path: &str, shape: [u64; 2]) -> Result<Self> {
        let indices = ZarrArray::open(storage, &format!("{path}/indices"))?;
        let data = ZarrArray::open(storage, &format!("{path}/data"))?;
        let pointers = ZarrArray::open(storage, &format!("{path}/indptr"))?;
        let indptr = read_indptr(&pointers, shape[0])?;
        let nnz = indptr.last().copied().unwrap_or(0);
        for array in [&indices, &data] {
            if array.shape() != [nnz] {
                return Err(DaoError::corrupt(array.uri(), "the array's length contradicts indptr")
                    .expected(format!("{nnz} values"))
                    .found(format!("shape {:?}", array.shape())));
            }
        }
        if indices.dtype().is_float() {
            return Err(DaoError::corrupt(indices.uri(), "column numbers are not integers"));
        }
        i32::try_from(shape[1])
            .map_err(|_| DaoError::value("more than 2^31 - 1 columns").at(format!("path '{path}'")))?;
        let arrays = match (Packed::new(indices)?, Packed::new(data)?) {
            (Ok(indices), Ok(data)) => StoredArrays::Packed { indices, data },
            (indices, data) => StoredArrays::Chunked {
                indices: indices.map_or_else(|array| array, Packed::into_array),
                data: data.map_or_else(|array| array, Packed::into_array),
            },
        };
        Ok(Self { shape, indptr, arrays })
    }

    /// The numbers of rows and columns.
    pub fn shape(&self) -> [u64; 2] {
        self.shape
    }

    /// The array of columns.
    fn indices(&self) -> &ZarrArray {
        match &self.arrays {
            StoredArrays::Packed { indices, .. } => indices.array(),
            StoredArrays::Chunked { indices, .. } => indices,
        }
    }

    /// The array of values.
    fn data(&self) -> &ZarrArray {
        match &self.arrays {
            StoredArrays::Packed { data, .. } => data.array(),
            StoredArrays::Chunked { data, .. } => data,
        }
    }

    /// The number type that the values are stored in.
    pub fn dtype(&self) -> Dtype {
        self.data().dtype()
    }

    /// The number of stored values of a row; 0 past the end.
    pub fn row_nnz(&self, row: u32) -> u64 {
        match self.indptr.get(row as usize..row as usize + 2) {
            Some(&[start, stop]) => stop - start,
            _ => 0,
        }
    }

    /// Whether both arrays are in the codec `dao_polars.pfor`.
    pub fn is_packed(&self) -> bool {
        matches!(self.arrays, StoredArrays::Packed { .. })
    }

    /// The number of stored values of all rows.
    pub fn nnz(&self) -> u64 {
        self.indptr.last().copied().unwrap_or(0)
    }

    /// The range, in `indices` and `data`, of `part` of a row, counted from its first; `Value` past its end.
    fn range(&self, row: u32, part: Range<u64>) -> Result<Range<u64>> {
        let start = self.indptr.get(row as usize).copied().unwrap_or(0);
        if part.start > part.end || part.end > self.row_nnz(row) {
            return Err(DaoError::value(format!("values {part:?} of row {row}, which has {}", self.row_nnz(row)))
                .at(format!("path '{}'", self.data().uri())));
        }
        Ok(start + part.start..start + part.end)
    }

    /// The columns of part of a row.
    pub fn columns(&self, row: u32, part: Range<u64>) -> Result<Vec<i32>> {
        let range = self.range(row, part)?;
        let columns = match &self.arrays {
            StoredArrays::Packed { indices, .. } => decoded(indices, range)?,
            StoredArrays::Chunked { indices, .. } => {
                let n = to_len(range.end - range.start)?;
                gather(indices, &[range], n)?
            }
        };
        self.check_columns(row, &columns)?;
        Ok(columns)
    }

    /// The columns and values of part of a row, which may be long.
    pub fn part<T: Num>(&self, row: u32, part: Range<u64>) -> Result<(Vec<i32>, Vec<T>)> {
        let columns = self.columns(row, part.clone())?;
        let range = self.range(row, part)?;
        let values = match &self.arrays {
            StoredArrays::Packed { data, .. } => decoded(data, range)?,
            StoredArrays::Chunked { data, .. } => gather(data, &[range], columns.len())?,
        };
        Ok((columns, values))
    }

    /// Whether rows are decoded one by one; see [`super::Matrix::reads_rows`].
    pub fn reads_rows(&self) -> bool {
        matches!(&self.arrays, StoredArrays::Packed { data, .. } if data.array().storage().local_root().is_some())
    }

    /// Decodes rows into `sink`; see [`super::Matrix::read`].
    pub fn read<T: Num>(&self, rows: &[u32], sink: &mut dyn RowSink<T>) -> Result<()> {
        let mut ranges = Vec::with_capacity(rows.len());
        for &row in rows {
            let Some(&[start, stop]) = self.indptr.get(row as usize..row as usize + 2) else {
                return Err(DaoError::value(format!("row {row} was asked for and the matrix has {}", self.shape[0]))
                    .at(format!("path '{}'", self.data().uri()))
                    .hint("the frame belongs to another state of this store"));
            };
            ranges.push(start..stop);
        }
        match &self.arrays {
            StoredArrays::Packed { indices, data } => {
                let (mut for_indices, mut for_data) = (Fetched::default(), Fetched::default());
                indices.fetch(&ranges, &mut for_indices)?;
                data.fetch(&ranges, &mut for_data)?;
                for (i, range) in ranges.into_iter().enumerate() {
                    sink.row(i, to_len(range.end - range.start)?, &mut |columns, values| {
                        indices.decode(range.clone(), columns, &mut for_indices)?;
                        self.check_columns(rows[i], columns)?;
                        data.decode(range.clone(), values, &mut for_data)
                    })?;
                }
                Ok(())
            }
            StoredArrays::Chunked { indices, data } => {
                let steps = rows.chunks(STEP).zip(ranges.chunks(STEP));
                for (step, (rows, ranges)) in steps.enumerate() {
                    let all = gather_rows::<T>(indices, data, rows, ranges)?;
                    for (i, (&row, ends)) in rows.iter().zip(all.indptr.windows(2)).enumerate() {
                        let (from_columns, from_values) = (&all.indices[ends[0]..ends[1]], &all.data[ends[0]..ends[1]]);
                        self.check_columns(row, from_columns)?;
                        sink.row(step * STEP + i, from_columns.len(), &mut |columns, values| {
                            columns.copy_from_slice(from_columns);
                            values.copy_from_slice(from_values);
                            Ok(())
                        })?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Refuses columns that do not ascend within their row or lie outside the matrix: values would land on
    /// wrong genes.
    fn check_columns(&self, row: u32, columns: &[i32]) -> Result<()> {
        let n_vars = i32::try_from(self.shape[1]).unwrap_or(i32::MAX);
        // All pairs are compared without a branch, so that the compiler does eight at a time.
        let disordered = columns.iter().zip(columns.iter().skip(1)).fold(false, |bad, (a, b)| bad | (a >= b));
        if !disordered && columns.first().is_none_or(|&c| c >= 0) && columns.last().is_none_or(|&c| c < n_vars) {
            return Ok(());
        }
        Err(DaoError::corrupt(self.indices().uri(), "column numbers of a row are out of order or out of range")
            .at(format!("row {row}"))
            .expected(format!("ascending numbers below {n_vars}"))
            .hint("restore the dataset from a copy, or write it again"))
    }
}

/// The values `range` of a packed array.
fn decoded<T: Num>(array: &Packed, range: Range<u64>) -> Result<Vec<T>> {
    let mut fetched = Fetched::default();
    array.fetch(std::slice::from_ref(&range), &mut fetched)?;
    let mut values = vec![T::zero(); to_len(range.end - range.start)?];
    array.decode(range, &mut values, &mut fetched)?;
    Ok(values)
}

/// Rows of chunked arrays, one after another.
fn gather_rows<T: Num>(indices: &ZarrArray, data: &ZarrArray, rows: &[u32], ranges: &[Range<u64>]) -> Result<Rows<T>> {
    let mut all = Rows::empty();
    all.rows.extend_from_slice(rows);
    let mut end = 0;
    for range in ranges {
        end += to_len(range.end - range.start)?;
        all.indptr.push(end);
    }
    all.indices = gather(indices, ranges, end)?;
    all.data = gather(data, ranges, end)?;
    Ok(all)
}

/// The elements of `ranges` (ascending), one after another.
pub fn gather<T: Num>(array: &ZarrArray, ranges: &[Range<u64>], total: usize) -> Result<Vec<T>> {
    let mut out = vec![T::zero(); total];
    let chunk_len = array.inner_shape().first().copied().unwrap_or(1);
    let pieces = pieces(ranges.iter().cloned(), chunk_len);
    let by_chunk: Vec<&[ElementRun]> = pieces.chunk_by(|a, b| a.chunk == b.chunk).collect();
    let chunks: Vec<Vec<u64>> = by_chunk.iter().map(|pieces| vec![pieces[0].chunk]).collect();
    for_dtype!(array.dtype(), S => array.decode::<S>(&chunks, |i, values| {
        for piece in by_chunk[i] {
            let from = &values[piece.start..piece.start + piece.len];
            cast_values(from, &mut out[piece.out..piece.out + piece.len])
                .map_err(|e| e.at(format!("path '{}'", array.uri())))?;
        }
        Ok(())
    }))?;
    Ok(out)
}

/// Reads `indptr`, which must ascend from 0.
fn read_indptr(array: &ZarrArray, n_obs: u64) -> Result<Vec<u64>> {
    let wrong = |what: &str| DaoError::corrupt(array.uri(), what.to_owned());
    if array.shape() != [n_obs + 1] {
        return Err(wrong("indptr has the wrong length")
            .expected(format!("{} values", n_obs + 1))
            .found(format!("shape {:?}", array.shape())));
    }
    let indptr: Vec<u64> = gather(array, std::slice::from_ref(&(0..n_obs + 1)), to_len(n_obs + 1)?)?;
    if indptr.first() != Some(&0) || indptr.windows(2).any(|pair| pair[0] > pair[1]) {
        return Err(wrong("indptr does not ascend from 0"));
    }
    Ok(indptr)
}

/// A number of values as a length in memory, or an error where memory cannot hold so many.
fn to_len(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| DaoError::value("the selection does not fit into memory"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;
    use crate::matrix::testing::{SparseRows, assert_says, storage, write_parts, write_sparse};

    const SHAPE: [u64; 2] = [3, 10];

    fn open(folder: &tempfile::TempDir, shape: [u64; 2]) -> Result<Csr> {
        Csr::open(&storage(folder.path()), "X", shape)
    }

    fn parts(indptr: &[u64], indices: &[i32], packed: bool) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let data = vec![1_u16; indices.len()];
        write_parts(&folder.path().join("X"), "csr_matrix", SHAPE, indptr, indices, &data, packed);
        folder
    }

    fn read(csr: &Csr, rows: &[u32]) -> Result<SparseRows> {
        let mut all = Rows::<u16>::empty();
        csr.read(rows, &mut all)?;
        let row = |ends: &[usize]| {
            let range = ends[0]..ends[1];
            all.indices[range.clone()].iter().copied().zip(all.data[range].iter().copied()).collect()
        };
        Ok(all.indptr.windows(2).map(row).collect())
    }

    /// Rows of up to 40 columns.
    pub fn rows() -> impl Strategy<Value = SparseRows> {
        let row = prop::collection::btree_map(0..40, 1_u16.., 0..30);
        prop::collection::vec(row.prop_map(|row| row.into_iter().collect()), 1..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn rows_come_back(rows in rows(), wanted in prop::collection::btree_set(0_u32..30, 0..30), packed: bool) {
            let folder = tempfile::tempdir().unwrap();
            let shape = [rows.len() as u64, 40];
            write_sparse(&folder.path().join("X"), "csr_matrix", shape, &rows, packed);
            let csr = open(&folder, shape).unwrap();
            prop_assert_eq!(csr.is_packed(), packed);
            let wanted: Vec<u32> = wanted.into_iter().filter(|&row| (row as usize) < rows.len()).collect();
            let expected: SparseRows = wanted.iter().map(|&row| rows[row as usize].clone()).collect();
            prop_assert_eq!(read(&csr, &wanted).unwrap(), expected);
            for (i, row) in (0..).zip(&rows) {
                prop_assert_eq!(csr.row_nnz(i), row.len() as u64);
                let from = row.len() as u64 / 3;
                let (columns, values) = csr.part::<u16>(i, from..row.len() as u64).unwrap();
                let part: Vec<(i32, u16)> = columns.into_iter().zip(values).collect();
                prop_assert_eq!(&part[..], &row[row.len() / 3..]);
                prop_assert!(csr.columns(i, 0..row.len() as u64 + 1).is_err());
            }
            prop_assert_eq!(csr.row_nnz(u32::MAX), 0);
        }
    }

    #[test]
    fn rows_past_the_end_are_an_error() {
        for packed in [true, false] {
            let folder = parts(&[0, 1, 2, 3], &[1, 2, 3], packed);
            let error = read(&open(&folder, SHAPE).unwrap(), &[0, 3]).unwrap_err();
            assert_says(&error, ErrorKind::Value, folder.path(), "row 3 was asked for and the matrix has 3");
        }
    }

    #[test]
    fn columns_out_of_order_or_range_are_an_error() {
        for packed in [true, false] {
            for (indices, row) in [([1, 3, 2], 1), ([1, 2, 2], 1), ([1, 2, 10], 1), ([-1, 2, 3], 0)] {
                let folder = parts(&[0, 1, 3, 3], &indices, packed);
                let error = read(&open(&folder, SHAPE).unwrap(), &[0, 1, 2]).unwrap_err();
                assert_says(&error, ErrorKind::Corrupt, folder.path(), &format!("row {row}"));
                assert!(error.to_string().contains("Restore the dataset"), "{error}");
            }
        }
    }

    #[test]
    fn arrays_that_contradict_each_other_are_an_error() {
        let cases: [(&[u64], &[i32], &str); 4] = [
            (&[0, 1, 2], &[1, 2], "indptr has the wrong length"),
            (&[0, 2, 1, 2], &[1, 2], "indptr does not ascend from 0"),
            (&[1, 1, 2, 2], &[1, 2], "indptr does not ascend from 0"),
            (&[0, 1, 2, 4], &[1, 2, 3], "contradicts indptr"),
        ];
        for (indptr, indices, what) in cases {
            for packed in [true, false] {
                let folder = parts(indptr, indices, packed);
                assert_says(&open(&folder, SHAPE).err().unwrap(), ErrorKind::Corrupt, folder.path(), what);
            }
        }
        let folder = parts(&[0, 1, 2, 3], &[1, 2, 3], false);
        std::fs::remove_dir_all(folder.path().join("X/data")).unwrap();
        assert_says(&open(&folder, SHAPE).err().unwrap(), ErrorKind::NotFound, folder.path(), "X/data");
    }
}
