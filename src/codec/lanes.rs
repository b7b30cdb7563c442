//! 256 numbers packed into some bits each, in lanes that a processor unpacks side by side.
//!
//! Number `i` lies in lane `i % LANES`, at place `i / LANES`; a lane is words of the lane's width, filled from the least
//! significant bit, and the first words of all lanes come first, then the second ones. So one shift of a vector
//! register unpacks a number of each lane. Lanes of 16 bits are twice as many as those of 32, and as fast each.

use bytemuck::Pod;

/// The number of numbers that are packed together.
pub const FRAME: usize = 256;

/// The bytes of a word of each lane: a vector register's of AVX2.
const ROW: usize = 32;

/// A number in a lane: of 16 bits where the stored words have no more, else of 32.
pub trait Lane: Pod {
    /// The width of a lane in bits, and so the most that a number is packed into.
    const BITS: usize;
    /// The number that has the low bits of 64.
    fn low_bits(wide: u64) -> Self;
    /// The number as 32 bits.
    fn wide(self) -> u32;
    /// The sum, modulo the lane's width.
    fn plus(self, other: Self) -> Self;
    /// Sets bits that are not set.
    fn set(&mut self, bits: Self);
    /// Appends the low `width` bits of each of `numbers`.
    fn pack(numbers: &[Self; FRAME], width: usize, out: &mut Vec<u8>);
    /// Unpacks `packed_len(width)` bytes. `AVX2` says that the processor has it.
    fn unpack<const AVX2: bool>(packed: &[u8], width: usize, numbers: &mut [Self; FRAME]);
    /// Replaces each number by the sum of `before`, it and all before it, modulo the lane's width. `AVX2` says that
    /// the processor has it.
    fn running_sums<const AVX2: bool>(before: Self, numbers: &mut [Self; FRAME]);
}

/// The bytes that 256 numbers of `width` bits are packed into.
#[inline(always)]
pub fn packed_len(width: usize) -> usize {
    FRAME / 8 * width
}

macro_rules! lanes {
    ($name:ident, $type:ty, $avx2_sums:path, places $($place:literal)*, widths $($width:literal)*) => {
        mod $name {
            use super::{FRAME, Lane, ROW};

            /// The number of lanes.
            const LANES: usize = ROW / size_of::<$type>();
            const BITS: usize = <$type>::BITS as usize;

            /// Unpacks numbers of `WIDTH` bits. Compiled for each width, so that all shifts are known.
            #[inline(always)]
            fn unpack_width<const WIDTH: usize>(packed: &[u8], numbers: &mut [$type; FRAME]) {
                // `Lane::unpack` is called with as many bytes.
                let Some(rows) = packed.as_chunks::<ROW>().0.first_chunk::<WIDTH>() else { return };
                if WIDTH == 0 {
                    return numbers.fill(0);
                }
                let mask = <$type>::MAX >> (BITS - WIDTH);
                $({
                    let (word, shift) = ($place * WIDTH / BITS, $place * WIDTH % BITS);
                    let low: [$type; LANES] = bytemuck::pod_read_unaligned(&rows[word]);
                    let to = &mut numbers[$place * LANES..][..LANES];
                    if shift + WIDTH > BITS {
                        let high: [$type; LANES] = bytemuck::pod_read_unaligned(&rows[word + 1]);
                        for (to, (low, high)) in to.iter_mut().zip(low.into_iter().zip(high)) {
                            *to = (low >> shift | high << (BITS - shift)) & mask;
                        }
                    } else {
                        for (to, low) in to.iter_mut().zip(low) {
                            *to = low >> shift & mask;
                        }
                    }
                })*
            }

            #[inline(always)]
            fn unpack_here(packed: &[u8], width: usize, numbers: &mut [$type; FRAME]) {
                match width {
                    $($width => unpack_width::<$width>(packed, numbers),)*
                    _ => {}
                }
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn unpack_avx2(packed: &[u8], width: usize, numbers: &mut [$type; FRAME]) {
                unpack_here(packed, width, numbers);
            }

            #[cfg_attr(target_arch = "x86_64", inline(never))]
            fn unpack_portable(packed: &[u8], width: usize, numbers: &mut [$type; FRAME]) {
                unpack_here(packed, width, numbers);
            }

            #[allow(clippy::cast_possible_truncation, reason = "the low bits are meant")]
            #[allow(clippy::cast_lossless, reason = "one text for every width")]
            impl Lane for $type {
                const BITS: usize = BITS;

                #[inline(always)]
                fn low_bits(wide: u64) -> Self {
                    wide as Self
                }

                #[inline(always)]
                fn wide(self) -> u32 {
                    self as u32
                }

                #[inline(always)]
                fn plus(self, other: Self) -> Self {
                    self.wrapping_add(other)
                }

                #[inline(always)]
                fn set(&mut self, bits: Self) {
                    *self |= bits;
                }

                fn pack(numbers: &[Self; FRAME], width: usize, out: &mut Vec<u8>) {
                    let start = out.len();
                    let mask = if width == 0 { 0 } else { Self::MAX >> (BITS - width) };
                    let mut words = [0 as Self; LANES];
                    // The bits of each lane's word that are filled.
                    let mut filled = 0;
                    for numbers in numbers.as_chunks::<LANES>().0 {
                        for (word, number) in words.iter_mut().zip(numbers) {
                            *word |= (number & mask).checked_shl(filled as u32).unwrap_or(0);
                        }
                        filled += width;
                        if filled >= BITS {
                            out.extend_from_slice(bytemuck::bytes_of(&words));
                            filled -= BITS;
                            for (word, number) in words.iter_mut().zip(numbers) {
                                *word = (number & mask).checked_shr((width - filled) as u32).unwrap_or(0);
                            }
                        }
                    }
                    debug_assert_eq!(out.len() - start, super::packed_len(width));
                }

                #[inline(always)]
                fn unpack<const AVX2: bool>(packed: &[u8], width: usize, numbers: &mut [Self; FRAME]) {
                    #[cfg(target_arch = "x86_64")]
                    if AVX2 {
                        // SAFETY: the caller says that the processor has it.
                        return unsafe { unpack_avx2(packed, width, numbers) };
                    }
                    unpack_portable(packed, width, numbers);
                }

                #[inline(always)]
                fn running_sums<const AVX2: bool>(before: Self, numbers: &mut [Self; FRAME]) {
                    #[cfg(target_arch = "x86_64")]
                    if AVX2 {
                        // SAFETY: the caller says that the processor has it.
                        return unsafe { $avx2_sums(before, numbers) };
                    }
                    let mut sum = before;
                    for number in numbers {
                        sum = sum.wrapping_add(*number);
                        *number = sum;
                    }
                }
            }
        }
    };
}

lanes! { narrow, u16, super::sums16, places 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15,
widths 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 }
lanes! { wide, u32, super::sums32, places 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31,
widths 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 }

/// [`Lane::running_sums`] of eight numbers at a time: sums within the register's halves, then the lower half's onto the
/// upper one. What came before is added last, by one addition, as each step waits for the one before.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sums32(before: u32, numbers: &mut [u32; FRAME]) {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_permute2x128_si256, _mm256_permutevar8x32_epi32,
        _mm256_set1_epi32, _mm256_shuffle_epi32, _mm256_slli_si256, _mm256_storeu_si256,
    };
    let last = _mm256_set1_epi32(7);
    let mut before = _mm256_set1_epi32(before.cast_signed());
    for eight in numbers.as_chunks_mut::<8>().0 {
        let pointer = eight.as_mut_ptr().cast::<__m256i>();
        // SAFETY: `pointer` is eight 32-bit numbers that nothing else borrows; the access is unaligned.
        let mut sums = unsafe { _mm256_loadu_si256(pointer) };
        sums = _mm256_add_epi32(sums, _mm256_slli_si256::<4>(sums));
        sums = _mm256_add_epi32(sums, _mm256_slli_si256::<8>(sums));
        // The lower half's last sum, onto the upper half; zeros onto the lower.
        let lower = _mm256_permute2x128_si256::<0x08>(sums, sums);
        sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0xff>(lower));
        let total = _mm256_permutevar8x32_epi32(sums, last);
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(pointer, _mm256_add_epi32(sums, before)) };
        before = _mm256_add_epi32(before, total);
    }
}

/// [`Lane::running_sums`] of sixteen numbers at a time, as [`sums32`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sums16(before: u16, numbers: &mut [u16; FRAME]) {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi16, _mm256_loadu_si256, _mm256_permute2x128_si256, _mm256_set1_epi16,
        _mm256_shuffle_epi8, _mm256_slli_si256, _mm256_storeu_si256,
    };
    // The last number of each half, everywhere in it.
    let last = _mm256_set1_epi16(0x0f0e);
    let mut before = _mm256_set1_epi16(before.cast_signed());
    for sixteen in numbers.as_chunks_mut::<16>().0 {
        let pointer = sixteen.as_mut_ptr().cast::<__m256i>();
        // SAFETY: `pointer` is sixteen 16-bit numbers that nothing else borrows; the access is unaligned.
        let mut sums = unsafe { _mm256_loadu_si256(pointer) };
        sums = _mm256_add_epi16(sums, _mm256_slli_si256::<2>(sums));
        sums = _mm256_add_epi16(sums, _mm256_slli_si256::<4>(sums));
        sums = _mm256_add_epi16(sums, _mm256_slli_si256::<8>(sums));
        // The last sum of each half; the lower half's goes onto the upper one, and both onto what comes after.
        let totals = _mm256_shuffle_epi8(sums, last);
        sums = _mm256_add_epi16(sums, _mm256_permute2x128_si256::<0x08>(totals, totals));
        let total = _mm256_add_epi16(totals, _mm256_permute2x128_si256::<0x01>(totals, totals));
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(pointer, _mm256_add_epi16(sums, before)) };
        before = _mm256_add_epi16(before, total);
    }
}
