//! The folder of a cache: whose it is, how much it may have, and what goes when there is more.
//!
//! What was not used for longest goes, an object's file at a time, until nine tenths are left. What was used in the last minutes
//! stays, by whomever: of a store that is read again and again and does not fit, one part is kept then, instead of each part
//! until shortly before it is wanted. While there is no room for more, nothing more is kept.

use std::collections::HashMap;
use std::io::{ErrorKind, Result as IoResult, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::entry::NEW;
use super::settings::Settings;
use crate::error::{DaoError, ErrorKind as DaoKind, Result};
use crate::notices;
use crate::per_process::PerProcess;
use crate::storage::system;

/// What the names of objects' files end with.
pub const KEPT: &str = ".kept";
/// The file that says to programs that copy folders that this one need not be copied: <https://bford.info/cachedir/>.
const TAG: &str = "CACHEDIR.TAG";
const TAG_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# What dao-polars has read of stores on other machines. All \
                        of it may be removed at any time.\n";

/// A file that was used in this time stays.
const IN_USE: Duration = Duration::from_secs(600);
/// A file that is not complete after this time is nobody's.
const ABANDONED: Duration = Duration::from_secs(3600);
/// After this time it is looked again whether there is room.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The part of the limit that may be added between two looks: so much is kept free.
const SHARE: u64 = 16;

/// A folder, for all who keep something there; see the module.
#[derive(Debug)]
pub struct Room {
    folder: PathBuf,
    limit: AtomicU64,
    /// The bytes that were added since it was looked how many there are.
    added: AtomicU64,
    /// Whether nothing can be written any more.
    is_off: AtomicBool,
    /// When there was no room, last.
    full: Mutex<Option<Instant>>,
    looking: Mutex<()>,
}

/// The folders that this process has open.
static ROOMS: PerProcess<Mutex<HashMap<PathBuf, Weak<Room>>>> = PerProcess::new();

impl Room {
    /// The folder that `settings` name, made where it is not there; what is too much in it goes.
    ///
    /// # Errors
    /// `Io` for a folder that cannot be made or written to, `Value` for one that has other files.
    pub fn open(settings: &Settings) -> Result<Arc<Self>> {
        let folder = &settings.folder;
        prepare(folder)?;
        let mut rooms = ROOMS.get().lock().unwrap_or_else(PoisonError::into_inner);
        rooms.retain(|_, room| room.strong_count() > 0);
        if let Some(room) = rooms.get(folder).and_then(Weak::upgrade) {
            room.limit.store(settings.limit, Ordering::Relaxed);
            return Ok(room);
        }
        let (added, is_off, full, looking) = Default::default();
        let room = Self { folder: folder.clone(), limit: settings.limit.into(), added, is_off, full, looking };
        room.look().map_err(|e| unusable(folder, &e))?;
        let room = Arc::new(room);
        rooms.insert(folder.clone(), Arc::downgrade(&room));
        Ok(room)
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether more may be kept.
    pub fn has_room(&self) -> bool {
        if self.is_off.load(Ordering::Relaxed) {
            return false;
        }
        let full = *self.full.lock().unwrap_or_else(PoisonError::into_inner);
        match full {
            Some(since) if since.elapsed() < LOOK_AGAIN => false,
            Some(_) => self.look_now(),
            None => true,
        }
    }

    /// Notes what was written.
    pub fn note(&self, bytes: u64) {
        let added = self.added.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if added > self.limit.load(Ordering::Relaxed) / SHARE {
            self.look_now();
        }
    }

    /// Notes that nothing can be written: reading goes on without, and the user is told.
    pub fn give_up(&self, error: &std::io::Error) {
        if !self.is_off.swap(true, Ordering::Relaxed) {
            notices::add(format!(
                "nothing more is kept in the cache '{}': {error}. Reading goes on without; make room there, or name another \
                 folder with cache=",
                self.folder.display()
            ));
        }
    }

    /// Removes the files whose names begin so.
    pub fn remove(&self, beginning: &str) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(beginning) && name.ends_with(KEPT)) {
                // What stays is removed when it is opened, or is found to be another again.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Looks how much there is; whether there is room then. One thread at a time looks, others go on meanwhile.
    fn look_now(&self) -> bool {
        match self.looking.try_lock() {
            Ok(_guard) => match self.look() {
                Ok(has_room) => has_room,
                Err(e) => {
                    self.give_up(&e);
                    false
                }
            },
            Err(_) => true,
        }
    }

    /// Counts what is there, and removes what is too much; whether there is room then.
    fn look(&self) -> IoResult<bool> {
        self.added.store(0, Ordering::Relaxed);
        let limit = self.limit.load(Ordering::Relaxed);
        let now = SystemTime::now();
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            // What another process has just removed is not there.
            let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
            let used = meta.modified().unwrap_or(now);
            // A clock that was put back: it is taken for used now.
            let idle = now.duration_since(used).unwrap_or_default();
            if name.starts_with(NEW) && idle > ABANDONED {
                let _ = std::fs::remove_file(entry.path());
            } else if name.ends_with(KEPT) {
                files.push((entry.path(), system::allocated(&meta), used, idle));
            }
        }
        let mut total = files.iter().fold(0_u64, |total, (_, bytes, ..)| total.saturating_add(*bytes));
        let most = limit - limit / SHARE;
        if total > most {
            files.sort_unstable_by_key(|&(_, _, used, _)| used);
            for (path, bytes, _, _) in files.iter().filter(|(_, _, _, idle)| *idle > IN_USE) {
                if total <= limit / 10 * 9 {
                    break;
                }
                match std::fs::remove_file(path) {
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                    _ => total -= bytes,
                }
            }
        }
        let has_room = total <= most;
        *self.full.lock().unwrap_or_else(PoisonError::into_inner) = (!has_room).then(Instant::now);
        Ok(has_room)
    }
}

/// Makes the folder where it is not there, and says that it is a cache.
fn prepare(folder: &Path) -> Result<()> {
    let unusable = |e: std::io::Error| unusable(folder, &e);
    let tag = folder.join(TAG);
    if !folder.is_dir() {
        folder.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(unusable)?;
        match system::private_folder(folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists || !folder.is_dir() => return Err(unusable(e)),
            _ => {}
        }
    }
    if !tag.exists() {
        let names = std::fs::read_dir(folder).map_err(unusable)?.flatten().map(|entry| entry.file_name());
        let foreign = names.into_iter().find(|name| name != TAG && !name.to_string_lossy().starts_with(NEW));
        // Another process may have made a cache of it just now.
        if let Some(name) = foreign.filter(|_| !tag.exists()) {
            return Err(DaoError::value("the folder of the cache has other files")
                .at(format!("path '{}'", folder.display()))
                .expected("a new or empty folder, or one that was a cache before")
                .found(format!("'{}'", name.to_string_lossy()))
                .hint("name another folder with cache="));
        }
    }
    // Written anew each time, that a folder that cannot be written to is an error now.
    let probe = folder.join(format!("{NEW}{}", uuid::Uuid::new_v4().simple()));
    let written = system::private_file(&probe).and_then(|mut file| file.write_all(TAG_TEXT.as_bytes()));
    let placed = written.and_then(|()| if tag.exists() { Ok(true) } else { system::place(&probe, &tag) });
    let _ = std::fs::remove_file(&probe);
    placed.map(drop).map_err(unusable)
}

fn unusable(folder: &Path, e: &std::io::Error) -> DaoError {
    // Not that of what is missing: a store is not what is not there.
    DaoError::new(DaoKind::Io, format!("opening the folder of the cache failed: {e}"))
        .at(format!("path '{}'", folder.display()))
        .hint("name a folder that you can write to with cache=")
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A room of 10 MiB, in which files are put that were used so many minutes ago.
    fn room(folder: &Path, files: &[(&str, u64)]) -> Arc<Room> {
        prepare(folder).unwrap();
        for (name, minutes) in files {
            let file = File::create(folder.join(name)).unwrap();
            system::write_all_at(&file, &vec![7; 3 << 20], 0).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(60 * minutes)).unwrap();
        }
        Room::open(&Settings { folder: folder.to_owned(), limit: 10 * MIB }).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut all: Vec<String> = all.filter(|name| name != TAG).collect();
        all.sort();
        all
    }

    #[test]
    fn what_was_not_used_for_longest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/cache");
        let files = [("a.kept", 50), ("b.kept", 90), ("c.kept", 5), ("d.kept", 70), (".new-x", 90), (".new-y", 1)];
        let room = room(&path, &files);
        assert_eq!(names(&path), [".new-y", "a.kept", "c.kept", "d.kept"]);
        assert!(room.has_room());
        assert!(Arc::ptr_eq(&room, &Room::open(&Settings { folder: path, limit: 10 * MIB }).unwrap()));
    }

    #[test]
    fn what_is_in_use_stays_and_nothing_is_added() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let room = room(&path, &[("a.kept", 1), ("b.kept", 2), ("c.kept", 3), ("d.kept", 4)]);
        assert!(names(&path).len() == 4 && !room.has_room());
        for name in ["a.kept", "b.kept"] {
            std::fs::remove_file(path.join(name)).unwrap();
        }
        *room.full.lock().unwrap() = Instant::now().checked_sub(LOOK_AGAIN);
        assert!(room.has_room());
        std::fs::write(path.join("e.kept"), vec![7; 5 << 20]).unwrap();
        room.note(MIB);
        assert!(!room.has_room(), "it is looked again after a sixteenth of the limit");
    }

    #[test]
    fn files_of_others_are_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.kept"), "text").unwrap();
        let error = Room::open(&Settings { folder: folder.path().to_owned(), limit: MIB }).unwrap_err();
        assert!(error.kind() == DaoKind::Value && error.to_string().contains("thesis.kept"), "{error}");
        let file = folder.path().join("thesis.kept");
        let error = Room::open(&Settings { folder: file, limit: MIB }).unwrap_err();
        assert!(error.to_string().contains("opening the folder of the cache failed"), "{error}");
        assert_eq!(names(folder.path()), ["thesis.kept"]);
    }

    #[test]
    fn all_who_begin_at_once_get_in() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let path = folder.path().join(format!("a/{round}"));
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|_| scope.spawn(|| prepare(&path))).collect();
                all.into_iter().for_each(|one| one.join().unwrap().unwrap());
            });
            assert!(names(&path).is_empty() && path.join(TAG).exists());
        }
    }

    #[test]
    fn who_cannot_write_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let room = room(&folder.path().join("cache"), &[]);
        assert!(room.has_room());
        room.give_up(&ErrorKind::StorageFull.into());
        room.give_up(&ErrorKind::StorageFull.into());
        let told = notices::take().into_iter().filter(|text| text.contains(folder.path().to_str().unwrap()));
        assert!(told.count() == 1 && !room.has_room());
    }
}
