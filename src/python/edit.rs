//! `_core.Edit`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::store::PyStore;
use super::store::manifest::{PyTableMeta, json};
use super::writer::borrowed;
use crate::error::{DaoError, Result};
use crate::store::Record;
use crate::writer::{Edit, NewTable, PartChange};

/// An edit of a store: invisible until ``commit``, gone if dropped before.
#[pyclass(name = "Edit", module = "dao_polars._core", frozen)]
pub struct PyEdit(Mutex<Option<Edit>>);

impl PyEdit {
    fn lock(&self) -> MutexGuard<'_, Option<Edit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T: Send>(&self, py: Python<'_>, run: impl FnOnce(&mut Edit) -> Result<T> + Send) -> PyResult<T> {
        Ok(py.detach(|| {
            let mut guard = self.lock();
            run(guard.as_mut().ok_or_else(|| DaoError::value("this edit is finished"))?)
        })?)
    }
}

/// A table's file and what it is, as Python gives them.
type Table<'py> = (String, Bound<'py, PyTableMeta>);

fn new_table(py: Python<'_>, table: Option<Table<'_>>) -> PyResult<Option<NewTable>> {
    table.map(|(name, meta)| Ok(NewTable { name, meta: meta.get().core(py)? })).transpose()
}

#[pymethods]
impl PyEdit {
    /// Begin an edit of the last version of a store.
    ///
    /// Raises DaoValueError for a store that is not written to.
    #[staticmethod]
    #[pyo3(signature = (store, operation, message, author=None))]
    fn begin(
        py: Python<'_>,
        store: &PyStore,
        operation: &str,
        message: String,
        author: Option<String>,
    ) -> PyResult<Self> {
        let record = Record { author, ..Record::now(operation, message) };
        Ok(Self(Mutex::new(Some(py.detach(|| Edit::begin(store.opened.store(), record))?))))
    }

    /// The number of the version that is edited.
    #[getter]
    fn version(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |edit| Ok(edit.version()))
    }

    /// Begin again, on the version that is the last one now.
    fn begin_again(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, Edit::begin_again)
    }

    /// A new table of a part, ``"obs"`` or ``"var"``: the name of its file, and the path to write it to.
    fn new_table(&self, py: Python<'_>, number: u32, kind: &str) -> PyResult<(String, String)> {
        let (name, path) = self.with(py, |edit| edit.new_file(number, kind, ".parquet"))?;
        Ok((name, path.to_string_lossy().into_owned()))
    }

    /// Write an embedding of a part, (its rows, columns): any number type, C-contiguous. ``columns`` are their names.
    #[pyo3(signature = (number, name, values, source_dtype, columns=None))]
    fn write_obsm(
        &self,
        py: Python<'_>,
        number: u32,
        name: &str,
        values: &Bound<'_, PyAny>,
        source_dtype: &str,
        columns: Option<Vec<String>>,
    ) -> PyResult<()> {
        let (_, width): (usize, usize) = values.getattr("shape")?.extract()?;
        borrowed(values, |values| {
            self.with(py, |edit| edit.write_obsm(number, name, width, source_dtype, columns, values))
        })
    }

    /// Change a part, with the embeddings that were written for it; ``store`` is open in the version that is edited.
    ///
    /// ``obs`` and ``var`` are new tables, each the name of its file and what it is; ``categories`` the values of each
    /// string-like obs column, None where they are too many; ``organism`` a tuple of one, where it changes; ``removed`` rows.
    #[pyo3(signature = (
        store, number, *, obs=None, var=None, categories=None, constants=None, organism=None, removed=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python method")]
    fn change(
        &self,
        py: Python<'_>,
        store: &PyStore,
        number: u32,
        obs: Option<Table<'_>>,
        var: Option<Table<'_>>,
        categories: Option<BTreeMap<String, Option<Vec<String>>>>,
        constants: Option<&Bound<'_, PyDict>>,
        organism: Option<(Option<String>,)>,
        removed: Option<PyReadonlyArray1<'_, u32>>,
    ) -> PyResult<()> {
        let listed = |categories: BTreeMap<String, Option<Vec<String>>>| {
            categories.into_iter().map(|(name, values)| (name, values.map(BTreeSet::from_iter))).collect()
        };
        let change = PartChange {
            obs: new_table(py, obs)?,
            var: new_table(py, var)?,
            categories: categories.map(listed),
            constants: constants.map(|constants| json(constants)).transpose()?,
            organism: organism.map(|(organism,)| organism),
            removed: removed.map_or_else(Vec::new, |rows| rows.as_array().iter().copied().collect()),
        };
        self.with(py, |edit| edit.change(&store.opened, number, change))
    }

    /// Change a part as it was before another version came between; False where that one changed it.
    fn change_again(&self, py: Python<'_>, number: u32) -> PyResult<bool> {
        self.with(py, |edit| edit.change_again(number))
    }

    /// Give a dataset another name.
    ///
    /// Raises DaoFileExistsError for a name that is taken, DaoValueError for one that cannot be one.
    fn rename_dataset(&self, py: Python<'_>, old: &str, new: &str) -> PyResult<()> {
        self.with(py, |edit| edit.rename_dataset(old, new))
    }

    /// Leave a dataset out.
    fn remove_dataset(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.with(py, |edit| edit.remove_dataset(name))
    }

    /// Make the version: its number, or None where another was made meanwhile, on top of which it is to be made again.
    fn commit(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.with(py, Edit::commit)
    }

    /// Remove what no version names.
    fn close(&self, py: Python<'_>) {
        let edit = self.lock().take();
        py.detach(|| drop(edit));
    }
}
