//! The names of a part's matrices: `X`, a layer, an embedding (obsm).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{DaoError, Result};

/// The name of a matrix within its part. As text it is the matrix's path below `zarr`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MatrixName {
    /// The counts, cells × genes.
    X,
    /// A layer: other values of the same cells and genes.
    Layer(String),
    /// An embedding: cells × columns of its own.
    Obsm(String),
}

impl MatrixName {
    /// Whether the columns of the matrix are the part's genes.
    pub fn is_of_genes(&self) -> bool {
        !matches!(self, Self::Obsm(_))
    }

    /// What AnnData calls one matrix of this kind: `X`, `layer` or `obsm`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::X => "X",
            Self::Layer(_) => "layer",
            Self::Obsm(_) => "obsm",
        }
    }

    /// The name without its kind.
    pub fn name(&self) -> &str {
        match self {
            Self::X => "X",
            Self::Layer(name) | Self::Obsm(name) => name,
        }
    }
}

impl fmt::Display for MatrixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X => f.write_str("X"),
            Self::Layer(name) => write!(f, "layers/{name}"),
            Self::Obsm(name) => write!(f, "obsm/{name}"),
        }
    }
}

impl TryFrom<String> for MatrixName {
    type Error = DaoError;

    fn try_from(text: String) -> Result<Self> {
        let plain = |name: &&str| {
            !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']) && *name != "zarr.json"
        };
        let within = |group: &str| text.strip_prefix(group).filter(plain).map(str::to_owned);
        if text == "X" {
            return Ok(Self::X);
        }
        within("layers/").map(Self::Layer).or_else(|| within("obsm/").map(Self::Obsm)).ok_or_else(|| {
            DaoError::value(format!("'{}' cannot name a matrix", text.escape_default()))
                .expected("X, layers/<name> or obsm/<name>, without slashes in the name")
        })
    }
}

impl From<MatrixName> for String {
    fn from(name: MatrixName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_from_their_text() {
        for name in [MatrixName::X, MatrixName::Layer("raw counts".into()), MatrixName::Obsm("X_pca".into())] {
            assert_eq!(MatrixName::try_from(name.to_string()).unwrap(), name);
        }
        assert!(!MatrixName::Obsm("X_pca".into()).is_of_genes());
    }

    #[test]
    fn names_that_would_leave_their_folder_are_refused() {
        for text in
            ["", "x", "layers/", "layers/a/b", "layers/..", "obsm/.hidden", "obsm/a\\b", "layers/zarr.json", "raw/X"]
        {
            assert!(MatrixName::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
