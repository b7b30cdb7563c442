//! Count, sum and squared deviations of the values that are not zero.
//!
//! Within a unit deviations are from the first value met, so that nothing large is subtracted from
//! something as large; units are merged by the formula of Chan, Golub and LeVeque, "Updating formulae and a
//! pairwise algorithm for computing sample variances" (1979). Of integers, whose sums and squares are exact below 2^53,
//! squared deviations are those of the exact sums: however cells are cut into units or passes, they are the same.

use std::sync::{Mutex, PoisonError};

use super::units::Unit;
use crate::error::{DaoError, Result};
use crate::genes::Columns;
use crate::matrix::{FillRow, RowBuffer, RowSink};
use crate::number::{Num, zeros};
use crate::read::{MatrixRequest, ReadRequest};

/// The statistics of all groups and columns, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSums {
    n_columns: usize,
    /// The number of values that are not zero.
    pub count: Vec<u32>,
    /// The sum of these values.
    pub sum: Vec<f64>,
    /// The sum of their squared deviations from their mean.
    pub m2: Vec<f64>,
    /// The sum of their squares, where that is exact, as that of integers is; else NaN.
    pub squares: Vec<f64>,
    /// The number of values above their limit, which are in no sum; none where there are no limits.
    pub above: Vec<u32>,
}

/// The integers up to this are exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The squared deviations of `count` integers from their mean, by their exact sum and the exact sum of their squares.
#[expect(clippy::cast_possible_truncation, reason = "integers below 2^53")]
#[expect(clippy::cast_precision_loss, reason = "the one rounding")]
pub fn squared_deviations(count: u64, sum: f64, squares: f64) -> f64 {
    let (n, sum, squares) = (i128::from(count), sum as i128, squares as i128);
    if n == 0 { 0.0 } else { (n * squares - sum * sum) as f64 / n as f64 }
}

/// The sums of one group within one unit, for the columns that have values.
pub struct UnitSums {
    group: u32,
    columns: Vec<(u32, Sums)>,
}

/// The sums of one group and column.
#[derive(Clone, Copy, Default)]
struct Sums {
    count: u32,
    /// The number of values above the limit.
    above: u32,
    /// The first value; what is summed are differences from it.
    first: f64,
    sum: f64,
    squares: f64,
}

/// The sums of one group while a unit is read: those of all columns, and which columns have values.
pub struct GroupScratch {
    sums: Vec<Sums>,
    touched: Vec<u32>,
}

impl GroupScratch {
    /// The bytes of each column.
    pub const BYTES: usize = size_of::<Sums>() + size_of::<u32>();

    /// Adds a value up.
    #[inline(always)]
    fn add(&mut self, column: u32, value: f64) {
        let at = &mut self.sums[column as usize];
        if at.count == 0 {
            // Infinity minus infinity would be NaN.
            at.first = if value.is_finite() { value } else { 0.0 };
            if at.above == 0 {
                self.touched.push(column);
            }
        }
        let apart = value - at.first;
        at.count += 1;
        at.sum += apart;
        at.squares += apart * apart;
    }

    /// Counts a value above its limit.
    #[inline(always)]
    fn above(&mut self, column: u32) {
        let at = &mut self.sums[column as usize];
        if at.count + at.above == 0 {
            self.touched.push(column);
        }
        at.above += 1;
    }
}

impl Sums {
    /// The sum of the squares of the values themselves, if it is exact; else NaN.
    fn exact_squares(&self) -> f64 {
        let Self { count, first, sum, squares, .. } = *self;
        let terms = [squares, 2.0 * first * sum, first * first * f64::from(count)];
        let exact = |value: f64| value.fract() == 0.0 && value.abs() < EXACT;
        if [first, sum].into_iter().chain(terms).all(exact) { terms.iter().sum() } else { f64::NAN }
    }
}

/// Scratch that no unit uses any longer, for the next one.
pub type SpareScratch = Mutex<Vec<GroupScratch>>;

impl GroupSums {
    /// The statistics of no cells.
    ///
    /// # Errors
    /// `Value` for more groups × columns than memory holds.
    pub fn new(n_groups: usize, n_columns: usize, limited: bool) -> Result<Self> {
        let made = n_groups.checked_mul(n_columns).and_then(|n| {
            let (count, sum, m2, squares) = (zeros(n).ok()?, zeros(n).ok()?, zeros(n).ok()?, zeros(n).ok()?);
            let above = zeros(if limited { n } else { 0 }).ok()?;
            Some(Self { n_columns, count, sum, m2, squares, above })
        });
        made.ok_or_else(|| {
            DaoError::value(format!("{n_groups} groups × {n_columns} genes do not fit into memory")).hint(format!(
                "take fewer genes or coarser groups; it takes {} bytes for each",
                if limited { 32 } else { 28 }
            ))
        })
    }

    /// Merges the sums of a unit into these.
    pub fn merge(&mut self, partial: &UnitSums) {
        let start = partial.group as usize * self.n_columns;
        for &(column, sums) in &partial.columns {
            let at = start + column as usize;
            let Sums { count, above, first, sum, squares } = sums;
            if let Some(all) = self.above.get_mut(at) {
                *all += above;
            }
            if count == 0 {
                continue;
            }
            let (here, there) = (f64::from(self.count[at]), f64::from(count));
            let total = first * there + sum;
            // Only rounding makes it negative, so it becomes 0; `max` would turn a NaN into 0 as well.
            let m2 = squares - sum * sum / there;
            let m2 = if m2 < 0.0 { 0.0 } else { m2 };
            let apart = if here > 0.0 { total / there - self.sum[at] / here } else { 0.0 };
            self.m2[at] += m2 + apart * apart * here * there / (here + there);
            self.sum[at] += total;
            self.count[at] += count;
            self.squares[at] += sums.exact_squares();
        }
    }

    /// Makes of exact sums exact deviations, once all units are merged.
    pub fn finish(&mut self) {
        for (((m2, squares), sum), count) in self.m2.iter_mut().zip(&mut self.squares).zip(&self.sum).zip(&self.count) {
            if *squares < EXACT {
                *m2 = squared_deviations(u64::from(*count), *sum, *squares);
            } else {
                *squares = f64::NAN;
            }
        }
    }
}

/// The sums of a unit's values, for each of its groups.
pub fn add_up<T: Num>(
    request: &ReadRequest,
    matrix: &MatrixRequest,
    unit: &Unit,
    clip: Option<&[f64]>,
    spare: &SpareScratch,
) -> Result<Vec<UnitSums>> {
    let spare = || spare.lock().unwrap_or_else(PoisonError::into_inner);
    let n_columns = matrix.form.n_columns;
    let new = || GroupScratch { sums: vec![Sums::default(); n_columns], touched: Vec::new() };
    let mut sink = GroupSumSink::<T> {
        unit,
        columns: matrix.part(unit.number)?.columns.as_deref(),
        clip,
        scratch: unit.groups.iter().map(|_| spare().pop().unwrap_or_else(new)).collect(),
        next: 0,
        row: RowBuffer::default(),
        positions: Vec::new(),
    };
    request.read(matrix, unit.number, &unit.rows, &mut sink)?;
    let mut all = Vec::with_capacity(unit.groups.len());
    for (scratch, &group) in sink.scratch.iter_mut().zip(&unit.groups) {
        let taken = |column: u32| (column, std::mem::take(&mut scratch.sums[column as usize]));
        all.push(UnitSums { group, columns: scratch.touched.drain(..).map(taken).collect() });
    }
    spare().extend(sink.scratch);
    Ok(all)
}

/// A sink that adds rows up by group.
struct GroupSumSink<'a, T> {
    unit: &'a Unit,
    columns: Option<&'a Columns>,
    clip: Option<&'a [f64]>,
    /// The sums of each of the unit's groups.
    scratch: Vec<GroupScratch>,
    /// The first of the unit's cells in the rows to come.
    next: usize,
    row: RowBuffer<T>,
    positions: Vec<u32>,
}

impl<T: Num> RowSink<T> for GroupSumSink<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        let (columns, values) = self.row.fill(nnz, fill)?;
        let mut n = nnz;
        if let Some(map) = self.columns {
            n = map.apply(columns, values, &mut self.positions);
        }
        let (columns, values) = (&columns[..n], &values[..n]);
        let cells = self.unit.cells[self.next..].iter().take_while(|&&(row, _)| row == self.unit.rows[i]);
        for &(_, group) in cells {
            self.next += 1;
            let scratch = &mut self.scratch[group as usize];
            // In range: columns were checked against the matrix, and mapped ones are columns of the output.
            let values = columns.iter().zip(values).map(|(&column, &value)| (column.cast_unsigned(), value.as_()));
            let values = values.filter(|&(_, value): &(u32, f64)| value != 0.0);
            match self.clip {
                None => values.for_each(|(column, value)| scratch.add(column, value)),
                Some(clip) => {
                    let start = self.unit.groups[group as usize] as usize * scratch.sums.len();
                    let clip = &clip[start..start + scratch.sums.len()];
                    values.for_each(|(column, value)| {
                        let limit = clip[column as usize];
                        // A NaN is not above it.
                        if value > limit { scratch.above(column) } else { scratch.add(column, value) }
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partial(values: &[f64]) -> UnitSums {
        let mut sums = Sums { count: 0, first: values[0], ..Sums::default() };
        for value in values {
            sums.count += 1;
            sums.sum += value - sums.first;
            sums.squares += (value - sums.first) * (value - sums.first);
        }
        UnitSums { group: 0, columns: vec![(0, sums)] }
    }

    proptest! {
        #[test]
        fn merged_units_are_as_all_values_at_once(units in prop::collection::vec(prop::collection::vec(1.0_f64..9.0, 1..20), 1..9), far: bool) {
            let shift = if far { 1e9 } else { 0.0 };
            let units: Vec<Vec<f64>> = units.into_iter().map(|unit| unit.into_iter().map(|v| v + shift).collect()).collect();
            let mut all = GroupSums::new(1, 1, false).unwrap();
            units.iter().for_each(|unit| all.merge(&partial(unit)));
            let values: Vec<f64> = units.concat();
            let n = f64::from(u32::try_from(values.len()).unwrap());
            let mean = values.iter().map(|v| v - shift).sum::<f64>() / n;
            let m2: f64 = values.iter().map(|v| (v - shift - mean) * (v - shift - mean)).sum();
            prop_assert_eq!(all.count[0] as usize, values.len());
            prop_assert!((all.sum[0] / n - shift - mean).abs() < 1e-6);
            prop_assert!((all.m2[0] - m2).abs() <= 1e-5 * m2.max(1e-3), "{} {}", all.m2[0], m2);
        }

        #[test]
        fn integers_have_the_same_deviations_however_they_are_cut(
            values in prop::collection::vec(1_u32..90_000, 1..60), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(values.len())).chain([0, values.len()]).collect();
            cuts.sort_unstable();
            cuts.dedup();
            let floats: Vec<f64> = values.iter().map(|&value| value.into()).collect();
            let mut all = GroupSums::new(1, 1, false).unwrap();
            cuts.windows(2).for_each(|cut| all.merge(&partial(&floats[cut[0]..cut[1]])));
            all.finish();
            let [n, sum, squares] = [0, 1, 2].map(|power| values.iter().map(|&v| i128::from(v).pow(power)).sum::<i128>());
            prop_assert_eq!(all.sum[0], sum as f64);
            prop_assert_eq!(all.squares[0], squares as f64);
            prop_assert_eq!(all.m2[0], (n * squares - sum * sum) as f64 / n as f64);
        }
    }
}
