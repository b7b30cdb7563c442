//! Shards whose index has a checksum that was mended: ranges as they stand there, inside the file, or an error.
//!
//! An input is whether the index stands at the end and whether there is a tag, the inner chunks along two axes, the
//! shard's number, and the shard.

use bytes::Bytes;
use dao_polars::matrix::{ShardIndexes, ShardTag};
use serde_json::{Map, json};
use zarrs::array::CodecOptions;

use super::pfor_reader::crc;
use crate::store::Memory;

/// The array's id.
const ID: u64 = 0x0123_4567_89ab_cdef;
const ABSENT: [u64; 2] = [u64::MAX; 2];

pub fn seeds() -> Vec<Vec<u8>> {
    let indexes: [(&[u8; 2], &[[u64; 2]]); 3] =
        [(&[2, 2], &[[6, 5], ABSENT, [0, 6], [11, 0]]), (&[1, 1], &[[0, 11]]), (&[3, 1], &[ABSENT; 3])];
    let mut seeds = Vec::new();
    for flags in [0_u8, 1, 3] {
        for (counts, index) in indexes {
            let mut shard: Vec<u8> = index.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
            shard.extend([0; 4]);
            if flags == 3 {
                shard.splice(0..0, tag(7));
            }
            let body = *b"hello world";
            let shard = if flags == 0 { [shard, body.to_vec()].concat() } else { [body.to_vec(), shard].concat() };
            seeds.push([&[flags, counts[0], counts[1], 7][..], &shard].concat());
        }
    }
    seeds
}

fn tag(number: u64) -> Vec<u8> {
    [ID.to_le_bytes(), number.to_le_bytes()].concat()
}

pub fn check(input: &[u8]) -> Result<(), String> {
    let Some((&[flags, rows, columns, number], shard)) = input.split_first_chunk::<4>() else { return Ok(()) };
    let (at_end, is_tagged) = (flags % 2 == 1, flags / 2 % 2 == 1);
    let mut shard = shard.to_vec();
    let counts = [u64::from(rows % 5), u64::from(columns % 5)];
    let len = 16 * (counts[0] * counts[1]) as usize;
    let index = shard.len().checked_sub(len + 4).map(|at| if at_end { at } else { 0 });
    if let Some(at) = index {
        let sum = crc(&shard[at..at + len]).to_le_bytes();
        shard[at + len..at + len + 4].copy_from_slice(&sum);
    }
    let expected = index.filter(|_| !counts.contains(&0) && (at_end || !is_tagged)).and_then(|at| {
        let is_ours = !is_tagged || at >= 16 && shard[at - 16..at] == tag(number.into());
        is_ours.then_some(())?;
        shard[at..at + len]
            .chunks(16)
            .map(|entry| {
                let [offset, length] = [0, 8].map(|i| u64::from_le_bytes(entry[i..i + 8].try_into().unwrap()));
                if [offset, length] == ABSENT {
                    return Some(None);
                }
                let end = u128::from(offset) + u128::from(length);
                (end <= shard.len() as u128).then_some(Some((offset, end as u64)))
            })
            .collect::<Option<Vec<_>>>()
    });
    let little = json!({"name": "bytes", "configuration": {"endian": "little"}});
    let sharding = json!({
        "chunk_shape": [1, 1], "codecs": [little], "index_codecs": [little, {"name": "crc32c"}],
        "index_location": if at_end { "end" } else { "start" },
    });
    let attributes = Map::from_iter([(ShardTag::ATTRIBUTE.to_owned(), json!(format!("{ID:016x}")))]);
    let tag = if is_tagged { ShardTag::of(&attributes)? } else { None };
    let options = CodecOptions::default().with_validate_checksums(true);
    let indexes = ShardIndexes::new(&serde_json::from_value(sharding).unwrap(), &counts, tag, options);
    let storage = Memory { files: [("a".to_owned(), Bytes::from(shard))].into(), is_local: true };
    let found = indexes.ok().and_then(|indexes| indexes.read(&storage, "a", &[number.into(), 0]).ok());
    let found = found
        .map(|ranges| ranges.into_iter().map(|range| range.map(|range| (range.start, range.end))).collect::<Vec<_>>());
    if found == expected { Ok(()) } else { Err(format!("found {found:?}, expected {expected:?}")) }
}
