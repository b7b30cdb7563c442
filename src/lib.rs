//! The core of dao-polars: stores of single-cell studies, read in any order of cells.
//!
//! Each module is a room with one subject, whose head says what it owns and must not know. Data flows down this
//! list: a room uses rooms above it and none below.
//!
//! - `error`: what went wrong, where, and what was expected;
//! - `interrupt`: waits that Ctrl-C, or whoever wants no result any more, breaks off;
//! - `per_process`: state of one process, which a forked child makes anew;
//! - `notices`: what a user should know though nothing failed;
//! - `checksum`: CRC-32C;
//! - `number`: number types, their names, casts that are exact or an error;
//! - `storage`: paths and URLs to bytes;
//! - `codec`: blocks of packed numbers, the zarr codec `dao_polars.pfor`;
//! - `store`: manifests, the layout on disk, sfaira's stores;
//! - `matrix`: rows of one matrix on zarr, CSR or dense;
//! - `genes`: names of genes to columns;
//! - `sampling`: seed and epoch to an order of cells, its batches, and whose they are;
//! - `encode`: a cell's genes as the tokens that foundation models read;
//! - `read`: rows of several matrices, planned, on threads;
//! - `batches`: the batches of an epoch, ahead of their consumer;
//! - `lookup`: numbers of cells in any order: a few genes, sums;
//! - `aggregate`: statistics of genes over groups of cells;
//! - `writer`: rows in, shards out, visible at once or not at all;
//! - `expr`: the polars expression plugin, which calls no Python;
//! - `python`: the module `dao_polars._core`, the only place that names pyo3 and numpy.
//!
//! `expr` and `python` are built with the feature `python` alone, so that tests need no Python.

pub mod aggregate;
pub mod batches;
pub mod checksum;
pub mod codec;
pub mod encode;
pub mod error;
#[cfg(feature = "python")]
mod expr;
pub mod genes;
pub mod interrupt;
pub mod lookup;
pub mod matrix;
pub mod notices;
pub mod number;
mod per_process;
#[cfg(feature = "python")]
mod python;
pub mod read;
pub mod sampling;
pub mod storage;
pub mod store;
pub mod writer;
