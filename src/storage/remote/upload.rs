//! An object that is written piece by piece: put at once while it is small, else in parts.
//!
//! Parts are sent while their writer makes the next ones, a few at a time: memory stays bounded, and a writer that is faster
//! than the network waits for it. All parts but the last are of one size, as some servers want them.

use std::sync::{Mutex, PoisonError};

use object_store::{MultipartUpload, ObjectStoreExt};
use tokio::task::{JoinError, JoinSet};

use super::super::{Lasting, NewFile, Storage};
use super::{Remote, wait};
use crate::error::{DaoError, Result};
use crate::interrupt::undisturbed;

/// The bytes up to which an object is put at once.
const WHOLE: usize = 16 << 20;
/// The bytes of a part: S3 takes at least 5 MiB, and 10,000 parts.
const PART: usize = 8 << 20;
/// The most parts that are on their way.
const ON_THEIR_WAY: usize = 4;

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

impl Upload {
    pub fn new(remote: &Remote, path: &str) -> Self {
        let (buffer, parts) = (Vec::new(), Mutex::new(None));
        Self { remote: remote.clone(), path: path.to_owned(), size: 0, buffer, parts }
    }

    fn parts(&mut self) -> &mut Option<Parts> {
        self.parts.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a part until fewer than `fewer` are on their way.
    fn wait_until(&mut self, fewer: usize) -> Result<()> {
        let patience = self.remote.patience_for(PART * ON_THEIR_WAY);
        let (remote, path) = (self.remote.clone(), self.path.clone());
        let Some(parts) = self.parts() else { return Ok(()) };
        while parts.sending.len() >= fewer {
            let Some(sent) = remote.answer_in(patience, &path, parts.sending.join_next())? else {
                break;
            };
            sent.map_err(ended)?.map_err(|e| remote.not_written(&path, &e))?;
        }
        Ok(())
    }

    /// Sends a part.
    fn send(&mut self, part: Vec<u8>) -> Result<()> {
        if self.parts().is_none() {
            let (remote, object) = (&self.remote, self.remote.object(&self.path));
            let begun = remote.answer(&self.path, remote.store.put_multipart(&object))?;
            let upload = begun.map_err(|e| remote.not_written(&self.path, &e))?;
            *self.parts() = Some(Parts { upload, sending: JoinSet::new() });
        }
        self.wait_until(ON_THEIR_WAY)?;
        let threads = wait::runtime()?.handle();
        if let Some(parts) = self.parts() {
            let part = parts.upload.put_part(part.into());
            parts.sending.spawn_on(part, threads);
        }
        Ok(())
    }

    /// Ends an object of parts.
    fn complete(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.buffer);
        if !rest.is_empty() {
            self.send(rest)?;
        }
        self.wait_until(1)?;
        let (remote, path, size) = (self.remote.clone(), self.path.clone(), self.size);
        let Some(parts) = self.parts() else { return Ok(()) };
        match remote.answer(&path, parts.upload.complete())? {
            Ok(_) => {}
            // Where the answer was lost and it was asked again, the upload is gone, and the object there.
            Err(_) if remote.size(&path).is_ok_and(|found| found == Some(size)) => {}
            Err(e) => return Err(remote.not_written(&path, &e)),
        }
        *self.parts() = None;
        Ok(())
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
        if self.parts().is_some() {
            self.complete()?;
        } else {
            let whole = std::mem::take(&mut self.buffer);
            self.remote.put_whole(&self.path, whole.into())?;
        }
        Ok(None)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let remote = self.remote.clone();
        // A forked child has a copy, whose upload is its parent's.
        let Some(mut parts) = self.parts().take().filter(|_| remote.is_own()) else { return };
        // Best effort: a rule of the bucket removes what stays.
        let _ = undisturbed(|| {
            remote.answer(&self.path, async {
                parts.sending.shutdown().await;
                parts.upload.abort().await
            })
        });
    }
}

/// The error for a thread that ended before its part was sent.
fn ended(error: JoinError) -> DaoError {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => DaoError::internal("a part of an object was given up"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

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
            assert!(file.finish().unwrap().is_none());
            assert!(remote.get("a/b").unwrap().unwrap() == bytes, "{len}");
        }
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
