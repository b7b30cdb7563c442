//! `_core.Sampler` and `_core.EpochPlan`.

use std::sync::Arc;

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::error::{DaoError, Result};
use crate::sampling::{Draw, EpochPlan, EpochStart, Order, Sampler, Share};

/// The settings of the epochs over a selection of ``n`` cells, as positions in it.
///
/// Epochs are in frame order without ``seed``, else shuffled, ``block_size`` cells at a time. With ``n_samples`` so many
/// are drawn, in proportion to ``weights`` (n,). A batch is of one of ``groups`` (n,), numbers below n. Raises
/// DaoValueError for what cannot be drawn.
#[pyclass(name = "Sampler", module = "dao_polars._core", frozen)]
pub struct PySampler(Sampler);

/// Positions in the order they are visited, cut into batches; ``len()`` of these.
#[pyclass(name = "EpochPlan", module = "dao_polars._core", frozen)]
pub struct PyEpochPlan(pub EpochPlan);

#[pymethods]
impl PySampler {
    #[new]
    #[pyo3(signature = (
        n, batch_size, *, seed=None, block_size=None, window=1, n_samples=None, replacement=false,
        weights=None, groups=None, drop_last=false
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python method")]
    fn new(
        n: u64,
        batch_size: usize,
        seed: Option<u64>,
        block_size: Option<usize>,
        window: usize,
        n_samples: Option<usize>,
        replacement: bool,
        weights: Option<PyReadonlyArray1<'_, f64>>,
        groups: Option<PyReadonlyArray1<'_, u32>>,
        drop_last: bool,
    ) -> PyResult<Self> {
        let n = u32::try_from(n)
            .map_err(|_| DaoError::value("a selection of more than 2^32 - 1 cells").hint("split it"))?;
        let order = match (seed, block_size) {
            (None, _) => Order::Frame,
            (Some(seed), None) => Order::Shuffled { seed },
            (Some(seed), Some(size)) => Order::Blocks { seed, size, window },
        };
        let weights = weights.map(|weights| copied(&weights)).transpose()?;
        let draw = match (seed, n_samples) {
            (Some(seed), Some(n_samples)) => Some(Draw { n_samples, replacement, weights, seed }),
            (None, Some(_)) => return Err(DaoError::value("drawing cells needs a seed").into()),
            (_, None) => None,
        };
        let groups = groups.map(|groups| copied(&groups)).transpose()?;
        let sampler = Sampler { n, order, draw, groups, batch_size, drop_last };
        sampler.validate()?;
        Ok(Self(sampler))
    }

    /// The number of batches of each of ``world_size`` ranks.
    #[pyo3(signature = (epoch, world_size=1))]
    fn n_batches(&self, py: Python<'_>, epoch: u64, world_size: usize) -> usize {
        let all = py.detach(|| self.0.n_batches(epoch));
        let world_size = world_size.max(1);
        if self.0.drop_last { all / world_size } else { all.div_ceil(world_size) }
    }

    /// The plan of one share of what is left of an epoch.
    ///
    /// Left out are its first ``cells``, then so many ``rounds`` of a batch for each rank, and ``skip`` batches of this
    /// worker's own.
    #[pyo3(signature = (epoch, *, rank=0, world_size=1, worker=0, workers=1, cells=0, rounds=0, skip=0))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python method")]
    fn plan(
        &self,
        py: Python<'_>,
        epoch: u64,
        rank: usize,
        world_size: usize,
        worker: usize,
        workers: usize,
        cells: usize,
        rounds: usize,
        skip: usize,
    ) -> PyResult<PyEpochPlan> {
        let share = Share { rank, world_size, worker, workers };
        share.validate()?;
        let plan = py.detach(|| {
            let whole = self.0.epoch(epoch);
            if (world_size, workers, cells, rounds, skip) == (1, 1, 0, 0, 0) {
                return whole;
            }
            whole.share(share, self.0.drop_last, EpochStart { cells, rounds }, skip)
        });
        Ok(PyEpochPlan(plan))
    }

    /// The number of cells of the epoch that all ranks together have had by then.
    #[pyo3(signature = (epoch, *, world_size, cells, rounds))]
    fn cells_after(&self, py: Python<'_>, epoch: u64, world_size: usize, cells: usize, rounds: usize) -> usize {
        let world_size = world_size.max(1);
        py.detach(|| self.0.epoch(epoch).cells_after(world_size, self.0.drop_last, EpochStart { cells, rounds }))
    }
}

#[pymethods]
impl PyEpochPlan {
    fn __len__(&self) -> usize {
        self.0.batches.len()
    }

    /// The positions of rows ``start`` to ``stop``, uint32.
    fn order<'py>(&self, py: Python<'py>, start: usize, stop: usize) -> Bound<'py, PyArray1<u32>> {
        let stop = stop.min(self.0.order.len());
        PyArray1::from_slice(py, &self.0.order[start.min(stop)..stop])
    }

    /// The same batches of other positions (n,), in another selection: one for each of its own.
    ///
    /// Raises DaoValueError for another number of them.
    fn with_order(&self, order: PyReadonlyArray1<'_, u32>) -> PyResult<Self> {
        let order = copied(&order)?;
        if order.len() != self.0.order.len() {
            return Err(DaoError::value("the positions do not fit the plan")
                .expected(self.0.order.len())
                .found(order.len())
                .into());
        }
        Ok(Self(EpochPlan { order, batches: self.0.batches.clone(), together: Vec::new() }))
    }

    /// The row after which each batch ends, uint64.
    fn ends<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u64>> {
        PyArray1::from_iter(py, self.0.batches.iter().map(|batch| batch.end as u64))
    }

    /// The position of the first row if the others follow one by one.
    fn first(&self) -> Option<u32> {
        let first = *self.0.order.first()?;
        let mut places = u64::from(first)..;
        self.0.order.iter().all(|&position| places.next() == Some(position.into())).then_some(first)
    }
}

fn copied<T: numpy::Element + Copy>(array: &PyReadonlyArray1<'_, T>) -> Result<Arc<[T]>> {
    Ok(array.as_slice().map_err(|e| DaoError::value(e.to_string()))?.into())
}
