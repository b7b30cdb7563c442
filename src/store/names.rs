//! A table of genes as requests for genes see it: the names in one of its columns, or which genes a Boolean
//! column marks.
//!
//! Reads parquet as this package and as pandas write it; pandas says in the file's metadata which column is
//! the index. Whole tables are polars' to read.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

use crate::error::{DaoError, Result, panic_message};

/// The name of the index of var, whatever pandas called it.
pub const INDEX: &str = "var_name";

/// A table of genes: its columns, as they are named to users.
pub struct VarTable {
    reader: SerializedFileReader<Bytes>,
    place: String,
    n_rows: usize,
    columns: Vec<(String, ValueSource)>,
}

/// The source of a column's values.
enum ValueSource {
    /// The column at this position among the file's leaves.
    Leaf(usize),
    /// No column of the file: the values are numbers from `start` on, as in a pandas RangeIndex.
    Range { start: i64, step: i64 },
    /// A column of a type that names cannot have, in words.
    Other(String),
}

/// A column's values, `None` for nulls.
#[derive(Debug, PartialEq, Eq)]
pub enum VarColumn {
    /// Text, or numbers as text.
    Names(Vec<Option<String>>),
    /// Booleans.
    Marks(Vec<Option<bool>>),
}

impl VarTable {
    /// Reads the head of the table in `bytes`; `place` is for errors. `by_pandas`: its index is where pandas
    /// puts it, and no column of ours.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are no parquet table.
    pub fn open(bytes: Bytes, by_pandas: bool, place: &str) -> Result<Self> {
        let reader = sound(place, || SerializedFileReader::new(bytes).map_err(|e| unreadable(place, &e)))?;
        let metadata = reader.metadata().file_metadata();
        let n_rows = usize::try_from(metadata.num_rows()).unwrap_or(0);
        let mut table = Self { reader, place: place.to_owned(), n_rows, columns: Vec::new() };
        let found = table.columns_of_file();
        table.columns = if by_pandas { table.named_by_pandas(found) } else { found };
        Ok(table)
    }

    /// The number of genes.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The names of the table's columns.
    pub fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The values of a column; `None` if there is none of that name.
    ///
    /// # Errors
    /// `Corrupt` for a damaged file, `Value` for a column of a type that names cannot be of.
    pub fn column(&self, name: &str) -> Result<Option<VarColumn>> {
        let Some((_, source)) = self.columns.iter().find(|(known, _)| known == name) else { return Ok(None) };
        match source {
            ValueSource::Range { start, step } => {
                let numbers = (0..self.n_rows).scan(*start, |next, _| {
                    let number = *next;
                    *next = next.wrapping_add(*step);
                    Some(Some(number.to_string()))
                });
                Ok(Some(VarColumn::Names(numbers.collect())))
            }
            ValueSource::Leaf(leaf) => sound(&self.place, || self.read(*leaf)).map(Some),
            ValueSource::Other(kind) => Err(DaoError::value(format!("column '{name}' of var holds {kind}"))
                .at(format!("path '{}'", self.place))
                .expected("text, numbers, dates or Booleans")),
        }
    }

    fn columns_of_file(&self) -> Vec<(String, ValueSource)> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        let leaves = schema.columns();
        let fields = schema.root_schema().get_fields();
        let column = |field: &parquet::schema::types::TypePtr| {
            let name = field.name().to_owned();
            let leaf = leaves.iter().position(|leaf| leaf.path().parts() == [field.name()]);
            let flat = field.is_primitive()
                && field.get_basic_info().has_repetition()
                && field.get_basic_info().repetition() != Repetition::REPEATED;
            match leaf {
                Some(leaf) if flat && is_named(&leaves[leaf]) => (name, ValueSource::Leaf(leaf)),
                Some(leaf) if flat => {
                    let kind = leaves[leaf].physical_type();
                    (name, ValueSource::Other(format!("values of another type ({kind})")))
                }
                _ => (name, ValueSource::Other("lists or structs".into())),
            }
        };
        fields.iter().map(column).collect()
    }

    /// The index first, and the other columns by the names that `Store.var` gives them.
    fn named_by_pandas(&mut self, mut found: Vec<(String, ValueSource)>) -> Vec<(String, ValueSource)> {
        let metadata = self.reader.metadata().file_metadata().key_value_metadata();
        let note = metadata.into_iter().flatten().find(|entry| entry.key == "pandas");
        let note: Value = note
            .and_then(|entry| entry.value.as_deref())
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let in_file = |name: &str| found.iter().any(|(known, _)| known == name);
        let mut levels: Vec<Value> = note["index_columns"].as_array().cloned().unwrap_or_default();
        if levels.is_empty() {
            let unnamed = found.iter().filter(|(name, _)| name.starts_with("__index_level_"));
            levels = unnamed.map(|(name, _)| Value::String(name.clone())).collect();
        }
        levels.retain(|level| level.is_object() || level.as_str().is_some_and(in_file));
        let number = |level: &Value, key: &str, otherwise| level[key].as_i64().unwrap_or(otherwise);
        let first = levels.first().cloned().unwrap_or_default();
        let index = match first.as_str() {
            Some(name) => {
                let at = found.iter().position(|(known, _)| known == name).unwrap_or(0);
                found.remove(at).1
            }
            None => ValueSource::Range { start: number(&first, "start", 0), step: number(&first, "step", 1) },
        };
        if let (ValueSource::Range { start, step }, true) = (&index, found.is_empty())
            && first.is_object()
            && *step != 0
        {
            // A table without columns has no rows in parquet.
            let (start, stop, step) =
                (i128::from(*start), i128::from(number(&first, "stop", *start)), i128::from(*step));
            // As Python counts a range: the ceiling, for steps of either sign.
            let length = (stop - start + step - step.signum()) / step;
            self.n_rows = usize::try_from(length).unwrap_or(0);
        }
        let taken: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
        let mut named = vec![(INDEX.to_owned(), index)];
        for (name, source) in found {
            let level = levels.iter().position(|level| level.as_str() == Some(name.as_str()));
            let mut free_name = match level {
                Some(level) if name.starts_with("__index_level_") => format!("level_{}", level + 1),
                _ => name,
            };
            if free_name == INDEX {
                while free_name == INDEX || taken.contains(&free_name) {
                    free_name = format!("obs_{free_name}");
                }
            }
            named.push((free_name, source));
        }
        named
    }

    fn read(&self, leaf: usize) -> Result<VarColumn> {
        let column = self.reader.metadata().file_metadata().schema_descr().column(leaf);
        let nullable = column.max_def_level() > 0;
        let unsigned = is_unsigned(&column);
        let mut found = match column.physical_type() {
            parquet::basic::Type::BOOLEAN => VarColumn::Marks(Vec::new()),
            _ => VarColumn::Names(Vec::new()),
        };
        for group in 0..self.reader.num_row_groups() {
            let group = self.reader.get_row_group(group).map_err(|e| unreadable(&self.place, &e))?;
            let n_rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let compression = group.metadata().column(leaf).compression();
            if !matches!(
                compression,
                Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_)
            ) {
                return Err(DaoError::value("the names of genes are in a compression that is not read")
                    .at(format!("path '{}'", self.place))
                    .expected("none, snappy, gzip or zstd")
                    .found(format!("{compression:?}"))
                    .hint("write the table anew, with one of these"));
            }
            let reader = group.get_column_reader(leaf).map_err(|e| unreadable(&self.place, &e))?;
            let part = match reader {
                ColumnReader::BoolColumnReader(reader) => VarColumn::Marks(self.values(reader, n_rows, nullable)?),
                ColumnReader::ByteArrayColumnReader(reader) => {
                    let texts = self.values(reader, n_rows, nullable)?.into_iter();
                    let text = |value: Option<parquet::data_type::ByteArray>| {
                        value.map(|value| value.as_utf8().map(str::to_owned)).transpose()
                    };
                    VarColumn::Names(
                        texts.map(text).collect::<std::result::Result<_, _>>().map_err(|_| {
                            DaoError::corrupt(&self.place, "a column of text holds bytes that are none")
                        })?,
                    )
                }
                ColumnReader::Int32ColumnReader(reader) if unsigned => {
                    as_text(self.values(reader, n_rows, nullable)?, |value| value.cast_unsigned().to_string())
                }
                ColumnReader::Int32ColumnReader(reader) if is_date(&column) => {
                    as_text(self.values(reader, n_rows, nullable)?, |value| Field::Date(value).to_string())
                }
                ColumnReader::Int32ColumnReader(reader) => {
                    as_text(self.values(reader, n_rows, nullable)?, |value| value.to_string())
                }
                ColumnReader::Int64ColumnReader(reader) if unsigned => {
                    as_text(self.values(reader, n_rows, nullable)?, |value| value.cast_unsigned().to_string())
                }
                ColumnReader::Int64ColumnReader(reader) => {
                    as_text(self.values(reader, n_rows, nullable)?, |value| value.to_string())
                }
                ColumnReader::FloatColumnReader(reader) => {
                    as_text(self.values(reader, n_rows, nullable)?, |value| format!("{value:?}"))
                }
                ColumnReader::DoubleColumnReader(reader) => {
                    as_text(self.values(reader, n_rows, nullable)?, |value| format!("{value:?}"))
                }
                _ => return Err(DaoError::value("a column of var of a type that names cannot be of").at(&*self.place)),
            };
            match (&mut found, part) {
                (VarColumn::Names(all), VarColumn::Names(part)) => all.extend(part),
                (VarColumn::Marks(all), VarColumn::Marks(part)) => all.extend(part),
                (all, part) => *all = part,
            }
        }
        Ok(found)
    }

    /// A column's values within one row group.
    fn values<T: DataType>(
        &self,
        mut reader: ColumnReaderImpl<T>,
        n_rows: usize,
        nullable: bool,
    ) -> Result<Vec<Option<T::T>>> {
        let (mut levels, mut found): (Vec<i16>, Vec<T::T>) = (Vec::new(), Vec::new());
        let mut read = 0;
        while read < n_rows {
            let levels = nullable.then_some(&mut levels);
            let (records, _, _) = reader
                .read_records(n_rows - read, levels, None, &mut found)
                .map_err(|e| unreadable(&self.place, &e))?;
            if records == 0 {
                return Err(DaoError::corrupt(&self.place, "a column ends before its rows do"));
            }
            read += records;
        }
        let mut found = found.into_iter();
        let value = |row: usize| match nullable && levels.get(row) == Some(&0) {
            true => Ok(None),
            false => found
                .next()
                .map(Some)
                .ok_or_else(|| DaoError::corrupt(&self.place, "a column has fewer values than rows")),
        };
        (0..n_rows).map(value).collect()
    }
}

fn as_text<T>(values: Vec<Option<T>>, text: impl Fn(T) -> String) -> VarColumn {
    VarColumn::Names(values.into_iter().map(|value| value.map(&text)).collect())
}

/// Whether a column holds text, plain numbers, dates, Booleans or nulls alone.
fn is_named(column: &parquet::schema::types::ColumnDescriptor) -> bool {
    if matches!(column.logical_type_ref(), Some(LogicalType::Unknown)) {
        return true; // nothing but nulls
    }
    if is_date(column) {
        return true;
    }
    match column.physical_type() {
        parquet::basic::Type::BOOLEAN | parquet::basic::Type::FLOAT | parquet::basic::Type::DOUBLE => true,
        parquet::basic::Type::BYTE_ARRAY => {
            matches!(column.logical_type_ref(), Some(LogicalType::String | LogicalType::Enum))
                || matches!(column.converted_type(), ConvertedType::UTF8 | ConvertedType::ENUM)
        }
        parquet::basic::Type::INT32 | parquet::basic::Type::INT64 => {
            matches!(column.logical_type_ref(), None | Some(LogicalType::Integer { .. }))
                && column.converted_type() != ConvertedType::DECIMAL
        }
        _ => false,
    }
}

fn is_date(column: &parquet::schema::types::ColumnDescriptor) -> bool {
    column.converted_type() == ConvertedType::DATE
}

fn is_unsigned(column: &parquet::schema::types::ColumnDescriptor) -> bool {
    matches!(
        column.converted_type(),
        ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64
    )
}

fn unreadable(place: &str, error: &parquet::errors::ParquetError) -> DaoError {
    DaoError::corrupt(place, format!("not readable: {error}"))
}

/// Reads from a file that may be damaged; a panic of the parquet reader becomes an error.
fn sound<T>(place: &str, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|panic| Err(DaoError::corrupt(place, format!("not readable: {}", panic_message(&*panic)))))
}
