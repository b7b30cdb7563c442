//! The description of a dataset in its own `dao.json`: matrices, tables, files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::constants::Constants;
use super::files::{Files, check_paths};
use super::manifest::Dataset;
use super::matrix_name::MatrixName;
use super::versioned;
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Layout};

/// `format` of a dataset's `dao.json`.
pub const DATASET_FORMAT: &str = "dao-dataset";
/// `format` of a gene index's `dao.json`.
const GENE_INDEX_FORMAT: &str = "dao-gene-index";

/// A dataset's description of itself: its size, its matrices and its tables of cells and genes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Description {
    #[serde(rename = "id")]
    pub name: String,
    pub n_obs: u64,
    pub n_vars: u64,
    /// The number of stored values of X; `None` where nobody has counted them.
    pub nnz: Option<u64>,
    /// The matrices; each lies at `zarr/<name>`.
    pub matrices: BTreeMap<MatrixName, MatrixMeta>,
    /// All its files but its `dao.json` and those of a gene index, by path relative to the dataset.
    pub files: Files,
    pub obs: TableMeta,
    pub var: TableMeta,
    /// Values that all its cells share.
    #[serde(default)]
    pub constants: Constants,
    /// The id of the feature space.
    #[serde(rename = "var_id", default)]
    pub feature_space: String,
    /// Keys that this version does not know.
    #[serde(flatten, deserialize_with = "versioned::unknown_keys")]
    pub extra: Map<String, Value>,
}

/// One matrix of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MatrixMeta {
    pub layout: Layout,
    /// The number type that it is stored in; `None` for one that cannot be read.
    pub dtype: Option<Dtype>,
    /// The number type that it had at its source, as numpy names it.
    pub source_dtype: String,
    pub shape: [u64; 2],
    /// Stored values; `None` where nobody has counted them.
    pub nnz: Option<u64>,
    /// The largest absolute value; `None` where nobody has looked.
    pub max_abs: Option<f64>,
    /// Whether each cell's sum and count were kept, at `zarr/totals/<name>`.
    #[serde(default)]
    pub totals: bool,
}

/// A table (obs or var) as it lies in parquet, and what it was in pandas.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableMeta {
    /// The index's own name in pandas.
    #[serde(default)]
    pub index_name: Option<String>,
    /// The index's form in pandas, in the words of `dao_polars.convert`.
    #[serde(default)]
    pub index: Value,
    /// The columns but the index, in their order.
    pub columns: Vec<ColumnMeta>,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnMeta {
    /// The column's name in parquet.
    pub name: String,
    /// The column's name in pandas.
    #[serde(default)]
    pub source: String,
    /// The column's type in parquet, in the words of `dao_polars.scan.dtypes`.
    pub dtype: String,
    /// The column's form in pandas, in the words of `dao_polars.convert`.
    #[serde(default)]
    pub pandas: Value,
}

/// The description of a gene-major copy of X, in its own `dao.json`.
#[derive(Serialize, Deserialize)]
pub struct GeneIndexMeta {
    /// Checksum of the `dao.json` of the dataset that it was made of.
    dataset: Option<String>,
    /// Its files but its `dao.json`, by path relative to its folder.
    pub files: Files,
}

impl Description {
    /// Reads a dataset's `dao.json` and holds it against the manifest's entry; `place` is for errors.
    ///
    /// # Errors
    /// `Value` for a newer version, `Corrupt` for one that is damaged or of another dataset, or lists files elsewhere.
    pub fn parse(bytes: &[u8], place: &str, dataset: &Dataset) -> Result<Self> {
        let description: Self = versioned::parse(bytes, place, DATASET_FORMAT)?;
        let summary = |name: &str, n_obs, n_vars| format!("id '{name}', {n_obs} cells, {n_vars} genes");
        let expected = summary(&dataset.name, dataset.n_obs, dataset.n_vars);
        let found = summary(&description.name, description.n_obs, description.n_vars);
        if expected != found {
            return Err(DaoError::corrupt(place, "the dataset is not the one that the manifest lists")
                .expected(expected)
                .found(found));
        }
        check_paths(&description.files, place)?;
        Ok(description)
    }

    /// The description as it is written: JSON.
    pub fn to_json(&self) -> Result<String> {
        versioned::to_json(DATASET_FORMAT, self)
    }
}

impl GeneIndexMeta {
    /// The description of a copy of this dataset's X that has these files, as it is written: JSON.
    pub fn to_json(dataset: &Dataset, files: Files) -> Result<String> {
        versioned::to_json(GENE_INDEX_FORMAT, &Self { dataset: dataset.checksum.clone(), files })
    }

    /// Reads a copy's description and checks that it is of this dataset.
    ///
    /// # Errors
    /// `Value` for a newer version, `Corrupt` for one that is damaged or of another dataset.
    pub fn parse(bytes: &[u8], place: &str, dataset: &Dataset) -> Result<Self> {
        let meta: Self = versioned::parse(bytes, place, GENE_INDEX_FORMAT)?;
        if meta.dataset == dataset.checksum {
            check_paths(&meta.files, place)?;
            return Ok(meta);
        }
        Err(DaoError::corrupt(place, "the gene index was made of another dataset")
            .expected(dataset.checksum.as_deref().unwrap_or("none"))
            .found(meta.dataset.as_deref().unwrap_or("none"))
            .hint("remove the folder and make it again: store.add_gene_index()"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::ErrorKind;
    use crate::store::testing::dataset;
    use crate::store::versioned::seal;

    fn description() -> Value {
        json!({
            "format": DATASET_FORMAT, "version": 1, "id": "lung", "n_obs": 3, "n_vars": 2, "nnz": 4,
            "matrices": {"X": {
                "layout": "csr", "dtype": "uint16", "source_dtype": "float32", "shape": [3, 2], "nnz": 4, "max_abs": 9.0,
            }},
            "files": {}, "obs": {"columns": []}, "var": {"columns": []}, "later": "kept",
        })
    }

    #[test]
    fn a_description_comes_back_with_what_this_version_does_not_know() {
        let text = seal(&description().to_string());
        let parsed = Description::parse(text.as_bytes(), "lung/dao.json", &dataset("lung", 3, 2)).unwrap();
        assert_eq!(parsed.matrices[&MatrixName::X].shape, [3, 2]);
        assert_eq!(parsed.extra.keys().collect::<Vec<_>>(), ["later"]);
        let again: Value = serde_json::from_str(&parsed.to_json().unwrap()).unwrap();
        assert_eq!((&again["later"], &again["id"]), (&json!("kept"), &json!("lung")));
        assert_eq!((&again["format"], &again["version"]), (&json!(DATASET_FORMAT), &json!(1)));
    }

    #[test]
    fn another_dataset_or_damage_is_corrupt() {
        let text = seal(&description().to_string());
        for other in [dataset("heart", 3, 2), dataset("lung", 4, 2), dataset("lung", 3, 1)] {
            let error = Description::parse(text.as_bytes(), "lung/dao.json", &other).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("'lung/dao.json'") && error.to_string().contains("3 cells"), "{error}");
        }
        let mut broken = description();
        broken["matrices"] = json!({"layers/../X": {}});
        for text in [&text[..text.len() / 2], &seal(&broken.to_string())] {
            let error = Description::parse(text.as_bytes(), "lung/dao.json", &dataset("lung", 3, 2)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }

    #[test]
    fn files_outside_the_folder_are_refused() {
        for (path, is_read) in [
            ("zarr/X/c/0", true),
            ("a..b/.c", true),
            ("../heart/uns.json", false),
            ("zarr/../../x", false),
            ("/etc/passwd", false),
            ("a//b", false),
            ("a/./b", false),
            ("", false),
            ("a\\b", false),
            ("a\0", false),
        ] {
            let dataset = dataset("lung", 3, 2);
            let files = json!({path: {"size": 1, "checksum": "crc32c:00000000"}});
            let mut lung = description();
            lung["files"] = files.clone();
            let index = json!({"format": GENE_INDEX_FORMAT, "version": 1, "dataset": dataset.checksum, "files": files});
            let errors = [
                Description::parse(seal(&lung.to_string()).as_bytes(), "lung/dao.json", &dataset).err(),
                GeneIndexMeta::parse(seal(&index.to_string()).as_bytes(), "lung/dao.json", &dataset).err(),
            ];
            for error in errors {
                assert_eq!(error.is_none(), is_read, "{path:?}");
                let text = error.map_or_else(String::new, |error| error.to_string());
                assert!(
                    is_read || text.contains("'lung/dao.json'") && text.contains("outside of its folder"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn a_gene_index_is_of_one_state_of_a_dataset() {
        let mut lung = dataset("lung", 3, 2);
        lung.checksum = Some("crc32c:00000001".into());
        let parse = |made_of: &str| {
            let meta = json!({"format": GENE_INDEX_FORMAT, "version": 1, "dataset": made_of, "files": {}});
            GeneIndexMeta::parse(seal(&meta.to_string()).as_bytes(), "lung/gene_index/dao.json", &lung)
        };
        assert!(parse("crc32c:00000001").is_ok());
        let error = parse("crc32c:00000002").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("store.add_gene_index()"), "{error}");
    }
}
