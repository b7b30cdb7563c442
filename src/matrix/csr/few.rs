//! Rows of which few columns are wanted, from another machine: columns are read first, then the values of wanted ones alone.
//!
//! A gene is in few cells: most of their values need not come. It costs a wait more, and half of the bytes or less.

use std::ops::Range;

use super::super::RowSink;
use super::Csr;
use super::stored::to_len;
use crate::error::Result;
use crate::number::{Num, resize};

/// What was found of the wanted columns.
#[derive(Default)]
struct Found {
    columns: Vec<i32>,
    /// Where the value of each lies, ascending.
    places: Vec<Range<u64>>,
    /// How many were found up to the end of each row.
    ends: Vec<usize>,
}

impl Csr {
    /// Whether so few columns are wanted that it is better to look first which of the rows in `ranges` have them: where they
    /// are like others, not every second row has one. Rows that lie together come in few requests, with their values.
    pub(super) fn looks_first(&self, ranges: &[Range<u64>], wanted: &[bool]) -> bool {
        let n_wanted = wanted.iter().filter(|&&wanted| wanted).count() as u64;
        let [n_obs, n_vars] = self.shape.map(u128::from);
        let is_rare = u128::from(n_wanted) * u128::from(self.nnz()) * 2 <= n_obs * n_vars;
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return false };
        let values: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        is_rare && self.is_remote() && last.end - first.start > 2 * values
    }

    /// Reads rows, which lie in `ranges`, into `sink`: of each its wanted columns, which are few.
    pub(super) fn read_few<T: Num>(
        &self,
        rows: &[u32],
        ranges: &[Range<u64>],
        wanted: &[bool],
        sink: &mut dyn RowSink<T>,
    ) -> Result<()> {
        let found = self.find(rows, ranges, wanted)?;
        let mut data = self.data.ready(&found.places)?;
        let mut start = 0;
        for (i, &end) in found.ends.iter().enumerate() {
            sink.row(i, end - start, &mut |columns, values| {
                columns.copy_from_slice(&found.columns[start..end]);
                for (at, value) in (start..end).zip(values.chunks_mut(1)) {
                    data.write(found.places[at].clone(), at, value)?;
                }
                Ok(())
            })?;
            start = end;
        }
        Ok(())
    }

    fn find(&self, rows: &[u32], ranges: &[Range<u64>], wanted: &[bool]) -> Result<Found> {
        let mut indices = self.indices.ready(ranges)?;
        let (mut found, mut columns, mut before) = (Found::default(), Vec::new(), 0);
        for (&row, range) in rows.iter().zip(ranges) {
            let nnz = to_len(range.end - range.start)?;
            resize(&mut columns, nnz)?;
            indices.write(range.clone(), before, &mut columns)?;
            self.check_columns(row, &columns)?;
            for (place, &column) in (range.start..).zip(&columns) {
                let is_wanted = usize::try_from(column).ok().and_then(|column| wanted.get(column)).copied();
                if is_wanted.unwrap_or(false) {
                    found.columns.push(column);
                    found.places.push(place..place + 1);
                }
            }
            found.ends.push(found.columns.len());
            before += nnz;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::rows;
    use super::*;
    use crate::matrix::Rows;
    use crate::matrix::testing::{storage, write_sparse};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn few_columns_are_those_of_whole_rows(
            rows in rows(), asked in prop::collection::btree_set(0_u32..30, 0..30), wanted in prop::collection::vec(any::<bool>(), 40), packed: bool
        ) {
            let folder = tempfile::tempdir().unwrap();
            let shape = [rows.len() as u64, 40];
            write_sparse(&folder.path().join("X"), "csr_matrix", shape, &rows, packed);
            let csr = Csr::open(&storage(folder.path()), "X", shape).unwrap();
            let asked: Vec<u32> = asked.into_iter().filter(|&row| (row as usize) < rows.len()).collect();
            let ranges: Vec<_> = csr.row_ranges(&asked).unwrap();
            let mut found = Rows::<u16>::empty();
            csr.read_few(&asked, &ranges, &wanted, &mut found).unwrap();
            for (&row, ends) in asked.iter().zip(found.indptr.windows(2)) {
                let (columns, values) = (&found.indices[ends[0]..ends[1]], &found.data[ends[0]..ends[1]]);
                let few: Vec<(i32, u16)> = columns.iter().copied().zip(values.iter().copied()).collect();
                let is_wanted = |column: i32| wanted[usize::try_from(column).unwrap()];
                let expected: Vec<_> = rows[row as usize].iter().copied().filter(|&(column, _)| is_wanted(column)).collect();
                prop_assert_eq!(few, expected);
            }
        }
    }
}
