//! 256 numbers, packed: patched frame of reference (PFOR).
//!
//! All are packed with the same width, which most of them need; what the others have above it
//! is kept beside their positions (M. Zukowski et al., "Super-scalar RAM-CPU cache compression",
//! ICDE 2006; the layout of the patches is that of Lemire and Boytsov's FastPFOR,
//! <https://arxiv.org/abs/1209.2137>). [`super::lanes`] packs.

use super::Broken;
use super::lanes::{FRAME, Lane, packed_len};

/// The bytes before the packed numbers: their width, how many are patched, the width of a patch.
pub const HEAD: usize = 3;

/// The cost of a patch beside its bits and its position, in bits: its time, expressed as size.
const PATCH_COST: usize = 4;

/// Appends the frame of `numbers`.
pub fn encode<L: Lane>(numbers: &[L; FRAME], out: &mut Vec<u8>) {
    let mut lengths = [0_usize; 33];
    for number in numbers {
        lengths[(u32::BITS - number.wide().leading_zeros()) as usize] += 1;
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
    let high_bits = |number: L| u64::from(number.wide()) >> best;
    let mut positions = [0; FRAME];
    let mut n = 0;
    for (position, &number) in (0..=u8::MAX).zip(numbers) {
        positions[n] = position;
        n += usize::from(high_bits(number) != 0);
    }
    let patched = &positions[..n];
    let high = if patched.is_empty() { 0 } else { widest - best };
    // Widths are at most 32, and positions and their count below 256.
    out.extend([byte(best), byte(patched.len()), byte(high)]);
    L::pack(numbers, best, out);
    out.extend_from_slice(patched);
    let start = out.len();
    // Whole words are written at any bit: some slack, cut off after.
    out.resize(start + patches_len(patched.len(), high) + 8, 0);
    for (k, &i) in patched.iter().enumerate() {
        let at = start + k * high / 8;
        let mut word = [0; 8];
        word.copy_from_slice(&out[at..at + 8]);
        let value = u64::from_le_bytes(word) | high_bits(numbers[usize::from(i)]) << (k * high % 8);
        out[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    out.truncate(start + patches_len(patched.len(), high));
}

/// The length in bytes of the frame that `bytes` begins with.
#[inline(always)]
pub fn len<L: Lane>(bytes: &[u8]) -> Result<usize, Broken> {
    let &[width, patched, high, ..] = bytes else { return Err(Broken("a frame is cut short")) };
    if usize::from(width) > L::BITS || usize::from(high) > L::BITS {
        return Err(Broken("a frame's widths are more than its numbers can have"));
    }
    Ok(HEAD + packed_len(width.into()) + usize::from(patched) + patches_len(patched.into(), high.into()))
}

/// Decodes the frame at the start of `bytes`; returns its length. `AVX2` says that the processor has it.
#[inline(always)]
pub fn decode<L: Lane, const AVX2: bool>(bytes: &[u8], numbers: &mut [L; FRAME]) -> Result<usize, Broken> {
    let len = len::<L>(bytes)?;
    let Some(frame) = bytes.get(..len) else { return Err(Broken("a frame is cut short")) };
    let (width, patched, high) = (usize::from(frame[0]), usize::from(frame[1]), usize::from(frame[2]));
    let (packed, patches) = frame[HEAD..].split_at(packed_len(width));
    L::unpack::<AVX2>(packed, width, numbers);
    if patched == 0 && high == 0 {
        return Ok(len);
    }
    if patched == 0 || high == 0 || width + high > L::BITS {
        return Err(Broken("a frame's patches have no bits, or too many"));
    }
    let positions = &patches[..patched];
    let mask = (1_u64 << high) - 1;
    // Whether a position does not ascend is looked at once, at the end.
    let (mut before, mut bad) = (-1, false);
    let mut patch = |position: u8, bits: u64| {
        bad |= i32::from(position) <= before;
        before = position.into();
        numbers[usize::from(position)].set(L::low_bits((bits & mask) << width));
    };
    // Eight bytes are loaded for each patch, the last ones from where eight are left: a patch of at
    // most 32 bits always lies within them.
    let start = len - patches.len() + patched;
    if let Some(last) = len.checked_sub(8) {
        let mut bit = 8 * start;
        for &position in positions {
            let at = (bit / 8).min(last);
            patch(position, load(frame, at) >> (bit - 8 * at));
            bit += high;
        }
    } else {
        let mut padded = [0; 16];
        padded[..patches.len() - patched].copy_from_slice(&patches[patched..]);
        for (k, &position) in positions.iter().enumerate() {
            patch(position, load(&padded, k * high / 8) >> (k * high % 8));
        }
    }
    if bad { Err(Broken("the positions of a frame's patches do not ascend")) } else { Ok(len) }
}

/// Eight bytes from `at`, little-endian.
#[inline(always)]
fn load(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
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

    fn comes_back<L: Lane + PartialEq + std::fmt::Debug>(numbers: &[L; FRAME]) {
        let mut bytes = Vec::new();
        encode(numbers, &mut bytes);
        assert_eq!(len::<L>(&bytes), Ok(bytes.len()));
        let mut back = [L::low_bits(0); FRAME];
        assert_eq!(decode::<L, false>(&bytes, &mut back), Ok(bytes.len()));
        assert_eq!(&back, numbers);
        assert!(decode::<L, false>(&bytes[..bytes.len() - 1], &mut back).is_err());
    }

    proptest! {
        #[test]
        fn frames_come_back(common in 0_u32..=32, odd in prop::collection::vec((0_usize..FRAME, number()), 0..80), seed: u32) {
            let mut numbers: [u32; FRAME] = std::array::from_fn(|i| {
                seed.wrapping_mul(2_654_435_761).wrapping_add(u32::try_from(i).unwrap() * 40_503).checked_shr(32 - common).unwrap_or(0)
            });
            for (i, n) in odd { numbers[i] = n; }
            comes_back(&numbers);
            comes_back(&numbers.map(|number| u16::low_bits((number >> 16).into())));
        }

        #[test]
        fn any_bytes_are_numbers_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            let _ = decode::<u16, false>(&bytes, &mut [0; FRAME]);
            let _ = decode::<u32, false>(&bytes, &mut [0; FRAME]);
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
        let read = |positions: &[u8]| decode::<u16, false>(&patched(positions), &mut [0; FRAME]);
        for good in [&[3][..], &[0, 255], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 200]] {
            assert_eq!(read(good), Ok(HEAD + good.len() + good.len().div_ceil(8)));
        }
        for bad in [&[3, 3][..], &[4, 3], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 8], &[9, 1, 2, 3, 4, 5, 6, 7, 8, 10]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        // A width of patches where there are none.
        assert!(decode::<u16, false>(&[0, 0, 1, 0, 0], &mut [0; FRAME]).is_err());
        assert_eq!(decode::<u16, false>(&[0, 0, 0, 0, 0], &mut [0; FRAME]), Ok(HEAD));
        // Seventeen bits, of sixteen.
        let wide = [vec![17, 0, 0], vec![0; packed_len(17)]].concat();
        assert!(decode::<u16, false>(&wide, &mut [0; FRAME]).is_err());
        assert_eq!(decode::<u32, false>(&wide, &mut [0; FRAME]), Ok(wide.len()));
    }
}
