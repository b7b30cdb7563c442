//! A folder on this machine for what is written to a bucket later, or not at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::Result;
use crate::storage::{Storage, private_folder, write_error};

/// A new folder where the system has its temporary ones; it goes when it is dropped.
#[derive(Debug)]
pub struct TemporaryFolder {
    path: PathBuf,
    /// A forked child has a copy of this and must leave its parent's folder alone.
    pid: u32,
}

impl TemporaryFolder {
    /// # Errors
    /// `Io`.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("dao-polars-{}", Uuid::new_v4().simple()));
        private_folder(&path).map_err(write_error(&path, "making a temporary folder"))?;
        Ok(Self { path, pid: std::process::id() })
    }

    /// A new one, where a storage is no folder on this machine.
    ///
    /// # Errors
    /// `Io`.
    pub fn where_needed(storage: &dyn Storage) -> Result<Option<Arc<Self>>> {
        if storage.local_root().is_some() { Ok(None) } else { Self::new().map(|folder| Some(Arc::new(folder))) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if self.pid == std::process::id() {
            // Best effort: the system removes what stays.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_nobody_elses_and_goes() {
        let folder = TemporaryFolder::new().unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("a"), "a").unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        let forked = TemporaryFolder { path: path.clone(), pid: 0 };
        drop(forked);
        assert!(path.exists());
        drop(folder);
        assert!(!path.exists());
    }
}
