//! A text column of a parquet table: the names of genes, where only these are wanted.

use bytes::Bytes;
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::error::{DaoError, Result};

/// The values of the column `name`; `None` for a null. `None` in all if the table has no such column, or it
/// holds something other than text.
///
/// # Errors
/// `Corrupt` for bytes that are no parquet table. `place` is for errors.
pub fn text_column(bytes: Bytes, name: &str, place: &str) -> Result<Option<Vec<Option<String>>>> {
    let broken = |e: ParquetError| DaoError::corrupt(place, format!("not readable: {e}"));
    let reader = SerializedFileReader::new(bytes).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let column = schema.columns().iter().position(|column| column.path().parts() == [name]);
    let Some(column) = column else { return Ok(None) };
    let nullable = schema.column(column).max_def_level() > 0;
    let mut values = Vec::new();
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(broken)?;
        let n_rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
        let ColumnReader::ByteArrayColumnReader(mut reader) = group.get_column_reader(column).map_err(broken)? else {
            return Ok(None);
        };
        let (mut levels, mut found): (Vec<i16>, Vec<ByteArray>) = (Vec::new(), Vec::new());
        let mut read = 0;
        while read < n_rows {
            let levels = nullable.then_some(&mut levels);
            let (records, _, _) = reader.read_records(n_rows - read, levels, None, &mut found).map_err(broken)?;
            if records == 0 {
                return Err(DaoError::corrupt(place, "a column ends before its rows do"));
            }
            read += records;
        }
        let mut found = found.into_iter();
        for row in 0..n_rows {
            if nullable && levels.get(row) == Some(&0) {
                values.push(None);
                continue;
            }
            let text = found.next().map(|value| value.as_utf8().map(str::to_owned));
            match text {
                Some(Ok(text)) => values.push(Some(text)),
                _ => return Err(DaoError::corrupt(place, "a column of text has fewer values than rows, or no text")),
            }
        }
    }
    Ok(Some(values))
}
