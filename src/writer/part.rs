//! One new part: its matrices, its tables' description, its list of files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Map;

use super::folder::Folder;
use super::matrix::{MatrixSpec, MatrixWriter};
use crate::error::{DaoError, ErrorKind, Result};
use crate::interrupt::undisturbed;
use crate::storage::{self, Local, Storage, StorageOptions};
use crate::store::{
    Description, FileMeta, Lease, ListedFiles, Manifest, MatrixMeta, MatrixName, PARTS, Part, Record, Store, TableFile,
    check_free, check_name, checksum, commit, describe, folder_name, is_store, is_unnamed, missing, read_description,
};

/// The first tables of a part, and its description, relative to it. Later ones have their writer's tag in their names.
const OBS: &str = "obs.parquet";
const VAR: &str = "var.parquet";
const UNS: &str = "uns.json";
const DESCRIPTION: &str = "part.json";

/// What becomes of a dataset of the same name that the store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The name must be free.
    New,
    /// The new part takes the place of the dataset's; numbers are not used again.
    Replace,
    /// The new part is added to the dataset's. It must have the same genes.
    Append,
}

/// A part being written; not visible until [`PartWriter::commit`], gone if dropped before.
pub struct PartWriter {
    storage: Arc<dyn Storage>,
    folder: Folder,
    /// The part's folder, relative to the store.
    path: String,
    dataset: String,
    mode: Mode,
    matrices: BTreeMap<MatrixName, MatrixMeta>,
    /// The matrix that is being written.
    matrix: Option<(MatrixWriter, MatrixMeta)>,
    /// Whether what was written stays when this is dropped: once it is committed.
    stays: bool,
    lease: Lease,
}

impl PartWriter {
    /// Begins a part of the dataset named `dataset` in the store at `uri`, which is made if it is missing.
    ///
    /// # Errors
    /// `Value` for a name that cannot be one or a store that cannot be written to, `AlreadyExists` if it is taken, `Io`.
    pub fn begin(uri: &str, options: &StorageOptions, dataset: &str, mode: Mode) -> Result<Self> {
        check_name(dataset)?;
        let storage = storage::open(uri, options)?;
        if let Some(store) = existing(&storage)? {
            store.check_writable()?;
            if mode == Mode::New {
                check_free(store.manifest(), dataset, storage.uri())?;
            }
        }
        let lease = Lease::new(&storage)?;
        let path = format!("{PARTS}/{}-{}", folder_name(dataset), lease.tag);
        let folder = Folder::new(storage.clone(), &path)?;
        let (matrices, matrix, stays) = (BTreeMap::new(), None, false);
        let dataset = dataset.to_owned();
        let writer = Self { storage, folder, path, dataset, mode, matrices, matrix, stays, lease };
        storage::make_folder(writer.staging())?;
        Ok(writer)
    }

    /// The folder on this machine that tables are written to: `obs.parquet`, `var.parquet` and `uns.json`. The part's own, or one
    /// for a while, from which they are put to a bucket.
    #[must_use]
    pub fn staging(&self) -> &Path {
        self.folder.on_this_machine()
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
            columns: None,
            folder: None,
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

    /// Notes the largest absolute value of the matrix, where it is known only once all values came.
    ///
    /// # Errors
    /// `Value` if no matrix was begun.
    pub fn set_max_abs(&mut self, max_abs: f64) -> Result<()> {
        let (_, meta) = self.matrix.as_mut().ok_or_else(no_matrix)?;
        meta.max_abs = Some(max_abs);
        Ok(())
    }

    /// Notes the names of the matrix's columns.
    ///
    /// # Errors
    /// `Value` for another number of them, or if no matrix was begun.
    pub fn name_columns(&mut self, names: Vec<String>) -> Result<()> {
        let (_, meta) = self.matrix.as_mut().ok_or_else(no_matrix)?;
        meta.columns = columns_of(usize::try_from(meta.shape[1]).unwrap_or(usize::MAX), Some(names))?;
        Ok(())
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

    /// Describes the part and makes it visible. `tables` has what their writer knows: obs, var, constants, the feature
    /// space and the values of each string-like obs column; `organism` is that of all cells.
    ///
    /// # Errors
    /// `Value` if there is no X, a matrix is not finished, or obs has not a row a cell; `AlreadyExists` if another writer
    /// took the name meanwhile, `Value` if the dataset that it is added to has other genes, `Io`; the part is not visible then.
    pub fn commit(mut self, tables: Description, organism: Option<String>, record: &Record) -> Result<Manifest> {
        let (Some(x), None) = (self.matrices.get(&MatrixName::X).cloned(), &self.matrix) else {
            let what = "a dataset needs a matrix X, and all its matrices finished";
            return Err(DaoError::value(what).at(format!("dataset '{}'", self.dataset)));
        };
        let (mut part, mut description) = self.finish(&x, tables, organism)?;
        let committed = commit(&*self.storage, record, |manifest| {
            self.lease.confirm()?;
            self.make_room(manifest, &part)?;
            self.adopt_var(manifest, &mut part, &mut description)?;
            manifest.add(part.clone(), &description.categories)?;
            Ok(true)
        });
        self.stays = committed.is_ok() || !is_unnamed(&*self.storage, &self.lease.tag);
        if self.stays && committed.is_err() {
            self.lease.leave();
        }
        committed
    }

    /// Makes that a version can take the part.
    fn make_room(&self, manifest: &mut Manifest, part: &Part) -> Result<()> {
        match self.mode {
            Mode::New => check_free(manifest, &self.dataset, self.storage.uri()),
            Mode::Replace => manifest.remove(&*self.storage, &self.dataset),
            Mode::Append => match manifest.parts_of(&self.dataset).next() {
                Some(first) if first.feature_space != part.feature_space => Err(DaoError::value(
                    "the cells to be added have other genes than the dataset, or another order of them",
                )
                .at(part.place())
                .hint("align them to the dataset's: genes=store.var(dataset)")),
                _ => Ok(()),
            },
        }
    }

    /// Gives a part that is added to a dataset the dataset's table of genes as it is now, if that was changed meanwhile.
    fn adopt_var(&self, manifest: &Manifest, part: &mut Part, description: &mut Description) -> Result<()> {
        let Some(first) = manifest.parts_of(&self.dataset).next().filter(|_| self.mode == Mode::Append) else {
            return Ok(());
        };
        let theirs = read_description(&*self.storage, first)?;
        let Some(meta) = theirs.files.get(&theirs.var_name) else { return Ok(()) };
        if description.files.get(&description.var_name) == Some(meta) {
            return Ok(());
        }
        let files = ListedFiles::new(self.storage.clone(), &first.path, theirs.files.clone());
        let path = first.file(&theirs.var_name);
        let bytes = files.get(&path)?.ok_or_else(|| missing(&format!("{}/{path}", self.storage.uri())))?;
        let crc = checksum(&bytes);
        let name = format!("var-{}-{}.parquet", self.lease.tag, crc.trim_start_matches("crc32c:"));
        self.folder.write(&name, &bytes)?;
        self.folder.list()?; // which waits until it is there to stay
        description.files.insert(name.clone(), FileMeta::of(&bytes));
        let before = [std::mem::replace(&mut description.var_name, name), part.description.clone()];
        description.files.remove(&before[0]);
        description.var = theirs.var;
        describe(&self.storage, part, description, &self.lease, &mut Vec::new())?;
        before.iter().try_for_each(|name| self.storage.remove(&part.file(name)))
    }

    /// Writes what describes the part; gives its entry, without a number, and its description.
    fn finish(&mut self, x: &MatrixMeta, tables: Description, organism: Option<String>) -> Result<(Part, Description)> {
        let matrices = std::mem::take(&mut self.matrices);
        let kept = matrices.iter().filter(|(_, meta)| meta.totals).map(|(name, _)| format!("totals/{name}/array"));
        let paths = kept.chain(matrices.keys().map(MatrixName::to_string));
        self.folder.write_groups(paths)?;
        let (mut layers, mut obsm) = (Vec::new(), Vec::new());
        for name in matrices.keys() {
            match name {
                MatrixName::X => {}
                MatrixName::Layer(name) => layers.push(name.clone()),
                MatrixName::Obsm(name) => obsm.push(name.clone()),
            }
        }
        let obs_place = format!("{}/{}/{OBS}", self.storage.uri(), self.path);
        // Where Python wrote it: from a bucket it would have to come back.
        let staged = Local::new(self.staging())?.file(OBS)?.ok_or_else(|| missing(&obs_place))?;
        let obs_file = TableFile::of(staged.as_ref(), &obs_place)?;
        if obs_file.rows != x.shape[0] {
            return Err(DaoError::value("a dataset needs a table of cells with a row for each")
                .at(format!("dataset '{}', path '{obs_place}'", self.dataset))
                .expected(format!("{} rows", x.shape[0]))
                .found(obs_file.rows));
        }
        [OBS, VAR, UNS].into_iter().try_for_each(|name| self.folder.take(name))?;
        let description = Description {
            n_obs: x.shape[0],
            n_vars: x.shape[1],
            nnz: x.nnz,
            files: self.folder.list()?,
            var_name: VAR.into(),
            uns_name: UNS.into(),
            matrices,
            ..tables
        };
        let text = description.to_json()?;
        self.folder.write(DESCRIPTION, text.as_bytes())?;
        let outline = self.folder.pieces().write(&self.folder, (DESCRIPTION, text.as_bytes()))?;
        self.folder.list()?;
        let part = Part {
            number: 0,
            store: None,
            path: self.path.clone(),
            name: self.dataset.clone(),
            n_obs: x.shape[0],
            n_vars: x.shape[1],
            nnz: x.nnz,
            description: DESCRIPTION.into(),
            checksum: Some(checksum(text.as_bytes())),
            layout: x.layout,
            dtype: x.dtype,
            bytes: description.bytes(&text) + outline.size,
            outline: Some(outline),
            organism,
            obs: description.obs.columns.iter().map(|column| (column.name.clone(), column.dtype.clone())).collect(),
            obs_name: OBS.into(),
            obs_file: Some(Arc::new(obs_file)),
            removed: None,
            constants: description.constants.clone(),
            feature_space: description.feature_space.clone(),
            layers: layers.into(),
            obsm: obsm.into(),
            extra: Map::new(),
        };
        Ok((part, description))
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        if !self.stays && self.lease.is_own() {
            // Best effort: vacuum removes what stays.
            self.matrix = None;
            self.folder.give_up();
            let _ = undisturbed(|| self.storage.remove_folder(&self.path));
        }
    }
}

/// The store in a storage, if there is one.
pub(super) fn existing(storage: &Arc<dyn Storage>) -> Result<Option<Store>> {
    match Store::read(storage.clone(), None) {
        Ok(store) => Ok(Some(store)),
        Err(e) if e.kind() == ErrorKind::NotFound && !is_store(&**storage)? => Ok(None),
        // Another may have made it in between.
        Err(e) if e.kind() == ErrorKind::NotFound => Store::read(storage.clone(), None).map(Some),
        Err(e) => Err(e),
    }
}

/// The names of a matrix's columns, as its description has them.
pub(super) fn columns_of(width: usize, names: Option<Vec<String>>) -> Result<Option<Vec<String>>> {
    match &names {
        Some(names) if names.len() != width => {
            Err(DaoError::value("an embedding has other columns than names").expected(width).found(names.len()))
        }
        _ => Ok(names),
    }
}

fn no_matrix() -> DaoError {
    DaoError::value("no matrix is being written")
}

#[cfg(test)]
mod tests;
