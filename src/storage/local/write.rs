//! Files written to a folder on this machine, which are on the disk before what names them is.

use std::fs::File;
use std::io::{ErrorKind as IoKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use uuid::Uuid;

use super::super::{Lasting, NewFile, system};
use super::Local;
use crate::error::{DaoError, Result};

/// A file from whose size on it is flushed to the disk beside other work.
const LARGE: u64 = 4 << 20;
/// The bytes of a file after which it is flushed though it is not finished, so that the disk is not idle until then.
const FLUSHED: u64 = 32 << 20;

/// The error of the system while `doing` something with a file.
pub fn write_error<'a>(path: &'a Path, doing: &'a str) -> impl FnOnce(std::io::Error) -> DaoError + 'a {
    move |e| DaoError::io(path, doing, &e)
}

/// Makes a folder and those above it.
pub fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(write_error(folder, "making the folder"))
}

/// A file that is written piece by piece.
#[derive(Debug)]
struct LocalNewFile {
    path: PathBuf,
    file: Arc<File>,
    size: u64,
    /// What was there when it was flushed last.
    flushed: u64,
    /// What flushes it beside other work.
    flushing: Option<JoinHandle<Result<()>>>,
}

impl LocalNewFile {
    /// Flushes the file to the disk, a large one beside other work.
    fn flush(&mut self) -> Result<()> {
        let flush = |file: &File, path: &Path| file.sync_data().map_err(write_error(path, "writing"));
        if self.size >= LARGE {
            let (file, path) = (self.file.clone(), self.path.clone());
            // Otherwise the system gives no more threads.
            if let Ok(flushing) = std::thread::Builder::new().spawn(move || flush(&file, &path)) {
                self.flushing = Some(flushing);
                return Ok(());
            }
        }
        flush(&self.file, &self.path)
    }

    fn wait(&mut self) -> Result<()> {
        self.flushing.take().map_or(Ok(()), wait)
    }
}

/// Waits for a thread that flushes.
fn wait(flushing: JoinHandle<Result<()>>) -> Result<()> {
    flushing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl NewFile for LocalNewFile {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        (&*self.file).write_all(bytes).map_err(write_error(&self.path, "writing"))?;
        self.size += bytes.len() as u64;
        let is_flushing = self.flushing.as_ref().is_some_and(|flushing| !flushing.is_finished());
        if self.size - self.flushed >= FLUSHED && !is_flushing {
            self.wait()?;
            self.flushed = self.size;
            self.flush()?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Lasting> {
        self.wait()?;
        self.flush()?;
        let Some(flushing) = self.flushing.take() else { return Ok(None) };
        Ok(Some(Box::new(move || wait(flushing))))
    }
}

impl Local {
    /// Begins a file; see [`Storage::create`](super::Storage::create).
    pub(super) fn begin_file(&self, path: &str) -> Result<Box<dyn NewFile>> {
        let path = self.full(path);
        path.parent().map_or(Ok(()), make_folder)?;
        let file = File::create(&path).map_err(write_error(&path, "writing"))?;
        Ok(Box::new(LocalNewFile { path, file: Arc::new(file), size: 0, flushed: 0, flushing: None }))
    }

    /// Puts a file where none is; see [`Storage::put_new`](super::Storage::put_new).
    pub(super) fn put_new_file(&self, path: &str, bytes: &[u8]) -> Result<bool> {
        let path = self.full(path);
        let temporary = self.temporary(&path, bytes, true)?;
        let placed = system::place(&temporary, &path);
        // Best effort: vacuum removes what stays.
        let _ = std::fs::remove_file(&temporary);
        let placed = placed.map_err(write_error(&path, "creating"))?;
        if placed {
            path.parent().map_or(Ok(()), sync_folder)?;
        }
        Ok(placed)
    }

    /// Puts a file in the place of another; see [`Storage::replace`](super::Storage::replace).
    pub(super) fn replace_file(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let path = self.full(path);
        let temporary = self.temporary(&path, bytes, false)?;
        std::fs::rename(&temporary, &path).map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            DaoError::io(&path, "replacing", &e)
        })
    }

    /// A file beside `path` that has these bytes, if they are to be `lasting` on the disk.
    fn temporary(&self, path: &Path, bytes: &[u8], lasting: bool) -> Result<PathBuf> {
        path.parent().map_or(Ok(()), make_folder)?;
        let temporary = path.with_file_name(format!(".new-{}", Uuid::new_v4().simple()));
        let written = File::create_new(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            if lasting { file.sync_all() } else { Ok(()) }
        });
        written.map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            DaoError::io(path, "writing", &e)
        })?;
        Ok(temporary)
    }

    /// Removes a file; see [`Storage::remove`](super::Storage::remove).
    pub(super) fn remove_file(&self, path: &str) -> Result<()> {
        let path = self.full(path);
        gone(std::fs::remove_file(&path)).map_err(write_error(&path, "removing"))
    }

    /// Removes a folder with all that is in it.
    pub(super) fn remove_all(&self, path: &str) -> Result<()> {
        let path = self.full(path);
        gone(std::fs::remove_dir_all(&path)).map_err(write_error(&path, "removing"))
    }

    /// Flushes the entries of a folder, of all below it, and of those above it up to the root's own entry.
    pub(super) fn sync_folders(&self, path: &str) -> Result<()> {
        let top = self.full(path);
        let mut folders = vec![top.clone()];
        while let Some(folder) = folders.pop() {
            for entry in super::entries(&folder)? {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
            }
            sync_folder(&folder)?;
        }
        let above = top.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root));
        above.chain(self.root.parent()).try_for_each(sync_folder)
    }
}

/// What is not there is removed.
fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::NotADirectory) => Ok(()),
        removed => removed,
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    system::sync_folder(folder).map_err(write_error(folder, "flushing the folder"))
}

#[cfg(test)]
mod tests {
    use super::super::super::Storage;
    use super::*;

    #[test]
    fn of_many_who_put_a_new_file_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::new(folder.path()).unwrap();
        let winners: usize = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8_u8)
                .map(|i| {
                    scope.spawn({
                        let local = &local;
                        move || local.put_new("versions/1", &[i; 100]).unwrap()
                    })
                })
                .collect();
            all.into_iter().map(|one| usize::from(one.join().unwrap())).sum()
        });
        assert_eq!(winners, 1);
        let found = local.get("versions/1").unwrap().unwrap();
        assert!(found.len() == 100 && found.iter().all(|&byte| byte == found[0]));
        assert_eq!(local.list_files("").unwrap().len(), 1, "nothing stays beside it");
        assert!(!local.put_new("versions/1", b"x").unwrap());
        local.replace("versions/1", b"x").unwrap();
        assert_eq!(local.get("versions/1").unwrap().unwrap(), "x");
    }

    #[test]
    fn files_are_written_piece_by_piece_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::new(&folder.path().join("store")).unwrap();
        let mut file = local.create("a/b/c").unwrap();
        file.write(b"piece ").unwrap();
        file.write(b"by piece").unwrap();
        assert!(file.finish().unwrap().is_none());
        let mut large = local.create("a/large").unwrap();
        large.write(&vec![7; 5 << 20]).unwrap();
        large.finish().unwrap().unwrap()().unwrap();
        local.sync("a").unwrap();
        assert_eq!(local.get("a/b/c").unwrap().unwrap(), "piece by piece");
        assert_eq!(local.size("a/large").unwrap(), Some(5 << 20));
        local.remove("a/b/c").unwrap();
        local.remove("a/b/c").unwrap();
        assert!(local.get("a/b/c").unwrap().is_none());
        local.remove_folder("a").unwrap();
        local.remove_folder("a").unwrap();
        assert!(local.list_files("").unwrap().is_empty());
    }
}
