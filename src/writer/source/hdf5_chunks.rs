//! Chunks of HDF5 datasets, undone of their filters on all cores: HDF5 itself does that on one, under a lock.
//!
//! The filters are those that AnnData files have: lzf, gzip, shuffle. Knows no files: chunks come as bytes.
//! <https://support.hdfgroup.org/documentation/hdf5/latest/_f_i_l_t_e_r.html>

use flate2::{Decompress, FlushDecompress, Status};

use super::parallel;
use crate::error::{DaoError, ErrorKind, Result};
use crate::number::zeros;

/// A filter of a part's pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hdf5Filter {
    /// LZF, as liblzf and h5py have it.
    Lzf,
    /// zlib's format.
    Gzip,
    /// The first bytes of all values, then the second ones, and so on.
    Shuffle,
}

/// A chunk: its bytes as they are stored, and which filters of the pipeline it was not given, a bit for each.
pub type StoredChunk<'a> = (&'a [u8], u32);

/// Writes the bytes from `skip` on of some consecutive `chunks` of `chunk_bytes`, whose values are of `size` bytes, into
/// `out`, which ends in the last of them.
///
/// # Errors
/// `Corrupt` for chunks that are not of so many bytes.
pub fn decode_hdf5(
    chunks: &[StoredChunk<'_>],
    filters: &[Hdf5Filter],
    (size, chunk_bytes, skip): (usize, usize, usize),
    out: &mut [u8],
) -> Result<()> {
    let mut rest = out;
    let mut jobs = Vec::with_capacity(chunks.len());
    let mut skip = skip;
    for &chunk in chunks {
        let here = chunk_bytes.checked_sub(skip).ok_or_else(|| broken("bytes past the first chunk are skipped"))?;
        let here = here.min(rest.len());
        let (to, later) = std::mem::take(&mut rest).split_at_mut(here);
        jobs.push((chunk, skip, to));
        (rest, skip) = (later, 0);
    }
    if !rest.is_empty() {
        return Err(broken("too few chunks"));
    }
    parallel::each(jobs, |((bytes, left_out), skip, to)| {
        let mut values = None;
        for (_, filter) in filters.iter().enumerate().rev().filter(|(i, _)| left_out >> i & 1 == 0) {
            let from = values.as_deref().unwrap_or(bytes);
            values = Some(match filter {
                Hdf5Filter::Lzf => lzf(from, chunk_bytes)?,
                Hdf5Filter::Gzip => gzip(from, chunk_bytes)?,
                Hdf5Filter::Shuffle => unshuffle(from, size),
            });
        }
        let values = values.as_deref().unwrap_or(bytes);
        if values.len() != chunk_bytes {
            return Err(broken("a chunk has another size"));
        }
        to.copy_from_slice(&values[skip..skip + to.len()]);
        Ok(())
    })?;
    Ok(())
}

fn broken(what: &str) -> DaoError {
    DaoError::new(ErrorKind::Corrupt, what)
}

/// The bytes that may be written past what is meant: copies of a fixed length are faster than exact ones.
const SLACK: usize = 32;

/// The bytes that `from` is, compressed with liblzf: `len`, or an error where they are more.
fn lzf(from: &[u8], len: usize) -> Result<Vec<u8>> {
    let cut = || broken("a chunk is cut short");
    let mut out = zeros::<u8>(len.saturating_add(SLACK))?;
    let (mut i, mut at) = (0, 0);
    let next = |i: &mut usize| {
        *i += 1;
        from.get(*i - 1).map(|&byte| usize::from(byte))
    };
    while let Some(control) = next(&mut i) {
        if control < SLACK {
            // So many bytes and one as they are.
            let n = control + 1;
            if at + n > len {
                return Err(broken("a chunk is too long"));
            }
            match from.get(i..i + SLACK) {
                Some(bytes) => out[at..at + SLACK].copy_from_slice(bytes),
                None => out[at..at + n].copy_from_slice(from.get(i..i + n).ok_or_else(cut)?),
            }
            (i, at) = (i + n, at + n);
            continue;
        }
        let more = if control >> 5 == 7 { next(&mut i).ok_or_else(cut)? } else { 0 };
        let (back, n) = (((control & 31) << 8) + next(&mut i).ok_or_else(cut)? + 1, (control >> 5) + more + 2);
        let mut start = at.checked_sub(back).ok_or_else(|| broken("a chunk refers to before its begin"))?;
        let end = at + n;
        if end > len {
            return Err(broken("a chunk is too long"));
        }
        if back < 16 && n > back {
            // It repeats itself: once there are sixteen bytes of it, they are copied like others. They begin where a
            // repeat does.
            let first = end.min(at + 16 + back - 1);
            while at < first {
                out[at] = out[at - back];
                at += 1;
            }
            if at < end {
                start = at - (15 + back) / back * back;
            }
        }
        while at < end {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&out[start..start + 16]);
            out[at..at + 16].copy_from_slice(&bytes);
            (start, at) = (start + 16, at + 16);
        }
        at = end;
    }
    out.truncate(at);
    Ok(out)
}

/// The `len` bytes that `from` is, compressed with zlib.
fn gzip(from: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(len);
    match Decompress::new(true).decompress_vec(from, &mut out, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) => Ok(out),
        Ok(_) => Err(broken("a chunk is cut short, or too long")),
        Err(e) => Err(broken(&e.to_string())),
    }
}

/// Values of `size` bytes, of which the first bytes come first; what is left at the end was not touched.
fn unshuffle(from: &[u8], size: usize) -> Vec<u8> {
    let n = from.len() / size.max(1);
    let mut out = from.to_vec();
    match size {
        4 => interleave::<4>(from, n, &mut out),
        8 => interleave::<8>(from, n, &mut out),
        2 => interleave::<2>(from, n, &mut out),
        _ => {}
    }
    out
}

fn interleave<const SIZE: usize>(from: &[u8], n: usize, out: &mut [u8]) {
    let planes: [&[u8]; SIZE] = std::array::from_fn(|byte| &from[byte * n..(byte + 1) * n]);
    for (i, value) in out.as_chunks_mut::<SIZE>().0.iter_mut().enumerate() {
        *value = std::array::from_fn(|byte| planes[byte][i]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use proptest::prelude::*;

    use super::*;

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn shuffled(bytes: &[u8], size: usize) -> Vec<u8> {
        (0..size).flat_map(|byte| bytes.iter().skip(byte).step_by(size).copied()).collect()
    }

    #[test]
    fn chunks_come_back_from_the_middle_of_one_to_that_of_another() {
        let values: Vec<u8> = (0..=255).cycle().take(3 * 1024).collect();
        for size in [1, 2, 4, 8] {
            let stored: Vec<_> = values.chunks(1024).map(|chunk| zlib(&shuffled(chunk, size))).collect();
            let mut chunks: Vec<StoredChunk> = stored.iter().map(|chunk| (&chunk[..], 0)).collect();
            // The second was given no filter but the first one.
            let second = shuffled(&values[1024..2048], size);
            chunks[1] = (&second, 0b10);
            let mut out = vec![0; 2000];
            let filters = [Hdf5Filter::Shuffle, Hdf5Filter::Gzip];
            decode_hdf5(&chunks, &filters, (size, 1024, 400), &mut out).unwrap();
            assert_eq!(out, values[400..2400]);
            assert!(decode_hdf5(&chunks[..1], &filters, (size, 1024, 400), &mut out).is_err());
            assert!(decode_hdf5(&chunks, &filters, (size, 512, 0), &mut out).is_err());
            assert!(decode_hdf5(&chunks, &filters, (size, 1024, 1025), &mut out).is_err());
            let cut = [(&stored[0][..stored[0].len() - 5], 0)];
            assert!(decode_hdf5(&cut, &filters, (size, 1024, 0), &mut out[..1024]).is_err());
        }
    }

    #[test]
    fn lzf_repeats_what_came_before() {
        // Two bytes as they are; nine from two back, which overlap themselves; three from eleven back.
        assert_eq!(lzf(&[1, 7, 8, 7 << 5, 0, 1, 1 << 5, 10], 14).unwrap(), [7, 8, 7, 8, 7, 8, 7, 8, 7, 8, 7, 7, 8, 7]);
        for broken in [&[1, 7][..], &[0, 7, 1 << 5], &[0, 7, 1 << 5, 1], &[0, 7, 7 << 5, 9], &[3, 1, 2, 3, 4]] {
            assert!(lzf(broken, 3).is_err(), "{broken:?}");
        }
    }

    /// liblzf's format, with each repeat that is `back` bytes away, as long as can be.
    fn packed(bytes: &[u8], back: usize) -> Vec<u8> {
        let (mut out, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let repeats = |i: &usize| at >= back && bytes[*i] == bytes[*i - back];
            let n = (at..bytes.len().min(at + 264)).take_while(repeats).count();
            if n < 3 {
                out.extend([0, bytes[at]]);
                at += 1;
                continue;
            }
            let (low, high) = (u8::try_from((back - 1) & 255).unwrap(), u8::try_from((back - 1) >> 8).unwrap());
            match n - 2 {
                short @ 0..7 => out.push(u8::try_from(short).unwrap() << 5 | high),
                long => out.extend([7 << 5 | high, u8::try_from(long - 7).unwrap()]),
            }
            out.push(low);
            at += n;
        }
        out
    }

    proptest! {
        #[test]
        fn lzf_repeats_of_any_length_and_distance(
            start in prop::collection::vec(any::<u8>(), 1..40), n in 1_usize..700, odd in 0_usize..700, back in 1_usize..40,
        ) {
            let mut bytes: Vec<u8> = start.iter().copied().cycle().take(n).collect();
            if let Some(byte) = bytes.get_mut(odd) { *byte ^= 1; }
            for back in [back, start.len()] {
                prop_assert_eq!(lzf(&packed(&bytes, back), n).unwrap(), &bytes[..]);
                prop_assert!(n == 1 || lzf(&packed(&bytes, back), n - 1).is_err());
            }
        }

        #[test]
        fn any_bytes_are_a_chunk_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), left_out in 0_u32..4) {
            let mut out = [0; 100];
            for first in [Hdf5Filter::Lzf, Hdf5Filter::Gzip] {
                let _ = decode_hdf5(&[(&bytes, left_out)], &[Hdf5Filter::Shuffle, first], (4, 100, 0), &mut out);
            }
        }
    }
}
