//! One new dataset: its matrices, its tables' description, its list of files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, json};

use super::folder::{Folder, write_file};
use super::matrix::{MatrixSpec, MatrixWriter};
use super::publish::Staging;
use crate::error::{DaoError, Result};
use crate::storage::{Local, Storage};
use crate::store::{
    Categories, Dataset, Description, MANIFEST, MatrixMeta, MatrixName, OBS, TableFile, checksum, missing,
};

/// A dataset being written; not visible until [`DatasetWriter::commit`], gone if dropped before.
pub struct DatasetWriter {
    staging: Staging,
    folder: Folder,
    dataset: String,
    matrices: BTreeMap<MatrixName, MatrixMeta>,
    /// The matrix that is being written.
    matrix: Option<(MatrixWriter, MatrixMeta)>,
}

impl DatasetWriter {
    /// Begins the dataset named `dataset` in the store at `uri`.
    ///
    /// # Errors
    /// As [`Staging::begin`].
    pub fn begin(uri: &str, dataset: &str) -> Result<Self> {
        let staging = Staging::begin(uri, dataset)?;
        let folder = Folder::new(staging.folder());
        folder.join("parquet").make()?;
        Ok(Self { staging, folder, dataset: dataset.to_owned(), matrices: BTreeMap::new(), matrix: None })
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
    pub fn begin_matrix(&mut self, spec: MatrixSpec, source_dtype: &str, max_abs: f64) -> Result<&mut MatrixWriter> {
        let meta = MatrixMeta {
            layout: spec.layout,
            dtype: Some(spec.stored),
            source_dtype: source_dtype.into(),
            shape: spec.shape,
            nnz: None,
            max_abs: Some(max_abs),
            totals: spec.has_totals(),
        };
        let writer = MatrixWriter::new(&self.folder, spec)?;
        Ok(&mut self.matrix.insert((writer, meta)).0)
    }

    /// The matrix that was begun and is not finished.
    ///
    /// # Errors
    /// `Value` if there is none.
    pub fn matrix(&mut self) -> Result<&mut MatrixWriter> {
        self.matrix.as_mut().map(|(writer, _)| writer).ok_or_else(no_matrix)
    }

    /// Writes the rest of the matrix; returns the number of stored values.
    ///
    /// # Errors
    /// As [`MatrixWriter::finish`], and `Value` if no matrix was begun.
    pub fn finish_matrix(&mut self) -> Result<u64> {
        let (writer, meta) = self.matrix.take().ok_or_else(no_matrix)?;
        let name = writer.name().clone();
        let nnz = writer.finish()?;
        self.matrices.insert(name, MatrixMeta { nnz: Some(nnz), ..meta });
        Ok(nnz)
    }

    /// Describes the dataset and makes it visible. `tables` has what their writer knows: obs, var, constants and the
    /// feature space; `organism` is that of all cells, `categories` the values of each string-like obs column.
    ///
    /// # Errors
    /// `Value` if there is no X, a matrix is not finished, or obs has not a row a cell, and as [`Staging::publish`].
    pub fn commit(self, tables: Description, organism: Option<String>, categories: Categories) -> Result<()> {
        let Self { staging, folder, dataset, matrices, matrix } = self;
        let (Some(x), None) = (matrices.get(&MatrixName::X).cloned(), matrix) else {
            let what = "a dataset needs a matrix X, and all its matrices finished";
            return Err(DaoError::value(what).at(format!("dataset '{dataset}'")));
        };
        let kept = matrices.iter().filter(|(_, meta)| meta.totals).map(|(name, _)| format!("totals/{name}/array"));
        let paths = kept.chain(matrices.keys().map(MatrixName::to_string));
        for group in paths.flat_map(|path| above(&path)).collect::<BTreeSet<_>>() {
            group.iter().fold(folder.join("zarr"), |at, name| at.join(name)).write_group(&json!({}))?;
        }
        let (mut layers, mut obsm) = (Vec::new(), Vec::new());
        for name in matrices.keys() {
            match name {
                MatrixName::X => {}
                MatrixName::Layer(name) => layers.push(name.clone()),
                MatrixName::Obsm(name) => obsm.push(name.clone()),
            }
        }
        let description = Description {
            name: dataset.clone(),
            n_obs: x.shape[0],
            n_vars: x.shape[1],
            nnz: x.nnz,
            files: folder.list()?,
            matrices,
            ..tables
        };
        let text = description.to_json()?;
        write_file(&staging.folder().join(MANIFEST), text.as_bytes())?;
        let bytes = text.len() as u64 + description.files.values().map(|file| file.size).sum::<u64>();
        let obs_place = staging.folder().join(OBS).to_string_lossy().into_owned();
        let obs_file = Local::new(staging.folder())?.file(OBS)?.ok_or_else(|| missing(&obs_place))?;
        let obs_file = TableFile::of(obs_file.as_ref(), &obs_place)?;
        if obs_file.rows != x.shape[0] {
            return Err(DaoError::value("a dataset needs a table of cells with a row for each")
                .at(format!("dataset '{dataset}', path '{obs_place}'"))
                .expected(format!("{} rows", x.shape[0]))
                .found(obs_file.rows));
        }
        staging.publish(|manifest, number| {
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
                organism,
                obs: description.obs.columns.into_iter().map(|column| (column.name, column.dtype)).collect(),
                obs_file: Some(Arc::new(obs_file)),
                constants: description.constants,
                feature_space: description.feature_space,
                layers: layers.into(),
                obsm: obsm.into(),
                extra: Map::new(),
            })
        })
    }
}

/// The groups that a path below `zarr` lies in, that itself among them, each as the names of the folders on its way.
fn above(path: &str) -> Vec<Vec<String>> {
    let names: Vec<String> = path.split('/').map(str::to_owned).collect();
    (0..names.len()).map(|n| names[..n].to_vec()).collect()
}

fn no_matrix() -> DaoError {
    DaoError::value("no matrix is being written")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::number::{Dtype, Layout, Values};
    use crate::storage::{Local, Storage};
    use crate::store::testing::obs_table;
    use crate::store::{FileMeta, Store};

    fn spec(name: MatrixName, layout: Layout) -> MatrixSpec {
        MatrixSpec {
            name,
            layout,
            portable: false,
            shape: [2, 3],
            stored: Dtype::U8,
            columns: None,
            rows: None,
            source_nnz: 2,
            transposed: false,
        }
    }

    fn commit(writer: DatasetWriter, categories: Categories) -> Result<()> {
        let tables = Description { feature_space: "space".into(), ..Description::default() };
        std::fs::write(writer.folder().join(OBS), obs_table(2)).unwrap();
        writer.commit(tables, Some("human".into()), categories)
    }

    fn put(writer: &mut DatasetWriter, name: &MatrixName, layout: Layout) {
        let matrix = writer.begin_matrix(spec(name.clone(), layout), "float32", 4.0).unwrap();
        matrix.push_dense(3, &Values::U8(vec![0, 4, 0, 1, 0, 0])).unwrap();
        writer.finish_matrix().unwrap();
    }

    #[test]
    fn a_dataset_lists_its_matrices_and_checksums() {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder.path().to_str().unwrap();
        let mut writer = DatasetWriter::begin(uri, "lung").unwrap();
        let (layer, pca) = (MatrixName::Layer("counts".into()), MatrixName::Obsm("X_pca".into()));
        put(&mut writer, &MatrixName::X, Layout::Csr);
        put(&mut writer, &layer, Layout::Csr);
        put(&mut writer, &pca, Layout::Dense);
        std::fs::write(writer.folder().join("parquet/var.parquet"), b"table").unwrap();
        assert!(Store::open(uri, &Vec::new()).is_err(), "not visible before it is complete");
        commit(writer, BTreeMap::new()).unwrap();

        let store = Store::open(uri, &Vec::new()).unwrap();
        let dataset = store.dataset("lung").unwrap();
        assert_eq!((dataset.n_obs, dataset.n_vars, dataset.nnz), (2, 3, Some(2)));
        assert_eq!((&dataset.layers[..], &dataset.obsm[..]), (&["counts".into()][..], &["X_pca".into()][..]));
        let description = store.description(dataset).unwrap();
        assert_eq!(description.matrices.keys().collect::<Vec<_>>(), [&MatrixName::X, &layer, &pca]);
        assert_eq!(description.files["parquet/var.parquet"], FileMeta::of(b"table"));
        let listed: BTreeSet<String> = description.files.into_keys().chain(["dao.json".to_owned()]).collect();
        let found = Local::new(&folder.path().join("lung")).unwrap().list_files("").unwrap();
        assert_eq!(found.into_iter().map(|(path, _)| path).collect::<BTreeSet<_>>(), listed);
        for file in ["zarr/X/indices/c/0", "zarr/zarr.json", "zarr/layers/zarr.json", "zarr/obsm/zarr.json"] {
            assert!(listed.contains(file), "{file}");
        }
    }

    #[test]
    fn categories_of_datasets_are_joined() {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder.path().to_str().unwrap();
        let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect::<BTreeSet<_>>());
        let of = |names: [(&str, Option<BTreeSet<String>>); 2]| -> Categories {
            names.into_iter().map(|(name, values)| (name.to_owned(), values)).collect()
        };
        for (name, categories) in [
            ("a", of([("type", words(&["T", "B"])), ("barcode", words(&["x"]))])),
            ("b", of([("type", words(&["B", "NK"])), ("barcode", None)])),
        ] {
            let mut writer = DatasetWriter::begin(uri, name).unwrap();
            put(&mut writer, &MatrixName::X, Layout::Csr);
            commit(writer, categories).unwrap();
        }
        let store = Store::open(uri, &Vec::new()).unwrap();
        assert_eq!(store.manifest().categories, of([("type", words(&["B", "NK", "T"])), ("barcode", None)]));
    }

    #[test]
    fn a_dataset_without_x_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = DatasetWriter::begin(folder.path().to_str().unwrap(), "d").unwrap();
        put(&mut writer, &MatrixName::Layer("counts".into()), Layout::Csr);
        let error = commit(writer, BTreeMap::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().contains("matrix X"), "{error}");
        assert!(!folder.path().join("d").exists());
        assert!(folder.path().join(".staging").read_dir().unwrap().next().is_none());
    }

    #[test]
    fn a_dataset_needs_a_row_of_obs_for_each_cell() {
        let folder = tempfile::tempdir().unwrap();
        for (table, what) in [(None, "obs.parquet"), (Some(obs_table(3)), "expected 2 rows, found 3")] {
            let mut writer = DatasetWriter::begin(folder.path().to_str().unwrap(), "d").unwrap();
            put(&mut writer, &MatrixName::X, Layout::Csr);
            if let Some(table) = table {
                std::fs::write(writer.folder().join(OBS), table).unwrap();
            }
            let error = writer.commit(Description::default(), None, BTreeMap::new()).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert!(!folder.path().join("d").exists());
        }
    }

    #[test]
    fn groups_are_those_above() {
        let paths: Vec<_> = above("totals/layers/counts/array").iter().map(|names| names.join("/")).collect();
        assert_eq!(paths, ["", "totals", "totals/layers", "totals/layers/counts"]);
    }
}
