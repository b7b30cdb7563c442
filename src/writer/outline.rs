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
