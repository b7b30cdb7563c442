//! A store's `dao.json`: its identity, its datasets, the categories of its obs columns.
//!
//! Owns their fields and their validation. Keys that a later minor version may add are kept.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::constants::{Constants, Names, share};
use super::files::is_below;
use super::matrix_name::MatrixName;
use super::tables::{RESERVED, TableFile};
use super::versioned;
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Layout};

/// `format` of a store's manifest.
const STORE_FORMAT: &str = "dao-store";
/// A string column with more distinct values than this in the store has no category list.
const MAX_CATEGORIES: usize = 65_536;

/// Names and types of columns, in their order.
pub type Columns = Arc<[(String, String)]>;
/// The sorted union of the values of each string-like obs column; `None` past [`MAX_CATEGORIES`].
pub type Categories = BTreeMap<String, Option<BTreeSet<String>>>;

/// The manifest of a store: its identity, its datasets, the categories of its obs columns.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// The store's identity: a UUID; for sfaira's stores a fingerprint of names and cell counts.
    pub id: String,
    /// The number that the next dataset gets; numbers are never given twice.
    pub next_number: u32,
    /// The datasets, in the order of their numbers.
    #[serde(deserialize_with = "with_shared_parts")]
    pub datasets: Vec<Dataset>,
    #[serde(default)]
    pub categories: Categories,
    /// Keys that this version does not know.
    #[serde(flatten, deserialize_with = "versioned::unknown_keys")]
    pub extra: Map<String, Value>,
}

/// A dataset as the manifest lists it: its size, its X, the names of its layers and embeddings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// The number of the dataset: the upper half of its cell keys.
    pub number: u32,
    /// The dataset's name, unique in the store.
    #[serde(rename = "id")]
    pub name: String,
    /// The dataset's folder, relative to the store.
    pub path: String,
    pub n_obs: u64,
    pub n_vars: u64,
    /// Stored values of X; unknown for dense sfaira matrices.
    pub nnz: Option<u64>,
    /// Checksum of the dataset's `dao.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    pub layout: Layout,
    /// The number type that X is stored in; `None` for one that cannot be read.
    pub dtype: Option<Dtype>,
    /// The bytes of the dataset on disk.
    pub bytes: u64,
    /// The organism of all cells, where it is one.
    #[serde(default)]
    pub organism: Option<String>,
    /// Names and types of the columns of obs, but the index; none for sfaira's, whose tables say it. Shared by the
    /// datasets of a manifest that have the same.
    pub obs: Columns,
    /// The checksums of the table of cells; `None` for sfaira's, which have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obs_file: Option<Arc<TableFile>>,
    /// Values that all its cells share.
    pub constants: Constants,
    /// The id of the feature space: two are equal exactly where the genes and their order are.
    #[serde(rename = "var_id")]
    pub feature_space: String,
    pub layers: Names,
    pub obsm: Names,
    /// Keys that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Reads the list of datasets; what many have alike (columns of obs, names) is in memory once.
fn with_shared_parts<'de, D: Deserializer<'de>>(datasets: D) -> std::result::Result<Vec<Dataset>, D::Error> {
    struct Datasets;

    impl<'de> Visitor<'de> for Datasets {
        type Value = Vec<Dataset>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of datasets")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut listed: A) -> std::result::Result<Self::Value, A::Error> {
            let (mut datasets, mut known, mut names) = (Vec::new(), HashSet::<Columns>::new(), HashSet::new());
            while let Some(mut dataset) = listed.next_element::<Dataset>()? {
                match known.get(&dataset.obs) {
                    Some(columns) => dataset.obs = Arc::clone(columns),
                    None => drop(known.insert(Arc::clone(&dataset.obs))),
                }
                dataset.constants.share_names(&mut names);
                share(&mut dataset.layers, &mut names);
                share(&mut dataset.obsm, &mut names);
                datasets.push(dataset);
            }
            datasets.shrink_to_fit();
            Ok(datasets)
        }
    }

    datasets.deserialize_seq(Datasets)
}

impl Dataset {
    /// The path of one of the dataset's matrices, relative to the store.
    pub fn matrix_path(&self, name: &MatrixName) -> String {
        format!("{}/zarr/{name}", self.path)
    }

    /// What the entry says that no dataset can be.
    fn contradiction(&self) -> Option<&'static str> {
        // Counts are signed where frames hold them.
        let countable = |n: u64| i64::try_from(n).is_ok();
        let name = |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_control() || matches!(c, '/' | '\\'));
        if ![self.n_vars, self.bytes, self.nnz.unwrap_or(0)].into_iter().all(countable) {
            return Some("the manifest gives a count past 2^63");
        }
        if !name(&self.name) {
            return Some("the manifest gives a name that no folder can have");
        }
        let layers = self.layers.iter().map(|layer| format!("layers/{layer}"));
        let matrices = layers.chain(self.obsm.iter().map(|obsm| format!("obsm/{obsm}")));
        if !matrices.into_iter().all(|matrix| MatrixName::try_from(matrix).is_ok()) {
            return Some("the manifest gives a name that no layer or obsm can have");
        }
        None
    }

    /// The name of the dataset in errors.
    pub fn place(&self) -> String {
        format!("dataset '{}'", self.name)
    }
}

impl Manifest {
    /// The manifest of an empty store with a fresh id.
    pub fn new() -> Self {
        Self { id: Uuid::new_v4().to_string(), ..Self::default() }
    }

    /// Reads and validates a manifest; `place` is for errors.
    ///
    /// # Errors
    /// `Value` for a newer version, `Corrupt` for anything that contradicts itself or that nothing vouches for.
    pub fn parse(bytes: &[u8], place: &str) -> Result<Self> {
        let mut manifest: Self = versioned::parse(bytes, place, STORE_FORMAT)?;
        let (mut names, mut numbers, mut columns) = (HashSet::new(), HashSet::new(), HashSet::new());
        for dataset in &manifest.datasets {
            let corrupt = |what: &str| {
                DaoError::corrupt(place, what).at(dataset.place()).hint("restore the manifest from a copy")
            };
            let wrong = |what: &str| Err(corrupt(what));
            if !names.insert(&dataset.name) {
                return wrong("the manifest lists this dataset twice");
            }
            if !numbers.insert(dataset.number) || dataset.number >= manifest.next_number {
                return wrong("the manifest gives this dataset a number that is taken or not given yet");
            }
            if dataset.n_obs > u64::from(u32::MAX) {
                return wrong("the manifest lists more than 2^32 - 1 cells");
            }
            if let Some(what) = dataset.contradiction() {
                return wrong(what);
            }
            if dataset.checksum.is_none() {
                return wrong("the manifest lacks the checksum of this dataset's dao.json");
            }
            let Some(table) = &dataset.obs_file else {
                return wrong("the manifest lacks the checksums of this dataset's table of cells, obs_file");
            };
            if table.rows != dataset.n_obs {
                return Err(corrupt("the manifest gives another number of cells than the table of cells has rows")
                    .expected(format!("{} rows, one a cell", dataset.n_obs))
                    .found(table.rows));
            }
            if columns.insert(dataset.obs.as_ptr()) {
                let mut obs_names = HashSet::new();
                if !dataset.obs.iter().all(|(name, _)| obs_names.insert(name)) {
                    return wrong("the manifest lists a column of obs twice");
                }
                if RESERVED.iter().any(|&name| obs_names.iter().any(|&column| column == name)) {
                    return wrong("the manifest gives a column of obs a name that is the frame's own");
                }
            }
            if !is_below(&dataset.path) {
                return wrong("the manifest gives a path outside the store");
            }
        }
        manifest.datasets.sort_by_key(|dataset| dataset.number);
        Ok(manifest)
    }

    /// The manifest as it is written: JSON.
    pub fn to_json(&self) -> Result<String> {
        versioned::to_json(STORE_FORMAT, self)
    }

    /// Adds a dataset's category lists to the store's.
    pub fn merge_categories(&mut self, categories: Categories) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::seal;

    fn categories(column: &str, values: impl IntoIterator<Item = String>) -> Categories {
        BTreeMap::from([(column.to_owned(), Some(values.into_iter().collect()))])
    }

    fn listing(datasets: &str) -> String {
        format!(r#"{{"format":"dao-store","version":1,"id":"i","next_number":2,"datasets":[{datasets}]}}"#)
    }

    fn dataset(number: u32, name: &str, path: &str, more: &str) -> String {
        format!(
            r#"{{"number":{number},"id":"{name}","path":"{path}","n_obs":1,"n_vars":1,"nnz":null,"layout":"csr",
               "dtype":"uint8","bytes":9,"checksum":"crc32c:00000000","obs":[["a","Int64"]],
               "obs_file":{{"size":9,"rows":1,"tail":5,"tail_crc32c":0,"columns":[0]}},"constants":{{"n":1}},"var_id":"v",
               "layers":[],"obsm":[]{more}}}"#
        )
    }

    #[test]
    fn a_new_manifest_survives_its_own_json() {
        let manifest = Manifest::new();
        let read = Manifest::parse(manifest.to_json().unwrap().as_bytes(), "here").unwrap();
        assert_eq!(read.id, manifest.id);
        assert!(read.extra.is_empty());
    }

    #[test]
    fn datasets_come_by_number_and_keep_what_is_not_known() {
        let text = listing(&[dataset(1, "b", "b", r#","later":[1]"#), dataset(0, "a", "a", "")].join(","));
        let manifest = Manifest::parse(seal(&text).as_bytes(), "here").unwrap();
        assert_eq!(manifest.datasets.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let again = Manifest::parse(manifest.to_json().unwrap().as_bytes(), "here").unwrap();
        assert_eq!(again.datasets, manifest.datasets);
        assert_eq!(again.datasets[1].extra["later"], serde_json::json!([1]));
    }

    #[test]
    fn contradictions_are_refused() {
        let twice = [dataset(0, "a", "a", ""), dataset(1, "a", "b", "")].join(",");
        let same_number = [dataset(0, "a", "a", ""), dataset(0, "b", "b", "")].join(",");
        let not_given = dataset(2, "a", "a", "");
        let lacking = dataset(0, "a", "a", "").replace(r#""layout":"csr","#, "");
        for datasets in [twice, same_number, not_given, lacking] {
            assert!(Manifest::parse(seal(&listing(&datasets)).as_bytes(), "here").is_err(), "{datasets}");
        }
    }

    #[test]
    fn entries_that_nothing_vouches_for_are_refused() {
        let whole = dataset(0, "a", "a", "");
        let error = |change: &dyn Fn(&mut Value)| {
            let mut entry = serde_json::from_str(&whole).unwrap();
            change(&mut entry);
            let error = Manifest::parse(seal(&listing(&entry.to_string())).as_bytes(), "here").unwrap_err();
            assert!(error.to_string().contains("dataset 'a'"), "{error}");
            error.to_string()
        };
        let lacking = |key: &str| error(&|entry| drop(entry.as_object_mut().unwrap().remove(key)));
        assert!(lacking("checksum").contains("checksum of this dataset's dao.json"));
        assert!(lacking("obs_file").contains("obs_file"));
        assert!(error(&|entry| entry["n_obs"] = 0.into()).contains("expected 0 rows, one a cell, found 1"));
    }

    #[test]
    fn what_datasets_have_alike_is_shared() {
        let text = listing(&[dataset(0, "a", "a", ""), dataset(1, "b", "b", "")].join(","));
        let datasets = Manifest::parse(seal(&text).as_bytes(), "here").unwrap().datasets;
        assert!(Arc::ptr_eq(&datasets[0].obs, &datasets[1].obs));
        assert!(Arc::ptr_eq(&datasets[0].layers, &datasets[1].obsm));
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
        let error = Manifest::parse(seal(r#"{"format":"dao-store","version":2,"who":"knows"}"#).as_bytes(), "here")
            .unwrap_err();
        assert!(error.to_string().contains("newer dao-polars"), "{error}");
    }

    #[test]
    fn paths_outside_the_store_are_refused() {
        for path in ["../x", "/x", "a//b", ""] {
            let error = Manifest::parse(seal(&listing(&dataset(0, "d", path, ""))).as_bytes(), "here").unwrap_err();
            assert!(error.to_string().contains("outside"), "{path}: {error}");
        }
    }
}
