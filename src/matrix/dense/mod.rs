//! Rows of one two-dimensional array, of any chunking: sfaira's matrices, and `obsm`.
//!
//! Owns which parts of chunks are decoded: the blocks of blosc that wanted rows lie in, the rows alone of
//! chunks that are not compressed, and whole chunks otherwise. A *band* is the rows that a row of chunks
//! holds. Rows become small ([`compact_row`]) before they are written out; those that were decoded along
//! with wanted ones are kept in a [`RowCache`]. Knows no other matrix, and not why these rows are wanted.

mod cached;
mod chunk;
mod compact_row;
mod frame;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::RowSink;
use super::array::{ChunkEncoding, ZarrArray};
use super::cache::RowCache;
use super::plan::to_usize;
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Num};
use crate::storage::{Held, Storage};
use compact_row::ColumnMask;
pub use compact_row::CompactRow;

/// The most columns of a dense matrix, far above any number of genes or peaks: rows are built with a bit for each.
const MAX_COLUMNS: u64 = 1 << 24;

/// The most chunks beside each other: all that are wanted are looked for in turn, whether they are there or not.
const MAX_COLUMN_CHUNKS: u64 = 1 << 18;

/// A dense matrix on one two-dimensional zarr array.
pub struct Dense {
    array: ZarrArray,
    encoding: ChunkEncoding,
    /// The bytes of values that are decoded together, as in the chunk read last; 0 before the first.
    block_len: AtomicUsize,
    /// The numbers of rows and of values read so far, for [`Dense::row_bytes`].
    seen: [AtomicU64; 2],
}

/// The wanted columns, and the column chunks that contain any of them.
struct WantedColumns {
    mask: Option<ColumnMask>,
    chunks: Vec<u64>,
}

impl Dense {
    /// Opens the array at `path`; `NotFound`/`Corrupt` if it is missing, or not two-dimensional.
    pub fn open(storage: &Arc<dyn Storage>, path: &str) -> Result<Self> {
        let array = ZarrArray::open(storage, path)?;
        if array.shape().len() != 2 || array.shape()[1] > MAX_COLUMNS {
            return Err(DaoError::corrupt(array.uri(), "not a matrix")
                .expected(format!("two axes, at most {MAX_COLUMNS} columns"))
                .found(format!("shape {:?}", array.shape())));
        }
        let n_chunks = array.shape()[1].div_ceil(array.inner_shape()[1]);
        if n_chunks > MAX_COLUMN_CHUNKS {
            return Err(DaoError::corrupt(array.uri(), "the matrix's chunks are too narrow to be read")
                .expected(format!("at most {MAX_COLUMN_CHUNKS} beside each other"))
                .found(n_chunks));
        }
        Ok(Self { encoding: array.encoding(), array, block_len: AtomicUsize::new(0), seen: Default::default() })
    }

    /// The numbers of rows and columns.
    pub fn shape(&self) -> [u64; 2] {
        [self.array.shape()[0], self.array.shape()[1]]
    }

    /// The array.
    pub fn array(&self) -> &ZarrArray {
        &self.array
    }

    /// The number type that the values are stored in.
    pub fn dtype(&self) -> Dtype {
        self.array.dtype()
    }

    /// The bytes of a row's columns and values, as in the rows read so far; before that, for one value in eight.
    pub fn row_bytes(&self) -> u64 {
        let [rows, values] = [0, 1].map(|i| self.seen[i].load(Ordering::Relaxed));
        let mean = values.checked_div(rows).unwrap_or(self.shape()[1] / 8);
        12 * (mean + mean / 4 + 1).min(self.shape()[1].max(1))
    }

    /// Whether rows are decoded along with other rows.
    pub fn keeps_rows(&self) -> bool {
        self.encoding != ChunkEncoding::Raw
    }

    /// Begins to read what rows (ascending) lie in; see [`super::Matrix::read_ahead`].
    pub fn read_ahead(&self, rows: &[u32], wanted: Option<&[bool]>) -> Result<Option<Box<dyn Held>>> {
        let storage = self.array.storage();
        // Of chunks as they are the rows alone are read.
        if storage.local_root().is_some() || self.encoding == ChunkEncoding::Raw {
            return Ok(None);
        }
        let (height, columns) = (self.array.inner_shape()[0], self.wanted(wanted).chunks);
        let mut bands: Vec<u64> = rows.iter().map(|&row| u64::from(row) / height).collect();
        bands.dedup();
        let chunks = bands.iter().flat_map(|&band| columns.iter().map(move |&column| vec![band, column]));
        storage.read_ahead(self.array.wanted(&chunks.collect::<Vec<_>>())?)
    }

    /// Decodes rows as [`super::Matrix::read`] does, of an array of `S`. Values other than zero are kept, NaN among
    /// them.
    pub fn read<S: Num, T: Num>(
        &self,
        rows: &[u32],
        wanted: Option<&[bool]>,
        cache: Option<(&RowCache, u32)>,
        sink: &mut dyn RowSink<T>,
    ) -> Result<()> {
        debug_assert_eq!(S::DTYPE, self.dtype());
        let [n_obs, n_vars] = self.shape();
        if let Some(row) = rows.iter().find(|&&row| u64::from(row) >= n_obs) {
            return Err(DaoError::value(format!("row {row} was asked for and the matrix has {n_obs}"))
                .at(format!("path '{}'", self.array.uri())));
        }
        let wanted = self.wanted(wanted);
        let (mut stored, mut builders) = (Vec::new(), Vec::new());
        let mut write = |i: usize, row: &CompactRow| {
            sink.row(i, row.nnz(), &mut |columns, values| {
                row.write::<S, T>(to_usize(n_vars), columns, values, &mut stored)
                    .map_err(|e| e.at(format!("path '{}'", self.array.uri())))
            })
        };
        if let Some((cache, number)) = cache.filter(|(cache, _)| self.keeps_rows() && cache.keeps_any()) {
            let decoded = self.rows_through_cache::<S>(rows, &wanted, cache, number, &mut builders)?;
            return decoded.iter().enumerate().try_for_each(|(i, row)| write(i, row));
        }
        // Done in pieces, since `rows` may be all of the matrix.
        let height = self.array.inner_shape()[0];
        let bands = rows.chunk_by(|a, b| u64::from(*a) / height == u64::from(*b) / height);
        let mut next = 0;
        for rows in bands.flat_map(|band| band.chunks(1024)) {
            for decoded in self.band::<S>(rows, &wanted, &mut builders)? {
                write(next, &decoded)?;
                next += 1;
            }
        }
        Ok(())
    }

    /// The columns for which `wanted` says yes; all, where there is none.
    fn wanted(&self, wanted: Option<&[bool]>) -> WantedColumns {
        let (n_vars, width) = (self.shape()[1], self.array.inner_shape()[1]);
        let used = |&chunk: &u64| {
            let Some(wanted) = wanted else { return true };
            let columns = to_usize(chunk * width)..to_usize(((chunk + 1) * width).min(n_vars));
            wanted.get(columns).is_none_or(|part| part.contains(&true))
        };
        let chunks = (0..n_vars.div_ceil(width)).filter(used).collect();
        WantedColumns { mask: wanted.filter(|wanted| wanted.contains(&false)).map(ColumnMask::new), chunks }
    }
}
