//! Matrices for tests, encoded by zarrs: small enough to damage byte by byte.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use zarrs::array::{Array, ArrayBytes, ArrayMetadata, ArrayToBytesCodecTraits, CodecOptions};

use crate::number::Num;
use crate::storage::{Local, Storage, ZarrStorage};

/// Codecs of arrays in `dao_polars.pfor`.
pub fn pfor(delta: bool) -> Value {
    json!([{"name": "dao_polars.pfor", "configuration": {"delta": delta}}])
}

/// Codecs that any zarr reader knows.
pub fn portable() -> Value {
    json!([{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}])
}

/// The folder as a storage.
pub fn storage(folder: &Path) -> Arc<dyn Storage> {
    Arc::new(Local::new(folder).unwrap())
}

/// Metadata of a one-dimensional array in shards of `shard` values and inner chunks of `inner`.
pub fn sharded<S: Num>(len: usize, shard: usize, inner: usize, codecs: &Value, index_location: &str) -> Value {
    let little = json!({"name": "bytes", "configuration": {"endian": "little"}});
    json!({
        "zarr_format": 3, "node_type": "array", "shape": [len], "data_type": S::DTYPE.name(), "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "sharding_indexed", "configuration": {
            "chunk_shape": [inner], "codecs": codecs, "index_codecs": [little, {"name": "crc32c"}],
            "index_location": index_location,
        }}],
    })
}

/// Writes a one-dimensional array to `folder`.
pub fn write_array<S: Num>(folder: &Path, values: &[S], metadata: &Value) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("zarr.json"), metadata.to_string()).unwrap();
    let parsed: ArrayMetadata = serde_json::from_value(metadata.clone()).unwrap();
    let array = Array::new_with_metadata(Arc::new(ZarrStorage(storage(folder))), "/", parsed).unwrap();
    let shape = array.chunk_shape(&[0]).unwrap();
    let len = usize::try_from(shape[0].get()).unwrap();
    for (i, part) in (0..).zip(values.chunks(len)) {
        let mut part = part.to_vec();
        part.resize(len, S::zero());
        let bytes = ArrayBytes::new_flen(bytemuck::cast_slice::<S, u8>(&part));
        let (dtype, fill) = (array.data_type(), array.fill_value());
        let encoded = array.codecs().encode(bytes, &shape, dtype, fill, &CodecOptions::default()).unwrap();
        let path = folder.join(array.chunk_key(&[i]).as_str());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &encoded).unwrap();
    }
}

/// Rows as columns and values.
pub type SparseRows = Vec<Vec<(i32, u16)>>;

/// Writes `rows` to `folder` as anndata's `encoding`, in `dao_polars.pfor` or portable; whatever they are.
pub fn write_sparse(folder: &Path, encoding: &str, shape: [u64; 2], rows: &SparseRows, packed: bool) {
    let mut indptr = vec![0_u64];
    for row in rows {
        indptr.push(indptr.last().unwrap() + row.len() as u64);
    }
    let (indices, data): (Vec<i32>, Vec<u16>) = rows.iter().flatten().copied().unzip();
    write_parts(folder, encoding, shape, &indptr, &indices, &data, packed);
}

/// Writes the three arrays of a sparse matrix as they are.
pub fn write_parts(
    folder: &Path,
    encoding: &str,
    shape: [u64; 2],
    indptr: &[u64],
    indices: &[i32],
    data: &[u16],
    packed: bool,
) {
    std::fs::create_dir_all(folder).unwrap();
    let group = json!({
        "zarr_format": 3, "node_type": "group", "attributes": {"encoding-type": encoding, "shape": shape},
    });
    std::fs::write(folder.join("zarr.json"), group.to_string()).unwrap();
    let codecs = |delta: bool| if packed { pfor(delta) } else { portable() };
    let (shard, inner) = if packed { (2048, 1024) } else { (64, 16) };
    write_array(&folder.join("indptr"), indptr, &sharded::<u64>(indptr.len(), shard, inner, &codecs(true), "end"));
    write_array(&folder.join("indices"), indices, &sharded::<i32>(indices.len(), shard, inner, &codecs(true), "end"));
    write_array(&folder.join("data"), data, &sharded::<u16>(data.len(), shard, inner, &codecs(false), "end"));
}

/// A shard of an array.
pub fn shard(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("c/{number}"))
}

/// Changes a file.
pub fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Holds an error's kind and that it says `what` of a path below `folder`, and what to do.
pub fn assert_says(error: &crate::error::DaoError, kind: crate::error::ErrorKind, folder: &Path, what: &str) {
    let text = error.to_string();
    let root = folder.canonicalize().unwrap();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(&format!("path '{}/", root.display())) && text.contains(what), "{text} ({what})");
}
