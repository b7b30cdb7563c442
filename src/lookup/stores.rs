//! Stores kept open between queries, and the requests that were resolved in them.
//!
//! A column of cells says where its store was and which one it is. The store is opened when it is first needed,
//! is opened again when it has changed, and is told apart from another one in its place.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;

use super::resolve::resolve;
use super::{Lookup, LookupRequest};
use crate::error::{DaoError, ErrorKind, Result};
use crate::per_process::PerProcess;
use crate::read::OpenStore;
use crate::storage::StorageOptions;
use crate::store::{MANIFEST, Store};

/// The number of stores that are kept open.
const STORES: u64 = 8;
/// The number of requests whose meaning is kept: more than one query has.
const REQUESTS: u64 = 4096;
/// How often a local store is opened again, at most, until its stamp is that of what was read.
const STAMPED: usize = 3;
/// The time for which the listing of a remote store is trusted before it is read again.
const FRESH: Duration = Duration::from_secs(60);

/// A request, and what it means in a store.
pub struct Resolved {
    /// The request.
    pub request: LookupRequest,
    /// The request resolved in the store.
    pub lookup: Lookup,
    opened: Arc<KeptStore>,
}

/// A store, and what shows whether it has changed since.
struct KeptStore {
    source: Arc<OpenStore>,
    stamp: Mutex<Stamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stamp {
    /// The times, size and inode of each file that changes when datasets do.
    Local(Vec<(i64, i64, u64, u64)>),
    /// The time at which a remote store was read.
    Remote(Instant),
}

/// The key under which a resolved request is kept: the store of a column of cells, and the request as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// The URI of the store when the cells were selected.
    pub uri: String,
    /// The id of the store.
    pub id: String,
    /// The bytes of the request, as polars passed them.
    pub request: Vec<u8>,
}

struct Known {
    stores: Cache<String, Arc<KeptStore>>,
    resolved: Cache<RequestKey, Arc<Resolved>>,
}

impl Default for Known {
    fn default() -> Self {
        Self { stores: Cache::new(STORES), resolved: Cache::new(REQUESTS) }
    }
}

static KNOWN: PerProcess<Known> = PerProcess::new();
/// Options of the stores that were opened with some, by URI: cells do not carry them.
static OPTIONS: Mutex<Option<HashMap<String, StorageOptions>>> = Mutex::new(None);

/// A request, resolved in the store of its cells. `planning` checks whether the store has changed since it was last
/// opened; `parse` reads a request that is not known yet.
///
/// # Errors
/// `NotFound` or `Value` where the store is not, or is another; what is wrong with the request.
pub fn resolved(
    key: RequestKey,
    planning: bool,
    parse: impl FnOnce(&[u8]) -> Result<LookupRequest>,
) -> Result<Arc<Resolved>> {
    let known = KNOWN.get();
    if let Some(resolved) = known.resolved.get(&key)
        && !(planning && resolved.opened.has_changed())
    {
        return Ok(resolved);
    }
    let request = parse(&key.request)?;
    let opened = store_of(known, &key, request.store.as_deref())?;
    let resolution = resolve(&opened.source, &request)?;
    let resolved = Arc::new(Resolved { request, lookup: resolution.lookup, opened });
    if resolution.lasting {
        known.resolved.insert(key, resolved.clone());
    }
    Ok(resolved)
}

/// Opens the store at `uri` anew when it is next asked for: something of it is new that its stamp does not show.
pub fn forget(uri: &str) {
    let known = KNOWN.get();
    let is_there = |opened: &KeptStore| opened.source.store().uri() == uri;
    let stores = known.stores.iter().filter(|(_, opened)| is_there(opened));
    stores.for_each(|(key, _)| known.stores.invalidate(&*key));
    let resolved = known.resolved.iter().filter(|(_, resolved)| is_there(&resolved.opened));
    resolved.for_each(|(key, _)| known.resolved.invalidate(&*key));
}

/// Remembers what the store at `uri` was opened with.
pub fn remember_options(uri: &str, options: &StorageOptions) {
    if !options.is_empty() {
        let mut all = OPTIONS.lock().unwrap_or_else(PoisonError::into_inner);
        all.get_or_insert_default().insert(uri.to_owned(), options.clone());
    }
}

/// The options that the store at `uri` was last opened with.
#[must_use]
pub fn options_of(uri: &str) -> StorageOptions {
    let all = OPTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    all.as_ref().and_then(|all| all.get(uri.trim_end_matches('/'))).cloned().unwrap_or_default()
}

/// Refuses a store that is not the one that cells were selected from, at `uri` then.
///
/// # Errors
/// `Value` for another store.
pub fn check_is(store: &Store, uri: &str, id: &str) -> Result<()> {
    let (here, found) = (store.uri(), &store.manifest().id);
    if found == id {
        return Ok(());
    }
    Err(DaoError::value(format!(
        "the cells are of store {id} (at '{uri}' when they were selected), and '{here}' is store {found}. A store that \
        moved keeps its id: name its new place with store=; a store that was written again, or (sfaira's) got or lost \
        datasets, has new cells: make the selection again from dao.scan."
    )))
}

/// The error for a store that is not where its cells were selected.
#[must_use]
pub fn moved(error: &DaoError) -> DaoError {
    DaoError::new(
        error.kind(),
        format!("{error}\nThe cells were selected from there. If the store moved, name its new place: store=…"),
    )
}

/// The store of the cells that `key` names: where it was when they were selected, or at `place`.
fn store_of(known: &Known, key: &RequestKey, place: Option<&str>) -> Result<Arc<KeptStore>> {
    let uri = place.unwrap_or(&key.uri);
    let kept = known.stores.get(uri);
    if let Some(kept) = &kept
        && !kept.has_changed()
        && kept.source.store().manifest().id == key.id
    {
        return Ok(kept.clone());
    }
    let open = || {
        Store::open(uri, &options_of(uri)).map_err(|error| match (error.kind(), place) {
            (ErrorKind::NotFound, None) => moved(&error),
            _ => error,
        })
    };
    let (mut store, mut stamp) = (open()?, None);
    for _ in 0..STAMPED {
        stamp = Stamp::now(&store);
        if !matches!(stamp, Some(Stamp::Local(_))) {
            break;
        }
        // Another process may have added a dataset between the reading and the stamp.
        let again = open()?;
        let same = again.manifest().datasets == store.manifest().datasets;
        store = again;
        if same {
            break;
        }
    }
    check_is(&store, &key.uri, &key.id)?;
    if let (Some(kept), Some(stamp)) = (kept, &stamp)
        && lists_the_same(kept.source.store(), &store)
    {
        // The datasets are the same, so their open matrices remain valid and are kept.
        *kept.stamp.lock().unwrap_or_else(PoisonError::into_inner) = stamp.clone();
        return Ok(kept);
    }
    let opened =
        KeptStore { source: Arc::new(OpenStore::new(store)), stamp: Mutex::new(stamp.unwrap_or(Stamp::Local(vec![]))) };
    let opened = Arc::new(opened);
    known.stores.insert(uri.to_owned(), opened.clone());
    Ok(opened)
}

/// Whether two openings of a store list the same datasets, down to their checksums. sfaira's have none: what is
/// open of such a store is not kept once a file of it has changed.
fn lists_the_same(one: &Store, other: &Store) -> bool {
    let (one, other) = (one.manifest(), other.manifest());
    let known = other.datasets.iter().all(|dataset| dataset.checksum.is_some());
    known && one.id == other.id && one.datasets == other.datasets
}

impl KeptStore {
    fn has_changed(&self) -> bool {
        let stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match stamp {
            Stamp::Remote(read) => read.elapsed() >= FRESH,
            local => Stamp::now(self.source.store()).is_none_or(|now| now != local),
        }
    }
}

impl Stamp {
    /// The stamp of a store as it is now; `None` where a file is missing, so that opening the store says which.
    fn now(store: &Store) -> Option<Self> {
        let Some(root) = store.storage().local_root() else { return Some(Self::Remote(Instant::now())) };
        let mut files = vec![root.join(MANIFEST)];
        if store.has_sfaira_tables() {
            files = vec![root.to_owned()];
            for dataset in &store.manifest().datasets {
                let folder = root.join(&dataset.path);
                files.extend(["zarr/X/.zarray", "parquet/var.parquet"].map(|file| folder.join(file)));
            }
        }
        let stamp = |file: std::path::PathBuf| {
            let found = std::fs::metadata(file).ok()?;
            Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
        };
        files.into_iter().map(stamp).collect::<Option<_>>().map(Self::Local)
    }
}
