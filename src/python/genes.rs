//! `_core.Genes` and the functions that need only names, and `_core.next_report`: how cells were looked up.

use std::collections::BTreeMap;
use std::sync::Arc;

use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::error::DaoError;
use crate::genes::{
    Duplicates, FeatureSpace, GeneRequest, Genes, Mapping, WantedGenes, feature_space_id as id_of, match_names,
};
use crate::lookup::reports;

/// A mapping as it is pickled: the dataset's columns, which of them, and the output of each.
type SavedMapping<'py> = (usize, PyReadonlyArray1<'py, u32>, PyReadonlyArray1<'py, u32>);

/// The requested genes, and the columns of each dataset that they are; pickles.
#[pyclass(name = "Genes", module = "dao_polars._core", frozen)]
pub struct PyGenes(pub Arc<Genes>);

#[pymethods]
impl PyGenes {
    /// The names of the genes, (n_genes,), where they were matched by name; None: all of one space.
    #[getter]
    fn names(&self) -> Option<Vec<String>> {
        self.0.names().map(|names| names.iter().map(|name| name.to_string()).collect())
    }

    /// The number of genes.
    #[getter]
    fn n_genes(&self) -> usize {
        self.0.n_genes()
    }

    /// Make them again from what pickle took apart: by datasets the columns and outputs.
    #[staticmethod]
    fn restore(
        names: Option<Vec<String>>,
        n_genes: usize,
        groups: Vec<(Vec<u32>, Option<SavedMapping<'_>>)>,
    ) -> PyResult<Self> {
        let mut mappings = BTreeMap::new();
        for (numbers, saved) in groups {
            let mapping = saved.map(|(n_columns, columns, outputs)| {
                let (columns, outputs) = (columns.as_array(), outputs.as_array());
                Mapping::new(n_columns, columns.iter().copied().zip(outputs.iter().copied()).collect()).map(Arc::new)
            });
            let mapping = mapping.transpose()?;
            mappings.extend(numbers.into_iter().map(|number| (number, mapping.clone())));
        }
        let names = names.map(|names| names.into_iter().map(Arc::from).collect());
        Ok(Self(Arc::new(Genes::new(names, n_genes, mappings)?)))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let (py, genes) = (slf.py(), &slf.get().0);
        let groups = genes.by_mapping().into_iter().map(|(numbers, mapping)| {
            let mapping = mapping.map(|mapping| {
                let (columns, outputs): (Vec<u32>, Vec<u32>) = mapping.pairs().iter().copied().unzip();
                (mapping.n_columns(), PyArray1::from_vec(py, columns), PyArray1::from_vec(py, outputs))
            });
            (numbers, mapping)
        });
        let state = (slf.get().names(), genes.n_genes(), groups.collect::<Vec<_>>());
        Ok((slf.get_type().getattr("restore")?, state.into_pyobject(py)?.into_any()))
    }

    /// The (first) column of each gene in a dataset, (n_genes,) int64, -1: none; None where its columns are the genes.
    ///
    /// Raises DaoValueError for a dataset that they were not resolved for.
    fn columns<'py>(&self, py: Python<'py>, number: u32) -> PyResult<Option<Bound<'py, PyArray1<i64>>>> {
        let Some(mapping) = self.0.mapping(number)? else { return Ok(None) };
        let columns = mapping.first_columns(self.0.n_genes());
        Ok(Some(PyArray1::from_iter(py, columns.into_iter().map(|column| column.map_or(-1, i64::from)))))
    }
}

/// A request for genes as the public methods take it.
pub fn request(genes: Option<&Bound<'_, PyAny>>, gene_key: Option<String>, duplicates: &str) -> PyResult<GeneRequest> {
    let wanted = match genes {
        None => WantedGenes::All,
        Some(genes) => match genes.extract::<String>() {
            Ok(how) if how == "intersection" => WantedGenes::Intersection,
            Ok(how) if how == "union" => WantedGenes::Union,
            Ok(name) => {
                return Err(DaoError::value(format!(
                    "genes='{name}': expected a list of names, 'intersection', 'union' or None. For one gene pass \
                    genes=['{name}']."
                ))
                .into());
            }
            Err(_) => WantedGenes::Names(genes.extract()?),
        },
    };
    Ok(GeneRequest { wanted, gene_key, duplicates: Duplicates::from_name(duplicates)? })
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
    let duplicates = Duplicates::from_name(duplicates)?;
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

/// Wait for the next report: names, cells, datasets by strategy; None once none are kept.
#[pyfunction]
pub fn next_report(py: Python<'_>) -> Option<(String, usize, String)> {
    py.detach(reports::next).map(|report| (report.names, report.n_cells, report.strategies))
}
