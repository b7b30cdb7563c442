//! What made a version of a store: which operation, when, by which package, of which source.

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
