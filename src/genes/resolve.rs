//! Requests for genes resolved in feature spaces. Pure: names in, columns out.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::nearest::{missing, unknown};
use super::{Columns, FeatureSpace, Mapping, grouped, listed, quoted};
use crate::error::{DaoError, Result};
use crate::store::Part;

/// The genes that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedGenes {
    /// All genes, of parts that share one feature space.
    All,
    /// The genes of these names, in this order.
    Names(Vec<String>),
    /// The genes that every part has, in the order of the first part.
    Intersection,
    /// The genes that any part has, in order of first appearance.
    Union,
}

/// The meaning of a name that several genes of one part have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Duplicates {
    /// The name is an error.
    #[default]
    Error,
    /// The name means the first of these genes.
    First,
    /// The name means the sum of these genes' values.
    Sum,
    /// The name means no gene, as if the part had none of that name.
    Drop,
}

impl TryFrom<String> for Duplicates {
    type Error = DaoError;

    fn try_from(name: String) -> Result<Self> {
        match name.as_str() {
            "error" => Ok(Self::Error),
            "first" => Ok(Self::First),
            "sum" => Ok(Self::Sum),
            "drop" => Ok(Self::Drop),
            _ => {
                Err(DaoError::value(format!("duplicates={}", quoted(&name)))
                    .expected("'error', 'first', 'sum' or 'drop'"))
            }
        }
    }
}

/// A request for genes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneRequest {
    /// The genes that are asked for.
    pub wanted: WantedGenes,
    /// The column of var that names are looked up in; `None` for the index.
    pub gene_key: Option<String>,
    /// The meaning of names that repeat within a part.
    pub duplicates: Duplicates,
}

/// Parts that share a feature space.
#[derive(Debug, Clone)]
pub struct Group {
    /// The numbers and names of the parts.
    pub parts: Vec<(u32, String)>,
    /// The genes that the parts share.
    pub space: Arc<FeatureSpace>,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.parts.iter().take(3).map(|(_, name)| quoted(name)).collect();
        f.write_str(&shown.join(", "))?;
        if self.parts.len() > 3 {
            write!(f, " and {} more", self.parts.len() - 3)?;
        }
        write!(f, " ({} genes)", grouped(self.space.len()))
    }
}

impl Group {
    /// The parts `members`, which share `space`.
    #[must_use]
    pub fn new(members: &[&Part], space: Arc<FeatureSpace>) -> Self {
        Self { parts: members.iter().map(|part| (part.number, part.address().into_owned())).collect(), space }
    }

    fn numbers(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().map(|&(number, _)| number)
    }

    /// The columns that names mean.
    ///
    /// # Errors
    /// `Value` for names that several genes have, where that is an error.
    pub fn mapping(&self, names: &[String], duplicates: Duplicates) -> Result<Mapping> {
        let (mapping, repeated) = match_names(&self.space, names, duplicates);
        if repeated.is_empty() { Ok(mapping) } else { Err(self.ambiguous(&repeated)) }
    }

    fn ambiguous(&self, names: &[&str]) -> DaoError {
        let s = if names.len() > 1 { "s" } else { "" };
        DaoError::value(format!(
            "ambiguous gene name{s} {}: several genes of {self} have it. Say with duplicates=\"first\", \"sum\" or \
            \"drop\" what that means, match on a var column with unique values, such as gene_key='gene_ids', or leave \
            it out.",
            listed(names.iter().copied())
        ))
    }
}

/// The genes of an output, and the columns of each part that they are.
#[derive(Debug, Clone)]
pub struct Genes {
    /// The names of the genes, where they were matched by name.
    pub names: Option<Vec<String>>,
    /// The number of genes.
    pub n_genes: usize,
    /// The numbers of parts with the mapping of their columns; `None` where these are the output's already.
    pub groups: Vec<(Vec<u32>, Option<Mapping>)>,
}

impl Genes {
    /// All genes of parts that share one feature space.
    #[must_use]
    pub fn all(numbers: impl IntoIterator<Item = u32>, n_genes: usize) -> Self {
        Self { names: None, n_genes, groups: vec![(numbers.into_iter().collect(), None)] }
    }

    /// The columns of a part that the genes are; `None` where its columns are the output's already.
    ///
    /// # Errors
    /// `Value` for a part that the genes were not resolved for.
    pub fn mapping(&self, number: u32) -> Result<Option<&Mapping>> {
        match self.groups.iter().find(|(numbers, _)| numbers.contains(&number)) {
            Some((_, mapping)) => Ok(mapping.as_ref()),
            None => Err(DaoError::value(format!("the genes were not resolved for part number {number}"))),
        }
    }

    /// The map from the columns of each part, by its number, to the output's; `None` where they are the same.
    pub fn columns(&self) -> impl Iterator<Item = (u32, Option<Arc<Columns>>)> {
        self.groups.iter().flat_map(|(numbers, mapping)| {
            let columns = mapping.as_ref().map(|mapping| Arc::new(mapping.columns()));
            numbers.iter().map(move |&number| (number, columns.clone()))
        })
    }
}

/// Resolves a request in the feature spaces of some parts, at least one. `elsewhere` are the store's others,
/// looked at for names that are in none of these: a panel of genes means the same for every selection.
///
/// # Errors
/// `Value` for several spaces where all genes are wanted, for a name that is wanted twice, and for one that
/// several genes have; `Key` for a name that no part has.
pub fn resolve(
    request: &GeneRequest,
    groups: &[Group],
    elsewhere: impl FnOnce() -> Result<Vec<Group>>,
) -> Result<Genes> {
    let names = match &request.wanted {
        WantedGenes::All => return all(groups),
        WantedGenes::Intersection | WantedGenes::Union => combined(request, groups)?,
        WantedGenes::Names(names) => {
            refuse_twice(names)?;
            if !missing(names, groups).is_empty() {
                let everywhere = [groups, &elsewhere()?].concat();
                let missing = missing(names, &everywhere);
                if !missing.is_empty() {
                    return Err(unknown(&missing, &everywhere));
                }
            }
            names.clone()
        }
    };
    let columns = groups.iter().map(|group| {
        let mapping = group.mapping(&names, request.duplicates)?;
        Ok((group.numbers().collect(), (!mapping.is_identity(names.len())).then_some(mapping)))
    });
    Ok(Genes { n_genes: names.len(), groups: columns.collect::<Result<_>>()?, names: Some(names) })
}

fn all(groups: &[Group]) -> Result<Genes> {
    let Some(first) = groups.first() else { return Ok(Genes::all([], 0)) };
    if groups.iter().any(|group| group.space.names() != first.space.names()) {
        let shown: Vec<String> = groups.iter().map(|group| format!("\n  - {group}")).collect();
        return Err(DaoError::value(format!(
            "the selection's datasets have {} different feature spaces:{}\nPass genes=\"intersection\", \
            genes=\"union\" or a list of gene names (gene_key= matches on a var column), or filter on \
            pl.col(\"dataset\").",
            groups.len(),
            shown.concat()
        )));
    }
    Ok(Genes::all(groups.iter().flat_map(Group::numbers), first.space.len()))
}

/// The names that every group has (intersection), or any group (union).
fn combined(request: &GeneRequest, groups: &[Group]) -> Result<Vec<String>> {
    let dropped = request.duplicates == Duplicates::Drop;
    let counts = |columns: &[u32]| !(columns.is_empty() || dropped && columns.len() > 1);
    if request.duplicates == Duplicates::Error {
        for group in groups {
            let repeated = group.space.distinct().filter(|(_, columns)| columns.len() > 1);
            let repeated: Vec<&str> = repeated.map(|(name, _)| name).collect();
            if !repeated.is_empty() {
                return Err(group.ambiguous(&repeated));
            }
        }
    }
    let mut names = groups.iter().map(|group| -> Vec<&str> {
        group.space.distinct().filter(|(_, columns)| counts(columns)).map(|(name, _)| name).collect()
    });
    if request.wanted == WantedGenes::Union {
        let mut seen = HashSet::new();
        return Ok(names.flatten().filter(|name| seen.insert(*name)).map(str::to_owned).collect());
    }
    let mut common = names.next().unwrap_or_default();
    for group in groups.iter().skip(1) {
        common.retain(|name| counts(group.space.columns(name)));
    }
    if common.is_empty() && groups.iter().any(|group| !group.space.is_empty()) {
        let such_as = |group: &Group| {
            let first = group.space.names().first().and_then(Option::as_deref);
            format!("{group} with {}", listed(first))
        };
        let shown: Vec<String> = groups.iter().take(3).map(such_as).collect();
        return Err(DaoError::value(format!(
            "the datasets have no gene in common: {}. Symbols do not match Ensembl ids: gene_key= matches on another \
            var column, write_dataset(genes=…, gene_key=…) aligns a study when it is written.",
            shown.join("; ")
        )));
    }
    Ok(common.into_iter().map(str::to_owned).collect())
}

/// Refuses names that are wanted more than once.
fn refuse_twice(names: &[String]) -> Result<()> {
    let mut times: HashMap<&str, usize> = HashMap::new();
    let twice = names.iter().map(String::as_str).filter(|name| {
        let times = times.entry(name).or_default();
        *times += 1;
        *times == 2
    });
    let twice: Vec<&str> = twice.collect();
    if twice.is_empty() {
        return Ok(());
    }
    Err(DaoError::value(format!("genes= names {} more than once. Name each gene once.", listed(twice))))
}

/// The columns of a feature space that names mean, and the names that several genes have where that is an error.
#[must_use]
pub fn match_names<'a>(space: &FeatureSpace, names: &'a [String], duplicates: Duplicates) -> (Mapping, Vec<&'a str>) {
    let (mut pairs, mut repeated) = (Vec::with_capacity(names.len()), Vec::new());
    for (output, name) in (0..).zip(names) {
        match (space.columns(name), duplicates) {
            ([], _) => {}
            (&[column], _) | (&[column, ..], Duplicates::First) => pairs.push((column, output)),
            (_, Duplicates::Error) => repeated.push(name.as_str()),
            (_, Duplicates::Drop) => {}
            (columns, Duplicates::Sum) => pairs.extend(columns.iter().map(|&column| (column, output))),
        }
    }
    pairs.sort_unstable();
    (Mapping::of_sorted(space.len(), pairs), repeated)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group(number: u32, names: &[Option<&str>]) -> Group {
        let names = names.iter().map(|name| name.map(str::to_owned));
        Group { parts: vec![(number, format!("d{number}"))], space: Arc::new(FeatureSpace::new(names)) }
    }

    fn request(wanted: WantedGenes, duplicates: Duplicates) -> GeneRequest {
        GeneRequest { wanted, gene_key: None, duplicates }
    }

    fn names(genes: &Genes) -> Vec<&str> {
        genes.names.as_ref().unwrap().iter().map(String::as_str).collect()
    }

    #[test]
    fn repeated_names_are_what_duplicates_says() {
        let groups = [group(0, &[Some("a"), Some("b"), None, Some("a")]), group(3, &[Some("b"), Some("a")])];
        let get = |wanted, duplicates| resolve(&request(wanted, duplicates), &groups, || Ok(Vec::new()));
        let error = get(WantedGenes::Intersection, Duplicates::Error).unwrap_err().to_string();
        assert!(error.starts_with("ambiguous gene name 'a': several genes of 'd0' (4 genes)"), "{error}");
        let first = get(WantedGenes::Intersection, Duplicates::First).unwrap();
        assert_eq!(names(&first), ["a", "b"]);
        assert_eq!(first.mapping(0).unwrap().unwrap().pairs(), [(0, 0), (1, 1)]);
        assert_eq!(first.mapping(3).unwrap().unwrap().pairs(), [(0, 1), (1, 0)]);
        let sum = get(WantedGenes::Union, Duplicates::Sum).unwrap();
        assert_eq!(sum.mapping(0).unwrap().unwrap().pairs(), [(0, 0), (1, 1), (3, 0)]);
        assert_eq!(sum.mapping(0).unwrap().unwrap().first_columns(2), [Some(0), Some(1)]);
        assert_eq!(names(&get(WantedGenes::Intersection, Duplicates::Drop).unwrap()), ["b"]);
        let dropped = get(WantedGenes::Names(vec!["a".into(), "b".into()]), Duplicates::Drop).unwrap();
        assert_eq!(dropped.mapping(0).unwrap().unwrap().pairs(), [(1, 1)]);
        assert!(get(WantedGenes::Names(vec!["b".into()]), Duplicates::Error).is_ok());
        assert!(dropped.mapping(7).is_err());
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let groups = [group(0, &[Some("a")]), group(1, &[Some("b")])];
        let get = |wanted| resolve(&request(wanted, Duplicates::Error), &groups, || Ok(vec![group(2, &[Some("z")])]));
        let text = |wanted| get(wanted).unwrap_err().to_string();
        assert!(text(WantedGenes::All).contains("2 different feature spaces:\n  - 'd0' (1 genes)\n  - 'd1'"));
        assert!(text(WantedGenes::Intersection).contains("no gene in common: 'd0' (1 genes) with 'a'; 'd1'"));
        assert!(text(WantedGenes::Names(vec!["a".into(), "a".into()])).contains("'a' more than once"));
        assert!(text(WantedGenes::Names(vec!["A".into()])).contains("unknown gene 'A' (nearest: 'a')"));
        assert_eq!(get(WantedGenes::Names(vec!["z".into()])).unwrap().n_genes, 1);
        assert_eq!(get(WantedGenes::Names(vec![])).unwrap().n_genes, 0);
    }

    proptest! {
        #[test]
        fn columns_have_the_names_of_their_outputs(
            spaces in prop::collection::vec(prop::collection::vec(prop::option::weighted(0.9, 0_u8..9), 0..12), 1..4),
            mode in 0_usize..3, union: bool,
        ) {
            let duplicates = [Duplicates::First, Duplicates::Sum, Duplicates::Drop][mode];
            let named = |space: &Vec<Option<u8>>| FeatureSpace::new(space.iter().map(|n| n.map(|n| format!("g{n}"))));
            let groups: Vec<Group> = (0..).zip(&spaces)
                .map(|(i, space)| Group { parts: vec![(i, format!("d{i}"))], space: Arc::new(named(space)) })
                .collect();
            let wanted = if union { WantedGenes::Union } else { WantedGenes::Intersection };
            let Ok(genes) = resolve(&request(wanted, duplicates), &groups, || Ok(Vec::new())) else {
                prop_assert!(!union);
                return Ok(());
            };
            let names = names(&genes);
            for (number, space) in (0..).zip(&spaces) {
                let identity: Vec<(u32, u32)> = (0..u32::try_from(space.len()).unwrap()).map(|at| (at, at)).collect();
                let pairs = genes.mapping(number).unwrap().map_or(&identity[..], Mapping::pairs);
                for (output, name) in (0_u32..).zip(&names) {
                    let here: Vec<u32> = (0..).zip(space).filter(|(_, n)| n.map(|n| format!("g{n}")).as_deref() == Some(name)).map(|(at, _)| at).collect();
                    let expected = match duplicates {
                        Duplicates::Drop if here.len() > 1 => &[],
                        Duplicates::First => &here[..here.len().min(1)],
                        _ => &here[..],
                    };
                    let found: Vec<u32> = pairs.iter().filter(|&&(_, to)| to == output).map(|&(column, _)| column).collect();
                    prop_assert_eq!(&found[..], expected);
                }
            }
        }
    }
}
