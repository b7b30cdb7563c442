//! A store with its opened matrices, shared by every reader of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{DaoError, ErrorKind, Result};
use crate::matrix::{GeneIndex, Matrix, Totals};
use crate::store::{DatasetEntry, DatasetMeta, GENE_INDEX, Store, checksum};

/// A store and what was opened of it so far: opening reads metadata and `indptr` once.
pub struct Source {
    store: Store,
    open: Opened<(u32, String), Matrix>,
    indexes: Opened<u32, Option<Arc<GeneIndex>>>,
    totals: Opened<(u32, String), Option<Arc<Totals>>>,
}

struct Opened<K, V>(Mutex<HashMap<K, Arc<V>>>);

impl<K: std::hash::Hash + Eq, V> Opened<K, V> {
    /// What was opened before, or is now; by two threads at once, twice.
    fn get(&self, key: K, open: impl FnOnce() -> Result<V>) -> Result<Arc<V>> {
        // The map is whole at every point where a panic could be.
        if let Some(opened) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(opened.clone());
        }
        let opened = Arc::new(open()?);
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(opened).clone())
    }
}

impl Source {
    /// A store with nothing opened.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            open: Opened(Mutex::default()),
            indexes: Opened(Mutex::default()),
            totals: Opened(Mutex::default()),
        }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The matrix `name` (`X`, `layers/<name>`, `obsm/<name>`) of a dataset.
    ///
    /// # Errors
    /// `Key` if the dataset has no such matrix, and as [`Matrix::open`].
    pub fn matrix(&self, entry: &DatasetEntry, name: &str) -> Result<Arc<Matrix>> {
        self.open.get((entry.number, name.to_owned()), || {
            let shape = self.shape(entry, name)?;
            Matrix::open(self.store.storage(), &format!("{}/zarr/{name}", entry.path), shape)
                .map_err(|e| e.at(format!("dataset '{}'", entry.id)))
        })
    }

    /// The gene-major copy of a dataset's X, if it has one.
    ///
    /// # Errors
    /// `Corrupt` for one that belongs to another dataset, and as [`Matrix::open`].
    pub fn gene_index(&self, entry: &DatasetEntry) -> Result<Option<Arc<GeneIndex>>> {
        let opened = self.indexes.get(entry.number, || {
            let Some(path) = self.store.gene_index(entry)? else { return Ok(None) };
            let index = GeneIndex::open(self.store.storage(), &path, [entry.n_obs, entry.n_vars])
                .map_err(|e| e.at(format!("dataset '{}'", entry.id)))?;
            if entry.nnz.is_some_and(|nnz| nnz != index.total_nnz()) {
                return Err(DaoError::corrupt(&format!("{}/{path}", self.store.uri()), "not the copy of this X")
                    .expected(format!("{} values", entry.nnz.unwrap_or(0)))
                    .found(index.total_nnz()));
            }
            Ok(Some(Arc::new(index)))
        })?;
        Ok((*opened).clone())
    }

    /// Looks for a dataset's gene-major copy anew when it is next asked for.
    pub fn forget_gene_index(&self, entry: &DatasetEntry) {
        self.indexes.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&entry.number);
    }

    /// The cells' totals of a matrix, if they were kept.
    ///
    /// # Errors
    /// As [`Totals::open`].
    pub fn totals(&self, entry: &DatasetEntry, name: &str) -> Result<Option<Arc<Totals>>> {
        let opened = self.totals.get((entry.number, name.to_owned()), || {
            let kept = |meta: DatasetMeta| meta.matrices.get(name).is_some_and(|matrix| matrix.totals);
            if !self.store.dataset_meta(entry)?.is_some_and(kept) {
                return Ok(None);
            }
            Totals::open(self.store.storage(), &format!("{}/zarr/totals/{name}", entry.path), entry.n_obs)
                .map(|totals| Some(Arc::new(totals)))
                .map_err(|e| e.at(format!("dataset '{}'", entry.id)))
        })?;
        Ok((*opened).clone())
    }

    fn shape(&self, entry: &DatasetEntry, name: &str) -> Result<[u64; 2]> {
        let Some(meta) = self.store.dataset_meta(entry)? else {
            return if name == "X" { Ok([entry.n_obs, entry.n_vars]) } else { Err(no_matrix(entry, name, "X")) };
        };
        let Some(matrix) = meta.matrices.get(name) else {
            let known: Vec<&str> = meta.matrices.keys().map(String::as_str).collect();
            return Err(no_matrix(entry, name, &known.join(", ")));
        };
        let square = if name.starts_with("obsm/") { matrix.shape[1] } else { entry.n_vars };
        if matrix.shape != [entry.n_obs, square] {
            return Err(DaoError::corrupt(&entry.path, format!("matrix '{name}' has another shape than its dataset"))
                .expected(format!("{} × {square}", entry.n_obs))
                .found(format!("{} × {}", matrix.shape[0], matrix.shape[1])));
        }
        Ok(matrix.shape)
    }

    /// Reads all of a dataset and lists what is wrong, as paths and problems.
    ///
    /// # Errors
    /// When its `dao.json` cannot be read.
    pub fn verify(&self, entry: &DatasetEntry) -> Result<Vec<(String, String)>> {
        let mut problems = Vec::new();
        let meta = match self.store.dataset_meta(entry) {
            Ok(meta) => meta,
            Err(e) => return Ok(vec![(format!("{}/dao.json", entry.path), e.to_string())]),
        };
        let mut names = vec!["X".to_owned()];
        if let Some(meta) = meta {
            for (path, expected) in &meta.checksums {
                let full = format!("{}/{path}", entry.path);
                match self.store.file(&full) {
                    Ok(bytes) if checksum(&bytes) == *expected => {}
                    Ok(bytes) => {
                        let found = checksum(&bytes);
                        problems.push((full, format!("checksum mismatch: expected {expected}, found {found}")));
                    }
                    Err(e) => problems.push((full, e.to_string())),
                }
            }
            for name in meta.matrices.iter().filter(|(_, matrix)| matrix.totals).map(|(name, _)| name) {
                if let Err(e) = self.totals(entry, name) {
                    problems.push((format!("{}/zarr/totals/{name}", entry.path), e.to_string()));
                }
            }
            names = meta.matrices.into_keys().collect();
        }
        if let Err(e) = self.gene_index(entry).and_then(|index| index.map_or(Ok(()), |index| index.verify())) {
            problems.push((format!("{}/{GENE_INDEX}", entry.path), e.to_string()));
        }
        for name in names {
            if let Err(e) = self.matrix(entry, &name).and_then(|matrix| matrix.verify()) {
                problems.push((format!("{}/zarr/{name}", entry.path), e.to_string()));
            }
        }
        Ok(problems)
    }
}

fn no_matrix(entry: &DatasetEntry, name: &str, known: &str) -> DaoError {
    DaoError::new(ErrorKind::Key, format!("no matrix '{name}'"))
        .at(format!("dataset '{}'", entry.id))
        .expected(format!("one of: {known}"))
}
