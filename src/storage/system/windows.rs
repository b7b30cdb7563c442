//! Windows.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};

use windows_sys::Win32::Foundation::{ERROR_ALREADY_EXISTS, ERROR_FILE_EXISTS, ERROR_TOO_MANY_OPEN_FILES};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_BASIC_INFO, FILE_FLAG_BACKUP_SEMANTICS, FILE_READ_ATTRIBUTES, FileBasicInfo,
    GetFileInformationByHandle, GetFileInformationByHandleEx, MOVEFILE_WRITE_THROUGH, MoveFileExW,
};

use super::{FileNumber, FileStamp};

/// Fills `into` with a file's bytes from `offset`, whatever other threads read of it: the place of the handle, which these
/// calls move, is used by none.
pub fn read_exact_at(file: &File, mut into: &mut [u8], mut offset: u64) -> Result<()> {
    while !into.is_empty() {
        match file.seek_read(into, offset) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                offset += read as u64;
                into = into.get_mut(read..).unwrap_or_default();
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes all of `bytes` to a file from `offset` on; see [`read_exact_at`].
pub fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> Result<()> {
    while !bytes.is_empty() {
        match file.seek_write(bytes, offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                bytes = bytes.get(written..).unwrap_or_default();
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Windows lets a process have 16 million handles.
pub fn most_open() -> usize {
    usize::MAX
}

/// Whether a file could not be opened because too many are.
pub fn is_too_many_open(error: &Error) -> bool {
    is(error, ERROR_TOO_MANY_OPEN_FILES)
}

/// An absolute path as it is shown, and as other paths are joined to it: `C:/data`, `//server/share`. What the system gives
/// for one, `\\?\C:\data`, takes no slashes, and other programs do not know it.
pub fn plain(path: PathBuf) -> PathBuf {
    let Some(text) = path.to_str() else { return path };
    let text = match text.strip_prefix(r"\\?\") {
        Some(rest) => match rest.strip_prefix(r"UNC\") {
            Some(share) => format!(r"\\{share}"),
            // Volumes without a letter have no other name.
            None if rest.get(1..2) != Some(":") => return path,
            None => rest.to_owned(),
        },
        None => text.to_owned(),
    };
    text.replace('\\', "/").into()
}

/// A path relative to a root, with slashes.
pub fn inside(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "/")
}

/// The state of the file or folder at `path`; links are followed.
pub fn stamp(path: &Path) -> Result<FileStamp> {
    let (info, basic) = information(path)?;
    Ok(FileStamp {
        size: whole(info.nFileSizeHigh, info.nFileSizeLow),
        number: whole(info.nFileIndexHigh, info.nFileIndexLow),
        modified: since_1970(basic.LastWriteTime),
        changed: since_1970(basic.ChangeTime),
    })
}

fn information(path: &Path) -> Result<(BY_HANDLE_FILE_INFORMATION, FILE_BASIC_INFO)> {
    // With this flag folders can be opened too.
    let file =
        OpenOptions::new().access_mode(FILE_READ_ATTRIBUTES).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(path)?;
    let (mut info, mut basic) = (BY_HANDLE_FILE_INFORMATION::default(), FILE_BASIC_INFO::default());
    let size = u32::try_from(size_of::<FILE_BASIC_INFO>()).map_err(Error::other)?;
    // SAFETY: the handle is open, and what is written has the type and size that each call writes.
    let known = unsafe {
        GetFileInformationByHandle(file.as_raw_handle(), &raw mut info) != 0
            && GetFileInformationByHandleEx(file.as_raw_handle(), FileBasicInfo, (&raw mut basic).cast(), size) != 0
    };
    if known { Ok((info, basic)) } else { Err(Error::last_os_error()) }
}

fn whole(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Windows counts in 100 ns since 1601.
fn since_1970(time: i64) -> i128 {
    (i128::from(time) - 116_444_736_000_000_000) * 100
}

/// Flushes a file that is not open, or open elsewhere: only who may write it may do so.
pub fn flush(path: &Path) -> Result<()> {
    OpenOptions::new().write(true).open(path).and_then(|file| file.sync_all())
}

/// Folders cannot be flushed: NTFS and ReFS keep the order of their entries in a log of their own.
pub fn sync_folder(_: &Path) -> Result<()> {
    Ok(())
}

/// Gives `temporary` the name `path` if that is free; false if it is not. A hard link does so on NTFS; renaming without
/// replacing on exFAT and others without links.
pub fn place(temporary: &Path, path: &Path) -> Result<bool> {
    match std::fs::hard_link(temporary, path) {
        Ok(()) => Ok(true),
        // On network file systems an answer may be lost: the link is then there.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(information(temporary)?.0.nNumberOfLinks > 1),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(e),
        Err(_) => rename_to_new(temporary, path),
    }
}

/// Renames a file; false, and nothing done, where there is one of that name.
fn rename_to_new(from: &Path, to: &Path) -> Result<bool> {
    let [from, to] = [from, to].map(|path| path.as_os_str().encode_wide().chain([0]).collect::<Vec<u16>>());
    // SAFETY: both are valid for the call, and end with a zero.
    if unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), MOVEFILE_WRITE_THROUGH) } != 0 {
        return Ok(true);
    }
    let error = Error::last_os_error();
    if is(&error, ERROR_ALREADY_EXISTS) || is(&error, ERROR_FILE_EXISTS) { Ok(false) } else { Err(error) }
}

fn is(error: &Error, code: u32) -> bool {
    error.raw_os_error().and_then(|found| u32::try_from(found).ok()) == Some(code)
}

/// Makes a folder. Where the system has its temporary ones is the user's own already.
pub fn private_folder(path: &Path) -> Result<()> {
    std::fs::create_dir(path)
}

/// Makes a file, to be read and written. Its folder says who may look into it.
pub fn private_file(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

/// The bytes of a file, all of which take room: its holes do not here.
pub fn allocated(meta: &Metadata) -> u64 {
    meta.len()
}

/// What tells one open file from another, and whether it still has a name.
pub fn identity(file: &File) -> Result<(FileNumber, bool)> {
    let mut info = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is open, and what is written has the type that the call writes.
    if unsafe { GetFileInformationByHandle(file.as_raw_handle(), &raw mut info) } == 0 {
        return Err(Error::last_os_error());
    }
    let number = (info.dwVolumeSerialNumber.into(), whole(info.nFileIndexHigh, info.nFileIndexLow));
    Ok((number, info.nNumberOfLinks > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_as_people_write_them() {
        for (given, expected) in [
            (r"\\?\C:\data\atlas", "C:/data/atlas"),
            (r"\\?\UNC\server\share\atlas", "//server/share/atlas"),
            (r"D:\atlas", "D:/atlas"),
            (r"\\?\Volume{1}\atlas", r"\\?\Volume{1}\atlas"),
        ] {
            assert_eq!(plain(given.into()).to_str(), Some(expected));
        }
    }

    #[test]
    fn without_links_a_name_is_given_once_too() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other, to] = ["one", "other", "to"].map(|name| folder.path().join(name));
        std::fs::write(&one, "one").unwrap();
        std::fs::write(&other, "other").unwrap();
        assert!(rename_to_new(&one, &to).unwrap() && !one.exists());
        assert!(!rename_to_new(&other, &to).unwrap() && other.exists());
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "one");
    }
}
