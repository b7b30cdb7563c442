//! Rows of a dataset brought to the output's columns: moved, left out, added up.

use crate::error::{DaoError, Result};
use crate::matrix::{FillRow, RowSink};
use crate::number::{Dtype, Num, cast_vec};

/// The output columns that a dataset's columns become.
#[derive(Debug, Clone)]
pub struct Columns {
    /// The output column of each source column, or -1 for none.
    target: Vec<i32>,
    /// Whether each source column has an output column.
    wanted: Vec<bool>,
    /// Whether ascending source columns give ascending output columns.
    ascending: bool,
    /// Whether each source column shares its output column with others; empty where none does.
    shared: Vec<bool>,
}

impl Columns {
    /// The columns that `target` describes, with an entry below `n_columns` for each source column. Several columns of
    /// one output are its parts, which [`SummingSink`] adds up before rows are moved.
    ///
    /// # Errors
    /// `Value` if an entry is not below `n_columns`.
    pub fn new(target: Vec<i32>, n_columns: usize) -> Result<Self> {
        let mut parts = vec![0_u32; n_columns];
        for &column in target.iter().filter(|&&column| column >= 0) {
            match usize::try_from(column).ok().and_then(|column| parts.get_mut(column)) {
                Some(parts) => *parts += 1,
                None => return Err(DaoError::value(format!("output column {column} is out of range"))),
            }
        }
        let is_shared = |&column: &i32| usize::try_from(column).is_ok_and(|column| parts[column] > 1);
        let shared =
            if parts.iter().any(|&parts| parts > 1) { target.iter().map(is_shared).collect() } else { Vec::new() };
        let kept: Vec<i32> = target.iter().copied().filter(|&column| column >= 0).collect();
        let ascending = kept.is_sorted();
        let wanted = target.iter().map(|&column| column >= 0).collect();
        Ok(Self { target, wanted, ascending, shared })
    }

    /// Whether some output is the sum of several columns.
    #[must_use]
    pub fn sums(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Whether each source column has an output column.
    #[must_use]
    pub fn wanted(&self) -> &[bool] {
        &self.wanted
    }

    /// The number of source columns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.target.len()
    }

    /// Whether there are no source columns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.target.is_empty()
    }

    /// The ascending positions, in a row of `columns` of the dataset, of those that have an output column.
    pub fn kept<'a>(&self, columns: &[i32], places: &'a mut Vec<u32>) -> &'a [u32] {
        places.resize(columns.len().max(places.len()), 0);
        let mut kept = 0;
        for (place, &column) in (0..).zip(columns) {
            // Written whether or not it is kept: without a branch the processor cannot mispredict it.
            places[kept] = place;
            let wanted = usize::try_from(column).ok().and_then(|column| self.wanted.get(column));
            kept += usize::from(wanted.copied().unwrap_or(false));
        }
        &places[..kept]
    }

    /// The output column of a source column; -1 for none.
    pub fn target(&self, column: i32) -> i32 {
        usize::try_from(column).ok().and_then(|column| self.target.get(column)).copied().unwrap_or(-1)
    }

    /// Adds up, in place, the values of a row that belong to one output; see [`SummingSink`].
    fn add_up<T: Num>(
        &self,
        columns: &mut [i32],
        values: &mut [T],
        stored: Dtype,
        parts: &mut Vec<(i32, usize)>,
    ) -> Result<()> {
        parts.clear();
        for (place, &column) in columns.iter().enumerate() {
            if usize::try_from(column).ok().and_then(|column| self.shared.get(column)).copied().unwrap_or(false) {
                parts.push((self.target(column), place));
            }
        }
        parts.sort_unstable();
        for parts in parts.chunk_by(|a, b| a.0 == b.0).filter(|parts| parts.len() > 1) {
            let sum = sum_exactly(parts.iter().map(|&(_, place)| values[place]), stored)?;
            values[parts[0].1] = sum;
            for &(_, place) in &parts[1..] {
                (columns[place], values[place]) = (-1, T::zero());
            }
        }
        Ok(())
    }

    /// Moves a row to the output's columns, in place; returns the number of values that are left.
    pub fn apply<T: Num>(&self, columns: &mut [i32], values: &mut [T], places: &mut Vec<u32>) -> usize {
        let kept = self.kept(columns, places);
        for (to, &from) in kept.iter().enumerate() {
            // `from` is never before `to`, since the positions ascend, so no value is overwritten before it is moved.
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

/// A sink that gets rows in which columns of one output are added up: the first in the row has the sum, the others
/// are column -1, which goes nowhere, with a zero. Normalization comes after it, so that it is of the sum.
pub struct SummingSink<'a, T> {
    sink: &'a mut dyn RowSink<T>,
    columns: &'a Columns,
    stored: Dtype,
    /// The output and the position of each shared column in the current row.
    parts: Vec<(i32, usize)>,
}

impl<'a, T> SummingSink<'a, T> {
    /// A summing sink in front of `sink`, for rows of a matrix whose stored type is `stored`.
    pub fn new(sink: &'a mut dyn RowSink<T>, columns: &'a Columns, stored: Dtype) -> Self {
        Self { sink, columns, stored, parts: Vec::new() }
    }
}

impl<T: Num> RowSink<T> for SummingSink<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        let Self { sink, columns: map, stored, parts } = self;
        sink.row(i, nnz, &mut |columns, values| {
            fill(columns, values)?;
            map.add_up(columns, values, *stored, parts)
        })
    }
}

/// The sum of some values, in their order, of a matrix whose stored type is `stored`; exact for integers.
///
/// # Errors
/// `Value` for a sum that `T` cannot hold.
pub fn sum_exactly<T: Num>(values: impl Iterator<Item = T>, stored: Dtype) -> Result<T> {
    if stored.is_float() && T::DTYPE.is_float() {
        let sum: f64 = values.map(|value| -> f64 { value.as_() }).sum();
        return Ok(cast_vec::<f64, T>(&[sum])?[0]);
    }
    // All are integers, as stored or as cast to; fewer than 2^31 of them, of 64 bits, fit into 128.
    let exact: i128 = values.map(|value| -> i128 { value.as_() }).sum();
    let sum = T::of_i128(exact);
    let back: i128 = sum.as_();
    if back == exact {
        return Ok(sum);
    }
    Err(DaoError::value(format!("a sum of genes of one name, {exact}, does not fit into {}", T::DTYPE.name()))
        .hint("ask for a wider dtype=, or for duplicates=\"first\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::matrix::Rows;

    #[test]
    fn columns_move_and_are_dropped_and_stay_sorted() {
        let (mut columns, mut values) = (vec![0, 1, 2], vec![1., 2., 3.]);
        let map = Columns::new(vec![2, -1, 0, 1], 3).unwrap();
        assert_eq!(map.apply::<f32>(&mut columns, &mut values, &mut Vec::new()), 2);
        assert_eq!((&columns[..2], &values[..2]), (&[0, 2][..], &[3., 1.][..]));
    }

    #[test]
    fn bad_column_maps_are_refused() {
        assert!(Columns::new(vec![0, 2], 2).is_err());
    }

    #[test]
    fn sums_are_exact_or_refused() {
        let sum = |values: &[u8]| sum_exactly::<u8>(values.iter().copied(), Dtype::U8);
        assert_eq!(sum(&[200, 55]).unwrap(), 255);
        let error = sum(&[200, 56]).unwrap_err().to_string();
        assert!(error.contains("256, does not fit into uint8"), "{error}");
        let wide = [16_777_216.0_f32, 1.0, 1.0];
        assert_eq!(sum_exactly::<f32>(wide.iter().copied(), Dtype::U32).unwrap(), 16_777_218.0);
        assert!(sum_exactly::<f32>(wide[..2].iter().copied(), Dtype::U32).is_err());
        assert_eq!(sum_exactly::<f32>([0.5, 0.25].into_iter(), Dtype::F32).unwrap(), 0.75);
        assert!(sum_exactly::<f32>([3e38, 3e38].into_iter(), Dtype::F64).is_err());
        assert!(sum_exactly::<i64>([i64::MAX, i64::MAX, -i64::MAX].into_iter(), Dtype::I64).is_ok());
    }

    proptest! {
        #[test]
        fn rows_are_moved_and_added_up(
            target in prop::collection::vec(-1_i32..6, 1..20), present in prop::collection::vec(0_u8..9, 20), none: bool,
        ) {
            let target: Vec<i32> = if none { target.iter().map(|_| -1).collect() } else { target };
            let map = Columns::new(target.clone(), 6).unwrap();
            let row: Vec<(i32, f32)> =
                (0..).zip(&present).take(target.len()).filter(|(_, v)| **v > 0).map(|(c, v)| (c, f32::from(*v))).collect();
            let mut expected = [0.0_f32; 6];
            for &(column, value) in &row {
                if let Ok(output) = usize::try_from(target[usize::try_from(column).unwrap()]) {
                    expected[output] += value;
                }
            }
            let mut rows = Rows::<f32>::empty();
            SummingSink::new(&mut rows, &map, Dtype::U8)
                .row(0, row.len(), &mut |columns, values| {
                    for (at, &(column, value)) in row.iter().enumerate() {
                        (columns[at], values[at]) = (column, value);
                    }
                    Ok(())
                })
                .unwrap();
            prop_assert_eq!(rows.data.iter().sum::<f32>(), row.iter().map(|(_, v)| v).sum::<f32>());
            let n = map.apply(&mut rows.indices, &mut rows.data, &mut Vec::new());
            prop_assert!(rows.indices[..n].windows(2).all(|pair| pair[0] < pair[1]));
            let mut found = [0.0_f32; 6];
            rows.indices[..n].iter().zip(&rows.data).for_each(|(&c, &v)| found[usize::try_from(c).unwrap()] = v);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(map.sums(), (0..6).any(|output| target.iter().filter(|&&to| to == output).count() > 1));
        }
    }
}
