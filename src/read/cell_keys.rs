//! Cell keys, `dataset_number << 32 | row`: which datasets some cells are of, and whether the store has them.

use crate::error::{DaoError, Result};
use crate::store::Store;

/// The dataset number and the row of a cell key.
#[expect(clippy::cast_possible_truncation, reason = "the halves of the key are 32 bits each")]
pub fn split_key(key: u64) -> (u32, u32) {
    ((key >> 32) as u32, key as u32)
}

/// The numbers of the datasets that cells are of, ascending.
///
/// # Errors
/// `Value` for keys that are no cells of the store: how many, and the first.
pub fn datasets_of(keys: &[u64], store: &Store) -> Result<Vec<u32>> {
    let mut datasets: Vec<(u32, u64)> = store.manifest().datasets.iter().map(|d| (d.number, d.n_obs)).collect();
    datasets.sort_unstable();
    numbers(keys, &datasets).map_err(|e| e.at(format!("store '{}'", store.uri())))
}

/// The same for `datasets`, as number and cells, by ascending number.
fn numbers(keys: &[u64], datasets: &[(u32, u64)]) -> Result<Vec<u32>> {
    let mut has_cells = vec![false; datasets.len()];
    let (mut wrong, mut first) = (0_usize, None);
    // Cells of one dataset are neighbours in most frames: it is looked for where it changes.
    let mut last = None;
    for (at, &key) in keys.iter().enumerate() {
        let (number, row) = split_key(key);
        let known = last.filter(|&(last, _)| last == number);
        let found = known.or_else(|| {
            let at = datasets.binary_search_by_key(&number, |&(number, _)| number).ok()?;
            has_cells[at] = true;
            Some(datasets[at])
        });
        last = found;
        if found.is_none_or(|(_, n_obs)| u64::from(row) >= n_obs) {
            wrong += 1;
            first.get_or_insert((at, number, row, found));
        }
    }
    let Some((at, number, row, dataset)) = first else {
        let found = datasets.iter().zip(has_cells).filter(|(_, has)| *has);
        return Ok(found.map(|(&(number, _), _)| number).collect());
    };
    let has = dataset.map_or_else(|| "no such dataset".to_owned(), |(_, n_obs)| format!("{n_obs} cells"));
    Err(DaoError::value(format!(
        "{wrong} of {} keys are no cells of the store; the first, in row {at}, is cell {row} of dataset number {number}, \
         which has {has}",
        keys.len()
    ))
    .hint("the store has changed since the keys were made; make them again with dao.scan"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasets_have_their_cells() {
        let of = |keys: &[u64]| numbers(keys, &[(0, 5), (2, 3), (7, 1)]).unwrap();
        assert!(of(&[]).is_empty());
        assert_eq!(of(&[7 << 32, 0, 4, 0, 7 << 32]), [0, 7]);
        assert_eq!(of(&[2 << 32 | 2]), [2]);
        assert_eq!(split_key(2 << 32 | 7), (2, 7));
    }

    #[test]
    fn keys_of_no_cell_are_counted_and_the_first_named() {
        let says = |keys: &[u64], what: &str| {
            let error = numbers(keys, &[(0, 5), (2, 3)]).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        };
        says(&[0, 5], "1 of 2 keys are no cells of the store; the first, in row 1, is cell 5 of dataset number 0");
        says(&[0, 5], "which has 5 cells");
        says(&[0, 1, 7, 0, 5, 2 << 32 | 3, 4 << 32], "4 of 7 keys");
        for number in [1, 3, u64::from(u32::MAX)] {
            says(&[number << 32], "which has no such dataset");
        }
    }
}
