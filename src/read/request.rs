//! Requests to read: one selection, and one or several matrices of its parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CellKeys, Normalize, OpenStore, check_rows, schedule, split_key};
use crate::error::{DaoError, Result};
use crate::genes::{self, Columns, Genes};
use crate::matrix::{EditingSink, Matrix, RowCache, RowSink};
use crate::number::{Dtype, Layout, Num};
use crate::storage::Held;
use crate::store::{MatrixName, Part};

/// The rows of all parts and matrices up to which it is held in memory where they lie, even if few of them are wanted: 64 MB. To look a row
/// up takes as long as to decode some hundred values.
const FEW_ROWS: u64 = 28_000_000;

/// One requested matrix, and the form in which it is returned.
#[derive(Debug, Clone)]
pub struct MatrixForm {
    /// The name of the matrix in each part.
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

/// A matrix of one part, and the output columns of its columns.
pub struct PartMatrix {
    /// The opened matrix.
    pub matrix: Arc<Matrix>,
    /// The matrix's columns in the output; `None` where they are the output's already.
    pub columns: Option<Arc<Columns>>,
    /// The name of the part in errors.
    place: String,
    /// The number under which the matrix's rows are in the request's cache, different for each matrix.
    cache_number: u32,
}

/// One matrix of a request, opened in every part.
pub struct MatrixRequest {
    /// The requested matrix and its form.
    pub form: MatrixForm,
    /// The number and the entry of each part, by ascending number.
    pub parts: Vec<(u32, PartMatrix)>,
}

/// The cells of a request, and the matrices that are read of each.
pub struct ReadRequest {
    /// Cell keys in frame order.
    pub keys: Arc<CellKeys>,
    /// The matrices, in the order of the results.
    pub matrices: Vec<MatrixRequest>,
    /// Decoded rows of all matrices that are kept for later, across epochs: none, unless it is given a limit.
    pub cache: RowCache,
}

impl ReadRequest {
    /// Opens matrices of the parts that keys are of, of those that `genes` were resolved for, and checks that every key is a
    /// cell of one.
    ///
    /// # Errors
    /// `Value` for a key that is no such cell, for columns that do not fit a matrix, and for normalized
    /// integers; `Key` for a matrix that a part lacks; and as [`OpenStore::matrix`].
    pub fn open(store: &OpenStore, keys: Arc<CellKeys>, genes: &Genes, forms: Vec<MatrixForm>) -> Result<Self> {
        let mut wanted: BTreeMap<u32, u64> = BTreeMap::new(); // the cells of each part
        keys.by_part().for_each(|(number, range)| *wanted.entry(number).or_default() += range.len() as u64);
        let parts = genes.columns().filter(|(number, _)| wanted.contains_key(number));
        let parts = parts.map(|(number, columns)| Ok((number, (store.store().part_numbered(number)?, columns))));
        let parts: BTreeMap<u32, _> = parts.collect::<Result<_>>()?;
        for (number, range) in keys.by_part() {
            let (part, _) = parts.get(&number).ok_or_else(|| not_opened(number))?;
            check_rows(store, part, keys.range(range).map(|key| split_key(key).1))?;
        }
        let n_rows: u64 = parts.values().map(|(part, _)| part.n_obs).sum();
        let is_small = n_rows.saturating_mul(forms.len() as u64) <= FEW_ROWS;
        let hold = |part: &Part, number| is_small || wanted.get(&number).is_some_and(|&n| are_many(n, part));
        let mut cache_numbers = 0..;
        let mut matrices = Vec::with_capacity(forms.len());
        for form in forms {
            if form.normalize.is_some() && !form.dtype.is_float() {
                return Err(DaoError::value("normalized values are no integers").expected("dtype float32 or float64"));
            }
            let mut opened = Vec::with_capacity(parts.len());
            let listed: Vec<_> = parts.iter().collect();
            let open = |at: usize| {
                let (&number, (part, columns)) = listed[at];
                Ok((number, part, columns, store.matrix(part, &form.name)?))
            };
            let mut take = |(number, part, columns, matrix): (u32, &&Part, &Option<Arc<Columns>>, Arc<Matrix>)| {
                let columns = columns.clone().filter(|_| form.name.is_of_genes());
                let n_source = columns.as_ref().map_or(form.n_columns, |columns| columns.n_source());
                if n_source as u64 != matrix.shape()[1] {
                    return Err(DaoError::value("the column map does not fit the matrix")
                        .at(format!("{}, matrix '{}'", part.place(), form.name))
                        .expected(format!("{} columns", matrix.shape()[1]))
                        .found(n_source));
                }
                let cache_number = cache_numbers.next().ok_or_else(|| DaoError::value("more than 2^32 matrices"))?;
                if hold(part, number) {
                    matrix.hold_rows()?;
                }
                opened.push((number, PartMatrix { matrix, columns, place: part.place(), cache_number }));
                Ok(())
            };
            schedule::in_order(listed.len(), store.parts_at_once(), open, &mut take, || Ok(()))?;
            matrices.push(MatrixRequest { form, parts: opened });
        }
        Ok(Self { keys, matrices, cache: RowCache::default() })
    }

    /// Whether some of the rows come over a network, and are better asked for before they are needed.
    pub fn reads_ahead(&self) -> bool {
        self.matrices.iter().flat_map(|matrix| &matrix.parts).any(|(_, part)| part.matrix.is_remote())
    }

    /// The mean number of stored values of some cells, of all matrices together.
    pub fn row_values(&self, keys: impl Iterator<Item = u64>) -> u64 {
        let (mut n, mut bytes) = (0_u64, 0_u64);
        for key in keys {
            let (number, row) = split_key(key);
            let parts = self.matrices.iter().filter_map(|matrix| matrix.part(number).ok());
            bytes += parts.map(|part| part.matrix.row_bytes(row)).sum::<u64>();
            n += 1;
        }
        bytes.checked_div(12 * n).unwrap_or(0)
    }

    /// Begins to read where rows (ascending, each once) of one part's `matrix` lie: see [`Matrix::locate_ahead`].
    ///
    /// # Errors
    /// As [`Matrix::read`], with the dataset named.
    pub fn locate_ahead(&self, matrix: &MatrixRequest, number: u32, rows: &[u32]) -> Result<Option<Box<dyn Held>>> {
        let part = matrix.part(number)?;
        part.matrix.locate_ahead(rows, matrix.columns_read(part)).map_err(|e| e.at(&part.place))
    }

    /// Begins to read rows (ascending, each once) of one part's `matrix`: see [`Matrix::read_ahead`].
    ///
    /// # Errors
    /// As [`Matrix::read`], with the dataset named.
    pub fn read_ahead(&self, matrix: &MatrixRequest, number: u32, rows: &[u32]) -> Result<Option<Box<dyn Held>>> {
        let part = matrix.part(number)?;
        part.matrix.read_ahead(rows, matrix.columns_read(part)).map_err(|e| e.at(&part.place))
    }

    /// Reads `rows` (ascending, each once) of one part's `matrix` into `sink`, normalized, with columns of one
    /// output added up. The columns are still the part's, and those without an output may be missing. Rows that
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
        let part = matrix.part(number)?;
        let PartMatrix { matrix: source, columns, place, cache_number } = part;
        let columns = columns.as_deref();
        let (mut normalizing, mut summing);
        let sink = match matrix.form.normalize {
            Some(normalize) => {
                let edit = move |_: &mut [i32], values: &mut [T]| {
                    normalize.apply(values);
                    Ok(())
                };
                normalizing = EditingSink { sink, edit };
                &mut normalizing as &mut dyn RowSink<T>
            }
            None => sink,
        };
        let sink = match columns.filter(|columns| columns.sums()) {
            Some(columns) => {
                summing = genes::summing(sink, columns, source.dtype());
                &mut summing as &mut dyn RowSink<T>
            }
            None => sink,
        };
        source
            .read_with(rows, matrix.columns_read(part), Some((&self.cache, *cache_number)), sink)
            .map_err(|e| e.at(place))
    }
}

impl MatrixRequest {
    /// The matrix of one part; `Value` if it was not opened.
    pub fn part(&self, number: u32) -> Result<&PartMatrix> {
        let at = self.parts.binary_search_by_key(&number, |&(number, _)| number);
        at.map(|at| &self.parts[at].1).map_err(|_| not_opened(number))
    }

    /// The columns of a part's matrix that have to be read; `None` for all.
    fn columns_read<'a>(&self, part: &'a PartMatrix) -> Option<&'a [bool]> {
        // A row's total is over all of its columns.
        part.columns.as_deref().map(Columns::wanted).filter(|_| self.form.normalize.is_none())
    }

    /// Whether rows are decoded one by one in every part: see [`Matrix::reads_rows`].
    pub fn reads_rows(&self) -> bool {
        self.parts.iter().all(|(_, part)| part.matrix.reads_rows())
    }
}

/// Whether so many rows of a part are wanted that it is held in memory where all of them lie.
pub fn are_many(wanted: u64, part: &Part) -> bool {
    wanted >= part.n_obs / 2
}

fn not_opened(number: u32) -> DaoError {
    DaoError::value(format!("a cell key names part number {number}, which was not opened"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{datasets, written};
    use super::*;
    use crate::error::ErrorKind;
    use crate::genes::Mapping;
    use crate::matrix::Rows;

    fn form(name: MatrixName, n_columns: usize) -> MatrixForm {
        MatrixForm { name, n_columns, layout: Layout::Csr, dtype: Dtype::F32, normalize: None }
    }

    /// Genes of a part of five, each of which becomes the output in `pairs`.
    fn genes(n_genes: usize, pairs: &[(u32, u32)]) -> Genes {
        let mapping = Mapping::new(5, n_genes, pairs.to_vec()).unwrap();
        Genes { names: None, n_genes, groups: vec![(vec![0, 4], Some(mapping))] }
    }

    /// The rows of a part, as pairs of column and value; those without an output are left out.
    fn read(request: &ReadRequest, number: u32, rows: &[u32]) -> Result<Vec<Vec<(i32, f32)>>> {
        let matrix = &request.matrices[0];
        let mut all = Rows::<f32>::empty();
        request.read(matrix, number, rows, &mut all)?;
        let columns = matrix.part(number)?.columns.as_deref();
        let is_wanted = |&(column, _): &(i32, f32)| columns.is_none_or(|columns| columns.target(column) >= 0);
        let pairs = |at: std::ops::Range<usize>| at.map(|at| (all.indices[at], all.data[at])).filter(is_wanted);
        Ok(all.indptr.windows(2).map(|ends| pairs(ends[0]..ends[1]).collect()).collect())
    }

    #[test]
    fn rows_of_every_part_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path(), |_| ());
        let keys = vec![4 << 32 | 1, 0, 2, 0];
        let request =
            ReadRequest::open(&store, Arc::new(keys.into()), &Genes::all([0, 4], 5), vec![form(MatrixName::X, 5)])
                .unwrap();
        for (_, number, rows) in datasets() {
            let wanted: Vec<u32> = (0..u32::try_from(rows.len()).unwrap()).collect();
            let wide = |row: &Vec<(i32, u16)>| row.iter().map(|&(column, value)| (column, value.into())).collect();
            assert_eq!(read(&request, number, &wanted).unwrap(), rows.iter().map(wide).collect::<Vec<Vec<_>>>());
        }
        assert!(request.matrices[0].reads_rows());
        let error = read(&request, 0, &[3]).unwrap_err();
        assert!(error.to_string().contains("row 3") && error.to_string().contains("dataset 'lung'"), "{error}");
        assert_eq!(read(&request, 1, &[0]).unwrap_err().kind(), ErrorKind::Value);
    }

    #[test]
    fn totals_are_over_all_columns_and_outputs_are_sums() {
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path(), |_| ());
        let normalize = Some(Normalize { target_sum: Some(80.0), log1p: false });
        let forms = vec![MatrixForm { normalize, ..form(MatrixName::X, 2) }];
        let request = ReadRequest::open(&store, Arc::new(vec![0].into()), &genes(2, &[(0, 1), (2, 0)]), forms).unwrap();
        assert_eq!(read(&request, 0, &[0, 1, 2]).unwrap(), [vec![(0, 60.0)], vec![], vec![(2, 80.0)]]);
        // Both columns of the second cell of heart are one gene.
        let forms = vec![form(MatrixName::X, 1)];
        let request =
            ReadRequest::open(&store, Arc::new(vec![4 << 32].into()), &genes(1, &[(0, 0), (3, 0)]), forms).unwrap();
        assert_eq!(read(&request, 4, &[1]).unwrap(), [[(0, 8.0)]]);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path(), |_| ());
        let all = Genes::all([0, 4], 5);
        let refused = |keys: &[u64], genes: &Genes, form, what: &str| {
            let error = ReadRequest::open(&store, Arc::new(keys.to_vec().into()), genes, vec![form]).err().unwrap();
            assert!(error.to_string().contains(what), "{error}");
            error.kind()
        };
        let x = || form(MatrixName::X, 5);
        assert_eq!(refused(&[0, 1 << 32], &all, x(), "part number 1, which was not opened"), ErrorKind::Value);
        assert_eq!(refused(&[2, 3], &all, x(), "row 3 and the dataset has 3 cells"), ErrorKind::Value);
        assert_eq!(refused(&[4 << 32 | 2], &all, x(), "dataset 'heart'"), ErrorKind::Value);
        assert_eq!(refused(&[7 << 32], &Genes::all([0, 7], 5), x(), "part number 7"), ErrorKind::Value);
        let normalize = Some(Normalize { target_sum: None, log1p: true });
        let integers = MatrixForm { dtype: Dtype::I32, normalize, ..x() };
        assert_eq!(refused(&[0], &all, integers, "float32 or float64"), ErrorKind::Value);
        assert_eq!(refused(&[0], &all, form(MatrixName::X, 4), "expected 5 columns, found 4"), ErrorKind::Value);
        let layer = form(MatrixName::Layer("raw".into()), 5);
        assert_eq!(refused(&[0], &all, layer, "has no layer 'raw'; it has: "), ErrorKind::Key);
    }

    #[test]
    fn parts_without_cells_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path(), |_| ());
        std::fs::remove_dir_all(folder.path().join("parts/lung")).unwrap();
        let forms = || vec![form(MatrixName::X, 5)];
        let request =
            ReadRequest::open(&store, Arc::new(vec![4 << 32].into()), &Genes::all([0, 4], 5), forms()).unwrap();
        assert_eq!(request.matrices[0].parts.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [4]);
        assert!(ReadRequest::open(&store, Arc::new(vec![0].into()), &Genes::all([0, 4], 5), forms()).is_err());
    }

    #[test]
    fn without_cells_nothing_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path(), |_| ());
        std::fs::remove_dir_all(folder.path().join("parts/lung")).unwrap();
        let forms = vec![form(MatrixName::X, 5), form(MatrixName::Obsm("none".into()), 2)];
        let request = ReadRequest::open(&store, Arc::default(), &Genes::all([0, 4], 5), forms).unwrap();
        assert!(request.matrices.iter().all(|matrix| matrix.parts.is_empty()));
    }
}
