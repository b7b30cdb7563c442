//! A store with its opened matrices, shared by every reader of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{DaoError, ErrorKind, Result};
use crate::genes::FeatureSpaces;
use crate::matrix::{GeneIndex, Matrix, Totals};
use crate::store::{Dataset, GENE_INDEX, MatrixName, Store, checksum};

/// A store and the matrices that were opened so far: metadata and `indptr` are read once.
pub struct OpenStore {
    store: Store,
    matrices: OpenOnce<(u32, MatrixName), Matrix>,
    gene_indexes: OpenOnce<u32, Option<Arc<GeneIndex>>>,
    totals: OpenOnce<(u32, MatrixName), Option<Arc<Totals>>>,
    spaces: FeatureSpaces,
}

/// The things of one kind that were opened so far, by name, so that each is opened once.
struct OpenOnce<K, V>(Mutex<HashMap<K, Arc<V>>>);

impl<K: std::hash::Hash + Eq, V> OpenOnce<K, V> {
    /// The thing named `key`, opened now if it was not before. Two threads at once may both open it, but get the same.
    fn get(&self, key: K, open: impl FnOnce() -> Result<V>) -> Result<Arc<V>> {
        // A panic elsewhere cannot leave the map half changed, so a poisoned lock is safe to use.
        if let Some(opened) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(opened.clone());
        }
        let opened = Arc::new(open()?);
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(opened).clone())
    }
}

impl OpenStore {
    /// A store with nothing opened.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            matrices: OpenOnce(Mutex::default()),
            gene_indexes: OpenOnce(Mutex::default()),
            totals: OpenOnce(Mutex::default()),
            spaces: FeatureSpaces::default(),
        }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The feature spaces of the store's datasets.
    #[must_use]
    pub fn spaces(&self) -> &FeatureSpaces {
        &self.spaces
    }

    /// A matrix of a dataset.
    ///
    /// # Errors
    /// `Key` if the dataset has no such matrix, and as [`Matrix::open`].
    pub fn matrix(&self, dataset: &Dataset, name: &MatrixName) -> Result<Arc<Matrix>> {
        self.matrices.get((dataset.number, name.clone()), || {
            let shape = self.shape(dataset, name)?;
            Matrix::open(self.store.storage(), &dataset.matrix_path(name), shape).map_err(|e| e.at(dataset.place()))
        })
    }

    /// The gene-major copy of a dataset's X, if it has one.
    ///
    /// # Errors
    /// `Corrupt` for one that belongs to another dataset, and as [`Matrix::open`].
    pub fn gene_index(&self, dataset: &Dataset) -> Result<Option<Arc<GeneIndex>>> {
        let opened = self.gene_indexes.get(dataset.number, || {
            let Some(path) = self.store.gene_index(dataset)? else { return Ok(None) };
            let index = GeneIndex::open(self.store.storage(), &path, [dataset.n_obs, dataset.n_vars])
                .map_err(|e| e.at(dataset.place()))?;
            if dataset.nnz.is_some_and(|nnz| nnz != index.total_nnz()) {
                return Err(DaoError::corrupt(&format!("{}/{path}", self.store.uri()), "not the copy of this X")
                    .expected(format!("{} values", dataset.nnz.unwrap_or(0)))
                    .found(index.total_nnz()));
            }
            Ok(Some(Arc::new(index)))
        })?;
        Ok((*opened).clone())
    }

    /// Forgets a dataset's gene-major copy, so that the next call looks for it again.
    pub fn forget_gene_index(&self, dataset: &Dataset) {
        self.gene_indexes.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&dataset.number);
    }

    /// The cells' totals of a matrix, if they were kept.
    ///
    /// # Errors
    /// As [`Totals::open`].
    pub fn totals(&self, dataset: &Dataset, name: &MatrixName) -> Result<Option<Arc<Totals>>> {
        let opened = self.totals.get((dataset.number, name.clone()), || {
            if !self.store.description(dataset)?.matrices.get(name).is_some_and(|matrix| matrix.totals) {
                return Ok(None);
            }
            Totals::open(self.store.storage(), &format!("{}/zarr/totals/{name}", dataset.path), dataset.n_obs)
                .map(|totals| Some(Arc::new(totals)))
                .map_err(|e| e.at(dataset.place()))
        })?;
        Ok((*opened).clone())
    }

    fn shape(&self, dataset: &Dataset, name: &MatrixName) -> Result<[u64; 2]> {
        let description = self.store.description(dataset)?;
        let Some(matrix) = description.matrices.get(name) else {
            let known: Vec<String> = description.matrices.keys().map(MatrixName::to_string).collect();
            return Err(DaoError::new(ErrorKind::Key, format!("no matrix '{name}'"))
                .at(dataset.place())
                .expected(format!("one of: {}", known.join(", "))));
        };
        let n_columns = if name.is_of_genes() { dataset.n_vars } else { matrix.shape[1] };
        if matrix.shape != [dataset.n_obs, n_columns] {
            return Err(DaoError::corrupt(
                &dataset.path,
                format!("matrix '{name}' has another shape than its dataset"),
            )
            .expected(format!("{} × {n_columns}", dataset.n_obs))
            .found(format!("{} × {}", matrix.shape[0], matrix.shape[1])));
        }
        Ok(matrix.shape)
    }

    /// Reads all of a dataset and lists what is wrong, as paths and problems.
    ///
    /// # Errors
    /// When its `dao.json` cannot be read.
    pub fn verify(&self, dataset: &Dataset) -> Result<Vec<(String, String)>> {
        let description = match self.store.description(dataset) {
            Ok(description) => description,
            Err(e) => return Ok(vec![(format!("{}/dao.json", dataset.path), e.to_string())]),
        };
        let mut problems = Vec::new();
        for (path, expected) in &description.checksums {
            let full = format!("{}/{path}", dataset.path);
            match self.store.file(&full) {
                Ok(bytes) if checksum(&bytes) == *expected => {}
                Ok(bytes) => {
                    let found = checksum(&bytes);
                    problems.push((full, format!("checksum mismatch: expected {expected}, found {found}")));
                }
                Err(e) => problems.push((full, e.to_string())),
            }
        }
        for name in description.matrices.iter().filter(|(_, matrix)| matrix.totals).map(|(name, _)| name) {
            if let Err(e) = self.totals(dataset, name) {
                problems.push((format!("{}/zarr/totals/{name}", dataset.path), e.to_string()));
            }
        }
        if let Err(e) = self.gene_index(dataset).and_then(|index| index.map_or(Ok(()), |index| index.verify())) {
            problems.push((format!("{}/{GENE_INDEX}", dataset.path), e.to_string()));
        }
        for name in description.matrices.into_keys() {
            if let Err(e) = self.matrix(dataset, &name).and_then(|matrix| matrix.verify()) {
                problems.push((dataset.matrix_path(&name), e.to_string()));
            }
        }
        Ok(problems)
    }
}
