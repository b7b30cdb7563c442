//! The core of dao-polars: stores of single-cell studies, read in any order of cells.
//!
//! `storage` (bytes) → `store` (layout) → `matrix` (rows) → `read` (rows of several matrices, on threads) →
//! `batches`, `lookup` and `aggregate`, with `sampling` giving the order and `writer` making stores. `python` is the only module that
//! names Python, and is built with the feature of that name.

pub mod aggregate;
pub mod batches;
pub mod codec;
pub mod error;
#[cfg(feature = "python")]
mod expr;
pub mod lookup;
pub mod matrix;
pub mod number;
#[cfg(feature = "python")]
mod python;
pub mod read;
pub mod sampling;
pub mod storage;
pub mod store;
pub mod writer;
