//! `_core.TokenEncoding`: how a cell's genes become tokens.

use std::sync::Arc;

use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::batches::Tokens;
use crate::encode::{BinEncoding, Encoding, Frame, RankEncoding};
use crate::error::DaoError;

/// An encoding of cells as rows of tokens, (n_cells, length) int64.
///
/// Column ``i`` of what is encoded is gene ``i`` of the vocabulary. ``pad`` fills places without a token; ``cls`` and
/// ``eos`` come before the genes and after the last. Raises DaoValueError for a length without a place for a gene.
#[pyclass(name = "TokenEncoding", module = "dao_polars._core", frozen)]
pub struct PyTokenEncoding(pub Arc<Encoding>);

#[pymethods]
impl PyTokenEncoding {
    /// By rank: the genes with a value above 0, the one first whose value over its median (above 0) is the largest.
    #[staticmethod]
    #[pyo3(signature = (tokens, medians, *, length, pad, cls, eos))]
    fn ranks(
        tokens: PyReadonlyArray1<'_, i64>,
        medians: PyReadonlyArray1<'_, f64>,
        length: usize,
        pad: i64,
        cls: Option<i64>,
        eos: Option<i64>,
    ) -> PyResult<Self> {
        let (tokens, medians) = (tokens.as_array(), medians.as_array());
        if tokens.len() != medians.len() {
            let error = DaoError::value("there is not a median for each token");
            return Err(error.expected(tokens.len()).found(medians.len()).into());
        }
        let genes = tokens.iter().copied().zip(medians.iter().copied()).collect();
        Ok(Self(Arc::new(Encoding::Ranks(RankEncoding::new(genes, Frame { length, pad, cls, eos })?))))
    }

    /// With bins of values that are not 0: how many of ``n_bins - 1`` quantiles of the cell's own each reaches.
    ///
    /// Of more genes than there are places, ``seed``, the epoch and the cell's key draw some.
    #[staticmethod]
    #[pyo3(signature = (tokens, *, n_bins, pad_bin, seed, length, pad, cls, eos))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of one Python function")]
    fn bins(
        tokens: PyReadonlyArray1<'_, i64>,
        n_bins: u32,
        pad_bin: i64,
        seed: u64,
        length: usize,
        pad: i64,
        cls: Option<i64>,
        eos: Option<i64>,
    ) -> PyResult<Self> {
        let frame = Frame { length, pad, cls, eos };
        let encoding = BinEncoding::new(tokens.as_array().to_vec(), n_bins, pad_bin, seed, frame)?;
        Ok(Self(Arc::new(Encoding::Bins(encoding))))
    }
}

/// `(ids, mask, bins or None)`, each of rows × `length`.
pub fn arrays_of<'py>(py: Python<'py>, tokens: Tokens, n_rows: usize) -> PyResult<Bound<'py, PyAny>> {
    fn shaped<'py, T: numpy::Element>(py: Python<'py>, n_rows: usize, values: Vec<T>) -> PyResult<Bound<'py, PyAny>> {
        let length = values.len() / n_rows.max(1);
        Ok(PyArray1::from_vec(py, values).reshape([n_rows, length])?.into_any())
    }
    let Tokens { ids, mask, bins } = tokens;
    let bins = bins.map(|bins| shaped(py, n_rows, bins)).transpose()?;
    Ok((shaped(py, n_rows, ids)?, shaped(py, n_rows, mask)?, bins).into_pyobject(py)?.into_any())
}
