//! Rows in, shards out; a dataset appears whole or not at all.
//!
//! `scan` picks the stored number type, `matrix` takes blocks in source order, `spill` routes
//! entries to other rows out of core, `sink` makes rows canonical and `totals` adds them up, `array` encodes shards,
//! `gene_index` copies a matrix of the store by genes,
//! `publish` makes the result visible.
//! Tables (parquet) are written into the staging folder by the caller.

mod array;
mod dataset;
mod gene_index;
mod matrix;
mod publish;
mod scan;
mod sink;
mod spill;
mod totals;

pub use dataset::{DatasetWriter, Tables};
pub use gene_index::add_gene_index;
pub use matrix::{MatrixSpec, MatrixWriter};
pub use scan::ValueScan;
