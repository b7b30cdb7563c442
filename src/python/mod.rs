//! The Python module `dao_polars._core`: classes, functions, errors and arrays across the border.
//!
//! The only place that names pyo3 and numpy. Every call extracts its arguments, detaches from
//! the interpreter, runs the core and converts what comes back. Doc comments of what is exported are for Python: `help()`
//! shows them, and `dao_polars/_core.pyi` has the types alone.

mod arrays;
mod cell_keys;
mod codec;
mod edit;
mod encode;
mod error;
mod files;
mod genes;
mod progress;
mod reader;
mod sampling;
mod signals;
mod store;
mod writer;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::{
        cell_keys::PyCellKeys,
        codec::{pfor_decode, pfor_encode},
        edit::PyEdit,
        encode::PyTokenEncoding,
        files::PyFiles,
        genes::{PyGenes, feature_space_id, keep_reports, match_genes, next_report},
        reader::{PyEpoch, PyReader, squared_deviations},
        sampling::{PyEpochPlan, PySampler},
        store::PyStore,
        store::manifest::{PyColumnMeta, PyDescription, PyMatrixMeta, PyMatrixName, PyPart, PyTableMeta},
        store::obs_tables::{PyObsTables, PyTableFile},
        writer::PyPartWriter,
        writer::decode_hdf5_chunks,
    };
    /// What the user should know though nothing failed, each told once.
    #[pyfunction]
    fn take_notices() -> Vec<String> {
        crate::notices::take()
    }
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    const STORE_MOVED: &str = crate::lookup::stores::MOVED;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::signals::install(module.py())
    }
}
