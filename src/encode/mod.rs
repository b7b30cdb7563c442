//! What foundation models read of a cell: its genes as tokens, by rank or with binned values.
//!
//! Owns which genes of a row become tokens, in which order, and with which values. Sees the columns and values of
//! one row at a time, where column `i` is the vocabulary's gene `i`; must not know stores, batches or names of genes.
//! `tests/batches/tokens.py` has the same in numpy, word for word.

mod bins;
mod draw;
mod frame;
mod ranks;

pub use bins::BinEncoding;
pub use draw::CellDraw;
pub use frame::Frame;
pub use ranks::RankEncoding;
