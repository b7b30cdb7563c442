//! One row of a dense matrix, made small: a bit for each column, and a byte for most values.
//!
//! `nnz: u32 | large: u32 | a bit a column, as 64-bit words | a byte a value | values that are no byte`.
//! Knows no chunks and no files.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::number::{Num, always_exact, cast_values, resize};

/// The byte that stands for a value that does not fit into one; such values follow at the row's end.
const LARGE: u8 = u8::MAX;
/// The bytes of the header: the number of values, and of those that do not fit into one byte.
const HEADER: usize = 8;

/// A complete row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactRow(Arc<[u8]>);

/// A row that columns are added to, ascending.
#[derive(Default)]
pub struct RowBuilder {
    mask: Vec<u64>,
    small: Vec<u8>,
    large: Vec<u8>,
}

impl RowBuilder {
    /// Begins a row of `n_columns`.
    pub fn begin(&mut self, n_columns: usize) -> Result<()> {
        self.mask.clear();
        resize(&mut self.mask, n_columns.div_ceil(64))?;
        self.small.clear();
        self.large.clear();
        Ok(())
    }

    /// Marks 64 columns from `column`, those whose bit is set.
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

    /// Appends a value.
    #[inline(always)]
    fn push<S: Num>(&mut self, value: S) {
        let byte: u8 = value.as_();
        if S::cast(byte) == value && byte != LARGE {
            self.small.push(byte);
        } else {
            self.small.push(LARGE);
            self.large.extend_from_slice(bytemuck::bytes_of(&value));
        }
    }

    /// Adds those values in `bytes`, the first of which is of `column`, that are not zero and whose column is `wanted`.
    pub fn add<S: Num>(&mut self, bytes: &[u8], column: usize, wanted: Option<&ColumnMask>) {
        let size = size_of::<S>();
        for (group, column) in bytes.chunks(64 * size).zip((column..).step_by(64)) {
            let bits = wanted.map_or(u64::MAX, |wanted| wanted.from(column));
            // Most groups have no wanted column where few genes are, and are not looked at.
            let mut bits = if bits == 0 { 0 } else { bits & nonzero::<S>(group) };
            if bits == 0 {
                continue;
            }
            self.set(column, bits);
            self.small.reserve(64);
            while bits != 0 {
                let i = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                self.push(bytemuck::pod_read_unaligned::<S>(&group[i * size..(i + 1) * size]));
            }
        }
    }

    /// Adds `value`, which is not zero, in those of `columns` that are `wanted`.
    pub fn fill<S: Num>(&mut self, value: S, columns: Range<usize>, wanted: Option<&ColumnMask>) {
        for column in columns.filter(|&column| wanted.is_none_or(|wanted| wanted.from(column) & 1 == 1)) {
            self.set(column, 1);
            self.push(value);
        }
    }

    /// The row, complete. The builder keeps its memory for the next.
    pub fn finish<S>(&self) -> CompactRow {
        let mut row = Vec::with_capacity(HEADER + 8 * self.mask.len() + self.small.len() + self.large.len());
        // A row has fewer than 2^31 columns.
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        row.extend(count(self.small.len()));
        row.extend(count(self.large.len() / size_of::<S>()));
        row.extend_from_slice(bytemuck::cast_slice(&self.mask));
        row.extend_from_slice(&self.small);
        row.extend_from_slice(&self.large);
        CompactRow(row.into())
    }
}

impl CompactRow {
    /// A row of these bytes, for tests that look at none of them.
    #[cfg(test)]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The number of values that the row has.
    pub fn nnz(&self) -> usize {
        self.0.first_chunk::<4>().map_or(0, |nnz| u32::from_le_bytes(*nnz) as usize)
    }

    /// The number of bytes that the row takes.
    pub fn byte_len(&self) -> usize {
        self.0.len()
    }

    /// Writes the row's columns and values; it was built of `S` and of `n_columns`. `stored` is memory
    /// that each row uses again. `Value` for a number that `T` cannot hold.
    pub fn write<S: Num, T: Num>(
        &self,
        n_columns: usize,
        columns: &mut [i32],
        values: &mut [T],
        stored: &mut Vec<S>,
    ) -> Result<()> {
        let (mask, rest) = self.0[HEADER..].split_at(n_columns.div_ceil(64) * 8);
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
}

/// The values of a row, from its bytes and from those that are no byte.
fn unpack<S: Num, T: Num>(small: &[u8], large: &[u8], values: &mut [T]) {
    for (to, &byte) in values.iter_mut().zip(small) {
        *to = T::cast(S::cast(byte));
    }
    if large.is_empty() {
        return;
    }
    let mut large = large.chunks_exact(size_of::<S>());
    for (to, _) in values.iter_mut().zip(small).filter(|&(_, &byte)| byte == LARGE) {
        if let Some(bytes) = large.next() {
            *to = T::cast(bytemuck::pod_read_unaligned::<S>(bytes));
        }
    }
}

/// A bit for each of up to 64 values: whether it is not zero.
#[inline(always)]
fn nonzero<S: Num>(bytes: &[u8]) -> u64 {
    let size = size_of::<S>();
    if size == 4
        && let Some(group) = bytes.first_chunk::<256>()
    {
        // The common widths, in a form that the compiler does many at a time: a byte of 0 or 1 for each value, and
        // then eight of them to eight bits by a multiplication that adds each one, shifted, into the top byte.
        // A float of only the sign bit is a zero.
        let kept = if S::DTYPE.is_float() { u32::MAX >> 1 } else { u32::MAX };
        let mut is_set = [0_u8; 64];
        for (to, word) in is_set.iter_mut().zip(group.as_chunks::<4>().0) {
            *to = u8::from(u32::from_ne_bytes(*word) & kept != 0);
        }
        let eight = is_set
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes).wrapping_mul(0x0102_0408_1020_4080) >> 56);
        return eight.rev().fold(0, |bits, byte| bits << 8 | byte);
    }
    bytes
        .chunks_exact(size)
        .enumerate()
        .fold(0, |bits, (i, value)| bits | u64::from(bytemuck::pod_read_unaligned::<S>(value) != S::zero()) << i)
}

/// A bit for each column: whether it is wanted.
pub struct ColumnMask(Vec<u64>);

impl ColumnMask {
    /// The columns whose flag is true.
    pub fn new(flags: &[bool]) -> Self {
        Self(
            flags
                .chunks(64)
                .map(|flags| flags.iter().rev().fold(0, |bits, &flag| bits << 1 | u64::from(flag)))
                .collect(),
        )
    }

    /// The bits of 64 columns from `column`.
    #[inline(always)]
    fn from(&self, column: usize) -> u64 {
        let word = |at: usize| self.0.get(at).copied().unwrap_or(0);
        let (at, shift) = (column / 64, column % 64);
        word(at) >> shift | if shift == 0 { 0 } else { word(at + 1) << (64 - shift) }
    }
}
