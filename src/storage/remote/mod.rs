//! S3, GCS, Azure and HTTP through `object_store` (<https://docs.rs/object_store>).
//!
//! Owns what is asked of a store, and its errors. Every answer is waited for by [`wait`], and read by [`body`]. Ranges of objects
//! are [`pieces`]: many are on their way at a time, as many as the [`gate`] lets pass, [`join`]ed as the [`line`] wants it, all of
//! one [`state`] of their object; what of them is kept on this machine ([`kept`]) is not asked for. [`write`] puts and removes
//! objects, [`upload`] puts them piece by piece, [`list`] lists them. Plain HTTP is not written to. What fails is told by
//! [`failure`]. What users say of a store is understood by [`options`], and completed by [`credentials`].

mod body;
mod build;
mod clients;
mod credentials;
mod failure;
mod gate;
mod hub;
mod join;
mod kept;
mod line;
mod list;
mod options;
mod pieces;
mod probe;
pub(super) mod secrets;
mod service;
mod state;
mod upload;
mod wait;
mod write;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;
use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::cache::{self, Cache};
use super::{File, Held, NewFile, Storage, StorageOptions, Wanted};
use crate::error::{DaoError, Result};
use failure::Failure;

/// The objects below one URL.
#[derive(Clone)]
pub struct Remote {
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    /// Without user and password, which are among the options.
    uri: String,
    /// All that it is asked with, also what was found in the environment and in files.
    options: Arc<StorageOptions>,
    /// What to do where it refuses.
    advice: Arc<str>,
    patience: Duration,
    /// Whether it can be written to: plain HTTP cannot.
    is_bucket: bool,
    has_one_writer: bool,
    shared: Arc<Shared>,
    pid: u32,
}

/// What all who read from one root share.
#[derive(Default)]
struct Shared {
    pieces: pieces::Pieces,
    gate: Arc<gate::Gate>,
    line: line::Line,
    states: state::States,
    room: upload::Room,
    /// The bytes that have arrived, an answer being worth some.
    arrived: AtomicU64,
    /// What of them is kept on this machine.
    cache: Option<Arc<Cache>>,
}

/// The bytes that an answer is worth, however short it is: it shows that the line is alive.
const ANSWER: u64 = 16 << 10;

impl Remote {
    /// The objects below `uri`.
    ///
    /// # Errors
    /// `Value` for a malformed URL, an unknown scheme or unusable options.
    pub fn new(uri: &str, options: &StorageOptions) -> Result<Self> {
        let (options, cache) = cache::split(options)?;
        let (uri, options) = secrets::split(uri, &options)?;
        let environment = credentials::Environment::of_process();
        let build::Built { store, prefix, patience, settings, is_bucket, has_one_writer, advice, server } =
            build::build(&uri, &options, &environment)?;
        let cache =
            cache.map(|cache| Cache::open(&cache, format!("{uri} {server}").trim_end().to_owned())).transpose()?;
        let shared = Arc::new(Shared { cache: cache.map(Arc::new), ..Shared::default() });
        let (options, advice, pid) = (settings.into(), advice.into(), std::process::id());
        Ok(Self { store, prefix, uri, options, advice, patience, is_bucket, has_one_writer, shared, pid })
    }

    /// A bucket that is this store.
    #[cfg(test)]
    pub fn of(store: Arc<dyn ObjectStore>, uri: &str) -> Self {
        let (prefix, patience, pid) = (ObjectPath::from("root"), Duration::from_mins(1), std::process::id());
        let (uri, advice) = (uri.to_owned(), "look at the test".into());
        let (options, shared) = Default::default();
        Self { store, prefix, uri, options, advice, patience, is_bucket: true, has_one_writer: false, shared, pid }
    }

    /// Whether this process opened it, and not a parent that it was forked from.
    fn is_own(&self) -> bool {
        self.pid == std::process::id()
    }

    /// The object at a path below the root.
    fn object(&self, path: &str) -> ObjectPath {
        path.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |at, part| at.join(part))
    }

    /// `Value` in a forked child: connections are its parent's.
    fn check_process(&self) -> Result<()> {
        if self.is_own() {
            return Ok(());
        }
        Err(DaoError::value("this process was forked from the one that opened the store")
            .hint("open it again in this process, with dao.load_store or dao.scan"))
    }

    /// The answer to a request for `path`.
    fn answer<T>(&self, path: &str, request: impl Future<Output = T>) -> Result<T> {
        self.answer_in(self.patience, path, request)
    }

    /// The answer to a request for `path`, which is waited for so long.
    fn answer_in<T>(&self, patience: Duration, path: &str, request: impl Future<Output = T>) -> Result<T> {
        self.check_process()?;
        wait::wait_for(patience, &self.shared.arrived, request).map_err(|e| e.at(self.place(path)))
    }

    fn note_arrival(&self, came: &body::Came) {
        let bytes = match came {
            body::Came::Head => ANSWER,
            body::Came::Bytes(bytes) => *bytes,
        };
        self.shared.arrived.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The answer to a request for `path`; `None` for a missing object.
    fn ask<T>(&self, path: &str, request: impl Future<Output = object_store::Result<T>>) -> Result<Option<T>> {
        self.found(path, self.answer(path, request)?)
    }

    /// An answer to a request for `path`; `None` for a missing object.
    fn found<T>(&self, path: &str, answer: object_store::Result<T>) -> Result<Option<T>> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed(path, "reading", &e)),
        }
    }

    /// The bytes of some ranges of an object, in their order, which are asked for; `None` for a missing object.
    fn asked(&self, path: &str, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>> {
        let held = self.begin(vec![Wanted { path: path.to_owned(), ranges: ranges.to_vec() }])?;
        let pieces = self.shared.pieces.find(path, ranges);
        let answers = self.answer(path, async {
            let mut all = Vec::with_capacity(ranges.len());
            for (range, piece) in ranges.iter().zip(pieces) {
                if range.is_empty() {
                    all.push(Bytes::new()); // not requested: servers refuse it
                    continue;
                }
                let came = match piece {
                    Some(piece) => piece.bytes(range).await,
                    None => None,
                };
                // What another wanted first and gave up is asked for once more.
                all.push(match came {
                    Some(answer) => answer?,
                    None => self.fetch(path, range.clone()).await?,
                });
            }
            Ok(all)
        })?;
        drop(held);
        match answers {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Failure::Missing) => Ok(None),
            Err(failure) => Err(self.why(path, ranges, failure)),
        }
    }

    /// What its server says of an object now.
    fn head(&self, path: &str) -> Result<Option<ObjectMeta>> {
        self.ask(path, async { self.store.head(&self.object(path)).await })
    }
}

/// An object of a [`Remote`], and its length when it was opened.
struct RemoteFile {
    remote: Remote,
    path: String,
    len: u64,
}

impl File for RemoteFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(into.len() as u64);
        self.remote.check_end(&self.path, end, self.len)?;
        let parts = self.remote.ranges(&self.path, std::slice::from_ref(&(offset..end)))?;
        let parts = parts.ok_or_else(|| self.remote.missing(&self.path))?;
        let Some(part) = parts.first().filter(|part| part.len() == into.len()) else {
            return Err(DaoError::internal("a range without its bytes"));
        };
        into.copy_from_slice(part);
        Ok(())
    }

    fn random_access(&self) -> bool {
        false
    }
}

// Its options may be secret.
impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Storage for Remote {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn size(&self, path: &str) -> Result<Option<u64>> {
        match self.shared.states.size(path) {
            Some(size) => Ok(Some(size)),
            None => Ok(self.head(path)?.map(|meta| meta.size)),
        }
    }

    fn expect(&self, path: &str, size: u64) -> bool {
        self.shared.states.expect(path, size);
        true
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let came = |came| self.note_arrival(&came);
        self.ask(path, body::whole(&*self.store, &self.object(path), came))
    }

    fn get_many(&self, paths: &[String]) -> Result<Vec<Option<Bytes>>> {
        let read = |path: &String| {
            let object = self.object(path);
            async move { body::whole(&*self.store, &object, |came| self.note_arrival(&came)).await }
        };
        let first = paths.first().map_or("", String::as_str);
        let answers = self.answer(first, join_all(paths.iter().map(read)))?;
        paths.iter().zip(answers).map(|(path, answer)| self.found(path, answer)).collect()
    }

    fn get_ranges(&self, path: &str, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>> {
        self.ranges(path, ranges)
    }

    fn read_ahead(&self, wanted: Vec<Wanted>) -> Result<Option<Box<dyn Held>>> {
        Ok(Some(Box::new(self.begin(wanted)?)))
    }

    fn file(&self, path: &str) -> Result<Option<Arc<dyn File>>> {
        let Some(len) = self.size(path)? else { return Ok(None) };
        if let Some(kept) = self.kept_file(path, len) {
            return Ok(Some(kept));
        }
        Ok(Some(Arc::new(RemoteFile { remote: self.clone(), path: path.to_owned(), len })))
    }

    fn list_folders(&self, path: &str) -> Result<Vec<String>> {
        self.folders_below(path)
    }

    fn can_list(&self) -> bool {
        self.is_bucket
    }

    fn list_files(&self, path: &str) -> Result<Vec<(String, u64)>> {
        self.files_below(path)
    }

    fn modified(&self, path: &str) -> Result<Option<SystemTime>> {
        Ok(self.head(path)?.map(|meta| meta.last_modified.into()))
    }

    fn create(&self, path: &str) -> Result<Box<dyn NewFile>> {
        self.check_bucket()?;
        Ok(Box::new(upload::Upload::new(self, path)))
    }

    fn put_new(&self, path: &str, bytes: &[u8]) -> Result<bool> {
        self.check_bucket()?;
        if self.has_one_writer {
            return self.put_alone(path, bytes);
        }
        probe::check(self, path)?;
        self.put_new_object(path, bytes)
    }

    fn replace(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.check_bucket()?;
        self.replace_object(path, bytes)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.remove_files(&[path.to_owned()])
    }

    fn remove_files(&self, paths: &[String]) -> Result<()> {
        self.check_bucket()?;
        self.remove_objects(paths)
    }

    fn remove_folder(&self, path: &str) -> Result<()> {
        self.check_bucket()?;
        let files: Vec<String> = self.list_files(path)?.into_iter().map(|(file, _)| file).collect();
        self.remove_objects(&files)
    }
}

#[cfg(test)]
mod tests;
