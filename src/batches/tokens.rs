//! The tokens of a finished batch, made of the rows of its first matrix.

use std::sync::Arc;

use super::BatchMatrix;
use crate::encode::Encoding;
use crate::error::{DaoError, Result};
use crate::number::{Num, for_dtype_values, zeros};

/// How the cells of an epoch become tokens.
#[derive(Debug, Clone)]
pub struct EpochEncoding {
    /// The encoding, whose columns are those of the first matrix.
    pub encoding: Arc<Encoding>,
    /// The number of the epoch, on which draws depend.
    pub epoch: u64,
}

/// The tokens of a batch, cells × length, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tokens {
    /// The tokens, and what pads them.
    pub ids: Vec<i64>,
    /// Whether a place has a token.
    pub mask: Vec<bool>,
    /// The bins of the tokens' values, of an encoding that has them.
    pub bins: Option<Vec<i64>>,
}

impl Tokens {
    /// The bytes that the arrays hold.
    pub fn bytes(&self) -> u64 {
        let bins = self.bins.as_ref().map_or(0, |bins| size_of_val(&bins[..]));
        (size_of_val(&self.ids[..]) + size_of_val(&self.mask[..]) + bins) as u64
    }
}

impl EpochEncoding {
    /// The bytes that the tokens of so many cells take.
    pub fn bytes(&self, cells: usize) -> u64 {
        let arrays = 1 + usize::from(self.encoding.has_bins());
        let place = arrays * size_of::<i64>() + size_of::<bool>();
        (place as u64).saturating_mul(self.encoding.length() as u64).saturating_mul(cells as u64)
    }

    /// The tokens of the cells with these keys, whose rows are those of `matrix`.
    pub fn tokens(&self, keys: &[u64], matrix: &BatchMatrix) -> Result<Tokens> {
        for_dtype_values!(&matrix.data, values => self.of_rows(keys, matrix, values))
    }

    fn of_rows<T: Num>(&self, keys: &[u64], matrix: &BatchMatrix, values: &[T]) -> Result<Tokens> {
        let length = self.encoding.length();
        let too_many = || {
            DaoError::value(format!("memory cannot hold the tokens of {} cells × {length}", keys.len()))
                .hint("take a smaller length or fewer cells a batch")
        };
        let n = length.checked_mul(keys.len()).ok_or_else(too_many)?;
        let all_of = |n| zeros::<i64>(n).map_err(|_| too_many());
        let (mut ids, mut mask) = (all_of(n)?, Vec::new());
        mask.try_reserve_exact(n).map_err(|_| too_many())?;
        mask.resize(n, false);
        let mut bins = all_of(if self.encoding.has_bins() { n } else { 0 })?;
        // Of a dense matrix all columns of a row are there.
        let width = values.len() / keys.len().max(1);
        let all: Vec<i32> = if matrix.indptr.is_empty() { (0..).take(width).collect() } else { Vec::new() };
        let mut row = Vec::new();
        for (i, &key) in keys.iter().enumerate() {
            let (columns, values) = if matrix.indptr.is_empty() {
                (&all[..], &values[i * width..(i + 1) * width])
            } else {
                let range = matrix.indptr[i]..matrix.indptr[i + 1];
                (&matrix.indices[range.clone()], &values[range])
            };
            row.clear();
            row.extend(values.iter().map(|&value| f64::cast(value)));
            let places = i * length..(i + 1) * length;
            let row_bins = if bins.is_empty() { &mut [][..] } else { &mut bins[places.clone()] };
            let n = self.encoding.row(columns, &row, (self.epoch, key), &mut ids[places.clone()], row_bins)?;
            mask[places].iter_mut().take(n).for_each(|here| *here = true);
        }
        Ok(Tokens { ids, mask, bins: self.encoding.has_bins().then_some(bins) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{Frame, RankEncoding};
    use crate::number::Values;

    #[test]
    fn rows_of_both_layouts_have_the_same_tokens() {
        let frame = Frame { length: 3, pad: 0, cls: None, eos: None };
        let ranks = RankEncoding::new(vec![(5, 1.), (6, 1.), (7, 1.)], frame).unwrap();
        let encoding = EpochEncoding { encoding: Arc::new(Encoding::Ranks(ranks)), epoch: 0 };
        let csr = BatchMatrix { indptr: vec![0, 2, 2], indices: vec![0, 2], data: Values::U8(vec![1, 4]) };
        let dense = BatchMatrix { indptr: vec![], indices: vec![], data: Values::F32(vec![1., 0., 4., 0., 0., 0.]) };
        let (ids, mask) = (vec![7, 5, 0, 0, 0, 0], vec![true, true, false, false, false, false]);
        for matrix in [csr, dense] {
            let tokens = encoding.tokens(&[8, 9], &matrix).unwrap();
            assert_eq!(tokens, Tokens { ids: ids.clone(), mask: mask.clone(), bins: None });
            assert_eq!(tokens.bytes(), encoding.bytes(2));
        }
    }
}
