//! Rows of one two-dimensional array, of any chunking: sfaira's matrices, and `obsm`.

use std::sync::Arc;

use super::Sink;
use super::array::ZarrArray;
use super::cast::cast_values;
use super::dtype::{Dtype, Num, for_dtype};
use crate::error::{DaoError, Result};
use crate::storage::Storage;

/// A dense matrix.
pub struct Dense {
    array: ZarrArray,
}

impl Dense {
    /// Opens the array at `path`.
    ///
    /// # Errors
    /// `NotFound`/`Corrupt` if it is missing, or not two-dimensional.
    pub fn open(storage: &Arc<dyn Storage>, path: &str) -> Result<Self> {
        let array = ZarrArray::open(storage, path)?;
        if array.shape().len() != 2 || i32::try_from(array.shape()[1]).is_err() {
            return Err(DaoError::corrupt(array.place(), "not a matrix")
                .expected("two axes, fewer than 2^31 columns")
                .found(format!("shape {:?}", array.shape())));
        }
        Ok(Self { array })
    }

    pub fn shape(&self) -> [u64; 2] {
        [self.array.shape()[0], self.array.shape()[1]]
    }

    pub fn dtype(&self) -> Dtype {
        self.array.dtype()
    }

    /// See [`super::Matrix::read`]. Values other than zero are kept, NaN among them.
    pub fn read<T: Num>(&self, rows: &[u32], wanted: Option<&[bool]>, sink: &mut dyn Sink<T>) -> Result<()> {
        for_dtype!(self.array.dtype(), S => self.read_stored::<S, T>(rows, wanted, sink))
    }

    fn read_stored<S: Num, T: Num>(&self, rows: &[u32], wanted: Option<&[bool]>, sink: &mut dyn Sink<T>) -> Result<()> {
        let [n_obs, n_vars] = self.shape();
        if let Some(row) = rows.iter().find(|&&row| u64::from(row) >= n_obs) {
            return Err(DaoError::value(format!("row {row} was asked for and the matrix has {n_obs}"))
                .at(format!("path '{}'", self.array.place())));
        }
        let inner = self.array.inner_shape();
        let width = len(inner[1])?;
        let column_chunks: Vec<u64> = (0..n_vars.div_ceil(inner[1]))
            .filter(|chunk| {
                let columns = len(chunk * inner[1]).unwrap_or(usize::MAX)
                    ..len(((chunk + 1) * inner[1]).min(n_vars)).unwrap_or(usize::MAX);
                wanted.is_none_or(|wanted| wanted.get(columns).is_none_or(|part| part.contains(&true)))
            })
            .collect();
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        let mut next = 0..rows.len();
        // All column chunks of one band of rows at a time, so that a row's values come in order.
        for band in rows.chunk_by(|a, b| u64::from(*a) / inner[0] == u64::from(*b) / inner[0]) {
            let row_chunk = u64::from(band[0]) / inner[0];
            let chunks: Vec<Vec<u64>> = column_chunks.iter().map(|&column| vec![row_chunk, column]).collect();
            let mut decoded: Vec<Vec<S>> = vec![Vec::new(); chunks.len()];
            self.array.decode::<S>(&chunks, |i, values| {
                decoded[i] = band
                    .iter()
                    .flat_map(|&row| {
                        let at = len(u64::from(row) % inner[0]).unwrap_or(0) * width;
                        &values[at..at + width]
                    })
                    .copied()
                    .collect();
                Ok(())
            })?;
            for (i, row) in (0..band.len()).zip(next.by_ref()) {
                columns.clear();
                values.clear();
                for (decoded, &chunk) in decoded.iter().zip(&column_chunks) {
                    let first = chunk * inner[1];
                    let used = len((n_vars - first).min(inner[1]))?;
                    push_nonzero(&decoded[i * width..i * width + used], first, &mut columns, &mut values)?;
                }
                sink.row(row, columns.len(), &mut |to_columns, to_values| {
                    to_columns.copy_from_slice(&columns);
                    cast_values(&values, to_values).map_err(|e| e.at(format!("path '{}'", self.array.place())))
                })?;
            }
        }
        Ok(())
    }
}

fn push_nonzero<S: Num>(row: &[S], first: u64, columns: &mut Vec<i32>, values: &mut Vec<S>) -> Result<()> {
    let first = i32::try_from(first).map_err(|_| DaoError::value("more than 2^31 - 1 columns"))?;
    for (column, &value) in (first..).zip(row) {
        if value != S::zero() {
            columns.push(column);
            values.push(value);
        }
    }
    Ok(())
}

fn len(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| DaoError::value("the matrix is too large for this machine"))
}
