//! `_core.Reader` and `_core.Epoch`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::PyAny;

use super::arrays;
use super::manifest::PyMatrixName;
use super::progress::Progress;
use super::sampling::PyEpochPlan;
use super::store::PyStore;
use crate::aggregate::{self, Grouped};
use crate::error::DaoError;
use crate::matrix::Cache;
use crate::number::{Dtype, Layout, Values};
use crate::read::{Batch, Columns, Epoch, Next, Normalize, Part, Pool, Request};
use crate::sampling::{self, EpochPlan};
use crate::store::MatrixName;

/// How long to wait before looking for Ctrl-C.
const PATIENCE: Duration = Duration::from_millis(50);

/// Cells of a store, ready to be read.
#[pyclass(name = "Reader", module = "dao_polars._core", frozen)]
pub struct PyReader {
    request: Arc<Request>,
    /// The next epoch uses the last one's buffers.
    pool: Arc<Pool>,
}

#[pymethods]
impl PyReader {
    #[new]
    #[pyo3(signature = (store, keys, parts, *, matrix=PyMatrixName(MatrixName::X), n_columns, layout="csr", dtype="float32", target_sum=None, log1p=false))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python method")]
    fn new(
        py: Python<'_>,
        store: &PyStore,
        keys: PyReadonlyArray1<'_, u64>,
        parts: Vec<(u32, Option<Bound<'_, PyAny>>)>,
        matrix: PyMatrixName,
        n_columns: usize,
        layout: &str,
        dtype: &str,
        target_sum: Option<f64>,
        log1p: bool,
    ) -> PyResult<Self> {
        let layout = Layout::from_name(layout)?;
        let dtype = Dtype::from_name(dtype)?;
        let normalize = (target_sum.is_some() || log1p).then_some(Normalize { target_sum, log1p });
        if normalize.is_some() && !dtype.is_float() {
            return Err(DaoError::value("normalized values are no integers")
                .expected("dtype float32 or float64")
                .into());
        }
        let keys = keys.as_slice().map_err(|e| DaoError::value(e.to_string()))?.to_vec();
        let columns = parts
            .into_iter()
            .map(|(number, columns)| Ok((number, columns.map(|c| arrays::indices(&c)).transpose()?)))
            .collect::<PyResult<Vec<_>>>()?;
        let request = py.detach(|| -> crate::error::Result<Request> {
            let mut parts = HashMap::new();
            for (number, columns) in columns {
                let entry = store.opened.store().dataset_numbered(number)?;
                let place = entry.place();
                let opened = store.opened.matrix(entry, &matrix.0)?;
                let columns =
                    columns.map(|c| Columns::new(c, n_columns)).transpose().map_err(|e| e.at(place.clone()))?;
                let source = columns.as_ref().map_or(n_columns, Columns::len);
                if source as u64 != opened.shape()[1] {
                    return Err(DaoError::value("the column map does not fit the matrix")
                        .at(place)
                        .expected(format!("{} columns", opened.shape()[1]))
                        .found(source));
                }
                let n_obs = u32::try_from(entry.n_obs).map_err(|_| DaoError::value("too many cells").at(place))?;
                parts.insert(number, Part { dataset: entry.name.clone(), n_obs, matrix: opened, columns });
            }
            let request = Request { keys, parts, n_columns, layout, dtype, normalize, cache: Cache::default() };
            request.validate()?;
            Ok(request)
        })?;
        Ok(Self { request: Arc::new(request), pool: Arc::default() })
    }

    /// Everything as one batch, in frame order; `advance` is told how many cells were read since.
    #[pyo3(signature = (*, advance=None, budget=134_217_728, threads=None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        advance: Option<Bound<'py, PyAny>>,
        budget: u64,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let n = self.n_rows()?;
        let whole = n as usize;
        let mut epoch = py.detach(|| {
            let order: Arc<[u32]> = (0..n).collect();
            let batches = sampling::batches(whole, whole.max(1), false);
            Epoch::start(self.request.clone(), order, batches, budget, or_all(threads), self.pool.clone())
        })?;
        let mut told = 0;
        let batch = loop {
            let next = py.detach(|| epoch.next(PATIENCE))?;
            py.check_signals()?;
            if let Some(advance) = &advance {
                let read = epoch.cells();
                advance.call1((read - told,))?;
                told = read;
            }
            match next {
                Next::Batch(batch) => break batch,
                Next::Waiting => {}
                Next::Over => break Batch::empty(self.request.layout, self.request.dtype),
            }
        };
        py.detach(|| drop(epoch));
        convert(py, batch, &self.request, &self.pool)
    }

    /// Counts, sums and squared deviations of the values that are not zero, by group and column.
    #[pyo3(signature = (groups, n_groups, *, clip=None, advance=None, threads=None))]
    #[expect(clippy::type_complexity, reason = "three arrays")]
    fn moments<'py>(
        &self,
        py: Python<'py>,
        groups: PyReadonlyArray1<'py, u32>,
        n_groups: usize,
        clip: Option<PyReadonlyArray1<'py, f64>>,
        advance: Option<Py<PyAny>>,
        threads: Option<usize>,
    ) -> PyResult<(Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>)> {
        let groups = groups.as_array().to_vec();
        let clip = clip.map(|clip| clip.as_array().to_vec());
        let mut progress = Progress::new(advance);
        let moments = py.detach(|| {
            let grouped = Grouped { groups: &groups, n_groups, clip: clip.as_deref() };
            aggregate::moments(&self.request, &grouped, threads, |cells| progress.advance(cells))
        });
        let moments = progress.or_raised(moments)?;
        Ok((
            PyArray1::from_vec(py, moments.count),
            PyArray1::from_vec(py, moments.sum),
            PyArray1::from_vec(py, moments.m2),
        ))
    }

    #[pyo3(signature = (plan, *, budget=134_217_728, threads=None))]
    fn epoch(&self, py: Python<'_>, plan: &PyEpochPlan, budget: u64, threads: Option<usize>) -> PyResult<PyEpoch> {
        if let Some(position) = plan.0.order.iter().find(|&&position| position as usize >= self.request.keys.len()) {
            return Err(DaoError::value(format!("the plan has position {position}"))
                .expected(format!("positions below {}", self.request.keys.len()))
                .into());
        }
        // What is handed out comes back while as much is being filled.
        self.pool.limit(usize::try_from(budget / 2).unwrap_or(usize::MAX));
        let epoch = py.detach(|| {
            let EpochPlan { order, batches } = plan.0.clone();
            Epoch::start(self.request.clone(), order, batches, budget, or_all(threads), self.pool.clone())
        })?;
        Ok(PyEpoch {
            request: self.request.clone(),
            pool: self.pool.clone(),
            inner: Mutex::new(Some(epoch)),
            pid: std::process::id(),
        })
    }
}

impl PyReader {
    fn n_rows(&self) -> crate::error::Result<u32> {
        u32::try_from(self.request.keys.len())
            .map_err(|_| DaoError::value("a selection of more than 2^32 - 1 cells").hint("split it"))
    }
}

/// One thread a core where none are named.
fn or_all(threads: Option<usize>) -> usize {
    threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// One pass over a reader's cells.
#[pyclass(name = "Epoch", module = "dao_polars._core", frozen)]
pub struct PyEpoch {
    request: Arc<Request>,
    pool: Arc<Pool>,
    inner: Mutex<Option<Epoch>>,
    pid: u32,
}

#[pymethods]
impl PyEpoch {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.here()?;
        loop {
            let next = py.detach(|| {
                // What the lock guards is whole whatever happened to its last holder.
                let mut guard = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                guard.as_mut().map_or(Ok(Next::Over), |epoch| epoch.next(PATIENCE))
            });
            match next {
                Ok(Next::Batch(batch)) => {
                    let n_rows = batch.n_rows();
                    let x = convert(py, batch, &self.request, &self.pool)?;
                    return Ok(Some((n_rows, x).into_pyobject(py)?.into_any()));
                }
                Ok(Next::Waiting) => py.check_signals()?,
                Ok(Next::Over) => {
                    self.close(py);
                    return Ok(None);
                }
                Err(error) => {
                    self.close(py);
                    return Err(error.into());
                }
            }
        }
    }

    /// Stops and joins the reading threads.
    fn close(&self, py: Python<'_>) {
        if self.here().is_err() {
            return;
        }
        py.detach(|| drop(self.inner.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }
}

impl PyEpoch {
    /// Whether this is the process that began it. Asked before any lock: in a forked child one may be
    /// held by a thread that is not there.
    fn here(&self) -> crate::error::Result<()> {
        if self.pid == std::process::id() {
            return Ok(());
        }
        Err(DaoError::value("this iterator was started before the process forked")
            .hint("start iterating in the process that uses the batches"))
    }
}

/// A batch's arrays: `(data, indices, indptr)`, or one of rows × columns.
fn convert<'py>(py: Python<'py>, batch: Batch, request: &Request, pool: &Arc<Pool>) -> PyResult<Bound<'py, PyAny>> {
    let n_rows = batch.n_rows();
    let data = arrays::lend(py, batch.data, false, pool)?;
    if request.layout == Layout::Dense {
        return data.call_method1("reshape", (n_rows, request.n_columns));
    }
    let indices = arrays::lend(py, Values::I32(batch.indices), true, pool)?;
    // scipy wants both index arrays of one type; 32 bits do unless there are 2^31 values.
    let indptr = match batch.indptr.iter().map(|&at| i32::try_from(at)).collect::<Result<Vec<_>, _>>() {
        Ok(narrow) => PyArray1::from_vec(py, narrow).into_any(),
        Err(_) => PyArray1::from_vec(py, batch.indptr).into_any(),
    };
    Ok((data, indices, indptr).into_pyobject(py)?.into_any())
}
