//! Sparse rows on their way from a matrix to their receiver.

use crate::error::Result;
use crate::number::{Num, resize};

/// Rows of a matrix, sparse: the `i`-th has `indices[indptr[i]..indptr[i + 1]]`, ascending, and `data` beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<T> {
    /// Offsets into `indices` and `data`; one more than rows.
    pub indptr: Vec<usize>,
    /// The columns of the rows, one row after another.
    pub indices: Vec<i32>,
    /// The values of the rows, beside their columns.
    pub data: Vec<T>,
}

impl<T> Rows<T> {
    /// No rows.
    pub fn empty() -> Self {
        Self { indptr: vec![0], indices: Vec::new(), data: Vec::new() }
    }
}

/// Writes a row's columns, ascending, and its values.
pub type FillRow<'a, T> = &'a mut dyn FnMut(&mut [i32], &mut [T]) -> Result<()>;

/// The receiver of a matrix's rows. Called through a pointer, once a row: matrices are then compiled for
/// each number type and not for each sink too.
pub trait RowSink<T> {
    /// Takes the `i`-th requested row. `fill` writes its `nnz` columns, ascending, and its values to
    /// where the sink wants them.
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()>;
}

/// A sink that appends rows one after another.
impl<T: Num> RowSink<T> for Rows<T> {
    fn row(&mut self, _: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        let at = self.data.len();
        resize(&mut self.indices, at + nnz)?;
        resize(&mut self.data, at + nnz)?;
        self.indptr.push(at + nnz);
        fill(&mut self.indices[at..], &mut self.data[at..])
    }
}

/// The memory of one row, used again for the next: for sinks that look at a row and do not keep it.
#[derive(Debug)]
pub struct RowBuffer<T> {
    columns: Vec<i32>,
    values: Vec<T>,
}

impl<T> Default for RowBuffer<T> {
    fn default() -> Self {
        Self { columns: Vec::new(), values: Vec::new() }
    }
}

impl<T: Num> RowBuffer<T> {
    /// The columns and values of a row of `nnz` that `fill` writes.
    pub fn fill(&mut self, nnz: usize, fill: FillRow<'_, T>) -> Result<(&mut [i32], &mut [T])> {
        resize(&mut self.columns, nnz)?;
        resize(&mut self.values, nnz)?;
        fill(&mut self.columns, &mut self.values)?;
        Ok((&mut self.columns, &mut self.values))
    }
}

/// A sink that changes rows before it hands them on.
pub struct EditingSink<'a, T, F> {
    /// The receiver of the changed rows.
    pub sink: &'a mut dyn RowSink<T>,
    /// Changes the columns and values of a row, in place.
    pub edit: F,
}

impl<T: Num, F: FnMut(&mut [i32], &mut [T]) -> Result<()>> RowSink<T> for EditingSink<'_, T, F> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        self.sink.row(i, nnz, &mut |columns, values| {
            fill(columns, values)?;
            (self.edit)(columns, values)
        })
    }
}

/// A sink that shows rows, with their places in the request, and does not keep them.
pub struct ShowingSink<T, F> {
    pub buffer: RowBuffer<T>,
    /// Sees the columns and values of a row.
    pub see: F,
}

impl<T: Num, F: FnMut(usize, &[i32], &[T]) -> Result<()>> RowSink<T> for ShowingSink<T, F> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        let (columns, values) = self.buffer.fill(nnz, fill)?;
        (self.see)(i, columns, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::DaoError;

    fn write(columns: &mut [i32], values: &mut [f32]) -> Result<()> {
        for (i, (column, value)) in (0..).zip(columns.iter_mut().zip(values)) {
            (*column, *value) = (i, 0.5);
        }
        Ok(())
    }

    #[test]
    fn rows_come_one_after_another() {
        let mut rows = Rows::empty();
        for nnz in [2, 0, 1] {
            rows.row(0, nnz, &mut write).unwrap();
        }
        assert_eq!((rows.indptr, rows.indices, rows.data), (vec![0, 2, 2, 3], vec![0, 1, 0], vec![0.5; 3]));
    }

    #[test]
    fn a_buffer_has_the_last_row_alone() {
        let mut buffer = RowBuffer::default();
        for nnz in [3, 0, 2] {
            let (columns, values) = buffer.fill(nnz, &mut write).unwrap();
            assert_eq!((columns.len(), values.len()), (nnz, nnz));
        }
        let error = buffer.fill(1, &mut |_, _| Err(DaoError::value("damaged"))).unwrap_err();
        assert_eq!(error.to_string(), "damaged");
    }
}
