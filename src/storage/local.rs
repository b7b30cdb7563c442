//! A folder on this machine, read with positioned reads.
//!
//! `pread` rather than `mmap`: a file truncated under a map kills the process with SIGBUS, a short
//! `pread` is an error; and mapped pages count as the process's memory. Maps that were bounded and
//! guarded were measured: faster for files of up to 64 MiB, no faster beyond (a fault and its
//! undoing cost more than a `pread` of one row). `io_uring` saves the entry into the kernel, 0.1 of
//! about 0.8 µs, and is often forbidden in containers.

use std::fs::File as Handle;
use std::io::ErrorKind as IoKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{File, Storage};
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

    /// The path of a file below the root.
    fn full(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    /// A file and its length; `None` where there is none, or a folder.
    fn open(&self, path: &str) -> Result<Option<(Handle, u64)>> {
        let full = self.full(path);
        let opened = Handle::open(&full).and_then(|file| file.metadata().map(|meta| (file, meta)));
        match opened {
            Ok((_, meta)) if meta.is_dir() => Ok(None),
            Ok((file, meta)) => Ok(Some((file, meta.len()))),
            Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::NotADirectory) => Ok(None),
            Err(e) => {
                let error = DaoError::io(&full.display().to_string(), "opening", &e);
                let too_many = e.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error());
                Err(if too_many { error.hint("raise the limit of open files (ulimit -n)") } else { error })
            }
        }
    }

    /// A byte range of an open file of `size` bytes.
    fn read(&self, path: &str, file: &Handle, size: u64, range: &Range<u64>) -> Result<Bytes> {
        if range.end > size {
            return Err(truncated(&self.full(path), range.end, size));
        }
        let length = usize::try_from(range.end - range.start).map_err(|_| {
            DaoError::corrupt(&self.full(path).display().to_string(), "a range does not fit into memory")
        })?;
        let mut buffer = vec![0; length];
        read_exact(file, &self.full(path), range.start, &mut buffer)?;
        Ok(buffer.into())
    }
}

/// The error for a file that ends before what is read of it.
fn truncated(path: &Path, expected: u64, found: u64) -> DaoError {
    DaoError::corrupt(&path.display().to_string(), "file is truncated")
        .expected(format!("at least {expected} bytes"))
        .found(format!("{found} bytes"))
        .hint("restore the file or write the dataset again")
}

/// Fills `into` from `offset`.
fn read_exact(file: &Handle, path: &Path, offset: u64, into: &mut [u8]) -> Result<()> {
    file.read_exact_at(into, offset).map_err(|e| match (e.kind(), file.metadata()) {
        (IoKind::UnexpectedEof, Ok(meta)) => truncated(path, offset.saturating_add(into.len() as u64), meta.len()),
        _ => DaoError::io(&path.display().to_string(), "reading", &e),
    })
}

/// The most files that the process keeps open: half of what the system allows it.
fn most_open() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| {
        let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        allowed.map_or(1 << 16, |allowed| usize::try_from(allowed / 2).unwrap_or(usize::MAX)).min(1 << 16)
    })
}

/// The number of files that are kept open now.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// A file that is kept open, and counted in [`OPEN`].
#[derive(Debug)]
struct CountedHandle(Handle);

impl CountedHandle {
    /// The file, where few enough are open; otherwise it is closed.
    fn new(handle: Handle) -> Option<Self> {
        let counted = Self(handle);
        // Closed, and no longer counted, by `drop` where there are too many already.
        (OPEN.fetch_add(1, Ordering::Relaxed) < most_open()).then_some(counted)
    }
}

impl Drop for CountedHandle {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file of a [`Local`], opened.
#[derive(Debug)]
struct LocalFile {
    path: PathBuf,
    len: u64,
    /// `None` where too many files are open: this one is then opened for each read.
    handle: Option<CountedHandle>,
}

impl LocalFile {
    /// Runs `run` with the file open.
    fn with<T>(&self, run: impl FnOnce(&Handle) -> Result<T>) -> Result<T> {
        match &self.handle {
            Some(counted) => run(&counted.0),
            None => {
                let opened = Handle::open(&self.path);
                run(&opened.map_err(|e| DaoError::io(&self.path.display().to_string(), "opening", &e))?)
            }
        }
    }
}

impl File for LocalFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(into.len() as u64);
        if end > self.len {
            return Err(truncated(&self.path, end, self.len));
        }
        self.with(|handle| read_exact(handle, &self.path, offset, into))
    }

    fn random_access(&self) -> bool {
        true
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

    fn file(&self, path: &str) -> Result<Option<Arc<dyn File>>> {
        let Some((handle, len)) = self.open(path)? else { return Ok(None) };
        Ok(Some(Arc::new(LocalFile { path: self.full(path), len, handle: CountedHandle::new(handle) })))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::ErrorKind;

    fn folder(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Local) {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let local = Local::new(folder.path()).unwrap();
        (folder, local)
    }

    fn numbers(len: u32) -> Vec<u8> {
        (0..len / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn reads_are_the_files(reads in prop::collection::vec((0_usize..400_000, 0_usize..40_000), 1..50)) {
            let bytes = numbers(400_000);
            let (_folder, local) = folder(&[("a", &bytes)]);
            let file = local.file("a").unwrap().unwrap();
            for (offset, len) in &reads {
                let mut into = vec![1; *len];
                let read = file.read_at(*offset as u64, &mut into);
                match bytes.get(*offset..offset + len) {
                    Some(expected) => {
                        prop_assert!(read.is_ok());
                        prop_assert_eq!(&into, expected);
                    }
                    None => prop_assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt),
                }
            }
        }
    }

    #[test]
    fn files_have_a_length_and_an_end() {
        let (_folder, local) = folder(&[("empty", b""), ("few", b"abc")]);
        std::fs::create_dir(local.root.join("folder")).unwrap();
        assert!(local.file("none").unwrap().is_none());
        assert!(local.file("few/none").unwrap().is_none());
        assert!(local.file("folder").unwrap().is_none());

        let empty = local.file("empty").unwrap().unwrap();
        assert!(empty.is_empty() && empty.random_access());
        empty.read_at(0, &mut []).unwrap();
        assert_eq!(empty.read_at(0, &mut [0]).unwrap_err().kind(), ErrorKind::Corrupt);

        let few = local.file("few").unwrap().unwrap();
        assert_eq!(few.len(), 3);
        let mut into = [0; 2];
        few.read_at(1, &mut into).unwrap();
        assert_eq!(&into, b"bc");
        few.read_at(3, &mut []).unwrap();
        for offset in [2, 4, u64::MAX] {
            let error = few.read_at(offset, &mut into).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("few': file is truncated; expected at least"), "{error}");
        }
    }

    #[test]
    fn truncation_after_opening_is_an_error() {
        let bytes = numbers(600_000);
        for len in [0, 250_001, 400_000] {
            let (folder, local) = folder(&[("a", &bytes)]);
            let file = local.file("a").unwrap().unwrap();
            let mut small = [0; 1000];
            for _ in 0..2 {
                (0..599).for_each(|kb| file.read_at(kb * 1000, &mut small).unwrap());
            }
            let cut = Handle::options().write(true).open(folder.path().join("a")).unwrap();
            cut.set_len(len).unwrap();
            for kb in (0..599).rev() {
                let (start, end) = (kb * 1000, (kb + 1) * 1000);
                match file.read_at(start, &mut small) {
                    Ok(()) => {
                        assert!(end <= len);
                        assert_eq!(small, bytes[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()]);
                    }
                    Err(error) => {
                        assert!(end > len);
                        assert_eq!(error.kind(), ErrorKind::Corrupt);
                        let text = format!(
                            "file is truncated; expected at least {end} bytes, found {len} bytes. \
                             Restore the file or write the dataset again"
                        );
                        assert!(error.to_string().ends_with(&text), "{error}");
                    }
                }
            }
            let mut large = vec![0; 300_000];
            assert_eq!(file.read_at(200_000, &mut large).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn files_outlive_their_names() {
        let bytes = numbers(100_000);
        let (folder, local) = folder(&[("a", &bytes)]);
        let file = local.file("a").unwrap().unwrap();
        std::fs::remove_file(folder.path().join("a")).unwrap();
        assert!(local.file("a").unwrap().is_none());
        let mut into = [0; 500];
        for _ in 0..2 {
            file.read_at(99_500, &mut into).unwrap();
            assert_eq!(into, bytes[99_500..]);
        }
    }
}
