//! Chunks in codecs of others: as many values as their array has in a chunk, or an error.
//!
//! An input is the codecs, the number type, the number of values less one, and the chunk. Of frames of blosc, rows are
//! also read by the blocks that they lie in.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use dao_polars::matrix::{Decoder, Matrix};
use serde_json::{Value, json};
use zarrs::array::codec::CodecChain;
use zarrs::array::{ArrayBytes, ArrayToBytesCodecTraits, ChunkShape, CodecOptions, FillValue, data_type};

use crate::store::Memory;

/// The columns of the matrix of which a frame of blosc is the only chunk.
const COLUMNS: usize = 64;

fn chains() -> &'static [Vec<Value>] {
    static CHAINS: OnceLock<Vec<Vec<Value>>> = OnceLock::new();
    CHAINS.get_or_init(|| {
        let codec = |name: &str, configuration: Value| json!({"name": name, "configuration": configuration});
        let plain = |endian: &str| codec("bytes", json!({"endian": endian}));
        let level = |name: &str| codec(name, json!({"level": 1}));
        let blosc = |compressor: &str, shuffle: &str| {
            let configuration =
                json!({"cname": compressor, "clevel": 5, "shuffle": shuffle, "typesize": 4, "blocksize": 0});
            codec("blosc", configuration)
        };
        let zstd = codec("zstd", json!({"level": 1, "checksum": false}));
        let pcodec = codec(
            "numcodecs.pcodec",
            json!({"level": 8, "mode_spec": "auto", "delta_spec": "auto", "paging_spec": "equal_pages_up_to",
                   "equal_pages_up_to": 1 << 18}),
        );
        let shuffle = codec("numcodecs.shuffle", json!({"elementsize": 4}));
        let transpose = codec("transpose", json!({"order": [0]}));
        let of = |codecs: &[Value]| [&[plain("little")], codecs].concat();
        vec![
            of(&[]),
            of(std::slice::from_ref(&zstd)),
            of(&[level("gzip")]),
            of(&[level("numcodecs.zlib")]),
            of(&[level("numcodecs.bz2")]),
            of(&[blosc("lz4", "shuffle")]),
            of(&[blosc("zstd", "bitshuffle")]),
            of(&[blosc("blosclz", "noshuffle")]),
            of(&[blosc("zlib", "shuffle")]),
            vec![pcodec],
            of(&[shuffle, level("numcodecs.zlib")]),
            of(&[level("gzip"), zstd]),
            of(&[codec("numcodecs.adler32", json!({}))]),
            of(&[codec("numcodecs.fletcher32", json!({}))]),
            vec![transpose, plain("big"), level("gzip")],
            vec![codec("packbits", json!({}))],
        ]
    })
}

fn chain(number: u8) -> &'static [Value] {
    &chains()[usize::from(number) % chains().len()]
}

/// The seeds, and the bytes of their values.
fn known() -> &'static HashMap<Vec<u8>, Vec<u8>> {
    static KNOWN: OnceLock<HashMap<Vec<u8>, Vec<u8>>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut known = HashMap::new();
        for number in 0..chains().len() as u8 {
            for (dtype, n) in [(0, 1_u32), (0, 320), (1, 320), (0, 65_536)] {
                // A chunk of several blocks costs much: of one codec, and of the one that reads them by parts.
                if n > 320 && !matches!(number, 1 | 5) {
                    continue;
                }
                let raw: Vec<u8> = match dtype {
                    0 => (0..n).flat_map(|i| ((i * 7 / 5 % 13) as f32).to_le_bytes()).collect(),
                    _ => (0..n).flat_map(|i| ((i % 17) as u16).to_le_bytes()).collect(),
                };
                let (chain, fill) = (parsed(chain(number)), fill(dtype));
                let (shape, dtype_of) = (shape(n as usize), data_type_of(dtype));
                let options = CodecOptions::default();
                let encoded = chain.encode(ArrayBytes::new_flen(&raw[..]), &shape, &dtype_of, &fill, &options).unwrap();
                let mut input = vec![number, dtype];
                input.extend(((n - 1) as u16).to_le_bytes());
                input.extend_from_slice(&encoded);
                known.insert(input, raw);
            }
        }
        known
    })
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = known().keys().cloned().collect();
    seeds.sort();
    seeds
}

fn parsed(chain: &[Value]) -> CodecChain {
    CodecChain::from_metadata(&serde_json::from_value::<Vec<_>>(json!(chain)).unwrap()).unwrap()
}

fn shape(n: usize) -> ChunkShape {
    std::iter::once(std::num::NonZeroU64::new(n as u64).unwrap()).collect()
}

fn data_type_of(dtype: u8) -> zarrs::array::DataType {
    if dtype.is_multiple_of(2) { data_type::float32() } else { data_type::uint16() }
}

fn fill(dtype: u8) -> FillValue {
    if dtype.is_multiple_of(2) { FillValue::from(0_f32) } else { FillValue::from(0_u16) }
}

pub fn check(input: &[u8]) -> Result<(), String> {
    let Some((&[number, dtype, low, high], chunk)) = input.split_first_chunk::<4>() else { return Ok(()) };
    let n = usize::from(u16::from_le_bytes([low, high])) + 1;
    let options = CodecOptions::default().with_validate_checksums(true);
    let codecs = Arc::new(parsed(chain(number)));
    let decoder = Decoder::new(codecs, &shape(n), &data_type_of(dtype), &fill(dtype), options)?;
    let size = if dtype.is_multiple_of(2) { 4 } else { 2 };
    let decoded = decoder.decode(chunk).map_err(|why| why.to_string());
    let known = known().get(input);
    match &decoded {
        Ok(raw) if raw.len() != n * size => return Err(format!("{n} values became {} bytes", raw.len())),
        Ok(raw) if known.is_some_and(|known| known[..] != raw[..]) => return Err("other values".into()),
        Err(why) if known.is_some() => return Err(format!("a whole chunk is not read: {why}")),
        _ => {}
    }
    if size == 4 && chain(number)[1..].iter().any(|codec| codec["name"] == "blosc") && n % COLUMNS == 0 {
        return rows_are_the_chunks(chain(number), n / COLUMNS, chunk, decoded.ok().as_deref());
    }
    Ok(())
}

/// Reads rows of the matrix whose only chunk is `chunk`; where all can be decoded, those must be the same.
fn rows_are_the_chunks(codecs: &[Value], n_rows: usize, chunk: &[u8], whole: Option<&[u8]>) -> Result<(), String> {
    let shape = [n_rows as u64, COLUMNS as u64];
    let metadata = json!({
        "zarr_format": 3, "node_type": "array", "shape": shape, "data_type": "float32", "fill_value": 0.0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "default"}, "codecs": codecs,
    });
    let files = [("X/zarr.json", Bytes::from(metadata.to_string())), ("X/c/0/0", Bytes::copy_from_slice(chunk))];
    let files = files.map(|(path, bytes)| (path.to_owned(), bytes)).into();
    let storage: Arc<dyn dao_polars::storage::Storage> = Arc::new(Memory { files, is_local: true });
    let last = n_rows as u32 - 1;
    for rows in [vec![0], vec![last / 2], vec![last], (0..=last).step_by(97).collect()] {
        // Each opened anew: what it remembers of a frame must not help.
        let matrix = Matrix::open(&storage, "X", shape).map_err(|e| format!("not opened: {e}"))?;
        let (read, Some(whole)) = (matrix.rows::<f32>(&rows), whole) else { continue };
        let read = read.map_err(|e| format!("rows of a chunk that is decoded are not read: {e}"))?;
        for (i, &row) in rows.iter().enumerate() {
            let mut dense = [0_f32; COLUMNS];
            for at in read.indptr[i]..read.indptr[i + 1] {
                dense[read.indices[at] as usize] = read.data[at];
            }
            let expected = whole[row as usize * COLUMNS * 4..][..COLUMNS * 4].chunks(4);
            let expected = expected.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
            // Zeros of either sign are left out.
            let bits = |value: f32| if value == 0.0 { 0 } else { value.to_bits() };
            if !expected.map(bits).eq(dense.into_iter().map(bits)) {
                return Err(format!("row {row} by its blocks is another than in the whole chunk"));
            }
        }
    }
    Ok(())
}
