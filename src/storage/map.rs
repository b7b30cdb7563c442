//! Small reads copied out of a map, without a system call.
//!
//! Owns the maps of this process and which parts of them may be resident. What the kernel maps
//! at a fault is its own choice (the folio around the address, up to 2 MiB of it), and a fault
//! with its undoing costs as much as ten reads by `pread`. So a map serves only pages that were
//! read before, of as many windows as the bound allows: what is read again and again.

use std::cell::Cell;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::guard::{self, REGIONS, Region};

/// Bytes that a read may have to go through a map; beyond, `pread` is about as fast.
pub const SMALL: usize = 32 << 10;

/// Bytes that a file must have to be mapped.
const LEAST: u64 = 64 << 10;

/// Bytes of all windows together that may be resident.
const BOUND: usize = 64 << 20;

/// Reads outside of the windows after which others get their turn: many, as changing costs some thousand faults.
const TURN: usize = 1 << 20;

/// Reads that a thread counts on its own.
const BATCH: usize = 256;

/// Bytes that a bit stands for in what was read, as a power of two.
const PAGE_BITS: u32 = 12;

/// Bytes of the windows in use.
static RESIDENT: AtomicUsize = AtomicUsize::new(0);
/// Reads outside of them since the last turn.
static MISSED: AtomicUsize = AtomicUsize::new(0);
/// All maps, by the slot of their region. Who holds [`TURNING`] may look at them.
static MAPS: [AtomicPtr<Windows>; REGIONS] = [const { AtomicPtr::new(ptr::null_mut()) }; REGIONS];
static TURNING: Lock = Lock(AtomicU32::new(0));

/// A file in memory.
#[derive(Debug)]
pub struct Map {
    // In this order: a region is watched for as long as it is mapped, and no longer.
    region: Region,
    windows: Arc<Windows>,
}

impl Map {
    /// Maps the first `len` bytes of `file`; `None` if that is not possible or not worth it.
    pub fn new(file: &File, len: u64) -> Option<Self> {
        if len < LEAST {
            return None;
        }
        let memory = Memory::new(file, usize::try_from(len).ok()?)?;
        let region = Region::watch(memory.start.as_ptr(), memory.len)?;
        let windows = Arc::new(Windows::new(memory));
        MAPS[region.slot()].store(Arc::as_ptr(&windows).cast_mut(), Ordering::SeqCst);
        Some(Self { region, windows })
    }

    /// Fills `into` with the bytes from `offset`, which must be in the file; false if they are
    /// to be read from the file itself. [`Map::seen`] then lets the map serve them.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        self.windows.serve(&self.windows.pages(offset, into.len())) && self.copy(offset, into)
    }

    /// Tells that these bytes were read from the file.
    pub fn seen(&self, offset: usize, len: usize) {
        if len > 0 && !self.region.damaged() {
            self.windows.seen(self.windows.pages(offset, len));
        }
    }

    pub(super) fn copy(&self, offset: usize, into: &mut [u8]) -> bool {
        let Windows { memory, .. } = &*self.windows;
        if into.is_empty() || offset.checked_add(into.len()).is_none_or(|end| end > memory.len) || self.region.damaged()
        {
            return false;
        }
        // SAFETY: in the map, by the comparison above, and the map lives as long as `self`. If
        // the file is shorter by now, the guard lets the copy go on with zeros.
        unsafe { copy(memory.start.as_ptr().add(offset), into.as_mut_ptr(), into.len()) };
        // Where a file ends within a page, the rest of the page reads as zeros, and no signal
        // tells. So zeros at the end are not believed.
        !self.region.damaged() && into.last() != Some(&0)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let _held = TURNING.hold();
        MAPS[self.region.slot()].store(ptr::null_mut(), Ordering::SeqCst);
        let freed = self.windows.close();
        RESIDENT.fetch_sub(freed, Ordering::SeqCst);
    }
}

/// Copies from memory that others may be writing to, hence without a reference to it. Not
/// inlined: a compiler that knows neither place cannot move the copy past the caller's fence.
///
/// # Safety
/// `len` bytes can be read at `from` and written at `into`, which is nobody else's.
#[inline(never)]
unsafe fn copy(from: *const u8, into: *mut u8, len: usize) {
    // SAFETY: the caller's word.
    unsafe { ptr::copy_nonoverlapping(from, into, len) };
}

/// Mapped memory.
#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to the process, not to a thread, and is only copied from.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(file: &File, len: usize) -> Option<Self> {
        // SAFETY: a new map at a place of the kernel's choice touches no memory in use.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let memory = Self { start: NonNull::new(start.cast())?, len };
        memory.advise(libc::MADV_RANDOM);
        Some(memory)
    }

    /// Nothing depends on whether advice is taken.
    fn advise(&self, advice: libc::c_int) {
        // SAFETY: the range is the map, which only `drop` unmaps; neither advice that is given
        // here changes what a file's pages read as.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, advice) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length; nobody has a pointer to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// What of a map may be resident.
#[derive(Debug)]
struct Windows {
    memory: Memory,
    /// Bytes from the start of the first window to the start of the map.
    lead: usize,
    /// Bytes of a window, as a power of two: what a page table maps, and thus at most a fault.
    bits: u32,
    /// Whether a window may be resident.
    open: Box<[AtomicBool]>,
    /// A bit for every page that was read while its window was open.
    pages: Box<[AtomicU64]>,
}

impl Windows {
    fn new(memory: Memory) -> Self {
        // A page of eight-byte entries for as many pages.
        let window = guard::page() * (guard::page() / 8);
        let bits = window.trailing_zeros();
        let lead = memory.start.addr().get() & (window - 1);
        let end = lead + memory.len;
        let open = (0..end.div_ceil(window)).map(|_| AtomicBool::new(false)).collect();
        let pages = (0..end.div_ceil(64 << PAGE_BITS)).map(|_| AtomicU64::new(0)).collect();
        Self { memory, lead, bits, open, pages }
    }

    /// The pages of some bytes, counted from the start of the first window.
    fn pages(&self, offset: usize, len: usize) -> RangeInclusive<usize> {
        let first = self.lead + offset;
        first >> PAGE_BITS..=(first + len.saturating_sub(1)) >> PAGE_BITS
    }

    /// Whether all these pages may be read from the map.
    fn serve(&self, pages: &RangeInclusive<usize>) -> bool {
        pages.clone().all(|page| {
            self.pages.get(page / 64).is_some_and(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 == 1)
        })
    }

    fn seen(&self, pages: RangeInclusive<usize>) {
        for page in pages {
            let window = page >> (self.bits - PAGE_BITS);
            let (Some(word), Some(open)) = (self.pages.get(page / 64), self.open.get(window)) else { return };
            if !open.load(Ordering::Relaxed) && !self.admit(window, open) {
                return missed();
            }
            let bit = 1 << (page % 64);
            word.fetch_or(bit, Ordering::SeqCst);
            if !open.load(Ordering::SeqCst) {
                // Closed meanwhile, perhaps before the bit was set.
                word.fetch_and(!bit, Ordering::SeqCst);
            }
        }
    }

    /// Opens a window if the bound allows.
    fn admit(&self, window: usize, open: &AtomicBool) -> bool {
        let bytes = self.bytes(window);
        let more = |now: usize| now.checked_add(bytes).filter(|&sum| sum <= BOUND);
        if RESIDENT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_err() {
            return false;
        }
        if open.swap(true, Ordering::SeqCst) {
            // Another thread was faster.
            RESIDENT.fetch_sub(bytes, Ordering::SeqCst);
        }
        true
    }

    /// Bytes of the map in a window.
    fn bytes(&self, window: usize) -> usize {
        let start = window << self.bits;
        let end = (self.lead + self.memory.len).min(start + (1 << self.bits));
        end - start.max(self.lead)
    }

    /// Closes all windows; the bytes of those that were open.
    fn close(&self) -> usize {
        let were = self.open.iter().enumerate().filter(|(_, open)| open.swap(false, Ordering::SeqCst));
        let bytes = were.map(|(window, _)| self.bytes(window)).sum();
        if bytes > 0 {
            self.pages.iter().for_each(|word| word.store(0, Ordering::SeqCst));
        }
        bytes
    }
}

/// Counts a read outside of the windows; the one that is too many closes them all.
fn missed() {
    thread_local! { static COUNT: Cell<usize> = const { Cell::new(0) } }
    let count = COUNT.get() + 1;
    COUNT.set(count % BATCH);
    if count == BATCH && MISSED.fetch_add(BATCH, Ordering::Relaxed) + BATCH >= TURN {
        turn();
    }
}

/// Closes all windows and lets go of their memory. The page cache keeps it.
fn turn() {
    let Some(_held) = TURNING.try_hold() else { return };
    for map in &MAPS[..guard::used().min(REGIONS)] {
        // SAFETY: a map leaves the table, under the lock held here, before it is freed.
        if let Some(windows) = unsafe { map.load(Ordering::SeqCst).as_ref() } {
            let freed = windows.close();
            if freed > 0 {
                windows.memory.advise(libc::MADV_DONTNEED);
                RESIDENT.fetch_sub(freed, Ordering::SeqCst);
            }
        }
    }
    MISSED.store(0, Ordering::Relaxed);
}

/// A lock that holds the id of its process: a fork may copy it while it is held by a thread
/// that the child does not have.
struct Lock(AtomicU32);

struct Held<'a>(&'a Lock);

impl Lock {
    /// `None` if another thread holds it.
    fn try_hold(&self) -> Option<Held<'_>> {
        let own = std::process::id();
        let holder = self.0.load(Ordering::Relaxed);
        let free = holder != own && self.0.compare_exchange(holder, own, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        free.then(|| Held(self))
    }

    /// Waits: a turn takes some milliseconds at most.
    fn hold(&self) -> Held<'_> {
        loop {
            if let Some(held) = self.try_hold() {
                return held;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::time::Instant;

    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    use super::super::guard::tests::in_child;
    use super::*;

    /// A file of bytes other than 0.
    fn file(len: usize, seed: u64) -> (File, Vec<u8>) {
        // Repeated, as filling it all takes long without optimisation; no page is like another.
        let mut block = vec![0; 100_003.min(len)];
        ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut block);
        block.iter_mut().for_each(|byte| *byte |= 1);
        let mut bytes = block.repeat(len / block.len() + 1);
        bytes.truncate(len);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        (file, bytes)
    }

    fn map(file: &File) -> Map {
        Map::new(file, file.metadata().unwrap().len()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn copies_are_the_files(len in 65_536_usize..5_000_000, places in prop::collection::vec((0.0..1.0, 0_usize..SMALL), 50)) {
            let (file, bytes) = file(len, len as u64);
            let map = map(&file);
            for (place, size) in places {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
                let offset = (place * (len - size) as f64) as usize;
                let mut into = vec![0; size];
                prop_assert_eq!(map.copy(offset, &mut into), size > 0);
                prop_assert_eq!(&into, &bytes[offset..offset + size]);
            }
        }
    }

    #[test]
    fn only_what_was_seen_is_served() {
        const NAME: &str = "storage::map::tests::only_what_was_seen_is_served";
        let child = in_child(NAME, "seen", || {
            let (file, bytes) = file(300_000, 1);
            let map = map(&file);
            let mut into = [0; 1000];
            assert!(!map.read(5000, &mut into));
            map.seen(5000, 1000);
            assert!(map.read(5000, &mut into));
            assert_eq!(into, bytes[5000..6000]);
            assert!(!map.read(8000, &mut into), "half of it is on another page");
            assert!(!map.read(299_500, &mut into), "past the end");
            assert!(!map.read(usize::MAX - 10_000_000, &mut into));
            turn();
            assert!(!map.read(5000, &mut into));
            map.seen(5000, 1000);
            assert!(map.read(5000, &mut into));
        });
        assert!(child.is_none_or(|status| status.success()));
    }

    #[test]
    fn zeros_at_the_end_are_not_believed() {
        let (file, _) = file(100_000, 2);
        let map = map(&file);
        file.set_len(50_000).unwrap();
        assert!(map.copy(49_000, &mut [0; 1000]));
        assert!(!map.copy(49_001, &mut [0; 1000]), "on the last page");
        assert!(!map.region.damaged());
    }

    #[test]
    fn truncation_is_seen_by_all_threads() {
        let (file, _) = file(4 << 20, 3);
        for _ in 0..20 {
            file.write_all_at(&vec![1; 4 << 20], 0).unwrap();
            let map = map(&file);
            std::thread::scope(|scope| {
                for seed in 0..4 {
                    let map = &map;
                    scope.spawn(move || {
                        let mut random = ChaCha8Rng::seed_from_u64(seed);
                        let mut into = [0; 3000];
                        for _ in 0..20_000 {
                            let offset = random.next_u32() as usize % ((4 << 20) - 3000);
                            if map.copy(offset, &mut into) {
                                assert!(into.iter().all(|&byte| byte == 1));
                            }
                        }
                    });
                }
                file.set_len(0).unwrap();
            });
            assert!(!map.copy(0, &mut [0; 100]));
        }
    }

    #[test]
    fn maps_come_and_go_while_others_turn() {
        let (file, bytes) = file(1 << 20, 4);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for place in (0..1_000_000).step_by(2503) {
                        let map = map(&file);
                        map.seen(place, 4000);
                        let mut into = [0; 4000];
                        if map.read(place, &mut into) {
                            assert_eq!(into, bytes[place..place + 4000]);
                        }
                    }
                });
            }
            scope.spawn(|| (0..1000).for_each(|_| turn()));
        });
    }

    #[test]
    fn a_lock_of_another_process_is_taken_over() {
        let lock = Lock(AtomicU32::new(0));
        let held = lock.try_hold();
        assert!(held.is_some() && lock.try_hold().is_none());
        drop(held);
        lock.0.store(std::process::id() + 1, Ordering::SeqCst);
        assert!(lock.try_hold().is_some());
        drop(lock.hold());
    }

    fn status(line: &str) -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let value = status.lines().find_map(|l| l.strip_prefix(line)).unwrap();
        value.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    /// Reads 1 KiB at random places of the first `span` bytes: nanoseconds of a read.
    fn random_reads(threads: u64, reads: u32, span: usize, read: impl Fn(usize, &mut [u8]) + Sync) -> f64 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for seed in 0..threads {
                let read = &read;
                scope.spawn(move || {
                    let mut random = ChaCha8Rng::seed_from_u64(seed);
                    let mut into = [0; 1024];
                    for _ in 0..reads {
                        read(random.next_u32() as usize % (span - 1024), &mut into);
                    }
                });
            }
        });
        start.elapsed().as_secs_f64() * 1e9 / f64::from(reads)
    }

    fn read(file: &File, map: &Map, offset: usize, into: &mut [u8]) {
        if !map.read(offset, into) {
            file.read_exact_at(into, offset as u64).unwrap();
            map.seen(offset, into.len());
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn little_is_resident() {
        const NAME: &str = "storage::map::tests::little_is_resident";
        let child = in_child(NAME, "resident", || {
            let (file, _) = file(200 << 20, 5);
            let map = map(&file);
            let before = status("RssFile:");
            for turns in 0..4 {
                random_reads(2, 40_000, 200 << 20, |offset, into| read(&file, &map, offset, into));
                let more = status("RssFile:").saturating_sub(before);
                assert!(more < BOUND + (8 << 20), "{more} bytes after {turns} turns");
                assert!(RESIDENT.load(Ordering::SeqCst) <= BOUND);
                turn();
            }
            assert!(status("RssFile:").saturating_sub(before) < 8 << 20);
            read(&file, &map, 5000, &mut [0; 10]);
            assert!(RESIDENT.load(Ordering::SeqCst) > 0);
            drop(map);
            assert_eq!(RESIDENT.load(Ordering::SeqCst), 0);
        });
        assert!(child.is_none_or(|status| status.success()));
    }

    /// `cargo test --release measure_reads -- --ignored --nocapture`
    #[test]
    #[ignore = "measures"]
    #[cfg(target_os = "linux")]
    fn measure_reads() {
        const NAME: &str = "storage::map::tests::measure_reads";
        in_child(NAME, "measure", || {
            let (file, _) = file(400 << 20, 6);
            for threads in [1, 2] {
                for span in [1_usize, 16, 60, 100, 400] {
                    let map = map(&file);
                    let (before, reads) = (status("RssFile:"), 1_000_000);
                    let through = |offset: usize, into: &mut [u8]| read(&file, &map, offset, into);
                    random_reads(threads, reads, span << 20, through);
                    let mut most = 0;
                    let (mut mapped, mut pread) = (f64::MAX, f64::MAX);
                    for _ in 0..5 {
                        mapped = mapped.min(random_reads(threads, reads, span << 20, through));
                        most = most.max(status("RssFile:").saturating_sub(before) >> 20);
                        let direct = |offset: usize, into: &mut [u8]| file.read_exact_at(into, offset as u64).unwrap();
                        pread = pread.min(random_reads(threads, reads, span << 20, direct));
                    }
                    println!("{threads} threads, {span} MiB: {mapped:.0} ns, pread {pread:.0} ns, RssFile +{most} MiB");
                }
            }
        });
    }
}
