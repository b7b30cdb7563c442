//! Batches of an epoch: all matrices of some cells, made ahead of their consumer, in order.
//!
//! `window` (pure) says which batches are read together and in which pieces, `assemble` has a window's rows
//! decoded into `buffers` (whose parts are `parted` among threads) from the `pool`, `ahead` has what lies on another machine
//! asked for before it is needed, `tokens` has what is decoded encoded, and `epoch` has
//! [`crate::read::schedule`] do that on all cores within a budget. Must not know why the cells come in this order, nor
//! Python.

mod ahead;
mod assemble;
mod buffers;
mod epoch;
mod parted;
mod pool;
mod tokens;
mod window;

use std::ops::Range;

use crate::number::{Values, for_dtype_values};
pub use epoch::Epoch;
pub use pool::{BufferPool, PoolSection};
pub use tokens::{EpochEncoding, Tokens};

/// A finished batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The rows of the epoch in the batch; the order says where in [`crate::read::ReadRequest::keys`] their cells are.
    pub rows: Range<usize>,
    /// The batch's rows of each matrix, in the order of the request.
    pub matrices: Vec<BatchMatrix>,
    /// Its tokens, of an epoch that is encoded.
    pub tokens: Option<Tokens>,
}

/// A batch's rows of one matrix: CSR, or (with empty `indptr` and `indices`) dense and row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchMatrix {
    /// Row offsets, one more than rows.
    pub indptr: Vec<usize>,
    /// Column numbers.
    pub indices: Vec<i32>,
    /// Values.
    pub data: Values,
}

impl BatchMatrix {
    /// The bytes that the arrays hold.
    pub fn bytes(&self) -> u64 {
        let values = for_dtype_values!(&self.data, values => size_of_val(values.as_slice()));
        (values + size_of_val(&self.indices[..]) + size_of_val(&self.indptr[..])) as u64
    }
}
