//! Bytes that nobody vouches for, mutated and read: values or an error, never a panic, never memory on a file's word.
//!
//! `cargo test` runs some hundreds of cases a target, always the same; `make fuzz` runs others for `DAO_FUZZ_SECONDS`
//! a target. `DAO_FUZZ_SEED` repeats a run; arguments choose targets by a part of `fuzz::<name>`, as libtest's do.
//! Libtest is not used: the allocator and the watchdog are this program's own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
#![allow(clippy::cast_possible_truncation, reason = "random bits, and small numbers")]

mod memory;
mod mutate;
mod store;
mod targets;

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// What is fuzzed: inputs to begin with, and what must hold for any.
pub struct Target {
    pub name: &'static str,
    pub seeds: fn() -> Vec<Vec<u8>>,
    pub check: fn(&[u8]) -> Result<(), String>,
}

/// The cases of a target in `cargo test`.
const CASES: u64 = 500;
/// A case that takes longer is a failure.
const SLOWEST: Duration = Duration::from_secs(20);

/// The folder of failing inputs.
const FAILURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/failures");

/// Whether memory was refused to the case that runs.
static REFUSED: AtomicBool = AtomicBool::new(false);
/// What the last panic said, and where.
static PANIC: Mutex<String> = Mutex::new(String::new());
/// The case that runs, for the watchdog: when it began, and its input.
static RUNNING: Mutex<Option<(Instant, &'static str, Vec<u8>)>> = Mutex::new(None);

fn main() -> ExitCode {
    let variable = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect(name));
    let seconds = variable("DAO_FUZZ_SECONDS").map(Duration::from_secs);
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = variable("DAO_FUZZ_SEED").unwrap_or_else(|| if seconds.is_some() { now() } else { 0 });
    std::thread::spawn(watch);
    std::panic::set_hook(Box::new(|panic| *PANIC.lock().unwrap() = panic.to_string()));
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_chosen = |target: &&Target| {
        let name = format!("fuzz::{}", target.name);
        chosen.is_empty() || chosen.iter().any(|part| name.contains(part))
    };
    let failed = targets::ALL.iter().filter(is_chosen).filter(|target| !passes(target, seed, seconds)).count();
    ExitCode::from(u8::from(failed > 0))
}

fn passes(target: &Target, seed: u64, seconds: Option<Duration>) -> bool {
    let (mut seeds, began) = ((target.seeds)(), Instant::now());
    seeds.extend(corpus(target.name));
    let go_on = |case| seconds.map_or(case < CASES, |seconds| began.elapsed() < seconds);
    let mut case = 0;
    while case < seeds.len() as u64 || go_on(case) {
        // The first cases are the seeds as they are; each case is made from its number alone.
        let mut random = ChaCha8Rng::seed_from_u64(seed.wrapping_add(case));
        let input = match seeds.get(case as usize) {
            Some(seed) => seed.clone(),
            None => mutate::mutate(&seeds, &mut random),
        };
        memory::begin(target.name, seed, case);
        *RUNNING.lock().unwrap() = Some((Instant::now(), target.name, input.clone()));
        let result = catch_unwind(|| (target.check)(&input)).unwrap_or_else(|_| Err(PANIC.lock().unwrap().clone()));
        *RUNNING.lock().unwrap() = None;
        if REFUSED.swap(false, Ordering::Relaxed) {
            // It went on with an error.
            std::fs::remove_file(failure(target.name, &input)).expect("the input is removed");
        }
        if let Err(why) = result.and_then(|()| memory::check_peak()) {
            eprintln!("fuzz {}: case {case} of DAO_FUZZ_SEED={seed} fails: {why}", target.name);
            save(target.name, &input);
            return false;
        }
        case += 1;
    }
    println!("fuzz {}: {case} cases pass, DAO_FUZZ_SEED={seed}", target.name);
    true
}

/// Inputs that showed a defect, or cannot be made here.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("the corpus is listed").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("the corpus is read")).collect()
}

/// Ends the program at a case that does not end.
fn watch() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        if let Some((began, name, input)) = &*RUNNING.lock().unwrap()
            && began.elapsed() > SLOWEST
        {
            eprintln!("fuzz {name}: a case takes more than {SLOWEST:?}");
            save(name, input);
            std::process::exit(1);
        }
    }
}

/// Keeps the input of the case that runs, which may end the program now.
fn refused() {
    if let Ok(running) = RUNNING.try_lock()
        && let Some((_, name, input)) = &*running
        && !REFUSED.swap(true, Ordering::Relaxed)
    {
        save(name, input);
    }
}

/// Where a failing input is kept.
fn failure(name: &str, input: &[u8]) -> String {
    format!("{FAILURES}/{name}-{:08x}", dao_polars::checksum::crc32c(input))
}

/// Keeps a failing input.
fn save(name: &str, input: &[u8]) {
    let path = failure(name, input);
    std::fs::create_dir_all(FAILURES).and_then(|()| std::fs::write(&path, input)).expect("the input is written");
    eprintln!("its input is in {path}");
}
