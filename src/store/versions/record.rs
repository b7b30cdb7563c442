//! What made a version of a store: which operation, when, by which package, of which source.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::checksum::crc32c_append;
use crate::error::{DaoError, Result};
use crate::storage::{Local, Storage};

/// What made a version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The operation, as its method is named.
    pub operation: String,
    /// What the user said about it; else what it changed.
    pub message: String,
    /// When it was made, by the clock of the machine that made it: RFC 3339, UTC.
    pub time: String,
    /// The package that made it, and its version.
    pub package: String,
    /// Who made it, where they said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What the version was made of, where that was a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceFile>,
    /// An id of the attempt: whose a version is, when the answer to its creation was lost.
    pub attempt: String,
}

/// A file that a dataset was written from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    pub name: String,
    /// The bytes of the file, or of all files of a folder.
    pub size: u64,
    /// The checksum of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

impl SourceFile {
    /// What is noted of a file, which is read for its checksum, or of a folder.
    ///
    /// # Errors
    /// `Io` or `NotFound` for what cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| DaoError::io(path, "reading", &e);
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        if path.is_dir() {
            return Ok(Self { name, size: Local::new(path)?.total_size("")?, checksum: None });
        }
        let (mut file, mut piece) = (File::open(path).map_err(failed)?, vec![0; 1 << 20]);
        let (mut size, mut crc) = (0, 0);
        loop {
            let n = file.read(&mut piece).map_err(failed)?;
            if n == 0 {
                return Ok(Self { name, size, checksum: Some(format!("crc32c:{crc:08x}")) });
            }
            crc = crc32c_append(crc, &piece[..n]);
            size += n as u64;
        }
    }
}

impl Record {
    /// The record of an operation of now.
    pub fn now(operation: &str, message: String) -> Self {
        let time = DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Millis, true);
        let package = concat!("dao-polars ", env!("CARGO_PKG_VERSION")).to_owned();
        Self {
            operation: operation.to_owned(),
            message,
            time,
            package,
            author: None,
            source: None,
            attempt: Uuid::new_v4().to_string(),
        }
    }
}
