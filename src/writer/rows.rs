//! Rows of a source made rows of CSR, on all cores: cast, mapped to the output's columns, checked, and canonical.
//!
//! Canonical: columns ascend within a row, duplicates are summed. Values go from the source's arrays to their place in
//! one step where the source is canonical already and no column moves, as mostly; each row's sum and count, which
//! quality control asks for first, are taken on the way. Knows no files.

use std::ops::Range;

use num_traits::AsPrimitive;

use super::parallel;
use super::source::{Indices, Slice, for_slice};
use crate::error::{DaoError, Result};
use crate::number::{Num, ascend};

/// The values that one thread makes ready at a time.
const PIECE: usize = 128 << 10;

/// Rows of a source.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// Each row's values lie in one range of `indices` and `data`, which was checked to be there.
    Sparse { rows: &'a [Range<usize>], indices: Indices<'a>, data: Slice<'a> },
    /// Rows of `width` values each.
    Dense { data: Slice<'a>, width: usize },
    /// Rows that were made canonical before and lie in `bytes`: the columns of each, then its values, of the types that
    /// they are written in.
    Spilled { rows: &'a [Place], bytes: &'a [u8] },
}

/// Where a row lies in the bytes of others: the offset of its first column, and how many values it has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    pub start: usize,
    pub len: usize,
}

/// The columns that a source has, and what becomes of them.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// The matrix's name, for errors.
    pub name: &'a str,
    /// The number of the source's columns.
    pub source: u64,
    /// The output column of each, or -1; `None` where they are the same.
    pub map: Option<&'a [i32]>,
}

/// The sum of each of some rows, and the number of its values that are not zero.
#[derive(Debug, Default)]
pub struct RowTotals {
    pub sums: Vec<f64>,
    pub counts: Vec<u32>,
}

/// Some rows and their room.
struct Piece<'a, T, I> {
    first: usize,
    /// The room of each row; then the values that it has.
    lengths: &'a mut [usize],
    indices: &'a mut [I],
    data: &'a mut [T],
    sums: &'a mut [f64],
    counts: &'a mut [u32],
}

impl Source<'_> {
    /// The most values that each row will have.
    pub fn lengths(&self) -> Result<Vec<usize>> {
        match *self {
            Self::Sparse { rows, .. } => Ok(rows.iter().map(Range::len).collect()),
            Self::Spilled { rows, .. } => Ok(rows.iter().map(|place| place.len).collect()),
            Self::Dense { data, width } => for_slice!(data, values => {
                let rows = (PIECE / width.max(1)).max(1) * width.max(1);
                let counts = |values: &[_]| Ok(count_by_row(values, width));
                Ok(parallel::each(values.chunks(rows).collect(), counts)?.concat())
            }),
        }
    }

    /// Writes the rows, canonical, to the begin of `indices` and `data`, which have room for `lengths`; sets `lengths`
    /// to what each row has. Returns their sum, and the rows' totals.
    ///
    /// # Errors
    /// `Corrupt` for columns out of range, `Value` for a value that `T` cannot hold, or duplicates whose sum it cannot.
    pub fn write<T: Num, I: Num>(
        &self,
        columns: Columns<'_>,
        lengths: &mut [usize],
        indices: &mut [I],
        data: &mut [T],
    ) -> Result<(usize, RowTotals)> {
        in_pieces(lengths, indices, data, |mut piece| {
            self.copy(columns, &mut piece)?;
            piece.settle(columns.name)
        })
    }

    /// Copies a piece's rows to their place, cast and mapped.
    fn copy<T: Num, I: Num>(&self, columns: Columns<'_>, piece: &mut Piece<'_, T, I>) -> Result<()> {
        let value = |e: DaoError| e.at(columns.name.to_owned());
        match *self {
            Self::Sparse { rows, indices, data } => {
                let rows = &rows[piece.first..piece.first + piece.lengths.len()];
                let mut mapped = Vec::new();
                let (mut at, mut row) = (0, 0);
                while row < rows.len() {
                    // Rows that lie one behind the other are copied at once.
                    let mut range = rows[row].clone();
                    row += 1;
                    while row < rows.len() && rows[row].start == range.end {
                        range.end = rows[row].end;
                        row += 1;
                    }
                    let here = at..at + range.len();
                    at = here.end;
                    data.cast(range.clone(), &mut piece.data[here.clone()]).map_err(value)?;
                    let to = &mut piece.indices[here];
                    match (indices, columns.map) {
                        (Indices::I32(indices), None) => narrow(&indices[range], to, columns)?,
                        (Indices::I64(indices), None) => narrow(&indices[range], to, columns)?,
                        (Indices::I32(indices), Some(map)) => map_all(&indices[range], map, &mut mapped, columns)?,
                        (Indices::I64(indices), Some(map)) => map_all(&indices[range], map, &mut mapped, columns)?,
                    }
                }
                if columns.map.is_some() {
                    piece.keep(&mapped);
                }
            }
            Self::Dense { data, width } => {
                let mut found = Vec::with_capacity(piece.data.len());
                let start = piece.first * width;
                for_slice!(data, values => {
                    let mut nonzero = Vec::with_capacity(piece.data.len());
                    for (row, length) in values[start..].chunks(width.max(1)).zip(&mut *piece.lengths) {
                        let before = nonzero.len();
                        gather(row, columns.map, &mut nonzero, &mut found);
                        *length = nonzero.len() - before;
                    }
                    Slice::from(&nonzero[..]).cast(0..nonzero.len(), &mut piece.data[..nonzero.len()]).map_err(value)?;
                });
                for (to, &column) in piece.indices.iter_mut().zip(&found) {
                    *to = I::cast(column);
                }
            }
            Self::Spilled { rows, bytes } => {
                let mut at = 0;
                for place in &rows[piece.first..piece.first + piece.lengths.len()] {
                    let to = at..at + place.len;
                    at = to.end;
                    let to_indices: &mut [u8] = bytemuck::cast_slice_mut(&mut piece.indices[to.clone()]);
                    let to_data: &mut [u8] = bytemuck::cast_slice_mut(&mut piece.data[to]);
                    let (from, rest) = bytes[place.start..].split_at(to_indices.len());
                    to_indices.copy_from_slice(from);
                    to_data.copy_from_slice(&rest[..to_data.len()]);
                }
            }
        }
        Ok(())
    }
}

/// Appends the values of a row that are not zero and have an output column, and these columns.
fn gather<S: Num>(row: &[S], map: Option<&[i32]>, values: &mut Vec<S>, columns: &mut Vec<i32>) {
    let mut push = |column: i32, value: S| {
        if value != S::zero() && column >= 0 {
            values.push(value);
            columns.push(column);
        }
    };
    match map {
        None => (0..).zip(row).for_each(|(column, &value)| push(column, value)),
        Some(map) => map.iter().zip(row).for_each(|(&column, &value)| push(column, value)),
    }
}

/// The number of values of each row that are not zero.
fn count_by_row<T: Num>(values: &[T], width: usize) -> Vec<usize> {
    values.chunks_exact(width.max(1)).map(|row| row.iter().filter(|&&value| value != T::zero()).count()).collect()
}

/// Copies column numbers to a narrower type.
fn narrow<X: Num, I: Num>(from: &[X], to: &mut [I], columns: Columns<'_>) -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions that the function is compiled for.
        let fits = unsafe { narrow_avx2(from, to, columns.source) };
        return if fits { Ok(()) } else { Err(outside(from, columns)) };
    }
    if narrow_here(from, to, columns.source) { Ok(()) } else { Err(outside(from, columns)) }
}

/// [`narrow_here`], compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn narrow_avx2<X: Num, I: Num>(from: &[X], to: &mut [I], n: u64) -> bool {
    narrow_here(from, to, n)
}

/// Whether all of `from`, which are copied, are below `n`, and not below 0.
#[inline(always)]
fn narrow_here<X: Num, I: Num>(from: &[X], to: &mut [I], n: u64) -> bool {
    let mut bounds = (X::zero(), X::zero());
    for (to, &from) in to.iter_mut().zip(from) {
        *to = I::cast(from);
        bounds.0 = if from < bounds.0 { from } else { bounds.0 };
        bounds.1 = if from > bounds.1 { from } else { bounds.1 };
    }
    let most: i128 = bounds.1.as_();
    from.is_empty() || (bounds.0 == X::zero() && most < i128::from(n))
}

/// Appends the output column of each of `from`.
fn map_all<X: Num>(from: &[X], map: &[i32], to: &mut Vec<i32>, columns: Columns<'_>) -> Result<()> {
    to.reserve(from.len());
    for &column in from {
        // What is below zero is past any end.
        let column: u64 = column.as_();
        let found = usize::try_from(column).ok().and_then(|column| map.get(column));
        to.push(*found.ok_or_else(|| outside(from, columns))?);
    }
    Ok(())
}

/// The error for a column that the source does not have.
#[cold]
fn outside<X: Num>(from: &[X], columns: Columns<'_>) -> DaoError {
    let out = |&column: &X| !(0..i128::from(columns.source)).contains(&AsPrimitive::<i128>::as_(column));
    let found = from.iter().copied().find(out).map_or_else(String::new, |column| column.to_string());
    DaoError::corrupt(columns.name, "a column number is out of range")
        .expected(format!("below {}", columns.source))
        .found(found)
}

impl<T: Num, I: Num> Piece<'_, T, I> {
    /// Keeps the values whose output column is none below 0, in their order.
    fn keep(&mut self, mapped: &[i32]) {
        let (mut at, mut kept) = (0, 0);
        for length in &mut *self.lengths {
            let (end, begin) = (at + *length, kept);
            for (from, &column) in (at..end).zip(&mapped[at..end]) {
                self.indices[kept] = I::cast(column);
                self.data[kept] = self.data[from];
                kept += usize::from(column >= 0);
            }
            (at, *length) = (end, kept - begin);
        }
    }

    /// Makes the rows canonical, adds each up, and returns how many values they have.
    fn settle(&mut self, name: &str) -> Result<usize> {
        let (mut at, mut kept) = (0, 0);
        let mut row = Vec::new();
        for length in &mut *self.lengths {
            let range = at..at + *length;
            at = range.end;
            if ascend(&self.indices[range.clone()]) {
                if kept < range.start {
                    self.indices.copy_within(range.clone(), kept);
                    self.data.copy_within(range, kept);
                }
                kept += *length;
                continue;
            }
            row.clear();
            row.extend(range.map(|at| (self.indices[at], self.data[at])));
            // Columns are numbers, all of which compare; equal ones stay in their order.
            row.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(std::cmp::Ordering::Equal));
            let begin = kept;
            for same in row.chunk_by(|a, b| a.0 == b.0) {
                let sum = same[1..].iter().try_fold(same[0].1, |total, &(_, value)| add(total, value, name))?;
                (self.indices[kept], self.data[kept]) = (same[0].0, sum);
                kept += 1;
            }
            *length = kept - begin;
        }
        self.add_up();
        Ok(kept)
    }

    /// Takes the sum and the count of each row.
    fn add_up(&mut self) {
        let mut at = 0;
        for ((&length, sum), count) in self.lengths.iter().zip(&mut *self.sums).zip(&mut *self.counts) {
            (*sum, *count) = total(&self.data[at..at + length]);
            at += length;
        }
    }
}

/// The sum of a row's values, and the number of those that are not zero.
pub fn total<T: Num>(values: &[T]) -> (f64, u32) {
    let sum = if !T::DTYPE.is_float() && T::DTYPE.size() <= 2 {
        // Below 2^48, as a row has fewer than 2^32 values: exact, and many are added at once.
        values.iter().map(|&value| -> i64 { value.as_() }).sum::<i64>().as_()
    } else {
        values.iter().map(|&value| -> f64 { value.as_() }).sum()
    };
    // Columns are numbered with 31 bits.
    (sum, values.iter().map(|&value| u32::from(value != T::zero())).sum())
}

/// Does `work` on pieces of some rows and their room, on all cores, and moves what each has kept together.
fn in_pieces<T: Num, I: Num>(
    lengths: &mut [usize],
    indices: &mut [I],
    data: &mut [T],
    work: impl Fn(Piece<'_, T, I>) -> Result<usize> + Sync,
) -> Result<(usize, RowTotals)> {
    let n_rows = lengths.len();
    let mut totals = RowTotals { sums: vec![0.0; n_rows], counts: vec![0; n_rows] };
    let mut pieces = Vec::new();
    let mut rest = Piece {
        first: 0,
        lengths,
        indices: &mut *indices,
        data: &mut *data,
        sums: &mut totals.sums,
        counts: &mut totals.counts,
    };
    while !rest.lengths.is_empty() {
        let (mut rows, mut values) = (1, rest.lengths[0]);
        while rows < rest.lengths.len().min(PIECE) && values + rest.lengths[rows] <= PIECE {
            values += rest.lengths[rows];
            rows += 1;
        }
        let (lengths, later_lengths) = rest.lengths.split_at_mut(rows);
        let (indices, later_indices) = rest.indices.split_at_mut(values);
        let (data, later_data) = rest.data.split_at_mut(values);
        let (sums, later_sums) = rest.sums.split_at_mut(rows);
        let (counts, later_counts) = rest.counts.split_at_mut(rows);
        pieces.push(Piece { first: rest.first, lengths, indices, data, sums, counts });
        rest = Piece {
            first: rest.first + rows,
            lengths: later_lengths,
            indices: later_indices,
            data: later_data,
            sums: later_sums,
            counts: later_counts,
        };
    }
    let rooms: Vec<usize> = pieces.iter().map(|piece| piece.data.len()).collect();
    let kept = parallel::each(pieces, work)?;
    let (mut at, mut end) = (0, 0);
    for (room, kept) in rooms.into_iter().zip(kept) {
        if end < at {
            indices.copy_within(at..at + kept, end);
            data.copy_within(at..at + kept, end);
        }
        at += room;
        end += kept;
    }
    Ok((end, totals))
}

/// The sum of repeated entries.
fn add<T: Num>(a: T, b: T, name: &str) -> Result<T> {
    if T::DTYPE.is_float() {
        return Ok(a + b);
    }
    let (a, b): (i128, i128) = (a.as_(), b.as_());
    let total = T::of_i128(a + b);
    let back: i128 = total.as_();
    if back == a + b {
        return Ok(total);
    }
    let what = format!("repeated entries of one cell and gene sum to {}, too large for {}", a + b, T::DTYPE.name());
    Err(DaoError::value(what)
        .at(name.to_owned())
        .hint("read the study with anndata, call X.sum_duplicates() and write that AnnData"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// Rows made canonical: their lengths, columns and values.
    fn settled<T: Num>(indptr: &[usize], indices: &[i32], data: &[T]) -> Result<(Vec<usize>, Vec<u16>, Vec<T>)>
    where
        for<'a> Slice<'a>: From<&'a [T]>,
    {
        let rows: Vec<_> = indptr.windows(2).map(|ends| ends[0]..ends[1]).collect();
        let source = Source::Sparse { rows: &rows, indices: indices.into(), data: data.into() };
        let mut lengths = source.lengths()?;
        let (mut to_indices, mut to_data) = (vec![0_u16; data.len()], vec![T::zero(); data.len()]);
        let columns = Columns { name: "layers/counts", source: 1000, map: None };
        let (kept, totals) = source.write(columns, &mut lengths, &mut to_indices, &mut to_data)?;
        assert_eq!((totals.sums.len(), kept), (lengths.len(), lengths.iter().sum()));
        to_indices.truncate(kept);
        to_data.truncate(kept);
        Ok((lengths, to_indices, to_data))
    }

    #[test]
    fn rows_are_sorted_and_duplicates_summed() {
        let (lengths, indices, data) =
            settled(&[0, 4, 4, 6, 7], &[5, 2, 5, 0, 3, 3, 1], &[1_u16, 2, 3, 4, 5, 6, 7]).unwrap();
        assert_eq!(lengths, [3, 0, 1, 1]);
        assert_eq!(indices, [0, 2, 5, 3, 1]);
        assert_eq!(data, [4, 2, 4, 11, 7]);
    }

    #[test]
    fn duplicates_whose_sum_does_not_fit_are_refused() {
        settled(&[0, 2], &[1, 1], &[200_u8, 55]).unwrap();
        let error = settled(&[0, 2], &[1, 1], &[200_u8, 56]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        let text = error.to_string();
        assert!(text.contains("sum to 256") && text.contains("uint8") && text.contains("layers/counts"), "{text}");
    }

    #[test]
    fn pieces_that_lose_values_are_moved_together() {
        // Rows of three values, of which two are one; many pieces of them.
        let n = PIECE;
        let indptr: Vec<usize> = (0..=n).map(|i| 3 * i).collect();
        let (lengths, indices, data) = settled(&indptr, &[7, 3, 7].repeat(n), &[1_u8, 2, 3].repeat(n)).unwrap();
        assert_eq!((lengths, indices, data), (vec![2; n], [3, 7].repeat(n), [2, 4].repeat(n)));
    }

    #[test]
    fn columns_out_of_range_are_named() {
        for wrong in [-1, 1000, i32::MIN] {
            let error = settled(&[0, 3], &[1, wrong, 2], &[1_u8; 3]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(&format!("found {wrong}")), "{error}");
        }
    }
}
