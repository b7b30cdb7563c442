//! Stored values as decompression leaves them: which are not zero, and what those are.
//!
//! Knows three ways in which values lie, and neither rows nor columns. The SSE2 instructions are part of
//! every x86-64; other processors get the same in plain Rust.

use std::marker::PhantomData;

use crate::number::Num;

/// Values, however their bytes lie.
pub trait StoredValues {
    /// Which of the 64 values from `first` (a multiple of 64) are not zero; anything for those past the end.
    fn nonzero(&self, first: usize) -> u64;
    /// The bits of the `i`-th value.
    fn bits(&self, i: usize) -> u64;
}

/// Values one after another.
pub struct Plain<'a, S>(&'a [u8], PhantomData<S>);
/// Values by their bytes: which byte of each value, and those of all values. What is left out is zero.
pub struct BytePlanes<'a, S>(&'a [(usize, &'a [u8])], PhantomData<S>);
/// Values by their bits, eight values a byte: which bit, and those of all values. What is left out is zero.
pub struct BitPlanes<'a, S>(&'a [(usize, &'a [u8])], PhantomData<S>);

impl<'a, S> Plain<'a, S> {
    /// The values in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes, PhantomData)
    }
}

impl<'a, S> BytePlanes<'a, S> {
    /// The values in `planes`.
    pub fn new(planes: &'a [(usize, &'a [u8])]) -> Self {
        Self(planes, PhantomData)
    }
}

impl<'a, S> BitPlanes<'a, S> {
    /// The values in `planes`.
    pub fn new(planes: &'a [(usize, &'a [u8])]) -> Self {
        Self(planes, PhantomData)
    }
}

impl<S: Num> StoredValues for Plain<'_, S> {
    #[inline(always)]
    fn nonzero(&self, first: usize) -> u64 {
        let bytes = &self.0[first * size_of::<S>()..];
        match (bytes.get(..64 * size_of::<S>()), size_of::<S>()) {
            (Some(all), 4) => nonzero_words(all, S::DTYPE.is_float()),
            _ => bytes.chunks_exact(size_of::<S>()).take(64).enumerate().fold(0, |bits, (i, value)| {
                bits | u64::from(bytemuck::pod_read_unaligned::<S>(value) != S::zero()) << i
            }),
        }
    }

    #[inline(always)]
    fn bits(&self, i: usize) -> u64 {
        let mut word = [0; 8];
        word[..size_of::<S>()].copy_from_slice(&self.0[i * size_of::<S>()..(i + 1) * size_of::<S>()]);
        u64::from_le_bytes(word)
    }
}

impl<S: Num> StoredValues for BytePlanes<'_, S> {
    #[inline(always)]
    fn nonzero(&self, first: usize) -> u64 {
        let mut any = [0_u64; 8];
        for (byte, plane) in self.0 {
            // A sign alone is a zero.
            let kept = u64::from_ne_bytes(if S::DTYPE.is_float() && *byte == size_of::<S>() - 1 {
                [0x7f; 8]
            } else {
                [0xff; 8]
            });
            let mut last = [0; 64];
            let part = match plane[first..].first_chunk::<64>() {
                Some(part) => part,
                None => {
                    last[..plane.len() - first].copy_from_slice(&plane[first..]);
                    &last
                }
            };
            for (any, eight) in any.iter_mut().zip(part.as_chunks::<8>().0) {
                *any |= u64::from_ne_bytes(*eight) & kept;
            }
        }
        nonzero_bytes(bytemuck::must_cast_ref(&any))
    }

    #[inline(always)]
    fn bits(&self, i: usize) -> u64 {
        self.0.iter().fold(0, |word, (byte, plane)| word | u64::from(plane[i]) << (8 * byte))
    }
}

impl<S: Num> StoredValues for BitPlanes<'_, S> {
    #[inline(always)]
    fn nonzero(&self, first: usize) -> u64 {
        let mut any = 0;
        for (bit, plane) in self.0 {
            if S::DTYPE.is_float() && *bit == 8 * size_of::<S>() - 1 {
                continue;
            }
            any |= match plane[first / 8..].first_chunk::<8>() {
                Some(bytes) => u64::from_le_bytes(*bytes),
                None => plane[first / 8..].iter().rev().fold(0, |bits, &byte| bits << 8 | u64::from(byte)),
            };
        }
        any
    }

    #[inline(always)]
    fn bits(&self, i: usize) -> u64 {
        self.0.iter().fold(0, |word, (bit, plane)| word | u64::from(plane[i / 8] >> (i % 8) & 1) << bit)
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn nonzero_bytes(bytes: &[u8; 64]) -> u64 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_setzero_si128};
    let mut zeros = 0_u64;
    for (i, part) in bytes.as_chunks::<16>().0.iter().enumerate() {
        // SAFETY: 16 bytes, read unaligned; every x86-64 has SSE2.
        let mask =
            unsafe { _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128(part.as_ptr().cast()), _mm_setzero_si128())) };
        zeros |= u64::from(mask.cast_unsigned()) << (16 * i);
    }
    !zeros
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn nonzero_bytes(bytes: &[u8; 64]) -> u64 {
    bytes.iter().enumerate().fold(0, |bits, (i, &byte)| bits | u64::from(byte != 0) << i)
}

/// Which of 64 words of four bytes are not zero, or no float's zero.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn nonzero_words(bytes: &[u8], float: bool) -> u64 {
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_cmpeq_epi32, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32,
        _mm_set1_epi32, _mm_setzero_si128,
    };
    let mut zeros = 0_u64;
    for (i, part) in bytes.as_chunks::<64>().0.iter().enumerate() {
        let four = |at: usize| -> __m128i {
            // SAFETY: `at` is 0 to 3, and the part 64 bytes, read unaligned; every x86-64 has SSE2.
            unsafe {
                let kept = _mm_set1_epi32(if float { i32::MAX } else { -1 });
                _mm_cmpeq_epi32(
                    _mm_and_si128(_mm_loadu_si128(part.as_ptr().cast::<__m128i>().add(at)), kept),
                    _mm_setzero_si128(),
                )
            }
        };
        // SAFETY: every x86-64 has SSE2.
        let mask = unsafe {
            _mm_movemask_epi8(_mm_packs_epi16(_mm_packs_epi32(four(0), four(1)), _mm_packs_epi32(four(2), four(3))))
        };
        zeros |= u64::from(mask.cast_unsigned()) << (16 * i);
    }
    !zeros
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn nonzero_words(bytes: &[u8], float: bool) -> u64 {
    let kept = if float { u32::MAX >> 1 } else { u32::MAX };
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .enumerate()
        .fold(0, |bits, (i, word)| bits | u64::from(u32::from_ne_bytes(*word) & kept != 0) << i)
}
