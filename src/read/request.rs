//! Requests to read: one selection, and one or several matrices of its datasets.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Normalize, OpenStore, split_key};
use crate::error::{DaoError, Result};
use crate::genes::{Columns, Genes, SummingSink};
use crate::matrix::{FillRow, Matrix, RowCache, RowSink};
use crate::number::{Dtype, Layout, Num};
use crate::store::MatrixName;

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

/// A matrix of one dataset, and the output columns of its columns.
pub struct DatasetMatrix {
    /// The opened matrix.
    pub matrix: Arc<Matrix>,
    /// The matrix's columns in the output; `None` where they are the output's already.
    pub columns: Option<Arc<Columns>>,
    /// The name of the dataset in errors.
    place: String,
    /// The number under which the matrix's rows are in the request's cache, different for each matrix.
    cache_number: u32,
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
    /// The matrices, in the order of the results.
    pub matrices: Vec<MatrixRequest>,
    /// Decoded rows of all matrices that are kept for later, across epochs: none, unless it is given a limit.
    pub cache: RowCache,
}

impl ReadRequest {
    /// Opens matrices of the datasets that `genes` were resolved for (none where there are no keys), and checks that
    /// every key is a cell of one.
    ///
    /// # Errors
    /// `Value` for a key that is no such cell, for columns that do not fit a matrix, and for normalized
    /// integers; `Key` for a matrix that a dataset lacks; and as [`OpenStore::matrix`].
    pub fn open(store: &OpenStore, keys: Vec<u64>, genes: &Genes, forms: Vec<MatrixForm>) -> Result<Self> {
        let numbers = genes.numbers().filter(|_| !keys.is_empty());
        let datasets = numbers.map(|number| Ok((number, store.store().dataset_numbered(number)?)));
        let datasets: HashMap<u32, _> = datasets.collect::<Result<_>>()?;
        for &key in &keys {
            let (number, row) = split_key(key);
            let dataset = datasets.get(&number).ok_or_else(|| not_opened(number))?;
            if u64::from(row) >= dataset.n_obs {
                let what = format!("a cell key names row {row} and the dataset has {} cells", dataset.n_obs);
                return Err(DaoError::value(what)
                    .at(dataset.place())
                    .hint("the frame belongs to another store, or to another state of this one"));
            }
        }
        let columns = datasets.keys().map(|&number| Ok((number, genes.columns(number)?.map(Arc::new))));
        let columns: HashMap<u32, _> = columns.collect::<Result<_>>()?;
        let mut cache_numbers = 0..;
        let mut matrices = Vec::with_capacity(forms.len());
        for form in forms {
            if form.normalize.is_some() && !form.dtype.is_float() {
                return Err(DaoError::value("normalized values are no integers").expected("dtype float32 or float64"));
            }
            let mut opened = HashMap::new();
            for (&number, dataset) in &datasets {
                let matrix = store.matrix(dataset, &form.name)?;
                let columns = columns[&number].clone().filter(|_| form.name.is_of_genes());
                let n_source = columns.as_ref().map_or(form.n_columns, |columns| columns.len());
                if n_source as u64 != matrix.shape()[1] {
                    return Err(DaoError::value("the column map does not fit the matrix")
                        .at(format!("{}, matrix '{}'", dataset.place(), form.name))
                        .expected(format!("{} columns", matrix.shape()[1]))
                        .found(n_source));
                }
                let cache_number = cache_numbers.next().ok_or_else(|| DaoError::value("more than 2^32 matrices"))?;
                opened.insert(number, DatasetMatrix { matrix, columns, place: dataset.place(), cache_number });
            }
            matrices.push(MatrixRequest { form, datasets: opened });
        }
        Ok(Self { keys, matrices, cache: RowCache::default() })
    }

    /// Reads `rows` (ascending, each once) of one dataset's `matrix` into `sink`, normalized, with columns of one
    /// output added up. The columns are still the dataset's, and those without an output may be missing. Rows that
    /// are decoded along with these are kept in the request's cache.
    ///
    /// # Errors
    /// As [`Matrix::read`], with the dataset named.
    pub fn read<T: Num>(
        &self,
        matrix: &MatrixRequest,
        number: u32,
        rows: &[u32],
        sink: &mut dyn RowSink<T>,
    ) -> Result<()> {
        let DatasetMatrix { matrix: source, columns, place, cache_number } = matrix.dataset(number)?;
        let columns = columns.as_deref();
        // A row's total is over all of its columns.
        let wanted = columns.map(Columns::wanted).filter(|_| matrix.form.normalize.is_none());
        let (mut normalizing, mut summing);
        let sink = match matrix.form.normalize {
            Some(normalize) => {
                normalizing = NormalizingSink { sink, normalize };
                &mut normalizing as &mut dyn RowSink<T>
            }
            None => sink,
        };
        let sink = match columns.filter(|columns| columns.sums()) {
            Some(columns) => {
                summing = SummingSink::new(sink, columns, source.dtype());
                &mut summing as &mut dyn RowSink<T>
            }
            None => sink,
        };
        source.read_with(rows, wanted, Some((&self.cache, *cache_number)), sink).map_err(|e| e.at(place))
    }
}

impl MatrixRequest {
    /// The matrix of one dataset; `Value` if it was not opened.
    pub fn dataset(&self, number: u32) -> Result<&DatasetMatrix> {
        self.datasets.get(&number).ok_or_else(|| not_opened(number))
    }

    /// Whether rows are decoded one by one in every dataset: see [`Matrix::reads_rows`].
    pub fn reads_rows(&self) -> bool {
        self.datasets.values().all(|dataset| dataset.matrix.reads_rows())
    }
}

fn not_opened(number: u32) -> DaoError {
    DaoError::value(format!("a cell key names dataset number {number}, which was not opened"))
}

/// A sink that normalizes rows before it hands them on.
struct NormalizingSink<'a, T> {
    sink: &'a mut dyn RowSink<T>,
    normalize: Normalize,
}

impl<T: Num> RowSink<T> for NormalizingSink<'_, T> {
    fn row(&mut self, i: usize, nnz: usize, fill: FillRow<'_, T>) -> Result<()> {
        self.sink.row(i, nnz, &mut |columns, values| {
            fill(columns, values)?;
            self.normalize.apply(values);
            Ok(())
        })
    }
}
