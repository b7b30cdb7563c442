//! Linux and macOS.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::{FileNumber, FileStamp};

/// Fills `into` with a file's bytes from `offset`, whatever other threads read of it.
pub fn read_exact_at(file: &File, into: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(into, offset)
}

/// Writes all of `bytes` to a file from `offset` on, whatever other threads do with it.
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> Result<()> {
    file.write_all_at(bytes, offset)
}

/// Half of the files that the system lets this process have open.
pub fn most_open() -> usize {
    let allowed = getrlimit(Resource::Nofile).current;
    allowed.map_or(usize::MAX, |allowed| usize::try_from(allowed / 2).unwrap_or(usize::MAX))
}

/// Whether a file could not be opened because too many are.
pub fn is_too_many_open(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::MFILE.raw_os_error())
}

/// An absolute path as it is shown, and as other paths are joined to it.
pub fn plain(path: PathBuf) -> PathBuf {
    path
}

/// A path relative to a root, with slashes.
pub fn inside(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The state of the file or folder at `path`; links are followed.
pub fn stamp(path: &Path) -> Result<FileStamp> {
    let meta = std::fs::metadata(path)?;
    let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    Ok(FileStamp {
        size: meta.size(),
        number: meta.ino(),
        modified: time(meta.mtime(), meta.mtime_nsec()),
        changed: time(meta.ctime(), meta.ctime_nsec()),
    })
}

/// Flushes a file that is not open, or open elsewhere.
pub fn flush(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all())
}

/// Flushes a folder's entries. File systems that cannot flush these say so, and keep their order themselves.
pub fn sync_folder(folder: &Path) -> Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(e)
            if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

/// Gives `temporary` the name `path` if that is free; false if it is not. A hard link does so on all file systems that
/// have them; renaming without replacing on the others.
pub fn place(temporary: &Path, path: &Path) -> Result<bool> {
    match std::fs::hard_link(temporary, path) {
        Ok(()) => Ok(true),
        // On network file systems an answer may be lost: the link is then there.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(std::fs::metadata(temporary)?.nlink() > 1),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(e),
        Err(no_links) => match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(no_links),
            Err(e) => Err(e.into()),
        },
    }
}

/// Makes a folder that nobody else may look into: cells may be patients'.
pub fn private_folder(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Makes a file that nobody else may look into, to be read and written.
pub fn private_file(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// The bytes that a file takes on its disk: holes take none.
pub fn allocated(meta: &Metadata) -> u64 {
    /// The unit of `st_blocks`, whatever the disk's blocks are.
    const BLOCK: u64 = 512;
    meta.blocks() * BLOCK
}

/// What tells one open file from another, and whether it still has a name.
pub fn identity(file: &File) -> Result<(FileNumber, bool)> {
    let meta = file.metadata()?;
    Ok(((meta.dev(), meta.ino()), meta.nlink() > 0))
}
