//! `_core.Genes` and the functions that need only names, and `_core.next_report`: how cells were looked up.

use std::sync::Arc;

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::error::DaoError;
use crate::genes::{
    Duplicates, FeatureSpace, GeneRequest, Genes, Mapping, WantedGenes, feature_space_id as id_of, match_names,
};
use crate::lookup::reports;

/// A mapping as it is pickled: the part's columns, which of them, and the output of each.
type SavedMapping<'py> = (usize, PyReadonlyArray1<'py, u32>, PyReadonlyArray1<'py, u32>);

/// The requested genes, and the columns of each part that they are; pickles.
#[pyclass(name = "Genes", module = "dao_polars._core", frozen)]
pub struct PyGenes(pub Arc<Genes>);

#[pymethods]
impl PyGenes {
    /// The names of the genes, (n_genes,), where they were matched by name; None: all of one space.
    #[getter]
    fn names(&self) -> Option<Vec<String>> {
        self.0.names.clone()
    }

    /// The number of genes.
    #[getter]
    fn n_genes(&self) -> usize {
        self.0.n_genes
    }

    /// Make them again from what pickle took apart: by parts the columns and outputs.
    #[staticmethod]
    fn restore(
        names: Option<Vec<String>>,
        n_genes: usize,
        groups: Vec<(Vec<u32>, Option<SavedMapping<'_>>)>,
    ) -> PyResult<Self> {
        if names.as_ref().is_some_and(|names| names.len() != n_genes) {
            return Err(DaoError::value("there are more or fewer names than genes").into());
        }
        let mapping = |(n_columns, columns, outputs): SavedMapping<'_>| {
            let (columns, outputs) = (columns.as_array(), outputs.as_array());
            Mapping::new(n_columns, n_genes, columns.iter().copied().zip(outputs.iter().copied()).collect())
        };
        let groups = groups.into_iter().map(|(numbers, saved)| Ok((numbers, saved.map(mapping).transpose()?)));
        let groups = groups.collect::<crate::error::Result<_>>()?;
        Ok(Self(Arc::new(Genes { names, n_genes, groups })))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let (py, genes) = (slf.py(), &slf.get().0);
        let saved = |mapping: &Mapping| {
            let (columns, outputs): (Vec<u32>, Vec<u32>) = mapping.pairs().iter().copied().unzip();
            (mapping.n_columns(), PyArray1::from_vec(py, columns), PyArray1::from_vec(py, outputs))
        };
        let groups = genes.groups.iter().map(|(numbers, mapping)| (numbers, mapping.as_ref().map(saved)));
        let state = (&genes.names, genes.n_genes, groups.collect::<Vec<_>>());
        Ok((slf.get_type().getattr("restore")?, state.into_pyobject(py)?.into_any()))
    }

    /// The (first) column of each gene in a part, (n_genes,) int64, -1: none; None where its columns are the genes.
    ///
    /// Raises DaoValueError for a part that they were not resolved for.
    fn columns<'py>(&self, py: Python<'py>, number: u32) -> PyResult<Option<Bound<'py, PyArray1<i64>>>> {
        let Some(mapping) = self.0.mapping(number)? else { return Ok(None) };
        let columns = mapping.first_columns(self.0.n_genes);
        Ok(Some(PyArray1::from_iter(py, columns.into_iter().map(|column| column.map_or(-1, i64::from)))))
    }
}

/// A request for genes as the public methods take it.
pub fn request(genes: Option<&Bound<'_, PyAny>>, gene_key: Option<String>, duplicates: &str) -> PyResult<GeneRequest> {
    let wanted = match genes.map(|genes| (genes, genes.extract::<String>())) {
        None => WantedGenes::All,
        Some((_, Ok(how))) => match how.as_str() {
            "intersection" => WantedGenes::Intersection,
            "union" => WantedGenes::Union,
            name => {
                return Err(DaoError::value(format!(
                    "genes='{name}': expected a list of names, 'intersection', 'union' or None. For one gene pass \
                    genes=['{name}']."
                ))
                .into());
            }
        },
        Some((names, Err(_))) => WantedGenes::Names(names.extract()?),
    };
    Ok(GeneRequest { wanted, gene_key, duplicates: Duplicates::try_from(duplicates.to_owned())? })
}

/// The id of an ordered var index: two are equal exactly where the names and their order are.
#[pyfunction]
pub fn feature_space_id(names: Vec<Option<String>>) -> String {
    id_of(names.iter().map(Option::as_deref))
}

/// The position in ``wanted`` of each of ``have``, int32, or -1; and the names that repeat where they must not.
#[pyfunction]
#[pyo3(signature = (have, wanted, duplicates="error"))]
pub fn match_genes<'py>(
    py: Python<'py>,
    have: Vec<Option<String>>,
    wanted: Vec<String>,
    duplicates: &str,
) -> PyResult<(Bound<'py, PyArray1<i32>>, Vec<String>)> {
    let duplicates = Duplicates::try_from(duplicates.to_owned())?;
    let (targets, repeated) = py.detach(|| {
        let (mapping, repeated) = match_names(&FeatureSpace::new(have), &wanted, duplicates);
        (mapping.targets(), repeated.into_iter().map(str::to_owned).collect())
    });
    Ok((PyArray1::from_vec(py, targets), repeated))
}

/// Set whether reports of how cells were looked up are kept from now on.
#[pyfunction]
pub fn keep_reports(wanted: bool) {
    reports::keep(wanted);
}

/// Wait for the next report: names, cells, parts by strategy; None once none are kept.
#[pyfunction]
pub fn next_report(py: Python<'_>) -> Option<reports::Report> {
    py.detach(reports::next)
}
