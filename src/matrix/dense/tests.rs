//! Dense matrices of every compression that sfaira and anndata write, held against their values; and damaged ones.

use proptest::prelude::*;
use zarrs::array::codec::{BloscCompressionLevel, BloscCompressor, BloscShuffleMode, blosc_compress_bytes};

use super::*;
use crate::matrix::Rows;

/// How a test's chunks are compressed; blosc with a block size, or not at all.
type Compression = Option<(BloscCompressor, BloscShuffleMode, usize)>;

fn compression() -> impl Strategy<Value = Compression> {
    use BloscCompressor::{BloscLZ, LZ4, LZ4HC, Snappy, Zlib, Zstd};
    use BloscShuffleMode::{BitShuffle, NoShuffle, Shuffle};
    let compressor = prop::sample::select(vec![LZ4, Zstd, LZ4, Zstd, LZ4HC, Snappy, BloscLZ, Zlib]);
    let shuffle = prop::sample::select(vec![NoShuffle, Shuffle, BitShuffle]);
    prop::option::weighted(0.9, (compressor, shuffle, prop::sample::select(vec![0, 128, 1000, 4096])))
}

fn dtype<S: Num>() -> &'static str {
    match S::DTYPE {
        Dtype::U8 => "|u1",
        Dtype::I16 => "<i2",
        Dtype::F32 => "<f4",
        Dtype::F64 => "<f8",
        _ => "<i8",
    }
}

fn write<S: Num>(folder: &std::path::Path, values: &[Vec<S>], chunks: [usize; 2], compression: Compression) {
    let shape = [values.len(), values[0].len()];
    let id = compression
        .map(|_| serde_json::json!({"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}));
    let head = serde_json::json!({
        "zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": dtype::<S>(), "order": "C",
        "fill_value": 0, "filters": null, "compressor": id,
    });
    std::fs::write(folder.join(".zarray"), head.to_string()).unwrap();
    for i in 0..shape[0].div_ceil(chunks[0]) {
        for j in 0..shape[1].div_ceil(chunks[1]) {
            let value = |at: usize| {
                let (row, column) = (i * chunks[0] + at / chunks[1], j * chunks[1] + at % chunks[1]);
                values.get(row).and_then(|row| row.get(column)).copied().unwrap_or(S::one())
            };
            let chunk: Vec<S> = (0..chunks[0] * chunks[1]).map(value).collect();
            let mut bytes = bytemuck::cast_slice(&chunk).to_vec();
            if let Some((compressor, shuffle, block)) = compression {
                let level = BloscCompressionLevel::try_from(5).unwrap();
                bytes = blosc_compress_bytes(&bytes, level, shuffle, size_of::<S>(), compressor, block, 1).unwrap();
            }
            std::fs::write(folder.join(format!("{i}.{j}")), bytes).unwrap();
        }
    }
}

fn open(folder: &std::path::Path) -> Dense {
    let (root, name) = (folder.parent().unwrap(), folder.file_name().unwrap());
    let storage: Arc<dyn Storage> = Arc::new(crate::storage::Local::new(root).unwrap());
    Dense::open(&storage, name.to_str().unwrap()).unwrap()
}

/// Rows as columns and bits.
fn columns_and_bits<S: Num>(rows: &Rows<S>) -> Vec<Vec<(i32, Vec<u8>)>> {
    let row = |ends: &[usize]| {
        (ends[0]..ends[1]).map(|i| (rows.indices[i], bytemuck::bytes_of(&rows.data[i]).to_vec())).collect()
    };
    rows.indptr.windows(2).map(row).collect()
}

fn comes_back<S: Num>(
    values: &[Vec<S>],
    chunks: [usize; 2],
    compression: Compression,
    reads: &[Vec<u32>],
    wanted: Option<&[bool]>,
    limit: usize,
) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), values, chunks, compression);
    let dense = open(folder.path());
    let cache = RowCache::default();
    cache.limit(limit);
    for rows in reads {
        let expected: Vec<Vec<(i32, Vec<u8>)>> = rows
            .iter()
            .map(|&row| {
                let columns = (0_i32..).zip(&values[row as usize]);
                let columns =
                    columns.filter(|&(column, value)| *value != S::zero() && wanted.is_none_or(|w| w[column as usize]));
                columns.map(|(column, value)| (column, bytemuck::bytes_of(value).to_vec())).collect()
            })
            .collect();
        for cache in [None, Some((&cache, 7)), Some((&cache, 7))] {
            let mut got = Rows::<S>::empty();
            dense.read::<S, S>(rows, wanted, cache, &mut got).unwrap();
            assert_eq!(columns_and_bits(&got), expected, "{cache:?}", cache = cache.is_some());
        }
    }
}

fn number<S: Num>(wide: u64, special: bool) -> S {
    let specials = [f64::NAN, -0.0, 0.5, 255.0, 256.0, -1.0, f64::INFINITY, 1e-310, 254.0, 40_000.0];
    match (special, S::DTYPE) {
        (true, Dtype::F32 | Dtype::F64) => S::cast(specials[usize::try_from(wide % 64).unwrap() % specials.len()]),
        (true, _) => S::cast(wide),
        _ => S::cast(wide % 7),
    }
}

#[test]
fn rows_of_frames_with_many_blocks() {
    // 2 MB, which c-blosc makes four blocks of.
    let value = |i: usize, j: usize| if (i * 31 + j * 17).is_multiple_of(9) { (i + j % 300) as f32 } else { 0.0 };
    let values: Vec<Vec<f32>> = (0..128).map(|i| (0..4000).map(|j| value(i, j)).collect()).collect();
    let compression = Some((BloscCompressor::LZ4, BloscShuffleMode::Shuffle, 0));
    let reads = [vec![5], vec![127], vec![0, 60, 61, 126], (0..128).collect()];
    comes_back(&values, [128, 4000], compression, &reads, None, 1 << 16);
}

#[test]
fn rows_of_frames_whose_values_are_wider_than_the_arrays() {
    // Valid, if unusual: such a frame is decoded whole, and so has to be read whole.
    let values: Vec<Vec<f32>> =
        (0_u16..128).map(|i| (0_u16..4000).map(|j| f32::from(i * 7 % (j + 1))).collect()).collect();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &values, [128, 4000], Some((BloscCompressor::LZ4, BloscShuffleMode::Shuffle, 0)));
    let level = BloscCompressionLevel::try_from(5).unwrap();
    let bytes: Vec<u8> = values.iter().flat_map(|row| bytemuck::cast_slice::<f32, u8>(row)).copied().collect();
    let frame = blosc_compress_bytes(&bytes, level, BloscShuffleMode::Shuffle, 8, BloscCompressor::LZ4, 0, 1).unwrap();
    std::fs::write(folder.path().join("0.0"), frame).unwrap();
    let mut got = Rows::<f32>::empty();
    open(folder.path()).read::<f32, f32>(&[5], None, None, &mut got).unwrap();
    let expected: Vec<(i32, f32)> = (0..).zip(values[5].iter().copied()).filter(|entry| entry.1 != 0.0).collect();
    assert_eq!(got.indices.into_iter().zip(got.data).collect::<Vec<_>>(), expected);
}

proptest! {
    #[test]
    fn rows_are_those_of_the_array(
        shape in (1_usize..70, 1_usize..400), chunks in (1_usize..40, 1_usize..450), compression in compression(),
        seed: u64, density in 0.0..0.3, kind in 0..5, limit in prop::sample::select(vec![0, 2000, 1 << 20]),
        reads in prop::collection::vec(prop::collection::btree_set(0_u32..70, 0..30), 1..4),
        wanted in prop::option::of((0_usize..400, 0_usize..400)),
    ) {
        let mut state = seed;
        let mut next = || { state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407); state >> 20 };
        let words: Vec<Vec<Option<(u64, bool)>>> = (0..shape.0).map(|_| (0..shape.1).map(|_| {
            ((next() % 1000) as f64 / 1000.0 < density).then(|| (next(), next() % 4 == 0))
        }).collect()).collect();
        let reads: Vec<Vec<u32>> = reads.into_iter()
            .map(|rows| rows.into_iter().filter(|&row| (row as usize) < shape.0).collect()).collect();
        let wanted: Option<Vec<bool>> = wanted.map(|(a, b)| (0..shape.1).map(|i| (a.min(b)..a.max(b)).contains(&i) || i % 50 == 3).collect());
        let chunks = [chunks.0, chunks.1];
        fn numbers<S: Num>(words: &[Vec<Option<(u64, bool)>>]) -> Vec<Vec<S>> {
            words.iter().map(|row| row.iter().map(|v| v.map_or(S::zero(), |(v, special)| number(v, special))).collect()).collect()
        }
        match kind {
            0 => comes_back::<u8>(&numbers(&words), chunks, compression, &reads, wanted.as_deref(), limit),
            1 => comes_back::<i16>(&numbers(&words), chunks, compression, &reads, wanted.as_deref(), limit),
            2 => comes_back::<f32>(&numbers(&words), chunks, compression, &reads, wanted.as_deref(), limit),
            3 => comes_back::<f64>(&numbers(&words), chunks, compression, &reads, wanted.as_deref(), limit),
            _ => comes_back::<i64>(&numbers(&words), chunks, compression, &reads, wanted.as_deref(), limit),
        }
    }

    #[test]
    fn changed_chunks_are_rows_or_an_error(
        compression in compression(), at: prop::sample::Index, to: u8, cut in prop::option::of(any::<prop::sample::Index>()),
        rows in prop::collection::btree_set(0_u32..40, 1..10),
    ) {
        let values: Vec<Vec<f32>> = (0_u16..40).map(|i| (0_u16..100).map(|j| f32::from(i * j % 11 / 9)).collect()).collect();
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &values, [40, 100], compression);
        let path = folder.path().join("0.0");
        let mut bytes = std::fs::read(&path).unwrap();
        // Mostly what lies near the front: header and starts.
        let at = if to % 3 == 0 { at.index(bytes.len()) } else { at.index(bytes.len().min(48)) };
        bytes[at] = to;
        if let Some(cut) = cut { bytes.truncate(cut.index(bytes.len())); }
        std::fs::write(&path, bytes).unwrap();
        let rows: Vec<u32> = rows.into_iter().collect();
        let cache = RowCache::default();
        cache.limit(1 << 16);
        let dense = open(folder.path());
        let _ = dense.read::<f32, f32>(&rows, None, Some((&cache, 0)), &mut Rows::empty());
        let _ = dense.read::<f32, f32>(&rows, None, None, &mut Rows::empty());
    }
}

#[test]
fn chunks_that_are_too_narrow_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(crate::storage::Local::new(folder.path()).unwrap());
    let open = |columns: u64, width: u64| {
        let metadata = serde_json::json!({
            "zarr_format": 2, "shape": [4, columns], "chunks": [4, width], "dtype": "<f4", "fill_value": 0,
            "compressor": null, "filters": null, "order": "C",
        });
        std::fs::create_dir_all(folder.path().join("X")).unwrap();
        std::fs::write(folder.path().join("X/.zarray"), metadata.to_string()).unwrap();
        Dense::open(&storage, "X").err().map(|error| error.to_string())
    };
    assert_eq!((open(1 << 24, 64), open(1 << 18, 1)), (None, None));
    assert!(open(1 << 24, 63).unwrap().contains("too narrow to be read"));
}
