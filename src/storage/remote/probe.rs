//! Whether a server refuses a put that must fail where an object is: some do as if they knew the condition.
//!
//! Versions are made by such puts. On a server that takes them all, the second of two writers would put its version over
//! the first one's, whose work would be lost. So it is looked once, before anything is written.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::super::StorageOptions;
use super::Remote;
use crate::error::{DaoError, Result};
use crate::per_process::PerProcess;

/// Addresses and their options, of which another may be another server.
type Roots = Mutex<HashSet<(String, Arc<StorageOptions>)>>;

/// The roots whose servers refuse such puts.
static REFUSING: PerProcess<Roots> = PerProcess::new();

/// Looks, once for each root in a process, whether a second put to a new object beside `path` is refused.
///
/// # Errors
/// `Value` if it is not, `Io`.
pub fn check(remote: &Remote, path: &str) -> Result<()> {
    let root = (remote.uri.clone(), remote.options.clone());
    // A panic elsewhere cannot leave the set half changed.
    let refusing = || REFUSING.get().lock().unwrap_or_else(PoisonError::into_inner);
    if refusing().contains(&root) {
        return Ok(());
    }
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let name = format!("{folder}/.new-{}", Uuid::new_v4().simple());
    // The first may be refused, too: where it was tried again after its answer was lost.
    let accepted = remote.put_new_object(&name, b"1").and_then(|_| remote.put_new_object(&name, b"2"));
    // Best effort: vacuum removes what stays.
    let _ = remote.remove_objects(&[name]);
    if accepted? {
        let what = "the server accepts a write that must fail where an object exists, so two writers could lose each \
                    other's work";
        return Err(DaoError::value(what)
            .at(format!("store '{}'", remote.uri))
            .expected("412 Precondition Failed for a second put with If-None-Match: *")
            .hint(
                "use a server that knows conditional writes (S3, GCS, Azure, MinIO, R2 do), or write the store to a folder; if nobody \
                 else ever writes to it: storage_options={\"one_writer\": True}",
            ));
    }
    refusing().insert(root);
    Ok(())
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::super::super::Storage;
    use super::*;

    #[test]
    fn a_server_is_looked_at_once_and_nothing_stays() {
        let remote = Remote::of(Arc::new(InMemory::new()), "mem://probed");
        assert!(remote.put_new("writing/a", b"").unwrap());
        assert_eq!(remote.list_files("").unwrap(), [("writing/a".to_owned(), 0)]);
        let root = (remote.uri.clone(), remote.options.clone());
        assert!(REFUSING.get().lock().unwrap().contains(&root));
    }
}
