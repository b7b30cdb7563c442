//! Stores that sfaira's `write_dao` wrote: `<dataset>/zarr/X` (zarr v2), `parquet/`, `pickle/`.
//!
//! There is no manifest: datasets, of one part each, are found by listing, numbered by sorted name, and the
//! store's id is a fingerprint of names and cell counts, so that it changes with the numbering.

use std::collections::BTreeMap;

use serde::Deserialize;
use uuid::Uuid;

use super::description::{Description, MatrixMeta};
use super::manifest::{Manifest, Part};
use super::matrix_name::MatrixName;
use crate::error::{DaoError, ErrorKind, Result};
use crate::number::{Dtype, Layout};
use crate::storage::Storage;

/// Its tables of cells and of genes, relative to the dataset.
const OBS: &str = "parquet/obs.parquet";
const VAR: &str = "parquet/var.parquet";

/// The fields of zarr's metadata of an array that are needed.
#[derive(Deserialize)]
struct ArrayMetadata {
    shape: Vec<u64>,
    dtype: Option<String>,
    data_type: Option<String>,
}

/// The manifest that a listing of `storage` gives.
///
/// # Errors
/// `NotFound` if there is no folder, or nothing in it that sfaira wrote; `Corrupt` for metadata that cannot be read.
pub fn discover(storage: &dyn Storage) -> Result<Manifest> {
    let no_store = |why: &str| {
        DaoError::new(ErrorKind::NotFound, format!("no store at '{}': {why}", storage.uri()))
            .expected("a dao.json, or folders with zarr/X and parquet/obs.parquet")
            .hint("check the path; write_dataset makes a store")
    };
    if let Some(root) = storage.local_root()
        && !root.is_dir()
    {
        return Err(no_store(if root.exists() { "it is a file" } else { "there is no such folder" }));
    }
    let mut manifest = Manifest::new();
    let mut fingerprint = String::new();
    for name in storage.list_folders("").map_err(|e| no_store(&e.to_string()))? {
        let path = format!("{name}/zarr/X");
        let Some(metadata) = array_metadata(storage, &path)? else {
            let obs = format!("{name}/{OBS}");
            if storage.size(&obs)?.is_none() {
                continue;
            }
            return Err(DaoError::new(ErrorKind::NotFound, "a dataset has cells and no matrix")
                .at(format!("dataset '{name}', path '{}/{path}'", storage.uri()))
                .expected("zarr metadata (.zarray)")
                .hint("restore it from a copy, or move the folder out of the store"));
        };
        let [n_obs, n_vars] = metadata.shape[..] else {
            return Err(DaoError::corrupt(&format!("{}/{path}", storage.uri()), "the matrix is not two-dimensional")
                .expected("cells × genes")
                .found(format!("shape {:?}", metadata.shape)));
        };
        if n_obs > u64::from(u32::MAX) {
            return Err(DaoError::value(format!("dataset '{name}' has more than 2^32 - 1 cells")));
        }
        fingerprint.push_str(&format!("{name}\0{n_obs}\0"));
        let dtype = metadata.dtype.or(metadata.data_type).unwrap_or_default();
        manifest.parts.push(Part {
            number: manifest.next_number,
            path: name.clone(),
            obs_name: OBS.into(),
            n_obs,
            n_vars,
            layout: Layout::Dense,
            dtype: Dtype::from_typestr(&dtype).or_else(|| Dtype::from_name(&dtype).ok()),
            bytes: storage.total_size(&name)?,
            name,
            ..Part::default()
        });
        manifest.next_number += 1;
    }
    if manifest.parts.is_empty() {
        return Err(no_store("nothing in it is a dataset"));
    }
    manifest.id = format!("sfaira-{}", Uuid::new_v5(&Uuid::NAMESPACE_URL, fingerprint.as_bytes()));
    Ok(manifest)
}

/// The description that a dataset of sfaira's would have: its one matrix.
pub fn description(part: &Part) -> Description {
    let x = MatrixMeta {
        columns: None,
        layout: Layout::Dense,
        dtype: part.dtype,
        source_dtype: part.dtype.map_or("", Dtype::name).into(),
        shape: [part.n_obs, part.n_vars],
        nnz: None,
        max_abs: None,
        totals: false,
        folder: None,
    };
    Description {
        var_name: VAR.into(),
        n_obs: part.n_obs,
        n_vars: part.n_vars,
        matrices: BTreeMap::from([(MatrixName::X, x)]),
        ..Description::default()
    }
}

/// The zarr metadata (version 2 or 3) of the array at `path`; `None` where there are none.
fn array_metadata(storage: &dyn Storage, path: &str) -> Result<Option<ArrayMetadata>> {
    for name in [".zarray", "zarr.json"] {
        let file = format!("{path}/{name}");
        if let Some(bytes) = storage.get(&file)? {
            return serde_json::from_slice(&bytes).map(Some).map_err(|e| {
                DaoError::corrupt(&format!("{}/{file}", storage.uri()), format!("not readable zarr metadata: {e}"))
            });
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::storage::Local;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn found(root: &Path) -> crate::error::Result<Manifest> {
        let storage: Arc<dyn Storage> = Arc::new(Local::new(root).unwrap());
        discover(storage.as_ref())
    }

    fn array(n_obs: u64) -> String {
        format!(r#"{{"zarr_format": 2, "shape": [{n_obs}, 7], "dtype": "<f4"}}"#)
    }

    #[test]
    fn parts_are_numbered_by_name() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "lung/zarr/X/.zarray", &array(3));
        write(folder.path(), "heart/zarr/X/.zarray", &array(5));
        write(folder.path(), "notes/readme.txt", "no dataset");
        let manifest = found(folder.path()).unwrap();
        let shown: Vec<_> = manifest.parts.iter().map(|d| (d.number, d.name.as_str(), d.n_obs, d.n_vars)).collect();
        assert_eq!(shown, [(0, "heart", 5, 7), (1, "lung", 3, 7)]);
        assert_eq!(manifest.parts[0].dtype, Some(Dtype::F32));
        assert_eq!(description(&manifest.parts[0]).matrices[&MatrixName::X].shape, [5, 7]);
        assert_eq!(found(folder.path()).unwrap().id, manifest.id);
        write(folder.path(), "lung/zarr/X/.zarray", &array(4));
        assert_ne!(found(folder.path()).unwrap().id, manifest.id);
    }

    #[test]
    fn what_is_no_such_store_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            ("a/zarr/X/.zarray", "{", ErrorKind::Corrupt, "not readable zarr metadata"),
            ("a/zarr/X/.zarray", r#"{"shape": [3]}"#, ErrorKind::Corrupt, "not two-dimensional"),
            ("a/parquet/obs.parquet", "", ErrorKind::NotFound, "cells and no matrix"),
            ("a/readme.txt", "", ErrorKind::NotFound, "nothing in it is a dataset"),
        ];
        for (file, text, kind, what) in cases {
            let root = folder.path().join(what.replace(' ', "_"));
            write(&root, file, text);
            let error = found(&root).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(what) && error.to_string().contains(root.to_str().unwrap()), "{error}");
        }
        let error = found(&folder.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("there is no such folder"), "{error}");
    }
}
