//! One new dataset: its matrices, its tables' description, its checksums.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::array::{make_folder, write_file};
use super::matrix::{MatrixSpec, MatrixWriter};
use super::publish::Staging;
use super::sink::write_group;
use crate::error::{DaoError, Result};
use crate::storage::{Local, Storage};
use crate::store::{
    Categories, Constants, DATASET_FORMAT, Dataset, Description, FORMAT_VERSION, MANIFEST, MatrixMeta, MatrixName,
    TableMeta, checksum,
};

/// What the tables' side says of `obs.parquet`, `var.parquet` and `uns.json`.
#[derive(Debug, Clone)]
pub struct Tables {
    /// The table of cells.
    pub obs: TableMeta,
    /// The table of genes.
    pub var: TableMeta,
    /// What all cells are of, where that is one organism.
    pub organism: Option<String>,
    /// Values that all its cells share.
    pub constants: Constants,
    /// For each string-like obs column its values, or none if they are too many.
    pub categories: Categories,
    /// Names the feature space.
    pub feature_space: String,
}

/// A dataset being written; not visible until [`DatasetWriter::commit`], gone if dropped before.
pub struct DatasetWriter {
    staging: Staging,
    dataset: String,
    matrices: BTreeMap<MatrixName, MatrixMeta>,
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
        let meta = MatrixMeta {
            layout: spec.layout,
            dtype: Some(spec.stored),
            source_dtype: source_dtype.into(),
            shape: spec.shape,
            nnz: None,
            max_abs: Some(max_abs),
            totals: spec.totals,
        };
        let name = spec.name.clone();
        let writer = MatrixWriter::new(self.folder(), spec)?;
        self.matrices.insert(name, meta);
        Ok(writer)
    }

    /// Notes what [`MatrixWriter::finish`] gave.
    pub fn set_nnz(&mut self, name: &MatrixName, nnz: u64) {
        if let Some(meta) = self.matrices.get_mut(name) {
            meta.nnz = Some(nnz);
        }
    }

    /// Describes the dataset and makes it visible.
    ///
    /// # Errors
    /// `Value` if there is no X, and as [`Staging::publish`].
    pub fn commit(self, tables: Tables) -> Result<()> {
        let Self { staging, dataset, matrices } = self;
        let Some(x) = matrices.get(&MatrixName::X).cloned() else {
            return Err(DaoError::value("a dataset needs a matrix X").at(format!("dataset '{dataset}'")));
        };
        let folder = staging.folder().to_owned();
        let kept = matrices.iter().filter(|(_, meta)| meta.totals).map(|(name, _)| format!("totals/{name}/array"));
        let paths = kept.chain(matrices.keys().map(MatrixName::to_string));
        for group in paths.flat_map(|path| above(&path)).collect::<BTreeSet<_>>() {
            write_group(&folder.join("zarr").join(group), &json!({}))?;
        }
        let (mut layers, mut obsm) = (Vec::new(), Vec::new());
        for name in matrices.keys() {
            match name {
                MatrixName::X => {}
                MatrixName::Layer(name) => layers.push(name.clone()),
                MatrixName::Obsm(name) => obsm.push(name.clone()),
            }
        }
        let obs = tables.obs.columns.iter().map(|column| (column.name.clone(), column.dtype.clone())).collect();
        let description = Description {
            format: DATASET_FORMAT.into(),
            version: FORMAT_VERSION,
            name: dataset.clone(),
            n_obs: x.shape[0],
            n_vars: x.shape[1],
            nnz: x.nnz,
            checksums: checksums(&folder)?,
            matrices,
            obs: tables.obs,
            var: tables.var,
            constants: tables.constants.clone(),
            feature_space: tables.feature_space.clone(),
            extra: Map::new(),
        };
        let text = serde_json::to_string_pretty(&description)
            .map_err(|e| DaoError::value(format!("the dataset cannot be described: {e}")))?;
        write_file(&folder.join(MANIFEST), text.as_bytes())?;
        let bytes = Local::new(&folder)?.total_size("")?;
        let categories = tables.categories;
        staging.publish(&dataset.clone(), |manifest, number| {
            manifest.merge_categories(categories);
            Ok(Dataset {
                number,
                path: dataset.clone(),
                name: dataset,
                n_obs: x.shape[0],
                n_vars: x.shape[1],
                nnz: x.nnz,
                checksum: Some(checksum(text.as_bytes())),
                layout: x.layout,
                dtype: x.dtype,
                bytes,
                organism: tables.organism,
                obs,
                constants: tables.constants,
                feature_space: tables.feature_space,
                layers,
                obsm,
                extra: Map::new(),
            })
        })
    }
}

/// The groups that a path below `zarr` lies in, that itself among them.
fn above(path: &str) -> Vec<PathBuf> {
    Path::new(path).ancestors().skip(1).map(Path::to_owned).collect()
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
