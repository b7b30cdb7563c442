//! Cell keys, `part_number << 32 | row`: which parts some cells are of, and whether the store has them.

use crate::error::{DaoError, Result};
use crate::store::Store;

/// The part number and the row of a cell key.
#[expect(clippy::cast_possible_truncation, reason = "the halves of the key are 32 bits each")]
pub fn split_key(key: u64) -> (u32, u32) {
    ((key >> 32) as u32, key as u32)
}

/// The part number and the row of each key, with what `find` knows of the part. Cells of one part are neighbours in
/// most frames: it is looked for where it changes.
pub fn located<D: Copy>(keys: &[u64], mut find: impl FnMut(u32) -> D) -> impl Iterator<Item = (u32, u32, D)> {
    let mut last: Option<(u32, D)> = None;
    keys.iter().map(move |&key| {
        let (number, row) = split_key(key);
        let found = match last {
            Some((same, found)) if same == number => found,
            _ => find(number),
        };
        last = Some((number, found));
        (number, row, found)
    })
}

/// The numbers of the parts that cells are of, ascending.
///
/// # Errors
/// `Value` for keys that are no cells of the store: how many, and the first.
pub fn parts_of(keys: &[u64], store: &Store) -> Result<Vec<u32>> {
    let mut parts: Vec<(u32, u64)> = store.manifest().parts.iter().map(|d| (d.number, d.n_obs)).collect();
    parts.sort_unstable();
    numbers(keys, &parts).map_err(|e| e.at(format!("store '{}'", store.uri())))
}

/// The same for `parts`, as number and cells, by ascending number.
fn numbers(keys: &[u64], parts: &[(u32, u64)]) -> Result<Vec<u32>> {
    let mut has_cells = vec![false; parts.len()];
    let (mut wrong, mut first) = (0_usize, None);
    let find = |number| {
        let at = parts.binary_search_by_key(&number, |&(number, _)| number).ok()?;
        has_cells[at] = true;
        Some(parts[at].1)
    };
    for (at, (number, row, n_obs)) in located(keys, find).enumerate() {
        if n_obs.is_none_or(|n_obs| u64::from(row) >= n_obs) {
            wrong += 1;
            first.get_or_insert((at, number, row, n_obs));
        }
    }
    let Some((at, number, row, n_obs)) = first else {
        let found = parts.iter().zip(has_cells).filter(|(_, has)| *has);
        return Ok(found.map(|(&(number, _), _)| number).collect());
    };
    let has = n_obs.map_or_else(|| "no such part".to_owned(), |n_obs| format!("{n_obs} cells"));
    Err(DaoError::value(format!(
        "{wrong} of {} keys are no cells of the store; the first, in row {at}, is cell {row} of part number {number}, \
         which has {has}",
        keys.len()
    ))
    .hint("the store has changed since the keys were made; make them again with dao.scan"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_their_cells() {
        let of = |keys: &[u64]| numbers(keys, &[(0, 5), (2, 3), (7, 1)]).unwrap();
        assert!(of(&[]).is_empty());
        assert_eq!(of(&[7 << 32, 0, 4, 0, 7 << 32]), [0, 7]);
        assert_eq!(of(&[2 << 32 | 2]), [2]);
        assert_eq!(split_key(2 << 32 | 7), (2, 7));
    }

    #[test]
    fn a_part_is_looked_for_where_it_changes() {
        let mut asked = Vec::new();
        let found: Vec<_> = located(&[1, 4, 3 << 32, 2], |number| {
            asked.push(number);
            10 * number
        })
        .collect();
        assert_eq!(found, [(0, 1, 0), (0, 4, 0), (3, 0, 30), (0, 2, 0)]);
        assert_eq!(asked, [0, 3, 0]);
    }

    #[test]
    fn keys_of_no_cell_are_counted_and_the_first_named() {
        let says = |keys: &[u64], what: &str| {
            let error = numbers(keys, &[(0, 5), (2, 3)]).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        };
        says(&[0, 5], "1 of 2 keys are no cells of the store; the first, in row 1, is cell 5 of part number 0");
        says(&[0, 5], "which has 5 cells");
        says(&[0, 1, 7, 0, 5, 2 << 32 | 3, 4 << 32], "4 of 7 keys");
        says(&[0, 1, 7, 0, 5, 2 << 32 | 3, 4 << 32], "in row 2, is cell 7 of part number 0");
        for number in [1, 3, u64::from(u32::MAX)] {
            says(&[number << 32], "which has no such part");
        }
        assert!(numbers(&[], &[]).unwrap().is_empty() && numbers(&[0], &[]).is_err());
    }
}
