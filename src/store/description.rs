//! The description of a part, a file in its folder: matrices, tables, files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ZARR;
use super::categories::PartCategories;
use super::constants::Constants;
use super::files::{Files, check_paths};
use super::manifest::Part;
use super::matrix_name::MatrixName;
use super::versioned;
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Layout};

/// `format` of a part's description.
const PART_FORMAT: &str = "dao-part";

/// A part's description of itself: its size, its matrices and its tables of cells and genes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Description {
    pub n_obs: u64,
    pub n_vars: u64,
    /// The number of stored values of X; `None` where nobody has counted them.
    pub nnz: Option<u64>,
    /// The matrices; each lies at `zarr/<name>`, in the part's folder or one in it.
    pub matrices: BTreeMap<MatrixName, MatrixMeta>,
    /// All its files but this description, by path relative to the part.
    pub files: Files,
    /// The table of genes, relative to the part.
    #[serde(rename = "var_path")]
    pub var_name: String,
    /// The dataset's uns, relative to the part.
    #[serde(rename = "uns_path")]
    pub uns_name: String,
    /// The gene-major copy of X, relative to the part, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gene_index: Option<String>,
    /// The values of its string-like obs columns.
    #[serde(default)]
    pub categories: PartCategories,
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

/// One matrix of a part.
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
    /// The names of an embedding's columns, where its source was a table that had some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// The folder that has the `zarr` in which it lies, relative to the part, where that is not the part itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
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

impl Description {
    /// Reads a part's description and holds it against the manifest's entry; `place` is for errors.
    ///
    /// # Errors
    /// `Value` for a newer version, `Corrupt` for one that is damaged or of another part, or lists files elsewhere.
    pub fn parse(bytes: &[u8], place: &str, part: &Part) -> Result<Self> {
        let description: Self = versioned::parse(bytes, place, PART_FORMAT)?;
        let summary = |n_obs, n_vars| format!("{n_obs} cells, {n_vars} genes");
        let expected = summary(part.n_obs, part.n_vars);
        let found = summary(description.n_obs, description.n_vars);
        if expected != found {
            return Err(DaoError::corrupt(place, "the dataset is not the one that the manifest lists")
                .expected(expected)
                .found(found));
        }
        check_paths(&description.files, place)?;
        Ok(description)
    }

    /// The bytes of the part on disk; `text` is the description as it is written.
    pub fn bytes(&self, text: &str) -> u64 {
        text.len() as u64 + self.files.values().map(|file| file.size).sum::<u64>()
    }

    /// The path of one of the matrices, relative to the store.
    pub fn matrix_path(&self, part: &Part, name: &MatrixName) -> String {
        let folder = self.matrices.get(name).and_then(|matrix| matrix.folder.as_ref());
        part.file(&folder.map_or_else(|| format!("{ZARR}/{name}"), |folder| format!("{folder}/{ZARR}/{name}")))
    }

    /// The path of the totals of one of the matrices, relative to the store.
    pub fn totals_path(&self, part: &Part, name: &MatrixName) -> String {
        part.file(&format!("{ZARR}/totals/{name}"))
    }

    /// The path of the gene-major copy of X, relative to the store, if there is one.
    pub fn gene_index_path(&self, part: &Part) -> Option<String> {
        self.gene_index.as_ref().map(|folder| part.file(&format!("{folder}/{ZARR}/X")))
    }

    /// The description as it is written: JSON.
    pub fn to_json(&self) -> Result<String> {
        versioned::to_json(PART_FORMAT, self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::ErrorKind;
    use crate::store::testing::part;
    use crate::store::versioned::seal;

    fn description() -> Value {
        json!({
            "format": PART_FORMAT, "version": 2, "n_obs": 3, "n_vars": 2, "nnz": 4,
            "matrices": {"X": {
                "layout": "csr", "dtype": "uint16", "source_dtype": "float32", "shape": [3, 2], "nnz": 4, "max_abs": 9.0,
            }},
            "files": {}, "var_path": "var.parquet", "uns_path": "uns.json", "obs": {"columns": []}, "var": {"columns": []}, "later": "kept",
        })
    }

    #[test]
    fn a_description_comes_back_with_what_this_version_does_not_know() {
        let text = seal(&description().to_string());
        let parsed = Description::parse(text.as_bytes(), "lung/dao.json", &part("lung", 3, 2)).unwrap();
        assert_eq!(parsed.matrices[&MatrixName::X].shape, [3, 2]);
        assert_eq!(parsed.extra.keys().collect::<Vec<_>>(), ["later"]);
        let again: Value = serde_json::from_str(&parsed.to_json().unwrap()).unwrap();
        assert_eq!(
            (&again["later"], &again["format"], &again["version"]),
            (&json!("kept"), &json!("dao-part"), &json!(2))
        );
    }

    #[test]
    fn another_part_or_damage_is_corrupt() {
        let text = seal(&description().to_string());
        for other in [part("lung", 4, 2), part("lung", 3, 1)] {
            let error = Description::parse(text.as_bytes(), "lung/dao.json", &other).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("'lung/dao.json'") && error.to_string().contains("3 cells"), "{error}");
        }
        let mut broken = description();
        broken["matrices"] = json!({"layers/../X": {}});
        for text in [&text[..text.len() / 2], &seal(&broken.to_string())] {
            let error = Description::parse(text.as_bytes(), "lung/dao.json", &part("lung", 3, 2)).unwrap_err();
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
            let part = part("lung", 3, 2);
            let files = json!({path: {"size": 1, "checksum": "crc32c:00000000"}});
            let mut lung = description();
            lung["files"] = files;
            let error = Description::parse(seal(&lung.to_string()).as_bytes(), "lung/dao.json", &part).err();
            assert_eq!(error.is_none(), is_read, "{path:?}");
            let text = error.map_or_else(String::new, |error| error.to_string());
            assert!(is_read || text.contains("'lung/dao.json'") && text.contains("outside of its folder"), "{text}");
        }
    }
}
