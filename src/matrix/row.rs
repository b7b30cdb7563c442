//! One row of a dense matrix, small: a bit for each column, and a byte for most values.
//!
//! `nnz: u32 | large: u32 | a bit a column, as 64-bit words | a byte a value | values that are no byte`.
//! Knows how to find what is not zero in values as compressors leave them, and how to write it out.

use std::ops::Range;
use std::sync::Arc;

use crate::codec::blosc::Block;
use crate::codec::{Stored, Word};
use crate::error::Result;
use crate::number::Num;
use crate::number::{always_exact, cast_values};

/// In place of a byte: the value is among the large ones.
const LARGE: u8 = u8::MAX;
const HEAD: usize = 8;

/// A row that is complete.
pub type Row = Arc<[u8]>;

/// A row that columns are added to, ascending.
#[derive(Default)]
pub struct Building {
    mask: Vec<u64>,
    small: Vec<u8>,
    large: Vec<u8>,
}

impl Building {
    /// Begins a row of `n_columns`.
    pub fn begin(&mut self, n_columns: usize) {
        self.mask.clear();
        self.mask.resize(n_columns.div_ceil(64), 0);
        self.small.clear();
        self.large.clear();
    }

    #[inline(always)]
    fn set(&mut self, column: usize, bits: u64) {
        let (word, shift) = (column / 64, column % 64);
        self.mask[word] |= bits << shift;
        if shift > 0
            && let Some(next) = self.mask.get_mut(word + 1)
        {
            *next |= bits >> (64 - shift);
        }
    }

    #[inline(always)]
    fn push<S: Num>(&mut self, value: S) {
        let byte: u8 = value.as_();
        if S::of(byte) == value && byte != LARGE {
            self.small.push(byte);
        } else {
            self.small.push(LARGE);
            self.large.extend_from_slice(bytemuck::bytes_of(&value));
        }
    }

    /// Adds the values `range` of `block`, whose first one is of `column`; of those, `wanted` ones.
    pub fn add<S: Stored>(&mut self, block: &Block<'_>, range: Range<usize>, column: usize, wanted: Option<&Bits>) {
        match block {
            Block::Plain(bytes) => self.scan::<S>(&Plain::<S>(bytes, std::marker::PhantomData), range, column, wanted),
            Block::Planes(planes) => {
                self.scan::<S>(&Planes::<S>(planes, std::marker::PhantomData), range, column, wanted)
            }
            Block::Bits(planes) => {
                self.scan::<S>(&BitPlanes::<S>(planes, std::marker::PhantomData), range, column, wanted)
            }
        }
    }

    /// Adds `value`, which is not zero, in all `columns`; of those, `wanted` ones.
    pub fn fill<S: Num>(&mut self, value: S, columns: Range<usize>, wanted: Option<&Bits>) {
        for column in columns.filter(|&column| wanted.is_none_or(|wanted| wanted.from(column) & 1 == 1)) {
            self.set(column, 1);
            self.push(value);
        }
    }

    #[inline(always)]
    fn scan<S: Stored>(&mut self, words: &impl Words, range: Range<usize>, column: usize, wanted: Option<&Bits>) {
        for group in (range.start / 64 * 64..range.end).step_by(64) {
            let mut bits = words.nonzero(group);
            if range.end - group < 64 {
                bits &= (1 << (range.end - group)) - 1;
            }
            let first = group.max(range.start);
            bits >>= first - group;
            let column = column + (first - range.start);
            if let Some(wanted) = wanted {
                bits &= wanted.from(column);
            }
            if bits == 0 {
                continue;
            }
            self.set(column, bits);
            self.small.reserve(64);
            while bits != 0 {
                let i = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                self.push(S::of_word(S::Word::low(words.word(first + i))));
            }
        }
    }

    /// The row.
    pub fn finish<S>(&self) -> Row {
        let mut row = Vec::with_capacity(HEAD + 8 * self.mask.len() + self.small.len() + self.large.len());
        // A row has fewer than 2^31 columns.
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        row.extend(count(self.small.len()));
        row.extend(count(self.large.len() / size_of::<S>()));
        row.extend_from_slice(bytemuck::cast_slice(&self.mask));
        row.extend_from_slice(&self.small);
        row.extend_from_slice(&self.large);
        row.into()
    }
}

/// How many values a row has.
pub fn nnz(row: &Row) -> usize {
    row.first_chunk::<4>().map_or(0, |nnz| u32::from_le_bytes(*nnz) as usize)
}

/// Writes a row of `S` and `n_columns`; `stored` is room.
///
/// # Errors
/// `Value` for a number that `T` cannot hold.
pub fn write<S: Num, T: Num>(
    row: &Row,
    n_columns: usize,
    columns: &mut [i32],
    values: &mut [T],
    stored: &mut Vec<S>,
) -> Result<()> {
    let (mask, rest) = row[HEAD..].split_at(n_columns.div_ceil(64) * 8);
    let (small, large) = rest.split_at(columns.len());
    let mut to = columns.iter_mut();
    let mut first = 0_i32;
    for word in mask.as_chunks::<8>().0 {
        let mut bits = u64::from_ne_bytes(*word);
        while bits != 0 {
            #[expect(clippy::cast_possible_wrap, reason = "below 64")]
            if let Some(to) = to.next() {
                *to = first.wrapping_add(bits.trailing_zeros() as i32);
            }
            bits &= bits - 1;
        }
        first = first.wrapping_add(64);
    }
    if always_exact::<S, T>() {
        unpack::<S, T>(small, large, values);
        return Ok(());
    }
    stored.clear();
    stored.resize(columns.len(), S::zero());
    unpack::<S, S>(small, large, stored);
    cast_values(stored, values)
}

fn unpack<S: Num, T: Num>(small: &[u8], large: &[u8], values: &mut [T]) {
    for (to, &byte) in values.iter_mut().zip(small) {
        *to = T::of(S::of(byte));
    }
    if large.is_empty() {
        return;
    }
    let mut large = large.chunks_exact(size_of::<S>());
    for (to, _) in values.iter_mut().zip(small).filter(|&(_, &byte)| byte == LARGE) {
        if let Some(bytes) = large.next() {
            *to = T::of(bytemuck::pod_read_unaligned::<S>(bytes));
        }
    }
}

/// A bit for each column.
pub struct Bits(Vec<u64>);

impl Bits {
    /// Those that are true.
    pub fn new(flags: &[bool]) -> Self {
        Self(
            flags
                .chunks(64)
                .map(|flags| flags.iter().rev().fold(0, |bits, &flag| bits << 1 | u64::from(flag)))
                .collect(),
        )
    }

    /// 64 from `column`.
    #[inline(always)]
    fn from(&self, column: usize) -> u64 {
        let word = |at: usize| self.0.get(at).copied().unwrap_or(0);
        let (at, shift) = (column / 64, column % 64);
        word(at) >> shift | if shift == 0 { 0 } else { word(at + 1) << (64 - shift) }
    }
}

/// Values as words, wherever their bytes lie.
trait Words {
    /// Which of the 64 values from `first` (a multiple of 64) are not zero; anything for those past the end.
    fn nonzero(&self, first: usize) -> u64;
    /// The bits of a value.
    fn word(&self, i: usize) -> u64;
}

struct Plain<'a, S>(&'a [u8], std::marker::PhantomData<S>);
struct Planes<'a, S>(&'a [(usize, &'a [u8])], std::marker::PhantomData<S>);
struct BitPlanes<'a, S>(&'a [(usize, &'a [u8])], std::marker::PhantomData<S>);

impl<S: Num> Words for Plain<'_, S> {
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
    fn word(&self, i: usize) -> u64 {
        let mut word = [0; 8];
        word[..size_of::<S>()].copy_from_slice(&self.0[i * size_of::<S>()..(i + 1) * size_of::<S>()]);
        u64::from_le_bytes(word)
    }
}

impl<S: Num> Words for Planes<'_, S> {
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
    fn word(&self, i: usize) -> u64 {
        self.0.iter().fold(0, |word, (byte, plane)| word | u64::from(plane[i]) << (8 * byte))
    }
}

impl<S: Num> Words for BitPlanes<'_, S> {
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
    fn word(&self, i: usize) -> u64 {
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
