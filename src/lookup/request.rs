//! The request of an expression, as it comes through polars: what is to be read of each cell.

use serde::Deserialize;

use crate::genes::{Duplicates, GeneSet};
use crate::store::MatrixName;

/// The form of the column that the numbers become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    pub sets: Vec<GeneSet>,
    /// The layer to read; `None` for X.
    pub layer: Option<String>,
    /// The column of var that names are looked up in; `None` for the index.
    pub gene_key: Option<String>,
    /// The total that cells are brought to, and whether the logarithm of one more is taken.
    pub normalize: Option<(Option<f64>, bool)>,
    /// The number type of the result; `None` for the stored one.
    pub dtype: Option<String>,
    /// The meaning of a name that several genes of one part have.
    pub duplicates: Duplicates,
    /// The URIs of the stores now, in the order in which the cells name them; `None` for those that they name.
    pub store: Option<Vec<String>>,
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
