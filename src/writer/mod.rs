//! Rows in, shards out; a dataset appears whole or not at all.
//!
//! `scan` picks the stored number type, `matrix` takes blocks in source order, `spill` routes
//! entries to other rows out of core, `sink` makes rows canonical, `array` encodes shards,
//! `publish` makes the result visible.
//! Tables (parquet) are written into the staging folder by the caller.

mod array;
mod dataset;
mod matrix;
mod publish;
mod scan;
mod sink;
mod spill;

pub use dataset::{DatasetWriter, Tables};
pub use matrix::{MatrixSpec, MatrixWriter};
pub use scan::ValueScan;
