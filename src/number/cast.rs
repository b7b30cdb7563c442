//! From the stored number type to the one asked for, never to a wrong number.
//!
//! Integers arrive exactly or not at all. Floats may round to a narrower float, as
//! everywhere, and must not overflow it; into integers they go only if they are integral.

use num_traits::AsPrimitive;

use super::dtype::{Dtype, Num};
use crate::error::{DaoError, Result};

/// Writes `from` into `to`, which has the same length; `Value` for a number that `T` cannot hold.
pub fn cast_values<S: Num, T: Num>(from: &[S], to: &mut [T]) -> Result<()> {
    debug_assert_eq!(from.len(), to.len());
    for (to, &from) in to.iter_mut().zip(from) {
        *to = T::cast(from);
    }
    if !always_exact::<S, T>()
        && let Some((bad, _)) = from.iter().zip(&*to).find(|&(&s, &t)| !holds(s, t))
    {
        return Err(DaoError::value(format!("the stored value {bad} does not fit into {}", T::DTYPE.name()))
            .hint(format!("ask for the dtype it is stored in: dtype=\"{}\"", S::DTYPE.name())));
    }
    Ok(())
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
fn holds<S: Num, T: Num>(s: S, t: T) -> bool {
    let (wide, to_float) = (AsPrimitive::<f64>::as_(s), T::DTYPE.is_float());
    if to_float && S::DTYPE.is_float() {
        return AsPrimitive::<f64>::as_(t).is_finite() || !wide.is_finite();
    }
    // Below 2^24 every integer is a float32: most need no look at more bits.
    if to_float && wide.abs() <= 16_777_216.0 {
        return true;
    }
    let (before, after): (i128, i128) = (s.as_(), t.as_());
    (!S::DTYPE.is_float() || wide.fract() == 0.0) && before == after
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
        }
    }
}
