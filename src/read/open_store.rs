//! A store with its opened matrices, shared by every reader of it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{DaoError, ErrorKind, Result};
use crate::genes::FeatureSpaces;
use crate::matrix::{GeneIndex, Matrix, Totals};
use crate::store::{Description, MatrixName, Part, RemovedRows, Store};

/// A store and the matrices that were opened so far: metadata and `indptr` are read once.
pub struct OpenStore {
    store: Store,
    matrices: OpenOnce<(u32, MatrixName), Arc<Matrix>>,
    gene_indexes: OpenOnce<u32, Option<Arc<GeneIndex>>>,
    totals: OpenOnce<(u32, MatrixName), Option<Arc<Totals>>>,
    removed: OpenOnce<u32, Arc<RemovedRows>>,
    spaces: FeatureSpaces,
}

/// The things of one kind that were opened so far, by name.
type OpenOnce<K, V> = Mutex<HashMap<K, V>>;

/// The thing named `key`, opened now if it was not before. Two threads at once may both open it, but get the same.
fn open_once<K: Hash + Eq, V: Clone>(all: &OpenOnce<K, V>, key: K, open: impl FnOnce() -> Result<V>) -> Result<V> {
    // A panic elsewhere cannot leave the map half changed, so a poisoned lock is safe to use.
    let known = all.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
    if let Some(known) = known {
        return Ok(known);
    }
    let opened = open()?;
    Ok(all.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert(opened).clone())
}

impl OpenStore {
    /// A store with nothing opened.
    pub fn new(store: Store) -> Self {
        let (matrices, gene_indexes, totals, removed) = Default::default();
        Self { store, matrices, gene_indexes, totals, removed, spaces: FeatureSpaces::default() }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether some of it is on another machine.
    pub fn is_remote(&self) -> bool {
        self.store.members().iter().any(|member| member.storage.local_root().is_none())
    }

    /// The parts that are opened at a time: many where each waits for a server.
    pub fn parts_at_once(&self) -> usize {
        if self.is_remote() { 32 } else { 1 }
    }

    /// The feature spaces of the store's parts.
    pub fn spaces(&self) -> &FeatureSpaces {
        &self.spaces
    }

    /// A matrix of a part.
    ///
    /// # Errors
    /// `Key` if the part has no such matrix, and as [`Matrix::open`].
    pub fn matrix(&self, part: &Part, name: &MatrixName) -> Result<Arc<Matrix>> {
        open_once(&self.matrices, (part.number, name.clone()), || {
            let description = self.store.description(part)?;
            let shape = shape(&description, part, name)?;
            let path = description.matrix_path(part, name);
            let opened = Matrix::open(&self.store.files(part, description.files), &path, shape);
            opened.map(Arc::new).map_err(|e| e.at(part.place()))
        })
    }

    /// The gene-major copy of a part's X, if it has one.
    ///
    /// # Errors
    /// `Corrupt` for one that belongs to another part, and as [`Matrix::open`].
    pub fn gene_index(&self, part: &Part) -> Result<Option<Arc<GeneIndex>>> {
        open_once(&self.gene_indexes, part.number, || {
            let description = self.store.description(part)?;
            let Some(path) = description.gene_index_path(part) else { return Ok(None) };
            let files = self.store.files(part, description.files);
            let index = GeneIndex::open(&files, &path, [part.n_obs, part.n_vars]).map_err(|e| e.at(part.place()))?;
            match part.nnz {
                Some(nnz) if nnz != index.total_nnz() => {
                    Err(DaoError::corrupt(&format!("{}/{path}", files.uri()), "not the copy of this X")
                        .expected(format!("{nnz} values"))
                        .found(index.total_nnz()))
                }
                _ => Ok(Some(Arc::new(index))),
            }
        })
    }

    /// The rows of a part that are no cells any more, where there are any.
    ///
    /// # Errors
    /// As [`Part::removed_rows`].
    pub fn removed(&self, part: &Part) -> Result<Option<Arc<RemovedRows>>> {
        if part.removed.is_none() {
            return Ok(None);
        }
        open_once(&self.removed, part.number, || part.removed_rows(&*self.store.member(part).storage).map(Arc::new))
            .map(Some)
    }

    /// The cells' totals of a matrix, if they were kept.
    pub fn totals(&self, part: &Part, name: &MatrixName) -> Result<Option<Arc<Totals>>> {
        open_once(&self.totals, (part.number, name.clone()), || {
            let description = self.store.description(part)?;
            if !description.matrices.get(name).is_some_and(|matrix| matrix.totals) {
                return Ok(None);
            }
            let path = description.totals_path(part, name);
            let opened = Totals::open(&self.store.files(part, description.files), &path, part.n_obs);
            opened.map(|totals| Some(Arc::new(totals))).map_err(|e| e.at(part.place()))
        })
    }
}

/// What is wrong where a part lacks a matrix: the names that it has of that kind.
fn no_such_matrix(description: &Description, part: &Part, name: &MatrixName) -> String {
    let of_kind = |known: &&MatrixName| std::mem::discriminant(*known) == std::mem::discriminant(name);
    let quoted = |known: &MatrixName| format!("'{}'", known.name());
    let known: Vec<String> = description.matrices.keys().filter(of_kind).map(quoted).collect();
    let (kind, known) = (name.kind(), if known.is_empty() { "none".to_owned() } else { known.join(", ") });
    format!("dataset '{}' has no {kind} '{}'; it has: {known}", part.name, name.name())
}

/// The shape of a matrix, as a part describes it.
fn shape(description: &Description, part: &Part, name: &MatrixName) -> Result<[u64; 2]> {
    let Some(matrix) = description.matrices.get(name) else {
        return Err(DaoError::new(ErrorKind::Key, no_such_matrix(description, part, name)));
    };
    let n_columns = if name.is_of_genes() { part.n_vars } else { matrix.shape[1] };
    if matrix.shape != [part.n_obs, n_columns] {
        return Err(DaoError::corrupt(&part.path, format!("matrix '{name}' has another shape than its dataset"))
            .expected(format!("{} × {n_columns}", part.n_obs))
            .found(format!("{} × {}", matrix.shape[0], matrix.shape[1])));
    }
    Ok(matrix.shape)
}

#[cfg(test)]
mod tests {
    use super::super::testing::written;
    use super::*;
    use crate::error::ErrorKind;

    fn says(error: &DaoError, kind: ErrorKind, what: &str) {
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }

    #[test]
    fn a_matrix_is_opened_once_and_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path(), |_| ());
        let [lung, heart] = ["lung", "heart"].map(|name| store.store().part(name).unwrap());
        let matrix = store.matrix(lung, &MatrixName::X).unwrap();
        std::fs::remove_dir_all(folder.path().join("parts/lung")).unwrap();
        assert!(Arc::ptr_eq(&matrix, &store.matrix(lung, &MatrixName::X).unwrap()));
        assert_eq!((matrix.shape(), store.matrix(heart, &MatrixName::X).unwrap().shape()), ([3, 5], [2, 5]));
        let error = store.matrix(heart, &MatrixName::Layer("raw".into())).err().unwrap();
        says(&error, ErrorKind::Key, "dataset 'heart' has no layer 'raw'; it has: 'narrow'");
        let error = store.matrix(heart, &MatrixName::Layer("narrow".into())).err().unwrap();
        says(&error, ErrorKind::Corrupt, "expected 2 × 5, found 2 × 4");
        let error = store.matrix(heart, &MatrixName::Obsm("lost".into())).err().unwrap();
        says(&error, ErrorKind::NotFound, "heart/zarr/obsm/lost");
    }

    #[test]
    fn a_gene_index_is_the_copy_of_its_matrix() {
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path(), |_| ());
        let [lung, heart] = ["lung", "heart"].map(|name| store.store().part(name).unwrap());
        assert!(store.gene_index(heart).unwrap().is_none());
        assert_eq!(store.gene_index(lung).unwrap().unwrap().total_nnz(), 3);
        std::fs::remove_dir_all(folder.path().join("parts/lung/gene_index")).unwrap();
        assert!(store.gene_index(lung).unwrap().is_some(), "it is kept");
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path(), |parts| parts[0].nnz = Some(4));
        let error = store.gene_index(store.store().part("lung").unwrap()).err().unwrap();
        says(&error, ErrorKind::Corrupt, "expected 4 values, found 3");
    }

    #[test]
    fn totals_are_those_that_were_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path(), |_| ());
        let [lung, heart] = ["lung", "heart"].map(|name| store.store().part(name).unwrap());
        assert!(store.totals(heart, &MatrixName::X).unwrap().is_none());
        assert_eq!(store.totals(lung, &MatrixName::X).unwrap().unwrap().cell(2), (9.0, 1));
        std::fs::remove_dir_all(folder.path().join("parts/lung/zarr/totals")).unwrap();
        assert!(store.totals(lung, &MatrixName::X).unwrap().is_some(), "they are kept");
    }
}
