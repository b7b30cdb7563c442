//! Cell keys, `part_number << 32 | row`: which parts some cells are of, and whether the store has them.

use std::sync::Arc;

use super::{CellKeys, OpenStore};
use crate::error::{DaoError, Result};
use crate::store::{Part, RemovedRows};

/// The part number and the row of a cell key.
#[expect(clippy::cast_possible_truncation, reason = "the halves of the key are 32 bits each")]
pub fn split_key(key: u64) -> (u32, u32) {
    ((key >> 32) as u32, key as u32)
}

/// The part number and the row of each key, with what `find` knows of the part. Cells of one part are neighbours in
/// most frames: it is looked for where it changes.
pub fn located<D: Copy>(
    keys: impl Iterator<Item = u64>,
    mut find: impl FnMut(u32) -> D,
) -> impl Iterator<Item = (u32, u32, D)> {
    let mut last: Option<(u32, D)> = None;
    keys.map(move |key| {
        let (number, row) = split_key(key);
        let found = match last {
            Some((same, found)) if same == number => found,
            _ => find(number),
        };
        last = Some((number, found));
        (number, row, found)
    })
}

/// The numbers of the parts that cells are of, ascending; and the positions of keys whose cells the store's version has no
/// more: their rows were removed, or their parts.
///
/// # Errors
/// `Value` for keys that never were cells of the store: how many, and the first. And as [`OpenStore::removed`].
pub fn locate(keys: &CellKeys, open: &OpenStore) -> Result<(Vec<u32>, Vec<usize>)> {
    let parts = open.store().manifest().parts.iter().map(|part| Ok((part, open.removed(part)?)));
    let mut parts: Vec<(&Part, Option<Arc<RemovedRows>>)> = parts.collect::<Result<_>>()?;
    parts.sort_unstable_by_key(|(part, _)| part.number);
    let mut has_cells = vec![false; parts.len()];
    let (mut gone, mut n_unknown, mut first_unknown) = (Vec::new(), 0, None);
    let find = |number| parts.binary_search_by_key(&number, |(part, _)| part.number).ok();
    for (at, (number, row, found)) in located(keys.iter(), find).enumerate() {
        let was_there = match found {
            Some(found) => {
                let (part, removed) = &parts[found];
                let is_row = u64::from(row) < part.n_obs;
                if is_row && removed.as_ref().is_none_or(|removed| !removed.contains(row)) {
                    has_cells[found] = true;
                    continue;
                }
                is_row
            }
            // Numbers are given once: it was one of a part that is gone.
            None => open.store().has_given(number),
        };
        if was_there {
            gone.push(at);
        } else {
            n_unknown += 1;
            first_unknown.get_or_insert((at, number, row, found));
        }
    }
    let Some((at, number, row, found)) = first_unknown else {
        let found = parts.iter().zip(has_cells).filter(|(_, has)| *has);
        return Ok((found.map(|((part, _), _)| part.number).collect(), gone));
    };
    let of = match found.map(|found| parts[found].0) {
        Some(part) => format!("{}, which has {} cells", part.place(), part.n_obs),
        None => format!("part number {number}, which is not there"),
    };
    let total = keys.len();
    Err(DaoError::value(format!(
        "{n_unknown} of {total} keys are no cells of the store; the first, in row {at}, is cell {row} of {of}"
    ))
    .at(format!("store '{}'", open.store().uri()))
    .hint("the frame belongs to another store, or to a newer state of this one; make the keys again with dao.scan"))
}

/// Refuses rows of a part (ascending) that are no cells.
///
/// # Errors
/// `Value` for such rows, and as [`OpenStore::removed`].
pub fn check_rows(open: &OpenStore, part: &Part, rows: impl IntoIterator<Item = u32>) -> Result<()> {
    let removed = open.removed(part)?;
    for row in rows {
        if u64::from(row) >= part.n_obs {
            let what = format!("a cell key names row {row} and the dataset has {} cells", part.n_obs);
            return Err(DaoError::value(what)
                .at(part.place())
                .hint("the frame belongs to another store, or to another state of this one"));
        }
        if removed.as_ref().is_some_and(|removed| removed.contains(row)) {
            let what = format!("a cell key names row {row}, which is no longer in the store");
            return Err(DaoError::value(what)
                .at(part.place())
                .hint("make the keys again with dao.scan, or read an older version, dao.scan(uri, version=…)"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::written;
    use super::*;
    use crate::store::{Part, Removed, checksum};

    #[test]
    fn parts_have_their_cells() {
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path(), |_| ()); // numbers 0 with 3 cells, and 4 with 2
        let of = |keys: &[u64]| locate(&keys.to_vec().into(), &store).unwrap().0;
        assert!(of(&[]).is_empty());
        assert_eq!(of(&[4 << 32, 0, 2, 0, 4 << 32]), [0, 4]);
        assert_eq!(of(&[4 << 32 | 1]), [4]);
        assert_eq!(split_key(2 << 32 | 7), (2, 7));
    }

    #[test]
    fn a_part_is_looked_for_where_it_changes() {
        let mut asked = Vec::new();
        let found: Vec<_> = located([1, 4, 3 << 32, 2].into_iter(), |number| {
            asked.push(number);
            10 * number
        })
        .collect();
        assert_eq!(found, [(0, 1, 0), (0, 4, 0), (3, 0, 30), (0, 2, 0)]);
        assert_eq!(asked, [0, 3, 0]);
    }

    #[test]
    fn keys_of_no_cell_are_counted_and_the_first_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path(), |_| ());
        let says = |keys: &[u64], what: &str| {
            let error = locate(&keys.to_vec().into(), &store).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        };
        says(
            &[0, 3],
            "1 of 2 keys are no cells of the store; the first, in row 1, is cell 3 of dataset 'lung', which has 3 cells",
        );
        says(&[0, 1, 7, 0, 5, 4 << 32 | 2, 9 << 32], "4 of 7 keys");
        for number in [5, u64::from(u32::MAX)] {
            says(&[number << 32], "which is not there");
        }
        // Numbers that were given and are not there are of parts that are gone.
        assert_eq!(locate(&vec![0, 1 << 32, 2 << 32 | 7].into(), &store).unwrap(), (vec![0], vec![1, 2]));
    }

    #[test]
    fn removed_rows_are_no_cells() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = 1_u32.to_le_bytes();
        let store = written(folder.path(), |parts: &mut Vec<Part>| {
            let path = folder.path().join(&parts[0].path);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("removed"), bytes).unwrap();
            let removed = Removed { path: "removed".into(), checksum: checksum(&bytes), n_obs: 1, nnz: None };
            parts[0].removed = Some(removed);
        });
        assert_eq!(locate(&vec![0, 1, 2, 1].into(), &store).unwrap(), (vec![0], vec![1, 3]));
        let part = &store.store().manifest().parts[0];
        assert!(check_rows(&store, part, [0, 2]).is_ok());
        assert!(check_rows(&store, part, [0, 1]).unwrap_err().to_string().contains("no longer in the store"));
        assert!(check_rows(&store, part, [3]).unwrap_err().to_string().contains("names row 3"));
    }
}
