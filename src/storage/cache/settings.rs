//! What users say of a cache: among a store's options, so that it goes wherever these go.

use std::path::{Path, PathBuf};

use crate::error::{DaoError, Result};
use crate::storage::StorageOptions;

/// The options: the folder, and the most bytes that it takes.
pub const FOLDER: &str = "cache";
pub const BYTES: &str = "cache_bytes";

/// The most that is kept where nothing else is said.
const DEFAULT: u64 = 64 << 30;
/// Less than this would be gone before it is used.
const LEAST: u64 = 1 << 20;

/// A folder, and the most bytes that it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub folder: PathBuf,
    pub limit: u64,
}

/// The options without those of the cache; and these, where there are some.
///
/// # Errors
/// `Value` for a folder that is none, and a number that is too small or none.
pub fn split(options: &StorageOptions) -> Result<(StorageOptions, Option<Settings>)> {
    let is_ours = |name: &str| [FOLDER, BYTES].contains(&name);
    let (ours, others): (Vec<_>, Vec<_>) = options.iter().cloned().partition(|(name, _)| is_ours(name));
    let value = |wanted: &str| ours.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let limit = value(BYTES).map(bytes).transpose()?.unwrap_or(DEFAULT);
    let Some(folder) = value(FOLDER) else {
        return if ours.is_empty() {
            Ok((others, None))
        } else {
            Err(DaoError::value("cache_bytes= without cache=").hint("name the folder too, cache=\"folder\""))
        };
    };
    if folder.is_empty() || crate::storage::is_remote(folder) {
        return Err(DaoError::value(format!("cache={folder:?} is not a folder of this machine"))
            .expected("the path of a folder that is there, or can be made"));
    }
    let folder = std::path::absolute(Path::new(folder))
        .map_err(|e| DaoError::io(Path::new(folder), "resolving the path of the cache", &e))?;
    Ok((others, Some(Settings { folder, limit })))
}

fn bytes(text: &str) -> Result<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes >= LEAST).ok_or_else(|| {
        DaoError::value("cache_bytes= is no number of bytes that a cache could have")
            .expected(format!("a whole number from {LEAST} on"))
            .found(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn options(all: &[(&str, &str)]) -> StorageOptions {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_of_the_cache_are_taken_out() {
        let (others, none) = split(&options(&[("region", "here")])).unwrap();
        assert_eq!((others, none), (options(&[("region", "here")]), None));
        let given = options(&[("cache", "/a/b"), ("region", "here"), ("cache_bytes", "2000000")]);
        let (others, settings) = split(&given).unwrap();
        let settings = settings.unwrap();
        assert_eq!((others, settings.limit), (options(&[("region", "here")]), 2_000_000));
        assert!(settings.folder.is_absolute());
        assert_eq!(split(&options(&[("cache", "/a")])).unwrap().1.unwrap().limit, DEFAULT);
    }

    #[test]
    fn what_has_no_meaning_is_an_error() {
        for wrong in [
            &[("cache", "s3://bucket/a")][..],
            &[("cache", "")],
            &[("cache", "/a"), ("cache_bytes", "12")],
            &[("cache", "/a"), ("cache_bytes", "much")],
            &[("cache_bytes", "2000000")],
        ] {
            let error = split(&options(wrong)).unwrap_err();
            assert!(error.kind() == ErrorKind::Value && error.to_string().contains("cache"), "{error}");
        }
    }
}
