//! The tables of cells of a store: checked against the manifest before polars reads them, once for each state of a file.
//!
//! Owns what is remembered of the files that were checked. A local file's state is its size, its times and its inode. Of a
//! remote one polars gets what was checked, in memory: it asks no server itself.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::schedule;
use crate::error::{DaoError, Result};
use crate::per_process::PerProcess;
use crate::storage::{self, File, FileStamp, InMemory, Storage, StorageOptions, is_remote};
use crate::store::{TableFile, changed, excerpt, missing, row_count};

/// The most files that are remembered; then all are forgotten.
const MOST_KNOWN: usize = 100_000;
/// A file that changed so shortly ago may change again without its times showing it: it is checked, not remembered.
const FRESH: Duration = Duration::from_secs(1);
/// The most files that are read at a time.
const MOST_LOCAL: usize = 8;
const MOST_REMOTE: usize = 32;
/// The most bytes of a remote file that is read at once.
const AT_ONCE: u64 = 1 << 20;
/// The most bytes of remote files that are kept for the next query.
const MOST_KEPT: usize = 64 << 20;

/// A part's table of cells, and what the manifest says of it.
pub struct ObsTable {
    /// The name of its dataset, for errors.
    pub part: String,
    /// The file, relative to the store.
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
    kept: Mutex<Kept>,
}

/// Columns of remote tables that were read lately.
#[derive(Default)]
struct Kept {
    /// By the tables' paths: what of a table was checked, and that as a parquet file.
    tables: HashMap<String, (Known, Bytes)>,
    n_bytes: usize,
}

/// A state of a local file.
#[derive(Clone, PartialEq, Eq, Hash)]
struct FileState {
    path: String,
    stamp: FileStamp,
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
    /// What is known of a table after these columns were checked.
    fn new(table: &ObsTable, columns: &[String]) -> Self {
        Self { n_rows: table.n_obs, file: table.file.clone(), columns: columns.iter().cloned().collect() }
    }

    /// Whether a table, and these columns of it, need not be looked into again.
    fn suffices(&self, table: &ObsTable, columns: &[String]) -> bool {
        self.n_rows == table.n_obs
            && self.file == table.file
            && columns.iter().all(|column| self.columns.contains(column))
    }
}

impl Kept {
    fn get(&self, table: &ObsTable, columns: &[String]) -> Option<Bytes> {
        let (known, bytes) = self.tables.get(&table.path)?;
        known.suffices(table, columns).then(|| bytes.clone())
    }

    /// Keeps a table, unless it takes much of the room; forgets all others if there is none left.
    fn put(&mut self, table: &ObsTable, known: Known, bytes: &Bytes) {
        if bytes.len() > MOST_KEPT / 4 {
            return;
        }
        if self.n_bytes + bytes.len() > MOST_KEPT {
            *self = Self::default();
        }
        self.n_bytes += bytes.len();
        if let Some((_, before)) = self.tables.insert(table.path.clone(), (known, bytes.clone())) {
            self.n_bytes -= before.len();
        }
    }
}

impl ObsTables {
    /// The tables of the store at `uri`, as an opened store names it.
    pub fn new(uri: &str, options: StorageOptions) -> Self {
        Self { uri: uri.to_owned(), options, kept: Mutex::default() }
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }

    pub fn options(&self) -> &StorageOptions {
        &self.options
    }

    /// Whether the tables lie on another machine, so that they are to be [fetched](Self::fetch).
    pub fn is_remote(&self) -> bool {
        is_remote(&self.uri)
    }

    /// Checks all of these tables that reading `columns` reads, on threads; `tick` is called now and then.
    ///
    /// # Errors
    /// `NotFound` or `Io` for a file that cannot be read, `Corrupt` for one that is not as it was written: the first of
    /// them, named; or an error of `tick`.
    pub fn check(&self, tables: &[ObsTable], columns: &[String], tick: impl FnMut() -> Result<()>) -> Result<()> {
        if self.is_remote() {
            return self.fetch(tables, columns, tick).map(drop);
        }
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
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_LOCAL);
        let work = |at: usize| {
            let (table, state) = &unknown[at];
            let n_rows = with_file(storage.as_ref(), table, |file, path| match &table.file {
                Some(written) => written.check(file, path, columns).map(|n_rows| (n_rows, ())),
                None => row_count(file, path).map(|n_rows| (n_rows, ())),
            });
            n_rows.map_err(|e| e.at(place(table)))?;
            if !state.is_fresh() {
                remember(state, Known::new(table, columns));
            }
            Ok(())
        };
        schedule::in_order(unknown.len(), threads, work, |()| Ok(()), tick)
    }

    /// Checks all of these tables that reading `columns` reads, and gives that: of each table a parquet file whose other
    /// columns have no values. `tick` is called now and then. What was read lately is not asked for again.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn fetch(
        &self,
        tables: &[ObsTable],
        columns: &[String],
        tick: impl FnMut() -> Result<()>,
    ) -> Result<Vec<Bytes>> {
        let mut found: Vec<Option<Bytes>> = {
            let kept = self.kept();
            tables.iter().map(|table| kept.as_ref()?.get(table, columns)).collect()
        };
        let unknown: Vec<usize> = (0..tables.len()).filter(|&at| found[at].is_none()).collect();
        if !unknown.is_empty() {
            let storage = storage::open(&self.uri, &self.options)?;
            let work = |at: usize| {
                let table = &tables[unknown[at]];
                let read = with_file(storage.as_ref(), table, |file, path| {
                    excerpt(table.file.as_deref(), file, path, columns)
                });
                read.map(|bytes| (unknown[at], Bytes::from(bytes))).map_err(|e| e.at(place(table)))
            };
            let keep = |(at, bytes): (usize, Bytes)| {
                if let Some(mut kept) = self.kept() {
                    kept.put(&tables[at], Known::new(&tables[at], columns), &bytes);
                }
                found[at] = Some(bytes);
                Ok(())
            };
            schedule::in_order(unknown.len(), MOST_REMOTE, work, keep, tick)?;
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// What is kept, unless somebody else is at it: nobody waits, as in a forked child that may be for ever.
    fn kept(&self) -> Option<MutexGuard<'_, Kept>> {
        match self.kept.try_lock() {
            Ok(kept) => Some(kept),
            // What is kept is only left out or put there whole, so a poisoned lock is safe to use.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn state(&self, table: &ObsTable) -> Result<FileState> {
        let path = format!("{}/{}", self.uri, table.path);
        let stamp = storage::stamp(Path::new(&path)).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => missing(&path).at(place(table)),
            _ => DaoError::io(&path, "looking at the file", &e).at(place(table)),
        })?;
        Ok(FileState { path, stamp })
    }
}

impl FileState {
    /// Whether the file was changed just now; not for one of another machine's future.
    fn is_fresh(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let age = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX) - self.stamp.changed;
        (0..i128::try_from(FRESH.as_nanos()).unwrap_or(i128::MAX)).contains(&age)
    }
}

fn place(table: &ObsTable) -> String {
    format!("dataset '{}'", table.part)
}

/// What `read` gives beside the number of rows that it finds in a table's file, which must be that of the cells.
fn with_file<T>(
    storage: &dyn Storage,
    table: &ObsTable,
    read: impl FnOnce(&dyn File, &str) -> Result<(u64, T)>,
) -> Result<T> {
    let path = format!("{}/{}", storage.uri(), table.path);
    let file = match &table.file {
        // A small one is read at once: what is where in it need not be asked for first.
        Some(written) if storage.expect(&table.path, written.size) && written.size <= AT_ONCE => {
            let bytes = storage.get_ranges(&table.path, &[0..written.size])?.and_then(|mut all| all.pop());
            bytes.map(|bytes| Arc::new(InMemory { bytes, path: path.clone() }) as Arc<dyn File>)
        }
        _ => storage.file(&table.path)?,
    };
    let file = file.ok_or_else(|| missing(&path))?;
    let (n_rows, found) = read(file.as_ref(), &path)?;
    if n_rows == table.n_obs {
        return Ok(found);
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
