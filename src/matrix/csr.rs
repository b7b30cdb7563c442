//! Rows of anndata's `csr_matrix` encoding: arrays `data`, `indices`, `indptr`.
//!
//! Source of the encoding: <https://anndata.readthedocs.io/en/stable/fileformat-prose.html>.

use std::sync::Arc;

use super::Rows;
use super::array::ZarrArray;
use super::cast::cast_values;
use super::dtype::{Dtype, Num, for_dtype};
use super::plan::{Piece, pieces};
use crate::error::{DaoError, Result};
use crate::storage::Storage;

/// A CSR matrix whose `indptr` is in memory.
pub struct Csr {
    shape: [u64; 2],
    indptr: Vec<u64>,
    indices: ZarrArray,
    data: ZarrArray,
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
                return Err(DaoError::corrupt(array.place(), "the array's length contradicts indptr")
                    .expected(format!("{nnz} values"))
                    .found(format!("shape {:?}", array.shape())));
            }
        }
        if indices.dtype().is_float() {
            return Err(DaoError::corrupt(indices.place(), "column numbers are not integers"));
        }
        i32::try_from(shape[1])
            .map_err(|_| DaoError::value("more than 2^31 - 1 columns").at(format!("path '{path}'")))?;
        Ok(Self { shape, indptr, indices, data })
    }

    pub fn shape(&self) -> [u64; 2] {
        self.shape
    }

    pub fn dtype(&self) -> Dtype {
        self.data.dtype()
    }

    /// Stored values of a row; 0 past the end.
    pub fn row_nnz(&self, row: u32) -> u64 {
        match self.indptr.get(row as usize..row as usize + 2) {
            Some(&[start, stop]) => stop - start,
            _ => 0,
        }
    }

    /// See [`super::Matrix::read`].
    pub fn read<T: Num>(&self, rows: &[u32]) -> Result<Rows<T>> {
        let mut out = Rows::empty();
        out.rows.extend_from_slice(rows);
        let mut ranges = Vec::with_capacity(rows.len());
        let mut total = 0;
        for &row in rows {
            let Some(&[start, stop]) = self.indptr.get(row as usize..row as usize + 2) else {
                return Err(DaoError::value(format!("row {row} was asked for and the matrix has {}", self.shape[0]))
                    .at(format!("path '{}'", self.data.place()))
                    .hint("the frame belongs to another state of this store"));
            };
            ranges.push(start..stop);
            total += to_len(stop - start)?;
            out.indptr.push(total);
        }
        out.indices = gather(&self.indices, &ranges, total)?;
        out.data = gather(&self.data, &ranges, total)?;
        self.check_columns(&out)?;
        Ok(out)
    }

    /// Columns must ascend within a row and lie within the matrix, or values would land on wrong genes.
    fn check_columns<T>(&self, out: &Rows<T>) -> Result<()> {
        let n_vars = i32::try_from(self.shape[1]).unwrap_or(i32::MAX);
        for (i, ends) in out.indptr.windows(2).enumerate() {
            let row = &out.indices[ends[0]..ends[1]];
            let ordered = row.windows(2).all(|pair| pair[0] < pair[1]);
            if !ordered || row.first().is_some_and(|&c| c < 0) || row.last().is_some_and(|&c| c >= n_vars) {
                return Err(DaoError::corrupt(
                    self.indices.place(),
                    "column numbers of a row are out of order or out of range",
                )
                .at(format!("row {}", out.rows[i]))
                .expected(format!("ascending numbers below {n_vars}"))
                .hint("restore the dataset from a copy, or write it again"));
            }
        }
        Ok(())
    }
}

/// The elements of `ranges` (ascending), one after another.
fn gather<T: Num>(array: &ZarrArray, ranges: &[std::ops::Range<u64>], total: usize) -> Result<Vec<T>> {
    let mut out = vec![T::zero(); total];
    let chunk_len = array.inner_shape().first().copied().unwrap_or(1);
    let pieces = pieces(ranges.iter().cloned(), chunk_len);
    let by_chunk: Vec<&[Piece]> = pieces.chunk_by(|a, b| a.chunk == b.chunk).collect();
    let chunks: Vec<Vec<u64>> = by_chunk.iter().map(|pieces| vec![pieces[0].chunk]).collect();
    for_dtype!(array.dtype(), S => array.decode::<S>(&chunks, |i, values| {
        for piece in by_chunk[i] {
            let from = &values[piece.start..piece.start + piece.len];
            cast_values(from, &mut out[piece.out..piece.out + piece.len])
                .map_err(|e| e.at(format!("path '{}'", array.place())))?;
        }
        Ok(())
    }))?;
    Ok(out)
}

fn read_indptr(array: &ZarrArray, n_obs: u64) -> Result<Vec<u64>> {
    let wrong = |what: &str| DaoError::corrupt(array.place(), what.to_owned());
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

fn to_len(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| DaoError::value("the selection does not fit into memory"))
}
