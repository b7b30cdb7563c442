//! Rank-value encoding, Geneformer's: the genes of a cell, the one first that is most above what it usually is.
//!
//! Source: `TranscriptomeTokenizer` in `tokenizer.py` of Geneformer (Theodoris et al., Nature 2023), which ranks by
//! `counts / n_counts * 10_000 / median`. Total and target are the same for all genes of a cell, so that they change no rank:
//! what is ranked is `counts / median`, in 64 bits.

use super::frame::{Frame, gene};
use crate::error::Result;

/// A vocabulary of tokens and medians, and the rows made with it.
#[derive(Debug, Clone)]
pub struct RankEncoding {
    genes: Vec<(i64, f64)>,
    frame: Frame,
}

impl RankEncoding {
    /// Of the token and the median (above 0) of each column; `Value` for a frame without a place for a gene.
    pub fn new(genes: Vec<(i64, f64)>, frame: Frame) -> Result<Self> {
        frame.validate()?;
        Ok(Self { genes, frame })
    }

    /// The frame of a row.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// Writes the tokens of a row (`columns` ascending) and their padding to `ids`; gives the number of tokens.
    ///
    /// Genes without a value above 0 are left out; of genes that rank the same, the vocabulary's first comes first.
    pub fn row(&self, columns: &[i32], values: &[f64], ids: &mut [i64]) -> Result<usize> {
        let mut ranked = Vec::with_capacity(columns.len());
        for (&column, &value) in columns.iter().zip(values) {
            let (token, median) = gene(&self.genes, column)?;
            if value > 0.0 {
                ranked.push((value / median, column, token));
            }
        }
        ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(self.frame.write(ranked.into_iter().map(|(_, _, token)| token), ids))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(frame: Frame, columns: &[i32], values: &[f64]) -> (Vec<i64>, usize) {
        let encoding =
            RankEncoding::new(vec![(10, 1.), (11, 2.), (12, 0.5), (13, 1.), (14, 4.)], frame.clone()).unwrap();
        let mut ids = vec![-7; frame.length];
        let n = encoding.row(columns, values, &mut ids).unwrap();
        (ids, n)
    }

    fn frame(length: usize) -> Frame {
        Frame { length, pad: 0, cls: None, eos: None }
    }

    #[test]
    fn genes_come_by_value_over_median_and_ties_in_the_vocabularys_order() {
        let row = (&[0, 1, 2, 3, 4][..], &[3., 6., 2., 0., 1.][..]);
        assert_eq!(encoded(frame(6), row.0, row.1), (vec![12, 10, 11, 14, 0, 0], 4));
        assert_eq!(encoded(frame(2), row.0, row.1), (vec![12, 10], 2));
        let special = Frame { cls: Some(1), eos: Some(2), ..frame(4) };
        assert_eq!(encoded(special.clone(), row.0, row.1), (vec![1, 12, 10, 2], 4));
        assert_eq!(encoded(special, &[], &[]), (vec![1, 2, 0, 0], 2));
    }

    #[test]
    fn what_cannot_rank_is_refused() {
        assert!(RankEncoding::new(vec![(1, 1.)], frame(0)).is_err());
        assert!(RankEncoding::new(vec![(1, 1.)], Frame { cls: Some(0), ..frame(1) }).is_err());
        let encoding = RankEncoding::new(vec![(1, 1.)], frame(1)).unwrap();
        assert!(encoding.row(&[1], &[1.], &mut [0]).is_err());
    }

    proptest! {
        #[test]
        fn a_shorter_row_is_the_beginning_of_a_longer_one(
            values in proptest::collection::vec(0_u8..4, 5), length in 1_usize..7,
        ) {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            let (long, n) = encoded(frame(9), &[0, 1, 2, 3, 4], &values);
            let (short, m) = encoded(frame(length), &[0, 1, 2, 3, 4], &values);
            prop_assert_eq!(&short[..], &long[..length]);
            prop_assert_eq!(n, values.iter().filter(|&&value| value > 0.0).count());
            prop_assert_eq!(m, n.min(length));
        }
    }
}
