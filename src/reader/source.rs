//! A store with its opened matrices, shared by every reader of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{DaoError, ErrorKind, Result};
use crate::matrix::Matrix;
use crate::store::{DatasetEntry, Store, checksum};

/// A store and the matrices opened so far: opening reads metadata and `indptr` once.
pub struct Source {
    store: Store,
    open: Mutex<HashMap<(u32, String), Arc<Matrix>>>,
}

impl Source {
    /// A store with nothing opened.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, open: Mutex::default() }
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
        let key = (entry.number, name.to_owned());
        // The map is whole at every point where a panic could be.
        if let Some(matrix) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(matrix.clone());
        }
        let shape = self.shape(entry, name)?;
        let matrix = Matrix::open(self.store.storage(), &format!("{}/zarr/{name}", entry.path), shape)
            .map_err(|e| e.at(format!("dataset '{}'", entry.id)))?;
        let matrix = Arc::new(matrix);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(key, matrix.clone());
        Ok(matrix)
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
            names = meta.matrices.into_keys().collect();
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
