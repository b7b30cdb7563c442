//! Small matrices whose zarr metadata are others than they were written with: what zarrs reads of the same files, or an
//! error.
//!
//! An input is the matrix, which of its metadata, and how they change: other values at some places of the JSON, or
//! another text.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use dao_polars::error::ErrorKind;
use dao_polars::matrix::Matrix;
use dao_polars::number::Dtype;
use dao_polars::storage::{Storage, ZarrStorage};
use serde_json::{Value, json};
use zarrs::array::{Array, ArrayBytes, ArrayMetadata, ArraySubset, ChunkShapeTraits, IntoArrayBytes};
use zarrs::storage::store::MemoryStore;
use zarrs::storage::{ListableStorageTraits, ReadableStorageTraits};

use crate::store::{Files, Memory};

const ROWS: usize = 6;
const COLUMNS: usize = 5;
/// The most bytes of a chunk, and the most columns, that zarrs is trusted with.
const TRUSTED: u64 = 1 << 22;
const MOST_COLUMNS: u64 = 1 << 12;
/// An input whose second byte is not below it has a text.
const TEXT: u8 = 128;

/// A matrix as it was written.
struct Case {
    files: Files,
    /// The files of metadata.
    metadata: Vec<String>,
    is_csr: bool,
}

/// Values that metadata may have anywhere.
const VALUES: &str = r#"[
    null, true, false, 0, 1, -1, 2, 3, 4, 5, 7, 64, 512, 1024, 65536, 16777216, 2147483647, 2147483648, 4294967295,
    4294967296, 1099511627776, 140737488355328, 4611686018427387904, 9223372036854775807, 9223372036854775808,
    18446744073709551615, 0.5, -1.5, 1e300, "", "NaN", "-Infinity", "0x7fc00000", "float32", "float64", "uint8", "int16",
    "int32", "uint32", "int64", "uint64", "bool", "float16", "complex64", "string", "r16", "<f4", ">f4", "<f8", "|u1",
    "<i2", ">i8", "|b1", "<U9", "C", "F", "start", "end", "little", "big", "/", ".", "v2", "default", "regular",
    "rectangular", "array", "group", "csr_matrix", "lz4", "bitshuffle", [], {}, [0], [1], [1, 0], [0, 0], [5, 6], [4, 3],
    [1, 1], [2, 2], [6, 5], [64, 64], [2147483647, 1], [18446744073709551615, 18446744073709551615],
    [4294967296, 4294967296], [[0, 1]],
    {"id": "zstd", "level": 1}, {"id": "zlib", "level": 1}, {"id": "gzip", "level": 1},
    {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}, {"id": "shuffle", "elementsize": 4},
    {"id": "delta", "dtype": "<f4"}, {"id": "fixedscaleoffset", "offset": 1, "scale": 2, "dtype": "<f4"},
    {"name": "bytes"}, {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"},
    [{"name": "bytes", "configuration": {"endian": "little"}}],
    [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    [{"name": "bytes", "configuration": {"endian": "little"}},
     {"name": "zstd", "configuration": {"level": 1, "checksum": false}}],
    {"name": "zstd", "configuration": {"level": 1, "checksum": false}}, {"name": "gzip", "configuration": {"level": 1}},
    {"name": "numcodecs.shuffle", "configuration": {"elementsize": 0}},
    {"name": "transpose", "configuration": {"order": [1, 0]}}, {"name": "transpose", "configuration": {"order": [0]}},
    {"name": "reshape", "configuration": {"shape": [4611686018427387904, 4611686018427387904]}}, {"name": "squeeze"},
    {"name": "packbits"}, {"name": "vlen-utf8"}, {"name": "bitround", "configuration": {"keepbits": 60}},
    {"name": "numcodecs.fixedscaleoffset",
     "configuration": {"offset": 0, "scale": 0, "dtype": "<f4", "astype": "|u1"}},
    {"name": "dao_polars.pfor", "configuration": {"delta": true}},
    {"name": "dao_polars.pfor", "configuration": {"delta": false}},
    [{"name": "dao_polars.pfor", "configuration": {"delta": false}}],
    [{"name": "sharding_indexed", "configuration": {"chunk_shape": [2, 1],
      "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
      "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]}}],
    {"name": "rectangular", "configuration": {"chunk_shape": [[2, 4], 3]}},
    {"name": "regular", "configuration": {"chunk_shape": [3, 2]}},
    {"dao_polars.shard_tag": "0123456789abcdef"}, {"encoding-type": "csr_matrix", "shape": [6, 5]}
]"#;

fn values() -> &'static [Value] {
    static PARSED: OnceLock<Vec<Value>> = OnceLock::new();
    PARSED.get_or_init(|| serde_json::from_str(VALUES).unwrap())
}

fn cases() -> &'static [Case] {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    CASES.get_or_init(|| {
        let little = json!({"name": "bytes", "configuration": {"endian": "little"}});
        let codec = |name: &str, configuration: Value| json!({"name": name, "configuration": configuration});
        let level = |name: &str| codec(name, json!({"level": 1}));
        let v2 = |more: Value| {
            let mut all = json!({"zarr_format": 2, "shape": [ROWS, COLUMNS], "chunks": [4, 3], "dtype": "<f4",
                                 "fill_value": 0.0, "compressor": null, "filters": null, "order": "C"});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        let v3 = |shape: Value, dtype: &str, chunk: Value, codecs: Value| {
            json!({"zarr_format": 3, "node_type": "array", "shape": shape, "data_type": dtype, "fill_value": 0,
                   "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
                   "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}, "codecs": codecs})
        };
        let sharded = |chunk: Value, codecs: Value, location: &str| {
            json!([codec(
                "sharding_indexed",
                json!({"chunk_shape": chunk, "codecs": codecs,
                "index_codecs": [little, {"name": "crc32c"}], "index_location": location})
            )])
        };
        let blosc = json!({"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0});
        let shape = json!([ROWS, COLUMNS]);
        let pcodec = codec(
            "numcodecs.pcodec",
            json!({"level": 8, "mode_spec": "auto", "delta_spec": "auto", "paging_spec": "equal_pages_up_to",
                   "equal_pages_up_to": 1 << 18}),
        );
        let transposed =
            json!([codec("transpose", json!({"order": [1, 0]})), little, level("gzip"), {"name": "crc32c"}]);
        let dense: Vec<f32> =
            (0..ROWS * COLUMNS).map(|i| if i % 3 == 1 { 0.0 } else { (i * i) as f32 / 2.0 }).collect();
        let mut cases: Vec<Case> = [
            v2(json!({"compressor": blosc})),
            v2(json!({"dimension_separator": "/", "order": "F", "dtype": ">f4"})),
            v2(json!({"compressor": {"id": "zlib", "level": 1}, "filters": [{"id": "shuffle", "elementsize": 4}]})),
            v3(shape.clone(), "float32", json!([4, 3]), json!([little])),
            v3(shape.clone(), "float32", json!([6, 5]), transposed),
            v3(shape.clone(), "float32", json!([4, 4]), sharded(json!([2, 2]), json!([little, level("zstd")]), "end")),
            v3(shape, "float32", json!([5, 2]), json!([pcodec])),
        ]
        .iter_mut()
        .map(|metadata| {
            if let Some(level) = metadata.pointer_mut("/codecs/0/configuration/codecs/1/configuration") {
                level["checksum"] = json!(true);
            }
            let mut files = Files::new();
            write_array(&mut files, "X", metadata, dense.clone());
            case(files, false)
        })
        .collect();

        let indptr = vec![0_u64, 2, 2, 5, 5, 6, 9];
        let indices = vec![0_i32, 4, 0, 1, 3, 2, 1, 2, 4];
        let data: Vec<u16> = (1..10).map(|i| i * 300).collect();
        for (codecs, delta, shard, inner, location) in [
            ("dao_polars.pfor", json!({"delta": true}), 1024, 512, "end"),
            ("bytes", json!({"endian": "little"}), 8, 4, "start"),
        ] {
            let array = |n: usize, dtype: &str| {
                let codecs = sharded(json!([inner]), json!([codec(codecs, delta.clone())]), location);
                v3(json!([n]), dtype, json!([shard]), codecs)
            };
            let mut files = Files::new();
            write_array(&mut files, "X/indptr", &array(indptr.len(), "uint64"), indptr.clone());
            write_array(&mut files, "X/indices", &array(indices.len(), "int32"), indices.clone());
            write_array(&mut files, "X/data", &array(data.len(), "uint16"), data.clone());
            let group = json!({"zarr_format": 3, "node_type": "group",
                               "attributes": {"encoding-type": "csr_matrix", "shape": [ROWS, COLUMNS]}});
            files.insert("X/zarr.json".into(), group.to_string().into());
            cases.push(case(files, true));
        }
        cases
    })
}

fn case(files: Files, is_csr: bool) -> Case {
    let is_metadata = |path: &&String| [".zarray", ".zattrs", "zarr.json"].iter().any(|name| path.ends_with(name));
    let metadata = files.keys().filter(is_metadata).cloned().collect();
    Case { files, metadata, is_csr }
}

/// Writes an array, as zarrs does.
fn write_array<'a>(files: &mut Files, path: &str, metadata: &Value, values: impl IntoArrayBytes<'a>) {
    let store = Arc::new(MemoryStore::new());
    let parsed: ArrayMetadata = serde_json::from_value(metadata.clone()).unwrap();
    let array = Array::new_with_metadata(store.clone(), &format!("/{path}"), parsed).unwrap();
    array.store_array_subset(&array.subset_all(), values).unwrap();
    for key in store.list().unwrap() {
        files.insert(key.to_string(), store.get(&key).unwrap().unwrap());
    }
    let name = if metadata["zarr_format"] == 2 { ".zarray" } else { "zarr.json" };
    files.insert(format!("{path}/{name}"), metadata.to_string().into());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (number, case) in cases().iter().enumerate() {
        for (file, path) in case.metadata.iter().enumerate() {
            seeds.push(vec![number as u8, file as u8, 0]);
            for edits in 1..4_u8 {
                let at = (0..2 * edits).map(|i| i.wrapping_mul(83).wrapping_add(file as u8 * 5));
                seeds.push([number as u8, file as u8, 0].into_iter().chain(at).collect());
            }
            let text = &case.files[path];
            seeds.push([&[number as u8, TEXT + file as u8, 0][..], text].concat());
        }
    }
    seeds
}

pub fn check(input: &[u8]) -> Result<(), String> {
    let Some((&[number, file, how], rest)) = input.split_first_chunk::<3>() else { return Ok(()) };
    let case = &cases()[usize::from(number) % cases().len()];
    let path = &case.metadata[usize::from(file % TEXT) % case.metadata.len()];
    let text = if file >= TEXT {
        rest.to_vec()
    } else {
        let mut metadata: Value = serde_json::from_slice(&case.files[path]).unwrap();
        rest.chunks_exact(2).for_each(|edit| change(&mut metadata, edit[0], edit[1]));
        metadata.to_string().into_bytes()
    };
    // Nothing was changed: all must be read.
    let is_whole = file < TEXT && rest.len() < 2 && how < 224;
    let mut files = case.files.clone();
    files.insert(path.clone(), Bytes::from(text));
    // The shape that the part says: of sfaira's stores it is that in the metadata.
    let mut shape = [ROWS as u64, COLUMNS as u64];
    if !case.is_csr
        && let Some(metadata) = files.get("X/.zarray").or(files.get("X/zarr.json"))
        && let Ok(found) = serde_json::from_slice::<Value>(metadata)
        && let Ok(found) = serde_json::from_value(found["shape"].clone())
    {
        shape = found;
    }
    if how >= 224 {
        let large = [0, 1, 7, 1 << 24, 1 << 31, 1 << 32, 1 << 62, u64::MAX];
        shape[usize::from(how % 2)] = large[usize::from(how / 2) % large.len()];
        if case.is_csr && !path.ends_with("X/zarr.json") {
            // The group says nothing of the shape, which it need not.
            let group = json!({"node_type": "group", "attributes": {"encoding-type": "csr_matrix"}});
            files.insert("X/zarr.json".into(), group.to_string().into());
        }
    }
    let storage: Arc<dyn Storage> = Arc::new(Memory { files, is_local: how % 2 == 0 });
    let matrix = match Matrix::open(&storage, "X", shape) {
        Ok(matrix) => matrix,
        Err(e) if e.kind() == ErrorKind::Internal => return Err(e.to_string()),
        Err(e) if is_whole => return Err(format!("a whole matrix is not opened: {e}")),
        Err(_) => return Ok(()),
    };
    let last = matrix.shape()[0].min(u64::from(u32::MAX)) as u32;
    let first: Vec<u32> = (0..last.min(8)).collect();
    let some: Vec<u32> = [1, 4, last.saturating_sub(1)].into_iter().filter(|&row| row < last).collect();
    let mut some = some;
    some.sort_unstable();
    some.dedup();
    let (read, part) = (matrix.rows::<f64>(&first), matrix.rows::<f64>(&some));
    for error in [read.as_ref().err(), part.as_ref().err()].into_iter().flatten() {
        if error.kind() == ErrorKind::Internal || is_whole {
            return Err(error.to_string());
        }
    }
    let row = |rows: &dao_polars::matrix::Rows<f64>, i: usize| -> Vec<(i32, u64)> {
        let range = rows.indptr[i]..rows.indptr[i + 1];
        rows.indices[range.clone()].iter().copied().zip(rows.data[range].iter().map(|value| value.to_bits())).collect()
    };
    let Ok(read) = read else { return Ok(()) };
    if let Ok(part) = &part {
        for (i, &wanted) in some.iter().enumerate().filter(|(_, row)| **row < first.len() as u32) {
            if row(part, i) != row(&read, wanted as usize) {
                return Err(format!("row {wanted} alone is another than among its neighbours"));
            }
        }
    }
    // zarrs is no less a reader of files than we are: it may panic, or refuse.
    let theirs = || if case.is_csr { sparse(&storage, first.len()) } else { dense(&storage, first.len()) };
    let Ok(Some(expected)) = catch_unwind(AssertUnwindSafe(theirs)) else { return Ok(()) };
    for (i, expected) in expected.iter().enumerate() {
        let found = row(&read, i);
        if found != *expected {
            return Err(format!("row {i} is {found:x?}, and zarrs reads {expected:x?}"));
        }
    }
    Ok(())
}

/// Puts the value number `what` at the place number `at` of `metadata`; the last numbers take the place out.
fn change(metadata: &mut Value, at: u8, what: u8) {
    let mut places = Vec::new();
    collect(metadata, String::new(), &mut places);
    let place = &places[usize::from(at) % places.len()];
    let what = usize::from(what) % (values().len() + 2);
    if let Some(value) = values().get(what) {
        *metadata.pointer_mut(place).unwrap() = value.clone();
        return;
    }
    let (parent, key) = place.rsplit_once('/').unwrap_or_default();
    match metadata.pointer_mut(parent) {
        Some(Value::Object(fields)) => drop(fields.remove(&key.replace("~1", "/").replace("~0", "~"))),
        Some(Value::Array(values)) if what.is_multiple_of(2) => drop(values.pop()),
        Some(Value::Array(values)) => values.push(values[0].clone()),
        _ => {}
    }
}

/// The JSON pointers of all values in `value`.
fn collect(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                collect(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), places);
            }
        }
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(i, value)| collect(value, format!("{at}/{i}"), places));
        }
        _ => {}
    }
    places.push(at);
}

/// The columns and values of a row, zeros left out.
type Row = Vec<(i32, u64)>;

/// The first `n_rows` rows of the dense matrix, by zarrs; `None` where it does not read them, or may not.
fn dense(storage: &Arc<dyn Storage>, n_rows: usize) -> Option<Vec<Row>> {
    let array = Array::open(Arc::new(ZarrStorage(storage.clone())), "/X").ok()?;
    let n_columns = *array.shape().get(1).filter(|&&n| n <= MOST_COLUMNS)?;
    let read = read(&array, &[n_rows as u64, n_columns])?;
    let row = |values: &[f64]| {
        let columns = (0..).zip(values).filter(|(_, value)| **value != 0.0);
        columns.map(|(column, value)| (column, value.to_bits())).collect()
    };
    if n_columns == 0 {
        Some(vec![Row::new(); n_rows])
    } else {
        Some(read.chunks(n_columns as usize).map(row).collect())
    }
}

/// As [`dense`], of the sparse matrix.
fn sparse(storage: &Arc<dyn Storage>, n_rows: usize) -> Option<Vec<Row>> {
    let whole = |name: &str| {
        let array = Array::open(Arc::new(ZarrStorage(storage.clone())), &format!("/X/{name}")).ok()?;
        let n = *array.shape().first().filter(|&&n| n <= MOST_COLUMNS)?;
        read(&array, &[n])
    };
    let (indptr, indices, data) = (whole("indptr")?, whole("indices")?, whole("data")?);
    let rows = indptr.windows(2).take(n_rows).map(|ends| {
        let range = ends[0] as usize..ends[1] as usize;
        let row = indices.get(range.clone())?.iter().zip(data.get(range)?);
        Some(row.map(|(column, value)| (*column as i32, value.to_bits())).collect())
    });
    rows.collect()
}

/// The values of `array` from its first on, `shape` of them along each axis.
fn read(array: &Array<ZarrStorage>, shape: &[u64]) -> Option<Vec<f64>> {
    let dtype = Dtype::from_name(&array.data_type().to_string()).ok()?;
    let chunk = array.chunk_shape(&vec![0; shape.len()]).ok()?;
    let len = chunk.iter().try_fold(8_u64, |len, axis| len.checked_mul(axis.get()))?;
    if len > TRUSTED || chunk.num_elements_u64() == 0 {
        return None;
    }
    let bytes: ArrayBytes = array.retrieve_array_subset(&ArraySubset::new_with_shape(shape.to_vec())).ok()?;
    let raw = bytes.into_fixed().ok()?;
    macro_rules! numbers {
        ($($name:ident $type:ty),*) => {
            match dtype {
                $(Dtype::$name => bytemuck::pod_collect_to_vec::<u8, $type>(&raw).iter().map(|&n| n as f64).collect(),)*
            }
        };
    }
    Some(numbers!(U8 u8, U16 u16, U32 u32, U64 u64, I8 i8, I16 i16, I32 i32, I64 i64, F32 f32, F64 f64))
}
