//! The error for names that no dataset has, with the nearest names that exist.

use std::collections::{BTreeMap, BTreeSet};

use strsim::{jaro_winkler, normalized_damerau_levenshtein};

use super::{FeatureSpace, quoted};
use crate::error::{DaoError, ErrorKind};

/// The least similarity of two names that are called near, from 0 to 1: by common beginning or by letters to change.
const BEGIN_ALIKE: f64 = 0.75;
const SPELT_ALIKE: f64 = 0.6;
/// The most unknown names whose nearest names are looked for.
const NAMED: usize = 5;
/// The most near names that are listed for each.
const NEAR: usize = 3;

/// The error for `unknown` names; `such_as` is a feature space to look at, as messages name it.
#[must_use]
pub fn unknown<'a>(unknown: &[&str], spaces: impl IntoIterator<Item = &'a FeatureSpace>, such_as: &str) -> DaoError {
    let known: BTreeSet<&str> = spaces.into_iter().flat_map(|space| space.distinct().map(|name| &**name)).collect();
    let lower: BTreeMap<String, &str> = known.into_iter().map(|name| (name.to_lowercase(), name)).collect();
    let shown: Vec<String> = unknown.iter().take(NAMED).map(|name| hint(name, &lower)).collect();
    let more = match unknown.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let s = if unknown.len() > 1 { "s" } else { "" };
    DaoError::new(
        ErrorKind::Key,
        format!(
            "unknown gene{s} {}{more}: in no dataset of the store, such as {such_as}. store.var(dataset) lists the \
            names; gene_key= matches on another var column.",
            shown.join(", ")
        ),
    )
}

/// An unknown name, followed by the names that are near it.
fn hint<'a>(name: &str, lower: &BTreeMap<String, &'a str>) -> String {
    let wanted = name.to_lowercase();
    // Members of a gene family come first: CD3 is nearer to CD3E than to CHD3.
    let mut near: Vec<&str> = Vec::new();
    if !wanted.is_empty() {
        let mut family: Vec<(&String, &&str)> =
            lower.range(wanted.clone()..).take_while(|(other, _)| other.starts_with(&wanted)).collect();
        family.sort_by_key(|(other, _)| other.chars().count());
        near.extend(family.into_iter().take(NEAR).map(|(_, name)| *name));
    }
    if near.len() < NEAR {
        let length = wanted.chars().count();
        let of_length = |other: &str| other.chars().count().abs_diff(length) <= 2 + length / 2;
        let alike = |(other, name): (&String, &&'a str)| {
            let (begin, spelt) = (jaro_winkler(&wanted, other), normalized_damerau_levenshtein(&wanted, other));
            (begin >= BEGIN_ALIKE || spelt >= SPELT_ALIKE).then_some((begin + spelt, *name))
        };
        let candidates = lower.iter().filter(|(other, name)| of_length(other) && !near.contains(*name));
        let mut alike: Vec<(f64, &str)> = candidates.filter_map(alike).collect();
        alike.sort_by(|a, b| b.0.total_cmp(&a.0));
        near.extend(alike.into_iter().map(|(_, name)| name).take(NEAR - near.len()));
    }
    match near.is_empty() {
        true => quoted(name),
        false => {
            let near: Vec<String> = near.into_iter().map(quoted).collect();
            format!("{} (nearest: {})", quoted(name), near.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str, known: &[&str]) -> String {
        let space = FeatureSpace::new(known.iter().map(|&name| Some(name.to_owned())));
        unknown(&[name], [&space], "'a' (3 genes)").to_string()
    }

    #[test]
    fn near_names_are_named() {
        let known = ["CD3E", "CD3D", "CHD3", "CD34", "INS", "MT-CO1", "g3", "g13"];
        assert!(error("cd3", &known).contains("'cd3' (nearest: 'CD34', 'CD3D', 'CD3E')"));
        assert!(error("G3x", &known).contains("'G3x' (nearest: 'g3'"));
        assert!(error("MTCO1", &known).contains("(nearest: 'MT-CO1'"));
        assert!(error("ISN", &known).contains("(nearest: 'INS'"));
        assert!(error("xyzzy", &known).starts_with("unknown gene 'xyzzy': in no dataset of the store, such as 'a'"));
        assert!(error("", &known).starts_with("unknown gene '':"));
        assert!(error("a\0b", &known).starts_with("unknown gene 'a\\0b'"));
    }

    #[test]
    fn many_are_counted() {
        let names: Vec<String> = (0..9).map(|i| format!("no{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let text = unknown(&names, [], "nothing").to_string();
        assert!(text.starts_with("unknown genes 'no0', 'no1', 'no2', 'no3', 'no4' and 4 more:"), "{text}");
    }
}
