//! Binned values, scGPT's: the genes of a cell with the bin of their value among the cell's own.
//!
//! Source: `binning` in `preprocess.py` and `DataCollator` in `data_collator.py` of scGPT (Cui et al., Nature Methods
//! 2024). The bins' edges are `n_bins - 1` quantiles of the cell's values that are not 0, and a value's bin the number of edges
//! that it reaches (`np.digitize`, scGPT's `side="one"`: its `"both"` draws at random between equal edges). Where a cell has more genes
//! than places, a random sample of them is kept, in the vocabulary's order.

use super::draw::CellDraw;
use super::frame::{Frame, gene};
use crate::error::{DaoError, Result};

/// A vocabulary of tokens, the number of bins, and the rows made with them.
#[derive(Debug, Clone)]
pub struct BinEncoding {
    tokens: Vec<i64>,
    n_bins: u32,
    pad_bin: i64,
    seed: u64,
    frame: Frame,
}

impl BinEncoding {
    /// Of the token of each column; `Value` for what cannot be binned. `pad_bin` is the bin of places without a token.
    pub fn new(tokens: Vec<i64>, n_bins: u32, pad_bin: i64, seed: u64, frame: Frame) -> Result<Self> {
        frame.validate()?;
        if n_bins < 2 {
            return Err(DaoError::value(format!("n_bins={n_bins}")).expected("at least 2, of which 0 is for zeros"));
        }
        Ok(Self { tokens, n_bins, pad_bin, seed, frame })
    }

    /// The frame of a row.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The draw of a cell's genes in an epoch.
    pub(super) fn draw(&self, epoch: u64, key: u64) -> CellDraw {
        CellDraw::new(self.seed, epoch, key)
    }

    /// Writes the tokens of a row (`columns` ascending), their bins, and the padding; gives the number of tokens.
    ///
    /// Special tokens have bin 0.
    pub(super) fn row(
        &self,
        columns: &[i32],
        values: &[f64],
        draw: CellDraw,
        ids: &mut [i64],
        bins: &mut [i64],
    ) -> Result<usize> {
        let mut kept = Vec::with_capacity(columns.len());
        for (&column, &value) in columns.iter().zip(values) {
            let token = gene(&self.tokens, column)?;
            if value != 0.0 {
                kept.push((column, token, value));
            }
        }
        let edges = edges(kept.iter().map(|&(_, _, value)| value).collect(), self.n_bins);
        let room = self.frame.room();
        if kept.len() > room {
            kept.select_nth_unstable_by_key(room, |&(_, token, _)| (draw.number(token), token));
            kept.truncate(room);
            kept.sort_unstable_by_key(|&(column, _, _)| column);
        }
        let n = self.frame.write(kept.iter().map(|&(_, token, _)| token), ids);
        bins.fill(self.pad_bin);
        bins[..n].fill(0);
        let first = usize::from(self.frame.cls.is_some());
        for (to, &(_, _, value)) in bins[first..].iter_mut().zip(&kept) {
            // There are fewer edges than `n_bins`, which is of 32 bits.
            *to = i64::try_from(edges.partition_point(|&edge| edge <= value)).unwrap_or(i64::MAX);
        }
        Ok(n)
    }
}

/// `np.quantile(values, np.linspace(0, 1, n_bins - 1))`, to the last bit: values on an edge are many.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places in a row are below 2^31"
)]
fn edges(mut values: Vec<f64>, n_bins: u32) -> Vec<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return Vec::new() };
    let steps = n_bins - 2;
    let quantile = |i: u32| {
        let q = if i == 0 {
            0.0
        } else if i == steps {
            1.0
        } else {
            f64::from(i) * (1.0 / f64::from(steps))
        };
        let place = last as f64 * q;
        let below = (place.floor() as usize).min(last);
        let (a, b, t) = (values[below], values[(below + 1).min(last)], place - place.floor());
        if t >= 0.5 { b - (b - a) * (1.0 - t) } else { a + (b - a) * t }
    };
    (0..=steps).map(quantile).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(frame: Frame, n_bins: u32, draw: CellDraw, columns: &[i32], values: &[f64]) -> (Vec<i64>, Vec<i64>) {
        let tokens: Vec<i64> = (0..12).map(|column| 30 - column).collect();
        let encoding = BinEncoding::new(tokens, n_bins, -2, 0, frame.clone()).unwrap();
        let (mut ids, mut bins) = (vec![-7; frame.length], vec![-7; frame.length]);
        let n = encoding.row(columns, values, draw, &mut ids, &mut bins).unwrap();
        assert!(ids[n..].iter().all(|&id| id == frame.pad) && bins[n..].iter().all(|&bin| bin == -2));
        (ids[..n].to_vec(), bins[..n].to_vec())
    }

    fn frame(length: usize) -> Frame {
        Frame { length, pad: 0, cls: None, eos: None }
    }

    /// What `binned` of `tests/batches/tokens.py` gives: row, bins, places, seed, epoch, key, tokens, their bins.
    #[test]
    fn bins_and_draws_are_those_of_numpy() {
        type Case = ([u8; 12], u32, usize, [u64; 3], &'static [i64], &'static [i64]);
        let cases: [Case; 8] = [
            (
                [0, 2, 0, 2, 1, 2, 3, 2, 0, 2, 4, 2],
                51,
                12,
                [0, 0, 7],
                &[29, 27, 26, 25, 24, 23, 21, 20, 19],
                &[37, 37, 1, 37, 43, 37, 37, 50, 37],
            ),
            (
                [2, 3, 2, 5, 3, 3, 3, 1, 3, 3, 4, 1],
                51,
                5,
                [1, 3, 1099511627783],
                &[30, 24, 21, 20, 19],
                &[14, 41, 41, 45, 5],
            ),
            (
                [1, 1, 2, 3, 1, 3, 3, 1, 3, 0, 1, 2],
                7,
                12,
                [2, 6, 2199023255559],
                &[30, 29, 28, 27, 26, 25, 24, 23, 22, 20, 19],
                &[3, 3, 3, 6, 3, 6, 6, 3, 6, 3, 3],
            ),
            ([2, 2, 6, 3, 1, 2, 1, 2, 0, 1, 2, 2], 7, 4, [3, 9, 3298534883335], &[28, 27, 23, 20], &[6, 5, 5, 5]),
            (
                [1, 1, 2, 4, 2, 1, 3, 0, 2, 2, 2, 4],
                3,
                6,
                [4, 12, 4398046511111],
                &[29, 27, 25, 22, 21, 20],
                &[1, 2, 1, 1, 1, 1],
            ),
            ([4, 3, 4, 3, 2, 4, 2, 3, 0, 2, 2, 3], 2, 3, [5, 15, 5497558138887], &[29, 24, 19], &[1, 1, 1]),
            (
                [3, 2, 1, 3, 2, 3, 3, 3, 2, 1, 3, 1],
                11,
                8,
                [6, 18, 6597069766663],
                &[30, 28, 26, 25, 23, 22, 21, 20],
                &[10, 2, 5, 10, 10, 5, 2, 10],
            ),
            ([2, 5, 2, 3, 2, 1, 3, 2, 2, 4, 1, 1], 5, 1, [7, 21, 7696581394439], &[30], &[2]),
        ];
        for (row, n_bins, room, [seed, epoch, key], tokens, bins) in cases {
            let (columns, values): (Vec<i32>, Vec<f64>) = (0..12).zip(row.map(f64::from)).unzip();
            let found = encoded(frame(room), n_bins, CellDraw::new(seed, epoch, key), &columns, &values);
            assert_eq!((&found.0[..], &found.1[..]), (tokens, bins), "{row:?}");
        }
    }

    #[test]
    fn special_tokens_take_places_and_have_bin_0() {
        let draw = CellDraw::new(0, 0, 0);
        let special = Frame { cls: Some(1), eos: Some(2), ..frame(5) };
        assert_eq!(encoded(special.clone(), 4, draw, &[3, 5], &[1., 2.]), (vec![1, 27, 25, 2], vec![0, 1, 3, 0]));
        assert_eq!(encoded(special, 4, draw, &[3, 5], &[0., 0.]), (vec![1, 2], vec![0, 0]));
    }

    #[test]
    fn what_cannot_be_binned_is_refused() {
        assert!(BinEncoding::new(vec![1, 2], 2, -2, 0, frame(1)).is_ok());
        assert!(BinEncoding::new(vec![1, 2], 1, -2, 0, frame(1)).is_err());
        assert!(BinEncoding::new(vec![1], 2, -2, 0, frame(0)).is_err());
    }

    proptest! {
        #[test]
        fn a_sample_keeps_order_and_bins_of_the_whole(
            values in proptest::collection::vec(0_u8..6, 12), length in 1_usize..12, key in any::<u64>(),
        ) {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            let columns: Vec<i32> = (0..12).collect();
            let draw = CellDraw::new(5, 1, key);
            let (whole, bins) = encoded(frame(12), 7, draw, &columns, &values);
            let (some, some_bins) = encoded(frame(length), 7, draw, &columns, &values);
            prop_assert_eq!(some.len(), whole.len().min(length));
            prop_assert!(bins.iter().all(|bin| (1..7).contains(bin)));
            let mut all = whole.iter().zip(&bins);
            for pair in some.iter().zip(&some_bins) {
                prop_assert!(all.any(|other| other == pair), "{:?} is not of the whole, in its order", pair);
            }
        }
    }
}
