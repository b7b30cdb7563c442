//! Which column of a dataset is which of the output.

use crate::error::{DaoError, Result};
use crate::number::Num;

/// Where a dataset's columns go in the output.
#[derive(Debug, Clone)]
pub struct Columns {
    /// For each source column the output column, or -1 for none.
    target: Vec<i32>,
    /// Which source columns go anywhere.
    wanted: Vec<bool>,
    /// Whether ascending source columns give ascending output columns.
    ascending: bool,
}

impl Columns {
    /// From `target`, which has an entry for each source column, below `n_columns`, none twice.
    ///
    /// # Errors
    /// `Value` if it has not.
    pub fn new(target: Vec<i32>, n_columns: usize) -> Result<Self> {
        let mut seen = vec![false; n_columns];
        for &column in target.iter().filter(|&&column| column >= 0) {
            match usize::try_from(column).ok().and_then(|column| seen.get_mut(column)) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(DaoError::value(format!("output column {column} is out of range or given twice"))),
            }
        }
        let kept: Vec<i32> = target.iter().copied().filter(|&column| column >= 0).collect();
        let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
        let wanted = target.iter().map(|&column| column >= 0).collect();
        Ok(Self { target, wanted, ascending })
    }

    /// Which source columns go anywhere.
    #[must_use]
    pub fn wanted(&self) -> &[bool] {
        &self.wanted
    }

    /// Source columns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.target.len()
    }

    /// Whether there are no source columns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.target.is_empty()
    }

    /// The places in a row of those of its `columns` (which the dataset has) that go anywhere, ascending.
    pub fn kept<'a>(&self, columns: &[i32], places: &'a mut Vec<u32>) -> &'a [u32] {
        places.resize(columns.len().max(places.len()), 0);
        let mut kept = 0;
        for (place, &column) in (0..).zip(columns) {
            // Written whether or not it stays: no branch to mispredict.
            places[kept] = place;
            let wanted = usize::try_from(column).ok().and_then(|column| self.wanted.get(column));
            kept += usize::from(wanted.copied().unwrap_or(false));
        }
        &places[..kept]
    }

    /// The output column of one that goes there.
    pub fn target(&self, column: i32) -> i32 {
        usize::try_from(column).ok().and_then(|column| self.target.get(column)).copied().unwrap_or(-1)
    }

    /// Moves a row to the output's columns, in place; how many of its values are left.
    pub fn apply<T: Num>(&self, columns: &mut [i32], values: &mut [T], places: &mut Vec<u32>) -> usize {
        let kept = self.kept(columns, places);
        for (to, &from) in kept.iter().enumerate() {
            // Never before `to`: places ascend.
            let from = from as usize;
            columns[to] = self.target(columns[from]);
            values[to] = values[from];
        }
        if !self.ascending {
            let (columns, values) = (&mut columns[..kept.len()], &mut values[..kept.len()]);
            let mut pairs: Vec<(i32, T)> = columns.iter().copied().zip(values.iter().copied()).collect();
            pairs.sort_unstable_by_key(|&(column, _)| column);
            for (at, (column, value)) in pairs.into_iter().enumerate() {
                columns[at] = column;
                values[at] = value;
            }
        }
        kept.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_move_and_are_dropped_and_stay_sorted() {
        let (mut columns, mut values) = (vec![0, 1, 2], vec![1., 2., 3.]);
        let map = Columns::new(vec![2, -1, 0, 1], 3).unwrap();
        assert_eq!(map.apply::<f32>(&mut columns, &mut values, &mut Vec::new()), 2);
        assert_eq!((&columns[..2], &values[..2]), (&[0, 2][..], &[3., 1.][..]));
    }

    #[test]
    fn bad_column_maps_are_refused() {
        assert!(Columns::new(vec![0, 0], 2).is_err());
        assert!(Columns::new(vec![0, 2], 2).is_err());
    }
}
