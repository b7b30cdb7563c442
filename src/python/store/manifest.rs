//! The contents of a store, as frozen classes: `_core.Part`, `_core.Description` and their parts.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMappingProxy, PyString, PyTuple};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::obs_tables::PyTableFile;
use crate::error::DaoError;
use crate::number::Dtype;
use crate::read::OpenStore;
use crate::store::{ColumnMeta, Description, MatrixMeta, MatrixName, Part, Scalar, TableMeta};

/// The name of a matrix within its part; as text its path below ``zarr``.
#[pyclass(name = "MatrixName", module = "dao_polars._core", frozen, eq, ord, hash, from_py_object)]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PyMatrixName(pub MatrixName);

#[pymethods]
impl PyMatrixName {
    #[classattr]
    const X: Self = Self(MatrixName::X);

    /// The name of a layer.
    #[staticmethod]
    fn layer(name: String) -> Self {
        Self(MatrixName::Layer(name))
    }

    /// The name of an embedding.
    #[staticmethod]
    fn obsm(name: String) -> Self {
        Self(MatrixName::Obsm(name))
    }

    /// ``"X"``, ``"layers/<name>"`` or ``"obsm/<name>"``; DaoValueError for anything else.
    #[staticmethod]
    fn parse(text: String) -> PyResult<Self> {
        Ok(Self(text.try_into()?))
    }

    /// AnnData's word for matrices of this kind: ``"X"``, ``"layers"`` or ``"obsm"``.
    #[getter]
    fn group(&self) -> &'static str {
        match self.0 {
            MatrixName::X => "X",
            MatrixName::Layer(_) => "layers",
            MatrixName::Obsm(_) => "obsm",
        }
    }

    /// The name without its group.
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    /// Whether the columns of the matrix are the part's genes.
    #[getter]
    fn is_of_genes(&self) -> bool {
        self.0.is_of_genes()
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        format!("MatrixName('{}')", self.0)
    }

    fn __reduce__(slf: &Bound<'_, Self>) -> PyResult<(Py<PyAny>, (String,))> {
        Ok((slf.get_type().getattr("parse")?.unbind(), (slf.get().0.to_string(),)))
    }
}

/// Defines a frozen class by its attributes and what they are of a value of the core.
macro_rules! frozen_class {
    ($(#[$about:meta])* $name:literal, $class:ident from |$py:ident, $value:ident: $core:ty| {
        $($(#[$doc:meta])* $field:ident: $type:ty = $shown:expr,)*
    }) => {
        $(#[$about])*
        #[pyclass(name = $name, module = "dao_polars._core", frozen, get_all)]
        pub struct $class {
            $($(#[$doc])* $field: $type,)*
        }

        impl $class {
            pub fn new($py: Python<'_>, $value: &$core) -> PyResult<Self> {
                Ok(Self { $($field: $shown,)* })
            }
        }
    };
}

/// A part as its store lists it. What it says is read from the manifest when it is asked for: a store may have
/// hundreds of thousands of them.
#[pyclass(name = "Part", module = "dao_polars._core", frozen)]
pub struct PyPart {
    opened: Arc<OpenStore>,
    /// The position in the manifest.
    at: usize,
    obs: Py<PyTuple>,
}

impl PyPart {
    /// The parts of a store (a tuple of `Part`), by their numbers.
    pub fn all(py: Python<'_>, opened: &Arc<OpenStore>) -> PyResult<Py<PyTuple>> {
        // Equal columns are one object, as they are in the manifest.
        let mut known: HashMap<*const (String, String), Py<PyTuple>> = HashMap::new();
        let mut all = Vec::new();
        for (at, part) in opened.store().manifest().parts.iter().enumerate() {
            let obs = match known.get(&part.obs.as_ptr()) {
                Some(obs) => obs.clone_ref(py),
                None => {
                    let obs = PyTuple::new(py, part.obs.iter())?.unbind();
                    known.insert(part.obs.as_ptr(), obs.clone_ref(py));
                    obs
                }
            };
            all.push(Self { opened: opened.clone(), at, obs });
        }
        Ok(PyTuple::new(py, all)?.unbind())
    }

    fn listed(&self) -> &Part {
        &self.opened.store().manifest().parts[self.at]
    }
}

#[pymethods]
impl PyPart {
    /// The number of the part: the upper half of its cell keys.
    #[getter]
    fn number(&self) -> u32 {
        self.listed().number
    }

    /// The name of the dataset that it is a part of.
    #[getter]
    fn name(&self) -> &str {
        &self.listed().name
    }

    /// The dataset's name among all that are open: with its store's URI before it, where several stores are open as one.
    #[getter]
    fn address(&self) -> Cow<'_, str> {
        self.listed().address()
    }

    /// The place of its store among those that are open as one; 0 for one alone.
    #[getter]
    fn store(&self) -> usize {
        self.opened.store().place_of(self.listed().number)
    }

    /// The part's folder, relative to the store.
    #[getter]
    fn path(&self) -> &str {
        &self.listed().path
    }

    /// Its table of cells, relative to the store.
    #[getter]
    fn obs_path(&self) -> String {
        self.listed().file(&self.listed().obs_name)
    }

    /// The rows of its matrices and of its table of cells, those that were removed too.
    #[getter]
    fn n_obs(&self) -> u64 {
        self.listed().n_obs
    }

    /// The number of cells: of rows that were not removed.
    #[getter]
    fn n_cells(&self) -> u64 {
        self.listed().n_cells()
    }

    /// The file of its removed rows, relative to the store, its checksum and their number; None where there are none.
    #[getter]
    fn removed(&self) -> Option<(String, String, u64)> {
        let removed = self.listed().removed.as_ref();
        removed.map(|removed| (self.listed().file(&removed.path), removed.checksum.clone(), removed.n_obs))
    }

    /// The checksum of its description: parts with the same one are the same; None for sfaira's.
    #[getter]
    fn checksum(&self) -> Option<&str> {
        self.listed().checksum.as_deref()
    }

    /// The number of genes.
    #[getter]
    fn n_vars(&self) -> u64 {
        self.listed().n_vars
    }

    /// The number of stored values of X in its cells; None where it is not known.
    #[getter]
    fn nnz(&self) -> Option<u64> {
        self.listed().nnz_of_cells()
    }

    /// The layout of X: ``"csr"`` or ``"dense"``.
    #[getter]
    fn layout(&self) -> &'static str {
        self.listed().layout.name()
    }

    /// The number type that X is stored in; None for one that cannot be read.
    #[getter]
    fn dtype(&self) -> Option<&'static str> {
        self.listed().dtype.map(Dtype::name)
    }

    /// The bytes of the part on disk.
    #[getter]
    fn bytes(&self) -> u64 {
        self.listed().bytes
    }

    /// The organism of all cells, or the constant of that name; None where it is not said, or only in a table of sfaira's.
    #[getter]
    fn organism(&self) -> Option<&str> {
        let Part { organism, constants, .. } = self.listed();
        let named = organism.as_deref().filter(|organism| !organism.is_empty());
        named.or_else(|| match constants.get("organism") {
            Some(Scalar::Text(text)) => Some(&**text),
            _ => None,
        })
    }

    /// The names and types of the columns of obs but the index; none for sfaira's. One object where they are equal.
    #[getter]
    fn obs(&self, py: Python<'_>) -> Py<PyTuple> {
        self.obs.clone_ref(py)
    }

    /// The checksums of obs.parquet; None for sfaira's.
    #[getter]
    fn obs_file(&self) -> Option<PyTableFile> {
        self.listed().obs_file.clone().map(PyTableFile::new)
    }

    /// The values that all cells share, by name; none for sfaira's.
    #[getter]
    fn constants<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let constants = PyDict::new(py);
        for (name, value) in self.listed().constants.iter() {
            let name = PyString::intern(py, name); // of many parts they are the same
            match value {
                Scalar::Text(text) => constants.set_item(name, &**text)?,
                Scalar::Bool(truth) => constants.set_item(name, truth)?,
                Scalar::Number(number) => match (number.as_i64(), number.as_u64()) {
                    (Some(number), _) => constants.set_item(name, number)?,
                    (None, Some(number)) => constants.set_item(name, number)?,
                    (None, None) => constants.set_item(name, number.as_f64())?,
                },
            }
        }
        Ok(constants)
    }

    /// An id, the same exactly where the genes and their order are; empty for sfaira's.
    #[getter]
    fn feature_space(&self) -> &str {
        &self.listed().feature_space
    }

    /// The names of the layers.
    #[getter]
    fn layers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.listed().layers.iter())
    }

    /// The names of the embeddings.
    #[getter]
    fn obsm<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.listed().obsm.iter())
    }

    fn __repr__(&self) -> String {
        let Part { name, number, n_obs, n_vars, .. } = self.listed();
        format!("Part(of {name:?}, number {number}, {n_obs} cells × {n_vars} genes)")
    }
}

frozen_class! {
    /// The description of a part, from a file in its folder.
    "Description", PyDescription from |py, description: Description| {
        /// The matrices of the part by name, X first.
        matrices: Py<PyMappingProxy> = {
            let matrices = PyDict::new(py);
            for (name, meta) in &description.matrices {
                matrices.set_item(PyMatrixName(name.clone()), PyMatrixMeta::new(py, meta)?)?;
            }
            PyMappingProxy::new(py, matrices.as_mapping()).unbind()
        },
        /// The table of cells.
        obs: Py<PyTableMeta> = Py::new(py, PyTableMeta::new(py, &description.obs)?)?,
        /// The file of its table of genes, relative to its folder.
        var_name: String = description.var_name.clone(),
        /// The file of its uns, relative to its folder.
        uns_name: String = description.uns_name.clone(),
        /// The values of each string-like obs column, by its name; None for one that is no set of categories.
        categories: HashMap<String, Option<Vec<String>>> = {
            let listed = description.categories.iter();
            listed.map(|(name, values)| (name.clone(), values.as_ref().map(|v| v.iter().cloned().collect()))).collect()
        },
        /// The table of genes.
        var: Py<PyTableMeta> = Py::new(py, PyTableMeta::new(py, &description.var)?)?,
    }
}

frozen_class! {
    /// One matrix of a part.
    "MatrixMeta", PyMatrixMeta from |_py, meta: MatrixMeta| {
        /// The layout of the matrix: ``"csr"`` or ``"dense"``.
        layout: &'static str = meta.layout.name(),
        /// The number type that the matrix is stored in; None for one that cannot be read.
        dtype: Option<&'static str> = meta.dtype.map(Dtype::name),
        /// The number type that the matrix had at its source, as numpy names it.
        source_dtype: String = meta.source_dtype.clone(),
        /// The numbers of rows and columns.
        shape: (u64, u64) = meta.shape.into(),
        /// The number of stored values; None where nobody has counted them.
        nnz: Option<u64> = meta.nnz,
        /// The largest absolute value; None where nobody has looked for it.
        max_abs: Option<f64> = meta.max_abs,
        /// The names of an embedding's columns, or None.
        columns: Option<Vec<String>> = meta.columns.clone(),
    }
}

frozen_class! {
    /// A table, obs or var: its index and its columns.
    "TableMeta", PyTableMeta from |py, table: TableMeta| {
        /// The index's own name in pandas, or None.
        index_name: Option<String> = table.index_name.clone(),
        /// The index's form in pandas, a dict or None; see ``dao_polars.convert``.
        index: Py<PyAny> = python(py, &table.index)?.unbind(),
        /// The columns (`ColumnMeta`) but the index, in their order.
        columns: Py<PyTuple> = {
            let columns = table.columns.iter().map(|column| PyColumnMeta::new(py, column));
            PyTuple::new(py, columns.collect::<PyResult<Vec<_>>>()?)?.unbind()
        },
    }
}

#[pymethods]
impl PyTableMeta {
    #[new]
    fn with(
        py: Python<'_>,
        index_name: Option<String>,
        index: Py<PyAny>,
        columns: Vec<Py<PyColumnMeta>>,
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

frozen_class! {
    /// A column of a table: its form in parquet, and the one that it had in pandas.
    "ColumnMeta", PyColumnMeta from |py, column: ColumnMeta| {
        /// The column's name in parquet.
        name: String = column.name.clone(),
        /// The column's name in pandas.
        source: String = column.source.clone(),
        /// The column's type in parquet; see ``dao_polars.scan.dtypes``.
        dtype: String = column.dtype.clone(),
        /// The column's form in pandas, a dict; see ``dao_polars.convert``.
        pandas: Py<PyAny> = python(py, &column.pandas)?.unbind(),
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

/// JSON of the core's as `json.loads` gives it.
fn python<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(value).map_err(|e| DaoError::value(format!("no JSON: {e}")))?;
    py.import("json")?.call_method1("loads", (text,))
}
