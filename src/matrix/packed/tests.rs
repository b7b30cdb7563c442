//! Runs of values of packed arrays, and of damaged ones.

use std::slice::from_ref;

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::matrix::testing::{assert_says, damage, pfor, portable, shard, sharded, storage, write_array};

/// Three shards of two chunks of 1024 values; the second chunk is left out, as all are zero.
const LEN: u64 = 5000;

fn values() -> Vec<u16> {
    (0..5000).map(|i| if (1024..2048).contains(&i) { 0 } else { i % 700 * (i % 3) }).collect()
}

fn written() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_array(&folder.path().join("a"), &values(), &sharded::<u16>(5000, 2048, 1024, &pfor(false), "end"));
    folder
}

fn open(folder: &tempfile::TempDir) -> Packed {
    let array = ZarrArray::open(&storage(folder.path()), "a").unwrap();
    let kind = Packed::kind(&array).unwrap();
    Packed::new(array, kind).unwrap()
}

fn read<T: Num>(packed: &Packed, ranges: &[Range<u64>], fetched: bool) -> Result<Vec<T>> {
    let mut parts = packed.fetch(if fetched { ranges } else { &[] })?;
    let mut all = Vec::new();
    for range in ranges {
        let mut values = vec![T::zero(); to_usize(range.end - range.start)];
        packed.decode(range.clone(), &mut values, &mut parts)?;
        all.extend(values);
    }
    Ok(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn ranges_come_back(
        ends in prop::collection::btree_set(0..=LEN, 2..20), from_directories: bool, fetched: bool,
    ) {
        let folder = written();
        let packed = open(&folder);
        let ends: Vec<u64> = ends.into_iter().collect();
        let ranges: Vec<Range<u64>> = ends.chunks_exact(2).map(|ends| ends[0]..ends[1]).collect();
        let all = values();
        let expected: Vec<u16> =
            ranges.iter().flat_map(|range| all[to_usize(range.start)..to_usize(range.end)].to_vec()).collect();
        if from_directories {
            packed.fetch_directories(runs(0..LEN, 1024)).unwrap();
        }
        prop_assert_eq!(&read::<u16>(&packed, &ranges, fetched).unwrap(), &expected);
        let floats: Vec<f32> = expected.iter().map(|&value| value.into()).collect();
        prop_assert_eq!(read::<f32>(&packed, &ranges, fetched).unwrap(), floats);
        let wide: Vec<i64> = expected.iter().map(|&value| value.into()).collect();
        prop_assert_eq!(read::<i64>(&packed, &ranges, fetched).unwrap(), wide);
    }

    #[test]
    fn damage_is_an_error_and_never_other_values(
        at: prop::sample::Index, bit in 0_u8..8, cut: bool, fetched: bool,
    ) {
        let folder = written();
        damage(&shard(&folder.path().join("a"), 1), |bytes| {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if cut {
                bytes.truncate(at);
            }
        });
        let packed = open(&folder);
        match read::<u16>(&packed, from_ref(&(0..LEN)), fetched) {
            Ok(got) => prop_assert!(!cut && got == values()),
            Err(error) => assert_says(&error, ErrorKind::Corrupt, folder.path(), "a/c/1"),
        }
        prop_assert_eq!(&read::<u16>(&packed, &[0..2048, 4096..LEN], fetched).unwrap()[..2048], &values()[..2048]);
    }
}

#[test]
fn what_is_not_there_is_an_error() {
    let folder = written();
    let packed = open(&folder);
    let error = read::<u16>(&packed, from_ref(&(LEN..9000)), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    std::fs::remove_file(shard(&folder.path().join("a"), 1)).unwrap();
    let error = read::<u16>(&open(&folder), from_ref(&(0..LEN)), true).unwrap_err();
    assert_says(&error, ErrorKind::NotFound, folder.path(), "a shard is missing");
}

#[test]
fn a_number_that_does_not_fit_names_its_array() {
    let folder = written();
    let error = read::<u8>(&open(&folder), from_ref(&(0..LEN)), true).unwrap_err();
    assert_says(&error, ErrorKind::Value, folder.path(), "Ask for the dtype it is stored in");
}

#[test]
fn arrays_of_other_codecs_are_given_back() {
    let folder = tempfile::tempdir().unwrap();
    for (inner, codecs) in [(1024, portable()), (1000, pfor(true))] {
        write_array(&folder.path().join("a"), &[1_u16; 10], &sharded::<u16>(10, inner, inner, &codecs, "end"));
        let array = ZarrArray::open(&storage(folder.path()), "a").unwrap();
        assert_eq!((Packed::kind(&array), array.shape()), (None, &[10][..]));
    }
}
