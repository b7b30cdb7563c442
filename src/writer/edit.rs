//! Edits of parts: new tables, embeddings and removed rows beside what is there, named by one new version.
//!
//! Owns what is written for an edit and what becomes of it: an edit that lost its race to another is made again on top of that,
//! with what was written for the parts that the other left alone. What the values are is its user's.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::folder::Folder;
use super::matrix::{MatrixSpec, MatrixWriter};
use super::source::{Slice, ValueScan};
use super::temporary::TemporaryFolder;
use crate::error::{DaoError, Result};
use crate::interrupt::undisturbed;
use crate::number::Layout;
use crate::read::OpenStore;
use crate::storage::{Local, Storage};
use crate::store::{
    Constants, Draft, Files, Lease, Manifest, MatrixMeta, MatrixName, Part, PartCategories, Record, Removed,
    RemovedRows, Store, TableFile, TableMeta, check_free, check_name, checksum, describe, is_unnamed, missing,
};

/// A new table of a part: the name of its file, and what it is.
#[derive(Debug)]
pub struct NewTable {
    pub name: String,
    pub meta: TableMeta,
}

/// What changes in a part.
#[derive(Debug, Default)]
pub struct PartChange {
    pub obs: Option<NewTable>,
    pub var: Option<NewTable>,
    /// The values of each string-like obs column, of its cells.
    pub categories: Option<PartCategories>,
    pub constants: Option<Constants>,
    /// The organism of all cells; `None` where it stays.
    pub organism: Option<Option<String>>,
    /// Rows that are removed, beside those that were before.
    pub removed: Vec<u32>,
}

/// A part as an edit made it.
struct Made {
    /// The checksum of the description that it was made of.
    from: Option<String>,
    part: Part,
    before: PartCategories,
    after: PartCategories,
    /// The files and folders that were written for it, relative to the store.
    written: Vec<String>,
}

/// An edit of a store; nothing of it is visible before [`Edit::commit`] made its version, and what no version names goes when it
/// is dropped.
pub struct Edit {
    storage: Arc<dyn Storage>,
    /// Where tables are written first that go to a bucket.
    temporary: Option<Arc<TemporaryFolder>>,
    lease: Lease,
    record: Record,
    draft: Draft,
    made: HashMap<u32, Made>,
    /// What was written for the part that is being changed.
    writing: Vec<String>,
    /// Embeddings that were written for it.
    obsm: Vec<(MatrixName, MatrixMeta, Files)>,
    /// How many names were given.
    n_names: usize,
    stays: bool,
}

impl Edit {
    /// Begins an edit of the last version.
    ///
    /// # Errors
    /// `Value` for a store that is not written to.
    pub fn begin(store: &Store, record: Record) -> Result<Self> {
        store.check_writable()?;
        let storage = store.storage()?.clone();
        let lease = Lease::new(&storage)?;
        let temporary = TemporaryFolder::where_needed(&*storage)?;
        let draft = Draft::of_latest(&*storage)?;
        let (made, writing, obsm) = Default::default();
        Ok(Self { storage, temporary, lease, record, draft, made, writing, obsm, n_names: 0, stays: false })
    }

    /// The number of the version that is edited.
    pub fn version(&self) -> u64 {
        self.draft.manifest.version
    }

    /// Begins again on the version that is the last one now.
    ///
    /// # Errors
    /// As [`Draft::of_latest`].
    pub fn begin_again(&mut self) -> Result<()> {
        self.draft = Draft::of_latest(&*self.storage)?;
        Ok(())
    }

    /// A new file of a part, `<kind>-…<extension>`, for the caller to write: its name, and where it is on this machine.
    ///
    /// # Errors
    /// `Value` for a part that is not in the version.
    pub fn new_file(&mut self, number: u32, kind: &str, extension: &str) -> Result<(String, PathBuf)> {
        let name = format!("{}{extension}", self.new_name(kind));
        let part = self.part(number)?;
        let (path, place) = (part.file(&name), self.folder(part).on_this_machine().join(&name));
        self.writing.push(path);
        Ok((name, place))
    }

    /// Writes an embedding of a part: (its rows, `width`), and the names of its columns where it has some.
    ///
    /// # Errors
    /// `Value` for another number of rows or names, `Io` for a full disk.
    pub fn write_obsm(
        &mut self,
        number: u32,
        name: &str,
        width: usize,
        source_dtype: &str,
        columns: Option<Vec<String>>,
        values: Slice<'_>,
    ) -> Result<()> {
        let folder_name = self.new_name("obsm");
        let part = self.part(number)?;
        let (path, shape) = (part.file(&folder_name), [part.n_obs, width as u64]);
        let of_part = self.folder(part);
        self.writing.push(path);
        let name = MatrixName::try_from(format!("obsm/{name}"))?;
        let mut scan = ValueScan::default();
        scan.update(values)?;
        let spec = MatrixSpec {
            name: name.clone(),
            layout: Layout::Dense,
            portable: false,
            shape,
            stored: scan.stored(),
            columns: None,
            rows: None,
            source_nnz: scan.nonzero(),
            transposed: false,
        };
        let folder = of_part.join(&folder_name);
        let mut writer = MatrixWriter::new(&folder, spec)?;
        writer.push_dense(width, values)?;
        let nnz = Some(writer.finish()?);
        folder.write_groups([name.to_string()].into_iter())?;
        let meta = MatrixMeta {
            layout: Layout::Dense,
            dtype: Some(scan.stored()),
            source_dtype: source_dtype.to_owned(),
            shape,
            nnz,
            max_abs: Some(scan.max_abs()),
            totals: false,
            columns: super::part::columns_of(width, columns)?,
            folder: Some(folder_name),
        };
        self.obsm.push((name, meta, of_part.list()?));
        Ok(())
    }

    /// Changes a part, with the embeddings that were written for it; `open` is the store in the version that is edited.
    ///
    /// # Errors
    /// `Value` for a part that is not in the version, or for a table that has not a row for each of its rows; `Io`.
    pub fn change(&mut self, open: &OpenStore, number: u32, change: PartChange) -> Result<()> {
        if open.store().manifest().version != self.version() {
            return Err(DaoError::internal("an edit of another version than the one that is edited"));
        }
        let mut part = self.part(number)?.clone();
        let from = part.checksum.clone();
        let mut description = open.store().description(&part)?;
        let before = description.categories.clone();
        let folder = self.folder(&part);
        if let Some(table) = change.obs {
            folder.take(&table.name)?;
            description.files.remove(&part.obs_name);
            self.put_obs(&mut part, &folder, &table)?;
            description.obs = table.meta;
        }
        if let Some(table) = change.var {
            folder.take(&table.name)?;
            description.files.remove(&description.var_name);
            (description.var_name, description.var) = (table.name, table.meta);
        }
        if let Some(categories) = change.categories {
            description.categories = categories;
        }
        if let Some(constants) = change.constants {
            part.constants = constants.clone();
            description.constants = constants;
        }
        if let Some(organism) = change.organism {
            part.organism = organism;
        }
        if !change.removed.is_empty() {
            let (removed, bytes) = self.removed(open, &part, change.removed)?;
            self.writing.push(part.file(&removed.path));
            folder.write(&removed.path, &bytes)?;
            if let Some(old) = part.removed.replace(removed) {
                description.files.remove(&old.path);
            }
        }
        for (name, meta, files) in std::mem::take(&mut self.obsm) {
            let old = format!("{}/", description.matrix_path(&part, &name));
            description.files.retain(|file, _| !part.file(file).starts_with(&old));
            description.files.extend(files);
            description.matrices.insert(name, meta);
        }
        let embeddings = description.matrices.keys().filter_map(|name| match name {
            MatrixName::Obsm(name) => Some(name.clone()),
            _ => None,
        });
        part.obsm = embeddings.collect::<Vec<_>>().into();
        description.files.extend(folder.list()?);
        describe(&self.storage, &mut part, &description, &self.lease, &mut self.writing)?;
        let written = std::mem::take(&mut self.writing);
        let made = Made { from, part, before, after: description.categories, written };
        if let Some(old) = self.made.insert(number, made) {
            self.remove(&old.written);
        }
        self.put(number)
    }

    /// Changes a part as it was before another version came between, where that left the part alone; false if not.
    ///
    /// # Errors
    /// `Value` for a part that is not in the version.
    pub fn change_again(&mut self, number: u32) -> Result<bool> {
        let checksum = self.part(number)?.checksum.clone();
        if self.made.get(&number).is_none_or(|made| made.from != checksum) {
            return Ok(false);
        }
        self.put(number)?;
        Ok(true)
    }

    /// Gives a dataset another name.
    ///
    /// # Errors
    /// `AlreadyExists` if the new name is taken, `Value` for one that cannot be one.
    pub fn rename_dataset(&mut self, old: &str, new: &str) -> Result<()> {
        check_name(new)?;
        let manifest = &mut self.draft.manifest;
        check_free(manifest, new, self.storage.uri())?;
        manifest.rename(old, new);
        Ok(())
    }

    /// Leaves a dataset out.
    ///
    /// # Errors
    /// As [`Manifest::remove`].
    pub fn remove_dataset(&mut self, name: &str) -> Result<()> {
        self.draft.manifest.remove(&*self.storage, name)
    }

    /// Makes the version: its number, or `None` if another was made meanwhile, on top of which the edit is to be made again.
    ///
    /// # Errors
    /// `Io`; there is no version then.
    pub fn commit(&mut self) -> Result<Option<u64>> {
        let made = self.lease.confirm().and_then(|()| self.draft.make(&*self.storage, &self.record));
        match made {
            Ok(true) => {
                self.stays = true;
                self.remove_unnamed();
                Ok(Some(self.version()))
            }
            Ok(false) => Ok(None),
            Err(e) => {
                self.stays = !is_unnamed(&*self.storage, &self.lease.tag);
                if self.stays {
                    self.lease.leave();
                }
                Err(e)
            }
        }
    }

    /// The folder of a part.
    fn folder(&self, part: &Part) -> Folder {
        Folder::with(self.storage.clone(), &part.path, self.temporary.clone())
    }

    fn new_name(&mut self, kind: &str) -> String {
        self.n_names += 1;
        format!("{kind}-{}-{}", self.lease.tag, self.n_names)
    }

    fn part(&self, number: u32) -> Result<&Part> {
        let found = self.draft.manifest.parts.iter().find(|part| part.number == number);
        found.ok_or_else(|| DaoError::value(format!("part number {number} is not in the version that is edited")))
    }

    /// Puts a part into the version as the edit made it. The name of its dataset is the version's.
    fn put(&mut self, number: u32) -> Result<()> {
        let made = self.made.get(&number);
        let Manifest { parts, categories, .. } = &mut self.draft.manifest;
        let listed = parts.iter_mut().find(|part| part.number == number);
        let (Some(made), Some(listed)) = (made, listed) else {
            return Err(DaoError::internal("a part that was not made"));
        };
        *listed = Part { name: std::mem::take(&mut listed.name), ..made.part.clone() };
        categories.remove(&made.before);
        categories.add(&made.after);
        Ok(())
    }

    /// Names a part's new table of cells.
    fn put_obs(&self, part: &mut Part, folder: &Folder, table: &NewTable) -> Result<()> {
        let place = format!("{}/{}", self.storage.uri(), part.file(&table.name));
        // Where it was written: from a bucket it would have to come back.
        let file = Local::new(folder.on_this_machine())?.file(&table.name)?.ok_or_else(|| missing(&place))?;
        let file = TableFile::of(file.as_ref(), &place)?;
        if file.rows != part.n_obs {
            return Err(DaoError::value("a dataset needs a table of cells with a row for each")
                .at(part.place())
                .expected(format!("{} rows", part.n_obs))
                .found(file.rows));
        }
        part.obs = table.meta.columns.iter().map(|column| (column.name.clone(), column.dtype.clone())).collect();
        part.obs_name.clone_from(&table.name);
        part.obs_file = Some(Arc::new(file));
        Ok(())
    }

    /// What is listed of a part's removed rows, and their file, once more rows are removed.
    fn removed(&mut self, open: &OpenStore, part: &Part, rows: Vec<u32>) -> Result<(Removed, Vec<u8>)> {
        let mut all = RemovedRows::default();
        open.removed(part)?.iter().flat_map(|before| before.rows()).chain(rows).for_each(|row| all.insert(row));
        if all.rows().last().is_some_and(|last| u64::from(last) >= part.n_obs) {
            return Err(DaoError::value("a row to be removed is past the dataset's rows").at(part.place()));
        }
        let (matrix, totals) = (open.matrix(part, &MatrixName::X)?, open.totals(part, &MatrixName::X)?);
        let counted = |row| totals.as_ref().map(|totals| u64::from(totals.cell(row).1));
        let of_row = |row| Ok(matrix.row_nnz(row)?.or_else(|| counted(row)));
        let nnz = all.rows().map(of_row).collect::<Result<Vec<_>>>()?.into_iter().sum();
        let bytes = all.to_bytes();
        let path = self.new_name("removed");
        Ok((Removed { path, checksum: checksum(&bytes), n_obs: all.count(), nnz }, bytes))
    }

    /// Removes what was written; best effort: vacuum removes what stays.
    fn remove(&self, written: &[String]) {
        for path in written {
            let _ = self.storage.remove(path);
            let _ = self.storage.remove_folder(path);
        }
    }

    /// Removes what was written for parts that others left out of the version that was made.
    fn remove_unnamed(&self) {
        for made in self.made.values() {
            let is_named = |part: &Part| part.description == made.part.description;
            if !self.draft.manifest.parts.iter().any(is_named) {
                self.remove(&made.written);
            }
        }
        self.remove(&self.writing);
    }
}

impl Drop for Edit {
    fn drop(&mut self) {
        if !self.stays && self.lease.is_own() {
            undisturbed(|| {
                self.remove(&self.writing);
                self.made.values().for_each(|made| self.remove(&made.written));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::read::testing::written;
    use crate::storage::Local;

    fn begin(open: &OpenStore) -> Edit {
        Edit::begin(open.store(), Record::now("edit", String::new())).unwrap()
    }

    fn again(open: &OpenStore) -> OpenStore {
        OpenStore::new(Store::open(open.store().uri(), &Vec::new(), None).unwrap())
    }

    fn files(folder: &std::path::Path) -> Vec<String> {
        Local::new(folder).unwrap().list_files("").unwrap().into_iter().map(|(path, _)| path).collect()
    }

    fn remove(edit: &mut Edit, open: &OpenStore, number: u32, rows: &[u32]) -> Result<()> {
        edit.change(open, number, PartChange { removed: rows.to_vec(), ..PartChange::default() })
    }

    #[test]
    fn rows_are_removed_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let open = written(folder.path(), |_| ());
        let mut edit = begin(&open);
        remove(&mut edit, &open, 0, &[2, 0, 2]).unwrap();
        assert_eq!(edit.commit().unwrap(), Some(2));
        drop(edit);
        let open = again(&open);
        let lung = open.store().part("lung").unwrap();
        assert_eq!((lung.n_obs, lung.n_cells(), open.store().manifest().n_obs()), (3, 1, 3));
        assert_eq!(open.removed(lung).unwrap().unwrap().rows().collect::<Vec<_>>(), [0, 2]);
        let mut edit = begin(&open);
        remove(&mut edit, &open, 0, &[1]).unwrap();
        edit.commit().unwrap();
        let open = again(&open);
        assert_eq!(open.store().part("lung").unwrap().n_cells(), 0);
        assert_eq!(remove(&mut begin(&open), &open, 0, &[3]).unwrap_err().kind(), ErrorKind::Value);
        assert_eq!(remove(&mut begin(&open), &open, 9, &[0]).unwrap_err().kind(), ErrorKind::Value);
    }

    #[test]
    fn who_loses_a_race_uses_what_the_other_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let open = written(folder.path(), |_| ());
        let before = files(folder.path());
        let (mut first, mut second) = (begin(&open), begin(&open));
        remove(&mut first, &open, 0, &[0]).unwrap();
        for number in [0, 4] {
            remove(&mut second, &open, number, &[1]).unwrap();
        }
        assert_eq!((first.commit().unwrap(), second.commit().unwrap()), (Some(2), None));
        second.begin_again().unwrap();
        assert_eq!((second.change_again(0).unwrap(), second.change_again(4).unwrap()), (false, true));
        let open = again(&open);
        remove(&mut second, &open, 0, &[1]).unwrap();
        assert_eq!(second.commit().unwrap(), Some(3));
        drop((first, second));
        let open = again(&open);
        let cells: Vec<_> = open.store().manifest().parts.iter().map(Part::n_cells).collect();
        assert_eq!(cells, [1, 1]);
        // Two files a part and version, the versions, the store's id: what was written in vain is gone.
        let new = files(folder.path()).len() - before.len();
        assert_eq!(new, 3 * 2 + 2, "{:?}", files(folder.path()));
    }

    #[test]
    fn an_edit_that_is_dropped_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let open = written(folder.path(), |_| ());
        let before = files(folder.path());
        let mut edit = begin(&open);
        remove(&mut edit, &open, 0, &[0]).unwrap();
        edit.write_obsm(4, "X_new", 2, "float32", None, Slice::from(&[1.0_f32, 2.0, 3.0, 4.0][..])).unwrap();
        edit.new_file(4, "obs", ".parquet").unwrap();
        drop(edit);
        assert_eq!(files(folder.path()), before);
    }
}
