//! Who is writing: a file of its own for each writer and editor, which says as long as it lives that it does.
//!
//! Whoever writes files of a store first makes `writing/<tag>`, where the tag is a random one that is in the name of each of
//! its files, or of the folder they are in. What no version names is then somebody's who is at it, or what one left who died.
//! On a folder the file is locked, and the system frees a lock when a process ends. On a bucket it is put again and again
//! ([`heartbeat`](super::heartbeat)), and its age is judged by the server's clock alone.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use super::heartbeat::{Heartbeat, dead_after};
use crate::error::{DaoError, ErrorKind, Result};
use crate::interrupt::undisturbed;
use crate::storage::{Storage, make_folder, write_error};

/// Folder of the leases.
pub const WRITING: &str = "writing";

/// A lease, given back when dropped.
#[derive(Debug)]
pub struct Lease {
    /// What is in the name of each file that its holder writes.
    pub tag: String,
    held: Held,
    /// A forked child has a copy of this and must leave its parent's lease alone.
    pid: u32,
}

/// What shows that the holder lives.
#[derive(Debug)]
enum Held {
    Locked { path: PathBuf, _lock: File },
    Renewed(Heartbeat),
}

impl Lease {
    /// A new lease in a store.
    ///
    /// # Errors
    /// `Value` for a store that is not written to, `Io`.
    pub fn new(storage: &Arc<dyn Storage>) -> Result<Self> {
        let tag = Uuid::new_v4().simple().to_string()[..12].to_owned();
        let pid = std::process::id();
        let Some(root) = storage.local_root() else {
            let held = Held::Renewed(Heartbeat::start(storage, format!("{WRITING}/{tag}"))?);
            return Ok(Self { tag, held, pid });
        };
        let folder = root.join(WRITING);
        make_folder(&folder)?;
        let path = folder.join(&tag);
        let file = File::create_new(&path).map_err(write_error(&path, "making a lease"))?;
        // From here on it is removed again, whatever fails.
        let lease = Self { tag, held: Held::Locked { path, _lock: file }, pid };
        if let Held::Locked { path, _lock } = &lease.held {
            _lock.lock().map_err(write_error(path, "locking"))?;
        }
        Ok(lease)
    }

    /// Whether the lease is this process' own, and not a forked parent's.
    pub fn is_own(&self) -> bool {
        self.pid == std::process::id()
    }

    /// Makes sure that nobody has taken its holder for dead: right before a version names what it wrote.
    ///
    /// # Errors
    /// `Io` for a lease that was not renewed in time: vacuum may have removed what was written.
    pub fn confirm(&self) -> Result<()> {
        match &self.held {
            Held::Locked { .. } => Ok(()),
            Held::Renewed(heartbeat) => heartbeat.confirm(),
        }
    }

    /// Lets the lease die of age on a bucket, because a version may come to be yet that names what its holder wrote: the put of
    /// one, whose answer nobody waited for.
    pub fn leave(&mut self) {
        if let Held::Renewed(heartbeat) = &mut self.held {
            heartbeat.leave();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.is_own() {
            return;
        }
        // Best effort: vacuum removes what stays.
        match &mut self.held {
            Held::Locked { path, .. } => drop(std::fs::remove_file(path)),
            Held::Renewed(heartbeat) => undisturbed(|| heartbeat.end()),
        }
    }
}

/// The tags of writers that live, and of those that died.
///
/// # Errors
/// What the storage fails with.
pub fn writers(storage: &dyn Storage) -> Result<(Vec<String>, Vec<String>)> {
    let tags = in_writing(storage)?.into_iter();
    let tags = tags.filter_map(|(path, _)| path.strip_prefix(&format!("{WRITING}/")).map(str::to_owned));
    let tags: Vec<String> = tags.filter(|tag| is_tag(tag)).collect();
    if let Some(root) = storage.local_root() {
        return Ok(tags.into_iter().partition(|tag| {
            // Open for writing: network file systems lock no other way. What cannot be looked at counts as alive.
            let file = File::options().append(true).open(root.join(WRITING).join(tag)).ok();
            file.is_none_or(|file| file.try_lock().is_err())
        }));
    }
    let (mut alive, mut dead) = (Vec::new(), Vec::new());
    if tags.is_empty() {
        return Ok((alive, dead));
    }
    let now = now(storage)?;
    for tag in tags {
        // One that is gone by now has a version, or nothing.
        let modified = storage.modified(&format!("{WRITING}/{tag}"))?;
        let age = modified.and_then(|modified| now.duration_since(modified).ok());
        if age.is_some_and(|age| age > dead_after()) { dead.push(tag) } else { alive.push(tag) }
    }
    Ok((alive, dead))
}

/// The paths and sizes of the files in the folder of the leases, which a copy of a store may lack.
///
/// # Errors
/// What the storage fails with.
pub fn in_writing(storage: &dyn Storage) -> Result<Vec<(String, u64)>> {
    match storage.list_files(WRITING) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

/// The time now by the clock of whoever keeps the store's files: that of a file that is written for this.
///
/// # Errors
/// What the storage fails with.
pub fn now(storage: &dyn Storage) -> Result<SystemTime> {
    if storage.local_root().is_some() {
        return Ok(SystemTime::now());
    }
    let path = format!("{WRITING}/.new-{}", Uuid::new_v4().simple());
    storage.replace(&path, b"")?;
    let now = storage.modified(&path);
    storage.remove(&path)?;
    now?.ok_or_else(|| {
        DaoError::value("the server does not say when an object was written, so nobody knows which writers live")
            .at(format!("store '{}'", storage.uri()))
    })
}

/// Whether a text is a tag, as leases have them.
pub fn is_tag(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
