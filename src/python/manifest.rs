//! The contents of a store, as frozen classes: `_core.Dataset`, `_core.Description` and their parts.

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMappingProxy, PyTuple};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::DaoError;
use crate::number::Dtype;
use crate::store::{ColumnMeta, Dataset, Description, MatrixMeta, MatrixName, TableMeta};

/// The name of a matrix within its dataset.
#[pyclass(name = "MatrixName", module = "dao_polars._core", frozen, eq, ord, hash, str, from_py_object)]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PyMatrixName(pub MatrixName);

impl std::fmt::Display for PyMatrixName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[pymethods]
impl PyMatrixName {
    #[classattr]
    const X: Self = Self(MatrixName::X);

    #[staticmethod]
    fn layer(name: String) -> Self {
        Self(MatrixName::Layer(name))
    }

    #[staticmethod]
    fn obsm(name: String) -> Self {
        Self(MatrixName::Obsm(name))
    }

    #[getter]
    fn group(&self) -> &'static str {
        match self.0 {
            MatrixName::X => "X",
            MatrixName::Layer(_) => "layers",
            MatrixName::Obsm(_) => "obsm",
        }
    }

    #[getter]
    fn name(&self) -> &str {
        match &self.0 {
            MatrixName::X => "X",
            MatrixName::Layer(name) | MatrixName::Obsm(name) => name,
        }
    }

    #[getter]
    fn is_of_genes(&self) -> bool {
        self.0.is_of_genes()
    }

    fn __repr__(&self) -> String {
        format!("MatrixName('{}')", self.0)
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<(Py<PyAny>, (String,))> {
        Ok((slf.get_type().getattr("parse")?.unbind(), (slf.get().0.to_string(),)))
    }

    #[staticmethod]
    fn parse(text: &str) -> PyResult<Self> {
        Ok(Self(text.parse()?))
    }
}

/// A dataset as the store lists it.
#[pyclass(name = "Dataset", module = "dao_polars._core", frozen, get_all)]
pub struct PyDataset {
    number: u32,
    name: String,
    path: String,
    n_obs: u64,
    n_vars: u64,
    nnz: Option<u64>,
    layout: &'static str,
    dtype: Option<&'static str>,
    bytes: u64,
    organism: Option<String>,
    obs: Py<PyTuple>,
    constants: Py<PyMappingProxy>,
    feature_space: String,
    layers: Py<PyTuple>,
    obsm: Py<PyTuple>,
}

impl PyDataset {
    pub fn new(py: Python<'_>, dataset: &Dataset) -> PyResult<Self> {
        Ok(Self {
            number: dataset.number,
            name: dataset.name.clone(),
            path: dataset.path.clone(),
            n_obs: dataset.n_obs,
            n_vars: dataset.n_vars,
            nnz: dataset.nnz,
            layout: dataset.layout.name(),
            dtype: dataset.dtype.map(Dtype::name),
            bytes: dataset.bytes,
            organism: dataset.organism.clone(),
            obs: PyTuple::new(py, &dataset.obs)?.unbind(),
            constants: frozen(py, &dataset.constants)?,
            feature_space: dataset.feature_space.clone(),
            layers: PyTuple::new(py, &dataset.layers)?.unbind(),
            obsm: PyTuple::new(py, &dataset.obsm)?.unbind(),
        })
    }
}

#[pymethods]
impl PyDataset {
    fn __repr__(&self) -> String {
        format!("Dataset({:?}, number {}, {} cells × {} genes)", self.name, self.number, self.n_obs, self.n_vars)
    }
}

/// The description of a dataset, from its own `dao.json`.
#[pyclass(name = "Description", module = "dao_polars._core", frozen, get_all)]
pub struct PyDescription {
    matrices: Py<PyMappingProxy>,
    obs: Py<PyTableMeta>,
    var: Py<PyTableMeta>,
}

impl PyDescription {
    pub fn new(py: Python<'_>, description: &Description) -> PyResult<Self> {
        let matrices = PyDict::new(py);
        for (name, meta) in &description.matrices {
            matrices.set_item(PyMatrixName(name.clone()), PyMatrixMeta::new(meta))?;
        }
        Ok(Self {
            matrices: PyMappingProxy::new(py, matrices.as_mapping()).unbind(),
            obs: Py::new(py, PyTableMeta::new(py, &description.obs)?)?,
            var: Py::new(py, PyTableMeta::new(py, &description.var)?)?,
        })
    }
}

/// One matrix of a dataset.
#[pyclass(name = "MatrixMeta", module = "dao_polars._core", frozen, get_all)]
pub struct PyMatrixMeta {
    layout: &'static str,
    dtype: Option<&'static str>,
    source_dtype: String,
    shape: (u64, u64),
    nnz: Option<u64>,
    max_abs: Option<f64>,
}

impl PyMatrixMeta {
    fn new(meta: &MatrixMeta) -> Self {
        Self {
            layout: meta.layout.name(),
            dtype: meta.dtype.map(Dtype::name),
            source_dtype: meta.source_dtype.clone(),
            shape: meta.shape.into(),
            nnz: meta.nnz,
            max_abs: meta.max_abs,
        }
    }
}

/// A table as it lies in parquet, and what it was in pandas.
#[pyclass(name = "TableMeta", module = "dao_polars._core", frozen, get_all)]
pub struct PyTableMeta {
    index_name: Option<String>,
    index: Py<PyAny>,
    columns: Py<PyTuple>,
}

impl PyTableMeta {
    fn new(py: Python<'_>, table: &TableMeta) -> PyResult<Self> {
        let columns = table.columns.iter().map(|column| PyColumnMeta::new(py, column)).collect::<PyResult<Vec<_>>>()?;
        Ok(Self {
            index_name: table.index_name.clone(),
            index: python(py, &table.index)?,
            columns: PyTuple::new(py, columns)?.unbind(),
        })
    }
}

#[pymethods]
impl PyTableMeta {
    #[new]
    fn with(
        index_name: Option<String>,
        index: Py<PyAny>,
        columns: Vec<Py<PyColumnMeta>>,
        py: Python<'_>,
    ) -> PyResult<Self> {
        Ok(Self { index_name, index, columns: PyTuple::new(py, columns)?.unbind() })
    }
}

impl PyTableMeta {
    /// The core's form of this table's description.
    pub fn core(&self, py: Python<'_>) -> PyResult<TableMeta> {
        let columns: Vec<Bound<'_, PyColumnMeta>> = self.columns.extract(py)?;
        let columns = columns.iter().map(|column| column.get().core(py)).collect::<PyResult<_>>()?;
        Ok(TableMeta { index_name: self.index_name.clone(), index: json(self.index.bind(py))?, columns })
    }
}

/// A column of a table.
#[pyclass(name = "ColumnMeta", module = "dao_polars._core", frozen, get_all)]
pub struct PyColumnMeta {
    name: String,
    source: String,
    dtype: String,
    pandas: Py<PyAny>,
}

impl PyColumnMeta {
    fn new(py: Python<'_>, column: &ColumnMeta) -> PyResult<Self> {
        Ok(Self {
            name: column.name.clone(),
            source: column.source.clone(),
            dtype: column.dtype.clone(),
            pandas: python(py, &column.pandas)?,
        })
    }
}

#[pymethods]
impl PyColumnMeta {
    #[new]
    fn with(name: String, source: String, dtype: String, pandas: Py<PyAny>) -> Self {
        Self { name, source, dtype, pandas }
    }
}

impl PyColumnMeta {
    fn core(&self, py: Python<'_>) -> PyResult<ColumnMeta> {
        let (name, source, dtype) = (self.name.clone(), self.source.clone(), self.dtype.clone());
        Ok(ColumnMeta { name, source, dtype, pandas: json(self.pandas.bind(py))? })
    }
}

/// A value that `json.dumps` can write, as the core's JSON.
pub fn json<T: DeserializeOwned>(value: &Bound<'_, PyAny>) -> PyResult<T> {
    let text: String = value.py().import("json")?.call_method1("dumps", (value,))?.extract()?;
    serde_json::from_str(&text).map_err(|e| DaoError::value(format!("no JSON: {e}")).into())
}

fn frozen(py: Python<'_>, values: &Map<String, Value>) -> PyResult<Py<PyMappingProxy>> {
    Ok(PyMappingProxy::new(py, dict(py, values)?.as_mapping()).unbind())
}

fn dict<'py>(py: Python<'py>, values: &Map<String, Value>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in values {
        dict.set_item(name, python(py, value)?)?;
    }
    Ok(dict)
}

/// A JSON value as `json.loads` gives it.
fn python(py: Python<'_>, value: &Value) -> PyResult<Py<PyAny>> {
    match value {
        Value::Null => Ok(py.None()),
        Value::Bool(value) => value.into_py_any(py),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => value.into_py_any(py),
            (_, Some(value)) => value.into_py_any(py),
            _ => number.as_f64().into_py_any(py),
        },
        Value::String(value) => value.into_py_any(py),
        Value::Array(values) => {
            values.iter().map(|value| python(py, value)).collect::<PyResult<Vec<_>>>()?.into_py_any(py)
        }
        Value::Object(values) => dict(py, values)?.into_py_any(py),
    }
}
