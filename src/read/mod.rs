//! The parts that every reader of cells is made of: opened matrices, requests, plans of rows, and threads that work.
//!
//! Owns the cell key ([`split_key`], [`locate`]), a store with its opened matrices ([`OpenStore`]), the check of its tables
//! of cells ([`ObsTables`]), what is read of each cell ([`ReadRequest`], [`MatrixRequest`], [`Normalize`]), which rows
//! some cells are ([`RowPlan`]), how a selection is cut into pieces of one cost ([`cut_cells`]), the one scheduler ([`schedule`]), and whether all of a part is as it was written
//! ([`OpenStore::verify`]). Must not know what becomes of the rows: batches, lookups and aggregates do.

mod cell_keys;
mod cuts;
mod keys;
mod normalize;
mod obs_tables;
mod open_store;
mod request;
mod row_plan;
pub mod schedule;
#[cfg(test)]
pub mod testing;
mod verify;

pub use cell_keys::{check_rows, locate, located, split_key};
pub use cuts::cut_cells;
pub use keys::CellKeys;
pub use normalize::Normalize;
pub use obs_tables::{ObsTable, ObsTables};
pub use open_store::OpenStore;
pub use request::{MatrixForm, MatrixRequest, PartMatrix, ReadRequest};
pub use row_plan::{PartRows, RowPlan};
