//! The error for names that no part has, with the nearest names that exist.

use std::collections::{BTreeMap, BTreeSet};

use strsim::{jaro_winkler, normalized_damerau_levenshtein};

use super::{Group, quoted};
use crate::error::{DaoError, ErrorKind};

/// The least similarity of two names that are called near, from 0 to 1: by common beginning or by letters to change.
const BEGIN_ALIKE: f64 = 0.75;
const SPELT_ALIKE: f64 = 0.6;
/// The most unknown names whose nearest names are looked for.
const NAMED: usize = 5;
/// The most near names that are listed for each.
const NEAR: usize = 3;

/// Those of some names that no group of parts has.
#[must_use]
pub fn missing<'a>(names: &'a [String], groups: &[Group]) -> Vec<&'a str> {
    let is_known = |name: &str| groups.iter().any(|group| !group.space.columns(name).is_empty());
    names.iter().map(String::as_str).filter(|name| !is_known(name)).collect()
}

/// The error for names that no group of parts has.
#[must_use]
pub fn unknown(names: &[&str], groups: &[Group]) -> DaoError {
    let known: BTreeSet<&str> = groups.iter().flat_map(|group| group.space.distinct()).map(|(name, _)| name).collect();
    let lower: BTreeMap<String, &str> = known.into_iter().map(|name| (name.to_lowercase(), name)).collect();
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| hint(name, &lower)).collect();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    DaoError::new(
        ErrorKind::Key,
        format!(
            "unknown gene{} {}{more}: in no dataset of the store, such as {}. store.var(dataset) lists the names; \
            gene_key= matches on another var column.",
            if names.len() > 1 { "s" } else { "" },
            shown.join(", "),
            groups.first().map_or_else(|| "none".to_owned(), Group::to_string),
        ),
    )
}

/// An unknown name, followed by the names that are near it.
fn hint<'a>(name: &str, lower: &BTreeMap<String, &'a str>) -> String {
    let wanted = name.to_lowercase();
    // Members of a gene family come first: CD3 is nearer to CD3E than to CHD3.
    let mut family: Vec<(&String, &&str)> = lower
        .range(wanted.clone()..)
        .take_while(|(other, _)| !wanted.is_empty() && other.starts_with(&wanted))
        .collect();
    family.sort_by_key(|(other, _)| other.chars().count());
    let mut near: Vec<&str> = family.into_iter().take(NEAR).map(|(_, name)| *name).collect();
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
    if near.is_empty() {
        return quoted(name);
    }
    let near: Vec<String> = near.into_iter().map(quoted).collect();
    format!("{} (nearest: {})", quoted(name), near.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::genes::FeatureSpace;

    fn error(name: &str, known: &[&str]) -> String {
        let space = FeatureSpace::new(known.iter().map(|&name| Some(name.to_owned())));
        unknown(&[name], &[Group { parts: vec![(0, "a".into())], space: space.into() }]).to_string()
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
        let text = unknown(&names, &[]).to_string();
        assert!(text.starts_with("unknown genes 'no0', 'no1', 'no2', 'no3', 'no4' and 4 more:"), "{text}");
    }
}
