//! Sets of genes, and which genes of a dataset are in them.

use std::collections::HashMap;

use fancy_regex::Regex;

use super::{FeatureSpace, quoted};
use crate::error::{DaoError, Result};

/// A set of genes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneSet {
    /// The name of the set.
    pub name: String,
    /// The rule that says which genes are in the set.
    pub rule: Rule,
}

/// The rule by which a gene is in a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// The genes in whose names this regular expression finds a match.
    Pattern(String),
    /// The genes of these names.
    Names(Vec<String>),
    /// The genes that this Boolean column of var marks.
    Column(String),
    /// The columns of the genes by dataset name, or the reason why they cannot be told.
    Genes(HashMap<String, std::result::Result<Vec<u32>, String>>),
}

impl GeneSet {
    /// An error about the set, with `why` in a few words.
    #[must_use]
    pub fn error(&self, why: &str) -> DaoError {
        DaoError::value(format!("gene set {}: {why}", quoted(&self.name)))
    }
}

/// Whether each gene is in a set, for sets that only names decide.
///
/// # Errors
/// `Value` for a pattern that is no regular expression, or that takes too long to be matched.
pub fn members(set: &GeneSet, space: &FeatureSpace) -> Result<Vec<bool>> {
    match &set.rule {
        Rule::Pattern(pattern) => {
            let wrong =
                |e: fancy_regex::Error| set.error(&format!("{} is no regular expression: {e}", quoted(pattern)));
            let regex = Regex::new(pattern).map_err(wrong)?;
            let finds =
                |name: &Option<std::sync::Arc<str>>| name.as_deref().map_or(Ok(false), |name| regex.is_match(name));
            space.names().iter().map(finds).collect::<std::result::Result<_, _>>().map_err(wrong)
        }
        Rule::Names(names) => {
            let mut members = vec![false; space.len()];
            for name in names {
                let first = space.first(name);
                let all = space.repeats(name).or(first.as_ref().map(std::slice::from_ref));
                all.into_iter().flatten().for_each(|&at| members[at as usize] = true);
            }
            Ok(members)
        }
        Rule::Column(_) | Rule::Genes(_) => Err(set.error("it is not told by names")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_and_names_find_genes() {
        let space = FeatureSpace::new(
            ["MT-A", "RPS1", "MT-A", "mt-b"].map(|name| Some(name.to_owned())).into_iter().chain([None]),
        );
        let found = |rule| members(&GeneSet { name: "s".into(), rule }, &space);
        assert_eq!(found(Rule::Pattern("^MT-".into())).unwrap(), [true, false, true, false, false]);
        assert_eq!(found(Rule::Pattern("(?i)^mt-(?!A)".into())).unwrap(), [false, false, false, true, false]);
        assert_eq!(found(Rule::Names(vec!["MT-A".into(), "no".into()])).unwrap(), [true, false, true, false, false]);
        let error = found(Rule::Pattern("(".into())).unwrap_err().to_string();
        assert!(error.starts_with("gene set 's': '(' is no regular expression:"), "{error}");
    }
}
