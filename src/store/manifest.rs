//! A version of a store: its parts, the categories of its obs columns, and what made it.
//!
//! Owns their fields and their validation. How a version becomes a file, and a file a version, is [`super::versions`]'.
//! Keys that a later minor version may add to a part are kept.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::categories::{Categories, PartCategories};
use super::constants::{Constants, Names, share};
use super::files::{Files, is_below};
use super::matrix_name::MatrixName;
use super::outline::OutlineFile;
use super::removed::Removed;
use super::tables::{RESERVED, TableFile};
use super::versions::Record;
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Layout};

/// Names and types of columns, in their order.
pub type Columns = Arc<[(String, String)]>;

/// A version of a store. Version 0 is that of an empty one.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    /// The store's identity: a UUID; for sfaira's stores a fingerprint of names and cell counts.
    pub id: String,
    /// The number of the version.
    pub version: u64,
    /// The number that the next part gets; numbers are never given twice.
    pub next_number: u32,
    /// The oldest version that vacuum has left.
    pub oldest: u64,
    /// The parts, in the order of the frame: those of a dataset follow each other, by their numbers.
    pub parts: Vec<Part>,
    pub categories: Categories,
    /// What made the version.
    pub record: Record,
}

/// A part as the manifest lists it: its size, its X, the names of its layers and embeddings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The number of the part: the upper half of its cell keys.
    pub number: u32,
    /// The URI of the store that it lies in, where several were opened as one.
    #[serde(skip)]
    pub store: Option<Arc<str>>,
    /// The name of the dataset that it is a part of.
    #[serde(rename = "dataset")]
    pub name: String,
    /// The part's folder, relative to the store.
    pub path: String,
    /// The rows of its matrices and tables, those that were removed too.
    pub n_obs: u64,
    pub n_vars: u64,
    /// Stored values of X; unknown for dense sfaira matrices.
    pub nnz: Option<u64>,
    /// The file that describes it, relative to its folder.
    #[serde(default)]
    pub description: String,
    /// Checksum of that; `None` for sfaira's, which have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// What readers over a network begin with; `None` for sfaira's, which have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outline: Option<OutlineFile>,
    pub layout: Layout,
    /// The number type that X is stored in; `None` for one that cannot be read.
    pub dtype: Option<Dtype>,
    /// The bytes of the part on disk.
    pub bytes: u64,
    /// The organism of all cells, where it is one.
    #[serde(default)]
    pub organism: Option<String>,
    /// Names and types of the columns of obs, but the index; none for sfaira's, whose tables say it. Shared by the
    /// parts of a manifest that have the same.
    pub obs: Columns,
    /// The table of cells, relative to its folder.
    #[serde(rename = "obs_path")]
    pub obs_name: String,
    /// The checksums of the table of cells; `None` for sfaira's, which have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obs_file: Option<Arc<TableFile>>,
    /// The rows that are no cells any more, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Removed>,
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

/// Reads the list of parts; what many have alike (columns of obs, names) is in memory once.
pub fn with_shared_parts<'de, D: Deserializer<'de>>(parts: D) -> std::result::Result<Vec<Part>, D::Error> {
    struct Parts;

    impl<'de> Visitor<'de> for Parts {
        type Value = Vec<Part>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of datasets")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut listed: A) -> std::result::Result<Self::Value, A::Error> {
            let (mut parts, mut known, mut names) = (Vec::new(), HashSet::<Columns>::new(), HashSet::new());
            while let Some(mut part) = listed.next_element::<Part>()? {
                match known.get(&part.obs) {
                    Some(columns) => part.obs = Arc::clone(columns),
                    None => drop(known.insert(Arc::clone(&part.obs))),
                }
                part.constants.share_names(&mut names);
                share(&mut part.layers, &mut names);
                share(&mut part.obsm, &mut names);
                parts.push(part);
            }
            parts.shrink_to_fit();
            Ok(parts)
        }
    }

    parts.deserialize_seq(Parts)
}

impl Part {
    /// What the entry says that no part can be.
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

    /// All of the part's files but the description, of which it lists these: it does not know the outline.
    pub fn all_files(&self, mut listed: Files) -> Files {
        listed.extend(self.outline.as_ref().map(OutlineFile::listed));
        listed
    }

    /// The path of one of the part's files, relative to the store.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// The name of the part in errors.
    pub fn place(&self) -> String {
        match &self.store {
            Some(store) => format!("dataset '{}' of store '{store}'", self.name),
            None => format!("dataset '{}'", self.name),
        }
    }

    /// The dataset's name among all that are open: where there are several stores, each may have one of its name.
    pub fn address(&self) -> Cow<'_, str> {
        match &self.store {
            Some(store) => Cow::Owned(format!("{store}/{}", self.name)),
            None => Cow::Borrowed(&self.name),
        }
    }
}

impl Manifest {
    /// The version 0 of a store with a fresh id.
    pub fn new() -> Self {
        Self { id: Uuid::new_v4().to_string(), ..Self::default() }
    }

    /// Puts the parts in order, and checks that they do not contradict each other; `place` is for errors.
    ///
    /// # Errors
    /// `Corrupt` for anything that contradicts itself or that nothing vouches for.
    pub fn check(&mut self, place: &str) -> Result<()> {
        self.sort();
        let (mut numbers, mut columns) = (HashSet::new(), HashSet::new());
        let mut genes: HashMap<&str, &str> = HashMap::new();
        for part in &self.parts {
            let corrupt =
                |what: &str| DaoError::corrupt(place, what).at(part.place()).hint("restore the manifest from a copy");
            let wrong = |what: &str| Err(corrupt(what));
            if !numbers.insert(part.number) || part.number >= self.next_number {
                return wrong("the manifest gives this dataset a number that is taken or not given yet");
            }
            if part.n_obs > u64::from(u32::MAX) {
                return wrong("the manifest lists more than 2^32 - 1 cells");
            }
            if let Some(what) = part.contradiction() {
                return wrong(what);
            }
            if part.checksum.is_none() {
                return wrong("the manifest lacks the checksum of this dataset's description");
            }
            let Some(table) = &part.obs_file else {
                return wrong("the manifest lacks the checksums of this dataset's table of cells, obs_file");
            };
            if table.rows != part.n_obs {
                return Err(corrupt("the manifest gives another number of cells than the table of cells has rows")
                    .expected(format!("{} rows, one a cell", part.n_obs))
                    .found(table.rows));
            }
            if columns.insert(part.obs.as_ptr()) {
                let mut obs_names = HashSet::new();
                if !part.obs.iter().all(|(name, _)| obs_names.insert(name)) {
                    return wrong("the manifest lists a column of obs twice");
                }
                if RESERVED.iter().any(|&name| obs_names.iter().any(|&column| column == name)) {
                    return wrong("the manifest gives a column of obs a name that is the frame's own");
                }
            }
            let removed = part.removed.as_ref();
            if removed.is_some_and(|removed| removed.n_obs > part.n_obs) {
                return wrong("the manifest gives more removed rows than the dataset has");
            }
            let paths = [&part.path, &part.description, &part.obs_name].into_iter();
            let more = removed.map(|removed| &removed.path).into_iter();
            let more = more.chain(part.outline.as_ref().map(|outline| &outline.path));
            if !paths.chain(more).all(|path| is_below(path)) {
                return wrong("the manifest gives a path outside the store");
            }
            if genes.insert(&part.name, &part.feature_space).is_some_and(|space| space != part.feature_space) {
                return wrong("the parts of this dataset have different genes");
            }
        }
        Ok(())
    }

    /// Puts the parts in the order of the frame: datasets by their first part, and their parts by number.
    pub fn sort(&mut self) {
        let mut first: HashMap<String, u32> = HashMap::new();
        for part in &self.parts {
            let number = first.entry(part.name.clone()).or_insert(part.number);
            *number = part.number.min(*number);
        }
        self.parts.sort_by_cached_key(|part| (first.get(&part.name).copied(), part.number));
    }

    /// The parts of the dataset of this name.
    pub fn parts_of<'a, 'b>(&'a self, name: &'b str) -> impl Iterator<Item = &'a Part> + use<'a, 'b> {
        self.parts.iter().filter(move |part| part.name == name)
    }

    /// The number of datasets.
    pub fn n_datasets(&self) -> usize {
        // The parts of a dataset follow each other.
        self.parts.chunk_by(|a, b| a.name == b.name && a.store == b.store).count()
    }

    /// The number of cells.
    pub fn n_obs(&self) -> u64 {
        self.parts.iter().map(Part::n_cells).sum()
    }

    /// Refuses a version that vacuum has not left.
    ///
    /// # Errors
    /// `Value` for such a one.
    pub fn check_kept(&self, version: u64) -> Result<()> {
        if version >= self.oldest {
            return Ok(());
        }
        Err(DaoError::value(format!("version {version} was removed by vacuum"))
            .expected(format!("a version from {} on", self.oldest)))
    }

    /// Gives a number to a new part; lists it, and the values of its string-like obs columns.
    ///
    /// # Errors
    /// `Value` if the store has given all its numbers.
    pub fn add(&mut self, part: Part, categories: &PartCategories) -> Result<()> {
        let number = self.next_number;
        self.next_number =
            number.checked_add(1).ok_or_else(|| DaoError::value("the store has given all its numbers"))?;
        self.parts.push(Part { number, ..part });
        self.categories.add(categories);
        self.sort();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::seal;

    fn listing(parts: &str) -> String {
        format!(
            r#"{{"format":"dao-version","version":2,"store":"i","number":1,"since_base":0,"oldest":1,"next_number":2,
               "operation":"o","message":"m","time":"t","package":"p","attempt":"x","n_datasets":2,"n_obs":2,
               "parts":[{parts}],"categories":{{}}}}"#
        )
    }

    fn part(number: u32, name: &str, path: &str, more: &str) -> String {
        format!(
            r#"{{"number":{number},"dataset":"{name}","path":"{path}","n_obs":1,"n_vars":1,"nnz":null,"layout":"csr",
               "dtype":"uint8","bytes":9,"checksum":"crc32c:00000000",
               "description":"part.json","obs_path":"obs.parquet","obs":[["a","Int64"]],
               "obs_file":{{"size":9,"rows":1,"tail":5,"tail_crc32c":0,"columns":[0]}},"constants":{{"n":1}},"var_id":"v",
               "layers":[],"obsm":[]{more}}}"#
        )
    }

    #[test]
    fn a_new_manifest_survives_its_own_json() {
        let manifest = Manifest::new();
        let read = Manifest::parse(manifest.to_json().unwrap().as_bytes(), "here").unwrap();
        assert_eq!(read.id, manifest.id);
    }

    #[test]
    fn parts_of_a_dataset_follow_each_other() {
        let listed = |all: &[(u32, &str)]| {
            let parts: Vec<_> = all.iter().map(|&(number, name)| part(number, name, "p", "")).collect();
            let text = listing(&parts.join(",")).replace(r#""next_number":2"#, r#""next_number":9"#);
            let manifest = Manifest::parse(seal(&text).as_bytes(), "here").unwrap();
            let found = manifest.parts.iter().map(|part| part.number).collect::<Vec<_>>();
            (found, manifest.n_datasets(), manifest.n_obs())
        };
        assert_eq!(listed(&[(0, "b"), (1, "a"), (2, "b"), (5, "a"), (3, "c")]), (vec![0, 2, 1, 5, 3], 3, 5));
        assert_eq!(listed(&[]), (vec![], 0, 0));
    }

    #[test]
    fn parts_come_by_number_and_keep_what_is_not_known() {
        let text = listing(&[part(1, "b", "b", r#","later":[1]"#), part(0, "a", "a", "")].join(","));
        let manifest = Manifest::parse(seal(&text).as_bytes(), "here").unwrap();
        assert_eq!(manifest.parts.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let again = Manifest::parse(manifest.to_json().unwrap().as_bytes(), "here").unwrap();
        assert_eq!(again.parts, manifest.parts);
        assert_eq!(again.parts[1].extra["later"], serde_json::json!([1]));
    }

    #[test]
    fn contradictions_are_refused() {
        let other_genes = part(1, "a", "b", "").replace(r#""var_id":"v""#, r#""var_id":"w""#);
        let twice = [part(0, "a", "a", ""), other_genes].join(",");
        let same_number = [part(0, "a", "a", ""), part(0, "b", "b", "")].join(",");
        let not_given = part(2, "a", "a", "");
        let lacking = part(0, "a", "a", "").replace(r#""layout":"csr","#, "");
        for parts in [twice, same_number, not_given, lacking] {
            assert!(Manifest::parse(seal(&listing(&parts)).as_bytes(), "here").is_err(), "{parts}");
        }
    }

    #[test]
    fn entries_that_nothing_vouches_for_are_refused() {
        let whole = part(0, "a", "a", "");
        let error = |change: &dyn Fn(&mut Value)| {
            let mut entry = serde_json::from_str(&whole).unwrap();
            change(&mut entry);
            let error = Manifest::parse(seal(&listing(&entry.to_string())).as_bytes(), "here").unwrap_err();
            assert!(error.to_string().contains("dataset 'a'"), "{error}");
            error.to_string()
        };
        let lacking = |key: &str| error(&|entry| drop(entry.as_object_mut().unwrap().remove(key)));
        assert!(lacking("checksum").contains("checksum of this dataset's description"));
        assert!(lacking("obs_file").contains("obs_file"));
        assert!(error(&|entry| entry["n_obs"] = 0.into()).contains("expected 0 rows, one a cell, found 1"));
    }

    #[test]
    fn what_parts_have_alike_is_shared() {
        let text = listing(&[part(0, "a", "a", ""), part(1, "b", "b", "")].join(","));
        let parts = Manifest::parse(seal(&text).as_bytes(), "here").unwrap().parts;
        assert!(Arc::ptr_eq(&parts[0].obs, &parts[1].obs));
        assert!(Arc::ptr_eq(&parts[0].layers, &parts[1].obsm));
    }

    #[test]
    fn paths_outside_the_store_are_refused() {
        for path in ["../x", "/x", "a//b", ""] {
            let error = Manifest::parse(seal(&listing(&part(0, "d", path, ""))).as_bytes(), "here").unwrap_err();
            assert!(error.to_string().contains("outside"), "{path}: {error}");
        }
    }
}
