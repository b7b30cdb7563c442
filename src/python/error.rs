//! [`DaoError`] as the exception classes of `dao_polars.errors`.

use pyo3::prelude::*;

use super::signals;
use crate::error::{DaoError, ErrorKind};
use crate::interrupt;

impl From<DaoError> for PyErr {
    fn from(error: DaoError) -> Self {
        if interrupt::take_broken_off() {
            return signals::raised();
        }
        let class = match error.kind() {
            ErrorKind::Interrupted => return signals::raised(),
            ErrorKind::NotFound => "DaoFileNotFoundError",
            ErrorKind::AlreadyExists => "DaoFileExistsError",
            ErrorKind::Io => "DaoIOError",
            ErrorKind::Corrupt => "DaoCorruptError",
            ErrorKind::Value => "DaoValueError",
            ErrorKind::Key => "DaoKeyError",
            ErrorKind::Internal => "DaoInternalError",
        };
        Python::attach(|py| {
            let made = py
                .import("dao_polars.errors")
                .and_then(|module| module.getattr(class))
                .and_then(|class| class.call1((error.to_string(),)));
            made.map_or_else(|e| e, PyErr::from_value)
        })
    }
}
