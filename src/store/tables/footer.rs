//! Footers of parquet files, read only where they claim no more than they hold.
//!
//! The parquet crate takes memory for as many children as a group says that it has, and calls itself for each group in
//! a group: a few bytes could end the process. It also reads a field as what it should be, whatever type the file gives
//! it; here the types must be right, so that both see the same values.

use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::sound;
use super::thrift::{Kind, Shape, Thrift, broken};
use crate::error::Result;

use Shape::{Binary, Bool, Byte, Double, Int, List, Struct};

/// The most groups in each other.
const MAX_DEPTH: usize = 32;
/// The least bytes that the paths of all columns may take together.
const PATHS: usize = 1 << 20;

// <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>
const EMPTY: Shape = Struct(&[]);
const TIME: Shape = Struct(&[(1, Bool), (2, Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))]);
const LOGICAL_TYPE: Shape = Struct(&[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Struct(&[(1, Int), (2, Int)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Struct(&[(1, Byte), (2, Bool)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    (16, Struct(&[(1, Byte)])),
    (17, Struct(&[(1, Binary)])),
    (18, Struct(&[(1, Binary), (2, Int)])),
]);
const STATISTICS: Shape =
    Struct(&[(1, Binary), (2, Binary), (3, Int), (4, Int), (5, Binary), (6, Binary), (7, Bool), (8, Bool), (9, Int)]);
const BOX: Shape =
    Struct(&[(1, Double), (2, Double), (3, Double), (4, Double), (5, Double), (6, Double), (7, Double), (8, Double)]);
const COLUMN: Shape = Struct(&[
    (1, Int),
    (2, List(&Int)),
    (4, Int),
    (5, Int),
    (6, Int),
    (7, Int),
    (9, Int),
    (10, Int),
    (11, Int),
    (12, STATISTICS),
    (13, List(&Struct(&[(1, Int), (2, Int), (3, Int)]))),
    (14, Int),
    (15, Int),
    (16, Struct(&[(1, Int), (2, List(&Int)), (3, List(&Int))])),
    (17, Struct(&[(1, BOX), (2, List(&Int))])),
]);
const COLUMN_CHUNK: Shape =
    Struct(&[(1, Binary), (2, Int), (3, COLUMN), (4, Int), (5, Int), (6, Int), (7, Int), (9, Binary)]);
const ROW_GROUP: Shape = Struct(&[
    (1, List(&COLUMN_CHUNK)),
    (2, Int),
    (3, Int),
    (4, List(&Struct(&[(1, Int), (2, Bool), (3, Bool)]))),
    (5, Int),
    (6, Int),
    (7, Int),
]);

/// The metadata in a footer, which are the bytes before its length; `path` is for errors.
///
/// # Errors
/// `Corrupt` for a footer that contradicts itself.
pub fn decode(footer: &[u8], path: &str) -> Result<ParquetMetaData> {
    sound(path, || {
        check(footer)?;
        ParquetMetaDataReader::decode_metadata(footer)
    })
}

fn check(footer: &[u8]) -> ParquetResult<()> {
    Thrift::new(footer).fields(|values, id, kind| match id {
        1 | 3 => values.check(kind, &Int),
        2 => check_schema(values, kind, footer.len()),
        4 => values.check(kind, &List(&ROW_GROUP)),
        5 => values.check(kind, &List(&Struct(&[(1, Binary), (2, Binary)]))),
        6 => values.check(kind, &Binary),
        7 => values.check(kind, &List(&Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))),
        _ => values.skip(kind),
    })
}

/// Takes the schema, a tree whose nodes stand before their children, each with the number of these.
fn check_schema(values: &mut Thrift<'_>, kind: Kind, footer_len: usize) -> ParquetResult<()> {
    let (of, len) = values.list(kind)?;
    let most = footer_len.saturating_mul(16).saturating_add(PATHS);
    let mut paths = 0_usize;
    // The groups that are not complete: the children that are missing, and the length of the path.
    let mut open: Vec<(usize, usize)> = Vec::new();
    for at in 0..len {
        let (name, children) = check_element(values, of)?;
        let path = open.last().map_or(0, |(_, path)| *path).saturating_add(name);
        if let Some((missing, _)) = open.last_mut() {
            *missing -= 1;
        }
        if children > len - at - 1 {
            return Err(broken("a group claims more columns than there are"));
        }
        paths = paths.saturating_add(path);
        open.push((children, path));
        if open.len() > MAX_DEPTH || paths > most {
            return Err(broken("columns in too many groups, or of too long names"));
        }
        while open.pop_if(|(missing, _)| *missing == 0).is_some() {}
    }
    Ok(())
}

/// Takes a node of the schema: the length of its name, and how many children it has.
fn check_element(values: &mut Thrift<'_>, kind: Kind) -> ParquetResult<(usize, usize)> {
    if kind != Kind::Struct {
        return Err(broken("a schema of something else than columns"));
    }
    let (mut name, mut children) = (0, 0);
    values.fields(|values, id, kind| {
        match id {
            1..=3 | 6..=9 => values.check(kind, &Int)?,
            4 => name = values.binary(kind)?.len(),
            5 => {
                children = usize::try_from(values.int(kind)?).map_err(|_| broken("a group of less than no columns"))?;
            }
            10 => values.check(kind, &LOGICAL_TYPE)?,
            _ => values.skip(kind)?,
        }
        Ok(())
    })?;
    Ok((name, children))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A footer of these nodes (name, children) and no rows.
    fn footer(nodes: &[(&str, u64)]) -> Vec<u8> {
        fn varint(bytes: &mut Vec<u8>, mut number: u64) {
            while number > 127 {
                bytes.push(u8::try_from(number & 127).unwrap() | 128);
                number >>= 7;
            }
            bytes.push(u8::try_from(number).unwrap());
        }
        let mut bytes = vec![0x15, 4, 0x19, 0xfc];
        varint(&mut bytes, nodes.len() as u64);
        for (name, children) in nodes {
            // Its type where it is a column, that it is required, its name, its children where it is a group.
            bytes.extend(if *children == 0 { &[0x15, 2, 0x25, 0, 0x18][..] } else { &[0x35, 0, 0x18] });
            varint(&mut bytes, name.len() as u64);
            bytes.extend(name.bytes());
            if *children > 0 {
                bytes.push(0x15);
                varint(&mut bytes, children * 2);
            }
            bytes.push(0);
        }
        bytes.extend([0x16, 0, 0x19, 0x0c, 0]);
        bytes
    }

    fn error(footer: &[u8]) -> String {
        let error = decode(footer, "var.parquet").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        error.to_string()
    }

    #[test]
    fn a_schema_comes_as_it_is() {
        let nested = footer(&[("root", 3), ("a", 0), ("g", 2), ("x", 0), ("y", 0), ("b", 0)]);
        let metadata = decode(&nested, "var.parquet").unwrap();
        let paths = metadata.file_metadata().schema_descr().columns().iter().map(|leaf| leaf.path().string());
        assert_eq!(paths.collect::<Vec<_>>(), ["a", "g.x", "g.y", "b"]);
        for cut in 0..nested.len() {
            assert!(decode(&nested[..cut], "var.parquet").is_err(), "{cut}");
        }
    }

    #[test]
    fn children_that_are_not_there_are_refused() {
        for children in [2, 1000, 1 << 30, u64::from(u32::MAX) / 2] {
            assert!(error(&footer(&[("root", children), ("a", 0)])).contains("more columns than there are"));
        }
    }

    #[test]
    fn groups_in_groups_are_refused_before_anything_calls_itself_for_each() {
        let chain = |depth: usize| {
            let mut nodes = vec![("g", 1); depth];
            nodes.push(("a", 0));
            footer(&nodes)
        };
        assert!(decode(&chain(20), "var.parquet").is_ok());
        assert!(error(&chain(100_000)).contains("too many groups"));
    }

    #[test]
    fn a_long_name_is_not_copied_for_each_column() {
        let name = "g".repeat(100_000);
        let mut nodes = vec![("root", 1), (name.as_str(), 1000)];
        nodes.extend([("a", 0); 1000]);
        assert!(error(&footer(&nodes)).contains("too long names"));
    }

    #[test]
    fn a_field_of_another_type_is_refused() {
        // The version as bytes.
        let mut wrong = footer(&[("root", 1), ("a", 0)]);
        wrong[0] = 0x18;
        assert!(error(&wrong).contains("another type"));
    }
}
