//! Everything of a part, read and held against what is written about it.
//!
//! First each file against the list of files; then what the files say against each other: the totals of the cells and
//! the gene-major copy against the matrices that they are of.

use super::OpenStore;
use crate::error::{DaoError, Result};
use crate::matrix::{GeneIndex, Matrix, Totals};
use crate::number::{Num, for_dtype};
use crate::store::{ListedFiles, MatrixName, Part};

/// A path relative to the store, and what is wrong with it.
pub type Problem = (String, String);

impl OpenStore {
    /// Reads all of a part but the contents of its tables, and lists what is wrong.
    ///
    /// # Errors
    /// `Internal` for a bug.
    pub fn verify(&self, part: &Part) -> Result<Vec<Problem>> {
        let description = match self.store().description(part) {
            Ok(description) => description,
            Err(e) => return Ok(vec![(part.file(&part.description), e.to_string())]),
        };
        let mut found = Found::default();
        let index_path = part.file(description.gene_index.as_deref().unwrap_or_default());
        let member = self.store().member(part);
        if !member.by_sfaira {
            let listed = part.all_files(description.files.clone());
            let files = ListedFiles::new(member.storage.clone(), &part.path, listed);
            found.files(&files);
        }
        let index = self.gene_index(part);
        let index = index.unwrap_or_else(|e| {
            found.problem(index_path.clone(), &e);
            None
        });
        for (name, meta) in &description.matrices {
            let path = description.matrix_path(part, name);
            let matrix = match self.matrix(part, name) {
                Ok(matrix) => matrix,
                Err(e) => {
                    found.problem(path, &e);
                    continue;
                }
            };
            let totals = self.totals(part, name).unwrap_or_else(|e| {
                found.problem(description.totals_path(part, name), &e);
                None
            });
            let sums = match for_dtype!(matrix.dtype(), T => summed::<T>(&matrix, totals.as_deref())) {
                Ok(sums) => sums,
                Err(e) => {
                    found.problem(path, &e);
                    continue;
                }
            };
            let counted = matches!(&*matrix, Matrix::Csr(_)).then_some(meta.nnz).flatten();
            if let Some(nnz) = counted.filter(|&nnz| nnz != sums.entries.nnz) {
                found.contradiction(path, "the matrix has another number of values", nnz, sums.entries.nnz);
            }
            if let Some((row, expected, kept)) = sums.wrong_total {
                let what = format!("the totals of row {row} are not those of the matrix");
                found.contradiction(description.totals_path(part, name), &what, expected, kept);
            }
            if let (MatrixName::X, Some(index)) = (name, &index) {
                match for_dtype!(index.dtype(), T => entries::<T>(index, part)) {
                    Ok(copied) if copied == sums.entries => {}
                    Ok(copied) => {
                        let what = "the gene index is not the copy of X";
                        found.contradiction(index_path.clone(), what, sums.entries, copied);
                    }
                    Err(e) => found.problem(index_path.clone(), &e),
                }
            }
        }
        Ok(found.0)
    }
}

/// The problems found so far.
#[derive(Default)]
struct Found(Vec<Problem>);

impl Found {
    /// Adds a problem, unless one of a file at `path` or below explains it.
    fn problem(&mut self, path: String, e: &DaoError) {
        let explains =
            |known: &str| known.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if !self.0.iter().any(|(known, _)| explains(known)) {
            self.0.push((path, e.to_string()));
        }
    }

    fn contradiction(
        &mut self,
        path: String,
        what: &str,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) {
        let e = DaoError::value(what).expected(expected).found(found);
        self.problem(path, &e.hint("restore the dataset from a copy, or write it again"));
    }

    fn files(&mut self, files: &ListedFiles) {
        for path in files.paths() {
            if let Err(e) = files.verify(&path) {
                self.problem(path, &e);
            }
        }
    }
}

/// The stored values of a matrix: how many, and a sum over all that does not depend on their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Entries {
    nnz: u64,
    hash: u64,
}

impl std::fmt::Display for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} values with hash {:016x}", self.nnz, self.hash)
    }
}

impl Entries {
    fn add<T: Num>(&mut self, row: u32, column: u32, value: T) {
        let mut bits = [0; 8];
        bits[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&value));
        self.nnz += 1;
        let place = mix(u64::from(row) << 32 | u64::from(column));
        self.hash = self.hash.wrapping_add(mix(place ^ u64::from_le_bytes(bits)));
    }
}

/// SplitMix64's mixing of 64 bits (<https://prng.di.unimi.it/splitmix64.c>).
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// What all rows of a matrix come to.
#[derive(Default)]
struct Sums {
    entries: Entries,
    /// The first row whose totals are others: what its values come to, and what was kept.
    wrong_total: Option<(u32, String, String)>,
}

fn summed<T: Num>(matrix: &Matrix, totals: Option<&Totals>) -> Result<Sums> {
    let mut sums = Sums::default();
    matrix.each_row::<T>(|row, columns, values| {
        for (&column, &value) in columns.iter().zip(values) {
            sums.entries.add(row, column.cast_unsigned(), value);
        }
        let Some(totals) = totals.filter(|_| sums.wrong_total.is_none()) else { return Ok(()) };
        // As they were added up when the matrix was written.
        let sum: f64 = values.iter().map(|&value| -> f64 { value.as_() }).sum();
        let count = values.iter().filter(|&&value| value != T::zero()).count() as u64;
        let (kept_sum, kept_count) = totals.cell(row);
        if u64::from(kept_count) != count || (kept_sum != sum && !(kept_sum.is_nan() && sum.is_nan())) {
            let shown = |sum: f64, count: u64| format!("sum {sum} of {count} values");
            sums.wrong_total = Some((row, shown(sum, count), shown(kept_sum, kept_count.into())));
        }
        Ok(())
    })?;
    Ok(sums)
}

/// The stored values of a gene-major copy, by the places that they have in X.
fn entries<T: Num>(index: &GeneIndex, part: &Part) -> Result<Entries> {
    let mut entries = Entries::default();
    for gene in 0..u32::try_from(part.n_vars).unwrap_or(u32::MAX) {
        let (cells, values) = index.read::<T>(gene, 0..index.nnz(gene)?)?;
        for (cell, value) in cells.into_iter().zip(values) {
            entries.add(cell.cast_unsigned(), gene, value);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::testing::written;
    use super::*;
    use crate::matrix::testing::{damage, shard};

    /// A path in the store, and what is done to it.
    type Change<'a> = (&'a str, fn(&Path));

    /// The problems of a part after some changes of its files.
    fn broken(name: &str, changes: &[Change<'_>]) -> Vec<Problem> {
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path(), |_| ());
        changes.iter().for_each(|(path, change)| change(&folder.path().join(path)));
        store.verify(store.store().part(name).unwrap()).unwrap()
    }

    #[test]
    fn every_file_that_is_wrong_is_named() {
        assert_eq!(broken("lung", &[]), []);
        let flip: fn(&Path) = |path| damage(&shard(path, 0), |bytes| bytes[9] ^= 1);
        let found = broken(
            "lung",
            &[
                ("parts/lung/uns.json", |path| std::fs::write(path, "[]").unwrap()),
                ("parts/lung/zarr/totals/X/total_counts/c/0", |path| std::fs::remove_file(path).unwrap()),
                ("parts/lung/gene_index/zarr/X/data", flip),
                ("parts/lung/zarr/X/indices", flip),
            ],
        );
        let paths: Vec<&str> = found.iter().map(|(path, _)| &path[..]).collect();
        let expected = [
            "parts/lung/gene_index/zarr/X/data/c/0",
            "parts/lung/uns.json",
            "parts/lung/zarr/X/indices/c/0",
            "parts/lung/zarr/totals/X/total_counts/c/0",
        ];
        assert_eq!(paths, expected);
        assert!(found[1].1.contains("checksum mismatch"), "{}", found[1].1);
        let found = broken("lung", &[("parts/lung/part.json", |path| std::fs::write(path, "{").unwrap())]);
        assert_eq!((found.len(), &found[0].0[..]), (1, "parts/lung/part.json"));
        let paths = broken("heart", &[]).into_iter().map(|(path, _)| path);
        assert_eq!(paths.collect::<Vec<_>>(), ["parts/heart/zarr/layers/narrow", "parts/heart/zarr/obsm/lost"]);
    }

    #[test]
    fn what_contradicts_x_is_named() {
        // Files that are whole, of the right shapes, and of other values.
        for (wrong, path, what) in [
            ("totals", "parts/lung/zarr/totals/X", "row 2 are not those of the matrix; expected sum 9 of 1"),
            ("index", "parts/lung/gene_index", "not the copy of X; expected 3 values"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let store = super::super::testing::contradicting(folder.path(), wrong);
            let found = store.verify(store.store().part("lung").unwrap()).unwrap();
            assert_eq!((found.len(), &found[0].0[..]), (1, path), "{found:?}");
            assert!(found[0].1.contains(what), "{}", found[0].1);
        }
    }
}
