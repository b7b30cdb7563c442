//! S3, GCS, Azure and HTTP through `object_store` (<https://docs.rs/object_store>).
//!
//! Owns what is asked of a store, and its errors. Every answer is waited for by [`wait`], and read by [`body`]. Ranges of objects
//! are [`pieces`]: many are on their way at a time, as many as the [`gate`] lets pass, [`join`]ed as the [`line`] wants it, all of
//! one [`state`] of their object; what of them is kept on this machine ([`kept`]) is not asked for. [`write`] puts and removes objects, [`upload`] puts them piece by piece, [`list`] lists them.
//! Plain HTTP is not written to. What users say of a store is understood by [`options`], and completed by [`credentials`].

mod body;
mod build;
mod clients;
mod credentials;
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
use super::{File, Held, NewFile, Storage, StorageOptions, Wanted, check_end};
use crate::error::{DaoError, ErrorKind, Result};

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

/// Why a range of an object is not to be had.
#[derive(Debug, Clone)]
enum Failure {
    Missing,
    Refused(Arc<ObjectError>),
    /// The object is longer or shorter than it was when the store was written.
    OtherSize {
        expected: u64,
        size: u64,
    },
    /// The object ends before `end`.
    Short {
        end: u64,
        size: u64,
    },
    /// The object is another than that of which a part was read before.
    Replaced,
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Self {
        if matches!(error, ObjectError::NotFound { .. }) { Self::Missing } else { Self::Refused(Arc::new(error)) }
    }
}

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

    /// The error for ranges of an object that were not to be had.
    fn why(&self, path: &str, ranges: &[Range<u64>], failure: Failure) -> DaoError {
        let uri = format!("{}/{path}", self.uri);
        let restore = "restore it from a copy, or write the dataset again";
        match failure {
            Failure::Missing => self.missing(path),
            Failure::Short { end, size } => self
                .check_end(path, end, size)
                .err()
                .unwrap_or_else(|| DaoError::internal("an object is too short and is not")),
            Failure::OtherSize { expected, size } => {
                let what = if size < expected { "object is truncated" } else { "object is longer than it was written" };
                DaoError::corrupt(&uri, what)
                    .expected(format!("{expected} bytes"))
                    .found(format!("{size} bytes"))
                    .hint(restore)
            }
            Failure::Replaced if self.shared.cache.is_some() => {
                DaoError::corrupt(&uri, "object was replaced while the store was open, or since parts of it were kept")
                    .hint("open the store again: what its cache had of it was removed")
            }
            Failure::Replaced => {
                DaoError::corrupt(&uri, "object was replaced while the store was open").hint("open the store again")
            }
            Failure::Refused(error) => {
                // What a server says to a range past the end depends on the server.
                let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
                let meta = self.head(path).ok().flatten();
                let short = meta.and_then(|meta| self.check_end(path, end, meta.size).err());
                short.unwrap_or_else(|| self.failed(path, "reading", &error))
            }
        }
    }

    fn missing(&self, path: &str) -> DaoError {
        DaoError::new(ErrorKind::NotFound, "object is missing")
            .at(self.place(path))
            .hint("restore it from a copy, or write the dataset again")
    }

    /// What its server says of an object now.
    fn head(&self, path: &str) -> Result<Option<ObjectMeta>> {
        self.ask(path, async { self.store.head(&self.object(path)).await })
    }

    fn place(&self, path: &str) -> String {
        format!("path '{}/{path}'", self.uri)
    }

    /// The error for a request that failed while `doing` something.
    fn failed(&self, path: &str, doing: &str, error: &ObjectError) -> DaoError {
        let kind = if matches!(error, ObjectError::NotFound { .. }) { ErrorKind::NotFound } else { ErrorKind::Io };
        let error = secrets::without_secrets(error.to_string(), &self.options);
        DaoError::new(kind, format!("{doing} failed: {error}")).at(self.place(path)).hint(&*self.advice)
    }

    fn check_end(&self, path: &str, end: u64, size: u64) -> Result<()> {
        check_end("object", format_args!("{}/{path}", self.uri), end, size)
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
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn files_are_read_by_range() {
        let store = Arc::new(InMemory::new());
        let put = |bytes: &'static [u8]| {
            wait::runtime().unwrap().block_on(store.put(&ObjectPath::from("root/a"), bytes.into())).unwrap();
        };
        put(b"abcdef");
        let remote = Remote::of(Arc::clone(&store) as Arc<dyn ObjectStore>, "mem://root");
        assert!(remote.file("none").unwrap().is_none());
        let file = remote.file("a").unwrap().unwrap();
        assert!(file.len() == 6 && !file.random_access());
        let mut into = [0; 3];
        file.read_at(2, &mut into).unwrap();
        assert_eq!(&into, b"cde");
        file.read_at(6, &mut []).unwrap();
        assert_eq!(file.read_at(4, &mut into).unwrap_err().kind(), ErrorKind::Corrupt);

        put(b"abcd");
        for offset in [1, 3] {
            let error = file.read_at(offset, &mut into).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().starts_with("path 'mem://root/a': object was replaced"), "{error}");
        }
        wait::runtime().unwrap().block_on(store.delete(&ObjectPath::from("root/a"))).unwrap();
        assert_eq!(file.read_at(0, &mut into).unwrap_err().kind(), ErrorKind::NotFound);
    }

    /// A store in memory of these objects.
    fn remote(objects: &[(&str, &'static [u8])]) -> Remote {
        let store = InMemory::new();
        for &(path, bytes) in objects {
            wait::runtime().unwrap().block_on(store.put(&ObjectPath::from(path), bytes.into())).unwrap();
        }
        Remote::of(Arc::new(store), "mem://root")
    }

    #[test]
    fn objects_are_listed_and_read_below_their_root() {
        let remote = remote(&[("root/a", b"abcdef"), ("root/y/b", b"gh"), ("root/x/z/c", b"i"), ("other/d", b"j")]);
        assert_eq!(remote.list_folders("").unwrap(), ["x", "y"]);
        assert_eq!(remote.list_folders("x").unwrap(), ["z"]);
        assert_eq!([remote.total_size("").unwrap(), remote.total_size("x").unwrap()], [9, 1]);
        assert_eq!([remote.size("a").unwrap(), remote.size("d").unwrap()], [Some(6), None]);
        assert_eq!(remote.get("y/b").unwrap().unwrap(), "gh");
        assert!(remote.get("none").unwrap().is_none() && remote.local_root().is_none());
        let parts = remote.get_ranges("a", &[4..6, 0..1]).unwrap().unwrap();
        assert_eq!(parts, ["ef", "a"]);
        assert!(remote.get_ranges("none", std::slice::from_ref(&(0..1))).unwrap().is_none());
        let error = remote.get_ranges("a", std::slice::from_ref(&(4..9))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().starts_with("path 'mem://root/a': object is truncated"), "{error}");
    }

    #[test]
    fn a_forked_process_is_told_to_open_again() {
        let mut remote = remote(&[("root/a", b"abc")]);
        remote.pid = 0;
        for error in [remote.get("a").unwrap_err(), remote.size("a").unwrap_err(), remote.file("a").err().unwrap()] {
            assert_eq!(error.kind(), ErrorKind::Value);
            assert!(error.to_string().contains("Open it again in this process"), "{error}");
        }
    }

    /// Answers requests for `/store/a` over plain HTTP, and has nothing else.
    fn serve(bytes: &'static [u8]) -> String {
        use std::io::{BufRead, BufReader, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}/store", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(std::result::Result::ok) {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(std::result::Result::ok);
                let request = lines.next().unwrap_or_default();
                let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let range = headers
                    .iter()
                    .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
                let (status, body, extra) = match range {
                    _ if !request.starts_with("GET ") && !request.starts_with("HEAD ") => {
                        ("405 Method Not Allowed", &b""[..], String::new())
                    }
                    _ if !request.contains(" /store/a ") => ("404 Not Found", &b""[..], String::new()),
                    Some(range) => {
                        let (start, end) = range.split_once('-').unwrap();
                        let (start, end) = (start.parse::<usize>().unwrap(), end.parse::<usize>().unwrap());
                        let end = end.min(bytes.len() - 1);
                        let extra = format!("Content-Range: bytes {start}-{end}/{}\r\n", bytes.len());
                        ("206 Partial Content", &bytes[start..=end], extra)
                    }
                    None => ("200 OK", bytes, String::new()),
                };
                let mut stream = stream;
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{extra}Last-Modified: Tue, 01 Oct 2024 00:00:00 GMT\r\nConnection: close\r\n\r\n"
                );
                let _ = stream.write_all(head.as_bytes());
                if !request.starts_with("HEAD") {
                    let _ = stream.write_all(body);
                }
            }
        });
        uri
    }

    #[test]
    fn a_web_server_is_read_by_range() {
        let uri = serve(b"0123456789");
        let remote = Remote::new(&format!("{uri}/"), &Vec::new()).unwrap();
        assert_eq!(remote.uri(), uri);
        assert_eq!(remote.get("a").unwrap().unwrap(), "0123456789");
        assert!(remote.get("b").unwrap().is_none() && remote.size("b").unwrap().is_none());
        let file = remote.file("a").unwrap().unwrap();
        let mut into = [0; 4];
        file.read_at(3, &mut into).unwrap();
        assert_eq!((file.len(), &into), (10, b"3456"));
        assert_eq!(remote.get_ranges("a", std::slice::from_ref(&(8..10))).unwrap().unwrap(), ["89"]);
        let error = remote.list_folders("").unwrap_err();
        assert!(error.to_string().contains(&uri) && error.to_string().contains("Check the network"), "{error}");
    }

    #[test]
    fn urls_that_cannot_be_opened_say_which_can() {
        for uri in ["ftp://host/a", "s3://", "nothing://x"] {
            let error = Remote::new(uri, &Vec::new()).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Value);
            assert!(error.to_string().contains("Use a path, file://, s3://"), "{error}");
        }
    }
}
