//! Frames of c-blosc 1, block by block, and what in them is not zero.
//!
//! A frame is a header, where its blocks start, and the blocks. A block's bytes were shuffled before
//! they were compressed: first bytes of all values, then second bytes, or bit by bit. They are not
//! shuffled back: whether a value is zero, and the few that are not, is seen as well where they lie,
//! in less memory. <https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst>

use std::ops::Range;

use super::Broken;

/// Bytes of the header.
pub const HEAD: usize = 16;
/// A size that compressors choose none above (1 MiB and, for the slow ones, somewhat more).
const MAX_BLOCK: usize = 64 << 20;
/// Compressed forms of fewer bytes than this are not split.
const MIN_SPLIT: usize = 128;
const MAX_SPLITS: usize = 16;

const SHUFFLED: u8 = 1;
const COPIED: u8 = 2;
const BIT_SHUFFLED: u8 = 4;
const FUTURE: u8 = 8;
const NOT_SPLIT: u8 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compressor {
    None,
    Lz4,
    Zstd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shuffle {
    None,
    Bytes,
    Bits,
}

/// What a frame's header says.
#[derive(Debug)]
pub struct Frame {
    compressor: Compressor,
    shuffle: Shuffle,
    split: bool,
    size: usize,
    len: usize,
    block: usize,
    /// Where each block's bytes lie from the frame's start.
    blocks: Vec<(u32, u32)>,
}

impl Frame {
    /// How many bytes [`Frame::new`] wants, by the first [`HEAD`] ones.
    ///
    /// # Errors
    /// When they contradict themselves.
    pub fn head_len(head: &[u8]) -> Result<usize, Broken> {
        let Some(head) = head.first_chunk::<HEAD>() else { return Err(Broken("a frame is cut short")) };
        let [len, block, stored] = lengths(head);
        if block == 0 || head[2] & COPIED != 0 {
            return Ok(HEAD);
        }
        let starts = 4 * len.div_ceil(block);
        if starts + HEAD > stored {
            return Err(Broken("a frame has more blocks than bytes"));
        }
        Ok(HEAD + starts)
    }

    /// Reads the header of a frame of `stored` bytes that holds `len` bytes of values of `size`.
    /// `None` for a valid one in a form that is not read here.
    ///
    /// # Errors
    /// When it contradicts itself, or that.
    pub fn new(head: &[u8], stored: u64, len: usize, size: usize) -> Result<Option<Self>, Broken> {
        let Some(fixed) = head.first_chunk::<HEAD>() else { return Err(Broken("a frame is cut short")) };
        let (version, flags, width) = (fixed[0], fixed[2], usize::from(fixed[3]));
        let [claimed, block, compressed] = lengths(fixed);
        if compressed as u64 != stored {
            return Err(Broken("a frame has another length than its header says"));
        }
        if claimed != len {
            return Err(Broken("a frame holds another number of bytes than its chunk"));
        }
        if version != 2 || flags & FUTURE != 0 || width != size {
            return Ok(None);
        }
        if flags & COPIED != 0 {
            if compressed != len + HEAD {
                return Err(Broken("a frame has another length than its header says"));
            }
            let frame = Self {
                compressor: Compressor::None,
                shuffle: Shuffle::None,
                split: false,
                size,
                len,
                // As one block, so that any range of it can be read.
                block: len.max(1),
                blocks: Vec::new(),
            };
            return Ok(Some(frame));
        }
        let compressor = match flags >> 5 {
            1 => Compressor::Lz4,
            4 => Compressor::Zstd,
            _ => return Ok(None),
        };
        if fixed[1] != 1
            || block == 0
            || block > MAX_BLOCK
            || block > len
            || !block.is_multiple_of(size)
            || !len.is_multiple_of(size)
        {
            return Ok(None);
        }
        let n_blocks = len.div_ceil(block);
        let Some(starts) = head.get(HEAD..HEAD + 4 * n_blocks) else { return Err(Broken("a frame is cut short")) };
        let starts: Vec<u32> = starts.as_chunks::<4>().0.iter().map(|start| u32::from_le_bytes(*start)).collect();
        // Threads that compress together leave the blocks in any order; each ends where the next starts.
        let mut sorted = starts.clone();
        sorted.sort_unstable();
        let end = u32::try_from(compressed).map_err(|_| Broken("a frame is too long"))?;
        let first = HEAD + 4 * n_blocks;
        if sorted.first().is_some_and(|&start| (start as usize) < first)
            || sorted.last().is_some_and(|&last| last >= end)
        {
            return Err(Broken("a block lies outside its frame"));
        }
        let after = |start: u32| sorted.get(sorted.partition_point(|&other| other <= start)).copied().unwrap_or(end);
        let blocks = starts.iter().map(|&start| (start, after(start))).collect();
        // As c-blosc has it: bits are shuffled back if bytes are not.
        let shuffle = match flags & (SHUFFLED | BIT_SHUFFLED) {
            0 => Shuffle::None,
            BIT_SHUFFLED => Shuffle::Bits,
            _ if size > 1 && flags & SHUFFLED != 0 => Shuffle::Bytes,
            _ if flags & BIT_SHUFFLED != 0 => Shuffle::Bits,
            _ => Shuffle::None,
        };
        Ok(Some(Self { compressor, shuffle, split: flags & NOT_SPLIT == 0, size, len, block, blocks }))
    }

    /// Whether the values lie there as they are, behind the header.
    pub fn is_copy(&self) -> bool {
        self.compressor == Compressor::None
    }

    /// Bytes of values in a block; fewer in the last.
    pub fn block_len(&self) -> usize {
        self.block
    }

    /// Which bytes of the chunk are in a block.
    pub fn values(&self, block: usize) -> Range<usize> {
        let start = block * self.block;
        start..(start + self.block).min(self.len)
    }

    /// Where a block lies from the frame's start.
    pub fn bytes(&self, block: usize) -> Option<Range<u64>> {
        self.blocks.get(block).map(|&(start, end)| u64::from(start)..u64::from(end))
    }

    /// Memory that it takes.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + 8 * self.blocks.len()
    }

    /// Decompresses the first `upto` bytes of a block's values, at least, from its `bytes`.
    ///
    /// # Errors
    /// When they are no such block.
    pub fn decode<'a>(
        &self,
        block: usize,
        bytes: &[u8],
        upto: usize,
        scratch: &'a mut Scratch,
    ) -> Result<Block<'a>, Broken> {
        let len = self.values(block).len();
        let (size, leftover) = (self.size, len < self.block);
        let split = self.split && size <= MAX_SPLITS && len / size >= MIN_SPLIT && !leftover;
        let n_splits = if split { size } else { 1 };
        let part = len / n_splits;
        // Where each split is one plane of bytes, none is decompressed further than it is wanted.
        let by_planes = self.shuffle == Shuffle::Bytes && n_splits == size;
        let wanted = match self.shuffle {
            Shuffle::Bytes if by_planes => upto.div_ceil(size).min(part),
            Shuffle::None if n_splits == 1 => upto.min(part),
            _ => part,
        };
        scratch.out.resize(scratch.out.len().max(len), 0);
        let mut zero = 0_u32;
        let mut rest = bytes;
        for (i, out) in scratch.out[..len].chunks_exact_mut(part.max(1)).enumerate() {
            let Some((compressed, after)) = rest.split_first_chunk::<4>() else {
                return Err(Broken("a block is cut short"));
            };
            let compressed = u32::from_le_bytes(*compressed) as usize;
            let Some((compressed, after)) = after.split_at_checked(compressed) else {
                return Err(Broken("a block is cut short"));
            };
            rest = after;
            if compressed.len() == part {
                out[..wanted].copy_from_slice(&compressed[..wanted]);
                continue;
            }
            match self.compressor {
                Compressor::None => return Err(Broken("a block of bytes that were not compressed")),
                Compressor::Lz4 if by_planes && lz4_of_zeros(compressed, part) => zero |= 1 << i,
                Compressor::Lz4 => lz4(compressed, out, wanted)?,
                Compressor::Zstd => scratch.zstd.decode(compressed, out)?,
            }
        }
        let out = &scratch.out[..len];
        let n = len / size;
        Ok(match self.shuffle {
            Shuffle::Bytes => {
                let planes = out.chunks_exact(n.max(1)).take(size).enumerate();
                Block::Planes(planes.filter(|(i, _)| zero >> i & 1 == 0).collect())
            }
            Shuffle::Bits if n.is_multiple_of(8) => {
                let planes = out.chunks_exact((n / 8).max(1)).take(8 * size).enumerate();
                Block::Bits(planes.filter(|(_, plane)| plane.iter().any(|&byte| byte != 0)).collect())
            }
            _ => Block::Plain(out),
        })
    }
}

fn lengths(head: &[u8; HEAD]) -> [usize; 3] {
    let at = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]) as usize;
    [at(4), at(8), at(12)]
}

/// Room that decoding uses again and again.
#[derive(Default)]
pub struct Scratch {
    out: Vec<u8>,
    zstd: Zstd,
}

#[derive(Default)]
struct Zstd(Option<zstd_safe::DCtx<'static>>);

impl Zstd {
    fn decode(&mut self, bytes: &[u8], out: &mut [u8]) -> Result<(), Broken> {
        if self.0.is_none() {
            self.0 = zstd_safe::DCtx::try_create();
        }
        let Some(context) = &mut self.0 else { return Err(Broken("zstd has no memory to decode with")) };
        match context.decompress(out, bytes) {
            Ok(len) if len == out.len() => Ok(()),
            _ => Err(Broken("a block that zstd cannot decode")),
        }
    }
}

unsafe extern "C" {
    /// <https://github.com/lz4/lz4/blob/v1.10.0/lib/lz4.h>
    fn LZ4_decompress_safe_partial(
        from: *const std::ffi::c_char,
        to: *mut std::ffi::c_char,
        from_len: std::ffi::c_int,
        wanted: std::ffi::c_int,
        to_len: std::ffi::c_int,
    ) -> std::ffi::c_int;
}

/// Decompresses the first `wanted` bytes of `out`; all of them must be what was compressed.
fn lz4(bytes: &[u8], out: &mut [u8], wanted: usize) -> Result<(), Broken> {
    let too_long = |_| Broken("a block is too long");
    let from_len = i32::try_from(bytes.len()).map_err(too_long)?;
    let to_len = i32::try_from(out.len()).map_err(too_long)?;
    let (from, to) = (bytes.as_ptr().cast(), out.as_mut_ptr().cast());
    let got = if wanted < out.len() {
        let wanted = i32::try_from(wanted).map_err(too_long)?;
        // SAFETY: `from` has `from_len` bytes to read and `to` has `to_len` to write, at least `wanted`;
        // whatever the bytes are, the function keeps to them ("protected against malicious input").
        unsafe { LZ4_decompress_safe_partial(from, to, from_len, wanted, to_len) }
    } else {
        // SAFETY: as above.
        unsafe { lz4_sys::LZ4_decompress_safe(from, to, from_len, to_len) }
    };
    let complete =
        usize::try_from(got).is_ok_and(|got| if wanted < out.len() { got >= wanted } else { got == out.len() });
    if complete { Ok(()) } else { Err(Broken("a block that lz4 cannot decode")) }
}

/// Whether LZ4's `bytes` are `len` zeros: no literal is anything else. Most planes of counts are.
/// <https://github.com/lz4/lz4/blob/v1.10.0/doc/lz4_Block_format.md>
fn lz4_of_zeros(bytes: &[u8], len: usize) -> bool {
    fn length(short: usize, bytes: &mut &[u8]) -> Option<usize> {
        let mut length = short;
        if short == 15 {
            loop {
                let (&byte, rest) = bytes.split_first()?;
                *bytes = rest;
                length = length.checked_add(byte.into())?;
                if byte != 255 {
                    break;
                }
            }
        }
        Some(length)
    }
    fn zeros(mut bytes: &[u8]) -> Option<usize> {
        let mut total = 0_usize;
        loop {
            let (&token, rest) = bytes.split_first()?;
            bytes = rest;
            let literals = length((token >> 4).into(), &mut bytes)?;
            let (here, rest) = bytes.split_at_checked(literals)?;
            if here.iter().any(|&byte| byte != 0) {
                return None;
            }
            total = total.checked_add(literals)?;
            if rest.is_empty() {
                return Some(total);
            }
            let (offset, rest) = rest.split_first_chunk::<2>()?;
            let offset = usize::from(u16::from_le_bytes(*offset));
            if offset == 0 || offset > total {
                return None;
            }
            bytes = rest;
            total = total.checked_add(length((token & 15).into(), &mut bytes)? + 4)?;
        }
    }
    zeros(bytes) == Some(len)
}

/// Decompressed values, as they lie.
pub enum Block<'a> {
    /// One after another.
    Plain(&'a [u8]),
    /// By their bytes: which byte of each value, and those of all values. What is left out is zero.
    Planes(Vec<(usize, &'a [u8])>),
    /// By their bits, eight values a byte. What is left out is zero.
    Bits(Vec<(usize, &'a [u8])>),
}
