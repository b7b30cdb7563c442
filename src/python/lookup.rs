//! `_core.Lookup`, and the way from the polars plugin to it.
//!
//! The plugin knows a column's store and what is asked, as text; `dao_polars.lookups` makes a lookup of
//! them, and says which columns of a dataset are meant when one is first met.

use std::sync::Arc;

use numpy::PyReadonlyArray1;
use pyo3::prelude::*;

use super::store::PyStore;
use crate::error::DaoError;
use crate::lookup::{Asked, Found, Lookup};
use crate::matrix::Dtype;
use crate::reader::Normalize;

/// How what is found becomes a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Of one gene: numbers.
    One,
    /// Of several genes: a struct with a field for each.
    Struct,
    /// Of several genes: arrays.
    Array,
    /// Sums: a struct.
    Sums,
}

/// Numbers of cells that a plugin's expression asks for.
#[pyclass(name = "Lookup", module = "dao_polars._core", frozen)]
pub struct PyLookup {
    lookup: Arc<Lookup>,
    shape: Shape,
    names: Arc<Vec<String>>,
    describe: Arc<Py<PyAny>>,
}

#[pymethods]
impl PyLookup {
    #[new]
    #[pyo3(signature = (store, describe, *, shape, names, width, matrix="X", dtype="float32", target_sum=None, log1p=false))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python method")]
    fn new(
        store: &PyStore,
        describe: Py<PyAny>,
        shape: &str,
        names: Vec<String>,
        width: usize,
        matrix: &str,
        dtype: &str,
        target_sum: Option<f64>,
        log1p: bool,
    ) -> PyResult<Self> {
        let shape = match shape {
            "one" => Shape::One,
            "struct" => Shape::Struct,
            "array" => Shape::Array,
            "sums" => Shape::Sums,
            _ => return Err(DaoError::value(format!("shape '{shape}'")).expected("one, struct, array or sums").into()),
        };
        let normalize = (target_sum.is_some() || log1p).then_some(Normalize { target_sum, log1p });
        let dtype = Dtype::from_name(dtype)?;
        if normalize.is_some() && !dtype.is_float() {
            return Err(DaoError::value("normalized values are no integers").into());
        }
        let lookup = Lookup::new(store.0.clone(), matrix.to_owned(), dtype, normalize, width);
        Ok(Self { lookup: Arc::new(lookup), shape, names: Arc::new(names), describe: Arc::new(describe) })
    }
}

/// What an expression asks for, in an open store.
pub struct Resolved {
    /// What to look up.
    pub lookup: Arc<Lookup>,
    /// How it becomes a column.
    pub shape: Shape,
    /// Names of fields.
    pub names: Arc<Vec<String>>,
    describe: Arc<Py<PyAny>>,
    verbose: bool,
}

/// Resolves what `ask` asks for of the store that a cell type's `metadata` names; `fresh` opens it anew.
///
/// # Errors
/// The message of what Python raises: another store, an unknown gene.
pub fn resolve(metadata: &str, ask: &str, fresh: bool) -> Result<Resolved, String> {
    Python::attach(|py| {
        let resolved = || -> PyResult<Resolved> {
            let module = py.import("dao_polars.lookups")?;
            let (lookup, verbose) =
                module.getattr("resolve")?.call1((metadata, ask, fresh))?.extract::<(Bound<'_, PyLookup>, bool)>()?;
            let PyLookup { lookup, shape, names, describe } = lookup.get();
            Ok(Resolved {
                lookup: lookup.clone(),
                shape: *shape,
                names: names.clone(),
                describe: describe.clone(),
                verbose,
            })
        };
        resolved().map_err(|e| message(py, &e))
    })
}

impl Resolved {
    /// Has the datasets of `keys` described that were not met yet.
    ///
    /// # Errors
    /// The message of what is wrong: keys that the store does not have, an ambiguous gene.
    pub fn describe(&self, keys: &[u64]) -> Result<(), String> {
        let numbers = self.lookup.undescribed(keys).map_err(|e| e.to_string())?;
        if numbers.is_empty() {
            return Ok(());
        }
        Python::attach(|py| {
            let describe = || -> PyResult<()> {
                for number in numbers {
                    let described = self.describe.bind(py).call1((number,))?;
                    let asked = if self.shape == Shape::Sums {
                        let sets: PyReadonlyArray1<'_, u64> = described.extract()?;
                        Asked::Sums(sets.as_array().to_vec())
                    } else {
                        let columns: PyReadonlyArray1<'_, i64> = described.extract()?;
                        Asked::Columns(columns.as_array().iter().map(|&column| u32::try_from(column).ok()).collect())
                    };
                    self.lookup.describe(number, asked)?;
                }
                Ok(())
            };
            describe().map_err(|e| message(py, &e))
        })
    }

    /// Tells by which road cells were looked up, where somebody wants to know.
    pub fn report(&self, found: &Found, n_cells: usize) {
        if !self.verbose {
            return;
        }
        let roads: Vec<String> =
            found.roads.iter().map(|(road, datasets)| format!("{datasets} by {}", road.name())).collect();
        Python::attach(|py| {
            let told = py
                .import("dao_polars.lookups")
                .and_then(|module| module.getattr("report")?.call1((self.names.as_ref().clone(), n_cells, roads)));
            // A log line that cannot be written is no reason to fail.
            drop(told);
        });
    }
}

/// An exception as one line or more of text; its type too, where it is none of ours.
fn message(py: Python<'_>, error: &PyErr) -> String {
    let ours = py
        .import("dao_polars.errors")
        .and_then(|module| module.getattr("DaoError"))
        .is_ok_and(|class| error.is_instance(py, &class));
    if ours { error.value(py).to_string() } else { error.to_string() }
}
