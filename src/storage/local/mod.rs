//! A folder on this machine, read with positioned reads, or through maps of its files.
//!
//! Files are mapped once ranges are read of them that lie apart, if they are in memory and where that is safe enough: see
//! [`map`]. What is read in order is the kernel's to read ahead. `io_uring` saves the entry into the kernel, 0.1 of about
//! 0.8 µs, and is often forbidden in containers.

#[cfg(target_os = "linux")]
mod bus_error;
#[cfg(target_os = "linux")]
mod map;
#[cfg(not(target_os = "linux"))]
mod no_map;
mod write;

use std::cmp::Ordering::{Equal, Greater, Less};
use std::fs::{DirEntry, File as Handle};
use std::io::ErrorKind as IoKind;
#[cfg(target_os = "linux")]
use std::num::NonZero;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;

use super::{File, NewFile, Storage, check_end, system};
use crate::error::{DaoError, Result};
use crate::number::zeros;
#[cfg(target_os = "linux")]
use map::Map;
#[cfg(not(target_os = "linux"))]
use no_map::Map;
pub use write::{make_folder, write_error};

/// The files below one folder.
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
        let absolute = std::path::absolute(root).map_err(|e| DaoError::io(root, "resolving the path", &e))?;
        let root = system::plain(absolute.canonicalize().unwrap_or(absolute));
        match root.to_str() {
            Some(uri) => Ok(Self { uri: uri.to_owned(), root }),
            None => Err(DaoError::value(format!("path '{}' is not valid UTF-8", root.display()))),
        }
    }

    fn full(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    /// A file, opened; `None` where there is none, or a folder.
    fn open(&self, path: &str) -> Result<Option<LocalFile>> {
        let path = self.full(path);
        match Handle::open(&path).and_then(|handle| handle.metadata().map(|meta| (handle, meta))) {
            Ok((_, meta)) if meta.is_dir() => Ok(None),
            Ok((handle, meta)) => Ok(Some(LocalFile::of(path, meta.len(), handle))),
            Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::NotADirectory) => Ok(None),
            // Windows does not open folders.
            Err(e) if e.kind() == IoKind::PermissionDenied && path.is_dir() => Ok(None),
            Err(e) => {
                let error = DaoError::io(&path, "opening", &e);
                Err(if system::is_too_many_open(&e) {
                    error.hint("raise the limit of open files (ulimit -n)")
                } else {
                    error
                })
            }
        }
    }
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>> {
    std::fs::read_dir(folder).and_then(|entries| entries.collect()).map_err(|e| {
        // What is below a file is not there.
        let e = if e.kind() == IoKind::NotADirectory { IoKind::NotFound.into() } else { e };
        DaoError::io(folder, "listing", &e)
    })
}

/// The most folders in each other that are listed: a store has far fewer, and links may lead in a circle.
const MAX_DEPTH: usize = 32;

/// The most files that the process keeps open: half of what the system allows it.
fn most_open() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| system::most_open().min(1 << 16))
}

/// The bytes that a disk gives in order in the time of one range from anywhere, about.
const AS_LONG_AS_A_RANGE: u64 = 128 << 10;

/// The bytes that Linux fetches for one advice, where it is set to fetch few.
const READ_AHEAD: usize = 128 << 10;

/// The ranges that are read by `pread` before it is looked again whether a file is in memory.
const LOOK_AGAIN: usize = 4096;

/// The number of files that are kept open now.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// A file that is kept open, and counted in [`OPEN`].
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

/// A file of this machine, opened.
pub struct LocalFile {
    path: PathBuf,
    len: u64,
    /// `None` where too many files are open: this one is then opened for each read.
    handle: Option<CountedHandle>,
    /// Made once ranges are read that lie apart, and the file is in memory.
    map: OnceLock<Map>,
    /// The ranges that were to be read before there was a map.
    told: AtomicUsize,
}

impl LocalFile {
    /// The first `len` bytes of the file that was opened at `path`.
    pub fn of(path: PathBuf, len: u64, handle: Handle) -> Self {
        Self { path, len, handle: CountedHandle::new(handle), map: OnceLock::new(), told: AtomicUsize::new(0) }
    }

    /// The open file; `None` where too many are open.
    pub fn handle(&self) -> Option<&Handle> {
        self.handle.as_ref().map(|counted| &counted.0)
    }

    /// The bytes `range` of the file; memory is asked for only where the file has so many.
    fn read(&self, range: &Range<u64>) -> Result<Bytes> {
        check_end("file", self.path.display(), range.end, self.len)?;
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| DaoError::corrupt(&self.path.display().to_string(), "a range does not fit into memory"))?;
        let mut bytes = zeros(length)?;
        self.read_at(range.start, &mut bytes)?;
        Ok(bytes.into())
    }

    /// Has the system fetch a range of the file from the disk, without waiting for it.
    fn advise(&self, range: Range<u64>) {
        #[cfg(target_os = "linux")]
        if let (Some(handle), Some(len)) = (&self.handle, NonZero::new(range.end.saturating_sub(range.start))) {
            // It is advice alone: what does not come is read when it is asked for.
            let _ = rustix::fs::fadvise(&handle.0, range.start, Some(len), rustix::fs::Advice::WillNeed);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }
}

impl File for LocalFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        if self.map.get().is_some_and(|map| map.copy(offset, into)) {
            return Ok(());
        }
        let end = offset.saturating_add(into.len() as u64);
        check_end("file", self.path.display(), end, self.len)?;
        let opened;
        let handle = match &self.handle {
            Some(counted) => &counted.0,
            None => {
                opened = Handle::open(&self.path).map_err(|e| DaoError::io(&self.path, "opening", &e))?;
                &opened
            }
        };
        system::read_exact_at(handle, into, offset).map_err(|e| {
            // A file that shrank since it was opened.
            let shrunk =
                handle.metadata().ok().and_then(|meta| check_end("file", self.path.display(), end, meta.len()).err());
            shrunk.unwrap_or_else(|| DaoError::io(&self.path, "reading", &e))
        })
    }

    fn random_access(&self) -> bool {
        true
    }

    fn will_read(&self, range: &Range<u64>) {
        if let Some(map) = self.map.get() {
            return map.prefetch(range);
        }
        let told = self.told.fetch_add(1, Ordering::Relaxed);
        if told.is_multiple_of(LOOK_AGAIN)
            && let Some(CountedHandle(handle)) = &self.handle
            && let Some(map) = Map::new(handle, self.len)
        {
            // Another thread's map is as good.
            self.map.get_or_init(|| map);
            return;
        }
        // The disk is asked for a range while other rows are decoded; for all of the file once that is cheaper.
        match (told as u64).cmp(&(self.len / AS_LONG_AS_A_RANGE)) {
            Less => self.advise(range.clone()),
            Equal => (0..self.len).step_by(READ_AHEAD).for_each(|at| self.advise(at..at + READ_AHEAD as u64)),
            Greater => {}
        }
    }
}

impl Storage for Local {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn size(&self, path: &str) -> Result<Option<u64>> {
        Ok(self.open(path)?.map(|file| file.len))
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>> {
        self.open(path)?.map(|file| file.read(&(0..file.len))).transpose()
    }

    fn get_ranges(&self, path: &str, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>> {
        self.open(path)?.map(|file| ranges.iter().map(|range| file.read(range)).collect()).transpose()
    }

    fn file(&self, path: &str) -> Result<Option<Arc<dyn File>>> {
        Ok(self.open(path)?.map(|file| Arc::new(file) as Arc<dyn File>))
    }

    fn list_folders(&self, path: &str) -> Result<Vec<String>> {
        let folders = entries(&self.full(path))?.into_iter().filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> = folders.filter_map(|folder| folder.file_name().into_string().ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn list_files(&self, path: &str) -> Result<Vec<(String, u64)>> {
        let (mut files, mut folders) = (Vec::new(), vec![(self.full(path), 0)]);
        while let Some((folder, depth)) = folders.pop() {
            if depth > MAX_DEPTH {
                let e = DaoError::value("folders lie too deep in each other; is a link among them a circle?");
                return Err(e.at(format!("path '{}'", folder.display())));
            }
            for entry in entries(&folder)? {
                let path = entry.path();
                // Links are followed, as they are when files are opened; one that leads nowhere is listed itself.
                let meta = std::fs::metadata(&path).or_else(|_| entry.metadata());
                match meta.map_err(|e| DaoError::io(&path, "listing", &e))? {
                    meta if meta.is_dir() => folders.push((path, depth + 1)),
                    meta => {
                        let path = path.strip_prefix(&self.root).unwrap_or(&path);
                        files.push((system::inside(path), meta.len()));
                    }
                }
            }
        }
        Ok(files)
    }

    fn modified(&self, path: &str) -> Result<Option<SystemTime>> {
        Ok(std::fs::metadata(self.full(path)).and_then(|meta| meta.modified()).ok())
    }

    fn local_root(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn create(&self, path: &str) -> Result<Box<dyn NewFile>> {
        self.begin_file(path)
    }

    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<bool> {
        self.put_new_file(path, bytes)
    }

    fn replace(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.replace_file(path, bytes)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.remove_file(path)
    }

    fn remove_folder(&self, path: &str) -> Result<()> {
        self.remove_all(path)
    }

    fn sync_file(&self, path: &str) -> Result<()> {
        let path = self.full(path);
        system::flush(&path).map_err(write_error(&path, "flushing"))
    }

    fn sync(&self, path: &str) -> Result<()> {
        self.sync_folders(path)
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
