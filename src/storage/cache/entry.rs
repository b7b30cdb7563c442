//! The file of one object in a cache: which of its pages are there, and their bytes.
//!
//! Several processes read and write it at once, and take no locks: an object does not change, so that what two write is the same.
//! A page is written before its entry in the table. Whatever comes of a crash, a full disk or damage, a page that is not what its
//! entry's checksum says is absent; it is held against that once in a process, before it is used.

use std::fs::{File as Handle, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use uuid::Uuid;

use super::bits::Bits;
use super::layout::{self, ENTRY, Label, PAGE};
use crate::number::zeros;
use crate::storage::local::LocalFile;
use crate::storage::seen::Seen;
use crate::storage::{File, system};

/// What the name of a file begins with that is not complete.
pub const NEW: &str = ".new-";
/// How often it is noted that a file was used.
const NOTED: Duration = Duration::from_secs(60);
/// The part of an object's pages that is little.
const LITTLE: u64 = 8;
/// The pages that are looked at together.
const TOGETHER: u64 = 256;

/// An object's file; see the module.
pub struct Entry {
    path: PathBuf,
    seen: Seen,
    /// Its first bytes, as many as the object has.
    file: LocalFile,
    number: system::FileNumber,
    /// The pages that the table has.
    known: Bits,
    /// Those of them that this process has written or checked.
    checked: Bits,
    /// Whether nobody finds it any more.
    is_gone: AtomicBool,
    /// When it was noted last that it was used, in s since 1970.
    used: AtomicU64,
}

impl Entry {
    /// The file at `path`, which has to be of the object of this store; `None` where there is none, or one that is of no use,
    /// which is removed then.
    ///
    /// # Errors
    /// What opening it fails with.
    pub fn open(path: &Path, store: &str, object: &str) -> Result<Option<Self>> {
        let handle = match open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            handle => handle?,
        };
        let label = label(&handle)?.filter(|label| label.store == store && label.path == object);
        let Some(label) = label else {
            std::fs::remove_file(path)?;
            return Ok(None);
        };
        let entry = Self::of(path, label.seen, handle)?;
        entry.look(&(0..entry.n_pages()))?;
        entry.note_use();
        Ok(Some(entry))
    }

    /// The file at `path`, made anew for an object in this state, or by another process meanwhile; `None` where the label is
    /// too long.
    ///
    /// # Errors
    /// What writing it fails with.
    pub fn create(path: &Path, store: &str, object: &str, seen: &Seen) -> Result<Option<Self>> {
        let Some(page) = Label::new(store, object, seen).page() else { return Ok(None) };
        let temporary = path.with_file_name(format!("{NEW}{}", Uuid::new_v4().simple()));
        let made = system::private_file(&temporary).and_then(|handle| {
            handle.set_len(layout::len(seen.size))?;
            system::write_all_at(&handle, &page, layout::label_at(seen.size))?;
            Ok((handle, system::place(&temporary, path)?))
        });
        // Best effort: it goes with the oldest otherwise.
        let _ = std::fs::remove_file(&temporary);
        match made? {
            (handle, true) => Self::of(path, seen.clone(), handle).map(Some),
            (_, false) => Self::open(path, store, object),
        }
    }

    fn of(path: &Path, seen: Seen, handle: Handle) -> Result<Self> {
        let (number, _) = system::identity(&handle)?;
        let n = usize::try_from(layout::n_pages(seen.size)).map_err(Error::other)?;
        let (known, checked) = (Bits::new(n), Bits::new(n));
        let file = LocalFile::of(path.to_owned(), seen.size, handle);
        let (is_gone, used) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Self { path: path.to_owned(), seen, file, number, known, checked, is_gone, used })
    }

    /// The state of the object that it has pages of.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Whether its name was taken from it, as far as is known.
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    /// Removes it; who has it open can go on reading.
    pub fn remove(&self) {
        self.is_gone.store(true, Ordering::Relaxed);
        // Another process may have done so, and what cannot be removed is not written to any more.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Whether all pages of the object are there.
    #[inline]
    pub fn is_complete(&self) -> bool {
        self.known.is_full()
    }

    /// What is not there, where that is little of the object: the places of what its readers knew already, and never asked for.
    pub fn rest(&self) -> Option<Vec<Range<u64>>> {
        let n = self.n_pages();
        if self.known.n_missing() as u64 > n / LITTLE {
            return None;
        }
        let mut rest: Vec<Range<u64>> = Vec::new();
        for page in (0..n).filter(|&page| !self.known.has(&bits(&(page..page + 1)))) {
            let bytes = layout::bytes(&(page..page + 1), self.seen.size);
            match rest.last_mut().filter(|last| last.end == bytes.start) {
                Some(last) => last.end = bytes.end,
                None => rest.push(bytes),
            }
        }
        Some(rest)
    }

    /// Whether all pages of a range are there, as far as the table says.
    pub fn has(&self, range: &Range<u64>) -> bool {
        if range.end > self.seen.size {
            return false;
        }
        let pages = layout::pages(range);
        let bits = bits(&pages);
        // Another process may have put some.
        self.known.has(&bits) || (self.look(&pages).is_ok() && self.known.has(&bits))
    }

    /// Fills `into` with the object's bytes from `offset`; false, with anything in `into`, where they are not all there.
    #[inline]
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> bool {
        let range = offset..offset.saturating_add(into.len() as u64);
        if range.end > self.seen.size {
            return false;
        }
        let pages = layout::pages(&range);
        (self.checked.has(&bits(&pages)) || self.check(&pages).is_ok_and(|all| all)) && self.read(offset, into).is_ok()
    }

    /// The bytes of a range, where they are all there.
    pub fn get(&self, range: &Range<u64>) -> Option<Bytes> {
        let mut bytes = zeros(usize::try_from(range.end.checked_sub(range.start)?).ok()?).ok()?;
        self.read_at(range.start, &mut bytes).then(|| bytes.into())
    }

    /// Tells that a range is about to be read, among others that lie apart.
    #[inline]
    pub fn will_read(&self, range: &Range<u64>) {
        self.file.will_read(range);
    }

    /// Puts the pages that lie whole in `range`, whose bytes these are; the number of bytes that were written.
    ///
    /// # Errors
    /// What writing them fails with.
    pub fn put(&self, range: &Range<u64>, bytes: &[u8]) -> Result<u64> {
        let pages = layout::whole_pages(range, self.seen.size);
        if pages.is_empty() || self.checked.has(&bits(&pages)) || self.is_gone() {
            return Ok(0);
        }
        let within = layout::bytes(&pages, self.seen.size);
        let at = |at: u64| usize::try_from(at - range.start).map_err(Error::other);
        let bytes = bytes.get(at(within.start)?..at(within.end)?).ok_or(ErrorKind::InvalidInput)?;
        let page = usize::try_from(PAGE).map_err(Error::other)?;
        let table: Vec<u8> = bytes.chunks(page).flat_map(|page| layout::entry(page).to_le_bytes()).collect();
        self.with(|handle| {
            // What nobody finds takes room for nothing.
            if !system::identity(handle)?.1 {
                self.is_gone.store(true, Ordering::Relaxed);
                return Ok(0);
            }
            system::write_all_at(handle, bytes, within.start)?;
            system::write_all_at(handle, &table, layout::entry_at(pages.start, self.seen.size))?;
            self.checked.set(&bits(&pages));
            self.known.set(&bits(&pages));
            Ok(bytes.len() as u64)
        })
    }

    /// Notes that it is used, once a minute.
    pub fn note_use(&self) {
        let now = SystemTime::now();
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        if seconds.saturating_sub(self.used.load(Ordering::Relaxed)) >= NOTED.as_secs() {
            self.used.store(seconds, Ordering::Relaxed);
            // Who may not note it loses what is kept a little sooner.
            let _ = self.with(|handle| handle.set_modified(now));
        }
    }

    fn n_pages(&self) -> u64 {
        layout::n_pages(self.seen.size)
    }

    /// Reads which of these pages the table has; the entries.
    fn look(&self, pages: &Range<u64>) -> Result<Vec<u64>> {
        let n = usize::try_from((pages.end - pages.start) * ENTRY).map_err(Error::other)?;
        let mut table = vec![0; n];
        self.with(|handle| system::read_exact_at(handle, &mut table, layout::entry_at(pages.start, self.seen.size)))?;
        let entries: Vec<u64> = table.as_chunks().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect();
        let mut start = bits(pages).start;
        for run in entries.chunk_by(|a, b| layout::is_present(*a) == layout::is_present(*b)) {
            if layout::is_present(run[0]) {
                self.known.set(&(start..start + run.len()));
            }
            start += run.len();
        }
        Ok(entries)
    }

    /// Holds pages against their checksums; whether all are there.
    #[cold]
    fn check(&self, pages: &Range<u64>) -> Result<bool> {
        let mut start = pages.start;
        let mut buffer = vec![0; usize::try_from((pages.end - start).min(TOGETHER) * PAGE).map_err(Error::other)?];
        while start < pages.end {
            let some = start..pages.end.min(start + TOGETHER);
            let entries = self.look(&some)?;
            let bytes = layout::bytes(&some, self.seen.size);
            let buffer = &mut buffer[..usize::try_from(bytes.end - bytes.start).map_err(Error::other)?];
            if !entries.iter().all(|&entry| layout::is_present(entry)) {
                return Ok(false);
            }
            self.read(bytes.start, buffer)?;
            let page = usize::try_from(PAGE).map_err(Error::other)?;
            for (number, (page, &entry)) in (bits(&some).start..).zip(buffer.chunks(page).zip(&entries)) {
                if layout::entry(page) != entry {
                    self.drop_page(number)?;
                    return Ok(false);
                }
            }
            self.checked.set(&bits(&some));
            start = some.end;
        }
        Ok(true)
    }

    /// Calls a page absent that is not what its entry says.
    fn drop_page(&self, page: usize) -> Result<()> {
        self.known.clear(&(page..page + 1));
        let at = layout::entry_at(page as u64, self.seen.size);
        self.with(|handle| system::write_all_at(handle, &0_u64.to_le_bytes(), at))
    }

    /// Bytes of the file, whatever they are.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        if self.file.handle().is_some() {
            return self.file.read_at(offset, into).map_err(Error::other);
        }
        self.with(|handle| system::read_exact_at(handle, into, offset))
    }

    /// Does something with the file, which is opened for it where too many are open.
    fn with<T>(&self, work: impl FnOnce(&Handle) -> Result<T>) -> Result<T> {
        if let Some(handle) = self.file.handle() {
            return work(handle);
        }
        let handle = open(&self.path)?;
        // Another of this name may have pages of another state of the object, or lack some that this had.
        if system::identity(&handle)?.0 != self.number {
            self.is_gone.store(true, Ordering::Relaxed);
            return Err(ErrorKind::NotFound.into());
        }
        work(&handle)
    }
}

fn open(path: &Path) -> Result<Handle> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// The label of a file that is as long as it says; `None` where it has none.
fn label(handle: &Handle) -> Result<Option<Label>> {
    let len = handle.metadata()?.len();
    let Some(at) = len.checked_sub(PAGE) else { return Ok(None) };
    let mut page = vec![0; usize::try_from(PAGE).map_err(Error::other)?];
    system::read_exact_at(handle, &mut page, at)?;
    Ok(Label::of(&page).filter(|label| layout::len(label.seen.size) == len))
}

/// Pages as places in memory, which has a bit for each.
fn bits(pages: &Range<u64>) -> Range<usize> {
    let at = |page: u64| usize::try_from(page).unwrap_or(usize::MAX);
    at(pages.start)..at(pages.end)
}

#[cfg(test)]
mod tests;
