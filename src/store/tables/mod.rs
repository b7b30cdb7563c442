//! A part's parquet tables, as far as the core reads them: what a version says of one (`table_file`), its footer
//! (`footer`, checked as Thrift in `thrift` before the parquet crate sees it), pages (`pages`), and the names of genes (`names`).

mod footer;
mod names;
mod pages;
mod table_file;
mod thrift;

use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::errors::Result as ParquetResult;

use crate::error::{DaoError, Result, panic_message};
pub use names::{INDEX, RESERVED, VarColumn, VarTable};
pub(super) use table_file::read_pieces;
pub use table_file::{TableFile, excerpt, row_count};

/// Reads from a file that may be damaged; a panic of the parquet reader becomes an error.
fn sound<T>(place: &str, read: impl FnOnce() -> ParquetResult<T>) -> Result<T> {
    let problem = match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_message(&*panic).to_owned(),
    };
    Err(DaoError::corrupt(place, format!("not readable: {problem}")))
}
