//! The narrowest number type that holds every value of a matrix.

use num_traits::AsPrimitive;

use super::parallel;
use super::slice::{Slice, for_slice};
use crate::error::Result;
use crate::number::{Dtype, Num, Word};

/// The values that one thread looks at, at a time.
const PIECE: usize = 256 << 10;
/// The values that are looked at side by side.
const LANES: usize = 32;

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
    nan: u64,
    infinite: u64,
}

impl ValueScan {
    /// Takes a block of values into account, on all cores.
    ///
    /// # Errors
    /// None of its own.
    pub fn update<'a>(&mut self, values: impl Into<Slice<'a>>) -> Result<()> {
        for_slice!(values.into(), v => self.update_slice(v))
    }

    /// Takes a block into account, of values whose type is known; see [`ValueScan::update`].
    fn update_slice<T: Num>(&mut self, values: &[T]) -> Result<()> {
        let looked = |values: &[T]| {
            let mut seen = Self::default();
            seen.look(values);
            Ok(seen)
        };
        for seen in parallel::each(values.chunks(PIECE).collect(), looked)? {
            self.merge(&seen);
        }
        Ok(())
    }

    fn merge(&mut self, other: &Self) {
        self.fractional |= other.fractional;
        self.wide_float |= other.wide_float;
        self.floats = (self.floats.0.min(other.floats.0), self.floats.1.max(other.floats.1));
        self.integers = (self.integers.0.min(other.integers.0), self.integers.1.max(other.integers.1));
        self.nonzero += other.nonzero;
        self.nan += other.nan;
        self.infinite += other.infinite;
    }

    fn look<T: Num>(&mut self, values: &[T]) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the instructions that the function is compiled for.
            return unsafe { self.look_avx2(values) };
        }
        self.look_here(values);
    }

    /// [`ValueScan::look_here`], compiled for AVX2.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn look_avx2<T: Num>(&mut self, values: &[T]) {
        self.look_here(values);
    }

    #[inline(always)]
    fn look_here<T: Num>(&mut self, values: &[T]) {
        let (mut low, mut high) = ([T::zero(); LANES], [T::zero(); LANES]);
        self.wide_float |= T::DTYPE == Dtype::F64 && !values.is_empty();
        // Lanes do not wait for each other, and a count of eight bits a lane is as wide as the narrowest values.
        for some in values.chunks(LANES * 255) {
            let mut nonzero = [0_u8; LANES];
            let mut odd = [false; LANES];
            let (whole, rest) = some.as_chunks::<LANES>();
            let mut rest_padded = [T::zero(); LANES];
            rest_padded[..rest.len()].copy_from_slice(rest);
            for lanes in whole.iter().chain([&rest_padded]) {
                for i in 0..LANES {
                    let value = lanes[i];
                    let finite = if T::DTYPE.is_float() {
                        // NaN, infinities and -0.0 are no integers: storing them as such would lose them.
                        let finite = value * T::zero() == T::zero();
                        odd[i] |= !finite | is_negative_zero(value);
                        if finite { value } else { T::zero() }
                    } else {
                        value
                    };
                    nonzero[i] += u8::from(value != T::zero());
                    low[i] = if finite < low[i] { finite } else { low[i] };
                    high[i] = if finite > high[i] { finite } else { high[i] };
                }
            }
            self.nonzero += nonzero.iter().map(|&n| u64::from(n)).sum::<u64>();
            if odd.contains(&true) {
                self.fractional = true;
                self.count_odd(some);
            } else if T::DTYPE.is_float() && !self.fractional {
                self.fractional = !all_integral(some);
            }
        }
        for (low, high) in low.into_iter().zip(high) {
            if T::DTYPE.is_float() {
                self.floats = (self.floats.0.min(low.as_()), self.floats.1.max(high.as_()));
            } else {
                self.integers = (self.integers.0.min(low.as_()), self.integers.1.max(high.as_()));
            }
        }
    }

    /// Counts what is no finite number, of values that have such or a zero with a sign: few matrices do.
    #[cold]
    fn count_odd<T: Num>(&mut self, values: &[T]) {
        for &value in values {
            let value: f64 = value.as_();
            self.nan += u64::from(value.is_nan());
            self.infinite += u64::from(value.is_infinite());
        }
    }

    /// The numbers of NaN and of infinite values, and the least finite value (or 0).
    #[must_use]
    pub fn odd_values(&self) -> (u64, u64, f64) {
        let least: f64 = self.integers.0.as_();
        (self.nan, self.infinite, least.min(self.floats.0))
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

/// Whether a float is zero with a sign.
#[inline(always)]
fn is_negative_zero<T: Num>(value: T) -> bool {
    bytemuck::cast::<T, T::Word>(value) == T::Word::low(1 << (T::Word::BITS - 1))
}

/// Whether finite floats are integers. Those that 32 bits hold, which counts are, are looked at many at a time.
#[inline(always)]
fn all_integral<T: Num>(values: &[T]) -> bool {
    let small = values.iter().fold(true, |all, &value| all & (T::cast(AsPrimitive::<i32>::as_(value)) == value));
    small || values.iter().all(|&value| AsPrimitive::<f64>::as_(value).fract() == 0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored<T: Num>(values: &[T]) -> Dtype {
        let mut scan = ValueScan::default();
        scan.update_slice(values).unwrap();
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
        assert_eq!(stored(&[-0.0_f64]), Dtype::F64);
        assert_eq!(stored(&[4_294_967_296.0_f32, -1.0]), Dtype::I64);
    }

    proptest! {
        #[test]
        fn one_odd_value_among_many_is_seen(at in 0_usize..20_000, n in 20_000_usize..40_000) {
            let mut counts: Vec<f32> = (0..100_u16).map(f32::from).cycle().take(n).collect();
            counts[at] = 0.0;
            let mut scan = ValueScan::default();
            scan.update_slice(&counts).unwrap();
            prop_assert_eq!((scan.stored(), scan.max_abs()), (Dtype::U8, 99.0));
            prop_assert_eq!(scan.nonzero(), counts.iter().map(|&v| u64::from(v != 0.0)).sum::<u64>());
            for (odd, dtype, most) in [
                (0.5, Dtype::F32, 99.0),
                (-0.0, Dtype::F32, 99.0),
                (f32::NAN, Dtype::F32, 99.0),
                (f32::NEG_INFINITY, Dtype::F32, 99.0),
                (-300.0, Dtype::I16, 300.0),
                (5e9, Dtype::U64, 5e9),
                (1e30, Dtype::F32, f64::from(1e30_f32)),
            ] {
                counts[at] = odd;
                let mut scan = ValueScan::default();
                scan.update_slice(&counts).unwrap();
                prop_assert_eq!((scan.stored(), scan.max_abs()), (dtype, most));
            }
        }
    }

    #[test]
    fn odd_values_are_counted() {
        fn odd<T: Num>(values: &[T]) -> (u64, u64, f64) {
            let mut scan = ValueScan::default();
            scan.update_slice(values).unwrap();
            scan.odd_values()
        }
        assert_eq!(odd(&[0.0_f32, 3.5]), (0, 0, 0.0));
        assert_eq!(odd(&[-2_i8, 3]), (0, 0, -2.0));
        assert_eq!(odd(&[-0.0_f32]), (0, 0, 0.0));
        let mut values = vec![1.0_f64; 100_000];
        (values[3], values[70_000], values[99_999]) = (f64::NAN, f64::NAN, f64::NEG_INFINITY);
        values[5] = -2.5;
        assert_eq!(odd(&values), (2, 1, -2.5));
    }

    #[test]
    fn the_type_holds_sums_too() {
        fn stored_sums<T: Num>(values: &[T], n: u32) -> (Dtype, f64) {
            let mut scan = ValueScan::default();
            scan.update_slice(values).unwrap();
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
