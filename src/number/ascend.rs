//! Whether numbers ascend: what columns of a row have to do.

use super::Num;

/// Whether each number is larger than the one before.
pub fn ascend<T: Num>(numbers: &[T]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions that the function is compiled for.
        return unsafe { ascend_avx2(numbers) };
    }
    ascend_here(numbers)
}

/// [`ascend`], compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn ascend_avx2<T: Num>(numbers: &[T]) -> bool {
    ascend_here(numbers)
}

/// [`ascend`]: all pairs are compared without a branch, so that the compiler does many at a time.
#[inline(always)]
fn ascend_here<T: Num>(numbers: &[T]) -> bool {
    numbers.iter().zip(numbers.iter().skip(1)).fold(true, |all, (a, b)| all & (a < b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_windows_say(numbers in prop::collection::vec(0_i32..300, 0..60), sorted: bool) {
            let mut numbers = numbers;
            if sorted { numbers.sort_unstable(); }
            let expected = numbers.windows(2).all(|pair| pair[0] < pair[1]);
            prop_assert_eq!((ascend(&numbers), ascend_here(&numbers)), (expected, expected));
        }
    }
}
