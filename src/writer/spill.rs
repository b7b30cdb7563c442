//! Entries routed to output rows out of core: for columns (CSC) and for permuted rows.
//!
//! Entries go to one file per block of output rows; each block then fits into memory, where a
//! counting sort puts its rows together.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::folder::{io, make_folder};
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Num};

/// The most bytes of a block's entries, which are held in memory at a time.
const BLOCK_BYTES: u64 = 48 << 20;
/// The most files that are open at a time.
const MAX_BLOCKS: u64 = 128;

/// Entries on their way to their rows.
pub struct Spill {
    folder: PathBuf,
    block_rows: usize,
    n_rows: usize,
    blocks: Vec<(PathBuf, BufWriter<File>)>,
}

/// A block of rows put together: row `first + i` has the entries `indptr[i]..indptr[i + 1]`, in the order they came.
pub struct Block<T> {
    pub indptr: Vec<usize>,
    pub indices: Vec<i32>,
    pub data: Vec<T>,
}

impl Spill {
    /// Files for `n_rows` rows with about `nnz` entries of type `dtype`, in the new folder `folder`.
    pub fn new(folder: &Path, dtype: Dtype, n_rows: u64, nnz: u64) -> Result<Self> {
        make_folder(folder)?;
        let bytes = nnz.max(1) * (8 + dtype.size() as u64);
        let n_blocks = bytes.div_ceil(BLOCK_BYTES).clamp(1, MAX_BLOCKS);
        let rows = |n: u64| usize::try_from(n).map_err(|_| DaoError::value("more rows than memory holds"));
        let (n_rows, block_rows) = (rows(n_rows)?, rows(n_rows.div_ceil(n_blocks).max(1))?);
        let open = |i| {
            let path = folder.join(format!("rows-{i:05}"));
            let file = File::create(&path).map_err(io(&path, "writing"))?;
            Ok((path, BufWriter::with_capacity(128 << 10, file)))
        };
        let blocks = (0..n_rows.div_ceil(block_rows)).map(open).collect::<Result<_>>()?;
        Ok(Self { folder: folder.to_owned(), block_rows, n_rows, blocks })
    }

    /// Sends one entry to `row`, which is below the number of rows.
    pub fn push<T: Num>(&mut self, row: u32, column: i32, value: T) -> Result<()> {
        let Some((path, file)) = self.blocks.get_mut(row as usize / self.block_rows) else {
            return Err(DaoError::value(format!("row {row} is past the matrix's {} rows", self.n_rows)));
        };
        let mut entry = [0; 16];
        let size = 8 + size_of::<T>();
        entry[..4].copy_from_slice(&row.to_ne_bytes());
        entry[4..8].copy_from_slice(&column.to_ne_bytes());
        entry[8..size].copy_from_slice(bytemuck::bytes_of(&value));
        file.write_all(&entry[..size]).map_err(io(path, "writing"))
    }

    /// Gives the blocks, in the order of their rows, to `consume`, and removes the files. Entries are of type `T`.
    pub fn finish<T: Num>(self, mut consume: impl FnMut(Block<T>) -> Result<()>) -> Result<()> {
        for (first, (path, mut file)) in (0..).step_by(self.block_rows).zip(self.blocks) {
            file.flush().map_err(io(&path, "writing"))?;
            drop(file);
            let bytes = std::fs::read(&path).map_err(io(&path, "reading back"))?;
            consume(sort_block(&bytes, first, self.block_rows.min(self.n_rows - first)))?;
            std::fs::remove_file(&path).map_err(io(&path, "removing"))?;
        }
        std::fs::remove_dir(&self.folder).map_err(io(&self.folder, "removing"))
    }
}

/// Puts the entries of a file together by rows: a counting sort, which keeps the order they came in.
fn sort_block<T: Num>(bytes: &[u8], first: usize, n_rows: usize) -> Block<T> {
    let size = 8 + size_of::<T>();
    let word = |entry: &[u8]| -> [u8; 4] { [entry[0], entry[1], entry[2], entry[3]] };
    // An entry went to the block that its row is in.
    let row_of = |entry: &[u8]| u32::from_ne_bytes(word(entry)) as usize - first;
    let mut indptr = vec![0; n_rows + 1];
    for entry in bytes.chunks_exact(size) {
        indptr[row_of(entry) + 1] += 1;
    }
    for i in 0..n_rows {
        indptr[i + 1] += indptr[i];
    }
    let mut next = indptr.clone();
    let n = bytes.len() / size;
    let (mut indices, mut data) = (vec![0; n], vec![T::zero(); n]);
    for entry in bytes.chunks_exact(size) {
        let at = &mut next[row_of(entry)];
        indices[*at] = i32::from_ne_bytes(word(&entry[4..]));
        data[*at] = bytemuck::pod_read_unaligned(&entry[8..]);
        *at += 1;
    }
    Block { indptr, indices, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows that entries end up in.
    fn spilled(entries: &[(u32, i32, f32)], n_rows: u64, nnz: u64) -> (Vec<Vec<(i32, f32)>>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("spill");
        let mut spill = Spill::new(&at, Dtype::F32, n_rows, nnz).unwrap();
        for &(row, column, value) in entries {
            spill.push(row, column, value).unwrap();
        }
        let (mut rows, mut blocks) = (Vec::new(), 0);
        spill
            .finish(|block: Block<f32>| {
                blocks += 1;
                assert_eq!(block.indices.len(), block.data.len());
                for ends in block.indptr.windows(2) {
                    let row = ends[0]..ends[1];
                    rows.push(
                        block.indices[row.clone()].iter().copied().zip(block.data[row].iter().copied()).collect(),
                    );
                }
                Ok(())
            })
            .unwrap();
        assert!(!at.exists(), "the files are removed");
        (rows, blocks)
    }

    #[test]
    fn entries_come_together_by_rows_in_the_order_they_came() {
        // As a CSC source sends them: column by column.
        let entries = [(2, 0, 1.0), (0, 0, 2.0), (2, 1, 3.0), (4, 1, 4.0), (0, 2, 5.0), (2, 0, 6.0)];
        let expected =
            vec![vec![(0, 2.0), (2, 5.0)], vec![], vec![(0, 1.0), (1, 3.0), (0, 6.0)], vec![], vec![(1, 4.0)], vec![]];
        let one_file = spilled(&entries, 6, 6);
        assert_eq!(one_file, (expected.clone(), 1));
        // As many files as rows, and more rows than fit evenly: 4 files of 2 rows for 6 rows.
        let many = spilled(&entries, 6, 4 * BLOCK_BYTES / 12);
        assert_eq!(many.0, expected);
        assert_eq!(many.1, 3);
    }

    #[test]
    fn rows_permuted_are_the_permuted_rows() {
        // A cycle of all rows, which is not its own inverse.
        let n = 500_u32;
        let to = |row: u32| (row * 7 + 3) % n;
        let column = |row: u32| i32::try_from(row).unwrap();
        let entries: Vec<_> = (0..n).map(|row| (to(row), column(row), 1.0)).collect();
        for nnz in [1, 100 * BLOCK_BYTES / 12, u64::from(u32::MAX)] {
            let (rows, _) = spilled(&entries, u64::from(n), nnz);
            for row in 0..n {
                assert_eq!(rows[to(row) as usize], [(column(row), 1.0)]);
            }
        }
    }

    #[test]
    fn no_more_files_are_open_than_a_process_may_have() {
        let (rows, blocks) = spilled(&[], 1_000, u64::from(u32::MAX) * 100);
        assert_eq!(rows.len(), 1_000);
        assert!(blocks as u64 <= MAX_BLOCKS);
    }

    #[test]
    fn no_rows_and_rows_past_the_end() {
        assert_eq!(spilled(&[], 0, 0), (vec![], 0));
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(&folder.path().join("s"), Dtype::U8, 3, 10).unwrap();
        assert!(spill.push(3, 0, 1_u8).unwrap_err().to_string().contains("past the matrix's 3 rows"));
    }

    #[test]
    fn an_error_of_the_consumer_is_the_callers() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(&folder.path().join("s"), Dtype::U8, 3, 10).unwrap();
        spill.push(1, 0, 1_u8).unwrap();
        let error = spill.finish(|_: Block<u8>| Err(DaoError::value("no"))).unwrap_err();
        assert_eq!(error.to_string(), DaoError::value("no").to_string());
    }
}
