//! Stores that sfaira's `write_dao` wrote: `<dataset>/zarr/X` (zarr v2), `parquet/`, `pickle/`.
//!
//! There is no manifest: datasets are found by listing, numbered by sorted name, and the
//! store's id is a fingerprint of names and cell counts, so that it changes with the numbering.

use serde::Deserialize;
use serde_json::{Map, json};
use uuid::Uuid;

use super::MANIFEST;
use super::manifest::{DatasetEntry, Manifest};
use crate::error::{DaoError, ErrorKind, Result};
use crate::storage::Storage;

#[derive(Deserialize)]
struct ArrayHead {
    shape: Vec<u64>,
    dtype: Option<String>,
    data_type: Option<String>,
}

/// The manifest that a listing of `storage` gives.
///
/// # Errors
/// `NotFound` if there is no folder, or nothing in it that sfaira wrote; `Corrupt` for metadata
/// that cannot be read.
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
        if storage.size(&format!("{name}/{MANIFEST}"))?.is_some() {
            return Err(DaoError::new(ErrorKind::NotFound, "the store's manifest is missing")
                .at(format!("path '{}/{MANIFEST}'", storage.uri()))
                .found(format!("a dataset '{name}' that a manifest has listed"))
                .hint("restore it from a copy, or write the datasets to a new store"));
        }
        let path = format!("{name}/zarr/X");
        let Some(head) = array_head(storage, &path)? else {
            let obs = format!("{name}/parquet/obs.parquet");
            if storage.size(&obs)?.is_none() {
                continue;
            }
            return Err(DaoError::new(ErrorKind::NotFound, "a dataset has cells and no matrix")
                .at(format!("dataset '{name}', path '{}/{path}'", storage.uri()))
                .expected("zarr metadata (.zarray)")
                .hint("restore it from a copy, or move the folder out of the store"));
        };
        let [n_obs, n_vars] = head.shape[..] else {
            return Err(DaoError::corrupt(&format!("{}/{path}", storage.uri()), "the matrix is not two-dimensional")
                .expected("cells × genes")
                .found(format!("shape {:?}", head.shape)));
        };
        if n_obs > u64::from(u32::MAX) {
            return Err(DaoError::value(format!("dataset '{name}' has more than 2^32 - 1 cells")));
        }
        fingerprint.push_str(&format!("{name}\0{n_obs}\0"));
        let mut extra = Map::new();
        extra.insert("layout".into(), json!("dense"));
        extra.insert("dtype".into(), json!(head.dtype.or(head.data_type)));
        extra.insert("bytes".into(), json!(storage.total_size(&name)?));
        extra.insert("layers".into(), json!([]));
        extra.insert("obsm".into(), json!([]));
        manifest.datasets.push(DatasetEntry {
            number: manifest.next_number,
            id: name.clone(),
            path: name,
            n_obs,
            n_vars,
            nnz: None,
            checksum: None,
            extra,
        });
        manifest.next_number += 1;
    }
    if manifest.datasets.is_empty() {
        return Err(no_store("nothing in it is a dataset"));
    }
    manifest.id = format!("sfaira-{}", Uuid::new_v5(&Uuid::NAMESPACE_URL, fingerprint.as_bytes()));
    Ok(manifest)
}

fn array_head(storage: &dyn Storage, path: &str) -> Result<Option<ArrayHead>> {
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
