//! Rows of CSR matrices, and of those that contradict themselves.

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::matrix::Rows;
use crate::matrix::testing::{SparseRows, assert_says, storage, write_parts, write_sparse};

const SHAPE: [u64; 2] = [3, 10];

fn open(folder: &tempfile::TempDir, shape: [u64; 2]) -> Result<Csr> {
    Csr::open(&storage(folder.path()), "X", shape)
}

fn parts(indptr: &[u64], indices: &[i32], packed: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let data = vec![1_u16; indices.len()];
    write_parts(&folder.path().join("X"), "csr_matrix", SHAPE, indptr, indices, &data, packed);
    folder
}

fn read(csr: &Csr, rows: &[u32]) -> Result<SparseRows> {
    let mut all = Rows::<u16>::empty();
    csr.read(rows, None, &mut all)?;
    let row = |ends: &[usize]| {
        let range = ends[0]..ends[1];
        all.indices[range.clone()].iter().copied().zip(all.data[range].iter().copied()).collect()
    };
    Ok(all.indptr.windows(2).map(row).collect())
}

/// Rows of up to 40 columns.
pub fn rows() -> impl Strategy<Value = SparseRows> {
    let row = prop::collection::btree_map(0..40, 1_u16.., 0..30);
    prop::collection::vec(row.prop_map(|row| row.into_iter().collect()), 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn rows_come_back(
        rows in rows(), wanted in prop::collection::btree_set(0_u32..30, 0..30), packed: bool, held: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let shape = [rows.len() as u64, 40];
        write_sparse(&folder.path().join("X"), "csr_matrix", shape, &rows, packed);
        let csr = open(&folder, shape).unwrap();
        prop_assert_eq!(csr.is_packed(), packed);
        if held {
            csr.hold_rows().unwrap();
        }
        let wanted: Vec<u32> = wanted.into_iter().filter(|&row| (row as usize) < rows.len()).collect();
        let expected: SparseRows = wanted.iter().map(|&row| rows[row as usize].clone()).collect();
        prop_assert_eq!(read(&csr, &wanted).unwrap(), expected);
        for (i, row) in (0..).zip(&rows) {
            prop_assert_eq!(csr.row_nnz(i).unwrap(), row.len() as u64);
            let before: usize = rows[..i as usize].iter().map(Vec::len).sum();
            prop_assert_eq!(csr.row_place(i).unwrap(), before as u64..(before + row.len()) as u64);
            let from = row.len() as u64 / 3;
            let (columns, values) = csr.part::<u16>(i, from..row.len() as u64).unwrap();
            let part: Vec<(i32, u16)> = columns.into_iter().zip(values).collect();
            prop_assert_eq!(&part[..], &row[row.len() / 3..]);
            prop_assert!(csr.columns(i, 0..row.len() as u64 + 1).is_err());
        }
        prop_assert_eq!(csr.row_nnz(u32::MAX).unwrap(), 0);
    }
}

#[test]
fn rows_past_the_end_are_an_error() {
    for packed in [true, false] {
        let folder = parts(&[0, 1, 2, 3], &[1, 2, 3], packed);
        let error = read(&open(&folder, SHAPE).unwrap(), &[0, 3]).unwrap_err();
        assert_says(&error, ErrorKind::Value, folder.path(), "row 3 was asked for and the matrix has 3");
    }
}

#[test]
fn columns_out_of_order_or_range_are_an_error() {
    for packed in [true, false] {
        for (indices, row) in [([1, 3, 2], 1), ([1, 2, 2], 1), ([1, 2, 10], 1), ([-1, 2, 3], 0)] {
            let folder = parts(&[0, 1, 3, 3], &indices, packed);
            let error = read(&open(&folder, SHAPE).unwrap(), &[0, 1, 2]).unwrap_err();
            assert_says(&error, ErrorKind::Corrupt, folder.path(), &format!("row {row}"));
            assert!(error.to_string().contains("Restore the dataset"), "{error}");
        }
    }
}

#[test]
fn arrays_that_contradict_each_other_are_an_error() {
    let cases: [(&[u64], &[i32], &str); 5] = [
        (&[0, 11, 11, 11], &[0; 11], "a row has more values than columns"),
        (&[0, 1, 2], &[1, 2], "indptr has the wrong length"),
        (&[0, 2, 1, 2], &[1, 2], "indptr does not ascend from 0"),
        (&[1, 1, 2, 2], &[1, 2], "indptr does not ascend from 0"),
        (&[0, 1, 2, 4], &[1, 2, 3], "contradicts indptr"),
    ];
    for (indptr, indices, what) in cases {
        for packed in [true, false] {
            let folder = parts(indptr, indices, packed);
            // What is looked up is found to be wrong where it is.
            let read = open(&folder, SHAPE).and_then(|csr| read(&csr, &[0, 1, 2]));
            assert_says(&read.err().unwrap(), ErrorKind::Corrupt, folder.path(), what);
            let held = open(&folder, SHAPE).and_then(|csr| csr.hold_rows());
            assert_says(&held.err().unwrap(), ErrorKind::Corrupt, folder.path(), what);
        }
    }
    // Rows that are read alone, and each is as it may be.
    let folder = parts(&[0, 3, 1, 4], &[1, 2, 3, 4], true);
    let error = read(&open(&folder, SHAPE).unwrap(), &[0, 2]).unwrap_err();
    assert_says(&error, ErrorKind::Corrupt, folder.path(), "indptr does not ascend from 0");
    // As many cells as can be counted, and one more offset.
    let folder = parts(&[0, 1, 2, 3], &[1, 2, 3], true);
    let error = Csr::open(&storage(folder.path()), "X", [u64::MAX, 10]).err().unwrap();
    assert_says(&error, ErrorKind::Corrupt, folder.path(), "indptr has the wrong length");
    let folder = parts(&[0, 1, 2, 3], &[1, 2, 3], false);
    std::fs::remove_dir_all(folder.path().join("X/data")).unwrap();
    assert_says(&open(&folder, SHAPE).err().unwrap(), ErrorKind::NotFound, folder.path(), "X/data");
}
