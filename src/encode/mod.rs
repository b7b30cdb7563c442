//! What foundation models read of a cell: its genes as tokens, by rank or with binned values.
//!
//! Owns which genes of a row become tokens, in which order, and with which values. Sees the columns and values of
//! one row at a time, where column `i` is the vocabulary's gene `i`; must not know stores, batches or names of genes.
//! `tests/batches/tokens.py` has the same in numpy, word for word.

use crate::error::{DaoError, Result};

mod bins;
mod draw;
mod frame;
mod ranks;

pub use bins::BinEncoding;
pub use frame::Frame;
pub use ranks::RankEncoding;

/// How a cell's genes become tokens.
#[derive(Debug, Clone)]
pub enum Encoding {
    /// By rank.
    Ranks(RankEncoding),
    /// With the bins of their values.
    Bins(BinEncoding),
}

impl Encoding {
    /// The number of places of a row.
    pub fn length(&self) -> usize {
        match self {
            Self::Ranks(ranks) => ranks.frame().length,
            Self::Bins(bins) => bins.frame().length,
        }
    }

    /// Whether tokens have bins.
    pub fn has_bins(&self) -> bool {
        matches!(self, Self::Bins(_))
    }

    /// Writes the row of the cell with this key in this epoch, `length()` places each; gives the number of tokens.
    ///
    /// `bins` are used where `has_bins()`. Fails for values that are not finite.
    pub fn row(
        &self,
        columns: &[i32],
        values: &[f64],
        (epoch, key): (u64, u64),
        ids: &mut [i64],
        bins: &mut [i64],
    ) -> Result<usize> {
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(DaoError::value(format!("a cell has the value {value}, which has no rank and no bin"))
                .at(format!("part number {}, row {}", key >> 32, key & u64::from(u32::MAX)))
                .hint("leave such cells out, or encode another layer"));
        }
        match self {
            Self::Ranks(ranks) => ranks.row(columns, values, ids),
            Self::Bins(encoding) => encoding.row(columns, values, encoding.draw(epoch, key), ids, bins),
        }
    }
}
