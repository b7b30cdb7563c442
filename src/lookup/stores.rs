//! Stores kept open between queries, and the requests that were resolved in them.
//!
//! A column of cells says where its store was and which one it is, or its stores. They are opened when they are first needed,
//! are opened again when one has changed, and are told apart from others in their places.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::{CellStores, Lookup, LookupRequest};
use crate::error::{DaoError, ErrorKind, Result};
use crate::per_process::PerProcess;
use crate::read::OpenStore;
use crate::storage::{self, Storage, StorageOptions};
use crate::store::{Member, Store, latest, version_path};

/// The number of stores that are kept open.
const STORES: usize = 8;
/// The number of requests whose meaning is kept: more than one query has.
const REQUESTS: usize = 4096;
/// The time for which the listing of a remote store is trusted before it is read again.
const FRESH: Duration = Duration::from_secs(60);
/// What to do about a store that is not where its cells were selected.
pub const MOVED: &str = "The cells were selected from there. If the store moved, name its new place: store=…";

/// A request, and what it means in a store.
pub struct Resolved {
    /// The request.
    pub request: LookupRequest,
    /// The request resolved in the store.
    pub lookup: Lookup,
    store: Arc<KeptStore>,
}

/// A store, or several as one, and what shows whether one has changed since. That is noted before each is read, so that what
/// changes meanwhile is noticed too.
struct KeptStore {
    source: Arc<OpenStore>,
    /// Those of the stores that it is of.
    stamps: Vec<Stamp>,
    /// When it was last asked for, as a count of all that was asked for.
    used: AtomicU64,
}

#[derive(Debug, PartialEq, Eq)]
enum Stamp {
    /// The last version; and the time, size and inode of its file, or of those that sfaira's stores change when datasets
    /// do: `None` where one is missing.
    Local(Option<u64>, Vec<Option<(i128, u64, u64)>>),
    /// A version that was asked for does not change.
    Pinned,
    /// The time at which a remote store was read.
    Remote(Instant),
}

/// What is known of stores in this process.
#[derive(Default)]
struct Known {
    kept: RwLock<Kept>,
    /// The number of times that a store was asked for.
    asked: AtomicU64,
    /// The options of the stores that were opened with some, by URI: cells do not carry them.
    options: Mutex<HashMap<String, StorageOptions>>,
}

/// The stores that are kept open, and the requests resolved in them: those hold their store's files open, and so go
/// when it goes.
#[derive(Default)]
struct Kept {
    stores: HashMap<Places, Arc<KeptStore>>,
    /// By the stores of a column of cells, and the bytes of the request, as polars passed them.
    resolved: HashMap<(CellStores, Vec<u8>), Arc<Resolved>>,
}

/// The URI of each store, and the version of it that was asked for.
type Places = Vec<(String, Option<u64>)>;

impl Kept {
    /// Keeps a store, in the place of the one that was there, or of the one that was longest not asked for.
    fn keep_store(&mut self, places: Places, store: Arc<KeptStore>) {
        if !self.stores.contains_key(&places) && self.stores.len() >= STORES {
            let used = |store: &KeptStore| store.used.load(Ordering::Relaxed);
            let idle = self.stores.iter().min_by_key(|(_, store)| used(store)).map(|(place, _)| place.clone());
            self.stores.retain(|place, _| Some(place) != idle.as_ref());
        }
        self.stores.insert(places, store);
        let Self { stores, resolved } = self;
        resolved.retain(|_, request| is_kept(stores, &request.store));
    }

    /// Keeps what a request means, unless its store is no longer kept.
    fn keep_request(&mut self, key: (CellStores, Vec<u8>), request: Arc<Resolved>) {
        if !is_kept(&self.stores, &request.store) {
            return;
        }
        if self.resolved.len() >= REQUESTS {
            self.resolved.clear();
        }
        self.resolved.insert(key, request);
    }
}

fn is_kept(stores: &HashMap<Places, Arc<KeptStore>>, store: &Arc<KeptStore>) -> bool {
    stores.values().any(|kept| Arc::ptr_eq(kept, store))
}

impl Known {
    /// Reads or changes what is kept. A panic elsewhere leaves it whole, so a poisoned lock is safe to use.
    fn read<T>(&self, read: impl FnOnce(&Kept) -> T) -> T {
        read(&self.kept.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(&mut self.kept.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next count of what was asked for.
    fn now(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed)
    }
}

static KNOWN: PerProcess<Known> = PerProcess::new();

/// A request, resolved in the store of its cells. `planning` checks whether the store has changed since it was last
/// opened; `parse` reads a request that is not known yet.
///
/// # Errors
/// `NotFound` or `Value` where the store is not, or is another; what is wrong with the request.
pub fn resolved(
    cells: CellStores,
    request: &[u8],
    planning: bool,
    parse: impl FnOnce(&[u8]) -> Result<LookupRequest>,
) -> Result<Arc<Resolved>> {
    resolved_among(KNOWN.get(), cells, request, planning, parse)
}

fn resolved_among(
    known: &Known,
    cells: CellStores,
    request: &[u8],
    planning: bool,
    parse: impl FnOnce(&[u8]) -> Result<LookupRequest>,
) -> Result<Arc<Resolved>> {
    let key = (cells, request.to_vec());
    if let Some(resolved) = known.read(|kept| kept.resolved.get(&key).cloned())
        && !(planning && resolved.store.has_changed())
    {
        resolved.store.used.store(known.now(), Ordering::Relaxed);
        return Ok(resolved);
    }
    let request = parse(request)?;
    let store = store_of(known, &key.0, request.store.as_deref())?;
    let lookup = Lookup::new(&store.source, &request)?;
    let lasting = lookup.is_lasting();
    let resolved = Arc::new(Resolved { request, lookup, store });
    if lasting {
        known.change(|kept| kept.keep_request(key, resolved.clone()));
    }
    Ok(resolved)
}

/// Opens every store anew when it is next asked for: something of one is new that its stamp does not show.
pub fn forget() {
    KNOWN.get().change(|kept| *kept = Kept::default());
}

/// Opens a store anew when it is next asked for, where an older version of it is kept than `seen`, or another store that was there:
/// a remote store is not looked at each time, and cells of its new parts would not be found.
pub fn has_seen(seen: &Store) {
    let is_older = |places: &Places, kept: &KeptStore| {
        places.iter().zip(kept.source.store().members()).any(|((uri, version), kept)| {
            let is_there = |seen: &&Member| version.is_none() && uri == seen.uri();
            let mut seen = seen.members().iter().filter(is_there);
            seen.any(|seen| kept.id != seen.id || kept.version < seen.version)
        })
    };
    let known = KNOWN.get();
    if known.read(|kept| kept.stores.iter().any(|(places, store)| is_older(places, store))) {
        known.change(|kept| {
            let Kept { stores, resolved } = kept;
            stores.retain(|places, store| !is_older(places, store));
            resolved.retain(|_, request| is_kept(stores, &request.store));
        });
    }
}

/// Remembers what the store at `uri` was opened with.
pub fn remember_options(uri: &str, options: &StorageOptions) {
    if !options.is_empty() {
        let mut all = KNOWN.get().options.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(uri.to_owned(), options.clone());
    }
}

/// The options that the store at `uri` was last opened with in this process.
#[must_use]
pub fn options_of(uri: &str) -> StorageOptions {
    let all = KNOWN.get().options.lock().unwrap_or_else(PoisonError::into_inner);
    all.get(uri.trim_end_matches('/')).cloned().unwrap_or_default()
}

/// The store of some cells: where it was when they were selected, or at `places`.
fn store_of(known: &Known, cells: &CellStores, places: Option<&[String]>) -> Result<Arc<KeptStore>> {
    let members = cells.at(places)?;
    let kept_as: Places = members.iter().map(|&(uri, store)| (uri.to_owned(), store.version)).collect();
    let kept = known.read(|kept| kept.stores.get(&kept_as).cloned());
    if let Some(kept) = kept.as_ref().filter(|kept| !kept.has_changed()) {
        cells.check(kept.source.store())?;
        kept.used.store(known.now(), Ordering::Relaxed);
        return Ok(kept.clone());
    }
    let (mut stores, mut stamps) = (Vec::new(), Vec::new());
    for (uri, cells) in members {
        let storage = storage::open(uri, &options_of(uri))?;
        stamps.push(if cells.version.is_some() { Stamp::Pinned } else { Stamp::now(&*storage) });
        let store = Store::read(storage, cells.version).map_err(|e| match (e.kind(), places) {
            (ErrorKind::NotFound, None) => DaoError::new(e.kind(), format!("{e}\n{MOVED}")),
            _ => e,
        })?;
        cells.check(store.alone()?)?;
        stores.push(store);
    }
    let store = Store::join(stores)?;
    let source = match kept {
        // The parts are the same, so their open matrices remain valid and are kept.
        Some(kept) if lists_the_same(kept.source.store(), &store) => kept.source.clone(),
        _ => Arc::new(OpenStore::new(store)),
    };
    let opened = Arc::new(KeptStore { source, stamps, used: AtomicU64::new(known.now()) });
    known.change(|kept| kept.keep_store(kept_as, opened.clone()));
    Ok(opened)
}

/// Whether two openings of a store list the same parts, down to their checksums. sfaira's have none: what is
/// open of such a store is not kept once a file of it has changed.
fn lists_the_same(one: &Store, other: &Store) -> bool {
    let (one, other) = (one.manifest(), other.manifest());
    let known = other.parts.iter().all(|part| part.checksum.is_some());
    known && one.id == other.id && one.parts == other.parts
}

impl KeptStore {
    fn has_changed(&self) -> bool {
        self.stamps.iter().zip(self.source.store().members()).any(|(stamp, member)| match stamp {
            Stamp::Pinned => false,
            Stamp::Remote(read) => read.elapsed() >= FRESH,
            local => *local != Stamp::now(&*member.storage),
        })
    }
}

impl Stamp {
    /// The stamp of a store as it is now.
    fn now(storage: &dyn Storage) -> Self {
        let Some(root) = storage.local_root() else { return Self::Remote(Instant::now()) };
        let stamp = |file: std::path::PathBuf| {
            let found = storage::stamp(&file).ok()?;
            Some((found.modified, found.size, found.number))
        };
        if let Ok(Some(last)) = latest(storage) {
            return Self::Local(Some(last), vec![stamp(root.join(version_path(last)))]);
        }
        // sfaira's stores have no versions.
        let mut stamps = vec![stamp(root.to_owned())];
        for folder in storage.list_folders("").unwrap_or_default() {
            let files = ["zarr/X/.zarray", "parquet/var.parquet"];
            stamps.extend(files.map(|file| stamp(root.join(&folder).join(file))));
        }
        Self::Local(None, stamps)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::CellStore;
    use super::*;
    use crate::genes::testing::{open, write_part};

    fn cells(folder: &Path) -> CellStores {
        cells_of(&[folder])
    }

    fn cells_of(folders: &[&Path]) -> CellStores {
        let cells = |folder: &&Path| {
            let store = open(folder);
            CellStore { uri: store.uri().to_owned(), id: store.manifest().id.clone(), version: None }
        };
        CellStores::new(folders.iter().map(cells).collect())
    }

    /// The meaning of a gene, or of one in the store at `place`.
    fn resolve(cells: &CellStores, gene: &str, place: Option<&str>, planning: bool) -> Result<Arc<Resolved>> {
        resolve_among(KNOWN.get(), cells, gene, place, planning)
    }

    fn resolve_among(
        known: &Known,
        cells: &CellStores,
        gene: &str,
        place: Option<&str>,
        planning: bool,
    ) -> Result<Arc<Resolved>> {
        let place = place.map(|place| [place]);
        let request = serde_json::json!({"shape": "one", "names": [gene], "duplicates": "error", "store": place});
        let parse = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|e| DaoError::value(e.to_string()));
        resolved_among(known, cells.clone(), request.to_string().as_bytes(), planning, parse)
    }

    #[test]
    fn a_request_keeps_its_meaning_until_the_store_changes() {
        let folder = tempfile::tempdir().unwrap();
        write_part(folder.path(), "a", &[Some("x"), Some("y")]);
        let cells = cells(folder.path());
        let first = resolve(&cells, "x", None, true).unwrap();
        assert!(Arc::ptr_eq(&first, &resolve(&cells, "x", None, true).unwrap()));
        let other = resolve(&cells, "y", None, true).unwrap();
        assert!(Arc::ptr_eq(&first.store, &other.store), "a store is opened once");
        write_part(folder.path(), "a", &[Some("y"), Some("x"), Some("z")]);
        assert!(Arc::ptr_eq(&first, &resolve(&cells, "x", None, false).unwrap()), "a query that runs sees one state");
        let again = resolve(&cells, "x", None, true).unwrap();
        assert!(!Arc::ptr_eq(&first, &again) && !Arc::ptr_eq(&first.store, &again.store));
        assert!(resolve(&cells, "z", None, true).is_ok());
        forget();
        assert!(!Arc::ptr_eq(&again, &resolve(&cells, "x", None, true).unwrap()));
    }

    #[test]
    fn several_stores_are_opened_as_one_until_one_changes() {
        let folder = tempfile::tempdir().unwrap();
        let [here, there, moved] = ["here", "there", "moved"].map(|name| folder.path().join(name));
        write_part(&here, "b", &[Some("x"), Some("y")]);
        write_part(&there, "a", &[Some("z"), Some("x")]);
        let cells = cells_of(&[&there, &here]);
        let first = resolve(&cells, "x", None, true).unwrap();
        let numbers = |resolved: &Resolved| -> Vec<u32> {
            resolved.store.source.store().manifest().parts.iter().map(|part| part.number).collect()
        };
        assert_eq!(numbers(&first), [0, 1 << 24]);
        assert!(Arc::ptr_eq(&first, &resolve(&cells, "x", None, true).unwrap()));
        assert!(Arc::ptr_eq(&first.store, &resolve(&cells, "z", None, true).unwrap().store));
        // The second one's genes are others: its fingerprint, of names and cells, stays.
        write_part(&here, "b", &[Some("q"), Some("y"), Some("x")]);
        assert!(Arc::ptr_eq(&first, &resolve(&cells, "x", None, false).unwrap()));
        assert!(!Arc::ptr_eq(&first.store, &resolve(&cells, "q", None, true).unwrap().store));
        let swapped = resolve(&cells_of(&[&here, &there]), "x", None, true).unwrap();
        assert!(!Arc::ptr_eq(&swapped.store, &resolve(&cells, "x", None, true).unwrap().store));
        std::fs::rename(&here, &moved).unwrap();
        let error = resolve(&cells, "y", None, true).err().unwrap();
        assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains(MOVED), "{error}");
        let at = |places: &[&Path]| {
            let request = serde_json::json!({"shape": "one", "names": ["q"], "duplicates": "error", "store": places});
            let parse = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|e| DaoError::value(e.to_string()));
            resolved(cells.clone(), request.to_string().as_bytes(), true, parse)
        };
        assert!(at(&[&there, &moved]).is_ok());
        assert!(at(&[&there]).err().unwrap().to_string().contains("expected 2 stores, found 1 store"));
        write_part(&there, "c", &[Some("x")]);
        let error = at(&[&there, &moved]).err().unwrap().to_string();
        assert!(error.contains("the cells are of store sfaira-") && error.contains("dao.scan(["), "{error}");
    }

    #[test]
    fn no_more_stores_stay_open_than_said() {
        let folder = tempfile::tempdir().unwrap();
        let all: Vec<CellStores> = (0..3 * STORES)
            .map(|i| {
                let path = folder.path().join(i.to_string());
                write_part(&path, "a", &[Some("x"), Some("y")]);
                cells(&path)
            })
            .collect();
        let known = Known::default();
        let resolve = |cells, gene| resolve_among(&known, cells, gene, None, true).unwrap();
        let first = resolve(&all[0], "x");
        let sources: Vec<_> = all[1..]
            .iter()
            .map(|cells| {
                // The first is asked for all the time, and so it stays.
                assert!(Arc::ptr_eq(&first, &resolve(&all[0], "x")));
                resolve(cells, "y");
                Arc::downgrade(&resolve(cells, "x").store.source)
            })
            .collect();
        assert_eq!(sources.iter().filter(|source| source.strong_count() > 0).count(), STORES - 1);
    }

    #[test]
    fn another_store_and_none_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here"), folder.path().join("there"));
        write_part(&here, "a", &[Some("x")]);
        let cells = cells(&here);
        std::fs::rename(&here, &there).unwrap();
        let error = resolve(&cells, "x", None, true).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(MOVED), "{error}");
        let place = there.to_str();
        assert!(resolve(&cells, "x", place, true).is_ok());
        write_part(&there, "b", &[Some("x")]);
        let error = resolve(&cells, "x", place, true).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().starts_with("the cells are of store sfaira-"), "{error}");
        let nowhere = resolve(&cells, "x", folder.path().join("no").to_str(), true).err().unwrap();
        assert!(nowhere.kind() == ErrorKind::NotFound && !nowhere.to_string().contains(MOVED), "{nowhere}");
    }

    #[test]
    fn options_are_those_of_the_last_opening() {
        let options = |value: &str| vec![("key".to_owned(), value.to_owned())];
        remember_options("s3://bucket/store", &options("a"));
        remember_options("s3://bucket/store", &options("b"));
        remember_options("s3://bucket/store", &Vec::new());
        assert_eq!(options_of("s3://bucket/store/"), options("b"));
        assert!(options_of("s3://bucket/other").is_empty());
    }
}
