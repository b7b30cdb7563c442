//! Requests for genes resolved in feature spaces. Pure: names in, columns out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::{Columns, FeatureSpace, grouped, listed, nearest, quoted};
use crate::error::{DaoError, ErrorKind, Result};

/// The genes that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedGenes {
    /// All genes, of datasets that share one feature space.
    All,
    /// The genes of these names, in this order.
    Names(Vec<String>),
    /// The genes that every dataset has, in the order of the first dataset.
    Intersection,
    /// The genes that any dataset has, in order of first appearance.
    Union,
}

/// The meaning of a name that several genes of one dataset have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Duplicates {
    /// The name is an error.
    #[default]
    Error,
    /// The name means the first of these genes.
    First,
    /// The name means the sum of these genes' values.
    Sum,
    /// The name means no gene, as if the dataset had none of that name.
    Drop,
}

impl Duplicates {
    /// The rule that users call `name`.
    ///
    /// # Errors
    /// `Value` for any other name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "error" => Ok(Self::Error),
            "first" => Ok(Self::First),
            "sum" => Ok(Self::Sum),
            "drop" => Ok(Self::Drop),
            _ => {
                Err(DaoError::value(format!("duplicates={}", quoted(name)))
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
    /// The meaning of names that repeat within a dataset.
    pub duplicates: Duplicates,
}

/// Datasets that share a feature space.
#[derive(Debug, Clone)]
pub struct Group {
    /// The numbers and names of the datasets.
    pub datasets: Vec<(u32, String)>,
    /// The genes that the datasets share.
    pub space: Arc<FeatureSpace>,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.datasets.iter().take(3).map(|(_, name)| quoted(name)).collect();
        f.write_str(&shown.join(", "))?;
        if self.datasets.len() > 3 {
            write!(f, " and {} more", self.datasets.len() - 3)?;
        }
        write!(f, " ({} genes)", grouped(self.space.len()))
    }
}

/// The columns of a dataset that become columns of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    n_columns: usize,
    /// Columns of the dataset, ascending, each with the output it becomes or is a part of.
    pairs: Vec<(u32, u32)>,
    sums: bool,
}

impl Mapping {
    /// Of a dataset of `n_columns` columns, these (ascending), each with its output.
    ///
    /// # Errors
    /// `Value` for columns that do not ascend, or that the dataset does not have.
    pub fn new(n_columns: usize, pairs: Vec<(u32, u32)>) -> Result<Self> {
        let ascend = pairs.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !ascend || pairs.last().is_some_and(|&(column, _)| column as usize >= n_columns) {
            return Err(DaoError::value("columns of genes do not ascend, or are none of the dataset's"));
        }
        let mut seen = HashSet::new();
        let sums = !pairs.iter().all(|&(_, output)| seen.insert(output));
        Ok(Self { n_columns, pairs, sums })
    }

    /// The columns of the dataset.
    #[must_use]
    pub fn n_columns(&self) -> usize {
        self.n_columns
    }

    /// Columns of the dataset, ascending, each with its output; an output of several is their sum.
    #[must_use]
    pub fn pairs(&self) -> &[(u32, u32)] {
        &self.pairs
    }

    /// Whether some output is the sum of several columns.
    #[must_use]
    pub fn sums(&self) -> bool {
        self.sums
    }

    /// The first column of each of `n_outputs` outputs.
    #[must_use]
    pub fn first_columns(&self, n_outputs: usize) -> Vec<Option<u32>> {
        let mut first = vec![None; n_outputs];
        for &(column, output) in self.pairs.iter().rev() {
            if let Some(first) = first.get_mut(output as usize) {
                *first = Some(column);
            }
        }
        first
    }

    /// The output of each of the dataset's columns, or -1 for none.
    #[must_use]
    pub fn targets(&self) -> Vec<i32> {
        let mut targets = vec![-1; self.n_columns];
        for &(column, output) in &self.pairs {
            if let Some(target) = targets.get_mut(column as usize) {
                *target = i32::try_from(output).unwrap_or(-1); // genes are numbered with 31 bits
            }
        }
        targets
    }

    fn is_identity(&self, n_outputs: usize) -> bool {
        self.n_columns == n_outputs
            && self.pairs.len() == n_outputs
            && (0..).zip(&self.pairs).all(|(at, &pair)| pair == (at, at))
    }
}

/// The genes of an output, and the columns of each dataset that they are.
#[derive(Debug, Clone)]
pub struct Genes {
    names: Option<Vec<Arc<str>>>,
    n_genes: usize,
    /// The mapping of each dataset, by number; `None` where its columns are the output's already.
    mappings: BTreeMap<u32, Option<Arc<Mapping>>>,
}

impl Genes {
    /// All genes of datasets that share one feature space.
    #[must_use]
    pub fn all(numbers: impl IntoIterator<Item = u32>, n_genes: usize) -> Self {
        Self { names: None, n_genes, mappings: numbers.into_iter().map(|number| (number, None)).collect() }
    }

    /// The genes of these names, where they have some, and by dataset number which columns they are.
    ///
    /// # Errors
    /// `Value` for another number of names than genes.
    pub fn new(
        names: Option<Vec<Arc<str>>>,
        n_genes: usize,
        mappings: BTreeMap<u32, Option<Arc<Mapping>>>,
    ) -> Result<Self> {
        if names.as_ref().is_some_and(|names| names.len() != n_genes) {
            return Err(DaoError::value("there are more or fewer names than genes"));
        }
        Ok(Self { names, n_genes, mappings })
    }

    /// The datasets that they were resolved for, those of the same columns together.
    #[must_use]
    pub fn by_mapping(&self) -> Vec<(Vec<u32>, Option<&Mapping>)> {
        let mut groups: Vec<(Vec<u32>, Option<&Arc<Mapping>>)> = Vec::new();
        for (&number, mapping) in &self.mappings {
            let same = groups.iter_mut().find(|(_, other)| match (other, mapping) {
                (Some(other), Some(mapping)) => Arc::ptr_eq(other, mapping),
                (other, mapping) => other.is_none() && mapping.is_none(),
            });
            match same {
                Some((numbers, _)) => numbers.push(number),
                None => groups.push((vec![number], mapping.as_ref())),
            }
        }
        groups.into_iter().map(|(numbers, mapping)| (numbers, mapping.map(|mapping| &**mapping))).collect()
    }

    /// The names of the genes, where they were matched by name.
    #[must_use]
    pub fn names(&self) -> Option<&[Arc<str>]> {
        self.names.as_deref()
    }

    /// The number of genes.
    #[must_use]
    pub fn n_genes(&self) -> usize {
        self.n_genes
    }

    /// The numbers of the datasets that the genes were resolved for.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.mappings.keys().copied()
    }

    /// The columns of a dataset that the genes are; `None` where its columns are the output's already.
    ///
    /// # Errors
    /// `Value` for a dataset that the genes were not resolved for.
    pub fn mapping(&self, number: u32) -> Result<Option<&Mapping>> {
        match self.mappings.get(&number) {
            Some(mapping) => Ok(mapping.as_deref()),
            None => Err(DaoError::value(format!("the genes were not resolved for dataset number {number}"))),
        }
    }

    /// The map from a dataset's columns to the output's; `None` where they are the same.
    ///
    /// # Errors
    /// As [`Genes::mapping`].
    pub fn columns(&self, number: u32) -> Result<Option<Columns>> {
        self.mapping(number)?.map(|mapping| Columns::new(mapping.targets(), self.n_genes)).transpose()
    }
}

/// Resolves a request in the feature spaces of some datasets, at least one. `elsewhere` are the store's others,
/// looked at for names that are in none of these: a panel of genes means the same for every selection.
///
/// # Errors
/// `Value` for several spaces where all genes are wanted, for a name that is wanted twice, and for one that
/// several genes have; `Key` for a name that no dataset has.
pub fn resolve(
    request: &GeneRequest,
    groups: &[Group],
    elsewhere: impl FnOnce() -> Result<Vec<Group>>,
) -> Result<Genes> {
    let wanted: Vec<Arc<str>> = match &request.wanted {
        WantedGenes::All => return all(groups),
        WantedGenes::Intersection | WantedGenes::Union => combined(request, groups)?,
        WantedGenes::Names(names) => {
            refuse_twice(names)?;
            refuse_unknown(names, groups, elsewhere)?;
            names.iter().map(|name| Arc::from(name.as_str())).collect()
        }
    };
    let mut mappings = BTreeMap::new();
    for group in groups {
        let (mapping, repeated) = match_names(&group.space, &wanted, request.duplicates);
        if !repeated.is_empty() {
            return Err(ambiguous(&repeated, &group.to_string()));
        }
        let mapping = (!mapping.is_identity(wanted.len())).then(|| Arc::new(mapping));
        mappings.extend(group.datasets.iter().map(|&(number, _)| (number, mapping.clone())));
    }
    Ok(Genes { n_genes: wanted.len(), names: Some(wanted), mappings })
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
    let numbers = groups.iter().flat_map(|group| group.datasets.iter().map(|&(number, _)| number));
    Ok(Genes::all(numbers, first.space.len()))
}

/// The names that every group has (intersection), or any group (union).
fn combined(request: &GeneRequest, groups: &[Group]) -> Result<Vec<Arc<str>>> {
    let dropped = request.duplicates == Duplicates::Drop;
    let has =
        |space: &FeatureSpace, name: &str| space.first(name).is_some() && !(dropped && space.repeats(name).is_some());
    if request.duplicates == Duplicates::Error
        && let Some(group) = groups.iter().find(|group| group.space.has_repeats())
    {
        let all = group.space.distinct().map(|name| &**name);
        let repeated: Vec<&str> = all.filter(|name| group.space.repeats(name).is_some()).collect();
        return Err(ambiguous(&repeated, &group.to_string()));
    }
    let names_of = |group: &Group| -> Vec<Arc<str>> {
        group.space.distinct().filter(|name| has(&group.space, name)).cloned().collect()
    };
    if request.wanted == WantedGenes::Union {
        let mut seen = HashSet::new();
        return Ok(groups.iter().flat_map(names_of).filter(|name| seen.insert(name.clone())).collect());
    }
    let mut common = groups.first().map(names_of).unwrap_or_default();
    for group in groups.iter().skip(1) {
        common.retain(|name| has(&group.space, name));
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
    Ok(common)
}

/// Refuses names that are wanted more than once.
fn refuse_twice(names: &[String]) -> Result<()> {
    let mut times: HashMap<&str, usize> = HashMap::new();
    names.iter().for_each(|name| *times.entry(name).or_default() += 1);
    let mut seen = HashSet::new();
    let twice: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| times[name] > 1 && seen.insert(*name)).collect();
    if twice.is_empty() {
        return Ok(());
    }
    let names = listed(twice);
    Err(DaoError::value(format!("genes= names {names} more than once. Name each gene once.")))
}

fn refuse_unknown(names: &[String], groups: &[Group], elsewhere: impl FnOnce() -> Result<Vec<Group>>) -> Result<()> {
    let unknown = |groups: &[&Group]| -> Vec<String> {
        let is_known = |name: &str| groups.iter().any(|group| group.space.first(name).is_some());
        names.iter().filter(|name| !is_known(name)).cloned().collect()
    };
    let here: Vec<&Group> = groups.iter().collect();
    if unknown(&here).is_empty() {
        return Ok(());
    }
    let others = elsewhere()?;
    let everywhere: Vec<&Group> = groups.iter().chain(&others).collect();
    let unknown = unknown(&everywhere);
    if unknown.is_empty() {
        return Ok(());
    }
    let such_as = everywhere.first().map_or_else(|| "none".to_owned(), |group| group.to_string());
    let names: Vec<&str> = unknown.iter().map(String::as_str).collect();
    Err(nearest::unknown(&names, everywhere.iter().map(|group| &*group.space), &such_as))
}

/// The columns of a feature space that names mean, and the names that several genes have where that is an error.
#[must_use]
pub fn match_names<'a, N: AsRef<str>>(
    space: &FeatureSpace,
    names: &'a [N],
    duplicates: Duplicates,
) -> (Mapping, Vec<&'a str>) {
    let (mut pairs, mut repeated, mut sums) = (Vec::with_capacity(names.len()), Vec::new(), false);
    for (output, name) in (0..).zip(names) {
        let name = name.as_ref();
        let Some(first) = space.first(name) else { continue };
        match (space.repeats(name), duplicates) {
            (Some(_), Duplicates::Error) => repeated.push(name),
            (Some(_), Duplicates::Drop) => {}
            (Some(all), Duplicates::Sum) => {
                sums = true;
                pairs.extend(all.iter().map(|&column| (column, output)));
            }
            (Some(_), Duplicates::First) | (None, _) => pairs.push((first, output)),
        }
    }
    pairs.sort_unstable();
    (Mapping { n_columns: space.len(), pairs, sums }, repeated)
}

/// The error for names that several genes of `place` have.
#[must_use]
pub fn ambiguous(names: &[&str], place: &str) -> DaoError {
    let s = if names.len() > 1 { "s" } else { "" };
    DaoError::new(
        ErrorKind::Value,
        format!(
            "ambiguous gene name{s} {}: several genes of {place} have it. Say with duplicates=\"first\", \"sum\" or \
            \"drop\" what that means, match on a var column with unique values, such as gene_key='gene_ids', or leave \
            it out.",
            listed(names.iter().copied())
        ),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group(number: u32, names: &[Option<&str>]) -> Group {
        let names = names.iter().map(|name| name.map(str::to_owned));
        Group { datasets: vec![(number, format!("d{number}"))], space: Arc::new(FeatureSpace::new(names)) }
    }

    fn request(wanted: WantedGenes, duplicates: Duplicates) -> GeneRequest {
        GeneRequest { wanted, gene_key: None, duplicates }
    }

    fn names(genes: &Genes) -> Vec<&str> {
        genes.names().unwrap().iter().map(|name| &**name).collect()
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
        assert_eq!(get(WantedGenes::Names(vec!["z".into()])).unwrap().n_genes(), 1);
        assert_eq!(get(WantedGenes::Names(vec![])).unwrap().n_genes(), 0);
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
                .map(|(i, space)| Group { datasets: vec![(i, format!("d{i}"))], space: Arc::new(named(space)) })
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
