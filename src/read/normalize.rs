//! Counts of a cell brought to one total, and their logarithm, while the cell is read.

use crate::number::Num;

/// The normalization of a row's values, as scanpy's `normalize_total` and `log1p`
/// (<https://scanpy.readthedocs.io/en/stable/api/generated/scanpy.pp.normalize_total.html>).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalize {
    /// The sum of the values of a row afterwards; a row of zeros stays as it is.
    pub target_sum: Option<f64>,
    /// Whether the natural logarithm of one plus the value is taken afterwards.
    pub log1p: bool,
}

/// Counts below this are computed once a row: most values are among them, and logarithms are slow.
const SMALL_COUNTS: usize = 64;

impl Normalize {
    /// Normalizes the values of one row, of `f32` or `f64`; others are left as they are.
    pub fn apply<T: Num>(self, values: &mut [T]) {
        if !T::DTYPE.is_float() {
            return;
        }
        let factor = self.factor_of(values);
        let mut results: [Option<T>; SMALL_COUNTS] = [None; SMALL_COUNTS];
        for value in values {
            let count: f64 = value.as_();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; compared below")]
            let small = count as usize;
            #[expect(clippy::cast_precision_loss, reason = "below 64 where it matters")]
            let known = results.get_mut(small).filter(|_| small as f64 == count);
            *value = match known {
                Some(known) => *known.get_or_insert_with(|| self.value(*value, factor)),
                None => self.value(*value, factor),
            };
        }
    }

    /// The factor for the values of a row that add up to `total`.
    pub fn factor(self, total: f64) -> f64 {
        match self.target_sum {
            Some(target_sum) if total != 0.0 => target_sum / total,
            _ => 1.0,
        }
    }

    /// The factor for the values of a whole row: see [`Normalize::factor`].
    pub fn factor_of<T: Num>(self, values: &[T]) -> f64 {
        self.factor(values.iter().map(|&value| -> f64 { value.as_() }).sum())
    }

    /// The normalized value, in a row with this factor.
    pub fn value<T: Num>(self, value: T, factor: f64) -> T {
        let value: f64 = value.as_();
        let scaled = value * factor;
        T::cast(if self.log1p { scaled.ln_1p() } else { scaled })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_are_as_the_formula_says(values in prop::collection::vec(0.0_f32..200.0, 0..50), round: bool, log1p: bool, scale: bool) {
            let values: Vec<f32> = values.into_iter().map(|value| if round { value.round() } else { value }).collect();
            let target_sum = scale.then_some(1e4);
            let mut row = values.clone();
            Normalize { target_sum, log1p }.apply(&mut row);
            let total: f64 = values.iter().copied().map(f64::from).sum();
            for (value, after) in values.into_iter().zip(row) {
                let scaled = f64::from(value) * if scale && total > 0.0 { 1e4 / total } else { 1.0 };
                let expected = if log1p { scaled.ln_1p() } else { scaled };
                prop_assert!((f64::from(after) - expected).abs() <= 1e-6 * expected.abs(), "{after} {expected}");
            }
        }
    }

    #[test]
    fn a_row_of_zeros_stays_one() {
        let mut row = [0.0_f64; 3];
        Normalize { target_sum: Some(1e4), log1p: true }.apply(&mut row);
        assert_eq!(row, [0.0; 3]);
        Normalize { target_sum: Some(1e4), log1p: true }.apply::<f64>(&mut []);
    }
}
