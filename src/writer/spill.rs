//! Rows on their way to other places, out of core: permuted rows, and the rows of a matrix that comes by columns (CSC).
//!
//! They go to one file per block of output rows; each block then fits into memory. Permuted rows go whole, and come back
//! as they were written. Entries of columns go one by one; a counting sort puts their rows together.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::parallel;
use super::rows::Place;
use crate::error::{DaoError, Result};
use crate::interrupt::Watch;
use crate::number::Num;
use crate::storage::{make_folder, write_error as io};

/// The most bytes of a block's entries, which are held in memory at a time.
const BLOCK_BYTES: u64 = 48 << 20;
/// The most files that are open at a time.
const MAX_BLOCKS: u64 = 128;
/// The entries that one thread sends on their way at a time.
const PIECE: usize = 128 << 10;
/// The bytes before a row: its number and how many values it has.
const HEAD: usize = 8;

/// Rows or entries on their way to their rows.
pub struct Spill {
    folder: PathBuf,
    block_rows: usize,
    n_rows: usize,
    blocks: Vec<(PathBuf, File)>,
}

/// Rows that follow each other, put together from entries, in the order they came.
pub struct Block<T> {
    /// The entries of each row.
    pub rows: Vec<Range<usize>>,
    pub indices: Vec<i32>,
    pub data: Vec<T>,
}

/// Entries of the next columns of a matrix, typed.
pub struct Entries<'a, T> {
    /// The output column of each run of entries; the runs follow each other.
    pub columns: &'a [(i32, Range<usize>)],
    pub rows: &'a [u32],
    pub data: &'a [T],
}

impl Spill {
    /// Files for `n_rows` rows with about `nnz` entries of `entry_bytes`, in the new folder `folder`.
    pub fn new(folder: &Path, entry_bytes: usize, n_rows: u64, nnz: u64) -> Result<Self> {
        make_folder(folder)?;
        let bytes = nnz.max(1) * entry_bytes as u64;
        let n_blocks = bytes.div_ceil(BLOCK_BYTES).clamp(1, MAX_BLOCKS);
        let rows = |n: u64| usize::try_from(n).map_err(|_| DaoError::value("more rows than memory holds"));
        let (n_rows, block_rows) = (rows(n_rows)?, rows(n_rows.div_ceil(n_blocks).max(1))?);
        let open = |i| {
            let path = folder.join(format!("rows-{i:05}"));
            let file = File::create(&path).map_err(io(&path, "writing"))?;
            Ok((path, file))
        };
        let blocks = (0..n_rows.div_ceil(block_rows)).map(open).collect::<Result<_>>()?;
        Ok(Self { folder: folder.to_owned(), block_rows, n_rows, blocks })
    }

    /// The bytes of an entry of columns, whose values are of a type of `size` bytes.
    pub fn entry_bytes(size: usize) -> usize {
        8 + size
    }

    /// Sends whole rows, `lengths` of `indices` and `data`, to the rows `to`, each below the number of rows.
    pub fn push_rows<T: Num, I: Num>(
        &mut self,
        to: &[u32],
        lengths: &[usize],
        indices: &[I],
        data: &[T],
    ) -> Result<()> {
        // By block, the row's number and place.
        let mut of_block: Vec<Vec<(u32, Place)>> = self.blocks.iter().map(|_| Vec::new()).collect();
        let mut start = 0;
        for (&row, &len) in to.iter().zip(lengths) {
            let block = of_block.get_mut(row as usize / self.block_rows).ok_or_else(|| self.past_the_end(row))?;
            block.push((row, Place { start, len }));
            start += len;
        }
        let jobs = self.blocks.iter_mut().zip(of_block).filter(|(_, rows)| !rows.is_empty()).collect();
        parallel::each(jobs, |((path, file), rows)| {
            let values: usize = rows.iter().map(|(_, place)| place.len).sum();
            let mut bytes = Vec::with_capacity(HEAD * rows.len() + (size_of::<I>() + size_of::<T>()) * values);
            for (row, Place { start, len }) in rows {
                bytes.extend_from_slice(&row.to_ne_bytes());
                // Columns are numbered with 31 bits.
                bytes.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
                bytes.extend_from_slice(bytemuck::cast_slice(&indices[start..start + len]));
                bytes.extend_from_slice(bytemuck::cast_slice(&data[start..start + len]));
            }
            file.write_all(&bytes).map_err(io(path, "writing"))
        })?;
        Ok(())
    }

    /// Sends entries to their rows, each below the number of rows.
    pub fn push_entries<T: Num>(&mut self, entries: &Entries<'_, T>) -> Result<()> {
        let n_blocks = self.blocks.len();
        let starts: Vec<usize> = (0..entries.rows.len()).step_by(PIECE).collect();
        let pieces = parallel::each(starts, |start| {
            let piece = start..entries.rows.len().min(start + PIECE);
            let mut blocks: Vec<Vec<u8>> = vec![Vec::new(); n_blocks];
            let first = entries.columns.partition_point(|(_, run)| run.end <= piece.start);
            for (column, run) in &entries.columns[first..] {
                let run = run.start.max(piece.start)..run.end.min(piece.end);
                if run.is_empty() {
                    break;
                }
                for (&row, value) in entries.rows[run.clone()].iter().zip(&entries.data[run]) {
                    let block = blocks.get_mut(row as usize / self.block_rows);
                    let block = block.ok_or_else(|| self.past_the_end(row))?;
                    let mut entry = [0; 16];
                    entry[..4].copy_from_slice(&row.to_ne_bytes());
                    entry[4..8].copy_from_slice(&column.to_ne_bytes());
                    entry[8..8 + size_of::<T>()].copy_from_slice(bytemuck::bytes_of(value));
                    block.extend_from_slice(&entry[..8 + size_of::<T>()]);
                }
            }
            Ok(blocks)
        })?;
        parallel::each((0..).zip(&mut self.blocks).collect(), |(i, (path, file)): (usize, &mut (PathBuf, File))| {
            pieces.iter().try_for_each(|blocks| file.write_all(&blocks[i])).map_err(io(path, "writing"))
        })?;
        Ok(())
    }

    fn past_the_end(&self, row: u32) -> DaoError {
        DaoError::value(format!("row {row} is past the matrix's {} rows", self.n_rows))
    }

    /// Gives the rows of each block that were sent whole to `consume`, in their order, and removes the files. The bytes of
    /// an entry are `entry_bytes`.
    pub fn finish_rows(self, entry_bytes: usize, mut consume: impl FnMut(&[Place], &[u8]) -> Result<()>) -> Result<()> {
        self.each_block(|bytes, first, n_rows, path| {
            let mut rows = vec![Place::default(); n_rows];
            let mut at = 0;
            while let Some(&head) = bytes.get(at..).and_then(|rest| rest.first_chunk::<HEAD>()) {
                let [row, len]: [u32; 2] = bytemuck::cast(head);
                at += HEAD;
                let place = (row as usize).checked_sub(first).and_then(|row| rows.get_mut(row));
                let place = place.ok_or_else(|| changed(path))?;
                *place = Place { start: at, len: len as usize };
                at += entry_bytes * place.len;
            }
            if at != bytes.len() {
                return Err(changed(path));
            }
            consume(&rows, bytes)
        })
    }

    /// Gives the rows of entries that were sent one by one, of type `T`, to `consume`, some at a time in their order, and
    /// removes the files.
    pub fn finish_entries<T: Num>(self, mut consume: impl FnMut(Block<T>) -> Result<()>) -> Result<()> {
        self.each_block(|bytes, first, n_rows, _| {
            // Each thread looks at all entries, and puts those of its rows together.
            let step = n_rows.div_ceil(parallel::threads()).max(1);
            let parts = (0..n_rows).step_by(step).map(|start| first + start..first + n_rows.min(start + step));
            let sorted = parallel::each(parts.collect(), |rows| Ok(sort_entries(bytes, rows)))?;
            sorted.into_iter().try_for_each(&mut consume)
        })
    }

    fn each_block(self, mut consume: impl FnMut(&[u8], usize, usize, &Path) -> Result<()>) -> Result<()> {
        let watch = Watch::start();
        let mut bytes = Vec::new();
        for (first, (path, file)) in (0..).step_by(self.block_rows).zip(self.blocks) {
            watch.check()?;
            drop(file);
            bytes.clear();
            let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
            read.map_err(io(&path, "reading back"))?;
            consume(&bytes, first, self.block_rows.min(self.n_rows - first), &path)?;
            std::fs::remove_file(&path).map_err(io(&path, "removing"))?;
        }
        std::fs::remove_dir(&self.folder).map_err(io(&self.folder, "removing"))
    }
}

/// The error for a file that somebody else has written to.
fn changed(path: &Path) -> DaoError {
    DaoError::corrupt(&path.to_string_lossy(), "the file is not as it was written a moment ago")
}

/// Puts the entries of some rows of a file together: a counting sort, which keeps the order they came in.
fn sort_entries<T: Num>(bytes: &[u8], rows: Range<usize>) -> Block<T> {
    let size = 8 + size_of::<T>();
    let word = |entry: &[u8]| -> [u8; 4] { [entry[0], entry[1], entry[2], entry[3]] };
    // What is before the first row is past the last one.
    let row_of = |entry: &[u8]| (u32::from_ne_bytes(word(entry)) as usize).wrapping_sub(rows.start);
    let mut indptr = vec![0; rows.len() + 1];
    for entry in bytes.chunks_exact(size) {
        if let Some(length) = row_of(entry).checked_add(1).and_then(|row| indptr.get_mut(row)) {
            *length += 1;
        }
    }
    for i in 0..rows.len() {
        indptr[i + 1] += indptr[i];
    }
    let n = indptr[rows.len()];
    let (mut next, mut indices, mut data) = (indptr[..rows.len()].to_vec(), vec![0; n], vec![T::zero(); n]);
    for entry in bytes.chunks_exact(size) {
        let Some(at) = next.get_mut(row_of(entry)) else { continue };
        indices[*at] = i32::from_ne_bytes(word(&entry[4..]));
        data[*at] = bytemuck::pod_read_unaligned(&entry[8..]);
        *at += 1;
    }
    Block { rows: indptr.windows(2).map(|ends| ends[0]..ends[1]).collect(), indices, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of an entry of `f32`.
    const ENTRY: u64 = 12;

    type Rows = Vec<Vec<(i32, f32)>>;

    /// The rows that entries end up in, sent one by one.
    fn spilled(entries: &[(u32, i32, f32)], n_rows: u64, nnz: u64) -> (Rows, usize) {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("spill");
        let mut spill = Spill::new(&at, Spill::entry_bytes(4), n_rows, nnz).unwrap();
        let columns: Vec<_> = entries.iter().enumerate().map(|(i, &(_, column, _))| (column, i..i + 1)).collect();
        let rows: Vec<u32> = entries.iter().map(|entry| entry.0).collect();
        let data: Vec<f32> = entries.iter().map(|entry| entry.2).collect();
        spill.push_entries(&Entries { columns: &columns, rows: &rows, data: &data }).unwrap();
        let (mut found, blocks) = (Vec::new(), at.read_dir().unwrap().count());
        spill
            .finish_entries(|block: Block<f32>| {
                assert_eq!(block.indices.len(), block.data.len());
                for row in block.rows {
                    found.push(
                        block.indices[row.clone()].iter().copied().zip(block.data[row].iter().copied()).collect(),
                    );
                }
                Ok(())
            })
            .unwrap();
        assert!(!at.exists(), "the files are removed");
        (found, blocks)
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
        let many = spilled(&entries, 6, 4 * BLOCK_BYTES / ENTRY);
        assert_eq!(many.0, expected);
        assert_eq!(many.1, 3);
    }

    #[test]
    fn many_entries_keep_their_order() {
        // Pieces of several threads, which must not overtake each other.
        let n = u32::try_from(3 * PIECE).unwrap();
        let column = |i: u32| i32::try_from(i).unwrap();
        let entries: Vec<_> = (0..n).map(|i| (i % 3, column(i), 1.0)).collect();
        for nnz in [1, 100 * BLOCK_BYTES / ENTRY] {
            let (rows, _) = spilled(&entries, 3, nnz);
            for (row, found) in (0..).zip(rows) {
                assert!(found.into_iter().eq((row..n).step_by(3).map(|i| (column(i), 1.0))));
            }
        }
    }

    #[test]
    fn rows_permuted_are_the_permuted_rows() {
        // A cycle of all rows, which is not its own inverse; in two pushes, with rows of 0 to 4 values.
        let n = 500_u32;
        let to: Vec<u32> = (0..n).map(|row| (row * 7 + 3) % n).collect();
        let lengths: Vec<usize> = (0..5).cycle().take(500).collect();
        let values: usize = lengths.iter().sum();
        let indices: Vec<u16> = (0..).take(values).collect();
        let data: Vec<u32> = (1000..).take(values).collect();
        for nnz in [1, 100 * BLOCK_BYTES / 6, u64::from(u32::MAX)] {
            let folder = tempfile::tempdir().unwrap();
            let mut spill = Spill::new(&folder.path().join("spill"), 6, u64::from(n), nnz).unwrap();
            spill.push_rows(&to[..200], &lengths[..200], &indices[..400], &data[..400]).unwrap();
            spill.push_rows(&to[200..], &lengths[200..], &indices[400..], &data[400..]).unwrap();
            let mut found = Vec::new();
            spill
                .finish_rows(6, |rows, bytes| {
                    found.extend(rows.iter().map(|row| bytes[row.start..row.start + 6 * row.len].to_vec()));
                    Ok(())
                })
                .unwrap();
            let mut start = 0;
            for (&to, &length) in to.iter().zip(&lengths) {
                let (indices, data) = (&indices[start..start + length], &data[start..start + length]);
                let expected = [bytemuck::cast_slice::<_, u8>(indices), bytemuck::cast_slice(data)].concat();
                assert_eq!(found[to as usize], expected);
                start += length;
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
        let mut spill = Spill::new(&folder.path().join("s"), 9, 3, 10).unwrap();
        let entries = Entries { columns: &[(0, 0..1)], rows: &[3], data: &[1_u8] };
        assert!(spill.push_entries(&entries).unwrap_err().to_string().contains("past the matrix's 3 rows"));
        let error = spill.push_rows(&[3], &[1], &[0_u8], &[1_u8]).unwrap_err();
        assert!(error.to_string().contains("past the matrix's 3 rows"));
    }

    #[test]
    fn an_error_of_the_consumer_is_the_callers() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(&folder.path().join("s"), 2, 3, 10).unwrap();
        spill.push_rows(&[1], &[1], &[0_u8], &[1_u8]).unwrap();
        let error = spill.finish_rows(2, |_, _| Err(DaoError::value("no"))).unwrap_err();
        assert_eq!(error.to_string(), DaoError::value("no").to_string());
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_an_error() {
        for bytes in [&[0_u8; 7][..], &[9, 0, 0, 0, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 0, 0, 0, 1]] {
            let folder = tempfile::tempdir().unwrap();
            let spill = Spill::new(&folder.path().join("s"), 2, 3, 10).unwrap();
            std::fs::write(folder.path().join("s/rows-00000"), bytes).unwrap();
            let error = spill.finish_rows(2, |_, _| Ok(())).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::Corrupt);
        }
    }
}
