//! One matrix of a new dataset, from blocks of source rows or columns.
//!
//! Owns the way from source to output: columns may be mapped or dropped, rows permuted.

use std::path::{Path, PathBuf};

use super::sink::Sink;
use super::spill::{Block, Spill};
use super::totals::Kept;
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Layout, Num, Values, cast_vec, for_dtype, for_dtype_values};
use crate::store::MatrixName;

/// What a matrix will be, and how its source maps to it.
#[derive(Debug, Clone)]
pub struct MatrixSpec {
    /// What it is called.
    pub name: MatrixName,
    /// As CSR arrays, or as one dense array.
    pub layout: Layout,
    /// Whether CSR arrays are in core codecs alone; dense ones always are.
    pub portable: bool,
    /// Output rows and columns.
    pub shape: [u64; 2],
    /// The type it is stored in.
    pub stored: Dtype,
    /// For each source column its output column, or -1; `None` where they are the same.
    pub columns: Option<Vec<i32>>,
    /// For each source row its output row; `None` where they are the same.
    pub rows: Option<Vec<u32>>,
    /// Entries of the source, about.
    pub source_nnz: u64,
    /// Whether each row's sum and count are kept beside it.
    pub totals: bool,
    /// Whether it is described as the `csc_matrix` that its rows are the columns of.
    pub transposed: bool,
}

/// Takes a matrix's values; see the module.
pub struct MatrixWriter {
    inner: Box<dyn Take>,
}

impl MatrixWriter {
    /// A matrix below the dataset folder `dataset`.
    ///
    /// # Errors
    /// `Value` for a spec that contradicts itself, `Io` if the folders cannot be made.
    pub fn new(dataset: &Path, spec: MatrixSpec) -> Result<Self> {
        let n_rows = spec.shape[0];
        if u32::try_from(n_rows).is_err() || i32::try_from(spec.shape[1]).is_err() {
            return Err(DaoError::value(format!("a matrix of {} × {} is too large", n_rows, spec.shape[1]))
                .expected("fewer than 2^32 rows and 2^31 columns"));
        }
        if let Some(rows) = &spec.rows {
            let mut seen = vec![false; rows.len()];
            let permutation = rows.len() as u64 == n_rows
                && rows
                    .iter()
                    .all(|&row| seen.get_mut(row as usize).is_some_and(|seen| !std::mem::replace(seen, true)));
            if !permutation {
                return Err(DaoError::value("the new row numbers are no permutation"));
            }
        }
        if let Some(columns) = &spec.columns
            && columns.iter().any(|&column| i64::from(column) >= i64::try_from(spec.shape[1]).unwrap_or(i64::MAX))
        {
            return Err(DaoError::value("a new column number is past the output's columns"));
        }
        let stored = spec.stored;
        let inner: Box<dyn Take> = for_dtype!(stored, T => Box::new(Typed::<T>::new(dataset, spec)?));
        Ok(Self { inner })
    }

    /// The next source rows, as CSR.
    ///
    /// # Errors
    /// `Corrupt` for offsets or columns out of range, `Value` for a value the stored type cannot
    /// hold, `Io` for a full disk.
    pub fn push_rows(&mut self, indptr: &[i64], indices: &[i32], data: &Values) -> Result<()> {
        self.inner.rows(&offsets(indptr, indices.len(), data.len())?, indices, data)
    }

    /// The next source columns, as CSC.
    ///
    /// # Errors
    /// As [`MatrixWriter::push_rows`].
    pub fn push_columns(&mut self, indptr: &[i64], indices: &[i32], data: &Values) -> Result<()> {
        self.inner.columns(&offsets(indptr, indices.len(), data.len())?, indices, data)
    }

    /// The next source rows, row-major, `width` values each.
    ///
    /// # Errors
    /// As [`MatrixWriter::push_rows`].
    pub fn push_dense(&mut self, width: usize, data: &Values) -> Result<()> {
        self.inner.dense(width, data)
    }

    /// Writes the rest; the number of values stored.
    ///
    /// # Errors
    /// `Corrupt` if rows or columns are missing, `Io` for a full disk.
    pub fn finish(self) -> Result<u64> {
        self.inner.finish()
    }
}

trait Take: Send {
    fn rows(&mut self, indptr: &[usize], indices: &[i32], data: &Values) -> Result<()>;
    fn columns(&mut self, indptr: &[usize], indices: &[i32], data: &Values) -> Result<()>;
    fn dense(&mut self, width: usize, data: &Values) -> Result<()>;
    fn finish(self: Box<Self>) -> Result<u64>;
}

struct Typed<T> {
    spec: MatrixSpec,
    sink: Sink,
    spill_folder: PathBuf,
    spill: Option<Spill<T>>,
    /// Source rows (or columns, from a CSC source) taken so far.
    taken: u64,
    by_columns: bool,
}

impl<T: Num> Typed<T> {
    fn new(dataset: &Path, spec: MatrixSpec) -> Result<Self> {
        let folder = dataset.join("zarr").join(spec.name.to_string());
        let totals =
            spec.totals.then(|| Kept::new(dataset.join("zarr/totals").join(spec.name.to_string()), spec.portable));
        let sink = Sink::new(&folder, &spec, totals)?;
        let spill_folder = dataset.join(format!(".spill-{}", spec.name.to_string().replace('/', "-")));
        Ok(Self { spec, sink, spill_folder, spill: None, taken: 0, by_columns: false })
    }

    fn source_columns(&self) -> u64 {
        self.spec.columns.as_ref().map_or(self.spec.shape[1], |columns| columns.len() as u64)
    }

    /// The output column of a source column; `None` if it is dropped.
    fn column(&self, source: u64) -> Result<Option<i32>> {
        if source >= self.source_columns() {
            return Err(DaoError::corrupt(&self.spec.name.to_string(), "a column number is out of range")
                .expected(format!("below {}", self.source_columns()))
                .found(source));
        }
        let column = match &self.spec.columns {
            Some(columns) => usize::try_from(source).ok().and_then(|source| columns.get(source)).copied().unwrap_or(-1),
            None => i32::try_from(source).unwrap_or(-1),
        };
        Ok((column >= 0).then_some(column))
    }

    fn row(&self, source: u64) -> Result<u32> {
        let row = match &self.spec.rows {
            Some(rows) => usize::try_from(source).ok().and_then(|source| rows.get(source)).copied(),
            None => u32::try_from(source).ok().filter(|_| source < self.spec.shape[0]),
        };
        row.ok_or_else(|| {
            DaoError::corrupt(&self.spec.name.to_string(), "a row number is out of range")
                .expected(format!("below {}", self.spec.shape[0]))
                .found(source)
        })
    }

    fn spill(&mut self) -> Result<&mut Spill<T>> {
        match &mut self.spill {
            Some(spill) => Ok(spill),
            empty => Ok(empty.insert(Spill::new(&self.spill_folder, self.spec.shape[0], self.spec.source_nnz)?)),
        }
    }

    fn cast(data: &Values, place: &str) -> Result<Vec<T>> {
        for_dtype_values!(data, values => cast_vec(values)).map_err(|e| e.at(place.to_owned()))
    }

    /// Rows with mapped columns, to their place: straight on, or through the spill.
    fn place(&mut self, first: u64, block: Block<T>) -> Result<()> {
        if self.spec.rows.is_none() {
            return self.sink.write(block, &self.spec.name.to_string());
        }
        for (i, ends) in (first..).zip(block.indptr.windows(2)) {
            let row = self.row(i)?;
            let spill = self.spill()?;
            for at in ends[0]..ends[1] {
                spill.push(row, block.indices[at], block.data[at])?;
            }
        }
        self.spill()?;
        Ok(())
    }
}

impl<T: Num> Take for Typed<T> {
    fn rows(&mut self, indptr: &[usize], indices: &[i32], data: &Values) -> Result<()> {
        let data = Self::cast(data, &self.spec.name.to_string())?;
        let mut block =
            Block { indptr: vec![0], indices: Vec::with_capacity(indices.len()), data: Vec::with_capacity(data.len()) };
        for ends in indptr.windows(2) {
            for at in ends[0]..ends[1] {
                if let Some(column) = self.column(u64::try_from(indices[at]).unwrap_or(u64::MAX))? {
                    block.indices.push(column);
                    block.data.push(data[at]);
                }
            }
            block.indptr.push(block.indices.len());
        }
        let first = self.taken;
        self.taken += indptr.len().saturating_sub(1) as u64;
        self.place(first, block)
    }

    fn columns(&mut self, indptr: &[usize], indices: &[i32], data: &Values) -> Result<()> {
        self.by_columns = true;
        let data = Self::cast(data, &self.spec.name.to_string())?;
        self.spill()?;
        for ends in indptr.windows(2) {
            let column = self.column(self.taken)?;
            self.taken += 1;
            let Some(column) = column else { continue };
            for at in ends[0]..ends[1] {
                let row = self.row(u64::try_from(indices[at]).unwrap_or(u64::MAX))?;
                self.spill()?.push(row, column, data[at])?;
            }
        }
        Ok(())
    }

    fn dense(&mut self, width: usize, data: &Values) -> Result<()> {
        if width as u64 != self.source_columns() {
            return Err(DaoError::corrupt(&self.spec.name.to_string(), "a block has the wrong number of columns")
                .expected(self.source_columns())
                .found(width));
        }
        let data = Self::cast(data, &self.spec.name.to_string())?;
        let mut block = Block { indptr: vec![0], indices: Vec::new(), data: Vec::new() };
        let n_rows = data.len().checked_div(width).unwrap_or(0);
        for row in data.chunks_exact(width.max(1)) {
            for (source, &value) in (0_u64..).zip(row) {
                if value != T::zero()
                    && let Some(column) = self.column(source)?
                {
                    block.indices.push(column);
                    block.data.push(value);
                }
            }
            block.indptr.push(block.indices.len());
        }
        let first = self.taken;
        self.taken += n_rows as u64;
        self.place(first, block)
    }

    fn finish(mut self: Box<Self>) -> Result<u64> {
        let (what, expected) =
            if self.by_columns { ("columns", self.source_columns()) } else { ("rows", self.spec.shape[0]) };
        // A matrix without columns has rows all the same.
        let empty = self.spec.shape[1] == 0 || self.source_columns() == 0;
        if self.taken != expected && !empty {
            return Err(DaoError::corrupt(
                &self.spec.name.to_string(),
                format!("the source ended before all its {what} came"),
            )
            .expected(expected)
            .found(self.taken));
        }
        if let Some(spill) = self.spill.take() {
            let (sink, name) = (&mut self.sink, self.spec.name.to_string());
            spill.finish(|block| sink.write(block, &name))?;
        }
        self.sink.finish(self.spec.shape)
    }
}

fn offsets(indptr: &[i64], n_indices: usize, n_data: usize) -> Result<Vec<usize>> {
    let wrong = |what: &str| {
        Err(DaoError::new(crate::error::ErrorKind::Corrupt, format!("a block of the source is broken: {what}")))
    };
    let Ok(offsets) = indptr.iter().map(|&at| usize::try_from(at)).collect::<std::result::Result<Vec<_>, _>>() else {
        return wrong("a negative offset");
    };
    if offsets.first() != Some(&0) || offsets.windows(2).any(|pair| pair[0] > pair[1]) {
        return wrong("offsets do not ascend from 0");
    }
    if offsets.last() != Some(&n_indices) || n_indices != n_data {
        return wrong("offsets, indices and data differ in length");
    }
    Ok(offsets)
}
