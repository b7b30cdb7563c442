//! Numbers from the rows of cells.

use std::ops::Range;

use super::{DatasetLookup, Entry, Lookup, WantedNumbers};
use crate::error::Result;
use crate::genes::sum_exactly;
use crate::matrix::{FillRow, Matrix, RowBuffer, RowSink, Totals};
use crate::number::{Dtype, Num};
use crate::read::Normalize;

/// The most columns that are searched for in a row; more are looked up in a table of all columns.
const SEARCHED: usize = 24;
const NONE: u32 = u32::MAX;

/// The entries of some of the wanted rows, which are decoded one after another.
pub fn look_up<T: Num>(
    lookup: &Lookup,
    target: &DatasetLookup<'_>,
    matrix: &Matrix,
    rows: Range<usize>,
) -> Result<Vec<Entry<T>>> {
    let mut entries = Vec::new();
    let first = u32::try_from(rows.start).unwrap_or(u32::MAX); // rows are numbered with 32 bits
    let n_columns = usize::try_from(matrix.shape()[1]).unwrap_or(0);
    match &*target.wanted {
        WantedNumbers::Genes(mapping) => {
            let outputs = Outputs::new(mapping.pairs(), n_columns);
            let mask = outputs.mask(n_columns);
            let mask = if lookup.normalize.is_some() { None } else { Some(&mask[..]) };
            let mut sink = PickSink {
                first,
                outputs,
                summed: mapping.sums().then(Vec::new),
                stored: matrix.dtype(),
                normalize: lookup.normalize,
                row: RowBuffer::default(),
                entries: &mut entries,
            };
            matrix.read(&target.rows[rows], mask, &mut sink)?;
        }
        WantedNumbers::Sums(sets) => {
            let rows = &target.rows[rows];
            let sums = vec![0.0; lookup.width];
            // Where every stored value is a float32, reading as float32 is faster.
            if matrix.dtype().is_narrow() {
                let row = RowBuffer::<f32>::default();
                matrix.read(rows, None, &mut SumSink { first, sets, sums, row, entries: &mut entries })?;
            } else {
                let row = RowBuffer::<f64>::default();
                matrix.read(rows, None, &mut SumSink { first, sets, sums, row, entries: &mut entries })?;
            }
        }
        WantedNumbers::Refused(_) => {}
    }
    Ok(entries)
}

/// The entries of some rows, from the sums and counts that were kept when the matrix was written.
pub fn totals<T: Num>(target: &DatasetLookup<'_>, totals: &Totals, rows: Range<usize>) -> Vec<Entry<T>> {
    let first = u32::try_from(rows.start).unwrap_or(u32::MAX);
    let both = |(i, &row): (u32, &u32)| {
        let (sum, count) = totals.cell(row);
        [Entry { row: i, output: 0, value: T::cast(sum) }, Entry { row: i, output: 1, value: T::cast(count) }]
    };
    (first..).zip(&target.rows[rows]).flat_map(both).collect()
}

/// The wanted columns, and the output that each belongs to.
enum Outputs {
    /// The wanted columns with their outputs, ascending, to search in.
    Few(Vec<(i32, u32)>),
    /// The output of every column of the matrix, as a table.
    Many(Vec<u32>),
}

impl Outputs {
    /// The outputs of the columns in `pairs` (ascending), in the form that finds them fastest.
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

    /// Calls `found` with each output that is in a row of `columns` (ascending), and its position in the row.
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

struct PickSink<'a, T> {
    first: u32,
    outputs: Outputs,
    /// The outputs in the current row with the values that make them up, where outputs are sums of columns.
    summed: Option<Vec<(u32, T)>>,
    stored: Dtype,
    normalize: Option<Normalize>,
    row: RowBuffer<T>,
    entries: &'a mut Vec<Entry<T>>,
}

impl<T: Num> RowSink<T> for PickSink<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        let (columns, values) = self.row.fill(nnz, fill)?;
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

/// A sink that takes rows of `S` and adds up their values in float64.
struct SumSink<'a, S, T> {
    first: u32,
    sets: &'a [u64],
    sums: Vec<f64>,
    row: RowBuffer<S>,
    entries: &'a mut Vec<Entry<T>>,
}

impl<S: Num, T: Num> RowSink<S> for SumSink<'_, S, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, S>) -> Result<()> {
        let (columns, values) = self.row.fill(nnz, fill)?;
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
