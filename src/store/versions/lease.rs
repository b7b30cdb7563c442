//! Who is writing: a file of its own for each writer and editor, locked as long as it lives.
//!
//! Whoever writes files of a store first makes `writing/<tag>`, where the tag is a random one that is in the name of each of
//! its files, or of the folder they are in. What no version names is then somebody's who is at it, or what one left who died:
//! the system frees a lock when a process ends.

use std::fs::File;
use std::path::PathBuf;

use uuid::Uuid;

use crate::error::Result;
use crate::storage::{Storage, make_folder, not_writable, write_error};

/// Folder of the leases.
pub const WRITING: &str = "writing";

/// A lease, given back when dropped.
#[derive(Debug)]
pub struct Lease {
    /// What is in the name of each file that its holder writes.
    pub tag: String,
    path: PathBuf,
    _lock: File,
    /// A forked child has a copy of this and must leave its parent's lease alone.
    pid: u32,
}

impl Lease {
    /// A new lease in a store that is a folder on this machine.
    ///
    /// # Errors
    /// `Value` for a store elsewhere, `Io`.
    pub fn new(storage: &dyn Storage) -> Result<Self> {
        let root = storage.local_root().ok_or_else(|| not_writable(storage.uri()))?;
        let folder = root.join(WRITING);
        make_folder(&folder)?;
        let tag = Uuid::new_v4().simple().to_string()[..12].to_owned();
        let path = folder.join(&tag);
        let file = File::create_new(&path).map_err(write_error(&path, "making a lease"))?;
        // From here on it is removed again, whatever fails.
        let lease = Self { tag, path, _lock: file, pid: std::process::id() };
        lease._lock.lock().map_err(write_error(&lease.path, "locking"))?;
        Ok(lease)
    }

    /// Whether the lease is this process' own, and not a forked parent's.
    pub fn is_own(&self) -> bool {
        self.pid == std::process::id()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_own() {
            // Best effort: vacuum removes what stays.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
