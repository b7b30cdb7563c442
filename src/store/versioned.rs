//! JSON files that say which format and which version of it they are.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::error::{DaoError, Result};

/// The format version that this build writes, and the newest that it reads.
const FORMAT_VERSION: u32 = 1;

#[derive(Deserialize)]
struct Version {
    format: String,
    version: u32,
}

/// What a file holds, beside its format and the version of that.
#[derive(Serialize)]
pub struct Versioned<T> {
    format: &'static str,
    version: u32,
    #[serde(flatten)]
    content: T,
}

impl<T> Versioned<T> {
    /// `content`, to be written as a file of `format`.
    pub fn new(format: &'static str, content: T) -> Self {
        Self { format, version: FORMAT_VERSION, content }
    }
}

/// The keys of a file that no field of its content has, but its format and version.
pub fn unknown_keys<'de, D: Deserializer<'de>>(keys: D) -> std::result::Result<Map<String, Value>, D::Error> {
    let mut keys = Map::deserialize(keys)?;
    keys.retain(|key, _| key != "format" && key != "version");
    Ok(keys)
}

/// Reads a file of `format`; `place` is for errors.
///
/// # Errors
/// `Value` for a newer version, `Corrupt` for another format or JSON that lacks something.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], place: &str, format: &str) -> Result<T> {
    let unreadable = |e: serde_json::Error| {
        DaoError::corrupt(place, format!("not a readable manifest: {e}"))
            .expected(format!("JSON of format '{format}'"))
            .hint("it may be truncated; restore it from a copy")
    };
    // First of all the version: a newer one may have other fields.
    let found: Version = serde_json::from_slice(bytes).map_err(unreadable)?;
    if found.format != format {
        return Err(DaoError::corrupt(place, "not the format that belongs here")
            .expected(format!("format '{format}'"))
            .found(format!("'{}'", found.format)));
    }
    if found.version > FORMAT_VERSION {
        return Err(DaoError::value("a newer dao-polars wrote this")
            .at(format!("path '{place}'"))
            .expected(format!("format version {FORMAT_VERSION} or older"))
            .found(format!("version {}", found.version))
            .hint("Upgrade with: pip install --upgrade dao-polars"));
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn parsed(text: &str) -> Result<serde_json::Value> {
        parse(text.as_bytes(), "store/dao.json", "dao-store")
    }

    #[test]
    fn this_format_and_version_are_read() {
        let text = format!(r#"{{"format": "dao-store", "version": {FORMAT_VERSION}, "more": 1}}"#);
        assert_eq!(parsed(&text).unwrap()["more"], 1);
    }

    #[test]
    fn a_newer_version_asks_for_an_upgrade() {
        let error = parsed(&format!(r#"{{"format": "dao-store", "version": {}}}"#, FORMAT_VERSION + 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().contains("'store/dao.json'") && error.to_string().contains("pip install"), "{error}");
    }

    #[test]
    fn other_formats_and_damaged_text_are_corrupt() {
        for text in ["", "{", "[1]", r#"{"format": "dao-store"}"#, r#"{"format": "other", "version": 1}"#] {
            let error = parsed(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}");
            assert!(error.to_string().contains("'store/dao.json'"), "{error}");
        }
    }
}
