//! Chains of codecs: exact values, and streams that lie about their length.

use std::io::Write;

use proptest::prelude::*;
use serde_json::{Value, json};
use zarrs::array::{ArrayToBytesCodecTraits, data_type};

use super::*;

const ZSTD: &str = r#"{"name": "zstd", "configuration": {"level": 1, "checksum": false}}"#;
const GZIP: &str = r#"{"name": "gzip", "configuration": {"level": 1}}"#;
const ZLIB: &str = r#"{"name": "numcodecs.zlib", "configuration": {"level": 1}}"#;
const BZ2: &str = r#"{"name": "numcodecs.bz2", "configuration": {"level": 1}}"#;
const BLOSC: &str = r#"{"name": "blosc", "configuration": {
    "cname": "lz4", "clevel": 1, "shuffle": "shuffle", "typesize": 4, "blocksize": 0}}"#;
const CRC32C: &str = r#"{"name": "crc32c"}"#;

fn chain(codecs: &[&str], first: &[Value]) -> Arc<CodecChain> {
    let more = codecs.iter().map(|codec| serde_json::from_str(codec).unwrap());
    let all: Vec<Value> = first.iter().cloned().chain(more).collect();
    Arc::new(CodecChain::from_metadata(&serde_json::from_value::<Vec<_>>(json!(all)).unwrap()).unwrap())
}

fn bytes() -> Value {
    json!({"name": "bytes", "configuration": {"endian": "little"}})
}

fn shape(shape: &[u64]) -> ChunkShape {
    shape.iter().map(|&n| std::num::NonZeroU64::new(n).unwrap()).collect()
}

fn decoder_of(chain: &Arc<CodecChain>, of: &[u64]) -> Result<Decoder, String> {
    Decoder::new(
        chain.clone(),
        &shape(of),
        &data_type::float32(),
        &FillValue::from(0_f32),
        CodecOptions::default().with_validate_checksums(true),
    )
}

fn encoded(chain: &CodecChain, values: &[f32]) -> Vec<u8> {
    let raw = ArrayBytes::new_flen(bytemuck::cast_slice::<f32, u8>(values));
    let (of, fill) = (shape(&[values.len() as u64]), FillValue::from(0_f32));
    chain.encode(raw, &of, &data_type::float32(), &fill, &CodecOptions::default()).unwrap().into_owned()
}

fn error(decoder: &Decoder, bytes: &[u8]) -> String {
    decoder.decode(bytes).err().unwrap().to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn chains_come_back(
        len in 1_u16..3000, factor: u16,
        codecs in prop::collection::vec(prop::sample::select(vec![ZSTD, GZIP, ZLIB, BZ2, BLOSC, CRC32C]), 0..4),
        cut: prop::sample::Index,
    ) {
        let values: Vec<f32> = (0..len).map(|i| f32::from(i.wrapping_mul(factor) % 251)).collect();
        let chain = chain(&codecs, &[bytes()]);
        let encoded = encoded(&chain, &values);
        let decoder = decoder_of(&chain, &[values.len() as u64]).unwrap();
        let raw = decoder.decode(&encoded).map_err(|e| e.to_string()).unwrap();
        prop_assert_eq!(&*raw, bytemuck::cast_slice::<f32, u8>(&values));
        prop_assert!(decoder.decode(&encoded[..cut.index(encoded.len())]).is_err());
        // What is one value longer than the chunk is refused.
        if values.len() > 1 {
            prop_assert!(decoder_of(&chain, &[values.len() as u64 - 1]).unwrap().decode(&encoded).is_err());
        }
    }
}

#[test]
fn pcodec_comes_back_in_full_or_is_an_error() {
    let pcodec: Value = json!({"name": "numcodecs.pcodec", "configuration": {
        "level": 8, "mode_spec": "auto", "delta_spec": "auto", "paging_spec": "equal_pages_up_to",
        "equal_pages_up_to": 1 << 18,
    }});
    let chain = chain(&[], &[pcodec]);
    let values: Vec<f32> = (0_u16..1000).map(f32::from).collect();
    let encoded = encoded(&chain, &values);
    let raw = decoder_of(&chain, &[1000]).unwrap().decode(&encoded).map(Cow::into_owned).map_err(|e| e.to_string());
    assert_eq!(raw.unwrap(), bytemuck::cast_slice::<f32, u8>(&values));
    for len in [1, 256, 999, 1001, 2000] {
        assert!(decoder_of(&chain, &[len]).unwrap().decode(&encoded).is_err(), "{len}");
    }
}

#[test]
fn streams_that_go_on_are_left_early() {
    let zeros = vec![0; 16 << 20];
    let gzip = {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        to.write_all(&zeros).unwrap();
        to.finish().unwrap()
    };
    let zlib = {
        let mut to = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        to.write_all(&zeros).unwrap();
        to.finish().unwrap()
    };
    let bz2 = {
        let mut to = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        to.write_all(&zeros).unwrap();
        to.finish().unwrap()
    };
    for (codec, stream) in [(GZIP, &gzip), (ZLIB, &zlib), (BZ2, &bz2)] {
        let decoder = decoder_of(&chain(&[codec], &[bytes()]), &[10]).unwrap();
        assert!(error(&decoder, stream).contains("a stream goes on, where at most 40 bytes belong"));
        assert_eq!(read(&stream[..], 5).unwrap_err().to_string(), "a stream goes on");
    }
    // As the inner of two: bounded by what the outer could be of.
    let decoder = decoder_of(&chain(&[ZSTD, GZIP], &[bytes()]), &[10]).unwrap();
    assert!(error(&decoder, &gzip).contains("a stream goes on"));
}

#[test]
fn lengths_that_are_claimed_are_not_believed() {
    // A frame of zstd: its magic, one segment with a length of 8 bytes, 2^36, and a last raw block of one byte.
    let mut zstd = vec![0x28, 0xB5, 0x2F, 0xFD, 0xE0];
    zstd.extend((1_u64 << 36).to_le_bytes());
    zstd.extend([9, 0, 0, 7]);
    let of = |codec| decoder_of(&chain(&[codec], &[bytes()]), &[10]).unwrap();
    assert!(error(&of(ZSTD), &zstd).contains("where at most 40 bytes belong"));
    let mut blosc = encoded(&chain(&[BLOSC], &[bytes()]), &[1.0; 10]);
    blosc[4..8].copy_from_slice(&0x7FFF_0000_u32.to_le_bytes());
    assert!(error(&of(BLOSC), &blosc).contains("blosc"));
    // Whatever else the first bytes of a frame say.
    for at in 0..16 {
        for byte in [0, 1, 0x7F, 0xFF] {
            let mut changed = encoded(&chain(&[BLOSC], &[bytes()]), &[1.0; 10]);
            changed[at] = byte;
            if let Ok(raw) = of(BLOSC).decode(&changed) {
                assert_eq!(raw.len(), 40);
            }
        }
    }
}

#[test]
fn chunks_that_cannot_be_are_refused() {
    let plain = chain(&[], &[bytes()]);
    for of in [&[1 << 62, 4][..], &[u64::MAX, u64::MAX], &[1 << 32, 1 << 32], &[1 << 46]] {
        for chain in [&plain, &chain(&[ZSTD], &[bytes()])] {
            assert!(decoder_of(chain, of).err().unwrap().contains("its metadata claim chunks of shape"), "{of:?}");
        }
    }
    // Stored as they are, chunks may be as long as a file; encoded, as a frame of blosc.
    assert_eq!(decoder_of(&plain, &[1 << 30]).unwrap().chunk_bytes(), 1 << 32);
    assert!(decoder_of(&chain(&[ZSTD], &[bytes()]), &[1 << 29]).is_err());
    assert!(decoder_of(&chain(&[ZSTD], &[bytes()]), &[(1 << 29) - 1]).is_ok());
}

#[test]
fn codecs_without_a_bound_are_refused() {
    let sharding = json!({"name": "sharding_indexed", "configuration": {
        "chunk_shape": [2], "codecs": [bytes()], "index_codecs": [bytes()], "index_location": "end",
    }});
    let reshape = json!({"name": "reshape", "configuration": {"shape": [1_u64 << 62, 1_u64 << 62]}});
    let shuffle = json!({"name": "numcodecs.shuffle", "configuration": {"elementsize": 0}});
    for codecs in [&[sharding][..], &[reshape, bytes()], &[bytes(), shuffle]] {
        let metadata = serde_json::from_value::<Vec<_>>(json!(codecs)).unwrap();
        let chain = Arc::new(CodecChain::from_metadata(&metadata).unwrap());
        assert!(decoder_of(&chain, &[4]).err().unwrap().contains("is not read"), "{codecs:?}");
    }
}
