//! 512 values and their checksum: the least that is read of a chunk.
//!
//! A block is frames of what is left of the values after their reference: differences of
//! neighbours (`Delta`), distances from the least (`Plain`), or positions in a table of the block's
//! distinct values (`Dictionary`, for floats: log-normalised counts of a cell have few).
//! Knows no files and no chunks.

use std::ops::Range;

use super::Broken;
use super::frame;
use super::lanes::{FRAME, Lane};
use crate::checksum::crc32c;
use crate::number::{Num, Word};

/// The number of frames in a block.
const FRAMES: usize = 2;

/// The number of values in a block.
pub const BLOCK: usize = FRAMES * FRAME;

/// Memory that decoding a block needs, used again for the next.
pub struct Scratch {
    narrow: [[u16; FRAME]; FRAMES],
    wide: [[u32; FRAME]; FRAMES],
}

/// A [`Scratch`] to begin with.
pub const SCRATCH: Scratch = Scratch { narrow: [[0; FRAME]; FRAMES], wide: [[0; FRAME]; FRAMES] };

/// The bytes of the checksum at a block's end.
const CHECKSUM: usize = 4;

/// The first byte of a frame of 64-bit words too far apart to be packed, where others have a width: no width is 255.
const RAW: u8 = 255;

/// The way in which values become small numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Distance from the frame's least value.
    Plain,
    /// Difference from the value before, modulo the word size; within a frame.
    Delta,
    /// Position in the block's table of distinct values.
    Dictionary,
}

/// Appends to `out` the block of up to [`BLOCK`] `values`.
pub fn encode<W: Word>(values: &[W], kind: Kind, out: &mut Vec<u8>) {
    let start = out.len();
    match kind {
        Kind::Dictionary => encode_dictionary(values, out),
        _ if W::BITS <= 16 => encode_frames::<W, u16>(values, kind == Kind::Delta, out),
        _ => encode_frames::<W, u32>(values, kind == Kind::Delta, out),
    }
    let checksum = crc32c(&out[start..]);
    out.extend(checksum.to_le_bytes());
}

/// Appends frames of `values`, packed where their distances fit into `L`.
fn encode_frames<W: Word, L: Lane>(values: &[W], delta: bool, out: &mut Vec<u8>) {
    for values in values.chunks(FRAME) {
        let mut numbers = [L::low_bits(0); FRAME];
        let reference = if delta { values.first() } else { values.iter().min() };
        let reference = reference.map_or(0, |value| value.wide());
        let (mut before, mut all) = (reference, 0);
        for (number, value) in numbers.iter_mut().zip(values) {
            let distance = W::low(value.wide().wrapping_sub(before)).wide();
            if delta {
                before = value.wide();
            }
            *number = L::low_bits(distance);
            all |= distance;
        }
        if all >> L::BITS == 0 {
            frame::encode(&numbers, out);
            out.extend_from_slice(&reference.to_le_bytes()[..size_of::<W>()]);
        } else {
            out.push(RAW);
            out.extend_from_slice(bytemuck::cast_slice(values));
            out.resize(out.len() + (FRAME - values.len()) * size_of::<W>(), 0);
        }
    }
}

/// Appends a table of the distinct `values`, and where in it each value stands. The table comes most
/// frequent first, so that positions are small numbers.
fn encode_dictionary<W: Word>(values: &[W], out: &mut Vec<u8>) {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let mut table: Vec<(usize, W)> =
        sorted.chunk_by(|a, b| a == b).map(|run| (usize::MAX - run.len(), run[0])).collect();
    table.sort_unstable();
    let positions: std::collections::HashMap<W, u16> = table.iter().map(|&(_, value)| value).zip(0..).collect();
    let codes: Vec<u16> = values.iter().map(|value| positions[value]).collect();
    let mut with_table = Vec::new();
    // A block has at most 512 values.
    with_table.extend(u16::try_from(table.len()).unwrap_or(0).to_le_bytes());
    for (_, value) in &table {
        with_table.extend_from_slice(bytemuck::bytes_of(value));
    }
    encode_frames::<u16, u16>(&codes, false, &mut with_table);
    let raw = 2 + size_of_val(values);
    if with_table.len() < raw {
        out.append(&mut with_table);
    } else {
        out.extend([0; 2]);
        out.extend_from_slice(bytemuck::cast_slice(values));
    }
}

/// Decodes the values `range` of the block in `bytes` into `out`, which has as many; an error when the checksum or
/// anything else contradicts itself. Values are cast as `as` does: callers that need to know whether that is exact look
/// at `S`.
pub fn decode<S: Num, T: Num>(
    bytes: &[u8],
    kind: Kind,
    range: Range<usize>,
    out: &mut [T],
    scratch: &mut Scratch,
) -> Result<(), Broken> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions that the function is compiled for.
        return unsafe { decode_avx2::<S, T>(bytes, kind, range, out, scratch) };
    }
    decode_here::<S, T, false>(bytes, kind, range, out, scratch)
}

/// Decodes as [`decode`], compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn decode_avx2<S: Num, T: Num>(
    bytes: &[u8],
    kind: Kind,
    range: Range<usize>,
    out: &mut [T],
    scratch: &mut Scratch,
) -> Result<(), Broken> {
    decode_here::<S, T, true>(bytes, kind, range, out, scratch)
}

/// Decodes as [`decode`]; `AVX2` says whether it is compiled for processors that have AVX2.
#[inline(always)]
fn decode_here<S: Num, T: Num, const AVX2: bool>(
    bytes: &[u8],
    kind: Kind,
    range: Range<usize>,
    out: &mut [T],
    scratch: &mut Scratch,
) -> Result<(), Broken> {
    if range.end > BLOCK || range.len() != out.len() {
        return Err(Broken("values outside the block were asked for"));
    }
    let Some((body, checksum)) = bytes.split_last_chunk::<CHECKSUM>() else {
        return Err(Broken("a block is cut short"));
    };
    if crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err(Broken("checksum mismatch"));
    }
    let cast = |word| T::cast(S::from_word(word));
    match kind {
        Kind::Plain | Kind::Delta if S::Word::BITS <= 16 => {
            frames::<S::Word, u16, T, AVX2>(body, kind == Kind::Delta, range, out, &mut scratch.narrow, cast)
        }
        Kind::Plain | Kind::Delta => {
            frames::<S::Word, u32, T, AVX2>(body, kind == Kind::Delta, range, out, &mut scratch.wide, cast)
        }
        Kind::Dictionary => dictionary::<S, T, AVX2>(body, range, out, scratch),
    }
}

/// A frame while its block is decoded.
#[derive(Clone, Copy)]
enum Frame<'a> {
    /// 64-bit words as they are.
    Raw(&'a [u8]),
    /// Numbers to be added to a reference.
    Packed(u64),
}

/// Decodes the values `range` of a block of frames.
#[inline(always)]
fn frames<W: Word, L: Lane, T, const AVX2: bool>(
    mut body: &[u8],
    delta: bool,
    range: Range<usize>,
    mut out: &mut [T],
    numbers: &mut [[L; FRAME]; FRAMES],
    cast: impl Fn(W) -> T,
) -> Result<(), Broken> {
    let size = size_of::<W>();
    let within = |at: usize, frame: usize| at.clamp(frame * FRAME, (frame + 1) * FRAME) - frame * FRAME;
    let wanted = |frame: usize| within(range.start, frame)..within(range.end, frame);
    // All frames are unpacked before the first is summed up: numbers that were just patched one by
    // one cannot be loaded many at a time before they have left the processor's store buffer.
    let mut frames = [Frame::Raw(&[]); FRAMES];
    let n_frames = range.end.div_ceil(FRAME);
    for (i, (frame, numbers)) in frames.iter_mut().zip(&mut *numbers).enumerate().take(n_frames) {
        if body.first() == Some(&RAW) {
            let Some((raw, rest)) = body[1..].split_at_checked(FRAME * size) else {
                return Err(Broken("a frame is cut short"));
            };
            (*frame, body) = (Frame::Raw(raw), rest);
            continue;
        }
        let len = if wanted(i).is_empty() { frame::len::<L>(body)? } else { frame::decode::<L, AVX2>(body, numbers)? };
        let Some((reference, rest)) = body.get(len..).and_then(|after| after.split_at_checked(size)) else {
            return Err(Broken("a frame is cut short"));
        };
        (*frame, body) = (Frame::Packed(bytemuck::pod_read_unaligned::<W>(reference).wide()), rest);
    }
    for (i, (frame, numbers)) in frames.iter().zip(numbers).enumerate().take(n_frames) {
        let wanted = wanted(i);
        let (here, later) = out.split_at_mut(wanted.len());
        out = later;
        match frame {
            _ if wanted.is_empty() => {}
            Frame::Raw(raw) => {
                for (to, word) in here.iter_mut().zip(raw[wanted.start * size..].chunks_exact(size)) {
                    *to = cast(bytemuck::pod_read_unaligned(word));
                }
            }
            Frame::Packed(reference) if W::BITS == 64 => {
                let mut before = *reference;
                for (i, &number) in numbers.iter().enumerate().take(wanted.end) {
                    let value = before.wrapping_add(number.wide().into());
                    if delta {
                        before = value;
                    }
                    if i >= wanted.start {
                        here[i - wanted.start] = cast(W::low(value));
                    }
                }
            }
            Frame::Packed(reference) => {
                let mut reference = L::low_bits(*reference);
                if delta {
                    L::running_sums::<AVX2>(reference, numbers);
                    reference = L::low_bits(0);
                }
                // From a multiple of sixteen on, so that loads match the stores just made: the processor
                // forwards those and no others.
                let aligned = wanted.start.next_multiple_of(16).min(wanted.end);
                let (head, body) = here.split_at_mut(aligned - wanted.start);
                for (to, &number) in head.iter_mut().zip(&numbers[wanted.start..aligned]) {
                    *to = cast(W::low32(number.plus(reference).wide()));
                }
                for (to, &number) in body.iter_mut().zip(&numbers[aligned..wanted.end]) {
                    *to = cast(W::low32(number.plus(reference).wide()));
                }
            }
        }
    }
    Ok(())
}

/// Decodes the values `range` of a block with a table of distinct values.
#[inline(always)]
fn dictionary<S: Num, T: Num, const AVX2: bool>(
    body: &[u8],
    range: Range<usize>,
    out: &mut [T],
    scratch: &mut Scratch,
) -> Result<(), Broken> {
    let size = size_of::<S>();
    let cut = Broken("a block is cut short");
    let Some((head, body)) = body.split_first_chunk::<2>() else { return Err(cut) };
    let distinct = usize::from(u16::from_le_bytes(*head));
    let value = |bytes: &[u8]| T::cast(S::from_word(bytemuck::pod_read_unaligned(bytes)));
    if distinct == 0 {
        let raw = body.get(range.start * size..range.end * size).ok_or(cut)?;
        for (to, bytes) in out.iter_mut().zip(raw.chunks_exact(size)) {
            *to = value(bytes);
        }
        return Ok(());
    }
    let Some((table, body)) = body.split_at_checked(distinct * size) else { return Err(cut) };
    let mut codes = [0_u16; BLOCK];
    let codes = &mut codes[..range.len()];
    frames::<u16, u16, u16, AVX2>(body, false, range, codes, &mut scratch.narrow, |code| code)?;
    for (to, &code) in out.iter_mut().zip(&*codes) {
        let at = usize::from(code) * size;
        *to = value(table.get(at..at + size).ok_or(Broken("a value outside the block's table"))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip<S: Num<Word: std::fmt::Debug> + std::fmt::Debug>(words: &[S::Word], kind: Kind, range: Range<usize>) {
        let mut bytes = Vec::new();
        encode(words, kind, &mut bytes);
        let expected: Vec<S> = words[range.clone()].iter().map(|&word| S::from_word(word)).collect();
        let mut out = vec![S::zero(); range.len()];
        decode::<S, S>(&bytes, kind, range.clone(), &mut out, &mut { SCRATCH }).unwrap();
        assert_eq!(bytemuck::cast_slice::<S, u8>(&out), bytemuck::cast_slice::<S, u8>(&expected));
        decode_here::<S, S, false>(&bytes, kind, range, &mut out, &mut { SCRATCH }).unwrap();
        assert_eq!(bytemuck::cast_slice::<S, u8>(&out), bytemuck::cast_slice::<S, u8>(&expected));
    }

    proptest! {
        #[test]
        fn blocks_come_back(
            words in prop::collection::vec((0_u32..=64, any::<u64>()), 1..=BLOCK),
            a: prop::sample::Index, b: prop::sample::Index, dictionary: bool, delta: bool,
        ) {
            let wide: Vec<u64> = words.iter().map(|&(bits, n)| n.checked_shr(64 - bits).unwrap_or(0)).collect();
            let at = |index: prop::sample::Index| index.index(wide.len() + 1);
            let range = at(a).min(at(b))..at(a).max(at(b));
            let kind = if dictionary { Kind::Dictionary } else if delta { Kind::Delta } else { Kind::Plain };
            let narrow = |bits: u32| wide.iter().map(move |&n| n & (u64::MAX >> (64 - bits)));
            round_trip::<u8>(&narrow(8).map(u8::low).collect::<Vec<_>>(), kind, range.clone());
            round_trip::<i16>(&narrow(16).map(u16::low).collect::<Vec<_>>(), kind, range.clone());
            round_trip::<f32>(&narrow(32).map(u32::low).collect::<Vec<_>>(), kind, range.clone());
            round_trip::<u32>(&narrow(3).map(u32::low).collect::<Vec<_>>(), kind, range.clone());
            round_trip::<f64>(&wide, kind, range.clone());
            round_trip::<i64>(&narrow(40).collect::<Vec<_>>(), kind, range);
        }

        #[test]
        fn a_changed_bit_is_noticed(values in prop::collection::vec(any::<u16>(), 1..=BLOCK), at: prop::sample::Index, bit in 0_u32..8) {
            let mut bytes = Vec::new();
            encode(&values, Kind::Delta, &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let mut out = vec![0_u16; values.len()];
            prop_assert_eq!(decode::<u16, u16>(&bytes, Kind::Delta, 0..values.len(), &mut out, &mut { SCRATCH }), Err(Broken("checksum mismatch")));
        }

        #[test]
        fn any_bytes_are_values_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..1500), kind in 0..3) {
            let checksum = crc32c(&bytes);
            bytes.extend(checksum.to_le_bytes());
            let kind = [Kind::Plain, Kind::Delta, Kind::Dictionary][kind as usize];
            let _ = decode::<u8, f32>(&bytes, kind, 3..BLOCK, &mut [0.0; BLOCK - 3], &mut { SCRATCH });
            let _ = decode::<f64, f64>(&bytes, kind, 300..BLOCK, &mut [0.0; BLOCK - 300], &mut { SCRATCH });
        }
    }

    #[test]
    fn few_distinct_floats_are_small() {
        let values: Vec<u32> = (0..BLOCK).map(|i| ((i * i % 7) as f32).ln_1p().to_bits()).collect();
        let mut bytes = Vec::new();
        encode(&values, Kind::Dictionary, &mut bytes);
        assert!(bytes.len() < 2 * BLOCK / 4, "{}", bytes.len());
    }
}
