//! An object that is written piece by piece: put at once while it is small, else in parts.
//!
//! Parts are sent while their writer makes the next ones, a few at a time: memory stays bounded, and a writer that is faster
//! than the network waits for it. All parts but the last are of one size, as some servers want them. What a file ends with is
//! sent while its writer goes on with other files, and is waited for together with theirs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use object_store::{MultipartUpload, ObjectStoreExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinError, JoinHandle, JoinSet};

use super::super::{Lasting, NewFile};
use super::{Remote, wait};
use crate::error::{DaoError, Result};
use crate::interrupt::undisturbed;

/// The bytes up to which an object is put at once.
const WHOLE: usize = 16 << 20;
/// The bytes of a part: S3 takes at least 5 MiB, and 10,000 parts.
const PART: usize = 8 << 20;
/// The bytes that are on their way to one root, of all objects: what a far and wide line holds, some times over.
const ON_THEIR_WAY: usize = 64 << 20;
/// The least that an object or part counts for: so many fewer are on their way at a time.
const LEAST: usize = 1 << 20;
/// The time that parts on their way are given to end, once one of them failed.
const TO_END: Duration = Duration::from_secs(5);
/// The bytes of one permit.
const PERMIT: usize = 1 << 10;

/// The room for what is on its way to one root.
#[derive(Debug)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ON_THEIR_WAY / PERMIT)))
    }
}

/// An object that is being written.
#[derive(Debug)]
pub struct Upload {
    remote: Remote,
    path: String,
    size: u64,
    /// What is not sent yet.
    buffer: Vec<u8>,
    /// Where it is written in parts; locked by nobody, but the trait's uploads cannot be shared between threads.
    parts: Mutex<Option<Parts>>,
}

#[derive(Debug)]
struct Parts {
    upload: Box<dyn MultipartUpload>,
    sending: JoinSet<object_store::Result<()>>,
}

impl Parts {
    /// Waits until all parts are sent, and puts them together.
    async fn complete(&mut self) -> Sent {
        while let Some(sent) = self.sending.join_next().await {
            sent??;
        }
        Ok(self.upload.complete().await.map(drop)?)
    }

    /// Ends it without an object. A part that comes after that may stay, so those that are on their way have so long to end.
    async fn abort(&mut self, patience: Duration) {
        let under_way = async { while self.sending.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(patience, under_way).await;
        self.sending.shutdown().await;
        // Best effort: a rule of the bucket removes what stays.
        let _ = self.upload.abort().await;
    }
}

impl Upload {
    pub fn new(remote: &Remote, path: &str) -> Self {
        let (buffer, parts) = (Vec::new(), Mutex::new(None));
        Self { remote: remote.clone(), path: path.to_owned(), size: 0, buffer, parts }
    }

    fn parts(&mut self) -> &mut Option<Parts> {
        self.parts.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for so many more bytes on the way.
    fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.clamp(LEAST, ON_THEIR_WAY) / PERMIT).unwrap_or(u32::MAX);
        let room = self.remote.shared.room.0.clone().acquire_many_owned(permits);
        let room = self.remote.answer_in(self.remote.patience_for(ON_THEIR_WAY), &self.path, room)?;
        room.map_err(|_| DaoError::internal("the room for uploads is closed")) // nobody closes it
    }

    /// Sends a part.
    fn send(&mut self, part: Vec<u8>) -> Result<()> {
        if self.parts().is_none() {
            let (remote, object) = (&self.remote, self.remote.object(&self.path));
            let begun = remote.answer(&self.path, remote.store.put_multipart(&object))?;
            let upload = begun.map_err(|e| remote.not_written(&self.path, &e))?;
            *self.parts() = Some(Parts { upload, sending: JoinSet::new() });
        }
        let (room, threads) = (self.room(part.len())?, wait::runtime()?.handle());
        let (remote, path) = (self.remote.clone(), self.path.clone());
        let Some(parts) = self.parts() else { return Ok(()) };
        while let Some(sent) = parts.sending.try_join_next() {
            if let Err(e) = sent.map_err(NotSent::from).and_then(|sent| Ok(sent?)) {
                remote.answer(&path, parts.abort(TO_END))?;
                *self.parts() = None;
                return Err(e.why(&remote, &path));
            }
        }
        let put = parts.upload.put_part(part.into());
        let put = async move {
            let sent = put.await;
            drop(room);
            sent
        };
        parts.sending.spawn_on(put, threads);
        Ok(())
    }

    /// Has the last of it sent.
    fn end(&mut self) -> Result<Ending> {
        let rest = std::mem::take(&mut self.buffer);
        let (give_up, given_up) = oneshot::channel::<()>();
        let (remote, object) = (self.remote.clone(), self.remote.object(&self.path));
        let has_parts = self.parts().is_some();
        let task = if has_parts {
            if !rest.is_empty() {
                self.send(rest)?;
            }
            let parts = self.parts().take();
            wait::runtime()?.spawn(async move {
                let Some(mut parts) = parts else { return Ok(()) };
                let ended = match select(Box::pin(parts.complete()), given_up).await {
                    Either::Left((ended, _)) => Some(ended),
                    Either::Right(_) => None,
                };
                if let Some(Ok(())) = ended {
                    return Ok(());
                }
                parts.abort(if ended.is_some() { TO_END } else { Duration::ZERO }).await;
                ended.unwrap_or(Ok(()))
            })
        } else {
            let room = self.room(rest.len())?;
            wait::runtime()?.spawn(async move {
                let put = remote.store.put(&object, rest.into());
                let ended = match select(Box::pin(put), given_up).await {
                    Either::Left((ended, _)) => ended.map(drop),
                    Either::Right(_) => Ok(()),
                };
                drop(room);
                Ok(ended?)
            })
        };
        let (remote, path, size) = (self.remote.clone(), self.path.clone(), self.size);
        Ok(Ending { remote, path, size, has_parts, task, give_up: Some(give_up) })
    }
}

impl NewFile for Upload {
    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let most = if self.parts().is_some() { PART } else { WHOLE };
            if self.buffer.len() >= most {
                let rest = self.buffer.split_off(PART);
                let part = std::mem::replace(&mut self.buffer, rest);
                self.send(part)?;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(most - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            self.size += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Lasting> {
        let ending = self.end()?;
        Ok(Some(Box::new(move || ending.wait())))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let remote = self.remote.clone();
        // A forked child has a copy, whose upload is its parent's.
        let Some(mut parts) = self.parts().take().filter(|_| remote.is_own()) else { return };
        let _ = undisturbed(|| remote.answer(&self.path, parts.abort(Duration::ZERO)));
    }
}

/// An object whose last bytes are on their way. Dropped before it was waited for, it is given up.
struct Ending {
    remote: Remote,
    path: String,
    size: u64,
    has_parts: bool,
    task: JoinHandle<Sent>,
    /// Gone with this, which the task sees.
    give_up: Option<oneshot::Sender<()>>,
}

impl Ending {
    fn wait(mut self) -> Result<()> {
        let (remote, path) = (self.remote.clone(), self.path.clone());
        let ended = remote.answer_in(remote.patience_for(ON_THEIR_WAY), &path, &mut self.task)?;
        self.give_up = None;
        match ended.map_err(NotSent::from).and_then(|sent| sent) {
            Ok(()) => Ok(()),
            // Where the answer was lost and it was asked again, the upload is gone, and the object there.
            Err(NotSent::Refused(_))
                if self.has_parts && remote.head(&path).is_ok_and(|meta| meta.is_some_and(|m| m.size == self.size)) =>
            {
                Ok(())
            }
            Err(e) => Err(e.why(&remote, &path)),
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.give_up.take().is_some() && self.remote.is_own() {
            let _ = undisturbed(|| self.remote.answer(&self.path, &mut self.task));
        }
    }
}

/// What became of a put or a part.
type Sent = std::result::Result<(), NotSent>;

enum NotSent {
    Refused(object_store::Error),
    /// Its task ended before.
    Ended(JoinError),
}

impl From<object_store::Error> for NotSent {
    fn from(error: object_store::Error) -> Self {
        Self::Refused(error)
    }
}

impl From<JoinError> for NotSent {
    fn from(error: JoinError) -> Self {
        Self::Ended(error)
    }
}

impl NotSent {
    fn why(self, remote: &Remote, path: &str) -> DaoError {
        match self {
            Self::Refused(error) => remote.not_written(path, &error),
            Self::Ended(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => DaoError::internal("a part of an object was given up"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::super::super::Storage;
    use super::*;

    fn numbers(len: usize) -> Vec<u8> {
        (0..len.div_ceil(4))
            .flat_map(|n| u32::try_from(n).unwrap().wrapping_mul(2_654_435_761).to_le_bytes())
            .take(len)
            .collect()
    }

    #[test]
    fn objects_of_any_size_are_what_was_written() {
        let remote = Remote::of(Arc::new(InMemory::new()), "mem://root");
        for (len, step) in
            [(0, 1), (5, 2), (WHOLE, WHOLE), (WHOLE + 1, 3 << 20), (WHOLE + PART, 1 << 20), (61 << 20, 50 << 20)]
        {
            let bytes = numbers(len);
            let mut file = remote.create("a/b").unwrap();
            bytes.chunks(step).for_each(|piece| file.write(piece).unwrap());
            file.finish().unwrap().unwrap()().unwrap();
            assert!(remote.get("a/b").unwrap().unwrap() == bytes, "{len}");
        }
    }

    #[test]
    fn what_is_on_its_way_is_bounded_and_all_of_it_arrives() {
        let remote = Remote::of(Arc::new(InMemory::new()), "mem://root");
        let mut ends = Vec::new();
        for number in 0..300 {
            let mut file = remote.create(&format!("many/{number}")).unwrap();
            file.write(&numbers(if number == 7 { WHOLE + 3 * PART } else { number })).unwrap();
            ends.push(file.finish().unwrap().unwrap());
            assert!(remote.shared.room.0.available_permits() <= ON_THEIR_WAY / PERMIT);
        }
        ends.into_iter().for_each(|end| end().unwrap());
        let mut sizes: Vec<u64> = remote.list_files("many").unwrap().into_iter().map(|(_, size)| size).collect();
        sizes.sort_unstable();
        assert_eq!((sizes.len(), sizes[298], sizes[299]), (300, 299, (WHOLE + 3 * PART) as u64));
        assert_eq!(remote.shared.room.0.available_permits(), ON_THEIR_WAY / PERMIT);
    }

    #[test]
    fn what_is_not_finished_is_not_there() {
        let remote = Remote::of(Arc::new(InMemory::new()), "mem://root");
        for len in [5, WHOLE + PART + 1] {
            let mut file = remote.create("a").unwrap();
            file.write(&numbers(len)).unwrap();
            drop(file);
            assert!(remote.get("a").unwrap().is_none());
        }
    }
}
