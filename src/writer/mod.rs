//! Rows in, shards out; a dataset appears whole or not at all.
//!
//! `scan` picks the stored number type; `matrix` takes blocks (`slice`) in source order; `rows` casts and maps them, sorts
//! each row, sums duplicates and adds rows up; `spill` routes rows and entries to other rows out of core; `canonical`
//! writes rows; `array` encodes inner chunks and puts them into shards; `folder` lists the files. Each of these works on all
//! cores (`parallel`) while a call lasts, and what is written does not depend on how many there are. `dataset` puts a new dataset together, `gene_index` copies a matrix of the store by genes, and
//! `publish` makes either visible.
//!
//! `hdf5_chunks` helps who reads a source.
//!
//! Tables (parquet) are written into the staging folder by the caller. Must not know Python, genes'
//! names or what a source is.

mod array;
mod canonical;
mod dataset;
mod folder;
mod gene_index;
mod hdf5_chunks;
mod matrix;
mod parallel;
mod publish;
mod rows;
mod scan;
mod slice;
mod spill;

pub use dataset::DatasetWriter;
pub use gene_index::add_gene_index;
pub use hdf5_chunks::{Hdf5Filter, StoredChunk, decode_hdf5};
pub use matrix::{MatrixSpec, MatrixWriter};
pub use scan::ValueScan;
pub use slice::{Indices, Slice};
