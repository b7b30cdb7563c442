//! Chunks of packed numbers whose checksums were mended: two readers agree, and parts equal the whole.
//!
//! An input is the number type, whether it has differences, how many values, and the chunk.

use dao_polars::codec::{self, BLOCK, Kind, SCRATCH};
use dao_polars::number::Word;

use super::pfor_reader::{self, crc};

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for n in [1_u16, 200, 256, 700, 1100] {
        for delta in [false, true] {
            let kind = if delta { Kind::Delta } else { Kind::Plain };
            // Small numbers, a few large ones among them; for 64 bits some too far apart to be packed.
            let value = |i: u16| u64::from(i * 7 % 13) + if i % 41 == 3 { 0x1234_5678 << (i % 8) } else { 0 };
            seeds.push(seed(0, delta, n, &(0..n).map(|i| value(i) as u8).collect::<Vec<_>>(), kind));
            seeds.push(seed(2, delta, n, &(0..n).map(|i| value(i) as u16).collect::<Vec<_>>(), kind));
            seeds.push(seed(4, delta, n, &(0..n).map(|i| value(i) as u32).collect::<Vec<_>>(), kind));
            seeds.push(seed(6, delta, n, &(0..n).map(value).collect::<Vec<_>>(), kind));
        }
        let float = |i: u16| f32::from(i % 9 * (i % 5)) / 2.0;
        seeds.push(seed(8, false, n, &(0..n).map(|i| float(i).to_bits()).collect::<Vec<_>>(), Kind::Dictionary));
        let double = |i: u16| f64::from(i).sqrt().to_bits();
        seeds.push(seed(9, false, n, &(0..n).map(double).collect::<Vec<_>>(), Kind::Dictionary));
    }
    seeds
}

fn seed<W: Word>(dtype: u8, delta: bool, n: u16, values: &[W], kind: Kind) -> Vec<u8> {
    let mut bytes = vec![dtype, delta.into()];
    bytes.extend(n.to_le_bytes());
    bytes.extend(codec::encode(values, kind).expect("small"));
    bytes
}

pub fn check(input: &[u8]) -> Result<(), String> {
    let Some((&[dtype, delta, low, high], chunk)) = input.split_first_chunk::<4>() else { return Ok(()) };
    let (n, delta) = (usize::from(u16::from_le_bytes([low, high])) % 2048, delta % 2 == 1);
    let mut chunk = chunk.to_vec();
    mend(&mut chunk, n);
    macro_rules! compare {
        ($type:ty, $kind:expr, $bits:expr) => {{
            let kind = $kind;
            let theirs =
                pfor_reader::decode(&chunk, n, size_of::<$type>(), kind == Kind::Dictionary, kind == Kind::Delta);
            let ours = codec::decode::<$type>(&chunk, n, kind);
            let bits = |values: &[$type]| values.iter().map(|&value| $bits(value)).collect::<Vec<u64>>();
            if ours.as_ref().ok().map(|values| bits(values)) != theirs {
                let ours = ours.map(|values| values.len());
                return Err(format!("{} of {n}: decoded {ours:?}, expected {:?}", stringify!($type), theirs.is_some()));
            }
            let Ok(whole) = ours else { return Ok(()) };
            let starts = codec::directory(&chunk[..codec::directory_len(n)], n, chunk.len() as u64).expect("decoded");
            for (ends, whole) in starts.windows(2).zip(whole.chunks(BLOCK)) {
                let block = &chunk[ends[0] as usize..ends[1] as usize];
                let m = whole.len();
                for range in [0..m, 0..m / 2, m / 2..m, m / 3..m.min(m / 3 + 7), m - 1..m] {
                    let mut part: Vec<$type> = vec![Default::default(); range.len()];
                    let result =
                        codec::decode_block::<$type, $type>(block, kind, range.clone(), &mut part, &mut { SCRATCH });
                    if result.is_err() || bits(&part) != bits(&whole[range.clone()]) {
                        return Err(format!("{}: values {range:?} of a block are others", stringify!($type)));
                    }
                }
            }
        }};
    }
    let kind = if delta { Kind::Delta } else { Kind::Plain };
    match dtype % 10 {
        0 => compare!(u8, kind, u64::from),
        1 => compare!(i8, kind, |value: i8| u64::from(value.cast_unsigned())),
        2 => compare!(u16, kind, u64::from),
        3 => compare!(i16, kind, |value: i16| u64::from(value.cast_unsigned())),
        4 => compare!(u32, kind, u64::from),
        5 => compare!(i32, kind, |value: i32| u64::from(value.cast_unsigned())),
        6 => compare!(u64, kind, |value: u64| value),
        7 => compare!(i64, kind, i64::cast_unsigned),
        8 => compare!(f32, Kind::Dictionary, |value: f32| u64::from(value.to_bits())),
        _ => compare!(f64, Kind::Dictionary, f64::to_bits),
    }
    Ok(())
}

/// Makes the directory add up, and all checksums right: what they would catch is not what is tested.
fn mend(chunk: &mut [u8], n: usize) {
    let (blocks, len) = (n.div_ceil(512), chunk.len());
    let mut at = 2 * blocks + 4;
    for block in 0..blocks {
        let Some(left) = len.checked_sub(at) else { return };
        let length = usize::from(u16::from_le_bytes([chunk[2 * block], chunk[2 * block + 1]])).min(left);
        let length = if block + 1 == blocks { left } else { length };
        let Ok(stored) = u16::try_from(length) else { return };
        chunk[2 * block..2 * block + 2].copy_from_slice(&stored.to_le_bytes());
        reseal(&mut chunk[at..at + length]);
        at += length;
    }
    if let Some(directory) = chunk.get_mut(..2 * blocks + 4) {
        reseal(directory);
    }
}

fn reseal(bytes: &mut [u8]) {
    if let Some((body, checksum)) = bytes.split_last_chunk_mut::<4>() {
        *checksum = crc(body).to_le_bytes();
    }
}
