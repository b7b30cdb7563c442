//! The tables of cells of a store: checked against the manifest before polars reads them, once for each state of a file.
//!
//! Owns what is remembered of the files that were checked. A local file's state is its size, its times and its inode; a
//! remote one is checked once for each opened store.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::schedule;
use crate::error::{DaoError, Result};
use crate::per_process::PerProcess;
use crate::storage::{self, Storage, StorageOptions, is_remote};
use crate::store::{OBS, TableFile, changed, missing, row_count};

/// The most files that are remembered; then all are forgotten.
const MOST_KNOWN: usize = 100_000;
/// A file that changed so shortly ago may change again without its times showing it: it is checked, not remembered.
const FRESH: Duration = Duration::from_secs(1);
/// The most files that are read at a time.
const MOST_LOCAL: usize = 8;
const MOST_REMOTE: usize = 16;

/// A dataset's table of cells, and what the manifest says of it.
pub struct ObsTable {
    /// The dataset's name, for errors.
    pub dataset: String,
    /// The dataset's folder, relative to the store.
    pub path: String,
    /// The rows that the table must have.
    pub n_obs: u64,
    /// Its checksums; `None` where there are none: the rows are counted alone.
    pub file: Option<Arc<TableFile>>,
}

/// The tables of cells of one opened store.
pub struct ObsTables {
    uri: String,
    options: StorageOptions,
    /// The opened store, among those of the process; 0 for all local ones.
    store: u64,
}

/// A state of a file.
#[derive(Clone, PartialEq, Eq, Hash)]
struct FileState {
    store: u64,
    path: String,
    /// Of a local file: size, inode, times of change of its contents and of its inode in s and ns.
    local: Option<([u64; 2], [i64; 4])>,
}

/// What was found in a file.
struct Known {
    n_rows: u64,
    /// The checksums that it was held against.
    file: Option<Arc<TableFile>>,
    /// The columns that were checked.
    columns: BTreeSet<String>,
}

/// A forked child checks files anew: its parent may have been writing this when it forked.
static KNOWN: PerProcess<Mutex<HashMap<FileState, Known>>> = PerProcess::new();

fn known() -> MutexGuard<'static, HashMap<FileState, Known>> {
    // An entry is put there whole, so a poisoned lock is safe to use.
    KNOWN.get().lock().unwrap_or_else(PoisonError::into_inner)
}

impl Known {
    /// Whether a table, and these columns of it, need not be looked into again.
    fn suffices(&self, table: &ObsTable, columns: &[String]) -> bool {
        self.n_rows == table.n_obs
            && self.file == table.file
            && (self.file.is_none() || columns.iter().all(|column| self.columns.contains(column)))
    }
}

impl ObsTables {
    /// The tables of the store at `uri`, as an opened store names it.
    pub fn new(uri: &str, options: StorageOptions) -> Self {
        static OPENED: AtomicU64 = AtomicU64::new(1);
        let store = if is_remote(uri) { OPENED.fetch_add(1, Ordering::Relaxed) } else { 0 };
        Self { uri: uri.to_owned(), options, store }
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }

    pub fn options(&self) -> &StorageOptions {
        &self.options
    }

    /// Checks all of these tables that reading `columns` reads, on threads; `tick` is called now and then.
    ///
    /// # Errors
    /// `NotFound` or `Io` for a file that cannot be read, `Corrupt` for one that is not as it was written: the first of
    /// them, named; or an error of `tick`.
    pub fn check(&self, tables: &[ObsTable], columns: &[String], tick: impl FnMut() -> Result<()>) -> Result<()> {
        let states = tables.iter().map(|table| self.state(table)).collect::<Result<Vec<_>>>()?;
        let unknown: Vec<(&ObsTable, FileState)> = {
            let known = known();
            let suffices = |table: &ObsTable, state: &FileState| {
                known.get(state).is_some_and(|known| known.suffices(table, columns))
            };
            tables.iter().zip(states).filter(|(table, state)| !suffices(table, state)).collect()
        };
        if unknown.is_empty() {
            return Ok(());
        }
        let storage = storage::open(&self.uri, &self.options)?;
        let threads = match is_remote(&self.uri) {
            true => MOST_REMOTE,
            false => std::thread::available_parallelism().map_or(1, usize::from).min(MOST_LOCAL),
        };
        let work = |at: usize| {
            let (table, state) = &unknown[at];
            let n_rows = check_file(storage.as_ref(), table, columns).map_err(|e| e.at(place(table)))?;
            if !state.is_fresh() {
                remember(state, Known { n_rows, file: table.file.clone(), columns: columns.iter().cloned().collect() });
            }
            Ok(())
        };
        schedule::in_order(unknown.len(), threads, work, |()| Ok(()), tick)
    }

    fn full(&self, table: &ObsTable) -> String {
        format!("{}/{}/{OBS}", self.uri, table.path)
    }

    fn state(&self, table: &ObsTable) -> Result<FileState> {
        let path = self.full(table);
        let local = match is_remote(&self.uri) {
            true => None,
            false => {
                let meta = std::fs::metadata(Path::new(&path)).map_err(|e| match e.kind() {
                    std::io::ErrorKind::NotFound => missing(&path).at(place(table)),
                    _ => DaoError::io(&path, "looking at the file", &e).at(place(table)),
                })?;
                Some(([meta.size(), meta.ino()], [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()]))
            }
        };
        Ok(FileState { store: self.store, path, local })
    }
}

impl FileState {
    /// Whether the file was changed just now; not for one of another machine's future.
    fn is_fresh(&self) -> bool {
        let Some((_, [_, _, seconds, nanoseconds])) = self.local else { return false };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let age = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX) - changed;
        (0..i128::try_from(FRESH.as_nanos()).unwrap_or(i128::MAX)).contains(&age)
    }
}

fn place(table: &ObsTable) -> String {
    format!("dataset '{}'", table.dataset)
}

/// Reads what is to be checked of a table; gives its number of rows.
fn check_file(storage: &dyn Storage, table: &ObsTable, columns: &[String]) -> Result<u64> {
    let relative = format!("{}/{OBS}", table.path);
    let path = format!("{}/{relative}", storage.uri());
    let file = storage.file(&relative)?.ok_or_else(|| missing(&path))?;
    let n_rows = match &table.file {
        Some(written) => written.check(file.as_ref(), &path, columns)?,
        None => row_count(file.as_ref(), &path)?,
    };
    if n_rows == table.n_obs {
        return Ok(n_rows);
    }
    Err(changed(&path, "the table is of other cells", format!("{} rows, one a cell", table.n_obs), n_rows))
}

fn remember(state: &FileState, found: Known) {
    let mut known = known();
    if known.len() >= MOST_KNOWN {
        known.clear();
    }
    match known.get_mut(state) {
        Some(before) if before.file == found.file && before.n_rows == found.n_rows => {
            before.columns.extend(found.columns);
        }
        _ => drop(known.insert(state.clone(), found)),
    }
}
