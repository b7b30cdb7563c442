//! `_core.Lookup`, and the way from the polars plugin to it.
//!
//! The plugin knows a column's store and what is asked, as text; `dao_polars.expression.lookups` makes a lookup of them
//! when a query is planned, on the thread that plans it. When it runs, on polars' own threads, Python is not
//! asked again: what Python has polars do there may crash, or wait for the very threads that wait for it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use numpy::PyReadonlyArray1;
use pyo3::prelude::*;

use super::manifest::PyMatrixName;
use super::store::PyStore;
use crate::error::DaoError;
use crate::lookup::{Asked, Found, Lookup};
use crate::number::Dtype;
use crate::read::Normalize;
use crate::store::MatrixName;

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
}

#[pymethods]
impl PyLookup {
    #[new]
    #[pyo3(signature = (store, parts, *, shape, names, width, matrix=PyMatrixName(MatrixName::X), dtype="float32", target_sum=None, log1p=false))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python method")]
    fn new(
        store: &PyStore,
        parts: Vec<(Vec<u32>, Bound<'_, PyAny>)>,
        shape: &str,
        names: Vec<String>,
        width: usize,
        matrix: PyMatrixName,
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
        let mut lookup = Lookup::new(store.opened.clone(), matrix.0, dtype, normalize, width);
        for (numbers, asked) in parts {
            lookup.describe(&numbers, asked_of(shape, &asked)?)?;
        }
        Ok(Self { lookup: Arc::new(lookup), shape, names: Arc::new(names) })
    }
}

/// Sets of columns, or columns; a text says why there are none.
fn asked_of(shape: Shape, asked: &Bound<'_, PyAny>) -> PyResult<Asked> {
    if let Ok(why) = asked.extract::<String>() {
        return Ok(Asked::Refused(why));
    }
    if shape == Shape::Sums {
        return Ok(Asked::Sums(asked.extract::<PyReadonlyArray1<'_, u64>>()?.as_array().to_vec()));
    }
    let columns = asked.extract::<PyReadonlyArray1<'_, i64>>()?;
    Ok(Asked::Columns(columns.as_array().iter().map(|&column| u32::try_from(column).ok()).collect()))
}

/// What an expression asks for, in an open store.
#[derive(Clone)]
pub struct Resolved {
    /// What to look up.
    pub lookup: Arc<Lookup>,
    /// How it becomes a column.
    pub shape: Shape,
    /// Names of fields.
    pub names: Arc<Vec<String>>,
    verbose: bool,
}

/// By metadata and ask, what queries were planned with last, and when that was last wanted.
static PLANNED: LazyLock<Mutex<Planned>> = LazyLock::new(Mutex::default);
type Planned = HashMap<(String, String), (Resolved, Instant)>;
/// So many are kept in any case,
const KEPT: usize = 64;
/// and all that a query may still want.
const LONG: Duration = Duration::from_secs(3600);

fn known(key: &(String, String)) -> Option<Resolved> {
    // The map is whole at every point where a panic could be.
    let mut planned = PLANNED.lock().unwrap_or_else(PoisonError::into_inner);
    planned.get_mut(key).map(|(resolved, wanted)| {
        *wanted = Instant::now();
        resolved.clone()
    })
}

/// Resolves what `ask` asks for of the store that a cell type's `metadata` names, for a query that is planned.
///
/// # Errors
/// The message of what Python raises: another store, an unknown gene.
pub fn resolve(metadata: &str, ask: &str) -> Result<Resolved, String> {
    let key = (metadata.to_owned(), ask.to_owned());
    let known = known(&key);
    let resolved = Python::attach(|py| {
        let resolved = || -> PyResult<Option<Resolved>> {
            let resolve = py.import("dao_polars.expression.lookups")?.getattr("resolve")?;
            let found = resolve.call1((metadata, ask, known.is_some()))?;
            let found: Option<(Bound<'_, PyLookup>, bool)> = found.extract()?;
            Ok(found.map(|(lookup, verbose)| {
                let PyLookup { lookup, shape, names } = lookup.get();
                Resolved { lookup: lookup.clone(), shape: *shape, names: names.clone(), verbose }
            }))
        };
        resolved().map_err(|e| message(py, &e))
    })?;
    let resolved = resolved.or(known).ok_or("a lookup was not resolved")?;
    let mut planned = PLANNED.lock().unwrap_or_else(PoisonError::into_inner);
    if planned.len() >= KEPT {
        planned.retain(|_, (_, wanted)| wanted.elapsed() < LONG);
    }
    planned.insert(key, (resolved.clone(), Instant::now()));
    Ok(resolved)
}

/// What a query that runs was planned with.
///
/// # Errors
/// It was planned too long ago.
pub fn planned(metadata: &str, ask: &str) -> Result<Resolved, String> {
    known(&(metadata.to_owned(), ask.to_owned()))
        .ok_or_else(|| "the query was planned more than an hour before it came to this; run it again".to_owned())
}

impl Resolved {
    /// Tells by which road cells were looked up, where somebody wants to know. On polars' threads: what is
    /// called there must not call polars, whose threads might then come back here without the interpreter.
    pub fn report(&self, found: &Found, n_cells: usize) {
        if !self.verbose {
            return;
        }
        let roads: Vec<String> =
            found.roads.iter().map(|(road, datasets)| format!("{datasets} by {}", road.name())).collect();
        Python::attach(|py| {
            let told = py
                .import("dao_polars.expression.lookups")
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
