//! Frames of blosc, of which only the needed blocks are read.
//!
//! `version, compressor's version, flags, size of a value: u8 | bytes of values, of a block's values, of the
//! frame: u32 | start of each block: u32 | blocks`, all little-endian. c-blosc decodes blocks of a frame that it has in
//! memory; it is given one that lacks the others. <https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst>

use std::ops::Range;

/// The bytes of the header.
const HEADER: usize = 16;
/// The flag of a frame whose values are not compressed; it has no blocks.
const COPIED: u8 = 2;

/// The bytes to read first: the header, and the starts of more blocks than most frames have.
pub const HEAD: u64 = 1024;

/// The place of every block in a frame.
pub struct Blocks {
    /// The bytes of values in a block.
    block_len: usize,
    /// The bytes of each block, counted from the frame's start.
    ranges: Vec<Range<u64>>,
}

impl Blocks {
    /// The blocks of a frame of `stored` bytes that holds `values` bytes of values, by its first bytes. `None` where
    /// the frame has to be read whole: `head` is too short, or says something else.
    pub fn new(head: &[u8], stored: u64, values: u64) -> Option<Self> {
        let (header, starts) = head.split_first_chunk::<HEADER>()?;
        let at = |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let block_len = at(8);
        if header[2] & COPIED != 0 || u64::from(at(4)) != values || block_len == 0 || u64::from(at(12)) != stored {
            return None;
        }
        let n_blocks = at(4).div_ceil(block_len) as usize;
        let starts: Vec<u64> =
            starts.as_chunks::<4>().0.get(..n_blocks)?.iter().map(|at| u32::from_le_bytes(*at).into()).collect();
        // Threads that compressed together left the blocks in any order: each ends where the next one in the file starts.
        let mut ends = starts.clone();
        ends.sort_unstable();
        ends.dedup();
        ends.push(stored);
        let first = (HEADER + 4 * n_blocks) as u64;
        if starts.iter().any(|&start| start < first || start >= stored) {
            return None;
        }
        let range = |&start: &u64| start..ends[ends.partition_point(|&end| end <= start)];
        Some(Self { block_len: block_len as usize, ranges: starts.iter().map(range).collect() })
    }

    /// The bytes of the blocks that hold the ranges `values` of values, in the order of their places in the file, and
    /// the number of each block. `None` where these are all blocks.
    pub fn needed(&self, values: impl Iterator<Item = Range<usize>>) -> Option<(Vec<usize>, Vec<Range<u64>>)> {
        let mut is_needed = vec![false; self.ranges.len()];
        for values in values.filter(|values| !values.is_empty()) {
            is_needed.get_mut(values.start / self.block_len..values.end.div_ceil(self.block_len))?.fill(true);
        }
        let mut blocks: Vec<usize> = (0..is_needed.len()).filter(|&block| is_needed[block]).collect();
        blocks.sort_unstable_by_key(|&block| self.ranges[block].start);
        let ranges = blocks.iter().map(|&block| self.ranges[block].clone()).collect();
        is_needed.contains(&false).then_some((blocks, ranges))
    }

    /// A frame that begins as `head` and has no blocks but `blocks`, whose bytes are `read`. `None` where it would be
    /// longer than a frame can be.
    pub fn assemble<B: AsRef<[u8]>>(&self, head: &[u8], blocks: &[usize], read: &[B]) -> Option<Vec<u8>> {
        let mut frame = head.get(..HEADER + 4 * self.ranges.len())?.to_vec();
        for (block, bytes) in blocks.iter().zip(read) {
            let start = u32::try_from(frame.len()).ok()?.to_le_bytes();
            frame.get_mut(HEADER + 4 * block..)?.first_chunk_mut::<4>().map(|at| *at = start)?;
            frame.extend_from_slice(bytes.as_ref());
        }
        let stored = u32::try_from(frame.len()).ok()?.to_le_bytes();
        frame[12..HEADER].copy_from_slice(&stored);
        Some(frame)
    }
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

    /// A frame of `values`, whose blocks lie in the file as `order` sorts them.
    fn frame(values: &[u8], order: &[usize]) -> Vec<u8> {
        let level = BloscCompressionLevel::try_from(5).unwrap();
        let shuffle = BloscShuffleMode::Shuffle;
        let frame = blosc_compress_bytes(values, level, shuffle, 4, BloscCompressor::LZ4, BLOCK / 4, 1).unwrap();
        let blocks = Blocks::new(&frame, frame.len() as u64, values.len() as u64).unwrap();
        let bytes = |&block: &usize| {
            let at = &blocks.ranges[block];
            frame[to_usize(at.start)..to_usize(at.end)].to_vec()
        };
        let moved: Vec<Vec<u8>> = order.iter().map(bytes).collect();
        blocks.assemble(&frame, order, &moved).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn needed_blocks_are_enough(
            order in Just((0..VALUES.div_ceil(BLOCK)).collect::<Vec<usize>>()).prop_shuffle(),
            wanted in prop::collection::vec((0..VALUES / 4, 1..40_000_usize), 1..4),
        ) {
            let values: Vec<u8> = (0..VALUES).map(|i| u8::try_from(i * i / 7 % 251 / 200).unwrap()).collect();
            let whole = frame(&values, &order);
            let wanted: Vec<Range<usize>> =
                wanted.into_iter().map(|(at, len)| 4 * at..(4 * (at + len)).min(VALUES)).collect();
            let blocks = Blocks::new(&whole[..to_usize(HEAD)], whole.len() as u64, VALUES as u64).unwrap();
            let (needed, ranges) = blocks.needed(wanted.iter().cloned()).unwrap();
            prop_assert!(ranges.is_sorted_by_key(|range| range.start));
            let read: Vec<&[u8]> = ranges.iter().map(|at| &whole[to_usize(at.start)..to_usize(at.end)]).collect();
            let part = blocks.assemble(&whole[..to_usize(HEAD)], &needed, &read).unwrap();
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
        let whole = frame(&[1; VALUES], &(0..VALUES.div_ceil(BLOCK)).collect::<Vec<usize>>());
        let (stored, values) = (whole.len() as u64, VALUES as u64);
        assert!(Blocks::new(&whole, stored, values).unwrap().needed(std::iter::once(0..VALUES)).is_none());
        assert!(Blocks::new(&whole, stored - 1, values).is_none());
        assert!(Blocks::new(&whole, stored, values + 1).is_none());
        assert!(Blocks::new(&whole[..HEADER + 7], stored, values).is_none());
        assert!(Blocks::new(&[], stored, values).is_none());
        for (at, byte) in [(2, COPIED), (10, 0), (HEADER, 0), (HEADER + 3, 0xFF)] {
            let mut changed = whole.clone();
            changed[at] = byte;
            assert!(Blocks::new(&changed, stored, values).is_none(), "byte {at}");
        }
    }
}
