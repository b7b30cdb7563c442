//! Stores for tests: datasets as sfaira wrote them, with names of genes and without numbers.

use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::store::Store;

/// The cells of each part.
pub const N_OBS: u64 = 9;

/// Writes a part with genes of these names. Its var has the columns `symbol`, the names in capitals, `mito`, whether
/// a name begins with `MT-`, and `day`, a date that is the gene's number.
pub fn write_part(folder: &Path, part: &str, names: &[Option<&str>]) {
    let folder = folder.join(part);
    std::fs::create_dir_all(folder.join("zarr/X")).unwrap();
    std::fs::create_dir_all(folder.join("parquet")).unwrap();
    let array = serde_json::json!({"shape": [N_OBS, names.len()], "dtype": "<u2"});
    std::fs::write(folder.join("zarr/X/.zarray"), array.to_string()).unwrap();
    let schema = "message var { OPTIONAL BYTE_ARRAY __index_level_0__ (UTF8); OPTIONAL BYTE_ARRAY symbol (UTF8);
        REQUIRED BOOLEAN mito; REQUIRED INT32 day (DATE); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let gzip = WriterProperties::builder().set_compression(Compression::GZIP(Default::default())).build();
    let file = std::fs::File::create(folder.join("parquet/var.parquet")).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(gzip)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let levels: Vec<i16> = names.iter().map(|name| i16::from(name.is_some())).collect();
    for capitals in [false, true] {
        let text = |name: &&str| if capitals { name.to_uppercase() } else { (*name).to_owned() };
        let values: Vec<ByteArray> = names.iter().flatten().map(|name| ByteArray::from(&*text(name))).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
    }
    let mito: Vec<bool> = names.iter().map(|name| name.is_some_and(|name| name.starts_with("MT-"))).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<BoolType>().write_batch(&mito, None, None).unwrap();
    column.close().unwrap();
    let days: Vec<i32> = (0..).take(names.len()).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int32Type>().write_batch(&days, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

/// Opens the store in a folder.
pub fn open(folder: &Path) -> Store {
    Store::open(folder.to_str().unwrap(), &Vec::new(), None).unwrap()
}
