//! Numbers from the rows of cells.

use std::ops::Range;

use super::{Asked, Hit, Lookup, Target};
use crate::error::Result;
use crate::matrix::{FillRow, Matrix, RowSink, Totals};
use crate::number::Num;
use crate::read::Normalize;

/// Up to so many columns are searched for in a row; more are looked up in a table of all columns.
const SEARCHED: usize = 24;
const NONE: u32 = u32::MAX;

/// Goes through some of the rows wanted.
pub fn look_up<T: Num>(
    lookup: &Lookup,
    target: &Target<'_>,
    matrix: &Matrix,
    rows: Range<usize>,
) -> Result<Vec<Hit<T>>> {
    let mut hits = Vec::new();
    let first = u32::try_from(rows.start).unwrap_or(u32::MAX); // rows are numbered with 32 bits
    let n_columns = usize::try_from(matrix.shape()[1]).unwrap_or(0);
    match &*target.asked {
        Asked::Columns(columns) => {
            let wanted = Wanted::new(columns, n_columns);
            let mask = wanted.mask(n_columns);
            let mask = if lookup.normalize.is_some() { None } else { Some(&mask[..]) };
            let mut sink =
                Pick { first, wanted, normalize: lookup.normalize, room: (Vec::new(), Vec::new()), hits: &mut hits };
            matrix.read(&target.rows[rows], mask, &mut sink)?;
        }
        Asked::Sums(sets) => {
            let rows = &target.rows[rows];
            let sums = vec![0.0; lookup.width()];
            // What is a float32 is read faster as one.
            if matrix.dtype().is_narrow() {
                let room = (Vec::new(), Vec::<f32>::new());
                matrix.read(rows, None, &mut Add { first, sets, sums, room, hits: &mut hits })?;
            } else {
                let room = (Vec::new(), Vec::<f64>::new());
                matrix.read(rows, None, &mut Add { first, sets, sums, room, hits: &mut hits })?;
            }
        }
        Asked::Refused(_) => {}
    }
    Ok(hits)
}

/// Sums and counts as they were kept.
pub fn totals<T: Num>(target: &Target<'_>, totals: &Totals, rows: Range<usize>) -> Vec<Hit<T>> {
    let first = u32::try_from(rows.start).unwrap_or(u32::MAX);
    let of = |(i, &row): (u32, &u32)| {
        let (sum, count) = totals.cell(row);
        [Hit { row: i, output: 0, value: T::cast(sum) }, Hit { row: i, output: 1, value: T::cast(count) }]
    };
    (first..).zip(&target.rows[rows]).flat_map(of).collect()
}

/// Columns that are wanted, and which output each is.
enum Wanted {
    /// By column, ascending.
    Few(Vec<(i32, u32)>),
    /// For each column.
    Many(Vec<u32>),
}

impl Wanted {
    fn new(columns: &[Option<u32>], n_columns: usize) -> Self {
        let present = (0..).zip(columns).filter_map(|(output, column)| Some(((*column)?, output)));
        if columns.len() > SEARCHED {
            let mut outputs = vec![NONE; n_columns];
            for (column, output) in present {
                if let Some(to) = outputs.get_mut(column as usize) {
                    *to = output;
                }
            }
            return Self::Many(outputs);
        }
        // Columns are numbered with 31 bits.
        let mut few: Vec<(i32, u32)> =
            present.map(|(column, output)| (i32::try_from(column).unwrap_or(i32::MAX), output)).collect();
        few.sort_unstable();
        Self::Few(few)
    }

    fn mask(&self, n_columns: usize) -> Vec<bool> {
        match self {
            Self::Many(outputs) => outputs.iter().map(|&output| output != NONE).collect(),
            Self::Few(few) => {
                let mut mask = vec![false; n_columns];
                for &(column, _) in few {
                    if let Some(wanted) = usize::try_from(column).ok().and_then(|column| mask.get_mut(column)) {
                        *wanted = true;
                    }
                }
                mask
            }
        }
    }

    /// The outputs in a row of `columns`, ascending, and their places in it.
    fn each(&self, columns: &[i32], mut found: impl FnMut(u32, usize)) {
        match self {
            Self::Few(few) => {
                let mut start = 0;
                for &(column, output) in few {
                    match columns[start..].binary_search(&column) {
                        Ok(at) => {
                            found(output, start + at);
                            start += at + 1;
                        }
                        Err(at) => start += at,
                    }
                }
            }
            Self::Many(outputs) => {
                for (at, &column) in columns.iter().enumerate() {
                    let output = usize::try_from(column).ok().and_then(|column| outputs.get(column));
                    if let Some(&output) = output.filter(|&&output| output != NONE) {
                        found(output, at);
                    }
                }
            }
        }
    }
}

struct Pick<'a, T> {
    first: u32,
    wanted: Wanted,
    normalize: Option<Normalize>,
    room: (Vec<i32>, Vec<T>),
    hits: &'a mut Vec<Hit<T>>,
}

impl<T: Num> RowSink<T> for Pick<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        let (columns, values) = (&mut self.room.0, &mut self.room.1);
        columns.resize(nnz, 0);
        values.resize(nnz, T::zero());
        fill(columns, values)?;
        let row = self.first + u32::try_from(i).unwrap_or(0);
        let factor = self.normalize.map(|normalize| (normalize, normalize.factor_of(values)));
        self.wanted.each(columns, |output, at| {
            let value = match factor {
                Some((normalize, factor)) => normalize.value(values[at], factor),
                None => values[at],
            };
            self.hits.push(Hit { row, output, value });
        });
        Ok(())
    }
}

/// Reads `S` and adds up in float64.
struct Add<'a, S, T> {
    first: u32,
    sets: &'a [u64],
    sums: Vec<f64>,
    room: (Vec<i32>, Vec<S>),
    hits: &'a mut Vec<Hit<T>>,
}

impl<S: Num, T: Num> RowSink<S> for Add<'_, S, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, S>) -> Result<()> {
        let (columns, values) = (&mut self.room.0, &mut self.room.1);
        columns.resize(nnz, 0);
        values.resize(nnz, S::zero());
        fill(columns, values)?;
        self.sums.fill(0.0);
        for (&column, &value) in columns.iter().zip(&*values) {
            let value: f64 = value.as_();
            self.sums[0] += value;
            self.sums[1] += if value == 0.0 { 0.0 } else { 1.0 };
            let mut sets = usize::try_from(column).ok().and_then(|column| self.sets.get(column)).copied().unwrap_or(0);
            while sets != 0 {
                self.sums[2 + sets.trailing_zeros() as usize] += value;
                sets &= sets - 1;
            }
        }
        let row = self.first + u32::try_from(i).unwrap_or(0);
        for (output, &sum) in (0..).zip(&self.sums) {
            if sum != 0.0 {
                self.hits.push(Hit { row, output, value: T::cast(sum) });
            }
        }
        Ok(())
    }
}
