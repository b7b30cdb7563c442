//! The narrowest number type that holds every value of a matrix.

use num_traits::AsPrimitive;

use crate::number::{Dtype, Num, Values, for_dtype_values};

/// Floats from here on are not held as integers, though they are integral: a count is never that large.
const NO_COUNT: f64 = 9_007_199_254_740_992.0; // 2^53

/// A scan of a matrix's values, block by block: their bounds and kinds.
#[derive(Debug, Clone, Default)]
pub struct ValueScan {
    /// Whether a value is no integer.
    fractional: bool,
    wide_float: bool,
    /// The bounds of zero and the finite floats.
    floats: (f64, f64),
    /// The bounds of zero and the integers.
    integers: (i128, i128),
    nonzero: u64,
}

impl ValueScan {
    /// Takes a block of values into account.
    pub fn update(&mut self, values: &Values) {
        for_dtype_values!(values, v => self.update_slice(v));
    }

    /// Takes a block into account, of values whose type is known; see [`ValueScan::update`].
    pub fn update_slice<T: Num>(&mut self, values: &[T]) {
        if T::DTYPE.is_float() {
            let (mut low, mut high) = self.floats;
            for &value in values {
                let value: f64 = value.as_();
                self.nonzero += u64::from(value != 0.0);
                // NaN, infinities and -0.0 are no integers: storing them as such would lose them.
                self.fractional |= value.fract() != 0.0 || (value == 0.0 && value.is_sign_negative());
                if value.is_finite() {
                    (low, high) = (low.min(value), high.max(value));
                }
            }
            self.floats = (low, high);
            self.wide_float |= T::DTYPE == Dtype::F64;
        } else {
            let (mut low, mut high) = self.integers;
            for &value in values {
                let value: i128 = value.as_();
                self.nonzero += u64::from(value != 0);
                (low, high) = (low.min(value), high.max(value));
            }
            self.integers = (low, high);
        }
    }

    /// Takes sums of up to `n` of the values into account.
    pub fn widen_to_sums(&mut self, n: u32) {
        if self.is_float() {
            let (low, high) = self.floats;
            self.floats = (low * f64::from(n), high * f64::from(n));
            self.wide_float |= self.max_abs() > f64::from(f32::MAX);
        } else {
            let (low, high) = self.bounds();
            self.integers = (low * i128::from(n), high * i128::from(n));
        }
    }

    /// The narrowest type: unsigned where nothing is negative and all is integral.
    #[must_use]
    pub fn stored(&self) -> Dtype {
        if self.is_float() {
            return if self.wide_float { Dtype::F64 } else { Dtype::F32 };
        }
        let (low, high) = self.bounds();
        let (types, sign_bits) = if low < 0 {
            ([Dtype::I8, Dtype::I16, Dtype::I32, Dtype::I64], 1)
        } else {
            ([Dtype::U8, Dtype::U16, Dtype::U32, Dtype::U64], 0)
        };
        let fits = |dtype: &Dtype| {
            let end = 1 << (8 * dtype.size() - sign_bits);
            -end <= low && high < end
        };
        // Sums may be more than any integer type holds.
        types.into_iter().find(fits).unwrap_or(Dtype::F64)
    }

    /// The largest absolute finite value.
    #[must_use]
    pub fn max_abs(&self) -> f64 {
        let (low, high) = self.integers;
        let integer: f64 = high.max(-low).as_();
        integer.max(self.floats.1).max(-self.floats.0)
    }

    /// The number of values other than zero.
    #[must_use]
    pub fn nonzero(&self) -> u64 {
        self.nonzero
    }

    fn is_float(&self) -> bool {
        self.fractional || self.floats.0 <= -NO_COUNT || self.floats.1 >= NO_COUNT
    }

    /// The bounds of all values, which are integers.
    fn bounds(&self) -> (i128, i128) {
        let (low, high): (i128, i128) = (self.floats.0.as_(), self.floats.1.as_());
        (low.min(self.integers.0), high.max(self.integers.1))
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

    #[test]
    fn the_type_holds_sums_too() {
        fn stored_sums<T: Num>(values: &[T], n: u32) -> (Dtype, f64) {
            let mut scan = ValueScan::default();
            scan.update_slice(values);
            scan.widen_to_sums(n);
            (scan.stored(), scan.max_abs())
        }
        assert_eq!(stored_sums(&[255_u8], 1), (Dtype::U8, 255.0));
        assert_eq!(stored_sums(&[128_u8], 2), (Dtype::U16, 256.0));
        assert_eq!(stored_sums(&[128.0_f32], 2), (Dtype::U16, 256.0));
        assert_eq!(stored_sums(&[-64_i64, 63], 2), (Dtype::I8, 128.0));
        assert_eq!(stored_sums(&[-64_i64, 64], 2), (Dtype::I16, 128.0));
        assert_eq!(stored_sums(&[f64::from(1 << 30) * f64::from(1 << 22)], 4), (Dtype::U64, 2_f64.powi(54)));
        assert_eq!(stored_sums(&[u64::MAX], 2), (Dtype::F64, 2_f64.powi(65)));
        assert_eq!(stored_sums(&[i64::MIN], 2), (Dtype::F64, 2_f64.powi(64)));
        assert_eq!(stored_sums(&[0.5_f32], 2), (Dtype::F32, 1.0));
        assert_eq!(stored_sums(&[2e38_f32], 2).0, Dtype::F64);
    }
}
