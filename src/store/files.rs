//! The files of a part as its `dao.json` lists them, and reading that holds them against that list.
//!
//! What is read whole (metadata, tables, uns) has to have the listed checksum. Shards are read in parts, and hold
//! checksums and the name of their array themselves: of these only the size is looked at here. What is not listed is
//! not there: nothing that was put beside the files of a part is taken for one of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::outline::Outline;
use super::tables::read_pieces;
use crate::checksum::{crc32c, crc32c_append};
use crate::error::{DaoError, ErrorKind, Result};
use crate::storage::{File, Held, Storage, Wanted};

/// Files by their paths relative to the folder that lists them.
pub type Files = BTreeMap<String, FileMeta>;

/// The size of a file and the checksum of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    pub size: u64,
    pub checksum: String,
}

/// Whether a path from a manifest leads to something below the folder that it starts from. On Windows a colon ends the name of
/// a drive, or begins that of a stream of a file.
pub fn is_below(path: &str) -> bool {
    let refused: &[char] = if cfg!(windows) { &['\0', '\\', ':'] } else { &['\0', '\\'] };
    !path.contains(refused) && !path.split('/').any(|part| matches!(part, "" | "." | ".."))
}

/// Checks that all `files` lie below the folder whose manifest lists them; `place` is for errors.
pub fn check_paths(files: &Files, place: &str) -> Result<()> {
    match files.keys().find(|path| !is_below(path)) {
        Some(path) => Err(DaoError::corrupt(place, "the manifest lists a file outside of its folder")
            .found(format!("'{}'", path.escape_debug()))),
        None => Ok(()),
    }
}

/// The checksum of a file as it stands in a `dao.json`: CRC-32C, `crc32c:` and eight hex digits.
pub fn checksum(bytes: &[u8]) -> String {
    named(crc32c(bytes))
}

/// A CRC-32C as it is written.
pub fn named(crc: u32) -> String {
    format!("crc32c:{crc:08x}")
}

/// The error for a file that is not as it was written; `path` is for it alone.
pub fn changed(path: &str, what: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> DaoError {
    DaoError::corrupt(path, what)
        .expected(expected)
        .found(found)
        .hint("restore it from a copy, or write the dataset again")
}

/// The error for a file that is not there.
pub fn missing(path: &str) -> DaoError {
    DaoError::new(ErrorKind::NotFound, "file is missing")
        .at(format!("path '{path}'"))
        .hint("restore it from a copy, or write the dataset again")
}

impl FileMeta {
    /// The size and checksum of a file that has these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::new(bytes.len() as u64, crc32c(bytes))
    }

    /// A size, and the CRC-32C of so many bytes.
    pub fn new(size: u64, crc: u32) -> Self {
        Self { size, checksum: named(crc) }
    }

    /// Checks that a file of `size` bytes is as long as it was written.
    fn check_size(&self, size: u64, path: &str) -> Result<()> {
        if size == self.size {
            return Ok(());
        }
        let what = if size < self.size { "the file is truncated" } else { "the file is longer than it was written" };
        Err(changed(path, what, format!("{} bytes", self.size), format!("{size} bytes")))
    }

    fn check_crc(&self, crc: u32, path: &str) -> Result<()> {
        if named(crc) == self.checksum {
            return Ok(());
        }
        let what = "checksum mismatch: the file is not as it was written";
        Err(changed(path, what, &self.checksum, named(crc)))
    }
}

/// The files below one folder of a storage; see the module. Paths are those of the storage.
pub struct ListedFiles {
    storage: Arc<dyn Storage>,
    /// The folder, with a slash at its end.
    folder: String,
    files: Files,
    /// Pieces of them that are here.
    outline: Option<Arc<Outline>>,
}

impl ListedFiles {
    /// The `files` in the folder at `path`.
    pub fn new(storage: Arc<dyn Storage>, path: &str, files: Files) -> Self {
        Self { storage, folder: format!("{path}/"), files, outline: None }
    }

    /// The same files, pieces of which are in an outline.
    #[must_use]
    pub fn with_outline(self, outline: Arc<Outline>) -> Self {
        Self { outline: Some(outline), ..self }
    }

    /// The name of a file in the folder, and the outline, where there is one.
    fn outlined<'a>(&'a self, path: &'a str) -> Option<(&'a str, &'a Outline)> {
        Some((path.strip_prefix(&self.folder)?, self.outline.as_deref()?))
    }

    /// The ranges of a file, those of them that are in the outline from there.
    fn outlined_ranges(
        &self,
        path: &str,
        ranges: &[Range<u64>],
        (name, outline): (&str, &Outline),
    ) -> Result<Option<Vec<Bytes>>> {
        let mut found = Vec::with_capacity(ranges.len());
        for range in ranges {
            found.push(outline.get(&*self.storage, name, range)?);
        }
        let missing = |found: &[Option<Bytes>]| (0..ranges.len()).filter(|&i| found[i].is_none()).collect::<Vec<_>>();
        let (mut placed, mut places) = (Vec::new(), Vec::new());
        for i in missing(&found) {
            if let Some(place) = outline.place(name, &ranges[i]) {
                placed.push(i);
                places.push(place);
            }
        }
        for (i, bytes) in placed.into_iter().zip(outline.at(&*self.storage, &places)?) {
            found[i] = Some(bytes);
        }
        let left = missing(&found);
        if !left.is_empty() {
            let wanted: Vec<Range<u64>> = left.iter().map(|&i| ranges[i].clone()).collect();
            let Some(read) = self.storage.get_ranges(path, &wanted)? else { return Ok(None) };
            left.into_iter().zip(read).for_each(|(i, bytes)| found[i] = Some(bytes));
        }
        Ok(found.into_iter().collect())
    }

    /// The paths of the files in the storage, ascending.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        self.files.keys().map(|path| format!("{}{path}", self.folder))
    }

    fn meta(&self, path: &str) -> Option<&FileMeta> {
        self.files.get(path.strip_prefix(&self.folder)?)
    }

    /// A file that is read next: over a network each answer is held against its size, so that nobody need ask for it.
    fn expected(&self, path: &str) -> Option<&FileMeta> {
        let meta = self.meta(path)?;
        self.storage.expect(path, meta.size);
        Some(meta)
    }

    fn place(&self, path: &str) -> String {
        format!("{}/{path}", self.uri())
    }

    /// The paths of the files relative to the folder, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Reads all of a file, in pieces, and holds it against the list.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt` for a file that is not as it was written, `Io`.
    pub fn verify(&self, path: &str) -> Result<()> {
        self.read_through(path, |_| Ok(()))
    }

    /// Reads all of a file, gives `each` of its pieces in their order, and holds it against the list then.
    ///
    /// # Errors
    /// As [`ListedFiles::verify`], and what `each` fails with.
    pub fn read_through(&self, path: &str, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (Some(meta), Some(file)) = (self.meta(path), self.file(path)?) else {
            return Err(missing(&self.place(path)));
        };
        let mut crc = 0;
        read_pieces(file.as_ref(), std::iter::once((0..meta.size, 0)), |_, bytes| {
            crc = crc32c_append(crc, bytes);
            each(bytes)
        })?;
        meta.check_crc(crc, &self.place(path))
    }
}

impl Storage for ListedFiles {
    fn uri(&self) -> &str {
        self.storage.uri()
    }

    fn size(&self, path: &str) -> Result<Option<u64>> {
        let Some(meta) = self.meta(path) else { return Ok(None) };
        // Where each answer is held against it, nobody need ask for it.
        if self.storage.expect(path, meta.size) {
            return Ok(Some(meta.size));
        }
        let found = self.storage.size(path)?;
        found.map_or(Ok(()), |size| meta.check_size(size, &self.place(path)))?;
        Ok(found)
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let Some(meta) = self.meta(path) else { return Ok(None) };
        let outlined = self.outlined(path).map(|(name, outline)| outline.whole(&*self.storage, name));
        let bytes = match outlined.transpose()?.flatten() {
            Some(bytes) => bytes,
            None => {
                let Some(bytes) = self.storage.get(path)? else { return Ok(None) };
                bytes
            }
        };
        meta.check_size(bytes.len() as u64, &self.place(path))?;
        meta.check_crc(crc32c(&bytes), &self.place(path))?;
        Ok(Some(bytes))
    }

    fn get_ranges(&self, path: &str, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>> {
        match (self.expected(path), self.outlined(path)) {
            (None, _) => Ok(None),
            (_, Some(outlined)) => self.outlined_ranges(path, ranges, outlined),
            _ => self.storage.get_ranges(path, ranges),
        }
    }

    fn read_ahead(&self, mut wanted: Vec<Wanted>) -> Result<Option<Box<dyn Held>>> {
        wanted.retain(|wanted| self.expected(&wanted.path).is_some());
        let mut places = Vec::new();
        for Wanted { path, ranges } in &mut wanted {
            let Some((name, outline)) = self.outlined(path) else { continue };
            ranges.retain(|range| {
                let place = outline.place(name, range);
                let is_in_outline = place.is_some() || outline.has(name, range);
                places.extend(place);
                !is_in_outline
            });
        }
        wanted.retain(|wanted| !wanted.ranges.is_empty());
        if let Some(outline) = self.outline.as_ref().filter(|_| !places.is_empty()) {
            wanted.push(Wanted { path: outline.path().to_owned(), ranges: outline.missing_units(&places) });
        }
        self.storage.read_ahead(wanted)
    }

    fn file(&self, path: &str) -> Result<Option<Arc<dyn File>>> {
        let Some(meta) = self.expected(path) else { return Ok(None) };
        let file = self.storage.file(path)?;
        file.as_ref().map_or(Ok(()), |file| meta.check_size(file.len(), &self.place(path)))?;
        Ok(file)
    }

    fn list_folders(&self, path: &str) -> Result<Vec<String>> {
        self.storage.list_folders(path)
    }

    fn list_files(&self, path: &str) -> Result<Vec<(String, u64)>> {
        self.storage.list_files(path)
    }

    fn local_root(&self) -> Option<&Path> {
        self.storage.local_root()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Local;

    fn listed(folder: &Path) -> ListedFiles {
        let files = [("a/zarr.json", "{}"), ("shard", "0123456789")];
        let metas = files.map(|(path, text)| {
            let at = folder.join("d").join(path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(at, text).unwrap();
            (path.to_owned(), FileMeta::of(text.as_bytes()))
        });
        ListedFiles::new(Arc::new(Local::new(folder).unwrap()), "d", metas.into())
    }

    #[test]
    fn files_are_those_that_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let files = listed(folder.path());
        assert_eq!(files.get("d/a/zarr.json").unwrap().unwrap(), "{}");
        assert_eq!(files.size("d/shard").unwrap(), Some(10));
        assert_eq!(files.file("d/shard").unwrap().unwrap().len(), 10);
        assert_eq!(files.get_ranges("d/shard", &[2..4, 0..1]).unwrap().unwrap(), ["23", "0"]);
        files.paths().for_each(|path| files.verify(&path).unwrap());
        std::fs::write(folder.path().join("d/other"), "x").unwrap();
        assert!(files.get("d/other").unwrap().is_none() && files.file("d/other").unwrap().is_none());
        assert!(files.size("d/other").unwrap().is_none() && files.get_ranges("d/other", &[]).unwrap().is_none());
    }

    #[test]
    fn changed_files_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let files = listed(folder.path());
        std::fs::write(folder.path().join("d/a/zarr.json"), "[]").unwrap();
        let error = files.get("d/a/zarr.json").unwrap_err();
        assert!(error.to_string().contains("checksum mismatch"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        std::fs::write(folder.path().join("d/shard"), "012345678x").unwrap();
        assert!(files.file("d/shard").is_ok(), "shards have checksums of their own");
        assert!(files.verify("d/shard").unwrap_err().to_string().contains("checksum mismatch"));
        for (text, what) in [("01234", "truncated"), ("0123456789+", "longer")] {
            std::fs::write(folder.path().join("d/shard"), text).unwrap();
            for error in [files.size("d/shard").err(), files.file("d/shard").err(), files.verify("d/shard").err()] {
                assert!(error.unwrap().to_string().contains(what));
            }
        }
        std::fs::remove_file(folder.path().join("d/shard")).unwrap();
        assert_eq!(files.verify("d/shard").unwrap_err().kind(), ErrorKind::NotFound);
    }
}
