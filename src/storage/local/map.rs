//! A file of this machine as memory: its pages in the page cache, read without a system call.
//!
//! Where each read is of a kilobyte somewhere else, a system call costs three times what the bytes do. The pages are the
//! system's: they are shared with every process that reads the file, and taken back when memory is short.
//! A page that cannot be had (the file was cut short meanwhile, the disk fails) is noticed, see [`super::bus_error`]; what
//! is wrong is for `pread` to tell. File systems whose files change behind the kernel's back are left to `pread` too.

use std::fs::File as Handle;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::super::prefetch;
use super::bus_error;

/// The environment variable that turns maps off, where it is `off`.
const VARIABLE: &str = "DAO_POLARS_MAPS";
/// The most files that the process maps: Linux gives it 65,530 ranges of memory for everything.
const MOST: usize = 16_384;

/// The number of files that are mapped now.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// The first bytes of a file, mapped.
pub struct Map {
    start: NonNull<u8>,
    len: usize,
    /// Whether a page could not be had: zeros may be in its place.
    broken: AtomicBool,
}

// SAFETY: the memory is never written by this process, and belongs to no thread.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// The first `len` bytes of `file`; `None` where it should not or cannot be mapped: what has to come from the disk is
    /// read a page at a time through a map, and several at once by `pread`.
    pub fn new(file: &Handle, len: u64) -> Option<Self> {
        let len = usize::try_from(len).ok().filter(|&len| len > 0)?;
        if !wanted() || MAPPED.load(Ordering::Relaxed) >= MOST || !of_this_machine(file) || !bus_error::install() {
            return None;
        }
        // SAFETY: a new mapping, at a place that the system chooses, touches no memory that is in use.
        let start = unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, file, 0) };
        let map = Self { start: NonNull::new(start.ok()?.cast())?, len, broken: AtomicBool::new(false) };
        MAPPED.fetch_add(1, Ordering::Relaxed);
        // What is taken back from memory and wanted again is read alone, as rows may lie anywhere.
        // SAFETY: the range is the map; the advice does not change what is in it.
        let advised = unsafe { madvise(map.start.as_ptr().cast(), len, Advice::Random) };
        // A kernel that does not take the advice reads more than is needed, and the same bytes.
        let _ = advised;
        map.is_in_memory().then_some(map)
    }

    /// Whether nearly all of the file is in the page cache. Who neither owns the file nor may write it is told so of any.
    fn is_in_memory(&self) -> bool {
        let mut pages = vec![0_u8; self.len.div_ceil(rustix::param::page_size())];
        // SAFETY: the range is the map, and there is a byte for each of its pages.
        let known = unsafe { libc::mincore(self.start.as_ptr().cast(), self.len, pages.as_mut_ptr().cast()) } == 0;
        let absent = pages.iter().filter(|&page| page & 1 == 0).count();
        known && absent <= pages.len() / 16
    }

    /// Copies the bytes from `offset` to `into`; false, with anything in `into`, where the map does not have them all.
    pub fn copy(&self, offset: u64, into: &mut [u8]) -> bool {
        let Some(start) = usize::try_from(offset).ok().filter(|&start| start <= self.len) else { return false };
        if into.len() > self.len - start || self.broken.load(Ordering::Relaxed) {
            return false;
        }
        // SAFETY: the bytes lie within the map, which lives as long as `self` and is nobody else's; `into` is other memory.
        // What somebody changes in the file meanwhile may be copied as it was or as it becomes: any bytes are valid, and what
        // they say is checked in the copy.
        unsafe { bus_error::copy(self.start.as_ptr().add(start), into, &self.broken) };
        // Zeros that another thread's fault left may have been copied: only after the map was called broken.
        !self.broken.load(Ordering::SeqCst)
    }

    /// Asks the processor for bytes that will be copied soon.
    #[inline]
    pub fn prefetch(&self, range: &Range<u64>) {
        let within = |at: u64| usize::try_from(at).map_or(self.len, |at| at.min(self.len));
        let (start, end) = (within(range.start), within(range.end));
        prefetch(self.start.as_ptr().wrapping_add(start), end.saturating_sub(start));
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this, and nobody was given a reference into it.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        // It cannot fail for what was mapped; a map that stayed would cost addresses alone.
        let _ = unmapped;
        MAPPED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the user has not turned maps off.
fn wanted() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| std::env::var_os(VARIABLE).is_none_or(|value| value != "off"))
}

/// Whether a file lies on a file system whose pages are kept by this machine alone. Others (NFS, SMB, FUSE, 9p, …) may lose a
/// page that they had.
fn of_this_machine(file: &Handle) -> bool {
    /// ext2 to ext4, XFS, Btrfs, F2FS, bcachefs, ZFS, tmpfs, overlayfs: linux/magic.h and statfs(2).
    const LOCAL: [u64; 8] =
        [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0xCA45_1A4E, 0x2FC1_2FC1, 0x0102_1994, 0x794C_7630];
    let Ok(found) = rustix::fs::fstatfs(file) else { return false };
    u64::try_from(found.f_type).is_ok_and(|found| LOCAL.contains(&found))
}
