//! Objects put and removed.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use object_store::{Error as ObjectError, ObjectStore, PutMode, PutPayload};

use super::super::not_writable;
use super::list::PAGE;
use super::{Remote, wait};
use crate::error::{DaoError, Result};

impl Remote {
    /// Refuses a root that has no way to put objects.
    pub(super) fn check_bucket(&self) -> Result<()> {
        if self.is_bucket { Ok(()) } else { Err(not_writable(&self.uri)) }
    }

    /// Puts an object where none is; see [`Storage::put_new`](super::Storage::put_new).
    ///
    /// A put that was tried again after its answer was lost finds the object of its first try: whose it is, callers look.
    pub(super) fn put_new_object(&self, path: &str, bytes: &[u8]) -> Result<bool> {
        match self.put(path, bytes.to_vec().into(), PutMode::Create)? {
            Ok(()) => Ok(true),
            // A conflict is a put of another at the same time, whose object may not be there yet.
            Err(ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => Ok(false),
            Err(e) => Err(self.not_written(path, &e)),
        }
    }

    /// Puts an object where none is, as nobody else does: the server need not know conditions.
    pub(super) fn put_alone(&self, path: &str, bytes: &[u8]) -> Result<bool> {
        if self.head(path)?.is_some() {
            return Ok(false);
        }
        self.replace_object(path, bytes)?;
        Ok(true)
    }

    /// Puts an object in the place of another; see [`Storage::replace`](super::Storage::replace).
    pub(super) fn replace_object(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.put_whole(path, bytes.to_vec().into())
    }

    /// Puts a whole object.
    pub(super) fn put_whole(&self, path: &str, bytes: PutPayload) -> Result<()> {
        self.put(path, bytes, PutMode::Overwrite)?.map_err(|e| self.not_written(path, &e))
    }

    fn put(&self, path: &str, bytes: PutPayload, mode: PutMode) -> Result<object_store::Result<()>> {
        let object = self.object(path);
        self.answer_in(self.patience_for(bytes.content_length()), path, async move {
            self.store.put_opts(&object, bytes, mode.into()).await.map(drop)
        })
    }

    /// How long is waited until so many bytes are sent.
    pub(super) fn patience_for(&self, bytes: usize) -> Duration {
        self.patience.saturating_add(wait::slowest(bytes as u64))
    }

    /// Removes objects; see [`Storage::remove_files`](super::Storage::remove_files). All are tried.
    pub(super) fn remove_objects(&self, paths: &[String]) -> Result<()> {
        let mut failed = Ok(());
        for page in paths.chunks(PAGE) {
            let objects: Vec<_> = page.iter().map(|path| Ok(self.object(path))).collect();
            let mut answers = self.store.delete_stream(stream::iter(objects).boxed());
            let first = page.first().map_or("", String::as_str);
            while let Some(answer) = self.answer(first, answers.next())? {
                match answer {
                    Ok(_) | Err(ObjectError::NotFound { .. }) => {}
                    Err(e) => failed = failed.and(Err(self.failed(first, "removing", &e))),
                }
            }
        }
        failed
    }

    /// The error for a put that failed.
    pub(super) fn not_written(&self, path: &str, error: &ObjectError) -> DaoError {
        self.failed(path, "writing", error)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::super::super::Storage;
    use super::*;

    fn bucket() -> Remote {
        Remote::of(Arc::new(InMemory::new()), "mem://root")
    }

    #[test]
    fn of_many_who_put_a_new_object_one_does() {
        let remote = bucket();
        let winners: usize = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8_u8)
                .map(|i| {
                    scope.spawn({
                        let remote = &remote;
                        move || remote.put_new("a/1", &[i; 9]).unwrap()
                    })
                })
                .collect();
            all.into_iter().map(|one| usize::from(one.join().unwrap())).sum()
        });
        assert_eq!(winners, 1);
        assert_eq!(remote.list_files("").unwrap(), [("a/1".to_owned(), 9)]);
        remote.replace("a/1", b"x").unwrap();
        assert_eq!(remote.get("a/1").unwrap().unwrap(), "x");
        assert!(remote.modified("a/1").unwrap().is_some() && remote.modified("a/2").unwrap().is_none());
    }

    #[test]
    fn objects_are_removed() {
        let remote = bucket();
        let paths: Vec<String> = (0..1100).map(|i| format!("a/{i}")).collect();
        paths.iter().for_each(|path| remote.replace(path, b"1").unwrap());
        remote.replace("ab", b"1").unwrap();
        assert_eq!(remote.list_files("a").unwrap().len(), 1100);
        remote.remove("a/3").unwrap();
        remote.remove("a/3").unwrap();
        remote.remove_files(&paths[..10]).unwrap();
        remote.remove_folder("a").unwrap();
        assert_eq!(remote.list_files("").unwrap(), [("ab".to_owned(), 1)]);
    }

    #[test]
    fn a_web_server_is_not_written_to() {
        let remote = Remote::new("http://127.0.0.1:9/a", &Vec::new()).unwrap();
        let errors = [
            remote.create("a").err().unwrap(),
            remote.put_new("a", b"").unwrap_err(),
            remote.replace("a", b"").unwrap_err(),
            remote.remove("a").unwrap_err(),
            remote.remove_folder("a").unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().starts_with("cannot write to 'http://127.0.0.1:9/a'"), "{error}");
        }
    }
}
