//! A table of genes as requests for genes see it: the names in one of its columns, or which genes a Boolean
//! column marks.
//!
//! Reads parquet as this package and as pandas write it; pandas says in the file's metadata which column is
//! the index. Whole tables are polars' to read.

use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::DataType;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaData;
use parquet::record::Field;
use parquet::schema::types::{ColumnDescriptor, TypePtr};
use serde_json::Value;

use super::pages::{Budget, Pages};
use super::table_file::footer_within;
use super::thrift::broken;
use super::{footer, sound};
use crate::error::{DaoError, Result};

/// The name of the index of var, whatever pandas called it.
pub const INDEX: &str = "var_name";

/// The beginning of what pandas calls an index without a name, in parquet.
const UNNAMED: &str = "__index_level_";

/// Names that no column of a frame has but its own.
pub const RESERVED: [&str; 3] = ["cell", "dataset", "obs_name"];

/// The most rows of a table whatever the size of its file: far above any number of genes.
const FREE_ROWS: usize = 1 << 22;
/// The rows that a table may have for each byte of its file: names that differ take more.
const ROWS_IN_A_BYTE: usize = 8;
/// The rows that are decoded at a time: the parquet crate takes memory for all that it is asked for.
const STEP: usize = 1 << 16;

/// A table of genes: its columns, as they are named to users.
pub struct VarTable {
    bytes: Bytes,
    metadata: ParquetMetaData,
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
    /// Reads the head of the table in `bytes`; `place` is for errors. `by_pandas`: its index is where pandas puts it,
    /// and no column of ours.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are no parquet table, or one of more rows than its bytes can name.
    pub fn open(bytes: Bytes, by_pandas: bool, place: &str) -> Result<Self> {
        let metadata = footer::decode(footer_within(&bytes, place)?, place)?;
        let file = metadata.file_metadata();
        let n_rows = usize::try_from(file.num_rows()).unwrap_or(0);
        let mut groups = metadata.row_groups().iter().map(|group| usize::try_from(group.num_rows()).ok());
        let in_groups = groups.try_fold(0_usize, |sum, group| sum.checked_add(group?));
        if in_groups != Some(n_rows) {
            return Err(DaoError::corrupt(
                place,
                "not readable: the footer counts other rows than its row groups have",
            )
            .expected(n_rows)
            .found(in_groups.map_or("a number that cannot be".to_owned(), |n| n.to_string())));
        }
        let fields = file.schema_descr().root_schema().get_fields();
        let columns = fields.iter().map(|field| (field.name().to_owned(), source(&metadata, field))).collect();
        let mut table = Self { bytes, metadata, place: place.to_owned(), n_rows, columns };
        if by_pandas {
            table.name_as_pandas();
        }
        let most = FREE_ROWS.max(table.bytes.len().saturating_mul(ROWS_IN_A_BYTE));
        if table.n_rows > most {
            return Err(DaoError::corrupt(place, "the table claims more rows than its bytes can name")
                .expected(format!("at most {most}"))
                .found(table.n_rows)
                .hint("restore the file from a copy, or write the dataset again"));
        }
        Ok(table)
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

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
                let numbers = std::iter::successors(Some(*start), |number| Some(number.wrapping_add(*step)));
                let mut names = Vec::new();
                sound(&self.place, || reserve(&mut names, self.n_rows))?;
                names.extend(numbers.take(self.n_rows).map(|number| Some(number.to_string())));
                Ok(Some(VarColumn::Names(names)))
            }
            ValueSource::Leaf(leaf) => sound(&self.place, || self.read(*leaf)).map(Some),
            ValueSource::Other(kind) => Err(DaoError::value(format!("column '{name}' of var holds {kind}"))
                .at(format!("path '{}'", self.place))
                .expected("text, numbers, dates or Booleans")),
        }
    }

    /// Puts the index first, and names the other columns as `Store.var` does: a level of the index without a name is
    /// `level_<n>`, counted without the first, and a name that is taken gets `obs_` before it.
    fn name_as_pandas(&mut self) {
        let metadata = self.metadata.file_metadata().key_value_metadata();
        let note = metadata.into_iter().flatten().find(|entry| entry.key == "pandas");
        let note =
            note.and_then(|entry| serde_json::from_str::<Value>(entry.value.as_deref()?).ok()).unwrap_or_default();
        let in_file: Vec<String> = self.names().into_iter().map(str::to_owned).collect();
        let levels: Vec<Value> = match note["index_columns"].as_array() {
            Some(levels) if !levels.is_empty() => levels.clone(),
            _ => in_file.iter().filter(|name| name.starts_with(UNNAMED)).map(|name| name.as_str().into()).collect(),
        };
        let is_level = |level: &Value| level.is_object() || in_file.iter().any(|name| level == name);
        let mut levels = levels.into_iter().filter(is_level);
        let first = levels.next().unwrap_or_default();
        let others: Vec<Value> = levels.collect();

        let index = match in_file.iter().position(|name| first == *name) {
            Some(at) => self.columns.remove(at).1,
            None => {
                let number = |key: &str, otherwise| first[key].as_i64().unwrap_or(otherwise);
                let (start, step) = (number("start", 0), number("step", 1));
                if in_file.is_empty() && first.is_object() && step != 0 {
                    // A table without columns has no rows in parquet. They are counted as Python counts a range: the
                    // ceiling, for steps of either sign.
                    let [start, stop, step] = [start, number("stop", start), step].map(i128::from);
                    self.n_rows = usize::try_from((stop - start + step - step.signum()) / step).unwrap_or(0);
                }
                ValueSource::Range { start, step }
            }
        };
        let mut named = vec![(INDEX.to_owned(), index)];
        for (name, source) in std::mem::take(&mut self.columns) {
            let level = others.iter().position(|level| name.starts_with(UNNAMED) && *level == name);
            let mut name = level.map_or(name, |level| format!("level_{}", level + 1));
            let is_taken = |name: &String| named.iter().any(|(known, _)| known == name);
            if is_taken(&name) {
                while is_taken(&name) || in_file.contains(&name) || RESERVED.contains(&name.as_str()) {
                    name = format!("obs_{name}");
                }
            }
            named.push((name, source));
        }
        self.columns = named;
    }

    fn read(&self, leaf: usize) -> ParquetResult<VarColumn> {
        let column = self.metadata.file_metadata().schema_descr().column(leaf);
        let unsigned = matches!(
            column.converted_type(),
            ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64
        );
        let (mut names, mut marks) = (Vec::new(), Vec::new());
        // Of pages, and of text, which a dictionary may have once for many rows.
        let (mut for_pages, mut for_text) = (Budget::of(self.bytes.len()), Budget::of(self.bytes.len()));
        for group in self.metadata.row_groups() {
            let n_rows = usize::try_from(group.num_rows()).unwrap_or(0);
            let pages = Pages::read(&self.bytes, group.column(leaf), &mut for_pages)?;
            match get_column_reader(column.clone(), Box::new(pages)) {
                ColumnReader::BoolColumnReader(reader) => append(reader, n_rows, &mut marks, Ok),
                ColumnReader::ByteArrayColumnReader(reader) => append(reader, n_rows, &mut names, |text| {
                    for_text.take(text.len())?;
                    text.as_utf8().map(str::to_owned)
                }),
                ColumnReader::Int32ColumnReader(reader) if column.converted_type() == ConvertedType::DATE => {
                    append(reader, n_rows, &mut names, |days| Ok(Field::Date(days).to_string()))
                }
                ColumnReader::Int32ColumnReader(reader) => append(reader, n_rows, &mut names, |number| {
                    Ok(if unsigned { number.cast_unsigned().to_string() } else { number.to_string() })
                }),
                ColumnReader::Int64ColumnReader(reader) => append(reader, n_rows, &mut names, |number| {
                    Ok(if unsigned { number.cast_unsigned().to_string() } else { number.to_string() })
                }),
                ColumnReader::FloatColumnReader(reader) => {
                    append(reader, n_rows, &mut names, |number| Ok(format!("{number:?}")))
                }
                ColumnReader::DoubleColumnReader(reader) => {
                    append(reader, n_rows, &mut names, |number| Ok(format!("{number:?}")))
                }
                _ => Err(ParquetError::General("a column of a type that names cannot be of".to_owned())),
            }?;
        }
        Ok(if column.physical_type() == Physical::BOOLEAN { VarColumn::Marks(marks) } else { VarColumn::Names(names) })
    }
}

/// The source of the values of a field of the file's schema.
fn source(metadata: &ParquetMetaData, field: &TypePtr) -> ValueSource {
    let leaves = metadata.file_metadata().schema_descr().columns();
    let leaf = leaves.iter().position(|leaf| leaf.path().parts() == [field.name()]);
    let info = field.get_basic_info();
    match leaf {
        Some(leaf) if info.has_repetition() && info.repetition() != Repetition::REPEATED => {
            let kind = leaves[leaf].physical_type();
            match can_name(&leaves[leaf]) {
                true => ValueSource::Leaf(leaf),
                false => ValueSource::Other(format!("values of another type ({kind})")),
            }
        }
        _ => ValueSource::Other("lists or structs".into()),
    }
}

/// Whether a column holds text, plain numbers, dates, Booleans or nulls alone.
fn can_name(column: &ColumnDescriptor) -> bool {
    let (logical, converted) = (column.logical_type_ref(), column.converted_type());
    match column.physical_type() {
        _ if logical == Some(&LogicalType::Unknown) => true, // nothing but nulls
        Physical::BOOLEAN | Physical::FLOAT | Physical::DOUBLE => true,
        Physical::BYTE_ARRAY => {
            matches!(logical, Some(LogicalType::String | LogicalType::Enum))
                || matches!(converted, ConvertedType::UTF8 | ConvertedType::ENUM)
        }
        Physical::INT32 | Physical::INT64 => {
            use ConvertedType::{DECIMAL, TIME_MICROS, TIME_MILLIS, TIMESTAMP_MICROS, TIMESTAMP_MILLIS};
            matches!(logical, None | Some(LogicalType::Integer { .. } | LogicalType::Date))
                && !matches!(converted, DECIMAL | TIME_MICROS | TIME_MILLIS | TIMESTAMP_MICROS | TIMESTAMP_MILLIS)
        }
        _ => false,
    }
}

/// Appends to `out` the `n_rows` values of a column within one row group.
fn append<T: DataType, V>(
    mut reader: ColumnReaderImpl<T>,
    n_rows: usize,
    out: &mut Vec<Option<V>>,
    mut convert: impl FnMut(T::T) -> ParquetResult<V>,
) -> ParquetResult<()> {
    let cut_short = || broken("a column ends before its rows do");
    reserve(out, n_rows)?;
    let (mut levels, mut values): (Vec<i16>, Vec<T::T>) = (Vec::new(), Vec::new());
    let mut missing = n_rows;
    while missing > 0 {
        levels.clear();
        values.clear();
        let (found, _, _) = reader.read_records(missing.min(STEP), Some(&mut levels), None, &mut values)?;
        if found == 0 {
            return Err(cut_short());
        }
        let mut values = values.drain(..);
        for row in 0..found {
            // A column that cannot have nulls has no levels.
            let is_null = levels.get(row) == Some(&0);
            let value = if is_null { None } else { Some(values.next().ok_or_else(cut_short)?) };
            out.push(value.map(&mut convert).transpose()?);
        }
        missing -= found;
    }
    Ok(())
}

/// Makes room for `more` values; fails where there is no memory for them, which the process would otherwise end of.
fn reserve<V>(values: &mut Vec<V>, more: usize) -> ParquetResult<()> {
    values.try_reserve_exact(more).map_err(|_| broken("the names do not fit into memory"))
}

#[cfg(test)]
mod tests;
