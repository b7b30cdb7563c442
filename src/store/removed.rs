//! The rows of a part that are no cells any more: a file of their numbers, beside matrices that still have them.
//!
//! Numbers are `u32`, little-endian, ascending.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::files::{changed, checksum, missing};
use super::manifest::Part;
use crate::error::{DaoError, Result};
use crate::storage::Storage;

/// The removed rows of a part, as its version lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The file of their numbers, relative to the part.
    pub path: String,
    /// Checksum of that.
    pub checksum: String,
    /// How many there are.
    pub n_obs: u64,
    /// The stored values of X in them; `None` where that is not known.
    pub nnz: Option<u64>,
}

/// The numbers of removed rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RemovedRows {
    /// A bit for each row, up to the last one that was removed.
    bits: Vec<u64>,
}

impl RemovedRows {
    /// Adds a row.
    pub fn insert(&mut self, row: u32) {
        let at = row as usize / 64;
        if at >= self.bits.len() {
            self.bits.resize(at + 1, 0);
        }
        self.bits[at] |= 1 << (row % 64);
    }

    /// Whether the row was removed.
    pub fn contains(&self, row: u32) -> bool {
        self.bits.get(row as usize / 64).is_some_and(|bits| bits >> (row % 64) & 1 == 1)
    }

    /// How many rows there are.
    pub fn count(&self) -> u64 {
        self.bits.iter().map(|bits| u64::from(bits.count_ones())).sum()
    }

    /// The rows, ascending.
    pub fn rows(&self) -> impl Iterator<Item = u32> {
        // As many bits as rows that a part can have.
        (0..u32::try_from(64 * self.bits.len()).unwrap_or(u32::MAX)).filter(|&row| self.contains(row))
    }

    /// The file that has them.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.rows().flat_map(u32::to_le_bytes).collect()
    }
}

impl Part {
    /// The number of cells: of rows that were not removed.
    pub fn n_cells(&self) -> u64 {
        self.n_obs - self.removed.as_ref().map_or(0, |removed| removed.n_obs)
    }

    /// The stored values of X in its cells; `None` where that is not known.
    pub fn nnz_of_cells(&self) -> Option<u64> {
        match &self.removed {
            Some(removed) => self.nnz?.checked_sub(removed.nnz?),
            None => self.nnz,
        }
    }

    /// Reads which rows were removed.
    ///
    /// # Errors
    /// `NotFound` or `Corrupt` for a file that is not the one that was written.
    pub fn removed_rows(&self, storage: &dyn Storage) -> Result<RemovedRows> {
        let Some(removed) = &self.removed else { return Ok(RemovedRows::default()) };
        removed.rows(storage, &self.file(&removed.path), self.n_obs).map_err(|e| e.at(self.place()))
    }
}

impl Removed {
    /// Reads the numbers of the rows, of a part of `n_obs`; `path` is that of the file, relative to the store.
    ///
    /// # Errors
    /// `NotFound` or `Corrupt` for a file that is not the one that was written.
    pub fn rows(&self, storage: &dyn Storage, path: &str, n_obs: u64) -> Result<RemovedRows> {
        let place = format!("{}/{path}", storage.uri());
        let bytes = storage.get(path)?.ok_or_else(|| missing(&place))?;
        read_rows(&bytes, self, n_obs, &place)
    }
}

/// The rows that a file names.
fn read_rows(bytes: &Bytes, removed: &Removed, n_obs: u64, place: &str) -> Result<RemovedRows> {
    let found = checksum(bytes);
    if found != removed.checksum {
        let what = "checksum mismatch: the file is not the one that the version lists";
        return Err(changed(place, what, &removed.checksum, found));
    }
    let (numbers, rest) = bytes.as_chunks::<4>();
    let mut rows = RemovedRows::default();
    let mut last = None;
    let ascends = numbers.iter().map(|&number| u32::from_le_bytes(number)).all(|row| {
        let ascends = last.replace(row).is_none_or(|last| last < row) && u64::from(row) < n_obs;
        if ascends {
            rows.insert(row);
        }
        ascends
    });
    if ascends && rest.is_empty() && numbers.len() as u64 == removed.n_obs {
        return Ok(rows);
    }
    Err(DaoError::corrupt(place, "not the numbers of removed rows")
        .expected(format!("{} ascending numbers below {n_obs}", removed.n_obs))
        .found(format!("{} bytes of others", bytes.len())))
}

#[cfg(test)]
mod tests {
    use super::super::testing::part;
    use super::*;
    use crate::storage::Local;

    #[test]
    fn rows_are_written_and_read() {
        let mut rows = RemovedRows::default();
        [70, 3, 64, 3].into_iter().for_each(|row| rows.insert(row));
        assert_eq!((rows.rows().collect::<Vec<_>>(), rows.count()), (vec![3, 64, 70], 3));
        assert!(rows.contains(64) && !rows.contains(65) && !rows.contains(u32::MAX));
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("parts/lung")).unwrap();
        let write = |bytes: &[u8], n_obs| {
            std::fs::write(folder.path().join("parts/lung/removed-1"), bytes).unwrap();
            let removed = Removed { path: "removed-1".into(), checksum: checksum(bytes), n_obs, nnz: Some(4) };
            let part = Part { removed: Some(removed), nnz: Some(10), ..part("lung", 71, 2) };
            (part.removed_rows(&Local::new(folder.path()).unwrap()), part)
        };
        let (read, part) = write(&rows.to_bytes(), 3);
        assert_eq!((read.unwrap(), part.n_cells(), part.nnz_of_cells()), (rows, 68, Some(6)));
        for (bytes, n_obs) in [(&[3, 0, 0, 0][..], 2), (&[3, 0, 0, 0, 3, 0, 0, 0], 2), (&[71, 0, 0, 0], 1), (&[1], 0)] {
            let error = write(bytes, n_obs).0.unwrap_err().to_string();
            assert!(error.contains("dataset 'lung'") && error.contains("removed rows"), "{error}");
        }
        std::fs::write(folder.path().join("parts/lung/removed-1"), [4, 0, 0, 0]).unwrap();
        let error = part.removed_rows(&Local::new(folder.path()).unwrap()).unwrap_err();
        assert!(error.to_string().contains("checksum mismatch"), "{error}");
    }
}
