//! One matrix on zarr: given ascending rows, their columns and values.
//!
//! Owns how matrices are read: which bytes, decoded how, checked for what. Must not know batches, genes
//! or the order of cells: callers ask for ascending rows and place the result themselves.
//! The encodings are anndata's: <https://anndata.readthedocs.io/en/stable/fileformat-prose.html>.

mod array;
mod cache;
mod csr;
mod decode;
mod dense;
mod gene_index;
mod packed;
mod plan;
mod rows;
mod shard;
#[cfg(test)]
pub(crate) mod testing;
mod totals;

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{DaoError, ErrorKind, Result};
use crate::number::{Dtype, Num, for_dtype};
use crate::storage::{Held, Storage};
pub use cache::RowCache;
use csr::Csr;
pub use decode::Decoder;
use dense::Dense;
pub use gene_index::GeneIndex;
use rows::ShowingSink;
pub use rows::{EditingSink, FillRow, RowBuffer, RowSink, Rows};
pub use shard::{ChunkRange, ShardIndexes, ShardTag};
pub use totals::{TOTALS, Totals};

/// A matrix of cells × columns.
#[expect(clippy::large_enum_variant, reason = "one exists for each open matrix")]
pub enum Matrix {
    /// anndata's `csr_matrix` encoding.
    Csr(Csr),
    /// One two-dimensional array.
    Dense(Dense),
}

impl Matrix {
    /// Opens the matrix at `path`. `shape` is what the part says of it.
    ///
    /// # Errors
    /// `NotFound` if something of it is missing, `Corrupt` if it contradicts itself or `shape`.
    pub fn open(storage: &Arc<dyn Storage>, path: &str, shape: [u64; 2]) -> Result<Self> {
        let uri = format!("{}/{path}", storage.uri());
        let matrix = if storage.size(&format!("{path}/indptr/zarr.json"))?.is_some() {
            check_encoding(storage, path, "csr_matrix", shape)?;
            Self::Csr(Csr::open(storage, path, shape)?)
        } else if storage.size(&format!("{path}/.zarray"))?.is_some()
            || node_metadata(storage, path)?.is_some_and(|metadata| metadata.node_type == "array")
        {
            Self::Dense(Dense::open(storage, path)?)
        } else {
            return Err(DaoError::new(ErrorKind::NotFound, "the matrix is missing or incomplete")
                .at(format!("path '{uri}'"))
                .expected("zarr metadata of a csr_matrix group or of an array")
                .hint("restore it from a copy, or write the dataset again"));
        };
        let found = matrix.shape();
        if found != shape {
            return Err(DaoError::corrupt(&uri, "the matrix has another shape than its dataset")
                .expected(format!("{} × {}", shape[0], shape[1]))
                .found(format!("{} × {}", found[0], found[1])));
        }
        Ok(matrix)
    }

    /// The numbers of cells and of columns.
    pub fn shape(&self) -> [u64; 2] {
        match self {
            Self::Csr(csr) => csr.shape(),
            Self::Dense(dense) => dense.shape(),
        }
    }

    /// The number type that the values are stored in.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Csr(csr) => csr.dtype(),
            Self::Dense(dense) => dense.dtype(),
        }
    }

    /// The bytes that decoding `row` into `T` keeps: at most for CSR, or where it would have to be looked up as for the mean
    /// row; for dense matrices as rows were so far.
    pub fn row_bytes(&self, row: u32) -> u64 {
        match self {
            Self::Csr(csr) => 12 * csr.about_nnz(row),
            Self::Dense(dense) => dense.row_bytes(),
        }
    }

    /// The number of a row's values, where that is known before the row is read.
    pub fn row_nnz(&self, row: u32) -> Result<Option<u64>> {
        match self {
            Self::Csr(csr) => csr.row_nnz(row).map(Some),
            Self::Dense(_) => Ok(None),
        }
    }

    /// The number of each row's values, likewise.
    pub fn row_lengths(&self, rows: &[u32]) -> Result<Option<Vec<u64>>> {
        match self {
            Self::Csr(csr) => csr.row_lengths(rows).map(Some),
            Self::Dense(_) => Ok(None),
        }
    }

    /// Holds in memory where all rows lie, two to four bytes each, so that none is looked up: for those who want many.
    pub fn hold_rows(&self) -> Result<()> {
        match self {
            Self::Csr(csr) => csr.hold_rows(),
            Self::Dense(_) => Ok(()),
        }
    }

    /// Where a row lies along the first axis of the array of values; past the last one nowhere, `0..0`.
    pub fn row_place(&self, row: u32) -> Result<Range<u64>> {
        match self {
            Self::Csr(csr) => csr.row_place(row),
            Self::Dense(_) => Ok(row.into()..u64::from(row) + 1),
        }
    }

    /// The length of a shard along that axis, at least 1.
    pub fn shard_len(&self) -> u64 {
        let array = match self {
            Self::Csr(csr) => csr.array(),
            Self::Dense(dense) => dense.array(),
        };
        array.inner_shape()[0].saturating_mul(array.per_shard()[0]).max(1)
    }

    /// Whether rows are decoded one by one, so that a row costs no more alone than among its neighbours.
    pub fn reads_rows(&self) -> bool {
        matches!(self, Self::Csr(csr) if csr.reads_rows())
    }

    /// Whether what is in its files is on another machine, and not all here.
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Csr(csr) => csr.is_remote(),
            Self::Dense(dense) => dense.array().storage().local_root().is_none(),
        }
    }

    /// Whether rows are sparse: whether the number of a row's values is known before the row is read.
    pub fn is_csr(&self) -> bool {
        matches!(self, Self::Csr(_))
    }

    /// Whether the matrix is CSR in other codecs than `dao_polars.pfor`.
    pub fn is_portable(&self) -> bool {
        matches!(self, Self::Csr(csr) if !csr.is_packed())
    }

    /// Begins to read where `rows` (ascending, each once) lie, which [`Matrix::read_ahead`] has to know before it asks for them.
    ///
    /// # Errors
    /// As [`Matrix::read`].
    pub fn locate_ahead(&self, rows: &[u32], wanted: Option<&[bool]>) -> Result<Option<Box<dyn Held>>> {
        match self {
            Self::Csr(csr) => csr.locate_ahead(rows, wanted),
            Self::Dense(_) => Ok(None),
        }
    }

    /// Begins to read what decoding `rows` (ascending, each once) needs, and does not wait for it, but for what says where it
    /// lies: as long as the result lives, reading these rows finds it. `None` where nothing is read ahead.
    ///
    /// # Errors
    /// As [`Matrix::read`].
    pub fn read_ahead(&self, rows: &[u32], wanted: Option<&[bool]>) -> Result<Option<Box<dyn Held>>> {
        match self {
            Self::Csr(csr) => csr.read_ahead(rows, wanted),
            Self::Dense(dense) => dense.read_ahead(rows, wanted),
        }
    }

    /// Decodes `rows` (ascending, each once) into `sink`, in their order. Columns for which `wanted`
    /// says no may be left out.
    ///
    /// # Errors
    /// `NotFound`/`Corrupt` for shards missing, truncated or failing their checksum; `Value` for a
    /// stored number that `T` cannot hold.
    pub fn read<T: Num>(&self, rows: &[u32], wanted: Option<&[bool]>, sink: &mut dyn RowSink<T>) -> Result<()> {
        self.read_with(rows, wanted, None, sink)
    }

    /// Decodes rows as [`Matrix::read`] does; where many rows are decoded at a time, uses those kept in `cache`
    /// as the part `number`'s. All reading with a cache has the same `wanted` for a number.
    pub fn read_with<T: Num>(
        &self,
        rows: &[u32],
        wanted: Option<&[bool]>,
        cache: Option<(&RowCache, u32)>,
        sink: &mut dyn RowSink<T>,
    ) -> Result<()> {
        match self {
            Self::Csr(csr) => csr.read(rows, wanted, sink),
            Self::Dense(dense) => for_dtype!(dense.dtype(), S => dense.read::<S, T>(rows, wanted, cache, sink)),
        }
    }

    /// Whether [`Matrix::read_with`] keeps rows.
    pub fn keeps_rows(&self) -> bool {
        matches!(self, Self::Dense(dense) if dense.keeps_rows())
    }

    /// Decodes rows as [`Matrix::read`] does, and returns them one after another.
    pub fn rows<T: Num>(&self, rows: &[u32]) -> Result<Rows<T>> {
        let mut all = Rows::empty();
        self.read(rows, None, &mut all)?;
        Ok(all)
    }

    /// Reads all rows in order and shows each, its columns and its values, to `see`.
    ///
    /// # Errors
    /// As [`Matrix::read`], and what `see` fails with.
    pub fn each_row<T: Num>(&self, mut see: impl FnMut(u32, &[i32], &[T]) -> Result<()>) -> Result<()> {
        let n_rows = u32::try_from(self.shape()[0]).map_err(|_| DaoError::value("more than 2^32 - 1 rows"))?;
        self.hold_rows()?;
        let mut start = 0;
        while start < n_rows {
            let (mut stop, mut bytes) = (start, 0);
            while stop < n_rows && bytes < 64 << 20 {
                bytes += self.row_bytes(stop);
                stop += 1;
            }
            let rows: Vec<u32> = (start..stop).collect();
            let see = |i: usize, columns: &[i32], values: &[T]| see(rows[i], columns, values);
            self.read::<T>(&rows, None, &mut ShowingSink { buffer: RowBuffer::default(), see })?;
            start = stop;
        }
        Ok(())
    }
}

/// The fields of a zarr group's or array's metadata that this room needs.
#[derive(Deserialize)]
struct NodeMetadata {
    node_type: String,
    #[serde(default)]
    attributes: serde_json::Map<String, serde_json::Value>,
}

/// The zarr (version 3) metadata at `path`; `None` where there are none.
fn node_metadata(storage: &Arc<dyn Storage>, path: &str) -> Result<Option<NodeMetadata>> {
    let file = format!("{path}/zarr.json");
    let Some(bytes) = storage.get(&file)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        DaoError::corrupt(&format!("{}/{file}", storage.uri()), format!("not readable zarr metadata: {e}"))
    })
}

/// Checks a group's encoding and shape: a matrix by cells and its copy by genes differ in
/// nothing else.
fn check_encoding(storage: &Arc<dyn Storage>, path: &str, expected: &str, shape: [u64; 2]) -> Result<()> {
    let attributes = node_metadata(storage, path)?.map(|metadata| metadata.attributes).unwrap_or_default();
    let encoding = attributes.get("encoding-type").and_then(|v| v.as_str());
    let uri = format!("{}/{path}/zarr.json", storage.uri());
    if encoding != Some(expected) {
        return Err(DaoError::corrupt(&uri, "not the kind of matrix that belongs here")
            .expected(format!("encoding-type {expected}"))
            .found(encoding.unwrap_or("none")));
    }
    match attributes.get("shape") {
        Some(found) if *found != serde_json::json!(shape) => {
            Err(DaoError::corrupt(&uri, "the matrix has another shape than its dataset")
                .expected(format!("{} × {}", shape[0], shape[1]))
                .found(found))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{assert_says, damage, shard, storage, write_array, write_sparse};
    use super::*;

    fn rows() -> testing::SparseRows {
        vec![vec![(0, 3), (4, 1)], vec![], vec![(2, 9)]]
    }

    #[test]
    fn a_sparse_matrix_is_what_its_metadata_say() {
        for packed in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            write_sparse(&folder.path().join("X"), "csr_matrix", [3, 5], &rows(), packed);
            let open = |shape| Matrix::open(&storage(folder.path()), "X", shape);
            let matrix = open([3, 5]).unwrap();
            assert_eq!((matrix.shape(), matrix.dtype(), matrix.is_portable()), ([3, 5], Dtype::U16, !packed));
            assert_eq!([0, 1, 2, 3].map(|row| matrix.row_nnz(row).unwrap()), [Some(2), Some(0), Some(1), Some(0)]);
            assert_eq!((matrix.reads_rows(), matrix.keeps_rows()), (packed, false));
            // Looked up, it would be that of the mean row.
            assert_eq!(matrix.row_bytes(0), if packed { 12 } else { 24 });
            matrix.hold_rows().unwrap();
            assert_eq!(matrix.row_bytes(0), 24);
            assert_eq!(matrix.row_lengths(&[0, 1, 2, 3]).unwrap(), Some(vec![2, 0, 1, 0]));
            let read = matrix.rows::<f32>(&[0, 2]).unwrap();
            assert_eq!((read.indices, read.data), (vec![0, 4, 2], vec![3.0, 1.0, 9.0]));
            let mut seen = 0;
            matrix
                .each_row::<u16>(|_, columns, _| {
                    seen += columns.len();
                    Ok(())
                })
                .unwrap();
            assert_eq!(seen, 3);
            let error = open([4, 5]).err().unwrap();
            assert_says(&error, ErrorKind::Corrupt, folder.path(), "expected 4 × 5");
            damage(&shard(&folder.path().join("X/data"), 0), |bytes| bytes[20] ^= 1);
            let broken = matrix.each_row::<u16>(|_, _, _| Ok(()));
            assert_says(&broken.unwrap_err(), ErrorKind::Corrupt, folder.path(), "X/data");
        }
    }

    #[test]
    fn what_is_no_matrix_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Matrix::open(&storage(folder.path()), "X", [3, 5]).err().unwrap();
        assert_says(&open(), ErrorKind::NotFound, folder.path(), "missing or incomplete");
        let path = folder.path().join("X");
        write_sparse(&path, "csc_matrix", [3, 5], &rows(), true);
        assert_says(&open(), ErrorKind::Corrupt, folder.path(), "expected encoding-type csr_matrix, found csc_matrix");
        std::fs::write(path.join("zarr.json"), "{").unwrap();
        assert_says(&open(), ErrorKind::Corrupt, folder.path(), "not readable zarr metadata");
        std::fs::remove_dir_all(&path).unwrap();
        write_array(&path, &[1_u16], &testing::sharded::<u16>(1, 1, 1, &testing::portable(), "end"));
        assert_says(&open(), ErrorKind::Corrupt, folder.path(), "not a matrix");
    }
}
