//! Why an object, or a range of one, is not to be had, as users are told.

use std::ops::Range;
use std::sync::Arc;

use object_store::Error as ObjectError;

use super::super::check_end;
use super::{Remote, secrets};
use crate::error::{DaoError, ErrorKind, Result};

/// Why a range of an object is not to be had.
#[derive(Debug, Clone)]
pub enum Failure {
    Missing,
    Refused(Arc<ObjectError>),
    /// The object is longer or shorter than it was when the store was written.
    OtherSize {
        expected: u64,
        size: u64,
    },
    /// The object ends before `end`.
    Short {
        end: u64,
        size: u64,
    },
    /// The object is another than that of which a part was read before.
    Replaced,
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Self {
        if matches!(error, ObjectError::NotFound { .. }) { Self::Missing } else { Self::Refused(Arc::new(error)) }
    }
}

impl Remote {
    /// The error for ranges of an object that were not to be had.
    pub(super) fn why(&self, path: &str, ranges: &[Range<u64>], failure: Failure) -> DaoError {
        let uri = format!("{}/{path}", self.uri);
        let restore = "restore it from a copy, or write the dataset again";
        match failure {
            Failure::Missing => self.missing(path),
            Failure::Short { end, size } => self
                .check_end(path, end, size)
                .err()
                .unwrap_or_else(|| DaoError::internal("an object is too short and is not")),
            Failure::OtherSize { expected, size } => {
                let what = if size < expected { "object is truncated" } else { "object is longer than it was written" };
                DaoError::corrupt(&uri, what)
                    .expected(format!("{expected} bytes"))
                    .found(format!("{size} bytes"))
                    .hint(restore)
            }
            Failure::Replaced if self.shared.cache.is_some() => {
                DaoError::corrupt(&uri, "object was replaced while the store was open, or since parts of it were kept")
                    .hint("open the store again: what its cache had of it was removed")
            }
            Failure::Replaced => {
                DaoError::corrupt(&uri, "object was replaced while the store was open").hint("open the store again")
            }
            Failure::Refused(error) => {
                // What a server says to a range past the end depends on the server.
                let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
                let meta = self.head(path).ok().flatten();
                let short = meta.and_then(|meta| self.check_end(path, end, meta.size).err());
                short.unwrap_or_else(|| self.failed(path, "reading", &error))
            }
        }
    }

    pub(super) fn missing(&self, path: &str) -> DaoError {
        DaoError::new(ErrorKind::NotFound, "object is missing")
            .at(self.place(path))
            .hint("restore it from a copy, or write the dataset again")
    }

    pub(super) fn place(&self, path: &str) -> String {
        format!("path '{}/{path}'", self.uri)
    }

    /// The error for a request that failed while `doing` something.
    pub(super) fn failed(&self, path: &str, doing: &str, error: &ObjectError) -> DaoError {
        let kind = if matches!(error, ObjectError::NotFound { .. }) { ErrorKind::NotFound } else { ErrorKind::Io };
        let error = secrets::without_secrets(error.to_string(), &self.options);
        DaoError::new(kind, format!("{doing} failed: {error}")).at(self.place(path)).hint(&*self.advice)
    }

    pub(super) fn check_end(&self, path: &str, end: u64, size: u64) -> Result<()> {
        check_end("object", format_args!("{}/{path}", self.uri), end, size)
    }
}
