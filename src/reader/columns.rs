//! Which column of a dataset is which of the output.

use crate::error::{DaoError, Result};
use crate::matrix::Num;

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

    /// Moves a row to the output's columns, in place; how many of its values are left.
    pub fn apply<T: Num>(&self, columns: &mut [i32], values: &mut [T]) -> usize {
        let mut kept = 0;
        for at in 0..columns.len() {
            let target = usize::try_from(columns[at]).ok().and_then(|column| self.target.get(column));
            let target = target.copied().unwrap_or(-1);
            // Written whether or not it stays: no branch to mispredict.
            columns[kept] = target;
            values[kept] = values[at];
            kept += usize::from(target >= 0);
        }
        if !self.ascending {
            let mut pairs: Vec<(i32, T)> =
                columns[..kept].iter().copied().zip(values[..kept].iter().copied()).collect();
            pairs.sort_unstable_by_key(|&(column, _)| column);
            for (at, (column, value)) in pairs.into_iter().enumerate() {
                columns[at] = column;
                values[at] = value;
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_move_and_are_dropped_and_stay_sorted() {
        let (mut columns, mut values) = (vec![0, 1, 2], vec![1., 2., 3.]);
        let map = Columns::new(vec![2, -1, 0, 1], 3).unwrap();
        assert_eq!(map.apply::<f32>(&mut columns, &mut values), 2);
        assert_eq!((&columns[..2], &values[..2]), (&[0, 2][..], &[3., 1.][..]));
    }

    #[test]
    fn bad_column_maps_are_refused() {
        assert!(Columns::new(vec![0, 0], 2).is_err());
        assert!(Columns::new(vec![0, 2], 2).is_err());
    }
}
