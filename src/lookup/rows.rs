//! Numbers from the rows of cells.

use std::ops::Range;

use super::{Entry, PartLookup, WantedNumbers};
use crate::error::Result;
use crate::genes::{Columns, summing};
use crate::matrix::{FillRow, Matrix, RowBuffer, RowSink, Totals};
use crate::number::Num;

/// The most columns that are searched for in a row; with more, each column of the row is looked up in a table.
const SEARCHED: usize = 24;

/// The entries of some of the wanted rows, which are decoded one after another. `columns` are the genes' map.
pub fn look_up<T: Num>(
    target: &PartLookup<'_>,
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
pub fn totals<T: Num>(target: &PartLookup<'_>, totals: &Totals, rows: Range<usize>) -> Vec<Entry<T>> {
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
    target: &PartLookup<'_>,
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
        true => matrix.read(wanted, mask, &mut summing(&mut sink, columns, matrix.dtype()))?,
        false => matrix.read(wanted, mask, &mut sink)?,
    }
    Ok(entries)
}

/// The sums over all columns and over sets, of values that are read as `S`, in float64.
fn add_up<S: Num, T: Num>(
    target: &PartLookup<'_>,
    matrix: &Matrix,
    sets: &[u64],
    rows: Range<usize>,
) -> Result<Vec<Entry<T>>> {
    let (mut entries, mut sums) = (Vec::new(), vec![0.0; target.lookup.width]);
    let call = |i: usize, columns: &[i32], values: &[S]| {
        sums.fill(0.0);
        // In registers: adding to memory, each value would wait for the one before to be written.
        let (mut total, mut count) = (0.0, 0.0);
        for (&column, &value) in columns.iter().zip(values) {
            let value: f64 = value.as_();
            total += value;
            count += if value == 0.0 { 0.0 } else { 1.0 };
            let mut sets = usize::try_from(column).ok().and_then(|column| sets.get(column)).copied().unwrap_or(0);
            while sets != 0 {
                sums[2 + sets.trailing_zeros() as usize] += value;
                sets &= sets - 1;
            }
        }
        (sums[0], sums[1]) = (total, count);
        let row = position(rows.start + i);
        let sums = (0..).zip(&sums).filter(|&(_, &sum)| sum != 0.0);
        entries.extend(sums.map(|(output, &sum)| Entry { row, output, value: T::cast(sum) }));
    };
    matrix.read(&target.rows[rows.clone()], None, &mut EachRow { row: RowBuffer::default(), call })?;
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::genes::testing::{open, write_part};
    use crate::genes::{Mapping, sum_exactly};
    use crate::lookup::Lookup;
    use crate::matrix::testing::{SparseRows, storage, write_sparse};
    use crate::number::Dtype;
    use crate::read::{Normalize, OpenStore};
    use crate::store::MatrixName;

    const N_GENES: usize = 40;

    /// The entries of the rows 1 to 3 of `rows` that a lookup finds, as row, output and value.
    fn found(
        rows: &SparseRows,
        wanted: &WantedNumbers,
        width: usize,
        normalize: Option<Normalize>,
    ) -> Vec<(u32, u32, f64)> {
        let folder = tempfile::tempdir().unwrap();
        write_part(folder.path(), "a", &[None; N_GENES]);
        write_sparse(&folder.path().join("X"), "csr_matrix", [rows.len() as u64, N_GENES as u64], rows, true);
        let matrix = Matrix::open(&storage(folder.path()), "X", [rows.len() as u64, N_GENES as u64]).unwrap();
        let source = Arc::new(OpenStore::new(open(folder.path())));
        let lookup = Lookup {
            source: source.clone(),
            matrix: MatrixName::X,
            dtype: Dtype::F64,
            normalize,
            width,
            together: false,
            wanted: BTreeMap::new(),
        };
        let part = source.store().part("a").unwrap();
        let target = PartLookup { lookup: &lookup, part, rows: &[0, 1, 2, 3], wanted };
        let columns = match wanted {
            WantedNumbers::Genes(mapping) => Some(mapping.columns()),
            WantedNumbers::Sums(_) => None,
        };
        let entries = look_up::<f64>(&target, &matrix, columns.as_ref(), 1..4).unwrap();
        entries.into_iter().map(|entry| (entry.row, entry.output, entry.value)).collect()
    }

    fn rows() -> impl Strategy<Value = SparseRows> {
        let row = prop::collection::btree_map(0..i32::try_from(N_GENES).unwrap(), 1_u16..500, 0..N_GENES);
        prop::collection::vec(row.prop_map(|row| row.into_iter().collect()), 4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn values_of_genes_are_found(
            rows in rows(), genes in prop::collection::btree_map(0_u32..40, any::<u8>(), 0..40),
            shared in 1_u32..60, scale: bool,
        ) {
            // Few genes are searched for, many looked up in a table; those of one output are added up.
            let pairs: Vec<(u32, u32)> = genes.iter().map(|(&gene, &to)| (gene, u32::from(to) % shared)).collect();
            let mapping = Mapping::new(N_GENES, 60, pairs.clone()).unwrap();
            let normalize = scale.then_some(Normalize { target_sum: Some(1e4), log1p: true });
            let mut found = found(&rows, &WantedNumbers::Genes(mapping), 60, normalize);
            found.sort_by_key(|entry| (entry.0, entry.1));
            let mut expected = Vec::new();
            for (number, row) in (1..).zip(&rows[1..]) {
                let total: f64 = row.iter().map(|&(_, value)| f64::from(value)).sum();
                let mut outputs: BTreeMap<u32, Vec<u16>> = BTreeMap::new();
                for &(column, value) in row {
                    if let Some(&(_, output)) = pairs.iter().find(|pair| pair.0 == column.cast_unsigned()) {
                        outputs.entry(output).or_default().push(value);
                    }
                }
                for (output, values) in outputs {
                    let sum: f64 = sum_exactly(values.into_iter().map(f64::from), Dtype::U16).unwrap();
                    expected.push((number, output, if scale { (sum * (1e4 / total)).ln_1p() } else { sum }));
                }
            }
            prop_assert_eq!(found.len(), expected.len());
            for (found, expected) in found.into_iter().zip(expected) {
                prop_assert_eq!((found.0, found.1), (expected.0, expected.1));
                prop_assert!((found.2 - expected.2).abs() <= 1e-9 * expected.2, "{} {}", found.2, expected.2);
            }
        }

        #[test]
        fn sums_are_over_all_genes_and_sets(rows in rows(), sets in prop::collection::vec(0_u64..4, N_GENES)) {
            let found = found(&rows, &WantedNumbers::Sums(sets.clone()), 4, None);
            let mut expected = Vec::new();
            for (number, row) in (1..).zip(&rows[1..]) {
                let within = |bit: u32| {
                    let is_in = |column: i32| sets[usize::try_from(column).unwrap()] >> bit & 1 == 1;
                    row.iter().filter(|entry| is_in(entry.0)).map(|entry| f64::from(entry.1)).sum::<f64>()
                };
                let total = row.iter().map(|entry| f64::from(entry.1)).sum::<f64>();
                let sums = [total, f64::from(u32::try_from(row.len()).unwrap()), within(0), within(1)];
                expected.extend((0..).zip(sums).filter(|&(_, sum)| sum != 0.0).map(|(output, sum)| (number, output, sum)));
            }
            prop_assert_eq!(found, expected);
        }
    }
}
