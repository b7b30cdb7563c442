//! From the stored number type to the one asked for, never to a wrong number.
//!
//! Integers arrive exactly or not at all. Floats may round to a narrower float, as
//! everywhere, and must not overflow it; into integers they go only if they are integral.

use num_traits::AsPrimitive;

use super::dtype::{Dtype, Num};
use crate::error::{DaoError, Result};

/// The values that are cast before they are checked: few enough to lie in the processor's nearest cache.
const STEP: usize = 2048;

/// Writes `from` into `to`, which has the same length; `Value` for a number that `T` cannot hold.
pub fn cast_values<S: Num, T: Num>(from: &[S], to: &mut [T]) -> Result<()> {
    debug_assert_eq!(from.len(), to.len());
    for (from, to) in from.chunks(STEP).zip(to.chunks_mut(STEP)) {
        if !cast_here(from, to)
            && let Some((bad, _)) = from.iter().zip(&*to).find(|&(&s, &t)| !holds(s, t))
        {
            return Err(DaoError::value(format!("the stored value {bad} does not fit into {}", T::DTYPE.name()))
                .hint(format!("ask for the dtype it is stored in: dtype=\"{}\"", S::DTYPE.name())));
        }
    }
    Ok(())
}

/// Casts, and says whether every value arrived.
fn cast_here<S: Num, T: Num>(from: &[S], to: &mut [T]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions that the function is compiled for.
        return unsafe { cast_avx2(from, to) };
    }
    cast_all(from, to)
}

/// [`cast_all`], compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn cast_avx2<S: Num, T: Num>(from: &[S], to: &mut [T]) -> bool {
    cast_all(from, to)
}

/// Casts all values, without a branch for each: many at a time.
#[inline(always)]
fn cast_all<S: Num, T: Num>(from: &[S], to: &mut [T]) -> bool {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = T::cast(from);
    }
    always_exact::<S, T>() || from.iter().zip(&*to).fold(true, |all, (&s, &t)| all & holds(s, t))
}

/// The values of `from` as a new vector; see [`cast_values`].
pub fn cast_vec<S: Num, T: Num>(from: &[S]) -> Result<Vec<T>> {
    let mut to = vec![T::zero(); from.len()];
    cast_values(from, &mut to)?;
    Ok(to)
}

/// Whether every value of `S` is one of `T`.
pub fn always_exact<S: Num, T: Num>() -> bool {
    is_always_exact(S::DTYPE, T::DTYPE)
}

/// Whether every value of type `s` is one of type `t`.
pub fn is_always_exact(s: Dtype, t: Dtype) -> bool {
    match (s.is_float(), t.is_float()) {
        (true, true) => s.size() <= t.size(),
        (false, true) => s.size() < t.size(),
        (true, false) => false,
        (false, false) => match (s.is_signed(), t.is_signed()) {
            (false, true) => s.size() < t.size(),
            (true, false) => false,
            _ => s.size() <= t.size(),
        },
    }
}

/// Whether `t`, which `s` was cast to, is `s`, or near to it where both are floats.
#[inline(always)]
fn holds<S: Num, T: Num>(s: S, t: T) -> bool {
    // Back in its own type a value is what it was. Two others are too: the end of an integer's range, which a float
    // that is too large is cut to, and is rounded up to on its way back; and what wraps, which has the other sign.
    let back = S::cast(t) == s;
    match (S::DTYPE.is_float(), T::DTYPE.is_float()) {
        (true, true) => AsPrimitive::<f64>::as_(t).is_finite() | !AsPrimitive::<f64>::as_(s).is_finite(),
        (true, false) => back & (s < end::<T, S>()),
        (false, true) => back & (t < end::<S, T>()),
        (false, false) => back & ((s < S::zero()) == (t < T::zero())),
    }
}

/// The number after the largest of the integers `I`, a power of two, as a float.
#[inline(always)]
fn end<I: Num, F: Num>() -> F {
    let bits = 8 * I::DTYPE.size() - usize::from(I::DTYPE.is_signed());
    let half: f64 = (1_u64 << (bits - 1)).as_();
    F::cast(2.0 * half)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cast<S: Num, T: Num>(value: S) -> Option<T> {
        let mut out = [T::zero()];
        cast_values(&[value], &mut out).ok().map(|()| out[0])
    }

    #[test]
    fn the_edges() {
        assert_eq!(cast::<u32, f32>(16_777_216), Some(16_777_216.0));
        assert_eq!(cast::<u32, f32>(16_777_217), None);
        assert_eq!(cast::<u32, f32>(u32::MAX), None);
        assert_eq!(cast::<u64, f64>(u64::MAX), None);
        assert_eq!(cast::<u64, f32>(1 << 63), Some(9_223_372_036_854_775_808.0));
        assert_eq!(cast::<f32, u8>(255.0), Some(255));
        assert_eq!(cast::<f32, u8>(256.0), None);
        assert_eq!(cast::<f32, u8>(0.5), None);
        assert_eq!(cast::<f32, i32>(f32::NAN), None);
        assert_eq!(cast::<f64, u64>(18_446_744_073_709_551_616.0), None);
        assert_eq!(cast::<f64, f32>(1e300), None);
        assert_eq!(cast::<f64, f32>(f64::INFINITY), Some(f32::INFINITY));
        assert!(cast::<f64, f32>(f64::NAN).is_some_and(f32::is_nan));
        assert_eq!(cast::<i8, u8>(-1), None);
        assert_eq!(cast::<u8, i8>(128), None);
    }

    proptest! {
        #[test]
        fn integers_arrive_exactly_or_not_at_all(v: i64) {
            if let Some(t) = cast::<i64, f32>(v) { prop_assert_eq!(AsPrimitive::<i128>::as_(t), i128::from(v)); }
            if let Some(t) = cast::<i64, f64>(v) { prop_assert_eq!(AsPrimitive::<i128>::as_(t), i128::from(v)); }
            prop_assert_eq!(cast::<i64, u16>(v), u16::try_from(v).ok());
            prop_assert_eq!(cast::<i64, u64>(v), u64::try_from(v).ok());
            prop_assert_eq!(cast::<i64, i32>(v), i32::try_from(v).ok());
            let unsigned = v.cast_unsigned();
            prop_assert_eq!(cast::<u64, i64>(unsigned), i64::try_from(unsigned).ok());
            prop_assert_eq!(cast::<i64, i8>(v >> 56), i8::try_from(v >> 56).ok());
        }

        #[test]
        fn floats_arrive_as_integers_if_they_are_integral(v: f32, halves in -140_000_i32..140_000, shift in 0_u32..70) {
            fn check<T: Num>(v: f64) -> std::result::Result<(), TestCaseError> {
                let found = cast::<f64, T>(v);
                // Beyond 2^65 nothing fits, and below it 128 bits hold the integral part exactly.
                let whole: i128 = v.as_();
                let there = T::of_i128(whole);
                let fits = v.fract() == 0.0 && v.abs() < 2_f64.powi(66) && AsPrimitive::<i128>::as_(there) == whole;
                prop_assert_eq!(found.map(AsPrimitive::<i128>::as_), fits.then_some(whole), "{} as {}", v, T::DTYPE.name());
                Ok(())
            }
            let edge = 2_f64.powi(i32::try_from(shift).unwrap());
            for v in [v.into(), f64::from(halves) / 2.0, edge, -edge, edge - 1.0, 1.0 - edge, -edge - 1.0] {
                check::<u8>(v)?;
                check::<i8>(v)?;
                check::<u16>(v)?;
                check::<i16>(v)?;
                check::<u32>(v)?;
                check::<i32>(v)?;
                check::<u64>(v)?;
                check::<i64>(v)?;
            }
        }
    }
}
