//! `_core.Reader` and `_core.Epoch`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyAny, PyList};

use super::arrays;
use super::cell_keys::PyCellKeys;
use super::encode::{self, PyTokenEncoding};
use super::genes::PyGenes;
use super::progress::Progress;
use super::sampling::PyEpochPlan;
use super::store::PyStore;
use super::store::manifest::PyMatrixName;
use crate::aggregate::{self, CellGrouping};
use crate::batches::{Batch, BufferPool, Epoch, EpochEncoding};
use crate::error::DaoError;
use crate::number::{Dtype, Layout, Values};
use crate::read::schedule::{self, Next};
use crate::read::{MatrixForm, MatrixRequest, Normalize, ReadRequest};
use crate::sampling::EpochPlan;

/// The time to wait before checking for Ctrl-C.
const PATIENCE: Duration = Duration::from_millis(50);

/// One requested matrix, read from a Python object that has these attributes.
#[derive(FromPyObject)]
struct PyMatrixForm {
    name: PyMatrixName,
    n_columns: usize,
    layout: String,
    dtype: String,
    /// The total that rows are brought to, and whether the logarithm of one more is taken.
    normalize: Option<(Option<f64>, bool)>,
}

impl PyMatrixForm {
    fn form(self) -> crate::error::Result<MatrixForm> {
        Ok(MatrixForm {
            name: self.name.0,
            n_columns: self.n_columns,
            layout: Layout::from_name(&self.layout)?,
            dtype: Dtype::from_name(&self.dtype)?,
            normalize: self.normalize.map(|(target_sum, log1p)| Normalize { target_sum, log1p }),
        })
    }
}

/// Cells of a store, in frame order, and the matrices that are read of each.
///
/// Opens the matrices of the parts that ``keys`` name. ``genes`` are the columns of X and layers, which all
/// have the same. Rows are normalized (over all columns) while they are read. Raises DaoValueError for keys of no part
/// or row, DaoKeyError for an unknown matrix, DaoFileNotFoundError or DaoCorruptError for broken ones.
#[pyclass(name = "Reader", module = "dao_polars._core", frozen)]
pub struct PyReader {
    request: Arc<ReadRequest>,
    /// The buffers, which the next epoch uses again.
    pool: Arc<BufferPool>,
}

#[pymethods]
impl PyReader {
    #[new]
    fn new(
        py: Python<'_>,
        store: &PyStore,
        keys: &PyCellKeys,
        genes: &PyGenes,
        matrices: Vec<PyMatrixForm>,
    ) -> PyResult<Self> {
        let forms = matrices.into_iter().map(PyMatrixForm::form).collect::<crate::error::Result<Vec<_>>>()?;
        let (keys, genes) = (keys.0.clone(), genes.0.clone());
        let request = py.detach(|| ReadRequest::open(&store.opened, keys, &genes, forms))?;
        let pool = BufferPool::new(request.matrices.len());
        Ok(Self { request: Arc::new(request), pool })
    }

    /// Whether rows cost no more alone than among their neighbours, of all the matrices.
    #[getter]
    fn reads_rows(&self) -> bool {
        self.request.matrices.iter().all(MatrixRequest::reads_rows)
    }

    /// The arrays of each matrix, as an epoch gives them, of all cells in frame order.
    ///
    /// ``advance`` is called now and then with the cells read since, once for each matrix; ``budget`` bounds what is held
    /// beside the result, in bytes; ``threads=None`` is one a core.
    #[pyo3(signature = (*, advance=None, budget=134_217_728, threads=None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        advance: Option<Bound<'py, PyAny>>,
        budget: u64,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyList>> {
        let n = u32::try_from(self.request.keys.len())
            .map_err(|_| DaoError::value("a selection of more than 2^32 - 1 cells").hint("split it"))?;
        let batches = std::iter::once(0..n as usize).collect();
        let plan = EpochPlan { order: (0..n).collect(), batches, together: Vec::new() };
        let (request, pool) = (self.request.clone(), self.pool.clone());
        let threads = schedule::threads(threads);
        let mut epoch = py.detach(|| Epoch::start(request, plan, None, budget, threads, pool))?;
        let mut told = 0;
        loop {
            let next = py.detach(|| epoch.next(PATIENCE))?;
            py.check_signals()?;
            if let Some(advance) = &advance {
                let read = epoch.cells();
                advance.call1((read - told,))?;
                told = read;
            }
            match next {
                Next::Ready(batch) => {
                    py.detach(|| drop(epoch));
                    return arrays_of(py, batch, &self.request, &self.pool);
                }
                Next::Waiting => {}
                Next::Over => return Err(DaoError::internal("an epoch without its batch").into()),
            }
        }
    }

    /// Counts (uint32), sums, squared deviations and squares of values that are not zero, (n_groups * n_columns,).
    ///
    /// Of a reader of one matrix. ``groups`` (n_cells,) are below ``n_groups``. Deviations are from the mean of the values
    /// that are not zero; the sum of squares is NaN where it is not exact, as that of integers is below 2^53. With ``clip``
    /// (n_groups * n_columns,) a fifth array has the number of values above it, which are in none of the sums; without it
    /// that is empty. The same in every run.
    /// Raises DaoValueError for groups that do not fit or a dtype that is no float.
    #[pyo3(signature = (groups, n_groups, *, clip=None, advance=None, threads=None))]
    #[expect(clippy::type_complexity, reason = "five arrays")]
    fn moments<'py>(
        &self,
        py: Python<'py>,
        groups: PyReadonlyArray1<'py, u32>,
        n_groups: usize,
        clip: Option<PyReadonlyArray1<'py, f64>>,
        advance: Option<Py<PyAny>>,
        threads: Option<usize>,
    ) -> PyResult<(
        Bound<'py, PyArray1<u32>>,
        Bound<'py, PyArray1<f64>>,
        Bound<'py, PyArray1<f64>>,
        Bound<'py, PyArray1<f64>>,
        Bound<'py, PyArray1<u32>>,
    )> {
        let groups = groups.as_array().to_vec();
        let clip = clip.map(|clip| clip.as_array().to_vec());
        let mut progress = Progress::new(advance);
        let moments = py.detach(|| {
            let cell_groups = CellGrouping { groups: &groups, n_groups, clip: clip.as_deref() };
            aggregate::moments(&self.request, &cell_groups, threads, |cells| progress.advance(cells))
        });
        let moments = progress.or_raised(moments)?;
        Ok((
            PyArray1::from_vec(py, moments.count),
            PyArray1::from_vec(py, moments.sum),
            PyArray1::from_vec(py, moments.m2),
            PyArray1::from_vec(py, moments.squares),
            PyArray1::from_vec(py, moments.above),
        ))
    }

    /// Start reading a plan's batches ahead; ``budget`` is in bytes, ``threads=None`` is one a core.
    ///
    /// ``encode`` is an encoding of the first matrix' columns, and the number of the epoch.
    #[pyo3(signature = (plan, *, encode=None, budget=134_217_728, threads=None))]
    fn epoch(
        &self,
        py: Python<'_>,
        plan: &PyEpochPlan,
        encode: Option<(PyRef<'_, PyTokenEncoding>, u64)>,
        budget: u64,
        threads: Option<usize>,
    ) -> PyResult<PyEpoch> {
        let encoding = encode.map(|(encoding, epoch)| EpochEncoding { encoding: encoding.0.clone(), epoch });
        // What an epoch has at a time is what the next one needs.
        self.pool.limit(usize::try_from(budget).unwrap_or(usize::MAX));
        let (request, pool, pid) = (self.request.clone(), self.pool.clone(), std::process::id());
        let plan = plan.0.clone();
        let threads = schedule::threads(threads);
        let epoch = py.detach(|| Epoch::start(request.clone(), plan, encoding, budget, threads, pool.clone()))?;
        Ok(PyEpoch { request, pool, inner: Mutex::new(Some(epoch)), pid })
    }
}

/// An iterator of (n_rows, matrices, tokens) over a reader's cells; its threads end with it.
///
/// ``n_rows`` is the number of cells of a batch; ``tokens`` are None, or the encoding's ``(ids, mask, bins or None)``,
/// (n_rows, length) int64, bool and int64; a matrix is ``(data, indices, indptr)``, or an array of (rows, columns)
/// where it is dense. The arrays are writable; the memory of matrices is used again once nothing refers to it. Raises the first
/// DaoError of reading.
#[pyclass(name = "Epoch", module = "dao_polars._core", frozen)]
pub struct PyEpoch {
    request: Arc<ReadRequest>,
    pool: Arc<BufferPool>,
    inner: Mutex<Option<Epoch>>,
    pid: u32,
}

#[pymethods]
impl PyEpoch {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.check_process()?;
        loop {
            let next = py.detach(|| {
                // A panic of the last holder cannot leave the epoch half changed, so a poisoned lock is safe to use.
                let mut guard = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                guard.as_mut().map_or(Ok(Next::Over), |epoch| epoch.next(PATIENCE))
            });
            match next {
                Ok(Next::Ready(mut batch)) => {
                    let n_rows = batch.rows.len();
                    let tokens = batch.tokens.take().map(|tokens| encode::arrays_of(py, tokens, n_rows)).transpose()?;
                    let matrices = arrays_of(py, batch, &self.request, &self.pool)?;
                    return Ok(Some((n_rows, matrices, tokens).into_pyobject(py)?.into_any()));
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

    /// Stop and join the reading threads.
    fn close(&self, py: Python<'_>) {
        if self.check_process().is_err() {
            return;
        }
        py.detach(|| drop(self.inner.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }
}

impl PyEpoch {
    /// Refuses a process other than the one that began the epoch. Called before any lock: in a forked child one may be
    /// held by a thread that is not there.
    fn check_process(&self) -> crate::error::Result<()> {
        if self.pid == std::process::id() {
            return Ok(());
        }
        Err(DaoError::value("this iterator was started before the process forked")
            .hint("start iterating in the process that uses the batches"))
    }
}

/// The arrays of each matrix of a batch: `(data, indices, indptr)`, or one of rows × columns.
fn arrays_of<'py>(
    py: Python<'py>,
    batch: Batch,
    request: &ReadRequest,
    pool: &Arc<BufferPool>,
) -> PyResult<Bound<'py, PyList>> {
    let n_rows = batch.rows.len();
    let list = PyList::empty(py);
    for (i, (matrix, wanted)) in batch.matrices.into_iter().zip(&request.matrices).enumerate() {
        let [index_section, data_section] = pool.sections(i);
        let data = arrays::pooled_array(py, matrix.data, data_section)?;
        if wanted.form.layout == Layout::Dense {
            list.append(data.call_method1("reshape", (n_rows, wanted.form.n_columns))?)?;
            continue;
        }
        let indices = arrays::pooled_array(py, Values::I32(matrix.indices), index_section)?;
        // scipy wants both index arrays of one type; 32 bits do unless there are 2^31 values.
        let indptr = match matrix.indptr.iter().map(|&at| i32::try_from(at)).collect::<Result<Vec<_>, _>>() {
            Ok(narrow) => PyArray1::from_vec(py, narrow).into_any(),
            Err(_) => {
                PyArray1::from_iter(py, matrix.indptr.into_iter().map(|at| i64::try_from(at).unwrap_or(i64::MAX)))
                    .into_any()
            }
        };
        list.append((data, indices, indptr))?;
    }
    Ok(list)
}

/// The squared deviations (n,) of ``count`` integers from their mean, by their sums and sums of squares, which are exact.
///
/// Raises DaoValueError for arrays of other lengths.
#[pyfunction]
pub fn squared_deviations<'py>(
    py: Python<'py>,
    count: PyReadonlyArray1<'py, u64>,
    sum: PyReadonlyArray1<'py, f64>,
    squares: PyReadonlyArray1<'py, f64>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let (count, sum, squares) = (count.as_array(), sum.as_array(), squares.as_array());
    if count.len() != sum.len() || count.len() != squares.len() {
        return Err(DaoError::value("counts and sums of different lengths").into());
    }
    let all = count.iter().zip(sum).zip(squares);
    Ok(PyArray1::from_iter(py, all.map(|((&n, &sum), &squares)| aggregate::squared_deviations(n, sum, squares))))
}
