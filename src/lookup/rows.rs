//! Numbers from the rows of cells.

use std::ops::Range;

use super::{Entry, Lookup, Target, Wanted};
use crate::error::Result;
use crate::genes::sum_exactly;
use crate::matrix::{FillRow, Matrix, RowSink, Totals};
use crate::number::{Dtype, Num};
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
) -> Result<Vec<Entry<T>>> {
    let mut entries = Vec::new();
    let first = u32::try_from(rows.start).unwrap_or(u32::MAX); // rows are numbered with 32 bits
    let n_columns = usize::try_from(matrix.shape()[1]).unwrap_or(0);
    match &*target.wanted {
        Wanted::Genes(mapping) => {
            let outputs = Outputs::new(mapping.pairs(), n_columns);
            let mask = outputs.mask(n_columns);
            let mask = if lookup.normalize.is_some() { None } else { Some(&mask[..]) };
            let mut sink = Pick {
                first,
                outputs,
                summed: mapping.sums().then(Vec::new),
                stored: matrix.dtype(),
                normalize: lookup.normalize,
                row: (Vec::new(), Vec::new()),
                entries: &mut entries,
            };
            matrix.read(&target.rows[rows], mask, &mut sink)?;
        }
        Wanted::Sums(sets) => {
            let rows = &target.rows[rows];
            let sums = vec![0.0; lookup.width];
            // What is a float32 is read faster as one.
            if matrix.dtype().is_narrow() {
                let row = (Vec::new(), Vec::<f32>::new());
                matrix.read(rows, None, &mut AddUp { first, sets, sums, row, entries: &mut entries })?;
            } else {
                let row = (Vec::new(), Vec::<f64>::new());
                matrix.read(rows, None, &mut AddUp { first, sets, sums, row, entries: &mut entries })?;
            }
        }
        Wanted::Refused(_) => {}
    }
    Ok(entries)
}

/// Sums and counts as they were kept.
pub fn totals<T: Num>(target: &Target<'_>, totals: &Totals, rows: Range<usize>) -> Vec<Entry<T>> {
    let first = u32::try_from(rows.start).unwrap_or(u32::MAX);
    let both = |(i, &row): (u32, &u32)| {
        let (sum, count) = totals.cell(row);
        [Entry { row: i, output: 0, value: T::cast(sum) }, Entry { row: i, output: 1, value: T::cast(count) }]
    };
    (first..).zip(&target.rows[rows]).flat_map(both).collect()
}

/// Columns that are wanted, and which output each is.
enum Outputs {
    /// By column, ascending.
    Few(Vec<(i32, u32)>),
    /// For each column.
    Many(Vec<u32>),
}

impl Outputs {
    /// Of columns, ascending, each with its output.
    fn new(pairs: &[(u32, u32)], n_columns: usize) -> Self {
        if pairs.len() > SEARCHED {
            let mut outputs = vec![NONE; n_columns];
            for &(column, output) in pairs {
                if let Some(to) = outputs.get_mut(column as usize) {
                    *to = output;
                }
            }
            return Self::Many(outputs);
        }
        // Columns are numbered with 31 bits.
        Self::Few(pairs.iter().map(|&(column, output)| (i32::try_from(column).unwrap_or(i32::MAX), output)).collect())
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
    outputs: Outputs,
    /// Where outputs are sums of columns: of a row the outputs and the values that they are made of.
    summed: Option<Vec<(u32, T)>>,
    stored: Dtype,
    normalize: Option<Normalize>,
    row: (Vec<i32>, Vec<T>),
    entries: &'a mut Vec<Entry<T>>,
}

impl<T: Num> RowSink<T> for Pick<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        let (columns, values) = (&mut self.row.0, &mut self.row.1);
        columns.resize(nnz, 0);
        values.resize(nnz, T::zero());
        fill(columns, values)?;
        let row = self.first + u32::try_from(i).unwrap_or(0);
        let factor = self.normalize.map(|normalize| (normalize, normalize.factor_of(values)));
        let mut push = |output, value| {
            let value = factor.map_or(value, |(normalize, factor)| normalize.value(value, factor));
            self.entries.push(Entry { row, output, value });
        };
        match &mut self.summed {
            None => self.outputs.each(columns, |output, at| push(output, values[at])),
            Some(parts) => {
                parts.clear();
                self.outputs.each(columns, |output, at| parts.push((output, values[at])));
                parts.sort_by_key(|&(output, _)| output);
                for parts in parts.chunk_by(|a, b| a.0 == b.0) {
                    push(parts[0].0, sum_exactly(parts.iter().map(|&(_, value)| value), self.stored)?);
                }
            }
        }
        Ok(())
    }
}

/// Reads `S` and adds up in float64.
struct AddUp<'a, S, T> {
    first: u32,
    sets: &'a [u64],
    sums: Vec<f64>,
    row: (Vec<i32>, Vec<S>),
    entries: &'a mut Vec<Entry<T>>,
}

impl<S: Num, T: Num> RowSink<S> for AddUp<'_, S, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, S>) -> Result<()> {
        let (columns, values) = (&mut self.row.0, &mut self.row.1);
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
                self.entries.push(Entry { row, output, value: T::cast(sum) });
            }
        }
        Ok(())
    }
}
