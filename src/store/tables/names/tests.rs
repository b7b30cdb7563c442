use std::sync::Arc;

use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;

use super::*;
use crate::error::ErrorKind;

/// A parquet file of the fields `schema`, with the note `pandas`: a row group for each of `groups`, which has the
/// values of each column as text, "" for null.
fn file(schema: &str, pandas: Option<Value>, groups: &[&[&[&str]]]) -> Bytes {
    fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> Vec<T> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }
    let schema = Arc::new(parse_message_type(&format!("message schema {{ {schema} }}")).unwrap());
    let note = pandas.map(|note| vec![KeyValue::new("pandas".to_owned(), note.to_string())]);
    let properties = WriterProperties::builder().set_key_value_metadata(note).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for columns in groups {
        let mut group = writer.next_row_group().unwrap();
        for texts in *columns {
            let mut column = group.next_column().unwrap().unwrap();
            let levels: Vec<i16> = texts.iter().map(|text| i16::from(!text.is_empty())).collect();
            let levels = Some(levels.as_slice());
            let texts: Vec<&str> = texts.iter().copied().filter(|text| !text.is_empty()).collect();
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(column) => {
                    let texts: Vec<ByteArray> = texts.into_iter().map(ByteArray::from).collect();
                    column.write_batch(&texts, levels, None)
                }
                ColumnWriter::BoolColumnWriter(column) => column.write_batch(&parsed(&texts), levels, None),
                ColumnWriter::Int32ColumnWriter(column) => column.write_batch(&parsed(&texts), levels, None),
                ColumnWriter::Int64ColumnWriter(column) => column.write_batch(&parsed(&texts), levels, None),
                ColumnWriter::DoubleColumnWriter(column) => column.write_batch(&parsed(&texts), levels, None),
                _ => panic!("a type that no test writes"),
            }
            .unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap().into()
}

fn names(table: &VarTable, column: &str) -> Vec<Option<String>> {
    match table.column(column).unwrap() {
        Some(VarColumn::Names(names)) => names,
        other => panic!("{other:?}"),
    }
}

fn texts(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| (!text.is_empty()).then(|| (*text).to_owned())).collect()
}

#[test]
fn columns_come_as_text_or_as_marks_from_all_row_groups() {
    let schema = "required binary var_name (UTF8); optional binary symbol (UTF8); optional boolean kept;
        required int32 start; required int32 id (UINT_32); optional int64 length; required double mean;
        required int32 day (DATE);";
    let first: &[&[&str]] = &[
        &["a", "b"],
        &["A", ""],
        &["true", ""],
        &["-1", "2"],
        &["-1", "2"],
        &["", "7"],
        &["0.5", "1"],
        &["0", "20000"],
    ];
    let second: &[&[&str]] = &[&["c"], &[""], &["false"], &["3"], &["3"], &["9"], &["1e300"], &["-1"]];
    let table = VarTable::open(file(schema, None, &[first, second]), false, "var.parquet").unwrap();
    assert_eq!(table.n_rows(), 3);
    assert_eq!(table.names(), ["var_name", "symbol", "kept", "start", "id", "length", "mean", "day"]);
    assert_eq!(names(&table, INDEX), texts(&["a", "b", "c"]));
    assert_eq!(names(&table, "symbol"), texts(&["A", "", ""]));
    assert_eq!(table.column("kept").unwrap(), Some(VarColumn::Marks(vec![Some(true), None, Some(false)])));
    assert_eq!(names(&table, "start"), texts(&["-1", "2", "3"]));
    assert_eq!(names(&table, "id"), texts(&["4294967295", "2", "3"]));
    assert_eq!(names(&table, "length"), texts(&["", "7", "9"]));
    assert_eq!(names(&table, "mean"), texts(&["0.5", "1.0", "1e300"]));
    assert_eq!(names(&table, "day"), texts(&["1970-01-01", "2024-10-04", "1969-12-31"]));
    assert_eq!(table.column("none").unwrap(), None);
}

#[test]
fn columns_of_other_types_are_listed_and_cannot_be_asked_for() {
    let schema = "required binary var_name (UTF8); required int32 at (TIME_MILLIS); required binary raw;
        optional group tags (LIST) { repeated group list { optional binary element (UTF8); } }";
    let table = VarTable::open(file(schema, None, &[]), false, "var.parquet").unwrap();
    assert_eq!(table.names(), ["var_name", "at", "raw", "tags"]);
    for (column, what) in [("at", "INT32"), ("raw", "BYTE_ARRAY"), ("tags", "lists or structs")] {
        let error = table.column(column).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().contains("'var.parquet'") && error.to_string().contains(what), "{error}");
    }
}

#[test]
fn the_index_is_where_pandas_put_it() {
    let two = "required binary symbol (UTF8); required binary ensembl (UTF8);";
    let range = json!({"kind": "range", "start": 5, "stop": 1, "step": -2});
    let cases = [
        (two, json!({"index_columns": ["ensembl"]}), vec![INDEX, "symbol"], ["E1", "E2"]),
        (two, json!({"index_columns": [range]}), vec![INDEX, "symbol", "ensembl"], ["5", "3"]),
        (two, json!({"index_columns": []}), vec![INDEX, "symbol", "ensembl"], ["0", "1"]),
        (two, json!("no note of pandas"), vec![INDEX, "symbol", "ensembl"], ["0", "1"]),
        (two, json!({"index_columns": ["gone", "symbol"]}), vec![INDEX, "ensembl"], ["a", "b"]),
    ];
    for (schema, note, expected, index) in cases {
        let file = file(schema, Some(note.clone()), &[&[&["a", "b"], &["E1", "E2"]]]);
        let table = VarTable::open(file, true, "var.parquet").unwrap();
        assert_eq!((table.names(), table.n_rows()), (expected, 2), "{note}");
        assert_eq!(names(&table, INDEX), texts(&index), "{note}");
    }
    // Without columns parquet keeps no rows.
    let table = VarTable::open(file("", Some(json!({"index_columns": [range]})), &[]), true, "var.parquet").unwrap();
    assert_eq!((table.n_rows(), names(&table, INDEX)), (2, texts(&["5", "3"])));
}

#[test]
fn levels_of_an_index_get_names_that_are_free() {
    let schema = "required binary level_1 (UTF8); required binary __index_level_0__ (UTF8);
        required binary __index_level_1__ (UTF8); required binary batch (UTF8); required binary var_name (UTF8);";
    let rows: &[&[&str]] = &[&["own"], &["first"], &["second"], &["third"], &["other"]];
    let levels = json!({"index_columns": ["__index_level_0__", "__index_level_1__", "batch"]});
    let shown = |file| {
        let table = VarTable::open(file, true, "var.parquet").unwrap();
        let named: Vec<(String, Option<String>)> =
            table.names().into_iter().map(|name| (name.to_owned(), names(&table, name)[0].clone())).collect();
        named.into_iter().map(|(name, value)| format!("{name}={}", value.unwrap())).collect::<Vec<_>>()
    };
    let expected = ["var_name=first", "level_1=own", "obs_level_1=second", "batch=third", "obs_var_name=other"];
    assert_eq!(shown(file(schema, Some(levels), &[rows])), expected);
    // Without a note, what pandas calls so is the index.
    assert_eq!(shown(file(schema, None, &[rows])), expected);
}

#[test]
fn more_rows_than_a_file_can_name_are_an_error() {
    let range = |stop: i64| json!({"index_columns": [{"kind": "range", "start": 0, "stop": stop, "step": 1}]});
    let open = |stop| VarTable::open(file("", Some(range(stop)), &[]), true, "var.parquet");
    assert_eq!(open(70_000).unwrap().n_rows(), 70_000);
    for stop in [5_000_000, 1 << 40, i64::MAX] {
        let error = open(stop).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("more rows than its bytes can name"), "{error}");
    }
}

#[test]
fn groups_of_rows_add_up() {
    let column: &[&[&str]] = &[&["a"]];
    let whole = file("required binary var_name (UTF8);", None, &[column, column]);
    // Wherever a footer says 1, it says 3 or less than none; among these are the rows of the two groups.
    let ones: Vec<usize> = (4..whole.len()).filter(|&at| whole[at - 1..=at] == [0x16, 2]).collect();
    assert!(ones.len() > 2);
    for three in &ones {
        for less in ones.iter().filter(|at| *at != three) {
            let mut bytes = whole.to_vec();
            (bytes[*three], bytes[*less]) = (6, 1);
            let Ok(table) = VarTable::open(bytes.into(), false, "var.parquet") else { continue };
            let Ok(Some(VarColumn::Names(names))) = table.column(INDEX) else { continue };
            assert_eq!(names.len(), table.n_rows());
        }
    }
}

#[test]
fn one_long_text_is_not_copied_for_every_row() {
    let long = "n".repeat(1000);
    let texts = vec![long.as_str(); 100_000];
    let bytes = file("required binary var_name (UTF8);", None, &[&[&texts]]);
    assert!(bytes.len() < 10_000);
    let error = VarTable::open(bytes, false, "var.parquet").unwrap().column(INDEX).unwrap_err();
    assert!(error.to_string().contains("far larger than its file"), "{error}");
    let texts = vec![long.as_str(); 60_000];
    let bytes = file("required binary var_name (UTF8);", None, &[&[&texts]]);
    assert_eq!(names(&VarTable::open(bytes, false, "var.parquet").unwrap(), INDEX).len(), 60_000);
}

#[test]
fn rows_are_decoded_in_steps_as_at_once() {
    let texts: Vec<String> =
        (0..3 * STEP + 7).map(|i| if i % 5 == 2 { String::new() } else { format!("{i}") }).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let schema = "optional binary var_name (UTF8); optional int32 at;";
    let table = VarTable::open(file(schema, None, &[&[&texts, &texts]]), false, "var.parquet").unwrap();
    let expected: Vec<Option<String>> =
        texts.iter().map(|text| (!text.is_empty()).then(|| (*text).to_owned())).collect();
    assert!(names(&table, INDEX) == expected && names(&table, "at") == expected);
}

#[test]
fn damage_is_an_error_that_names_the_file() {
    let whole = file("required binary var_name (UTF8);", None, &[&[&["a", "b", "c"]]]);
    for length in 0..whole.len() {
        let error = VarTable::open(whole.slice(..length), false, "var.parquet").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("'var.parquet'"), "{error}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x55;
        let column = VarTable::open(bytes.into(), false, "var.parquet").and_then(|table| table.column(INDEX));
        assert!(column.is_ok() || column.is_err_and(|error| error.kind() != ErrorKind::Internal));
    }
}
