//! Rows in output order written: as CSR arrays, or as one dense array.
//!
//! Each cell's sum and count, which quality control asks for first, are kept beside them.

use num_traits::AsPrimitive;
use serde_json::json;

use super::array::{ArrayWriter, Coding, write_array};
use super::folder::Folder;
use super::matrix::MatrixSpec;
use super::parallel;
use super::rows::{Columns, RowTotals, Source, total};
use super::source::Slice;
use crate::error::Result;
use crate::matrix::TOTALS;
use crate::number::{Dtype, Layout, Num, for_dtype, zeros};

/// The values of a dense array that are put together at a time.
const STEP: usize = 4 << 20;
/// Those that one thread casts at a time.
const PIECE: usize = 256 << 10;

/// Runs `$body` with `$I` naming the type of columns that `$dtype` names, which is one of three.
macro_rules! for_columns {
    ($dtype:expr, $I:ident => $body:expr) => {
        match $dtype {
            $crate::number::Dtype::U8 => {
                type $I = u8;
                $body
            }
            $crate::number::Dtype::U16 => {
                type $I = u16;
                $body
            }
            _ => {
                type $I = u32;
                $body
            }
        }
    };
}
pub(super) use for_columns;

/// The narrowest type that numbers columns.
pub fn columns_dtype(n_columns: u64) -> Dtype {
    match n_columns {
        0..=0x100 => Dtype::U8,
        0x101..=0x1_0000 => Dtype::U16,
        _ => Dtype::U32,
    }
}

/// Writes rows in output order.
pub struct CanonicalRows {
    /// The folder of the part's matrices.
    zarr: Folder,
    name: String,
    shape: [u64; 2],
    portable: bool,
    transposed: bool,
    /// The offset of each row's values so far, as in CSR; counts them for a dense array too.
    indptr: Vec<i64>,
    /// The columns of CSR; none for a dense array.
    indices: Option<ArrayWriter>,
    data: ArrayWriter,
    /// The sum of each row so far, and the number of its values that are not zero, where these are kept.
    totals: Option<(Vec<f64>, Vec<u32>)>,
}

impl CanonicalRows {
    /// A matrix below the part folder `part`, with totals of its rows beside it where it has them.
    pub fn new(part: &Folder, spec: &MatrixSpec) -> Result<Self> {
        let MatrixSpec { shape, stored, portable, source_nnz, transposed, .. } = *spec;
        let (zarr, name) = (part.join("zarr"), spec.name.to_string());
        let folder = zarr.join(&name);
        let (indices, data) = if spec.layout == Layout::Dense {
            let len = shape[0] * shape[1];
            (None, ArrayWriter::new(folder, stored, len, Some(shape[1]), Coding::Portable)?)
        } else {
            let array = |name, dtype, ascending| {
                ArrayWriter::new(folder.join(name), dtype, source_nnz, None, Coding::new(portable, ascending))
            };
            (Some(array("indices", columns_dtype(shape[1]), true)?), array("data", stored, false)?)
        };
        let totals = spec.has_totals().then(Default::default);
        Ok(Self { zarr, name, shape, portable, transposed, indptr: vec![0], indices, data, totals })
    }

    /// The next rows.
    ///
    /// # Errors
    /// As [`Source::write`], and `Io` for a full disk.
    pub fn write(&mut self, source: Source<'_>, columns: Columns<'_>) -> Result<()> {
        if let (None, Source::Dense { data, width }, None) = (&self.indices, source, columns.map) {
            return for_dtype!(self.data.dtype(), T => self.copy_dense::<T>(data, width));
        }
        let mut lengths = source.lengths()?;
        let room = lengths.iter().sum();
        let Some(indices) = &mut self.indices else {
            return for_dtype!(self.data.dtype(), T => self.write_dense::<T>(source, columns, &mut lengths, room));
        };
        let (kept, totals) = for_columns!(indices.dtype(), I => for_dtype!(self.data.dtype(), T => {
            source.write(columns, &mut lengths, indices.room::<I>(room)?, self.data.room::<T>(room)?)?
        }));
        indices.take(kept);
        self.data.take(kept);
        ArrayWriter::write_full(&mut [indices, &mut self.data])?;
        self.note(&lengths, totals);
        Ok(())
    }

    /// The next rows of a dense array, whose columns have the narrowest type that they have as spilled rows.
    fn write_dense<T: Num>(
        &mut self,
        source: Source<'_>,
        columns: Columns<'_>,
        lengths: &mut [usize],
        room: usize,
    ) -> Result<()> {
        for_columns!(columns_dtype(self.shape[1]), I => {
            let (mut indices, mut data) = (zeros::<I>(room)?, zeros::<T>(room)?);
            let (_, totals) = source.write(columns, lengths, &mut indices, &mut data)?;
            let width = usize::try_from(self.shape[1]).unwrap_or(usize::MAX);
            let mut at = 0;
            for lengths in lengths.chunks((STEP / width.max(1)).max(1)) {
                let block = self.data.room::<T>(lengths.len() * width)?;
                block.fill(T::zero());
                for (row, &length) in block.chunks_mut(width.max(1)).zip(lengths) {
                    for (&column, &value) in indices[at..at + length].iter().zip(&data[at..at + length]) {
                        // In range: columns were checked against the output when they were mapped.
                        let column: u32 = column.as_();
                        row[column as usize] = value;
                    }
                    at += length;
                }
                self.data.take(lengths.len() * width);
                ArrayWriter::write_full(&mut [&mut self.data])?;
            }
            self.note(lengths, totals);
            Ok(())
        })
    }

    /// The next rows of a dense array, from rows that have its columns.
    fn copy_dense<T: Num>(&mut self, values: Slice<'_>, width: usize) -> Result<()> {
        let name = self.name.clone();
        let rows_of = |values: usize| (values / width.max(1)).max(1) * width;
        let mut start = 0;
        while start < values.len() {
            let room = self.data.room::<T>(rows_of(STEP).min(values.len() - start))?;
            let len = room.len();
            let totals = parallel::each_piece(room, rows_of(PIECE).max(1), |before, to| {
                values.cast(start + before..start + before + to.len(), to).map_err(|e| e.at(name.clone()))?;
                Ok(to.chunks(width).map(|row| total(row)).collect::<Vec<_>>())
            })?;
            self.data.take(len);
            ArrayWriter::write_full(&mut [&mut self.data])?;
            let (sums, counts): (Vec<_>, Vec<_>) = totals.into_iter().flatten().unzip();
            let lengths: Vec<usize> = counts.iter().map(|&count| count as usize).collect();
            self.note(&lengths, RowTotals { sums, counts });
            start += len;
        }
        Ok(())
    }

    /// Notes the lengths and totals of rows that were written.
    fn note(&mut self, lengths: &[usize], totals: RowTotals) {
        let mut end = self.nnz();
        self.indptr.extend(lengths.iter().map(|&length| {
            end = end.saturating_add(i64::try_from(length).unwrap_or(i64::MAX));
            end
        }));
        if let Some((sums, counts)) = &mut self.totals {
            sums.extend(totals.sums);
            counts.extend(totals.counts);
        }
    }

    /// Writes what is left; returns the number of stored values.
    pub fn finish(mut self) -> Result<u64> {
        let nnz = self.nnz();
        // Rows that a source without columns never sent are empty.
        let n_rows = usize::try_from(self.shape[0]).unwrap_or(0);
        if let Some((mut sums, mut counts)) = self.totals {
            sums.resize(n_rows, 0.0);
            counts.resize(n_rows, 0);
            let whole = sums.iter().all(|&sum| sum.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&sum));
            let (dtype, coding) = (if whole { Dtype::U32 } else { Dtype::F64 }, Coding::new(self.portable, false));
            let folder = self.zarr.join("totals").join(&self.name);
            write_array(folder.join(TOTALS[0]), dtype, coding, &sums)?;
            write_array(folder.join(TOTALS[1]), Dtype::U32, coding, &counts)?;
        }
        self.data.finish()?;
        if let Some(indices) = self.indices {
            indices.finish()?;
            self.indptr.resize(n_rows + 1, nnz);
            let (folder, coding) = (self.zarr.join(&self.name), Coding::new(self.portable, true));
            write_array(folder.join("indptr"), Dtype::I64, coding, &self.indptr)?;
            let [rows, columns] = self.shape;
            let (encoding, shape) =
                if self.transposed { ("csc_matrix", [columns, rows]) } else { ("csr_matrix", [rows, columns]) };
            let attributes = json!({"encoding-type": encoding, "encoding-version": "0.1.0", "shape": shape});
            folder.write_group(&attributes)?;
        }
        Ok(u64::try_from(nnz).unwrap_or(0))
    }

    fn nnz(&self) -> i64 {
        self.indptr.last().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::matrix::{Matrix, Totals};
    use crate::storage::{Local, Storage};
    use crate::store::MatrixName;

    fn spec(layout: Layout, shape: [u64; 2], portable: bool) -> MatrixSpec {
        MatrixSpec {
            name: MatrixName::X,
            layout,
            portable,
            shape,
            stored: Dtype::U16,
            columns: None,
            rows: None,
            source_nnz: 10,
            transposed: false,
        }
    }

    /// Rows as CSR.
    struct Block<T> {
        indptr: Vec<usize>,
        indices: Vec<i32>,
        data: Vec<T>,
    }

    fn write<T: Num>(rows: &mut CanonicalRows, block: Block<T>) -> Result<()> {
        let ranges: Vec<_> = block.indptr.windows(2).map(|ends| ends[0]..ends[1]).collect();
        let data = T::wrap(block.data);
        let source = Source::Sparse { rows: &ranges, indices: (&block.indices).into(), data: (&data).into() };
        let columns = Columns { name: "X", source: rows.shape[1], map: None };
        rows.write(source, columns)
    }

    #[test]
    fn both_layouts_read_back_as_they_were_written() {
        for (layout, portable) in [(Layout::Csr, false), (Layout::Csr, true), (Layout::Dense, true)] {
            let folder = tempfile::tempdir().unwrap();
            let mut rows = CanonicalRows::new(
                &Folder::new(Arc::new(Local::new(folder.path()).unwrap()), "p").unwrap(),
                &spec(layout, [4, 6], portable),
            )
            .unwrap();
            write(&mut rows, Block { indptr: vec![0, 2], indices: vec![5, 0], data: vec![9_u16, 8] }).unwrap();
            write(&mut rows, Block { indptr: vec![0, 0, 1, 3], indices: vec![3, 1, 1], data: vec![7_u16, 1, 2] })
                .unwrap();
            assert_eq!(rows.finish().unwrap(), 4);
            let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
            let found = Matrix::open(&storage, "p/zarr/X", [4, 6]).unwrap().rows::<u16>(&[0, 1, 2, 3]).unwrap();
            assert_eq!(found.indptr, [0, 2, 2, 3, 4]);
            assert_eq!(found.indices, [0, 5, 3, 1]);
            assert_eq!(found.data, [8, 9, 7, 3]);
        }
    }

    #[test]
    fn rows_that_never_came_are_empty() {
        let folder = tempfile::tempdir().unwrap();
        let rows = CanonicalRows::new(
            &Folder::new(Arc::new(Local::new(folder.path()).unwrap()), "p").unwrap(),
            &spec(Layout::Csr, [3, 0], false),
        )
        .unwrap();
        assert_eq!(rows.finish().unwrap(), 0);
        let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
        let found = Matrix::open(&storage, "p/zarr/X", [3, 0]).unwrap().rows::<u16>(&[0, 1, 2]).unwrap();
        assert_eq!(found.indptr, [0, 0, 0, 0]);
    }

    /// The totals of rows, written and read back.
    fn totals<T: Num>(blocks: impl IntoIterator<Item = Block<T>>, n_rows: usize, portable: bool) -> Vec<(f64, u32)> {
        let folder = tempfile::tempdir().unwrap();
        let spec = MatrixSpec { stored: T::DTYPE, ..spec(Layout::Csr, [n_rows as u64, 4], portable) };
        let mut rows =
            CanonicalRows::new(&Folder::new(Arc::new(Local::new(folder.path()).unwrap()), "p").unwrap(), &spec)
                .unwrap();
        for block in blocks {
            write(&mut rows, block).unwrap();
        }
        rows.finish().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(Local::new(folder.path()).unwrap());
        let totals = Totals::open(&storage, "p/zarr/totals/X", n_rows as u64).unwrap();
        (0..u32::try_from(n_rows).unwrap()).map(|row| totals.cell(row)).collect()
    }

    #[test]
    fn rows_are_summed_and_counted_over_blocks() {
        for portable in [false, true] {
            let blocks = [
                Block { indptr: vec![0, 2, 2], indices: vec![0, 3], data: vec![200_u8, 255] },
                Block { indptr: vec![0, 3], indices: vec![0, 1, 2], data: vec![1, 0, 4] },
            ];
            // A stored zero counts as no value; the fourth row never came.
            assert_eq!(totals(blocks, 4, portable), [(455.0, 2), (0.0, 0), (5.0, 2), (0.0, 0)]);
        }
    }

    #[test]
    fn sums_that_are_no_counts_stay_exact() {
        let block =
            |data: Vec<f64>| [Block { indptr: vec![0, data.len()], indices: (0..).take(data.len()).collect(), data }];
        assert_eq!(totals(block(vec![0.25, 0.5]), 1, false), [(0.75, 2)]);
        assert_eq!(totals(block(vec![-3.0, 1.0]), 1, false), [(-2.0, 2)]);
        assert_eq!(totals(block(vec![4_294_967_295.0, 1.0]), 1, true), [(4_294_967_296.0, 2)]);
        assert!(totals(block(vec![f64::NAN]), 1, false)[0].0.is_nan());
    }

    #[test]
    fn no_rows_have_totals_too() {
        assert_eq!(totals::<u16>([], 0, false), []);
    }
}
