//! Frames of blosc, of which only the needed blocks are read.
//!
//! `version, compressor's version, flags, size of a value: u8 | bytes of values, of a block's values, of the
//! frame: u32 | start of each block: u32 | blocks`, all little-endian. c-blosc decodes blocks of a frame that it has in
//! memory; it is given one that lacks the others. <https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst>

use std::ops::Range;

use bytes::Bytes;
use zarrs::array::codec::blosc_typesize;

use crate::error::Result;

/// The bytes of the header.
const HEADER: usize = 16;
/// The flag of a frame whose values are not compressed; it has no blocks.
const COPIED: u8 = 2;

/// The bytes to read first: the header, and the starts of more blocks than most frames have.
pub const HEAD: u64 = 1024;

/// Whether any values of `size` bytes can be decoded from the frame that begins as `head`: its own are no wider.
pub fn decodes_in_parts(head: &[u8], size: usize) -> bool {
    head.len() >= HEADER && blosc_typesize(head).is_some_and(|own| size.is_multiple_of(own))
}

/// The bytes of values in a block of a frame.
pub fn block_len(frame: &[u8]) -> usize {
    frame.get(8..12).and_then(<[u8]>::first_chunk).map_or(1, |len| u32::from_le_bytes(*len).max(1) as usize)
}

/// The start of each block of a frame, and the bytes of values in a block, by the frame's first bytes.
fn starts(head: &[u8], stored: u64, values: u64) -> Option<(Vec<u64>, usize)> {
    let (header, starts) = head.split_first_chunk::<HEADER>()?;
    let [claimed, block_len, frame_len] =
        [4, 8, 12].map(|i| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]));
    if header[2] & COPIED != 0 || u64::from(claimed) != values || block_len == 0 || u64::from(frame_len) != stored {
        return None;
    }
    let starts = starts.as_chunks::<4>().0.get(..claimed.div_ceil(block_len) as usize)?;
    let starts: Vec<u64> = starts.iter().map(|start| u32::from_le_bytes(*start).into()).collect();
    let blocks = (HEADER + 4 * starts.len()) as u64..stored;
    starts.iter().all(|start| blocks.contains(start)).then_some((starts, block_len as usize))
}

/// A frame of `stored` bytes and of `values` bytes of values that begins as `head`, with no blocks but those that hold
/// `wanted` ranges of its values. `read` reads ranges of its bytes. `None` where it has to be read whole: all blocks are
/// needed, or `head` is too short, or contradicts itself.
pub fn part(
    head: &[u8],
    stored: u64,
    values: u64,
    wanted: impl Iterator<Item = Range<usize>>,
    read: impl FnOnce(Vec<Range<u64>>) -> Result<Vec<Bytes>>,
) -> Result<Option<Vec<u8>>> {
    let Some((starts, block_len)) = starts(head, stored, values) else { return Ok(None) };
    let mut is_needed = vec![false; starts.len()];
    for values in wanted {
        is_needed[values.start / block_len..values.end.div_ceil(block_len)].fill(true);
    }
    // Threads that compressed together left the blocks in any order: each ends where the next one in the file starts.
    let mut in_file: Vec<usize> = (0..starts.len()).collect();
    in_file.sort_unstable_by_key(|&block| starts[block]);
    if !is_needed.contains(&false) || in_file.windows(2).any(|pair| starts[pair[0]] == starts[pair[1]]) {
        return Ok(None);
    }
    let ends = in_file.iter().skip(1).map(|&next| starts[next]).chain([stored]);
    let needed = in_file.iter().zip(ends).filter(|(block, _)| is_needed[**block]);
    let (blocks, ranges): (Vec<usize>, Vec<Range<u64>>) =
        needed.map(|(&block, end)| (block, starts[block]..end)).unzip();
    let mut frame = head[..HEADER + 4 * starts.len()].to_vec();
    // The frame is shorter than the whole one, whose length is a u32.
    let len = |frame: &[u8]| u32::try_from(frame.len()).unwrap_or(u32::MAX).to_le_bytes();
    for (block, bytes) in blocks.iter().zip(read(ranges)?) {
        let start = len(&frame);
        frame[HEADER + 4 * block..][..4].copy_from_slice(&start);
        frame.extend_from_slice(&bytes);
    }
    let stored = len(&frame);
    frame[12..HEADER].copy_from_slice(&stored);
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zarrs::array::codec::{
        BloscCompressionLevel, BloscCompressor, BloscShuffleMode, blosc_compress_bytes, blosc_decompress_bytes_partial,
        blosc_validate,
    };

    use super::*;
    use crate::matrix::plan::to_usize;

    const VALUES: usize = 1_000_000;
    /// The least that c-blosc takes with LZ4; it multiplies what it is asked for by the size of a value.
    const BLOCK: usize = 1 << 16;
    const BLOCKS: usize = VALUES.div_ceil(BLOCK);

    /// A frame of `values`, whose blocks lie in the file as `order` sorts them.
    fn frame(values: &[u8], order: &[usize]) -> Vec<u8> {
        let level = BloscCompressionLevel::try_from(5).unwrap();
        let shuffle = BloscShuffleMode::Shuffle;
        let frame = blosc_compress_bytes(values, level, shuffle, 4, BloscCompressor::LZ4, BLOCK / 4, 1).unwrap();
        let (mut starts, block_len) = starts(&frame, frame.len() as u64, values.len() as u64).unwrap();
        assert_eq!((starts.len(), block_len), (BLOCKS, BLOCK));
        starts.push(frame.len() as u64);
        let mut moved = frame[..HEADER + 4 * BLOCKS].to_vec();
        for &block in order {
            let start = u32::try_from(moved.len()).unwrap().to_le_bytes();
            moved[HEADER + 4 * block..][..4].copy_from_slice(&start);
            moved.extend_from_slice(&frame[to_usize(starts[block])..to_usize(starts[block + 1])]);
        }
        moved
    }

    /// The part of `whole` that holds `wanted`, by its first `head` bytes.
    fn part_of(whole: &[u8], head: usize, stored: u64, values: u64, wanted: &[Range<usize>]) -> Option<Vec<u8>> {
        let read = |ranges: Vec<Range<u64>>| {
            assert!(ranges.is_sorted_by_key(|range| range.start));
            let bytes = |at: Range<u64>| Bytes::copy_from_slice(&whole[to_usize(at.start)..to_usize(at.end)]);
            Ok(ranges.into_iter().map(bytes).collect())
        };
        part(&whole[..head], stored, values, wanted.iter().cloned(), read).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn needed_blocks_are_enough(
            order in Just((0..BLOCKS).collect::<Vec<usize>>()).prop_shuffle(),
            wanted in prop::collection::vec((0..VALUES / 4, 1..40_000_usize), 1..4),
        ) {
            let values: Vec<u8> = (0..VALUES).map(|i| u8::try_from(i * i / 7 % 251 / 200).unwrap()).collect();
            let whole = frame(&values, &order);
            let wanted: Vec<Range<usize>> =
                wanted.into_iter().map(|(at, len)| 4 * at..(4 * (at + len)).min(VALUES)).collect();
            let part = part_of(&whole, to_usize(HEAD), whole.len() as u64, VALUES as u64, &wanted).unwrap();
            prop_assert!(part.len() < whole.len());
            prop_assert_eq!(blosc_validate(&part), Some(VALUES));
            for range in wanted {
                let got = blosc_decompress_bytes_partial(&part, range.start, range.len(), 4).unwrap();
                prop_assert_eq!(&got, &values[range]);
            }
        }
    }

    #[test]
    fn what_contradicts_itself_is_read_whole() {
        let whole = frame(&[1; VALUES], &(0..BLOCKS).collect::<Vec<usize>>());
        let (stored, values) = (whole.len() as u64, VALUES as u64);
        let is_read = |whole: &[u8], head, stored, values, wanted: Range<usize>| {
            part_of(whole, head, stored, values, &[wanted]).is_some()
        };
        assert!(is_read(&whole, whole.len(), stored, values, 0..8));
        assert!(!is_read(&whole, whole.len(), stored, values, 0..VALUES));
        assert!(!is_read(&whole, whole.len(), stored - 1, values, 0..8));
        assert!(!is_read(&whole, whole.len(), stored, values + 1, 0..8));
        assert!(!is_read(&whole, HEADER + 7, stored, values, 0..8));
        assert!(!is_read(&whole, 0, stored, values, 0..8));
        // A flag, no block length, a start before the blocks, one behind the frame, and two that are the same.
        for (at, byte) in [(2, COPIED), (10, 0), (HEADER, 0), (HEADER + 3, 0xFF), (HEADER + 4, whole[HEADER])] {
            let mut changed = whole.clone();
            changed[at] = byte;
            if at == HEADER + 4 {
                changed.copy_within(HEADER..HEADER + 4, HEADER + 4);
            }
            assert!(!is_read(&changed, whole.len(), stored, values, 0..8), "byte {at}");
        }
    }
}
