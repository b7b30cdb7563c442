//! Numbers from the rows of cells.

use std::ops::Range;

use super::{DatasetLookup, Entry, WantedNumbers};
use crate::error::Result;
use crate::genes::{Columns, SummingSink};
use crate::matrix::{FillRow, Matrix, RowBuffer, RowSink, Totals};
use crate::number::Num;

/// The most columns that are searched for in a row; with more, each column of the row is looked up in a table.
const SEARCHED: usize = 24;

/// The entries of some of the wanted rows, which are decoded one after another. `columns` are the genes' map.
pub fn look_up<T: Num>(
    target: &DatasetLookup<'_>,
    matrix: &Matrix,
    columns: Option<&Columns>,
    rows: Range<usize>,
) -> Result<Vec<Entry<T>>> {
    match (target.wanted, columns) {
        (WantedNumbers::Genes(mapping), Some(columns)) => pick(target, matrix, mapping.pairs(), columns, rows),
        // Where every stored value is a float32, reading as float32 is faster.
        (WantedNumbers::Sums(sets), _) if matrix.dtype().is_narrow() => add_up::<f32, T>(target, matrix, sets, rows),
        (WantedNumbers::Sums(sets), _) => add_up::<f64, T>(target, matrix, sets, rows),
        (WantedNumbers::Genes(_), None) => Ok(Vec::new()),
    }
}

/// The entries of some rows, from the sums and counts that were kept when the matrix was written.
pub fn totals<T: Num>(target: &DatasetLookup<'_>, totals: &Totals, rows: Range<usize>) -> Vec<Entry<T>> {
    let both = |(row, &number): (u32, &u32)| {
        let (sum, count) = totals.cell(number);
        [Entry { row, output: 0, value: T::cast(sum) }, Entry { row, output: 1, value: T::cast(count) }]
    };
    (position(rows.start)..).zip(&target.rows[rows]).flat_map(both).collect()
}

/// A position among the wanted rows, which are numbered with 32 bits.
fn position(row: usize) -> u32 {
    u32::try_from(row).unwrap_or(u32::MAX)
}

/// A sink that calls a function with each row: its position in the request, its columns and its values.
struct EachRow<T, F> {
    row: RowBuffer<T>,
    call: F,
}

impl<T: Num, F: FnMut(usize, &[i32], &[T])> RowSink<T> for EachRow<T, F> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        let (columns, values) = self.row.fill(nnz, fill)?;
        (self.call)(i, columns, values);
        Ok(())
    }
}

/// The values of the genes `pairs`, which `columns` has too.
fn pick<T: Num>(
    target: &DatasetLookup<'_>,
    matrix: &Matrix,
    pairs: &[(u32, u32)],
    columns: &Columns,
    rows: Range<usize>,
) -> Result<Vec<Entry<T>>> {
    let (mut entries, mut places) = (Vec::new(), Vec::new());
    // Columns that were added up do not ascend any more, so they cannot be searched.
    let searched = pairs.len() <= SEARCHED && !columns.sums();
    let normalize = target.lookup.normalize;
    let call = |i: usize, found: &[i32], values: &[T]| {
        let row = position(rows.start + i);
        let factor = normalize.map(|normalize| (normalize, normalize.factor_of(values)));
        let mut push = |output: u32, at: usize| {
            let value = factor.map_or(values[at], |(normalize, factor)| normalize.value(values[at], factor));
            entries.push(Entry { row, output, value });
        };
        if !searched {
            for &at in columns.kept(found, &mut places) {
                push(columns.target(found[at as usize]).cast_unsigned(), at as usize); // what is kept has an output
            }
            return;
        }
        let mut start = 0;
        for &(column, output) in pairs {
            match found[start..].binary_search(&column.cast_signed()) {
                Ok(at) => {
                    push(output, start + at);
                    start += at + 1;
                }
                Err(at) => start += at,
            }
        }
    };
    let mut sink = EachRow { row: RowBuffer::default(), call };
    let mask = normalize.is_none().then(|| columns.wanted());
    let wanted = &target.rows[rows.clone()];
    match columns.sums() {
        true => matrix.read(wanted, mask, &mut SummingSink::new(&mut sink, columns, matrix.dtype()))?,
        false => matrix.read(wanted, mask, &mut sink)?,
    }
    Ok(entries)
}

/// The sums over all columns and over sets, of values that are read as `S`, in float64.
fn add_up<S: Num, T: Num>(
    target: &DatasetLookup<'_>,
    matrix: &Matrix,
    sets: &[u64],
    rows: Range<usize>,
) -> Result<Vec<Entry<T>>> {
    let (mut entries, mut sums) = (Vec::new(), vec![0.0; target.lookup.width]);
    let call = |i: usize, columns: &[i32], values: &[S]| {
        sums.fill(0.0);
        for (&column, &value) in columns.iter().zip(values) {
            let value: f64 = value.as_();
            sums[0] += value;
            sums[1] += if value == 0.0 { 0.0 } else { 1.0 };
            let mut sets = usize::try_from(column).ok().and_then(|column| sets.get(column)).copied().unwrap_or(0);
            while sets != 0 {
                sums[2 + sets.trailing_zeros() as usize] += value;
                sets &= sets - 1;
            }
        }
        let row = position(rows.start + i);
        let sums = (0..).zip(&sums).filter(|&(_, &sum)| sum != 0.0);
        entries.extend(sums.map(|(output, &sum)| Entry { row, output, value: T::cast(sum) }));
    };
    matrix.read(&target.rows[rows.clone()], None, &mut EachRow { row: RowBuffer::default(), call })?;
    Ok(entries)
}
