//! The narrowest number type that holds every value of a matrix.

use crate::number::{Dtype, Num, Values, for_dtype_values};

/// A scan of a matrix's values, block by block: their bounds and kinds.
#[derive(Debug, Clone)]
pub struct ValueScan {
    integral: bool,
    negative: bool,
    /// Largest value of a non-negative, and of a negative sign, as magnitudes.
    max: f64,
    min: f64,
    /// Exact bounds where values came as integers past 2^53.
    max_int: u64,
    min_int: i64,
    wide_float: bool,
    nonzero: u64,
}

impl Default for ValueScan {
    fn default() -> Self {
        Self {
            integral: true,
            negative: false,
            max: 0.0,
            min: 0.0,
            max_int: 0,
            min_int: 0,
            wide_float: false,
            nonzero: 0,
        }
    }
}

impl ValueScan {
    /// Takes a block of values into account.
    pub fn update(&mut self, values: &Values) {
        for_dtype_values!(values, v => self.update_slice(v));
    }

    /// Takes a block into account, of values whose type is known; see [`ValueScan::update`].
    pub fn update_slice<T: Num>(&mut self, values: &[T]) {
        if T::DTYPE.is_float() {
            for &value in values {
                let value: f64 = value.as_();
                self.nonzero += u64::from(value != 0.0);
                // NaN, infinities and -0.0 are no integers: storing them as such would lose them.
                self.integral &= value.fract() == 0.0 && !(value == 0.0 && value.is_sign_negative());
                if value.is_finite() {
                    self.max = self.max.max(value);
                    self.min = self.min.min(value);
                }
            }
            self.wide_float |= T::DTYPE == Dtype::F64;
        } else {
            let (mut low, mut high) = (0_i128, 0_i128);
            for &value in values {
                let value: i128 = value.as_();
                self.nonzero += u64::from(value != 0);
                low = low.min(value);
                high = high.max(value);
            }
            // The bounds come from at most 64-bit integers of either sign.
            self.max_int = self.max_int.max(u64::try_from(high).unwrap_or(u64::MAX));
            self.min_int = self.min_int.min(i64::try_from(low).unwrap_or(i64::MIN));
        }
        self.negative = self.min < 0.0 || self.min_int < 0;
    }

    /// The narrowest type: unsigned where nothing is negative and all is integral.
    #[must_use]
    pub fn stored(&self) -> Dtype {
        let (low, high) = (self.min.min(self.min_int as f64), self.max.max(self.max_int as f64));
        // Floats that are integral past 2^53 stay floats: a count is never that large.
        if !self.integral || self.max >= 9_007_199_254_740_992.0 || self.min <= -9_007_199_254_740_992.0 {
            return if self.wide_float { Dtype::F64 } else { Dtype::F32 };
        }
        let fits = |dtype: Dtype, min: f64, max: f64| (low >= min && high <= max).then_some(dtype);
        if self.negative {
            fits(Dtype::I8, -128.0, 127.0)
                .or(fits(Dtype::I16, -32_768.0, 32_767.0))
                .or(fits(Dtype::I32, -2_147_483_648.0, 2_147_483_647.0))
                .unwrap_or(Dtype::I64)
        } else {
            fits(Dtype::U8, 0.0, 255.0)
                .or(fits(Dtype::U16, 0.0, 65_535.0))
                .or(fits(Dtype::U32, 0.0, 4_294_967_295.0))
                .unwrap_or(Dtype::U64)
        }
    }

    /// The largest absolute finite value.
    #[must_use]
    pub fn max_abs(&self) -> f64 {
        self.max.max(self.max_int as f64).max(-self.min).max(-(self.min_int as f64))
    }

    /// The number of values other than zero.
    #[must_use]
    pub fn nonzero(&self) -> u64 {
        self.nonzero
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored<T: Num>(values: &[T]) -> Dtype {
        let mut scan = ValueScan::default();
        scan.update_slice(values);
        scan.stored()
    }

    #[test]
    fn the_narrowest_type_is_found() {
        assert_eq!(stored::<f32>(&[]), Dtype::U8);
        assert_eq!(stored(&[0.0_f32, 255.0]), Dtype::U8);
        assert_eq!(stored(&[256.0_f64]), Dtype::U16);
        assert_eq!(stored(&[65_536_i64]), Dtype::U32);
        assert_eq!(stored(&[4_294_967_296_i64]), Dtype::U64);
        assert_eq!(stored(&[u64::MAX]), Dtype::U64);
        assert_eq!(stored(&[-1_i32, 127]), Dtype::I8);
        assert_eq!(stored(&[-1_i32, 128]), Dtype::I16);
        assert_eq!(stored(&[i64::MIN]), Dtype::I64);
        assert_eq!(stored(&[0.5_f32]), Dtype::F32);
        assert_eq!(stored(&[0.5_f64]), Dtype::F64);
        assert_eq!(stored(&[f32::NAN, 1.0]), Dtype::F32);
        assert_eq!(stored(&[f32::INFINITY]), Dtype::F32);
        assert_eq!(stored(&[-0.0_f32]), Dtype::F32);
        assert_eq!(stored(&[1e300_f64]), Dtype::F64);
    }
}
