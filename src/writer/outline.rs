//! The outline of a part, collected while its files are written: see [`crate::store::OutlineFile`].

use std::collections::BTreeMap;

use super::folder::Folder;
use crate::checksum::crc32c;
use crate::error::{DaoError, Result};
use crate::store::{Contents, FileMeta, OutlineFile, ZARR};

/// The file's name in the part's folder.
pub const OUTLINE: &str = "outline";
/// The most bytes of a file that is in the outline as a whole: the shards of a small study are read with what tells of them.
pub const WHOLE: usize = 128 << 10;

/// What was written so far and belongs into the outline, by the path of the file.
#[derive(Debug, Default)]
pub struct Pieces(BTreeMap<String, FilePieces>);

/// The pieces of a file.
#[derive(Debug, Default)]
pub struct FilePieces {
    /// From its first byte, all of it; of a long one until it became long.
    pub whole: Option<Vec<u8>>,
    /// Its end, and where that begins.
    pub end: Option<(u64, Vec<u8>)>,
    /// Where pieces of one length begin, and their bytes one after another.
    pub starts: Vec<u64>,
    pub many: Vec<u8>,
}

/// Whether a file is read as a whole when its matrix is opened, however long it is.
pub fn is_read_whole(path: &str) -> bool {
    path.ends_with(".json") || path.contains("/indptr/")
}

impl Pieces {
    pub fn add(&mut self, path: String, pieces: FilePieces) {
        self.0.insert(path, pieces);
    }

    /// Writes the outline, and gives what the version says of it. `description` is the file that describes the part.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(self, folder: &Folder, description: (&str, &[u8])) -> Result<OutlineFile> {
        let mut contents = Contents::default();
        let (mut starts, mut end) = (Vec::new(), Vec::new());
        // By matrix, X first: its section is the head's.
        let mut sections: BTreeMap<(bool, String), Vec<(String, u64, Vec<u8>)>> = BTreeMap::new();
        let head = (false, String::new());
        sections.insert(head.clone(), vec![(description.0.to_owned(), 0, description.1.to_vec())]);
        for (path, pieces) in self.0 {
            let of_x = path.starts_with(&format!("{ZARR}/X/"));
            let section = if of_x { head.clone() } else { (true, matrix_of(&path).to_owned()) };
            let section = sections.entry(section).or_default();
            if let Some(whole) = pieces.whole {
                section.push((path, 0, whole));
                continue;
            }
            section.extend(pieces.end.map(|(at, bytes)| (path.clone(), at, bytes)));
            let n = pieces.starts.len() as u64;
            if n > 0 {
                contents.many.push((path, pieces.many.len() as u64 / n, n));
                starts.extend(pieces.starts.iter().flat_map(|start| start.to_le_bytes()));
                end.extend(pieces.many);
            }
        }
        let listed = |section: &Vec<(String, u64, Vec<u8>)>| {
            section.iter().map(|(path, at, bytes)| (path.clone(), *at, bytes.len() as u64)).collect()
        };
        contents.sections = sections.values().map(listed).collect();
        let json =
            serde_json::to_vec(&contents).map_err(|e| DaoError::value(format!("the outline is no JSON: {e}")))?;
        let mut all = (json.len() as u64).to_le_bytes().to_vec();
        all.extend(json);
        all.extend(starts);
        let mut head = 0;
        for (number, section) in sections.into_values().enumerate() {
            section.into_iter().for_each(|(_, _, bytes)| all.extend(bytes));
            head = if number == 0 { all.len() } else { head };
        }
        let head_crc32c = crc32c(&all[..head]);
        all.extend(end);
        folder.write(OUTLINE, &all)?;
        let FileMeta { size, checksum } = FileMeta::of(&all);
        Ok(OutlineFile { path: OUTLINE.into(), size, checksum, head: head as u64, head_crc32c })
    }
}

/// The folder of the matrix, or of what belongs to it, that a file lies in: two names below `zarr` or three.
fn matrix_of(path: &str) -> &str {
    let names = if path.starts_with("zarr/totals/") { 4 } else { 3 };
    path.match_indices('/').nth(names - 1).map_or(path, |(at, _)| &path[..at])
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::storage::{Local, Storage};
    use crate::store::Outline;

    /// A part with a long shard of two chunks, a short one, and what belongs to other matrices.
    fn written(root: &Path) -> (Arc<dyn Storage>, OutlineFile, Vec<u8>) {
        let storage: Arc<dyn Storage> = Arc::new(Local::new(root).unwrap());
        let folder = Folder::new(storage.clone(), "p").unwrap();
        let array = folder.join("zarr").join("X").join("data");
        array.write("zarr.json", b"{\"a\": 1}").unwrap();
        let mut long = array.begin("c/0").unwrap();
        for byte in [7, 8] {
            long.note_piece(&[byte; 20]);
            long.write(&vec![byte; WHOLE]).unwrap();
        }
        long.write_end(b"the end").unwrap();
        long.finish().unwrap();
        let mut short = array.begin("c/1").unwrap();
        short.note_piece(b"short");
        short.write(b"short chunk").unwrap();
        short.write_end(b"end").unwrap();
        short.finish().unwrap();
        folder.join("zarr").join("layers").join("raw").write("zarr.json", b"{\"b\": 2}").unwrap();
        let pieces = folder.pieces();
        let outline = pieces.write(&folder, ("part.json", b"{}")).unwrap();
        let bytes = std::fs::read(root.join("p/outline")).unwrap();
        (storage, outline, bytes)
    }

    #[test]
    fn pieces_are_what_the_files_have() {
        let root = tempfile::tempdir().unwrap();
        let (storage, file, bytes) = written(root.path());
        assert_eq!((file.size, &file.checksum), (bytes.len() as u64, &FileMeta::of(&bytes).checksum));
        let outline = Outline::open(&*storage, "p", &file).unwrap();
        let long = std::fs::read(root.path().join("p/zarr/X/data/c/0")).unwrap();
        let end = long.len() as u64;
        let get = |name: &str, range: Range<u64>| outline.get(&*storage, name, &range).unwrap();
        assert_eq!(outline.whole(&*storage, "part.json").unwrap().unwrap(), "{}");
        assert_eq!(outline.whole(&*storage, "zarr/X/data/zarr.json").unwrap().unwrap(), "{\"a\": 1}");
        assert_eq!(outline.whole(&*storage, "zarr/layers/raw/zarr.json").unwrap().unwrap(), "{\"b\": 2}");
        assert_eq!(get("zarr/X/data/c/1", 6..14).unwrap(), "chunkend");
        assert_eq!(get("zarr/X/data/c/0", end - 3..end).unwrap(), "end");
        assert!(get("zarr/X/data/c/0", end - 9..end).is_none() && get("zarr/X/data/c/0", 0..4).is_none());
        assert!(get("zarr/X/data/c/0", end - 3..end + 1).is_none() && get("none", 0..1).is_none());
        assert!(
            outline.has("zarr/X/data/c/1", &(0..14)) && outline.whole(&*storage, "zarr/X/data/c/0").unwrap().is_none()
        );
        let second = WHOLE as u64;
        let places = [0..20, second..second + 20].map(|range| outline.place("zarr/X/data/c/0", &range).unwrap());
        assert_eq!(outline.at(&*storage, &places).unwrap(), [vec![7; 20], vec![8; 20]]);
        assert!(outline.missing_units(&places).is_empty(), "they are kept");
        assert!(outline.place("zarr/X/data/c/0", &(1..20)).is_none());
        assert!(
            outline.place("zarr/X/data/c/0", &(0..21)).is_none() && outline.place("zarr/X/data/c/1", &(0..5)).is_none()
        );
    }

    #[test]
    fn a_head_that_was_changed_or_lies_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let (storage, file, bytes) = written(root.path());
        let path = root.path().join("p/outline");
        let opened = |bytes: &[u8], file: &OutlineFile| {
            std::fs::write(&path, bytes).unwrap();
            Outline::open(&*storage, "p", file).err().map(|e| e.to_string())
        };
        let head = usize::try_from(file.head).unwrap();
        for at in 0..head {
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            assert!(opened(&changed, &file).unwrap().contains("checksum mismatch"), "{at}");
            // Whatever it says, once its checksum holds, is no panic.
            let lying = OutlineFile { head_crc32c: crc32c(&changed[..head]), ..file.clone() };
            if let Some(error) = opened(&changed, &lying) {
                assert!(error.contains("contradicts itself"), "{error}");
            }
        }
        for cut in [0, 7, head - 1] {
            assert!(opened(&bytes[..cut], &file).is_some());
        }
        let longer = OutlineFile { size: file.size + 1, ..file.clone() };
        assert!(opened(&bytes, &longer).unwrap().contains("contradicts itself"));
        assert!(opened(&bytes, &file).is_none());
    }

    #[test]
    fn files_are_grouped_by_their_matrix() {
        for (path, of) in [
            ("zarr/layers/raw/data/c/0", "zarr/layers/raw"),
            ("zarr/obsm/X_pca/c/0/0", "zarr/obsm/X_pca"),
            ("zarr/totals/layers/raw/total_counts/c/0", "zarr/totals/layers/raw"),
            ("zarr/zarr.json", "zarr/zarr.json"),
        ] {
            assert_eq!(matrix_of(path), of);
        }
    }
}
