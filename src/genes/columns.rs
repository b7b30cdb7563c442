//! Rows of a part brought to the output's columns: moved, left out, added up.

use crate::error::{DaoError, Result};
use crate::matrix::{EditingSink, RowSink};
use crate::number::{Dtype, Num, cast_vec};

/// The columns of a part that become columns of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    n_columns: usize,
    /// Columns of the part, ascending, each with the output it becomes or is a part of.
    pairs: Vec<(u32, u32)>,
}

impl Mapping {
    /// Of a part of `n_columns` columns, these (ascending), each with its output.
    pub(super) fn of_sorted(n_columns: usize, pairs: Vec<(u32, u32)>) -> Self {
        Self { n_columns, pairs }
    }

    /// Of a part of `n_columns` columns, these, each with its output, which is one of `n_outputs`.
    ///
    /// # Errors
    /// `Value` for columns that do not ascend, that the part does not have, or that become none of the outputs.
    pub fn new(n_columns: usize, n_outputs: usize, pairs: Vec<(u32, u32)>) -> Result<Self> {
        let ascend = pairs.is_sorted_by(|a, b| a.0 < b.0);
        if !ascend || pairs.iter().any(|&(from, to)| from as usize >= n_columns || to as usize >= n_outputs) {
            return Err(DaoError::value(
                "columns of genes do not ascend, or are none of the dataset's or the output's",
            ));
        }
        Ok(Self { n_columns, pairs })
    }

    /// The number of columns of the part.
    #[must_use]
    pub fn n_columns(&self) -> usize {
        self.n_columns
    }

    /// Columns of the part, ascending, each with its output; an output of several is their sum.
    #[must_use]
    pub fn pairs(&self) -> &[(u32, u32)] {
        &self.pairs
    }

    /// The first column of each of `n_outputs` outputs.
    #[must_use]
    pub fn first_columns(&self, n_outputs: usize) -> Vec<Option<u32>> {
        let mut first = vec![None; n_outputs];
        for &(column, output) in self.pairs.iter().rev() {
            first[output as usize] = Some(column);
        }
        first
    }

    /// The output of each of the part's columns, or -1 for none.
    #[must_use]
    pub fn targets(&self) -> Vec<i32> {
        let mut targets = vec![-1; self.n_columns];
        for &(column, output) in &self.pairs {
            targets[column as usize] = i32::try_from(output).unwrap_or(-1); // genes are numbered with 31 bits
        }
        targets
    }

    /// The map by which rows are brought to the output's columns.
    #[must_use]
    pub fn columns(&self) -> Columns {
        let target = self.targets();
        let mut outputs: Vec<u32> = self.pairs.iter().map(|&(_, output)| output).collect();
        let ascending = outputs.is_sorted();
        outputs.sort_unstable();
        let shared: Vec<u32> = outputs.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        let is_shared = |&to: &i32| u32::try_from(to).is_ok_and(|to| shared.binary_search(&to).is_ok());
        Columns {
            wanted: target.iter().map(|&column| column >= 0).collect(),
            ascending,
            shared: if shared.is_empty() { Vec::new() } else { target.iter().map(is_shared).collect() },
            target,
        }
    }

    /// Whether the columns are the outputs already.
    pub(super) fn is_identity(&self, n_outputs: usize) -> bool {
        self.n_columns == n_outputs
            && self.pairs.len() == n_outputs
            && (0..).zip(&self.pairs).all(|(at, &pair)| pair == (at, at))
    }
}

/// The output columns that a part's columns become: see [`Mapping::columns`]. Several columns of one output are its
/// parts, which [`summing`] adds up before rows are moved.
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
    pub fn n_source(&self) -> usize {
        self.target.len()
    }

    /// The ascending positions, in a row of `columns` of the part, of those that have an output column.
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

    /// Adds up, in place, the values of a row that belong to one output; see [`summing`].
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

/// A sink that gives `sink` rows of a matrix, whose stored type is `stored`, in which columns of one output are added up:
/// the first in the row has the sum, the others are column -1, which goes nowhere, with a zero. Normalization comes after
/// it, so that it is of the sum.
pub fn summing<T: Num>(sink: &mut dyn RowSink<T>, map: &Columns, stored: Dtype) -> impl RowSink<T> {
    let mut parts = Vec::new();
    EditingSink {
        sink,
        edit: move |columns: &mut [i32], values: &mut [T]| map.add_up(columns, values, stored, &mut parts),
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

    /// The map to outputs below `n_outputs`, by the output of each column or -1.
    fn columns(target: &[i32], n_outputs: usize) -> Result<Columns> {
        let pairs = (0..).zip(target).filter_map(|(column, &to)| Some((column, u32::try_from(to).ok()?)));
        Mapping::new(target.len(), n_outputs, pairs.collect()).map(|mapping| mapping.columns())
    }

    #[test]
    fn columns_move_and_are_dropped_and_stay_sorted() {
        let (mut row, mut values) = (vec![0, 1, 2], vec![1., 2., 3.]);
        let map = columns(&[2, -1, 0, 1], 3).unwrap();
        assert_eq!(map.apply::<f32>(&mut row, &mut values, &mut Vec::new()), 2);
        assert_eq!((&row[..2], &values[..2]), (&[0, 2][..], &[3., 1.][..]));
    }

    #[test]
    fn bad_column_maps_are_refused() {
        assert!(columns(&[0, 2], 2).is_err());
        assert!(Mapping::new(2, 2, vec![(1, 0), (0, 1)]).is_err());
        assert!(Mapping::new(2, 2, vec![(2, 0)]).is_err());
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
            let map = columns(&target, 6).unwrap();
            let row: Vec<(i32, f32)> =
                (0..).zip(&present).take(target.len()).filter(|(_, v)| **v > 0).map(|(c, v)| (c, f32::from(*v))).collect();
            let mut expected = [0.0_f32; 6];
            for &(column, value) in &row {
                if let Ok(output) = usize::try_from(target[usize::try_from(column).unwrap()]) {
                    expected[output] += value;
                }
            }
            let mut rows = Rows::<f32>::empty();
            summing(&mut rows, &map, Dtype::U8)
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
