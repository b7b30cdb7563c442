//! What Unix and Windows do each in its own way with files on this machine.
//!
//! Owns the calls of the system that std does not have for both: everything else asks here, and has no `cfg`.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use unix::{
    allocated, flush, identity, inside, is_too_many_open, most_open, place, plain, private_file, private_folder,
    read_exact_at, stamp, sync_folder, write_all_at,
};
#[cfg(windows)]
pub use windows::{
    allocated, flush, identity, inside, is_too_many_open, most_open, place, plain, private_file, private_folder,
    read_exact_at, stamp, sync_folder, write_all_at,
};

/// The number of a disk, and that of a file on it.
pub type FileNumber = (u64, u64);

/// What tells a state of a file on this machine from another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileStamp {
    pub size: u64,
    /// The number that the disk knows the file by: the inode, where there are some.
    pub number: u64,
    /// When its bytes were changed, in ns since 1970.
    pub modified: i128,
    /// When anything of it was changed, its name and permissions too, in ns since 1970.
    pub changed: i128,
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_stamp_shows_what_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let first = stamp(&path).unwrap();
        assert_eq!((first.size, first), (3, stamp(&path).unwrap()));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        for time in [first.modified, first.changed] {
            assert!((i128::try_from(now).unwrap() - time).abs() < 60_000_000_000, "{time} is not now, {now}");
        }
        std::fs::write(folder.path().join("b"), "abc").unwrap();
        std::fs::rename(folder.path().join("b"), &path).unwrap();
        assert_ne!(stamp(&path).unwrap().number, first.number, "another file of the same name and size");
        assert!(stamp(folder.path()).is_ok(), "a folder has one");
        assert_eq!(stamp(&folder.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_name_is_given_once() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other, place_] = ["one", "other", "place"].map(|name| folder.path().join(name));
        std::fs::write(&one, "one").unwrap();
        std::fs::write(&other, "other").unwrap();
        assert!(place(&one, &place_).unwrap());
        assert!(!place(&other, &place_).unwrap());
        assert_eq!(std::fs::read_to_string(&place_).unwrap(), "one");
        assert!(other.exists(), "what found no place stays");
        assert_eq!(
            place(&folder.path().join("none"), &place_.with_file_name("c")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn reads_end_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "0123456789").unwrap();
        let file = File::open(&path).unwrap();
        let mut into = [0; 4];
        read_exact_at(&file, &mut into, 6).unwrap();
        assert_eq!(&into, b"6789");
        assert_eq!(read_exact_at(&file, &mut into, 7).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        flush(&path).unwrap();
        sync_folder(folder.path()).unwrap();
    }

    #[test]
    fn an_absolute_path_is_shown_plainly() {
        let folder = tempfile::tempdir().unwrap();
        let found = plain(folder.path().canonicalize().unwrap());
        assert!(found.is_absolute() && found.is_dir());
        let text = found.to_str().unwrap();
        assert!(!text.contains('\\') && !text.starts_with("//?/"), "{text}");
        assert_eq!(inside("parts/a".as_ref()), "parts/a");
        assert_eq!(inside(&std::path::Path::new("parts").join("a")), "parts/a");
    }
}
