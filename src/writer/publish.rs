//! Making a dataset visible at once, and cleaning up after writers that died.
//!
//! ```text
//! <store>/.dao.lock              held while the manifest, or the list of staging folders, changes
//! <store>/.staging/<uuid>/       a dataset being written
//! <store>/.staging/<uuid>.lock   held by its writer: a free lock means a dead writer
//! <store>/<dataset>/.unpublished in a folder that was moved in and is not in the manifest yet
//! ```
//!
//! Locks are advisory file locks, which the system frees when a process dies.

use std::fs::File;
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};

use serde_json::Value;
use uuid::Uuid;

use super::folder::{io, make_folder, write_file};
use crate::error::{DaoError, ErrorKind, Result};
use crate::storage;
use crate::store::{DATASET_FORMAT, Dataset, MANIFEST, Manifest, Store, UNPUBLISHED};

/// A folder that becomes a dataset, or goes away when dropped.
pub struct Staging {
    store: PathBuf,
    folder: PathBuf,
    _lock: File,
    /// A forked child has a copy of this and must leave its parent's folder alone.
    pid: u32,
}

/// Locks the store until the file is dropped, and reads its manifest; a new one where there is none. Whoever may write
/// to the folder may not be who made the lock file, and can lock it all the same.
fn lock_store(store: &Path) -> Result<(File, Manifest)> {
    let path = store.join(".dao.lock");
    let file = File::options().create(true).append(true).open(&path).or_else(|e| match e.kind() {
        IoKind::PermissionDenied => File::open(&path),
        _ => Err(e),
    });
    let file = file.map_err(io(&path, "opening the lock"))?;
    file.lock().map_err(io(&path, "locking the store"))?;
    Ok((file, read_manifest(store)?))
}

fn read_manifest(store: &Path) -> Result<Manifest> {
    let path = store.join(MANIFEST);
    match std::fs::read(&path) {
        Ok(bytes) => Manifest::parse(&bytes, &path.display().to_string()),
        Err(e) if e.kind() == IoKind::NotFound => Ok(Manifest::new()),
        Err(e) => Err(io(&path, "reading")(e)),
    }
}

/// Whether `folder` is a dataset that a writer moved in and died before listing: it has our marker,
/// and describes itself as the dataset of that name.
fn is_unpublished(folder: &Path) -> bool {
    let described = || -> Option<Value> { serde_json::from_slice(&std::fs::read(folder.join(MANIFEST)).ok()?).ok() };
    let is_of_folder = |found: Value| {
        let name = folder.file_name().and_then(|name| name.to_str());
        found["format"] == DATASET_FORMAT && name.is_some_and(|name| found["id"] == name)
    };
    folder.join(UNPUBLISHED).is_file() && described().is_some_and(is_of_folder)
}

/// Refuses a folder that holds datasets and no manifest: a new one would hide them.
fn check_no_lost_datasets(store: &Path, uri: &str) -> Result<()> {
    let is_dataset = |folder: &Path| {
        [MANIFEST, "zarr/X", "parquet/obs.parquet"].iter().any(|part| folder.join(part).exists())
            && !is_unpublished(folder)
    };
    if !store.is_dir() || store.join(MANIFEST).exists() || !entries(store)?.iter().any(|path| is_dataset(path)) {
        return Ok(());
    }
    let shown = store.display();
    if let Ok(store) = Store::open(uri, &Vec::new()) {
        store.check_writable()?;
    }
    Err(DaoError::new(ErrorKind::NotFound, "the folder holds datasets and no manifest")
        .at(format!("path '{shown}/{MANIFEST}'"))
        .hint("restore it from a copy, or write to a new folder"))
}

fn check_free(manifest: &Manifest, store: &Path, dataset: &str) -> Result<()> {
    let taken = |how: &str| {
        DaoError::new(ErrorKind::AlreadyExists, format!("dataset '{dataset}' {how}"))
            .at(format!("store '{}'", store.display()))
            .hint("choose another name with dataset=")
    };
    if manifest.datasets.iter().any(|entry| entry.name == dataset) {
        return Err(taken("is already in the store"));
    }
    let folder = store.join(dataset);
    if folder.exists() && !is_unpublished(&folder) {
        return Err(taken("has the name of a folder that is there and is no dataset"));
    }
    Ok(())
}

/// A dataset's id is a folder name.
fn check_id(dataset: &str) -> Result<()> {
    let bad = dataset.is_empty()
        || dataset.starts_with('.')
        || dataset.len() > 200
        || dataset == MANIFEST
        || dataset.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'));
    if bad {
        return Err(DaoError::value(format!("'{}' cannot name a dataset", dataset.escape_default()))
            .expected("1 to 200 bytes without slashes or control characters, not beginning with a dot")
            .hint("choose another name with dataset="));
    }
    Ok(())
}

impl Staging {
    /// A new staging folder in the store at `uri`, which is made if it is missing.
    ///
    /// # Errors
    /// `Value` for an id that cannot be a name or a store that cannot be written to,
    /// `AlreadyExists` if it is taken, `Io`.
    pub fn begin(uri: &str, dataset: &str) -> Result<Self> {
        check_id(dataset)?;
        let storage = storage::open(uri, &Vec::new())?;
        let store = storage.local_root().ok_or_else(|| not_a_folder(uri))?;
        check_no_lost_datasets(store, uri)?;
        make_folder(store)?;
        let (_lock, manifest) = lock_store(store)?;
        clean_up(store, &manifest);
        check_free(&manifest, store, dataset)?;
        Self::new(store.to_owned())
    }

    /// A new staging folder in a store that is open.
    ///
    /// # Errors
    /// `Value` for a store that is not written to, `Io`.
    pub fn beside(store: &Store) -> Result<Self> {
        let root = store.storage().local_root().ok_or_else(|| not_a_folder(store.uri()))?;
        let (_lock, manifest) = lock_store(root)?;
        clean_up(root, &manifest);
        Self::new(root.to_owned())
    }

    /// A new staging folder and its lock. Call with the store locked.
    fn new(store: PathBuf) -> Result<Self> {
        let folder = store.join(".staging").join(Uuid::new_v4().to_string());
        let lock_path = folder.with_extension("lock");
        make_folder(&store.join(".staging"))?;
        let lock = File::create(&lock_path).map_err(io(&lock_path, "opening the lock"))?;
        // From here on it is removed again with what it is the lock of, whatever fails.
        let mut staging = Self { store, folder, _lock: lock, pid: std::process::id() };
        staging._lock.lock().map_err(io(&lock_path, "locking"))?;
        make_folder(&staging.folder)?;
        staging.folder = staging.folder.canonicalize().map_err(io(&staging.folder, "resolving"))?;
        Ok(staging)
    }

    /// The folder to write to.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Moves the folder to its place and lists it. `update` gets the manifest as it is now and
    /// the number that the dataset gets, and gives its entry.
    ///
    /// # Errors
    /// `AlreadyExists` if another writer took the name meanwhile, `Io`; the dataset is not visible then.
    pub fn publish(self, update: impl FnOnce(&mut Manifest, u32) -> Result<Dataset>) -> Result<()> {
        let (_lock, mut manifest) = lock_store(&self.store)?;
        let number = manifest.next_number;
        let entry = update(&mut manifest, number)?;
        check_free(&manifest, &self.store, &entry.name)?;
        let target = self.store.join(&entry.path);
        manifest.datasets.push(entry);
        manifest.next_number =
            number.checked_add(1).ok_or_else(|| DaoError::value("the store has given all its numbers"))?;
        if target.exists() {
            // Marked unpublished, and we hold the lock: a writer died between moving and listing it.
            std::fs::remove_dir_all(&target).map_err(io(&target, "cleaning up"))?;
        }
        write_file(&self.folder.join(UNPUBLISHED), b"")?;
        std::fs::rename(&self.folder, &target).map_err(io(&target, "moving the dataset to its place"))?;
        sync_folder(&self.store);
        if let Err(error) = write_manifest(&self.store, &manifest) {
            // The folder is not visible to readers; what cannot be removed now, the next writer removes.
            let _ = std::fs::remove_dir_all(&target);
            return Err(error);
        }
        // The dataset is listed: nothing may fail from here on. A marker that stays, the next writer removes.
        let _ = std::fs::remove_file(target.join(UNPUBLISHED));
        Ok(())
    }

    /// Moves the folder into a dataset of the store, as `name`; false if another writer was first.
    ///
    /// # Errors
    /// `Value` if the dataset is no longer the one that `entry` describes, `Io`; nothing is moved then.
    pub fn publish_into(self, entry: &Dataset, name: &str) -> Result<bool> {
        let (_lock, manifest) = lock_store(&self.store)?;
        let listed = manifest.datasets.iter().find(|known| known.name == entry.name);
        if !listed.is_some_and(|known| known.checksum == entry.checksum && known.path == entry.path) {
            return Err(DaoError::value("the dataset is no longer what it was when the store was opened")
                .at(entry.place())
                .hint("open the store again"));
        }
        let target = self.store.join(&entry.path).join(name);
        if target.join(MANIFEST).exists() {
            return Ok(false);
        }
        if target.is_dir() {
            // A folder without a description is a leftover, and no other writer moves in while we hold the lock.
            std::fs::remove_dir_all(&target).map_err(io(&target, "cleaning up"))?;
        }
        std::fs::rename(&self.folder, &target).map_err(io(&target, "moving the folder to its place"))?;
        sync_folder(&self.store.join(&entry.path));
        Ok(true)
    }
}

fn not_a_folder(uri: &str) -> DaoError {
    DaoError::value(format!("cannot write to '{}'", storage::shown(uri)))
        .expected("a folder on this machine")
        .hint("write the store to a folder and copy it there, dao.json last")
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return;
        }
        // Best effort: the next writer removes what stays.
        let _ = std::fs::remove_dir_all(&self.folder);
        let _ = std::fs::remove_file(self.folder.with_extension("lock"));
    }
}

fn write_manifest(store: &Path, manifest: &Manifest) -> Result<()> {
    let (path, temporary) = (store.join(MANIFEST), store.join(format!(".{MANIFEST}.new")));
    write_file(&temporary, manifest.to_json()?.as_bytes())?;
    std::fs::rename(&temporary, &path).map_err(io(&path, "replacing the manifest"))?;
    sync_folder(store);
    Ok(())
}

/// Flushes a folder's entries. Some file systems cannot, and then order is up to them.
fn sync_folder(folder: &Path) {
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// Removes what dead writers left, as far as this user may. Call with the store locked.
fn clean_up(store: &Path, manifest: &Manifest) {
    for path in entries(store).unwrap_or_default().into_iter().filter(|path| is_unpublished(path)) {
        let listed = manifest.datasets.iter().any(|entry| store.join(&entry.path) == path);
        let _ = if listed { std::fs::remove_file(path.join(UNPUBLISHED)) } else { std::fs::remove_dir_all(&path) };
    }
    let locks = entries(&store.join(".staging")).unwrap_or_default();
    for path in locks.into_iter().filter(|path| path.extension().is_some_and(|e| e == "lock")) {
        // Open for writing: network file systems lock no other way.
        let Ok(lock) = File::options().append(true).open(&path) else { continue };
        if lock.try_lock().is_ok() {
            let _ = std::fs::remove_dir_all(path.with_extension(""));
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// The paths of all files and folders in `folder`.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    paths.map_err(io(folder, "listing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::dataset;

    fn entry(name: &str, number: u32) -> Dataset {
        Dataset { number, ..dataset(name, 1, 1) }
    }

    fn describe(folder: &Path, name: &str) {
        let text = serde_json::json!({"format": DATASET_FORMAT, "id": name}).to_string();
        std::fs::write(folder.join(MANIFEST), text).unwrap();
    }

    fn begin(store: &Path, name: &str) -> Result<Staging> {
        Staging::begin(store.to_str().unwrap(), name)
    }

    fn publish(staging: Staging, name: &str) -> Result<()> {
        describe(staging.folder(), name);
        staging.publish(|_, number| Ok(entry(name, number)))
    }

    fn listed(store: &Path) -> Vec<(String, u32)> {
        read_manifest(store).unwrap().datasets.into_iter().map(|entry| (entry.name, entry.number)).collect()
    }

    #[test]
    fn of_two_writers_of_one_name_the_first_wins() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path();
        let (first, second) = (begin(store, "d").unwrap(), begin(store, "d").unwrap());
        std::fs::write(first.folder().join("whose"), b"first").unwrap();
        publish(first, "d").unwrap();
        let error = publish(second, "d").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(store.join("d/whose")).unwrap(), b"first");
        assert_eq!(listed(store), [("d".to_owned(), 0)]);
        assert!(!store.join("d").join(UNPUBLISHED).exists());
        assert_eq!(begin(store, "d").err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert_eq!(entries(&store.join(".staging")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn writers_that_race_all_get_in_with_numbers_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path();
        std::thread::scope(|scope| {
            for i in 0..8 {
                scope.spawn(move || {
                    let name = format!("d{i}");
                    publish(begin(store, &name).unwrap(), &name).unwrap();
                });
            }
        });
        let mut found = listed(store);
        let mut numbers: Vec<u32> = found.iter().map(|entry| entry.1).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..8).collect::<Vec<_>>());
        found.sort();
        assert_eq!(
            found.iter().map(|entry| entry.0.as_str()).collect::<Vec<_>>(),
            ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7"]
        );
    }

    #[test]
    fn numbers_are_given_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path();
        publish(begin(store, "a").unwrap(), "a").unwrap();
        publish(begin(store, "b").unwrap(), "b").unwrap();
        let mut manifest = read_manifest(store).unwrap();
        manifest.datasets.pop();
        write_manifest(store, &manifest).unwrap();
        std::fs::remove_dir_all(store.join("b")).unwrap();
        publish(begin(store, "c").unwrap(), "c").unwrap();
        assert_eq!(listed(store), [("a".to_owned(), 0), ("c".to_owned(), 2)]);
    }

    #[test]
    fn what_dead_writers_left_is_removed_and_what_living_ones_write_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path();
        let living = begin(store, "living").unwrap();
        // A process that died has no lock any more, and its folder stays.
        let dead = store.join(".staging/11111111-1111-1111-1111-111111111111");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.with_extension("lock"), b"").unwrap();
        // Another writer died after moving its dataset in, before listing it.
        let unlisted = store.join("unlisted");
        std::fs::create_dir(&unlisted).unwrap();
        describe(&unlisted, "unlisted");
        std::fs::write(unlisted.join(UNPUBLISHED), b"").unwrap();

        drop(begin(store, "next").unwrap());
        assert!(!dead.exists() && !dead.with_extension("lock").exists() && !unlisted.exists());
        assert!(living.folder().exists());
        publish(living, "living").unwrap();
        // Its name is free again.
        publish(begin(store, "unlisted").unwrap(), "unlisted").unwrap();
    }

    #[test]
    fn a_marker_that_stayed_in_a_listed_dataset_removes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path();
        publish(begin(store, "d").unwrap(), "d").unwrap();
        std::fs::write(store.join("d").join(UNPUBLISHED), b"").unwrap();
        drop(begin(store, "e").unwrap());
        assert!(store.join("d").join(MANIFEST).exists() && !store.join("d").join(UNPUBLISHED).exists());
    }

    #[test]
    fn folders_of_others_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path();
        std::fs::create_dir(store.join("mine")).unwrap();
        // Our marker alone is not enough: it must describe itself as that dataset.
        std::fs::write(store.join("mine").join(UNPUBLISHED), b"").unwrap();
        std::fs::write(store.join("mine/notes.txt"), b"precious").unwrap();
        assert_eq!(begin(store, "mine").err().unwrap().kind(), ErrorKind::AlreadyExists);
        let staging = begin(store, "other").unwrap();
        assert_eq!(publish(staging, "mine").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(store.join("mine/notes.txt")).unwrap(), b"precious");
    }

    #[test]
    fn a_store_that_lost_its_manifest_gets_no_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path();
        publish(begin(store, "d").unwrap(), "d").unwrap();
        std::fs::remove_file(store.join(MANIFEST)).unwrap();
        let error = begin(store, "e").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("no manifest"), "{error}");
    }

    #[test]
    fn names_that_are_no_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(201);
        for name in ["", ".", "..", ".hidden", "a/b", "a\\b", "a\nb", MANIFEST, long.as_str()] {
            assert_eq!(begin(folder.path(), name).err().unwrap().kind(), ErrorKind::Value, "{name:?}");
        }
        assert!(begin(folder.path(), &"x".repeat(200)).is_ok());
        assert_eq!(Staging::begin("s3://bucket/store", "d").err().unwrap().kind(), ErrorKind::Value);
    }

    #[test]
    fn a_failure_while_listing_publishes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path();
        let staging = begin(store, "d").unwrap();
        describe(staging.folder(), "d");
        let error = staging.publish(|_, _| Err(DaoError::value("no"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(!store.join("d").exists() && !store.join(MANIFEST).exists());
        assert_eq!(entries(&store.join(".staging")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn an_addition_goes_to_the_dataset_it_was_made_of() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path();
        publish(begin(store, "d").unwrap(), "d").unwrap();
        let addition = || {
            let staging = begin(store, "unused").unwrap();
            std::fs::write(staging.folder().join(MANIFEST), b"{}").unwrap();
            staging
        };
        let stale = Dataset { checksum: Some("other".into()), ..entry("d", 0) };
        assert_eq!(addition().publish_into(&stale, "index").unwrap_err().kind(), ErrorKind::Value);
        // What lies there without a description is a leftover.
        std::fs::create_dir(store.join("d/index")).unwrap();
        assert!(addition().publish_into(&entry("d", 0), "index").unwrap());
        assert!(!addition().publish_into(&entry("d", 0), "index").unwrap());
    }
}
