//! The parts that every reader of cells is made of: opened matrices, requests, plans of rows, and threads that work.
//!
//! Owns the cell key ([`split_key`]), a store with its opened matrices ([`OpenStore`]), the check of its tables
//! of cells ([`ObsTables`]), what is read of each cell ([`ReadRequest`], [`MatrixRequest`], [`Normalize`]), which rows
//! some cells are ([`RowPlan`]), the one scheduler ([`schedule`]), and whether all of a dataset is as it was written
//! ([`OpenStore::verify`]). Must not know what becomes of the rows: batches, lookups and aggregates do.

mod normalize;
mod obs_tables;
mod open_store;
mod request;
mod row_plan;
pub mod schedule;
#[cfg(test)]
mod testing;
mod verify;

pub use normalize::Normalize;
pub use obs_tables::{ObsTable, ObsTables};
pub use open_store::OpenStore;
pub use request::{DatasetMatrix, MatrixForm, MatrixRequest, ReadRequest};
pub use row_plan::{DatasetRows, RowPlan};

/// The dataset number and the row of a cell key.
#[expect(clippy::cast_possible_truncation, reason = "the halves of the key are 32 bits each")]
pub fn split_key(key: u64) -> (u32, u32) {
    ((key >> 32) as u32, key as u32)
}
