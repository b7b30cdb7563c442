//! The two `dao.json` files: of a store ([`Manifest`]) and of a dataset ([`DatasetMeta`]).
//!
//! Owns their fields and their validation. Keys that a later minor version may add are kept.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::error::{DaoError, Result};

/// The format version that this build writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// `format` of a store's manifest.
pub const STORE_FORMAT: &str = "dao-store";
/// `format` of a dataset's `dao.json`.
pub const DATASET_FORMAT: &str = "dao-dataset";
/// `format` of a gene index's `dao.json`.
const GENE_INDEX_FORMAT: &str = "dao-gene-index";
/// A string column with more distinct values than this in the store has no category list.
pub const MAX_CATEGORIES: usize = 65_536;

/// What the manifest also says of each dataset, for the tables' side.
const DESCRIBED: [&str; 8] = ["layout", "dtype", "bytes", "obs", "constants", "var_id", "layers", "obsm"];

/// What is in a store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// Always [`STORE_FORMAT`].
    pub format: String,
    /// At most [`FORMAT_VERSION`].
    pub version: u32,
    /// The store's identity: a UUID; for sfaira's stores a fingerprint of names and cell counts.
    pub id: String,
    /// The number that the next dataset gets; numbers are never given twice.
    pub next_number: u32,
    /// The datasets, in the order of their numbers.
    pub datasets: Vec<DatasetEntry>,
    /// For each string-like obs column the sorted union of its values; `None` past [`MAX_CATEGORIES`].
    #[serde(default)]
    pub categories: BTreeMap<String, Option<BTreeSet<String>>>,
    /// Keys that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A dataset as the manifest lists it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatasetEntry {
    /// Upper half of the dataset's cell keys.
    pub number: u32,
    /// The dataset's name, unique in the store.
    pub id: String,
    /// Its folder, relative to the store.
    pub path: String,
    /// Cells.
    pub n_obs: u64,
    /// Genes.
    pub n_vars: u64,
    /// Stored values of X; unknown for dense sfaira matrices.
    pub nnz: Option<u64>,
    /// Checksum of the dataset's `dao.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// `organism` and [`DESCRIBED`].
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One matrix of a dataset.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MatrixMeta {
    /// `csr` or `dense`.
    pub layout: String,
    /// The stored type, such as `uint16`.
    pub dtype: String,
    /// The type it had at its source.
    pub source_dtype: String,
    /// Rows and columns.
    pub shape: [u64; 2],
    /// Stored values.
    pub nnz: u64,
    /// The largest absolute value.
    pub max_abs: f64,
    /// Whether each cell's sum and count were kept, at `zarr/totals/<key>`.
    #[serde(default)]
    pub totals: bool,
}

/// What a gene-major copy says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GeneIndexMeta {
    format: String,
    version: u32,
    /// Checksum of the `dao.json` of the dataset that it was made of.
    dataset: Option<String>,
}

/// What is in a dataset.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatasetMeta {
    /// Always [`DATASET_FORMAT`].
    pub format: String,
    /// At most [`FORMAT_VERSION`].
    pub version: u32,
    /// The dataset's name.
    pub id: String,
    /// Cells.
    pub n_obs: u64,
    /// Genes.
    pub n_vars: u64,
    /// Stored values of X.
    pub nnz: u64,
    /// `X`, `layers/<name>` and `obsm/<name>`; each lies at `zarr/<key>`.
    pub matrices: BTreeMap<String, MatrixMeta>,
    /// Checksums of the small files, by path relative to the dataset.
    #[serde(default)]
    pub checksums: BTreeMap<String, String>,
    /// The tables' descriptions and the constants.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Manifest {
    /// An empty store with a fresh id.
    #[must_use]
    pub fn new() -> Self {
        Self {
            format: STORE_FORMAT.into(),
            version: FORMAT_VERSION,
            id: Uuid::new_v4().to_string(),
            next_number: 0,
            datasets: Vec::new(),
            categories: BTreeMap::new(),
            extra: Map::new(),
        }
    }

    /// Reads and validates a manifest; `place` is for errors.
    ///
    /// # Errors
    /// `Value` for a newer version, `Corrupt` for anything that contradicts itself.
    pub fn parse(bytes: &[u8], place: &str) -> Result<Self> {
        let manifest: Self = parse_versioned(bytes, place, STORE_FORMAT)?;
        let (mut ids, mut numbers) = (HashSet::new(), HashSet::new());
        for entry in &manifest.datasets {
            let wrong = |what: &str| Err(DaoError::corrupt(place, what).at(format!("dataset '{}'", entry.id)));
            if !ids.insert(&entry.id) {
                return wrong("the manifest lists this dataset twice");
            }
            if !numbers.insert(entry.number) || entry.number >= manifest.next_number {
                return wrong("the manifest gives this dataset a number that is taken or not given yet");
            }
            if let Some(key) = DESCRIBED.iter().find(|key| !entry.extra.contains_key(**key)) {
                return wrong(&format!("the manifest does not say the dataset's '{key}'"));
            }
            if entry.n_obs > u64::from(u32::MAX) {
                return wrong("the manifest lists more than 2^32 - 1 cells");
            }
            if entry.path.is_empty() || entry.path.split('/').any(|part| matches!(part, "" | "." | "..")) {
                return wrong("the manifest gives a path outside the store");
            }
        }
        Ok(manifest)
    }

    /// As JSON.
    ///
    /// # Errors
    /// `Value` if it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| DaoError::value(format!("the manifest cannot be written: {e}")))
    }

    /// Adds a dataset's category lists to the store's.
    pub fn merge_categories(&mut self, categories: BTreeMap<String, Option<BTreeSet<String>>>) {
        for (column, values) in categories {
            let known = self.categories.entry(column).or_insert_with(|| Some(BTreeSet::new()));
            *known = match (known.take(), values) {
                (Some(mut known), Some(new)) => {
                    known.extend(new);
                    (known.len() <= MAX_CATEGORIES).then_some(known)
                }
                _ => None,
            };
        }
    }
}

impl Default for Manifest {
    fn default() -> Self {
        Self::new()
    }
}

impl DatasetMeta {
    /// Reads a dataset's `dao.json` and holds it against the manifest's entry.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub fn parse(text: &str, place: &str, entry: &DatasetEntry) -> Result<Self> {
        let meta: Self = parse_versioned(text.as_bytes(), place, DATASET_FORMAT)?;
        let told = (entry.id.as_str(), entry.n_obs, entry.n_vars);
        let found = (meta.id.as_str(), meta.n_obs, meta.n_vars);
        if told != found {
            return Err(DaoError::corrupt(place, "the dataset is not the one that the manifest lists")
                .expected(format!("id '{}', {} cells, {} genes", told.0, told.1, told.2))
                .found(format!("id '{}', {} cells, {} genes", found.0, found.1, found.2)));
        }
        Ok(meta)
    }
}

impl GeneIndexMeta {
    /// Of a copy of this dataset's X.
    #[must_use]
    pub fn new(entry: &DatasetEntry) -> Self {
        Self { format: GENE_INDEX_FORMAT.into(), version: FORMAT_VERSION, dataset: entry.checksum.clone() }
    }

    /// Reads it and holds it against the dataset.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub fn parse(bytes: &[u8], place: &str, entry: &DatasetEntry) -> Result<Self> {
        let meta: Self = parse_versioned(bytes, place, GENE_INDEX_FORMAT)?;
        if meta.dataset == entry.checksum {
            return Ok(meta);
        }
        Err(DaoError::corrupt(place, "the gene index was made of another dataset")
            .expected(entry.checksum.as_deref().unwrap_or("none"))
            .found(meta.dataset.as_deref().unwrap_or("none"))
            .hint("remove the folder and make it again: store.add_gene_index()"))
    }
}

fn parse_versioned<T: serde::de::DeserializeOwned>(bytes: &[u8], place: &str, format: &str) -> Result<T> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
        version: u32,
    }
    let unreadable = |e: &serde_json::Error| {
        DaoError::corrupt(place, format!("not a readable manifest: {e}"))
            .expected(format!("JSON of format '{format}'"))
            .hint("it may be truncated; restore it from a copy")
    };
    let head: Head = serde_json::from_slice(bytes).map_err(|e| unreadable(&e))?;
    if head.format != format {
        return Err(DaoError::corrupt(place, "not the format that belongs here")
            .expected(format!("format '{format}'"))
            .found(format!("'{}'", head.format)));
    }
    if head.version > FORMAT_VERSION {
        return Err(DaoError::value("a newer dao-polars wrote this")
            .at(format!("path '{place}'"))
            .expected(format!("format version {FORMAT_VERSION} or older"))
            .found(format!("version {}", head.version))
            .hint("Upgrade with: pip install --upgrade dao-polars"));
    }
    serde_json::from_slice(bytes).map_err(|e| unreadable(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn categories(
        column: &str,
        values: impl IntoIterator<Item = String>,
    ) -> BTreeMap<String, Option<BTreeSet<String>>> {
        BTreeMap::from([(column.to_owned(), Some(values.into_iter().collect()))])
    }

    #[test]
    fn a_new_manifest_survives_its_own_json() {
        let manifest = Manifest::new();
        let read = Manifest::parse(manifest.to_json().unwrap().as_bytes(), "here").unwrap();
        assert_eq!(read.id, manifest.id);
    }

    #[test]
    fn category_lists_are_dropped_for_good_past_the_limit() {
        let mut manifest = Manifest::new();
        manifest.merge_categories(categories("c", (0..MAX_CATEGORIES).map(|i| i.to_string())));
        assert_eq!(manifest.categories["c"].as_ref().unwrap().len(), MAX_CATEGORIES);
        manifest.merge_categories(categories("c", ["one more".to_owned()]));
        assert!(manifest.categories["c"].is_none());
        manifest.merge_categories(categories("c", ["another".to_owned()]));
        assert!(manifest.categories["c"].is_none());
    }

    #[test]
    fn a_newer_version_is_refused_even_if_its_fields_are_unknown() {
        let error = Manifest::parse(br#"{"format":"dao-store","version":2,"who":"knows"}"#, "here").unwrap_err();
        assert!(error.to_string().contains("newer dao-polars"), "{error}");
    }

    #[test]
    fn paths_outside_the_store_are_refused() {
        for path in ["../x", "/x", "a//b", ""] {
            let text = format!(
                r#"{{"format":"dao-store","version":1,"id":"i","next_number":1,"datasets":
                   [{{"number":0,"id":"d","path":"{path}","n_obs":1,"n_vars":1,"nnz":null}}]}}"#
            );
            assert!(Manifest::parse(text.as_bytes(), "here").is_err(), "{path}");
        }
    }
}
