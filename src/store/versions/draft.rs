//! The next version: made of the last one, and only if no other was made meanwhile.

use super::super::manifest::Manifest;
use super::super::versioned;
use super::{Base, Identity, LATEST, Record, STORE_FILE, STORE_FORMAT, read_file, read_latest, to_json, version_path};
use crate::error::Result;
use crate::storage::Storage;

/// A version in the making: the last one of the store, to be changed and then made if it is the last one still.
pub struct Draft {
    pub manifest: Manifest,
    /// What it is told apart from.
    base: Option<Base>,
}

impl Draft {
    /// The last version, or that of an empty store.
    ///
    /// # Errors
    /// As [`read`].
    pub fn of_latest(storage: &dyn Storage) -> Result<Self> {
        let (manifest, base) = read_latest(storage)?;
        Ok(Self { manifest, base })
    }

    /// Makes the version; false if another was made meanwhile. What it names has to be there to stay before.
    ///
    /// # Errors
    /// `Io`; there is no version then.
    pub fn make(&mut self, storage: &dyn Storage, record: &Record) -> Result<bool> {
        let manifest = &mut self.manifest;
        manifest.version += 1;
        manifest.oldest = manifest.oldest.max(1);
        manifest.record = record.clone();
        let text = to_json(manifest, self.base.as_ref())?;
        let made = match storage.put_new(&version_path(manifest.version), text.as_bytes()) {
            Ok(true) => true,
            Ok(false) => is_ours(storage, manifest.version, &record.attempt)?,
            // It may be there all the same, as where it alone could not be flushed.
            Err(e) if !is_ours(storage, manifest.version, &record.attempt)? => return Err(e),
            Err(_) => true,
        };
        if made {
            // The version is there: nothing may fail from here on. The next one makes up for what does.
            let _ = identify(storage, &manifest.id);
            let _ = storage.replace(LATEST, manifest.version.to_string().as_bytes());
        }
        Ok(made)
    }
}

/// Makes the version that follows the last one: `change` gets that, and changes it; where it says that there is nothing to
/// change, the last one remains. It is called again on what others made of the store meanwhile, until the version is made.
///
/// What the version names has to be there to stay before.
///
/// # Errors
/// What `change` fails with, and `Io`; there is no version then.
pub fn commit(
    storage: &dyn Storage,
    record: &Record,
    mut change: impl FnMut(&mut Manifest) -> Result<bool>,
) -> Result<Manifest> {
    loop {
        let mut draft = Draft::of_latest(storage)?;
        if !change(&mut draft.manifest)? || draft.make(storage, record)? {
            return Ok(draft.manifest);
        }
    }
}

/// Whether a version that could not be made is there because it was: the answer that said so was lost.
fn is_ours(storage: &dyn Storage, number: u64, attempt: &str) -> Result<bool> {
    Ok(read_file(storage, number)?.is_some_and(|file| file.record.attempt == attempt))
}

/// Writes the store's `dao.json` where there is none, once there is a version: a store without versions has lost them.
fn identify(storage: &dyn Storage, id: &str) -> Result<()> {
    if storage.size(STORE_FILE)?.is_none() {
        storage.put_new(STORE_FILE, versioned::to_json(STORE_FORMAT, &Identity { id: id.to_owned() })?.as_bytes())?;
    }
    Ok(())
}
