//! 256 numbers of 32 bits, packed: patched frame of reference (PFOR).
//!
//! All are packed with the same width, which most of them need; what the others have above it
//! is kept beside their positions (M. Zukowski et al., "Super-scalar RAM-CPU cache compression",
//! ICDE 2006; the layout of the patches is that of Lemire and Boytsov's FastPFOR,
//! <https://arxiv.org/abs/1209.2137>). The packing is the `bitpacking` crate's `BitPacker8x`:
//! value `i` lies in lane `i % 8` of 32-bit words, `i / 8` widths from the lane's start.

use bitpacking::{BitPacker, BitPacker8x};

use super::Broken;

/// The number of numbers in a frame.
pub const FRAME: usize = BitPacker8x::BLOCK_LEN;

/// The bytes before the packed numbers: their width, how many are patched, the width of a patch.
pub const HEAD: usize = 3;

/// The cost of a patch beside its bits and its position, in bits: its time, expressed as size.
const PATCH_COST: usize = 4;

/// Appends the frame of `numbers`.
pub fn encode(numbers: &[u32; FRAME], out: &mut Vec<u8>) {
    let mut lengths = [0_usize; 33];
    for number in numbers {
        lengths[(u32::BITS - number.leading_zeros()) as usize] += 1;
    }
    let widest = (0..=32).rev().find(|&b| lengths[b] > 0).unwrap_or(0);
    let (mut best, mut cost, mut above) = (widest, FRAME * widest, 0);
    for width in (0..widest).rev() {
        above += lengths[width + 1];
        let here = FRAME * width + above * (8 + PATCH_COST + widest - width);
        // One byte counts the patches.
        if above < FRAME && here < cost {
            (best, cost) = (width, here);
        }
    }
    let mask = if best == 32 { u32::MAX } else { (1 << best) - 1 };
    let patched: Vec<usize> = (0..FRAME).filter(|&i| numbers[i] & !mask != 0).collect();
    let high = if patched.is_empty() { 0 } else { widest - best };
    // Widths are at most 32, and positions and their count below 256.
    out.extend([byte(best), byte(patched.len()), byte(high)]);
    let start = out.len();
    out.resize(start + packed_len(best), 0);
    let low = numbers.map(|number| number & mask);
    BitPacker8x::new().compress(&low, &mut out[start..], byte(best));
    out.extend(patched.iter().map(|&i| byte(i)));
    let start = out.len();
    // Whole words are written at any bit: some slack, cut off after.
    out.resize(start + patches_len(patched.len(), high) + 8, 0);
    for (k, &i) in patched.iter().enumerate() {
        let at = start + k * high / 8;
        let mut word = [0; 8];
        word.copy_from_slice(&out[at..at + 8]);
        let value = u64::from_le_bytes(word) | u64::from(numbers[i] >> best) << (k * high % 8);
        out[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    out.truncate(start + patches_len(patched.len(), high));
}

/// The length in bytes of the frame that `bytes` begins with.
#[inline(always)]
pub fn len(bytes: &[u8]) -> Result<usize, Broken> {
    let &[width, patched, high, ..] = bytes else { return Err(Broken("a frame is cut short")) };
    if width > 32 || high > 32 {
        return Err(Broken("a frame's width is not 0 to 32"));
    }
    Ok(HEAD + packed_len(width.into()) + usize::from(patched) + patches_len(patched.into(), high.into()))
}

/// Decodes the frame at the start of `bytes`; returns its length.
#[inline(always)]
pub fn decode(bytes: &[u8], numbers: &mut [u32; FRAME]) -> Result<usize, Broken> {
    let len = len(bytes)?;
    let Some(frame) = bytes.get(..len) else { return Err(Broken("a frame is cut short")) };
    let (width, patched, high) = (frame[0], usize::from(frame[1]), usize::from(frame[2]));
    let (packed, patches) = frame[HEAD..].split_at(packed_len(width.into()));
    BitPacker8x::new().decompress(packed, numbers, width);
    if patched == 0 && high == 0 {
        return Ok(len);
    }
    if patched == 0 || high == 0 || usize::from(width) + high > 32 {
        return Err(Broken("a frame's patches have no bits, or too many"));
    }
    let positions = &patches[..patched];
    // All pairs are compared without a branch, as there are few frames that do not ascend.
    if positions.iter().zip(&positions[1..]).fold(false, |bad, (a, b)| bad | (a >= b)) {
        return Err(Broken("the positions of a frame's patches do not ascend"));
    }
    let mask = (1_u64 << high) - 1;
    // Eight bytes are loaded for each patch, the last ones from where eight are left: a patch of at
    // most 32 bits always lies within them.
    let start = len - patches.len() + patched;
    let Some(last) = len.checked_sub(8) else {
        let mut padded = [0; 16];
        padded[..patches.len() - patched].copy_from_slice(&patches[patched..]);
        for (k, &position) in positions.iter().enumerate() {
            patch(numbers, position, load(&padded, k * high / 8) >> (k * high % 8) & mask, width);
        }
        return Ok(len);
    };
    let mut bit = 8 * start;
    for &position in positions {
        let at = (bit / 8).min(last);
        patch(numbers, position, load(frame, at) >> (bit - 8 * at) & mask, width);
        bit += high;
    }
    Ok(len)
}

#[inline(always)]
fn patch(numbers: &mut [u32; FRAME], position: u8, bits: u64, width: u8) {
    #[expect(clippy::cast_possible_truncation, reason = "masked to at most 32 bits")]
    let bits = bits as u32;
    numbers[usize::from(position)] |= bits << width;
}

/// Eight bytes from `at`, little-endian.
#[inline(always)]
fn load(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[inline(always)]
fn packed_len(width: usize) -> usize {
    FRAME / 8 * width
}

#[inline(always)]
fn patches_len(n: usize, high: usize) -> usize {
    (n * high).div_ceil(8)
}

#[expect(clippy::cast_possible_truncation, reason = "called with numbers below 256 alone")]
fn byte(n: usize) -> u8 {
    debug_assert!(n < 256);
    n as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = u32> {
        (0_u32..=32, any::<u32>()).prop_map(|(bits, n)| n.checked_shr(32 - bits).unwrap_or(0))
    }

    proptest! {
        #[test]
        fn frames_come_back(common in 0_u32..=32, odd in prop::collection::vec((0_usize..FRAME, number()), 0..80), seed: u32) {
            let mut numbers: [u32; FRAME] = std::array::from_fn(|i| {
                seed.wrapping_mul(2_654_435_761).wrapping_add(u32::try_from(i).unwrap() * 40_503).checked_shr(32 - common).unwrap_or(0)
            });
            for (i, n) in odd { numbers[i] = n; }
            let mut bytes = Vec::new();
            encode(&numbers, &mut bytes);
            prop_assert_eq!(len(&bytes), Ok(bytes.len()));
            let mut back = [0; FRAME];
            prop_assert_eq!(decode(&bytes, &mut back), Ok(bytes.len()));
            prop_assert_eq!(back, numbers);
            prop_assert!(decode(&bytes[..bytes.len() - 1], &mut back).is_err());
        }

        #[test]
        fn any_bytes_are_numbers_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            let _ = decode(&bytes, &mut [0; FRAME]);
        }
    }

    /// A frame of width 0 with these patches, one bit each.
    fn patched(positions: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, byte(positions.len()), 1];
        frame.extend(positions);
        frame.extend(vec![0xFF; positions.len().div_ceil(8)]);
        frame
    }

    #[test]
    fn patches_ascend_strictly() {
        let read = |positions: &[u8]| decode(&patched(positions), &mut [0; FRAME]);
        for good in [&[3][..], &[0, 255], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 200]] {
            assert_eq!(read(good), Ok(HEAD + good.len() + good.len().div_ceil(8)));
        }
        for bad in [&[3, 3][..], &[4, 3], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 8], &[9, 1, 2, 3, 4, 5, 6, 7, 8, 10]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        // A width of patches where there are none.
        assert!(decode(&[0, 0, 1, 0, 0], &mut [0; FRAME]).is_err());
        assert_eq!(decode(&[0, 0, 0, 0, 0], &mut [0; FRAME]), Ok(HEAD));
    }
}
