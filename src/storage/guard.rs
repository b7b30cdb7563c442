//! Keeps a file truncated under a map from killing the process.
//!
//! Owns the handler of SIGBUS and the table of the maps that it looks after. A read that hits
//! a page the file no longer has goes on with zeros, and [`Region::damaged`] tells so; every
//! other SIGBUS goes to whoever handled it before.

use std::ffi::{c_int, c_void};
use std::mem::{MaybeUninit, transmute};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

use libc::{SIG_DFL, SIG_IGN, SIGBUS, sigaction, siginfo_t};

/// Regions watched at the same time, at most; Linux allows 65,530 maps to a process.
pub const REGIONS: usize = 16_384;

/// The granularity of addresses in the table; pages are this or a multiple.
const UNIT: usize = 4096;

/// Bits of a packed region for its length in units: up to 1 TiB, leaving 48 bits for addresses.
const LENGTH_BITS: u32 = 28;

/// A slot that is taken, but covers nothing.
const RESERVED: u64 = 1 << LENGTH_BITS;

/// Handlers passed a signal on at the same time before that looks like a circle of handlers.
const PASSED: usize = 16;

struct Slot {
    /// The first unit and the number of units in one word, so that the handler never sees
    /// the one without the other; 0 is a free slot.
    region: AtomicU64,
    damaged: AtomicBool,
}

static SLOTS: [Slot; REGIONS] =
    [const { Slot { region: AtomicU64::new(0), damaged: AtomicBool::new(false) } }; REGIONS];
/// All slots ever taken are below.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Where to look for a free slot.
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// Bytes of a page: what the handler replaces.
static PAGE: AtomicUsize = AtomicUsize::new(UNIT);
/// Who handled SIGBUS before. Never freed: a handler may be reading it.
static PREVIOUS: AtomicPtr<sigaction> = AtomicPtr::new(ptr::null_mut());
/// Signals that previous handlers are busy with.
static PASSING: AtomicUsize = AtomicUsize::new(0);
/// Whether the last SIGBUS was one that this process sent to itself.
static RAISED: AtomicBool = AtomicBool::new(false);

/// Mapped memory that the handler looks after. To be dropped before it is unmapped.
#[derive(Debug)]
pub struct Region(usize);

impl Region {
    /// Watches `length` bytes from `start`, the start of a page; `None` if that is not possible.
    pub fn watch(start: *const u8, length: usize) -> Option<Self> {
        let region = pack(start.addr(), length.next_multiple_of(page()))?;
        if !arm() {
            return None;
        }
        let first = NEXT.load(Ordering::Relaxed);
        let index = (0..REGIONS).map(|step| (first + step) % REGIONS).find(|&index| {
            let slot = &SLOTS[index].region;
            slot.load(Ordering::Relaxed) == 0
                && slot.compare_exchange(0, RESERVED, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })?;
        NEXT.store(index + 1, Ordering::Relaxed);
        USED.fetch_max(index + 1, Ordering::SeqCst);
        SLOTS[index].damaged.store(false, Ordering::Relaxed);
        SLOTS[index].region.store(region, Ordering::SeqCst);
        Some(Self(index))
    }

    /// Which slot it has: below [`REGIONS`], and no other region's meanwhile.
    pub fn slot(&self) -> usize {
        self.0
    }

    /// Whether a page of it was found missing; what was read before the call may be zeros then.
    pub fn damaged(&self) -> bool {
        // The flag is raised before the zeros appear, and is to be read after what was read of them.
        fence(Ordering::Acquire);
        SLOTS[self.0].damaged.load(Ordering::Acquire)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        SLOTS[self.0].region.store(0, Ordering::SeqCst);
        NEXT.store(self.0, Ordering::Relaxed);
    }
}

/// One more than the highest slot ever taken.
pub fn used() -> usize {
    USED.load(Ordering::SeqCst)
}

/// Bytes of a page of memory.
pub fn page() -> usize {
    // SAFETY: sysconf only looks up a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(UNIT).max(UNIT)
}

fn pack(start: usize, length: usize) -> Option<u64> {
    let first = u64::try_from(start / UNIT).ok()?;
    let units = u64::try_from(length / UNIT).ok()?;
    let fits = first >> (u64::BITS - LENGTH_BITS) == 0 && units >> LENGTH_BITS == 0;
    fits.then_some(first << LENGTH_BITS | units)
}

fn covers(region: u64, address: usize) -> bool {
    let (first, units) = (region >> LENGTH_BITS, region & (RESERVED - 1));
    ((address / UNIT) as u64).wrapping_sub(first) < units
}

/// Makes sure that ours is the first handler of SIGBUS. Asked for every region: libraries
/// (torch in its workers) set theirs at any time, and not all of them pass a signal on.
fn arm() -> bool {
    let ours = on_bus as extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
    let ours = ours as *const () as usize;
    PAGE.store(page(), Ordering::SeqCst);
    let mut now = MaybeUninit::<sigaction>::zeroed();
    // SAFETY: with a null action, sigaction only fills `now`, which is writable.
    if unsafe { sigaction(SIGBUS, ptr::null(), now.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: filled by the call above; all zeros would be a valid value as well.
    let now = unsafe { now.assume_init() };
    if now.sa_sigaction == ours {
        return true;
    }
    // First where to pass signals on, then the handler that does.
    PREVIOUS.store(Box::into_raw(Box::new(now)), Ordering::SeqCst);
    set(ours, libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK)
}

/// Sets the handler of SIGBUS. Only what a handler may do itself.
fn set(handler: usize, flags: c_int) -> bool {
    let mut action = MaybeUninit::<sigaction>::zeroed();
    let at = action.as_mut_ptr();
    // SAFETY: zeros are a valid sigaction (SIG_DFL, no flags, an empty mask) and `at` points to
    // one. `handler` is SIG_DFL, or `on_bus`, which has the signature that SA_SIGINFO asks for
    // and lives as long as the process (an extension module is never unloaded).
    unsafe {
        (*at).sa_sigaction = handler;
        (*at).sa_flags = flags;
        libc::sigemptyset(&raw mut (*at).sa_mask);
        sigaction(SIGBUS, at, ptr::null_mut()) == 0
    }
}

#[cfg(not(target_vendor = "apple"))]
use libc::__errno_location as errno_location;
#[cfg(target_vendor = "apple")]
use libc::__error as errno_location;

/// The handler. Reads and writes atomics and makes system calls, nothing else: it may have
/// interrupted anything.
extern "C" fn on_bus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the thread's own errno, which lives as long as the thread.
    let errno = unsafe { *errno_location() };
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
    let code = unsafe { (*info).si_code };
    // BUS_ADRALN, BUS_ADRERR, BUS_OBJERR, BUS_MCEERR_AR, SI_KERNEL: the instruction will run again.
    let fault = matches!(code, 1..=4 | 0x80);
    if fault {
        // SAFETY: as above, and a fault has an address.
        let address = unsafe { (*info).si_addr() }.addr();
        if replace(address) {
            RAISED.store(false, Ordering::SeqCst);
        } else {
            // SAFETY: the arguments are those that the kernel, or a handler, passed to this one.
            unsafe { pass_on(signal, info, context, fault) };
        }
    } else if !(raised_here(info) && PASSING.load(Ordering::SeqCst) == 0 && !RAISED.swap(true, Ordering::SeqCst)) {
        // SAFETY: as above.
        unsafe { pass_on(signal, info, context, fault) };
    }
    // Otherwise a handler set after ours (Python's faulthandler) has given up and raises the
    // signal anew, without its address. The read that it was about will fault again when that
    // handler returns, and the fault comes here, with its address. Let pass only once.

    // SAFETY: as above.
    unsafe { *errno_location() = errno };
}

/// Puts a page of zeros at `address` if that is in a watched region.
fn replace(address: usize) -> bool {
    // The region of the fault stays in its slot meanwhile: it is being read. Other slots may
    // change, but no value that they ever have covers memory that is not theirs: a region
    // leaves the table before it is unmapped.
    let used = USED.load(Ordering::SeqCst).min(REGIONS);
    let Some(slot) = SLOTS[..used].iter().find(|slot| covers(slot.region.load(Ordering::SeqCst), address)) else {
        return false;
    };
    slot.damaged.store(true, Ordering::SeqCst);
    let page = PAGE.load(Ordering::SeqCst);
    let start = ptr::without_provenance_mut::<c_void>(address & !(page - 1));
    // SAFETY: the page is one of a watched region's, which is mapped while it is in the table;
    // nothing but raw copies read it, and they take zeros for what they are (`damaged`).
    let mapped = unsafe {
        libc::mmap(start, page, libc::PROT_READ, libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANON, -1, 0)
    };
    mapped != libc::MAP_FAILED
}

/// Whether a handler of this process sent the signal (`raise`).
fn raised_here(info: *mut siginfo_t) -> bool {
    // SAFETY: valid as in `on_bus`; signals that are sent have a sender. getpid cannot fail.
    unsafe {
        #[cfg(target_os = "linux")]
        let raised = (*info).si_code == libc::SI_TKILL;
        #[cfg(not(target_os = "linux"))]
        let raised = true;
        raised && (*info).si_pid() == libc::getpid()
    }
}

/// Does what would have been done without us.
///
/// # Safety
/// The arguments are a handler's.
unsafe fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void, fault: bool) {
    let previous = PREVIOUS.load(Ordering::SeqCst);
    // SAFETY: set before the handler was, to a box that is never freed or changed.
    let (handler, flags) = unsafe { previous.as_ref() }.map_or((SIG_DFL, 0), |p| (p.sa_sigaction, p.sa_flags));
    if handler == SIG_IGN && !fault {
        return;
    }
    let busy = PASSING.fetch_add(1, Ordering::SeqCst);
    // A signal sent while the previous handler is busy: it had set ours again and raised it to end the process.
    let last = busy >= PASSED || (busy > 0 && !fault && raised_here(info));
    if handler == SIG_DFL || handler == SIG_IGN || last {
        // A fault happens again on return, and then kills at its own place (faults cannot be ignored).
        set(SIG_DFL, 0);
        if !fault {
            // SAFETY: raise may be called in handlers.
            unsafe { libc::raise(signal) };
        }
    } else if flags & libc::SA_SIGINFO != 0 {
        // SAFETY: a handler set with SA_SIGINFO has this signature.
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = unsafe { transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: a handler set without SA_SIGINFO has this signature.
        let handler: extern "C" fn(c_int) = unsafe { transmute(handler) };
        handler(signal);
    }
    PASSING.fetch_sub(1, Ordering::SeqCst);
}

#[cfg(test)]
pub mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use super::super::map::Map;
    use super::*;

    const SCENARIO: &str = "DAO_TEST_SCENARIO";

    /// Runs `scenario` in a process of its own; `test` is the name of the test that calls this.
    pub fn in_child(test: &str, name: &str, scenario: impl FnOnce()) -> Option<ExitStatus> {
        if let Ok(wanted) = std::env::var(SCENARIO) {
            if wanted == name {
                scenario();
                std::process::exit(0);
            }
            return None;
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", test, "--nocapture", "--include-ignored"]).env(SCENARIO, name);
        Some(child.status().unwrap())
    }

    fn file(bytes: usize) -> std::fs::File {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; bytes], 0).unwrap();
        file
    }

    /// A read of another's map that cannot succeed.
    fn foreign_fault() {
        let file = file(1 << 16);
        // SAFETY: a new map, read within its bounds.
        unsafe {
            let start = libc::mmap(ptr::null_mut(), 1 << 16, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
            assert_ne!(start, libc::MAP_FAILED);
            file.set_len(0).unwrap();
            start.cast::<u8>().add(5000).read_volatile();
        }
    }

    /// A read of a truncated file through a map: works, and tells.
    fn own_fault() {
        let file = file(1 << 17);
        let map = Map::new(&file, 1 << 17).unwrap();
        file.set_len(4096).unwrap();
        let mut into = [1; 5000];
        assert!(!map.copy(90_000, &mut into));
        assert!(!map.copy(0, &mut into), "a damaged map is not used any more");
    }

    fn send() {
        // SAFETY: a signal to this process.
        unsafe { libc::kill(libc::getpid(), SIGBUS) };
        // Another thread may be the one to get it.
        std::thread::sleep(std::time::Duration::from_millis(500));
    }

    fn armed() -> Map {
        Map::new(&file(1 << 16), 1 << 16).unwrap()
    }

    fn handle(handler: usize, flags: c_int) {
        assert!(set(handler, flags));
    }

    extern "C" fn exits_42(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
        // SAFETY: as in `on_bus`.
        unsafe { libc::_exit(if (*info).si_code == libc::BUS_ADRERR { 42 } else { 1 }) }
    }

    extern "C" fn exits_43(signal: c_int) {
        // SAFETY: ends the process.
        unsafe { libc::_exit(if signal == SIGBUS { 43 } else { 1 }) }
    }

    static BELOW: AtomicPtr<sigaction> = AtomicPtr::new(ptr::null_mut());

    /// What Python's faulthandler does.
    extern "C" fn restores_and_raises(signal: c_int) {
        // SAFETY: set before the handler.
        unsafe {
            sigaction(signal, BELOW.load(Ordering::SeqCst), ptr::null_mut());
            libc::raise(signal);
        }
    }

    fn like_faulthandler() {
        let mut below = MaybeUninit::<sigaction>::zeroed();
        // SAFETY: as in `arm`.
        unsafe { sigaction(SIGBUS, ptr::null(), below.as_mut_ptr()) };
        // SAFETY: zeros are valid.
        BELOW.store(Box::into_raw(Box::new(unsafe { below.assume_init() })), Ordering::SeqCst);
        handle(restores_and_raises as *const () as usize, libc::SA_NODEFER | libc::SA_ONSTACK);
    }

    #[test]
    fn signals_go_to_whom_they_concern() {
        const NAME: &str = "storage::guard::tests::signals_go_to_whom_they_concern";
        type Scenario = (&'static str, fn(), std::result::Result<i32, i32>);
        let killed = Err(SIGBUS);
        let scenarios: [Scenario; 13] = [
            ("own", own_fault, Ok(0)),
            (
                "foreign",
                || {
                    let _map = armed();
                    foreign_fault();
                },
                killed,
            ),
            (
                "foreign after own",
                || {
                    own_fault();
                    foreign_fault();
                },
                killed,
            ),
            (
                "previous handler with siginfo",
                || {
                    handle(exits_42 as *const () as usize, libc::SA_SIGINFO);
                    own_fault();
                    foreign_fault();
                },
                Ok(42),
            ),
            (
                "previous handler without",
                || {
                    handle(exits_43 as *const () as usize, 0);
                    own_fault();
                    foreign_fault();
                },
                Ok(43),
            ),
            (
                "ignored before",
                || {
                    handle(SIG_IGN, 0);
                    own_fault();
                    send();
                },
                Ok(0),
            ),
            (
                "faults cannot be ignored",
                || {
                    handle(SIG_IGN, 0);
                    let _map = armed();
                    foreign_fault();
                },
                killed,
            ),
            (
                "default before",
                || {
                    handle(SIG_DFL, 0);
                    own_fault();
                    foreign_fault();
                },
                killed,
            ),
            (
                "sent",
                || {
                    handle(SIG_DFL, 0);
                    let _map = armed();
                    send();
                },
                killed,
            ),
            (
                "faulthandler before",
                || {
                    handle(SIG_DFL, 0);
                    like_faulthandler();
                    own_fault();
                    foreign_fault();
                },
                killed,
            ),
            (
                "faulthandler after",
                || {
                    handle(SIG_DFL, 0);
                    let file = file(1 << 17);
                    let map = Map::new(&file, 1 << 17).unwrap();
                    like_faulthandler();
                    file.set_len(4096).unwrap();
                    assert!(!map.copy(90_000, &mut [1; 5000]));
                    own_fault();
                },
                Ok(0),
            ),
            (
                "foreign with faulthandler after",
                || {
                    handle(SIG_DFL, 0);
                    let _map = armed();
                    like_faulthandler();
                    foreign_fault();
                },
                killed,
            ),
            (
                "circle",
                || {
                    handle(SIG_DFL, 0);
                    let _map = armed();
                    like_faulthandler();
                    let _map = armed();
                    foreign_fault();
                },
                killed,
            ),
        ];
        for (name, scenario, expected) in scenarios {
            if let Some(status) = in_child(NAME, name, scenario) {
                assert_eq!(status.code().ok_or_else(|| status.signal().unwrap()), expected, "{name}");
            }
        }
    }

    #[test]
    fn forked_children_are_guarded() {
        const NAME: &str = "storage::guard::tests::forked_children_are_guarded";
        let status = in_child(NAME, "fork", || {
            let file = file(1 << 17);
            let map = Map::new(&file, 1 << 17).unwrap();
            // SAFETY: the child allocates nothing before it ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let shrunk = file.set_len(4096).is_ok();
                let told = !map.copy(90_000, &mut [1; 5000]);
                drop(map);
                // SAFETY: ends the child.
                unsafe { libc::_exit(if shrunk && told { 0 } else { 1 }) };
            }
            let mut status = 1;
            // SAFETY: waits for the child above.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert_eq!(status, 0);
        });
        assert!(status.is_none_or(|status| status.success()));
    }

    #[test]
    fn errno_is_kept() {
        let file = file(1 << 16);
        let map = Map::new(&file, 1 << 16).unwrap();
        file.set_len(0).unwrap();
        // SAFETY: the thread's errno.
        unsafe { *errno_location() = 77 };
        assert!(!map.copy(0, &mut [0; 10]));
        // SAFETY: as above.
        assert_eq!(unsafe { *errno_location() }, 77);
    }

    #[test]
    fn slots_are_reused() {
        const NAME: &str = "storage::guard::tests::slots_are_reused";
        let status = in_child(NAME, "slots", || {
            let file = file(1 << 16);
            let map = || Map::new(&file, 1 << 16);
            for _ in 0..REGIONS + 10 {
                assert!(map().is_some());
            }
            let mut all: Vec<_> = (0..REGIONS).map(|_| map().unwrap()).collect();
            assert!(map().is_none(), "no slot is given twice");
            all.swap_remove(1234);
            all.push(map().unwrap());
            assert!(map().is_none());
            drop(all);
            assert!(map().is_some());
        });
        assert!(status.is_none_or(|status| status.success()));
    }

    #[test]
    fn regions_are_packed() {
        let region = pack(0x7fff_ffff_f000, 0x3000).unwrap();
        assert!([0x7fff_ffff_f000, 0x8000_0000_1fff].iter().all(|&at| covers(region, at)));
        assert!([0, 0x7fff_ffff_efff, 0x8000_0000_2000, usize::MAX].iter().all(|&at| !covers(region, at)));
        assert!([0, 0x1000, 0x10_0000].iter().all(|&at| !covers(0, at) && !covers(RESERVED, at)));
        assert_eq!(pack(1 << 48, 4096), None);
        assert_eq!(pack(4096, 1 << 40), None);
    }
}
