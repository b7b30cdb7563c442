//! A folder on this machine, read with positioned reads.
//!
//! `pread` rather than `mmap`: a file truncated under a map kills the process with
//! SIGBUS, a short `pread` is an error.

use std::fs::File;
use std::io::ErrorKind as IoKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::Storage;
use crate::error::{DaoError, Result};

/// The files below one folder.
#[derive(Debug)]
pub struct Local {
    root: PathBuf,
    uri: String,
}

impl Local {
    /// The folder `root`, made absolute, with links resolved where it exists.
    ///
    /// # Errors
    /// `Io` if the working directory is gone; `Value` if the path is not UTF-8.
    pub fn new(root: &Path) -> Result<Self> {
        let shown = root.display().to_string();
        let absolute = std::path::absolute(root).map_err(|e| DaoError::io(&shown, "resolving the path", &e))?;
        let root = absolute.canonicalize().unwrap_or(absolute);
        let uri =
            root.to_str().ok_or_else(|| DaoError::value(format!("path '{shown}' is not valid UTF-8")))?.to_owned();
        Ok(Self { root, uri })
    }

    fn full(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn open(&self, path: &str) -> Result<Option<(File, u64)>> {
        let full = self.full(path);
        let opened = File::open(&full).and_then(|file| file.metadata().map(|meta| (file, meta)));
        match opened {
            Ok((_, meta)) if meta.is_dir() => Ok(None),
            Ok((file, meta)) => Ok(Some((file, meta.len()))),
            Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::NotADirectory) => Ok(None),
            Err(e) => Err(DaoError::io(&full.display().to_string(), "opening", &e)),
        }
    }

    fn read(&self, path: &str, file: &File, size: u64, range: &Range<u64>) -> Result<Bytes> {
        let shown = || self.full(path).display().to_string();
        if range.end > size {
            return Err(DaoError::corrupt(&shown(), "file is truncated")
                .expected(format!("at least {} bytes", range.end))
                .found(format!("{size} bytes"))
                .hint("restore the file or write the dataset again"));
        }
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| DaoError::corrupt(&shown(), "a range does not fit into memory"))?;
        let mut buffer = vec![0; length];
        file.read_exact_at(&mut buffer, range.start).map_err(|e| DaoError::io(&shown(), "reading", &e))?;
        Ok(buffer.into())
    }
}

impl Storage for Local {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn size(&self, path: &str) -> Result<Option<u64>> {
        Ok(self.open(path)?.map(|(_, size)| size))
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let Some((file, size)) = self.open(path)? else { return Ok(None) };
        self.read(path, &file, size, &(0..size)).map(Some)
    }

    fn get_ranges(&self, path: &str, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>> {
        let Some((file, size)) = self.open(path)? else { return Ok(None) };
        ranges.iter().map(|range| self.read(path, &file, size, range)).collect::<Result<_>>().map(Some)
    }

    fn list_folders(&self, path: &str) -> Result<Vec<String>> {
        let full = self.full(path);
        let failed = |e: &std::io::Error| DaoError::io(&full.display().to_string(), "listing", e);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&full).map_err(|e| failed(&e))? {
            let entry = entry.map_err(|e| failed(&e))?;
            if entry.path().is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn total_size(&self, path: &str) -> Result<u64> {
        let mut total = 0;
        let mut folders = vec![self.full(path)];
        while let Some(folder) = folders.pop() {
            let failed = |e: &std::io::Error| DaoError::io(&folder.display().to_string(), "listing", e);
            for entry in std::fs::read_dir(&folder).map_err(|e| failed(&e))? {
                let entry = entry.map_err(|e| failed(&e))?;
                let meta = entry.metadata().map_err(|e| failed(&e))?;
                if meta.is_dir() {
                    folders.push(entry.path());
                } else {
                    total += meta.len();
                }
            }
        }
        Ok(total)
    }

    fn local_root(&self) -> Option<&Path> {
        Some(&self.root)
    }
}
