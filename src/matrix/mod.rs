//! One matrix on zarr: given sorted rows, their values.
//!
//! Owns decoding, and nothing else decodes. Knows no batches, no genes, no order of cells:
//! callers ask for ascending rows and place the result themselves.

mod array;
mod cache;
mod csr;
mod dense;
mod gene_index;
mod packed;
mod plan;
mod row;
mod totals;

use std::sync::Arc;

use serde::Deserialize;

use crate::error::{DaoError, ErrorKind, Result};
use crate::number::{Dtype, Num, for_dtype};
use crate::storage::Storage;
pub(crate) use array::dtype_of;
pub use cache::Cache;
use csr::Csr;
use dense::Dense;
pub use gene_index::GeneIndex;
pub use totals::{TOTALS, Totals};

/// Rows of a matrix, sparse: row `rows[i]` has `indices[indptr[i]..indptr[i + 1]]`, ascending, and
/// `data` beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<T> {
    /// The matrix's row numbers, ascending, each once.
    pub rows: Vec<u32>,
    /// Offsets into `indices` and `data`; one more than rows.
    pub indptr: Vec<usize>,
    /// Columns.
    pub indices: Vec<i32>,
    /// Values.
    pub data: Vec<T>,
}

impl<T> Rows<T> {
    /// No rows.
    #[must_use]
    pub fn empty() -> Self {
        Self { rows: Vec::new(), indptr: vec![0], indices: Vec::new(), data: Vec::new() }
    }
}

/// Writes a row's columns, ascending, and its values.
pub type Fill<'a, T> = &'a mut dyn FnMut(&mut [i32], &mut [T]) -> Result<()>;

/// Where a matrix's rows go. Called through a pointer, once a row: matrices are then compiled for
/// each number type and not for each sink too.
pub trait Sink<T> {
    /// Takes the `i`-th row asked for. `fill` writes its `nnz` columns, ascending, and its values to
    /// where the sink wants them.
    ///
    /// # Errors
    /// What `fill` fails with.
    fn row(&mut self, i: usize, nnz: usize, fill: Fill<'_, T>) -> Result<()>;
}

/// Rows one after another; `rows` itself is the caller's to fill.
impl<T: Num> Sink<T> for Rows<T> {
    fn row(&mut self, _: usize, nnz: usize, fill: Fill<'_, T>) -> Result<()> {
        let at = self.data.len();
        self.indices.resize(at + nnz, 0);
        self.data.resize(at + nnz, T::zero());
        self.indptr.push(at + nnz);
        fill(&mut self.indices[at..], &mut self.data[at..])
    }
}

/// Rows read for what goes wrong.
struct Discard<T>(Vec<i32>, Vec<T>);

impl<T: Num> Sink<T> for Discard<T> {
    fn row(&mut self, _: usize, nnz: usize, fill: Fill<'_, T>) -> Result<()> {
        self.0.resize(nnz, 0);
        self.1.resize(nnz, T::zero());
        fill(&mut self.0, &mut self.1)
    }
}

/// A matrix of cells × columns.
#[expect(clippy::large_enum_variant, reason = "one exists for each open matrix")]
pub enum Matrix {
    /// anndata's `csr_matrix` encoding.
    Csr(Csr),
    /// One two-dimensional array.
    Dense(Dense),
}

impl Matrix {
    /// Opens the matrix at `path`. `shape` is what the dataset says of it.
    ///
    /// # Errors
    /// `NotFound` if something of it is missing, `Corrupt` if it contradicts itself or `shape`.
    pub fn open(storage: &Arc<dyn Storage>, path: &str, shape: [u64; 2]) -> Result<Self> {
        let place = || format!("{}/{path}", storage.uri());
        let matrix = if storage.size(&format!("{path}/indptr/zarr.json"))?.is_some() {
            check_encoding(storage, path, "csr_matrix", shape)?;
            Self::Csr(Csr::open(storage, path, shape)?)
        } else if storage.size(&format!("{path}/.zarray"))?.is_some() || is_array(storage, path)? {
            Self::Dense(Dense::open(storage, path)?)
        } else {
            return Err(DaoError::new(ErrorKind::NotFound, "the matrix is missing or incomplete")
                .at(format!("path '{}'", place()))
                .expected("zarr metadata of a csr_matrix group or of an array")
                .hint("restore it from a copy, or write the dataset again"));
        };
        let found = matrix.shape();
        if found != shape {
            return Err(DaoError::corrupt(&place(), "the matrix has another shape than its dataset")
                .expected(format!("{} × {}", shape[0], shape[1]))
                .found(format!("{} × {}", found[0], found[1])));
        }
        Ok(matrix)
    }

    /// Cells and columns.
    #[must_use]
    pub fn shape(&self) -> [u64; 2] {
        match self {
            Self::Csr(csr) => csr.shape(),
            Self::Dense(dense) => dense.shape(),
        }
    }

    /// The stored type.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Csr(csr) => csr.dtype(),
            Self::Dense(dense) => dense.dtype(),
        }
    }

    /// The bytes that decoding `row` into `T` keeps: at most for CSR; for dense matrices as rows were so far.
    #[must_use]
    pub fn row_bytes(&self, row: u32) -> u64 {
        match self {
            Self::Csr(csr) => 12 * csr.row_nnz(row),
            Self::Dense(dense) => dense.row_bytes(),
        }
    }

    /// How many values a row has, where that is known before it is read.
    #[must_use]
    pub fn row_nnz(&self, row: u32) -> Option<u64> {
        match self {
            Self::Csr(csr) => Some(csr.row_nnz(row)),
            Self::Dense(_) => None,
        }
    }

    /// Whether a row is read for itself, so that it costs no more alone than among its neighbours.
    #[must_use]
    pub fn reads_rows(&self) -> bool {
        matches!(self, Self::Csr(csr) if csr.reads_rows())
    }

    /// Whether it is CSR in other codecs than our own.
    #[must_use]
    pub fn is_portable(&self) -> bool {
        matches!(self, Self::Csr(csr) if !csr.is_packed())
    }

    /// Decodes `rows` (ascending, each once) into `sink`, in their order. Columns for which `wanted`
    /// says no may be left out.
    ///
    /// # Errors
    /// `NotFound`/`Corrupt` for shards missing, truncated or failing their checksum; `Value` for a
    /// stored number that `T` cannot hold.
    pub fn read<T: Num>(&self, rows: &[u32], wanted: Option<&[bool]>, sink: &mut dyn Sink<T>) -> Result<()> {
        match self {
            Self::Csr(csr) => csr.read(rows, sink),
            Self::Dense(dense) => dense.read(rows, wanted, None, sink),
        }
    }

    /// As [`Matrix::read`]; where rows are decoded many at a time, with those that are kept in `cache`
    /// as the dataset `number`'s. All reading with a cache has the same `wanted` for a number.
    ///
    /// # Errors
    /// As [`Matrix::read`].
    pub fn read_with<T: Num>(
        &self,
        rows: &[u32],
        wanted: Option<&[bool]>,
        cache: (&Cache, u32),
        sink: &mut dyn Sink<T>,
    ) -> Result<()> {
        match self {
            Self::Csr(csr) => csr.read(rows, sink),
            Self::Dense(dense) => dense.read(rows, wanted, Some(cache), sink),
        }
    }

    /// Whether [`Matrix::read_with`] keeps rows.
    #[must_use]
    pub fn keeps_rows(&self) -> bool {
        matches!(self, Self::Dense(dense) if dense.keeps_rows())
    }

    /// As [`Matrix::read`], the rows one after another.
    ///
    /// # Errors
    /// As [`Matrix::read`].
    pub fn rows<T: Num>(&self, rows: &[u32]) -> Result<Rows<T>> {
        let mut all = Rows::empty();
        all.rows.extend_from_slice(rows);
        self.read(rows, None, &mut all)?;
        Ok(all)
    }

    /// Reads everything once and tells the first thing that is wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub fn verify(&self) -> Result<()> {
        let n_rows = u32::try_from(self.shape()[0]).map_err(|_| DaoError::value("more than 2^32 - 1 rows"))?;
        let mut start = 0;
        while start < n_rows {
            let (mut stop, mut bytes) = (start, 0);
            while stop < n_rows && bytes < 64 << 20 {
                bytes += self.row_bytes(stop);
                stop += 1;
            }
            let rows: Vec<u32> = (start..stop).collect();
            for_dtype!(self.dtype(), T => self.read::<T>(&rows, None, &mut Discard(Vec::new(), Vec::new())))?;
            start = stop;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct NodeHead {
    node_type: String,
    #[serde(default)]
    attributes: serde_json::Map<String, serde_json::Value>,
}

fn node_head(storage: &Arc<dyn Storage>, path: &str) -> Result<Option<NodeHead>> {
    let file = format!("{path}/zarr.json");
    let Some(bytes) = storage.get(&file)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        DaoError::corrupt(&format!("{}/{file}", storage.uri()), format!("not readable zarr metadata: {e}"))
    })
}

fn is_array(storage: &Arc<dyn Storage>, path: &str) -> Result<bool> {
    Ok(node_head(storage, path)?.is_some_and(|head| head.node_type == "array"))
}

/// A group says how its arrays are to be read; a cells' and a genes' matrix differ in nothing else.
fn check_encoding(storage: &Arc<dyn Storage>, path: &str, expected: &str, shape: [u64; 2]) -> Result<()> {
    let attributes = node_head(storage, path)?.map(|head| head.attributes).unwrap_or_default();
    let encoding = attributes.get("encoding-type").and_then(|v| v.as_str());
    let place = || format!("{}/{path}/zarr.json", storage.uri());
    if encoding != Some(expected) {
        return Err(DaoError::corrupt(&place(), "not the kind of matrix that belongs here")
            .expected(format!("encoding-type {expected}"))
            .found(encoding.unwrap_or("none")));
    }
    match attributes.get("shape") {
        Some(found) if *found != serde_json::json!(shape) => {
            Err(DaoError::corrupt(&place(), "the matrix has another shape than its dataset")
                .expected(format!("{} × {}", shape[0], shape[1]))
                .found(found))
        }
        _ => Ok(()),
    }
}
