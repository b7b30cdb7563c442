//! One new dataset: its matrices, its tables' description, its checksums.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::array::{make_folder, write_file};
use super::matrix::{MatrixSpec, MatrixWriter};
use super::publish::Staging;
use super::sink::write_group;
use crate::error::{DaoError, Result};
use crate::storage::{Local, Storage};
use crate::store::{DATASET_FORMAT, DatasetEntry, DatasetMeta, FORMAT_VERSION, MANIFEST, MatrixMeta, checksum};

/// What the tables' side says of `obs.parquet`, `var.parquet` and `uns.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tables {
    /// `index_name` and `columns`, each with `name` and `dtype`.
    pub obs: Value,
    /// As `obs`.
    pub var: Value,
    /// What all cells are of, where that is one.
    #[serde(default)]
    pub organism: Option<String>,
    /// Dataset-wide values.
    #[serde(default)]
    pub constants: Map<String, Value>,
    /// For each string-like obs column its values, or none if they are too many.
    #[serde(default)]
    pub categories: BTreeMap<String, Option<BTreeSet<String>>>,
    /// Names the feature space.
    pub var_id: String,
}

/// A dataset being written; not visible until [`DatasetWriter::commit`], gone if dropped before.
pub struct DatasetWriter {
    staging: Staging,
    dataset: String,
    matrices: BTreeMap<String, MatrixMeta>,
}

impl DatasetWriter {
    /// Begins the dataset named `dataset` in the store at `uri`.
    ///
    /// # Errors
    /// As [`Staging::begin`].
    pub fn begin(uri: &str, dataset: &str) -> Result<Self> {
        let staging = Staging::begin(uri, dataset)?;
        make_folder(&staging.folder().join("parquet"))?;
        Ok(Self { staging, dataset: dataset.to_owned(), matrices: BTreeMap::new() })
    }

    /// The folder that will be the dataset's; tables are written there.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.staging.folder()
    }

    /// Begins a matrix. `source_dtype` and `max_abs` are noted.
    ///
    /// # Errors
    /// As [`MatrixWriter::new`].
    pub fn matrix(&mut self, spec: MatrixSpec, source_dtype: &str, max_abs: f64) -> Result<MatrixWriter> {
        check_name(&spec.name)?;
        let meta = MatrixMeta {
            layout: if spec.dense { "dense" } else { "csr" }.into(),
            dtype: spec.stored.name().into(),
            source_dtype: source_dtype.into(),
            shape: spec.shape,
            nnz: 0,
            max_abs,
            totals: spec.totals,
        };
        let name = spec.name.clone();
        let writer = MatrixWriter::new(self.folder(), spec)?;
        self.matrices.insert(name, meta);
        Ok(writer)
    }

    /// Notes what [`MatrixWriter::finish`] gave.
    pub fn set_nnz(&mut self, name: &str, nnz: u64) {
        if let Some(meta) = self.matrices.get_mut(name) {
            meta.nnz = nnz;
        }
    }

    /// Describes the dataset and makes it visible.
    ///
    /// # Errors
    /// `Value` if there is no X, and as [`Staging::publish`].
    pub fn commit(self, tables: Tables) -> Result<()> {
        let Self { staging, dataset, matrices } = self;
        let Some(x) = matrices.get("X") else {
            return Err(DaoError::value("a dataset needs a matrix X").at(format!("dataset '{dataset}'")));
        };
        let (x_meta, folder) = (x.clone(), staging.folder().to_owned());
        let kept = matrices.iter().filter(|(_, meta)| meta.totals).map(|(name, _)| format!("totals/{name}/array"));
        for group in kept.chain(matrices.keys().cloned()).flat_map(|path| above(&path)).collect::<BTreeSet<_>>() {
            write_group(&folder.join("zarr").join(group), &json!({}))?;
        }
        let named = |group: &str| -> Vec<String> {
            let prefix = format!("{group}/");
            matrices.keys().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect()
        };
        let mut entry = Map::new();
        entry.insert("layout".into(), json!(x_meta.layout));
        entry.insert("dtype".into(), json!(x_meta.dtype));
        entry.insert("organism".into(), json!(tables.organism));
        entry.insert("obs".into(), columns(&tables.obs)?);
        entry.insert("constants".into(), Value::Object(tables.constants.clone()));
        entry.insert("var_id".into(), json!(tables.var_id));
        entry.insert("layers".into(), json!(named("layers")));
        entry.insert("obsm".into(), json!(named("obsm")));
        let mut extra = Map::new();
        extra.insert("obs".into(), tables.obs);
        extra.insert("var".into(), tables.var);
        extra.insert("constants".into(), Value::Object(tables.constants));
        extra.insert("var_id".into(), json!(tables.var_id));
        let meta = DatasetMeta {
            format: DATASET_FORMAT.into(),
            version: FORMAT_VERSION,
            id: dataset.clone(),
            n_obs: x_meta.shape[0],
            n_vars: x_meta.shape[1],
            nnz: x_meta.nnz,
            checksums: checksums(&folder)?,
            matrices,
            extra,
        };
        let text = serde_json::to_string_pretty(&meta)
            .map_err(|e| DaoError::value(format!("the dataset cannot be described: {e}")))?;
        write_file(&folder.join(MANIFEST), text.as_bytes())?;
        entry.insert("bytes".into(), json!(Local::new(&folder)?.total_size("")?));
        let categories = tables.categories;
        staging.publish(&dataset.clone(), |manifest, number| {
            manifest.merge_categories(categories);
            Ok(DatasetEntry {
                number,
                id: dataset.clone(),
                path: dataset,
                n_obs: x_meta.shape[0],
                n_vars: x_meta.shape[1],
                nnz: Some(x_meta.nnz),
                checksum: Some(checksum(text.as_bytes())),
                extra: entry,
            })
        })
    }
}

/// The groups that a path below `zarr` lies in, that itself among them.
fn above(path: &str) -> Vec<PathBuf> {
    Path::new(path).ancestors().skip(1).map(Path::to_owned).collect()
}

fn check_name(name: &str) -> Result<()> {
    let plain = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\\', '\0']) && part != "zarr.json"
    };
    let known = name == "X" || ["layers/", "obsm/"].iter().any(|group| name.strip_prefix(group).is_some_and(plain));
    if known {
        return Ok(());
    }
    Err(DaoError::value(format!("'{}' cannot name a matrix", name.escape_default()))
        .expected("X, layers/<name> or obsm/<name>, without slashes in the name"))
}

/// `[[name, dtype], …]` of a table's description.
fn columns(table: &Value) -> Result<Value> {
    let described = table.get("columns").and_then(Value::as_array);
    let pairs = described.map(|columns| {
        columns
            .iter()
            .map(|column| Some(json!([column.get("name")?.as_str()?, column.get("dtype")?.as_str()?])))
            .collect::<Option<Vec<_>>>()
    });
    pairs
        .flatten()
        .map(Value::Array)
        .ok_or_else(|| DaoError::value("a table's description lacks column names or dtypes"))
}

fn is_array(folder: &Path) -> bool {
    let metadata = std::fs::read(folder.join("zarr.json")).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok());
    metadata.is_some_and(|metadata| metadata["node_type"] == "array")
}

/// Checksums of every file but the shards, by path relative to `folder`.
fn checksums(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        let failed = |e: &std::io::Error| DaoError::io(&at.display().to_string(), "reading back", e);
        for entry in std::fs::read_dir(&at).map_err(|e| failed(&e))? {
            let path = entry.map_err(|e| failed(&e))?.path();
            let in_array = path.file_name().is_some_and(|name| name == "c") && is_array(&at);
            if path.is_dir() && !in_array {
                folders.push(path);
            } else if path.is_file() {
                let bytes = std::fs::read(&path).map_err(|e| failed(&e))?;
                // Tables were written by others: flush them before the manifest lists them.
                std::fs::File::open(&path).and_then(|file| file.sync_all()).map_err(|e| failed(&e))?;
                let relative = path.strip_prefix(folder).unwrap_or(&path);
                found.insert(relative.to_string_lossy().replace('\\', "/"), checksum(&bytes));
            }
        }
    }
    Ok(found)
}
