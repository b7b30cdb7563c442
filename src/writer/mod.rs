//! Rows in, shards out; a dataset appears whole or not at all.
//!
//! `scan` picks the stored number type; `matrix` takes blocks in source order; `spill` routes entries to
//! other rows out of core; `canonical` sorts each row, sums duplicates and adds rows up; `array` encodes
//! shards; `folder` lists the files. `dataset` puts a new dataset together, `gene_index` copies a matrix of the store by genes, and
//! `publish` makes either visible.
//!
//! Tables (parquet) are written into the staging folder by the caller. Must not know Python, genes'
//! names or what a source is.

mod array;
mod canonical;
mod dataset;
mod folder;
mod gene_index;
mod matrix;
mod publish;
mod scan;
mod spill;

pub use dataset::DatasetWriter;
pub use gene_index::add_gene_index;
pub use matrix::{MatrixSpec, MatrixWriter};
pub use scan::ValueScan;
