//! Arrays whole and damaged: shards, indexes, chunks and metadata.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::matrix::testing::{assert_says, damage, portable, shard, sharded, storage, write_array};

fn values(len: u16) -> Vec<u16> {
    // Inner chunks of nothing but zeros are among them: they are left out.
    (0..len).map(|i| if i / 8 % 3 == 1 { 0 } else { i }).collect()
}

fn decoded(array: &ZarrArray, chunks: &[u64]) -> Result<Vec<(usize, Vec<u16>)>> {
    let chunks: Vec<Vec<u64>> = chunks.iter().map(|&chunk| vec![chunk]).collect();
    let mut all = Vec::new();
    array.decode::<u16>(&chunks, |i, values| {
        all.push((i, values.to_vec()));
        Ok(())
    })?;
    all.sort_unstable();
    Ok(all)
}

/// An array of 100 values: four shards of four inner chunks of 8.
fn written(index_location: &str) -> (tempfile::TempDir, Result<ZarrArray>) {
    let folder = tempfile::tempdir().unwrap();
    let metadata = sharded::<u16>(100, 32, 8, &portable(), index_location);
    write_array(&folder.path().join("a"), &values(100), &metadata);
    let array = ZarrArray::open(&storage(folder.path()), "a");
    (folder, array)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn inner_chunks_come_back(chunks in prop::collection::btree_set(0_u64..13, 0..13), at_end: bool) {
        let (_folder, array) = written(if at_end { "end" } else { "start" });
        let chunks: Vec<u64> = chunks.into_iter().collect();
        let mut all = values(100);
        all.resize(13 * 8, 0);
        let expected: Vec<_> = chunks.iter().map(|&i| all[8 * to_usize(i)..8 * to_usize(i) + 8].to_vec()).enumerate().collect();
        let array = array.unwrap();
        prop_assert_eq!(&decoded(&array, &chunks).unwrap(), &expected);
        prop_assert_eq!(&decoded(&array, &chunks).unwrap(), &expected);
    }

    #[test]
    fn a_shard_cut_short_is_an_error(cut: prop::sample::Index, at_end: bool) {
        let (folder, array) = written(if at_end { "end" } else { "start" });
        damage(&shard(&folder.path().join("a"), 1), |bytes| bytes.truncate(cut.index(bytes.len())));
        let array = array.unwrap();
        assert_says(&decoded(&array, &[4, 5, 6, 7]).unwrap_err(), ErrorKind::Corrupt, folder.path(), "a/c/1");
        prop_assert!(decoded(&array, &[0, 8]).is_ok());
    }

    #[test]
    fn a_changed_bit_is_an_error(at: prop::sample::Index, bit in 0_u8..8) {
        let (folder, array) = written("end");
        damage(&shard(&folder.path().join("a"), 1), |bytes| {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        });
        let error = decoded(&array.unwrap(), &[4, 5, 6, 7]).unwrap_err();
        assert_says(&error, ErrorKind::Corrupt, folder.path(), "estore it from a copy");
    }
}

#[test]
fn a_missing_shard_is_an_error() {
    let (folder, array) = written("end");
    std::fs::remove_file(shard(&folder.path().join("a"), 2)).unwrap();
    let error = decoded(&array.unwrap(), &[8]).unwrap_err();
    assert_says(&error, ErrorKind::NotFound, folder.path(), "a shard is missing");
}

#[test]
fn an_index_that_points_outside_its_shard_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut metadata = sharded::<u16>(8, 8, 8, &portable(), "end");
    metadata["codecs"][0]["configuration"]["index_codecs"].as_array_mut().unwrap().truncate(1);
    write_array(&folder.path().join("a"), &values(8), &metadata);
    for (offset, length) in [(1 << 40, 20_u64), (0, 1 << 40), (u64::MAX - 5, 20)] {
        damage(&shard(&folder.path().join("a"), 0), |bytes| {
            let index = bytes.len() - 16;
            bytes[index..].copy_from_slice(bytemuck::cast_slice(&[offset, length]));
        });
        let array = ZarrArray::open(&storage(folder.path()), "a").unwrap();
        let error = decoded(&array, &[0]).unwrap_err();
        assert_says(&error, ErrorKind::Corrupt, folder.path(), "of a file of");
    }
}

#[test]
fn absent_chunks_are_fill_where_their_writer_leaves_them_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut metadata = json!({
        "zarr_format": 2, "shape": [4], "chunks": [2], "dtype": "<u2", "order": "C", "fill_value": 7,
        "filters": null, "compressor": null,
    });
    let open = |metadata: &serde_json::Value| {
        std::fs::write(folder.path().join(".zarray"), metadata.to_string()).unwrap();
        let name = folder.path().file_name().unwrap().to_str().unwrap();
        ZarrArray::open(&storage(folder.path().parent().unwrap()), name).unwrap()
    };
    std::fs::write(folder.path().join("0"), [1, 0, 2, 0]).unwrap();
    assert_eq!(decoded(&open(&metadata), &[0]).unwrap(), [(0, vec![1, 2])]);
    let error = decoded(&open(&metadata), &[1]).unwrap_err();
    assert_says(&error, ErrorKind::NotFound, folder.path(), "a chunk is missing");
    metadata["dimension_separator"] = json!(".");
    assert_eq!(decoded(&open(&metadata), &[0, 1]).unwrap(), [(0, vec![1, 2]), (1, vec![7, 7])]);
    std::fs::write(folder.path().join("1"), [1, 0, 2]).unwrap();
    let error = decoded(&open(&metadata), &[1]).unwrap_err();
    assert_says(&error, ErrorKind::Corrupt, folder.path(), "cannot be decoded");
}

#[test]
fn metadata_that_cannot_be_used_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let open = |text: &str| {
        std::fs::create_dir_all(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/zarr.json"), text).unwrap();
        ZarrArray::open(&storage(folder.path()), "a").err().unwrap()
    };
    let none = ZarrArray::open(&storage(folder.path()), "a").err().unwrap();
    assert_says(&none, ErrorKind::NotFound, folder.path(), "zarr metadata is missing");
    let mut metadata = sharded::<u16>(8, 8, 8, &portable(), "end");
    assert_says(&open(&metadata.to_string()[1..]), ErrorKind::Corrupt, folder.path(), "cannot read this zarr array");
    metadata["codecs"][0]["configuration"]["codecs"] = json!([{"name": "nobody.knows"}]);
    assert!(matches!(open(&metadata.to_string()).kind(), ErrorKind::Value | ErrorKind::Corrupt));
    for shape in [json!([]), json!([8, 1])] {
        let mut metadata = sharded::<u16>(8, 8, 8, &portable(), "end");
        metadata["codecs"][0]["configuration"]["chunk_shape"] = shape;
        assert_says(&open(&metadata.to_string()), ErrorKind::Corrupt, folder.path(), "cannot read this zarr array");
    }
    let mut metadata = sharded::<u16>(8, 8, 8, &portable(), "end");
    metadata["data_type"] = json!("complex64");
    metadata["fill_value"] = json!([0.0, 0.0]);
    assert_says(&open(&metadata.to_string()), ErrorKind::Corrupt, folder.path(), "is no plain number");
}

#[test]
fn sizes_that_metadata_claim_are_refused_before_anything_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let open = |shard: u64, inner: u64| {
        let mut metadata = sharded::<u16>(8, 8, 8, &portable(), "end");
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = json!([shard]);
        metadata["codecs"][0]["configuration"]["chunk_shape"] = json!([inner]);
        std::fs::create_dir_all(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/zarr.json"), metadata.to_string()).unwrap();
        ZarrArray::open(&storage(folder.path()), "a").map(drop)
    };
    open(1 << 32, 1 << 20).unwrap();
    for (shard, inner) in [(1 << 62, 1 << 62), (u64::MAX, u64::MAX), (1 << 40, 1 << 40)] {
        let error = open(shard, inner).unwrap_err();
        assert_says(&error, ErrorKind::Corrupt, folder.path(), "its metadata claim chunks of shape");
    }
    for shard in [1 << 62, 1 << 23, 1 << 63] {
        assert_says(&open(shard, 1).unwrap_err(), ErrorKind::Corrupt, folder.path(), "inner chunks of a shard");
    }
}
