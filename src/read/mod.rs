//! From an order of cells to finished batches.
//!
//! `plan` (pure) says which rows of which dataset a run of batches needs and where they go,
//! `assemble` has them decoded into batches, `pipeline` does that on all cores ahead of the
//! consumer. Knows no Python and no files: rows come from [`crate::matrix`].

mod assemble;
mod columns;
pub mod in_order;
mod normalize;
mod outs;
mod parted;
mod pipeline;
mod plan;
mod pool;
mod source;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{DaoError, Result};
use crate::matrix::{Cache, Matrix};
use crate::number::{Dtype, Layout, Values};
pub use columns::Columns;
pub use normalize::Normalize;
pub use pipeline::{Epoch, Next};
pub use plan::plan;
pub use pool::Pool;
pub use source::Source;

/// The matrix of one dataset, and where its columns go.
pub struct Part {
    /// The dataset's name, for errors.
    pub dataset: String,
    /// Its cells.
    pub n_obs: u32,
    /// Its values.
    pub matrix: Arc<Matrix>,
    /// Its columns in the output; `None` where they are the output's.
    pub columns: Option<Columns>,
}

/// What to read: cells, where their values are, and in which form they are wanted.
pub struct Request {
    /// Cell keys in frame order, `dataset_number << 32 | row`.
    pub keys: Vec<u64>,
    /// By dataset number.
    pub parts: HashMap<u32, Part>,
    /// Columns of the output.
    pub n_columns: usize,
    /// CSR or dense.
    pub layout: Layout,
    /// The number type of the output.
    pub dtype: Dtype,
    /// What is done to each row, of all its columns, before any are left out.
    pub normalize: Option<Normalize>,
    /// Rows that were decoded along with others, for all its epochs.
    pub cache: Cache,
}

/// A finished batch: CSR, or (with empty `indptr` and `indices`) dense and row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Its rows' places in the epoch's order, which has their positions in [`Request::keys`].
    pub places: Range<usize>,
    /// Row offsets, one more than rows.
    pub indptr: Vec<i64>,
    /// Column numbers.
    pub indices: Vec<i32>,
    /// Values.
    pub data: Values,
}

impl Request {
    /// Checks that every key is a cell of a known dataset.
    ///
    /// # Errors
    /// `Value` for a key that is not.
    pub fn validate(&self) -> Result<()> {
        for &key in &self.keys {
            let (number, row) = split_key(key);
            let part = self.part(number)?;
            if row >= part.n_obs {
                return Err(DaoError::value(format!(
                    "a cell key names row {row} and the dataset has {} cells",
                    part.n_obs
                ))
                .at(format!("dataset '{}'", part.dataset))
                .hint("the frame belongs to another store, or to another state of this one"));
            }
        }
        Ok(())
    }

    fn part(&self, number: u32) -> Result<&Part> {
        self.parts
            .get(&number)
            .ok_or_else(|| DaoError::value(format!("a cell key names dataset number {number}, which was not opened")))
    }
}

/// Dataset number and row of a cell key.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the halves of the key are 32 bits each")]
pub fn split_key(key: u64) -> (u32, u32) {
    ((key >> 32) as u32, key as u32)
}
