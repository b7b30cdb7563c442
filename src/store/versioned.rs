//! JSON files that say which format and which version of it they are, and that begin with their own checksum
//! (docs/format.md):
//! `{"checksum":"crc32c:01234567",` and then what the checksum is of. Whoever changes one by hand has to mend that.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::files::checksum;
use crate::error::{DaoError, Result};

/// The format version that this build writes and reads. There was a first one, which was never released.
const FORMAT_VERSION: u32 = 2;

#[derive(Deserialize)]
struct Version {
    format: String,
    version: u32,
}

/// What a file holds, beside its format and the version of that.
#[derive(Serialize)]
struct Versioned<'a, T> {
    format: &'static str,
    version: u32,
    #[serde(flatten)]
    content: &'a T,
}

/// The text of a file of `format` that holds `content`.
///
/// # Errors
/// `Value` for content that is no JSON object.
pub fn to_json(format: &'static str, content: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(&Versioned { format, version: FORMAT_VERSION, content });
    text.map(|text| seal(&text)).map_err(|e| DaoError::value(format!("no JSON of format '{format}': {e}")))
}

/// A JSON object with its checksum before its other keys.
pub fn seal(object: &str) -> String {
    let rest = object.strip_prefix('{').unwrap_or(object);
    format!("{}{rest}", head(rest.as_bytes()))
}

/// The beginning of a file that goes on with `rest`.
fn head(rest: &[u8]) -> String {
    format!(r#"{{"checksum":"{}","#, checksum(rest))
}

/// The bytes of [`head`].
const HEAD: usize = r#"{"checksum":"crc32c:01234567","#.len();

/// Checks that a file is as it was written.
fn check_seal(bytes: &[u8], place: &str) -> Result<()> {
    let (found, rest) = bytes.split_at_checked(HEAD).unwrap_or((bytes, &[]));
    let expected = head(rest);
    if found == expected.as_bytes() {
        return Ok(());
    }
    Err(DaoError::corrupt(place, "not a readable manifest: checksum mismatch, the file is not as it was written")
        .expected(format!("a file that begins with {expected}"))
        .found(String::from_utf8_lossy(found))
        .hint("it may be truncated or changed; restore it from a copy"))
}

/// The keys of a file that no field of its content has, but its checksum, format and version.
pub fn unknown_keys<'de, D: Deserializer<'de>>(keys: D) -> std::result::Result<Map<String, Value>, D::Error> {
    let mut keys = Map::deserialize(keys)?;
    keys.retain(|key, _| !matches!(&key[..], "checksum" | "format" | "version"));
    Ok(keys)
}

/// Reads a file of `format`; `place` is for errors.
///
/// # Errors
/// `Value` for a newer version, `Corrupt` for a wrong checksum, another format or JSON that lacks something.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], place: &str, format: &str) -> Result<T> {
    let unreadable = |e: serde_json::Error| {
        DaoError::corrupt(place, format!("not a readable manifest: {e}"))
            .expected(format!("JSON of format '{format}'"))
            .hint("it may be truncated; restore it from a copy")
    };
    check_seal(bytes, place)?;
    // Before all other fields the version: a newer one may have others.
    let found: Version = serde_json::from_slice(bytes).map_err(unreadable)?;
    if found.format != format {
        return Err(DaoError::corrupt(place, "not the format that belongs here")
            .expected(format!("format '{format}'"))
            .found(format!("'{}'", found.format)));
    }
    if found.version != FORMAT_VERSION {
        let (who, hint) = if found.version > FORMAT_VERSION {
            ("a newer dao-polars wrote this", "Upgrade with: pip install --upgrade dao-polars")
        } else {
            ("dao-polars wrote this before its first release", "write the datasets again, to a new store")
        };
        return Err(DaoError::value(who)
            .at(format!("path '{place}'"))
            .expected(format!("format version {FORMAT_VERSION}"))
            .found(format!("version {}", found.version))
            .hint(hint));
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn parsed(text: &str) -> Result<serde_json::Value> {
        parse(seal(text).as_bytes(), "store/dao.json", "dao-store")
    }

    #[test]
    fn this_format_and_version_are_read() {
        let text = format!(r#"{{"format": "dao-store", "version": {FORMAT_VERSION}, "more": 1}}"#);
        assert_eq!(parsed(&text).unwrap()["more"], 1);
    }

    #[test]
    fn every_changed_bit_and_cut_is_noticed() {
        let whole = to_json("dao-store", &serde_json::json!({"id": "x", "organism": "Homo sapiens"})).unwrap();
        let parse = |bytes: &[u8]| parse::<serde_json::Value>(bytes, "store/dao.json", "dao-store");
        assert_eq!(parse(whole.as_bytes()).unwrap()["organism"], "Homo sapiens");
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone().into_bytes();
                changed[at] ^= 1 << bit;
                assert_eq!(parse(&changed).unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit} of byte {at}");
            }
            assert_eq!(parse(&whole.as_bytes()[..at]).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        assert!(parse(format!("{whole} ").as_bytes()).is_err());
    }

    #[test]
    fn a_newer_version_asks_for_an_upgrade() {
        let error = parsed(&format!(r#"{{"format": "dao-store", "version": {}}}"#, FORMAT_VERSION + 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().contains("'store/dao.json'") && error.to_string().contains("pip install"), "{error}");
        let error = parsed(r#"{"format": "dao-store", "version": 1}"#).unwrap_err();
        assert!(error.to_string().contains("before its first release"), "{error}");
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
