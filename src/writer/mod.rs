//! Rows in, shards out; a part appears whole or not at all.
//!
//! `source` has what comes in, and picks the stored number type; `matrix` takes blocks in source order; `rows` casts and maps
//! them, sorts each row, sums duplicates and adds rows up; `spill` routes rows and entries to other rows out of core;
//! `canonical` writes rows; `array` encodes inner chunks and puts them into shards; `folder` lists the files, `outline`
//! collects what readers need first, and `temporary` has those that are on their way to a bucket. Each of these works on all cores (`parallel`) while a call lasts,
//! and what is written does not depend on how many there are. `part` puts a new part together, `edit` changes some,
//! `gene_index` copies a matrix of the store by genes, and `copy` takes parts over from another store as they are.
//!
//! Tables (parquet) are written into the staging folder by the caller. Must not know Python, genes'
//! names or what a source is.

mod array;
mod canonical;
mod copy;
mod edit;
mod folder;
mod gene_index;
mod matrix;
mod outline;
mod parallel;
mod part;
mod rows;
mod source;
mod spill;
mod temporary;

pub use copy::Copying;
pub use edit::{Edit, NewTable, PartChange};
pub use gene_index::add_gene_index;
pub use matrix::{MatrixSpec, MatrixWriter};
pub use part::{Mode, PartWriter};
pub use source::{Hdf5Filter, Indices, Slice, StoredChunk, ValueScan, decode_hdf5};
