//! Requests to read: one selection, and one or several matrices of its datasets.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Normalize, OpenStore, split_key};
use crate::error::{DaoError, Result};
use crate::genes::{self, Columns};
use crate::matrix::{EditingSink, Matrix, RowCache, RowSink};
use crate::number::{Dtype, Layout, Num};
use crate::store::MatrixName;

/// The output columns of each dataset's X and layers, by dataset number; `None` where they are the
/// output's.
pub type ColumnsByDataset = HashMap<u32, Option<Arc<Columns>>>;

/// One requested matrix, and the form in which it is returned.
#[derive(Debug, Clone)]
pub struct MatrixForm {
    /// The name of the matrix in each dataset.
    pub name: MatrixName,
    /// The number of columns of the output.
    pub n_columns: usize,
    /// The layout of the output: CSR or dense.
    pub layout: Layout,
    /// The number type of the output.
    pub dtype: Dtype,
    /// The normalization of each row, over all its columns, before any are left out.
    pub normalize: Option<Normalize>,
}

/// The name and size of one dataset, for checks and errors.
pub struct DatasetCells {
    /// The dataset's name.
    pub name: String,
    /// The number of cells.
    pub n_obs: u32,
}

/// A matrix of one dataset, and the output columns of its columns.
pub struct DatasetMatrix {
    /// The opened matrix.
    pub matrix: Arc<Matrix>,
    /// The matrix's columns in the output; `None` where they are the output's already.
    pub columns: Option<Arc<Columns>>,
    /// The number under which the matrix's rows are in the request's cache, different for each matrix.
    pub cache_number: u32,
}

/// One matrix of a request, opened in every dataset.
pub struct MatrixRequest {
    /// The requested matrix and its form.
    pub form: MatrixForm,
    /// The entry of each dataset, by its number.
    pub datasets: HashMap<u32, DatasetMatrix>,
}

/// The cells of a request, and the matrices that are read of each.
pub struct ReadRequest {
    /// Cell keys in frame order, `dataset_number << 32 | row`.
    pub keys: Vec<u64>,
    /// The entry of each dataset, by its number.
    pub datasets: HashMap<u32, DatasetCells>,
    /// The matrices, in the order of the results.
    pub matrices: Vec<MatrixRequest>,
    /// Decoded rows of all matrices that are kept for later, across epochs.
    pub cache: RowCache,
}

impl ReadRequest {
    /// Opens the matrices of the datasets that `columns` has, and checks that every key is a cell of one.
    ///
    /// # Errors
    /// `Value` for a key that is no such cell, for columns that do not fit a matrix, and for normalized
    /// integers; `Key` for a matrix that a dataset lacks; and as [`OpenStore::matrix`].
    pub fn open(store: &OpenStore, keys: Vec<u64>, columns: &ColumnsByDataset, forms: Vec<MatrixForm>) -> Result<Self> {
        let mut request = Self { keys, datasets: HashMap::new(), matrices: Vec::new(), cache: RowCache::default() };
        for &number in columns.keys() {
            let dataset = store.store().dataset_numbered(number)?;
            let n_obs =
                u32::try_from(dataset.n_obs).map_err(|_| DaoError::value("too many cells").at(dataset.place()))?;
            request.datasets.insert(number, DatasetCells { name: dataset.name.clone(), n_obs });
        }
        request.validate()?;
        let mut cache_numbers = 0..;
        for form in forms {
            if form.normalize.is_some() && !form.dtype.is_float() {
                return Err(DaoError::value("normalized values are no integers").expected("dtype float32 or float64"));
            }
            let mut datasets = HashMap::new();
            for (&number, columns) in columns {
                let dataset = store.store().dataset_numbered(number)?;
                let matrix = store.matrix(dataset, &form.name)?;
                let columns = columns.clone().filter(|_| form.name.is_of_genes());
                let n_source = columns.as_ref().map_or(form.n_columns, |columns| columns.n_source());
                if n_source as u64 != matrix.shape()[1] {
                    return Err(DaoError::value("the column map does not fit the matrix")
                        .at(format!("{}, matrix '{}'", dataset.place(), form.name))
                        .expected(format!("{} columns", matrix.shape()[1]))
                        .found(n_source));
                }
                let cache_number = cache_numbers.next().ok_or_else(|| DaoError::value("more than 2^32 matrices"))?;
                datasets.insert(number, DatasetMatrix { matrix, columns, cache_number });
            }
            request.matrices.push(MatrixRequest { form, datasets });
        }
        Ok(request)
    }

    fn validate(&self) -> Result<()> {
        for &key in &self.keys {
            let (number, row) = split_key(key);
            let cells = self.cells(number)?;
            if row >= cells.n_obs {
                return Err(DaoError::value(format!(
                    "a cell key names row {row} and the dataset has {} cells",
                    cells.n_obs
                ))
                .at(format!("dataset '{}'", cells.name))
                .hint("the frame belongs to another store, or to another state of this one"));
            }
        }
        Ok(())
    }

    fn cells(&self, number: u32) -> Result<&DatasetCells> {
        self.datasets.get(&number).ok_or_else(|| not_opened(number))
    }

    /// Reads `rows` (ascending, each once) of one dataset's `matrix` into `sink`, normalized, with columns of one
    /// output added up. The columns are still the dataset's, and those without an output may be missing. With
    /// `cached`, where many rows are decoded at a time, the other rows are kept in the request's cache.
    ///
    /// # Errors
    /// As [`Matrix::read`], with the dataset named.
    pub fn read<T: Num>(
        &self,
        matrix: &MatrixRequest,
        number: u32,
        rows: &[u32],
        cached: bool,
        sink: &mut dyn RowSink<T>,
    ) -> Result<()> {
        let DatasetMatrix { matrix: source, columns, cache_number } = matrix.dataset(number)?;
        let mut wanted = columns.as_deref().map(Columns::wanted);
        let mut normalized;
        let sink = match matrix.form.normalize {
            Some(normalize) => {
                wanted = None; // a row's total is over all of its columns
                let edit = move |_: &mut [i32], values: &mut [T]| {
                    normalize.apply(values);
                    Ok(())
                };
                normalized = EditingSink { sink, edit };
                &mut normalized as &mut dyn RowSink<T>
            }
            None => sink,
        };
        let mut summing;
        let sink = match columns.as_deref().filter(|columns| columns.sums()) {
            Some(columns) => {
                summing = genes::summing(sink, columns, source.dtype());
                &mut summing as &mut dyn RowSink<T>
            }
            None => sink,
        };
        let read = match cached {
            true => source.read_with(rows, wanted, (&self.cache, *cache_number), sink),
            false => source.read(rows, wanted, sink),
        };
        read.map_err(|e| match self.datasets.get(&number) {
            Some(cells) => e.at(format!("dataset '{}'", cells.name)),
            None => e,
        })
    }
}

impl MatrixRequest {
    /// The matrix of one dataset.
    ///
    /// # Errors
    /// `Value` for a dataset that was not opened.
    pub fn dataset(&self, number: u32) -> Result<&DatasetMatrix> {
        self.datasets.get(&number).ok_or_else(|| not_opened(number))
    }

    /// Whether rows are decoded one by one in every dataset: see [`Matrix::reads_rows`].
    #[must_use]
    pub fn reads_rows(&self) -> bool {
        self.datasets.values().all(|dataset| dataset.matrix.reads_rows())
    }
}

fn not_opened(number: u32) -> DaoError {
    DaoError::value(format!("a cell key names dataset number {number}, which was not opened"))
}
