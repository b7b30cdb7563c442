//! What surrounds the genes of a row: its length, padding, and the special tokens at both ends.

use crate::error::{DaoError, Result};

/// The length of a row of tokens, what pads it, and what it begins and ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The number of places of a row.
    pub length: usize,
    /// The token of places that have none.
    pub pad: i64,
    /// The token before the genes.
    pub cls: Option<i64>,
    /// The token after the last gene.
    pub eos: Option<i64>,
}

impl Frame {
    /// Fails where there is no place for a gene.
    pub fn validate(&self) -> Result<()> {
        let special = self.n_special();
        if self.length <= special {
            return Err(DaoError::value(format!("length={} has no place for a gene", self.length))
                .expected(format!("at least {}", special + 1)));
        }
        Ok(())
    }

    /// The number of genes that a row has places for.
    pub fn room(&self) -> usize {
        self.length.saturating_sub(self.n_special())
    }

    fn n_special(&self) -> usize {
        usize::from(self.cls.is_some()) + usize::from(self.eos.is_some())
    }

    /// Writes a row of these genes (at most `room()`) and its padding; gives the number of tokens.
    pub fn write(&self, genes: impl Iterator<Item = i64>, row: &mut [i64]) -> usize {
        let tokens = self.cls.into_iter().chain(genes.take(self.room())).chain(self.eos);
        let mut n = 0;
        for (to, token) in row.iter_mut().zip(tokens) {
            *to = token;
            n += 1;
        }
        row[n..].fill(self.pad);
        n
    }
}

/// The vocabulary's gene of a column, or the error of a column that it does not have.
pub fn gene<T: Copy>(genes: &[T], column: i32) -> Result<T> {
    let found = usize::try_from(column).ok().and_then(|column| genes.get(column));
    found.copied().ok_or_else(|| DaoError::internal("a row has a column that the vocabulary lacks"))
}
