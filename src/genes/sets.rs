//! Sets of genes, and which genes of a part are in them.

use std::collections::HashMap;
use std::sync::Arc;

use fancy_regex::Regex;
use serde::Deserialize;

use super::{FeatureSpace, quoted};
use crate::error::{DaoError, ErrorKind, Result};

/// A set of genes.
#[derive(Debug, Clone, Deserialize)]
pub struct GeneSet {
    /// The name of the set.
    pub name: String,
    /// The rule that says which genes are in the set.
    #[serde(flatten)]
    pub rule: Rule,
}

/// The rule by which a gene is in a set.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// The genes in whose names this regular expression finds a match.
    Pattern(String),
    /// The genes of these names.
    Names(Vec<String>),
    /// The genes that this Boolean column of var marks.
    Column(String),
    /// The genes by the addresses of datasets: their names, where one store is open.
    Members(HashMap<String, Members>),
}

/// The genes of a part that are in a set.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Members {
    /// The columns of these genes.
    Columns(Vec<u32>),
    /// The reason why the columns cannot be told.
    Refused(String),
}

impl GeneSet {
    /// An error about the set, with `why` in a few words.
    #[must_use]
    pub fn error(&self, why: &str) -> DaoError {
        DaoError::value(format!("gene set {}: {why}", quoted(&self.name)))
    }

    /// Whether each gene of a part is in the set. `marks` gives a Boolean column of the part's var.
    ///
    /// # Errors
    /// `Value` for a pattern that is no regular expression, or that takes too long to be matched, and for a set that
    /// says nothing of the part; those of `marks`.
    pub fn members(
        &self,
        part: &str,
        space: &FeatureSpace,
        marks: impl FnOnce(&str) -> Result<Vec<bool>>,
    ) -> Result<Vec<bool>> {
        let mut members = vec![false; space.len()];
        match &self.rule {
            Rule::Pattern(pattern) => {
                let wrong =
                    |e: fancy_regex::Error| self.error(&format!("{} is no regular expression: {e}", quoted(pattern)));
                let regex = Regex::new(pattern).map_err(wrong)?;
                let finds = |name: &Option<Arc<str>>| name.as_deref().map_or(Ok(false), |name| regex.is_match(name));
                return space.names().iter().map(finds).collect::<std::result::Result<_, _>>().map_err(wrong);
            }
            Rule::Column(column) => {
                return marks(column).map_err(|e| match e.kind() {
                    ErrorKind::Key | ErrorKind::Value => self.error(&e.to_string()),
                    _ => e,
                });
            }
            Rule::Names(names) => {
                names.iter().flat_map(|name| space.columns(name)).for_each(|&column| members[column as usize] = true);
            }
            Rule::Members(by_part) => match by_part.get(part) {
                Some(Members::Columns(columns)) => {
                    for &column in columns {
                        let member = members.get_mut(column as usize);
                        *member.ok_or_else(|| self.error("it has other genes than the dataset"))? = true;
                    }
                }
                Some(Members::Refused(why)) => return Err(self.error(why)),
                None => {
                    return Err(self
                        .error("the dataset was not there when the expression was made")
                        .at(format!("dataset '{part}'")));
                }
            },
        }
        Ok(members)
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
        let marks = |_: &str| Ok(vec![true; 5]);
        let found = |rule| GeneSet { name: "s".into(), rule }.members("d", &space, marks);
        assert_eq!(found(Rule::Pattern("^MT-".into())).unwrap(), [true, false, true, false, false]);
        assert_eq!(found(Rule::Pattern("(?i)^mt-(?!A)".into())).unwrap(), [false, false, false, true, false]);
        assert_eq!(found(Rule::Names(vec!["MT-A".into(), "no".into()])).unwrap(), [true, false, true, false, false]);
        let error = found(Rule::Pattern("(".into())).unwrap_err().to_string();
        assert!(error.starts_with("gene set 's': '(' is no regular expression:"), "{error}");
        assert_eq!(found(Rule::Column("c".into())).unwrap(), [true; 5]);
    }

    #[test]
    fn columns_are_those_of_the_part() {
        let space = FeatureSpace::new([None, None]);
        let members = |rule: &str| {
            let set = format!(r#"{{"name": "s", "members": {{"d": {rule}}}}}"#);
            let marks = |_: &str| Err(DaoError::value("not asked"));
            serde_json::from_str::<GeneSet>(&set).unwrap().members("d", &space, marks)
        };
        let error = |rule| members(rule).unwrap_err().to_string();
        assert_eq!(members(r#"{"columns": [1]}"#).unwrap(), [false, true]);
        assert!(error(r#"{"columns": [2]}"#).contains("it has other genes than the dataset"));
        assert_eq!(error(r#"{"refused": "no such column"}"#), "gene set 's': no such column");
        let other = r#"{"name": "s", "members": {}}"#;
        let other = serde_json::from_str::<GeneSet>(other).unwrap().members("d", &space, |_| Ok(Vec::new()));
        assert!(other.unwrap_err().to_string().contains("was not there when the expression was made"));
    }
}
