//! The Python module `dao_polars._core`: classes, functions, errors and arrays across the border.
//!
//! The only place that names pyo3 and numpy. Every call extracts its arguments, detaches from
//! the interpreter, runs the core and converts what comes back. The Python side of the contract
//! is `dao_polars/_core.pyi`.

mod arrays;
mod codec;
mod error;
mod genes;
mod manifest;
mod progress;
mod reader;
mod sampling;
mod store;
mod writer;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::codec::{pfor_decode, pfor_encode};
    #[pymodule_export]
    use super::genes::{PyGenes, feature_space_id, keep_reports, match_genes, next_report};
    #[pymodule_export]
    use super::manifest::{PyColumnMeta, PyDataset, PyDescription, PyMatrixMeta, PyMatrixName, PyTableMeta};
    #[pymodule_export]
    use super::reader::{PyEpoch, PyReader};
    #[pymodule_export]
    use super::sampling::{PyEpochPlan, PySampler};
    #[pymodule_export]
    use super::store::PyStore;
    #[pymodule_export]
    use super::writer::PyDatasetWriter;
}
