//! A chunk: a directory of its blocks, then the blocks. docs/pfor.md describes it.
//!
//! The directory is one `u16` a block, its length in bytes, and a checksum: two bytes for 512
//! values, so that a reader can keep it and fetch any block in one read.

use super::Broken;
use super::block::{self, BLOCK, Kind, SCRATCH};
use crate::checksum::crc32c;
use crate::number::{Num, Word, zeros};

/// The bytes of the directory of a chunk of `n` values.
pub fn directory_len(n: usize) -> usize {
    2 * n.div_ceil(BLOCK) + 4
}

/// The most bytes of a chunk of `n` values: as many blocks of two frames that are not packed.
pub fn max_len(n: usize) -> u64 {
    const LONGEST: u64 = 2 * (1 + 256 * 8) + 4;
    (directory_len(n) as u64).saturating_add((n.div_ceil(BLOCK) as u64).saturating_mul(LONGEST))
}

/// The `values` as a chunk; an error for more than 4 GiB, which the format cannot tell apart.
pub fn encode<W: Word>(values: &[W], kind: Kind) -> Result<Vec<u8>, Broken> {
    let mut out = vec![0; directory_len(values.len())];
    for (i, values) in values.chunks(BLOCK).enumerate() {
        let start = out.len();
        block::encode(values, kind, &mut out);
        let len = u16::try_from(out.len() - start).map_err(|_| Broken("a block is too long"))?;
        out[2 * i..2 * i + 2].copy_from_slice(&len.to_le_bytes());
    }
    u32::try_from(out.len()).map_err(|_| Broken("a chunk is too long"))?;
    let end = directory_len(values.len()) - 4;
    let checksum = crc32c(&out[..end]);
    out[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
    Ok(out)
}

/// The start of each block of a chunk of `n` values and `chunk_len` bytes, and the end of the last one,
/// from the chunk's start. `head` is the chunk's first [`directory_len`] bytes. An error when the checksum is wrong
/// or the lengths do not add up.
pub fn directory(head: &[u8], n: usize, chunk_len: u64) -> Result<Vec<u32>, Broken> {
    let Some((lengths, checksum)) = head.split_last_chunk::<4>() else {
        return Err(Broken("a chunk is cut short"));
    };
    if head.len() != directory_len(n) || crc32c(lengths) != u32::from_le_bytes(*checksum) {
        return Err(Broken("checksum mismatch in a chunk's directory"));
    }
    let mut at = u32::try_from(head.len()).map_err(|_| Broken("a chunk is too long"))?;
    let mut starts = Vec::with_capacity(lengths.len() / 2 + 1);
    starts.push(at);
    for length in lengths.as_chunks::<2>().0 {
        at = at.checked_add(u16::from_le_bytes(*length).into()).ok_or(Broken("a chunk is too long"))?;
        starts.push(at);
    }
    if u64::from(at) != chunk_len {
        return Err(Broken("a chunk's directory contradicts its length"));
    }
    Ok(starts)
}

/// All `n` values of a chunk; an error when a checksum or anything else contradicts itself.
pub fn decode<S: Num>(bytes: &[u8], n: usize, kind: Kind) -> Result<Vec<S>, Broken> {
    let head = bytes.get(..directory_len(n)).ok_or(Broken("a chunk is cut short"))?;
    let starts = directory(head, n, bytes.len() as u64)?;
    let mut out = zeros::<S>(n).map_err(|_| Broken("a chunk does not fit into memory"))?;
    let mut scratch = SCRATCH;
    for (ends, out) in starts.windows(2).zip(out.chunks_mut(BLOCK)) {
        // The directory adds up to the bytes there are.
        let block = &bytes[ends[0] as usize..ends[1] as usize];
        block::decode::<S, S>(block, kind, 0..out.len(), out, &mut scratch)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_come_back(values in prop::collection::vec(any::<u16>(), 0..3000), delta: bool) {
            let kind = if delta { Kind::Delta } else { Kind::Plain };
            let bytes = encode(&values, kind).unwrap();
            prop_assert_eq!(decode::<u16>(&bytes, values.len(), kind), Ok(values.clone()));
            prop_assert!(decode::<u16>(&bytes[..bytes.len() - 1], values.len(), kind).is_err());
            prop_assert!(decode::<u16>(&bytes, values.len() + BLOCK, kind).is_err());
        }

        #[test]
        fn any_bytes_are_values_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600), n in 0_usize..3000) {
            prop_assert!(n == 0 || decode::<u32>(&bytes, n, Kind::Plain).is_err());
        }
    }
}
