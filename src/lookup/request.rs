//! The request of an expression, as it comes through polars: what is to be read of each cell.

use std::collections::HashMap;

use serde::Deserialize;

use crate::error::{DaoError, Result};
use crate::genes::{Duplicates, GeneSet, Rule};
use crate::number::Dtype;
use crate::read::Normalize;
use crate::store::MatrixName;

/// The form of the column that the numbers become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Shape {
    /// One gene: a column of numbers.
    One,
    /// Several genes: a column of structs with a field for each.
    Struct,
    /// Several genes: a column of arrays.
    Array,
    /// All genes, and sets of genes: a column of structs of sums.
    Sums,
}

impl TryFrom<String> for Shape {
    type Error = DaoError;

    fn try_from(text: String) -> Result<Self> {
        match text.as_str() {
            "one" => Ok(Self::One),
            "struct" => Ok(Self::Struct),
            "array" => Ok(Self::Array),
            "sums" => Ok(Self::Sums),
            _ => Err(DaoError::value(format!("shape '{text}'")).expected("one, struct, array or sums")),
        }
    }
}

/// A request, complete: it says all but which cells, and the store that they are of.
#[derive(Debug, Clone, Deserialize)]
pub struct LookupRequest {
    /// The type of column that the numbers become.
    pub shape: Shape,
    /// Names of genes; none for sums.
    #[serde(default)]
    pub names: Vec<String>,
    /// Sets of genes, for sums.
    #[serde(default)]
    pub sets: Vec<SetRule>,
    /// The layer to read; `None` for X.
    pub layer: Option<String>,
    /// The column of var that names are looked up in; `None` for the index.
    pub gene_key: Option<String>,
    /// The total that cells are brought to, and whether the logarithm of one more is taken.
    pub normalize: Option<(Option<f64>, bool)>,
    /// The number type of the result; `None` for the stored one.
    pub dtype: Option<String>,
    /// The meaning of a name that several genes of one dataset have.
    pub duplicates: String,
    /// The URI of the store now; `None` for the one that the cells name.
    pub store: Option<String>,
}

/// A named set of genes. One of the other fields says which genes are in it.
#[derive(Debug, Clone, Deserialize)]
pub struct SetRule {
    /// The name of the set.
    pub name: String,
    /// A regular expression.
    #[serde(default)]
    pub pattern: Option<String>,
    /// Names of genes.
    #[serde(default)]
    pub names: Option<Vec<String>>,
    /// A Boolean column of var.
    #[serde(default)]
    pub column: Option<String>,
    /// The columns in the set, by dataset name.
    #[serde(default)]
    pub members: Option<HashMap<String, Members>>,
}

/// The genes of a dataset that are in a set.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Members {
    /// The columns of these genes.
    #[serde(default)]
    pub columns: Vec<u32>,
    /// The reason, where the columns cannot be told.
    #[serde(default)]
    pub refused: Option<String>,
}

impl LookupRequest {
    /// The matrix that numbers are from.
    #[must_use]
    pub fn matrix(&self) -> MatrixName {
        match self.layer.as_deref() {
            None | Some("X") => MatrixName::X,
            Some(layer) => MatrixName::Layer(layer.to_owned()),
        }
    }

    /// The number type, where one is named.
    ///
    /// # Errors
    /// `Value` for a name that is none, or an integer for normalized values.
    pub fn dtype(&self) -> Result<Option<Dtype>> {
        let dtype = self.dtype.as_deref().map(Dtype::from_name).transpose()?;
        if self.normalize.is_some() && dtype.is_some_and(|dtype| !dtype.is_float()) {
            return Err(DaoError::value("normalized values are no integers").expected("dtype float32 or float64"));
        }
        Ok(dtype)
    }

    /// The normalization of a cell's values, where there is one.
    #[must_use]
    pub fn normalize(&self) -> Option<Normalize> {
        self.normalize.map(|(target_sum, log1p)| Normalize { target_sum, log1p })
    }

    /// The meaning of a name that several genes of one dataset have.
    ///
    /// # Errors
    /// As [`Duplicates::from_name`].
    pub fn duplicates(&self) -> Result<Duplicates> {
        Duplicates::from_name(&self.duplicates)
    }

    /// The sets of genes.
    #[must_use]
    pub fn gene_sets(&self) -> Vec<GeneSet> {
        let rule = |set: &SetRule| match set {
            SetRule { pattern: Some(pattern), .. } => Rule::Pattern(pattern.clone()),
            SetRule { column: Some(column), .. } => Rule::Column(column.clone()),
            SetRule { members: Some(members), .. } => {
                let said = |members: &Members| match &members.refused {
                    Some(why) => Err(why.clone()),
                    None => Ok(members.columns.clone()),
                };
                Rule::Genes(members.iter().map(|(dataset, members)| (dataset.clone(), said(members))).collect())
            }
            SetRule { names, .. } => Rule::Names(names.clone().unwrap_or_default()),
        };
        self.sets.iter().map(|set| GeneSet { name: set.name.clone(), rule: rule(set) }).collect()
    }

    /// The names of the fields that the request gives: genes, or scanpy's names of sums.
    #[must_use]
    pub fn fields(&self) -> Vec<String> {
        if self.shape != Shape::Sums {
            return self.names.clone();
        }
        let mut fields = vec!["total_counts".to_owned(), "n_genes_by_counts".to_owned()];
        for set in &self.sets {
            fields.extend(["total_counts", "pct_counts"].map(|kind| format!("{kind}_{}", set.name)));
        }
        fields
    }
}
