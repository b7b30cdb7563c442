//! The form of a matrix of a new dataset, and how its source maps to it.

use crate::number::{Dtype, Layout};
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
    /// Whether each row's sum and count are kept beside it.
    pub totals: bool,
    /// Whether it is described as the `csc_matrix` that its rows are the columns of.
    pub transposed: bool,
}
