//! What a matrix of a new dataset will be, and how its source maps to it.

use crate::number::{Dtype, Layout};
use crate::store::MatrixName;

/// What a matrix will be, and how its source maps to it.
#[derive(Debug, Clone)]
pub struct MatrixSpec {
    /// Its name in the dataset.
    pub name: MatrixName,
    /// Whether it is stored as CSR arrays, or as one dense array.
    pub layout: Layout,
    /// Whether CSR arrays are in core codecs alone; dense ones always are.
    pub portable: bool,
    /// Output rows and columns.
    pub shape: [u64; 2],
    /// The type it is stored in.
    pub stored: Dtype,
    /// For each source column its output column, or -1; `None` where they are the same.
    pub columns: Option<Vec<i32>>,
    /// For each source row its output row; `None` where they are the same.
    pub rows: Option<Vec<u32>>,
    /// Entries of the source, about.
    pub source_nnz: u64,
    /// Whether each row's sum and count are kept beside it.
    pub totals: bool,
    /// Whether it is described as the `csc_matrix` that its rows are the columns of.
    pub transposed: bool,
}
