//! The names of datasets.

use super::Manifest;
use crate::error::{DaoError, ErrorKind, Result};

/// Refuses a name that is taken; `uri` is for errors.
pub fn check_free(manifest: &Manifest, dataset: &str, uri: &str) -> Result<()> {
    if manifest.parts_of(dataset).next().is_none() {
        return Ok(());
    }
    Err(DaoError::new(ErrorKind::AlreadyExists, format!("dataset '{dataset}' is already in the store"))
        .at(format!("store '{uri}'"))
        .hint("choose another name with dataset="))
}

/// A dataset's name is in those of folders.
pub fn check_name(dataset: &str) -> Result<()> {
    let bad = dataset.is_empty()
        || dataset.starts_with('.')
        || dataset.len() > 200
        || dataset.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'));
    if bad {
        return Err(DaoError::value(format!("'{}' cannot name a dataset", dataset.escape_default()))
            .expected("1 to 200 bytes without slashes or control characters, not beginning with a dot")
            .hint("choose another name with dataset="));
    }
    Ok(())
}

/// A dataset's name in that of a folder: a store can be taken to Windows, which has none of these in names.
pub fn folder_name(dataset: &str) -> String {
    dataset.replace(['<', '>', ':', '"', '|', '?', '*'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_a_name_that_every_system_takes() {
        for (dataset, expected) in
            [("lung", "lung"), ("T cells: \"naïve\"?", "T cells_ _naïve__"), ("a<b>|*", "a_b___")]
        {
            assert!(check_name(dataset).is_ok());
            assert_eq!(folder_name(dataset), expected);
        }
    }
}
