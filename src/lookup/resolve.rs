//! Requests resolved in an open store: the columns of each dataset, or the reason why it cannot be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Lookup, LookupRequest, Shape, WantedNumbers};
use crate::error::{DaoError, ErrorKind, Result};
use crate::genes::{FeatureSpace, Group, Rule, missing, unknown};
use crate::number::Dtype;
use crate::read::{Normalize, OpenStore};
use crate::store::{Dataset, MatrixName};

impl Lookup {
    /// The meaning of a request in the store of `source`.
    ///
    /// # Errors
    /// `Key` for genes, a layer or a column of var that no dataset has; `Value` for sets that mean something nowhere.
    /// What is wrong with some datasets alone is told where their cells are met.
    pub fn new(source: &Arc<OpenStore>, request: &LookupRequest) -> Result<Self> {
        let matrix = request.matrix();
        check_layer(&source.store().manifest().datasets, &matrix)?;
        let mut lookup = Self {
            source: source.clone(),
            dtype: number_type(source, request, &matrix)?,
            matrix,
            normalize: request.normalize.map(|(target_sum, log1p)| Normalize { target_sum, log1p }),
            width: if request.shape == Shape::Sums { 2 + request.sets.len() } else { request.names.len() },
            together: request.shape == Shape::Array,
            wanted: BTreeMap::new(),
        };
        lookup.resolve_genes(request)?;
        Ok(lookup)
    }

    /// Whether the lookup stays right as long as the store is as it is; not where a file could not be read, since the
    /// next try may succeed.
    pub(super) fn is_lasting(&self) -> bool {
        self.errors().all(is_lasting)
    }

    fn errors(&self) -> impl Iterator<Item = &DaoError> {
        self.wanted.values().filter_map(|wanted| wanted.as_ref().err())
    }

    /// Finds the wanted numbers of each dataset.
    fn resolve_genes(&mut self, request: &LookupRequest) -> Result<()> {
        let (source, gene_key) = (self.source.clone(), request.gene_key.as_deref());
        let (store, spaces) = (source.store(), source.spaces());
        let datasets = &store.manifest().datasets;
        let alone = || datasets.iter().map(|dataset| vec![dataset]).collect();
        let by_dataset = request.sets.iter().any(|set| matches!(set.rule, Rule::Column(_) | Rule::Members(_)));
        // Where the genes of one cannot be read, that is told where its cells are met, and those of the others are.
        let groups =
            if by_dataset { alone() } else { spaces.by_space(store, datasets, gene_key).unwrap_or_else(|_| alone()) };
        let mut named = Vec::new();
        for members in groups {
            let first = members[0]; // a group has a member
            let numbers = spaces.if_there(store, first, gene_key).and_then(|space| {
                let is_named = space.is_some();
                let space = space.unwrap_or_else(|| Arc::new(FeatureSpace::new((0..first.n_vars).map(|_| None))));
                let group = Group::new(&members, space);
                let numbers = wanted_numbers(&source, request, first, &group);
                named.extend(is_named.then_some(group));
                numbers.map(Arc::new)
            });
            self.wanted.extend(members.iter().map(|dataset| (dataset.number, numbers.clone())));
        }
        // A dataset that cannot be read may have the column.
        if let (Some(first), [], None) = (datasets.first(), &named[..], self.errors().next()) {
            spaces.space(store, first, gene_key)?;
        }
        self.check_names(&request.names, &named)?;
        self.check_sets(request, &named)
    }

    /// Refuses names that no dataset has.
    fn check_names(&self, names: &[String], groups: &[Group]) -> Result<()> {
        let missing = missing(names, groups);
        if missing.is_empty() {
            return Ok(());
        }
        // A dataset that could not be read may have them.
        Err(self.errors().find(|e| !is_lasting(e)).cloned().unwrap_or_else(|| unknown(&missing, groups)))
    }

    /// Refuses sets that mean something nowhere.
    fn check_sets(&self, request: &LookupRequest, groups: &[Group]) -> Result<()> {
        let readable = self.wanted.values().flatten();
        let mut members = None;
        for wanted in readable {
            if let WantedNumbers::Sums(masks) = &**wanted {
                members = Some(masks.iter().fold(members.unwrap_or(0), |all, mask| all | mask));
            }
        }
        if request.shape == Shape::Sums
            && members.is_none()
            && let Some(error) = self.errors().next()
        {
            return Err(error.clone());
        }
        for (bit, set) in request.sets.iter().enumerate() {
            match &set.rule {
                Rule::Names(names) => self.check_names(names, groups)?,
                Rule::Pattern(pattern) if members.unwrap_or(0) >> bit & 1 == 0 => {
                    return Err(set.error(&format!(
                        "no gene of any dataset matches '{pattern}'; names are matched as they are, and gene_key= \
                        picks another column of var"
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether an error stays as long as the store is as it is.
fn is_lasting(error: &DaoError) -> bool {
    matches!(error.kind(), ErrorKind::Key | ErrorKind::Value)
}

fn check_layer(datasets: &[Dataset], matrix: &MatrixName) -> Result<()> {
    let MatrixName::Layer(layer) = matrix else { return Ok(()) };
    let there: BTreeSet<&String> = datasets.iter().flat_map(|dataset| &dataset.layers).collect();
    if there.contains(layer) {
        return Ok(());
    }
    let known: Vec<String> = there.into_iter().map(|name| format!("'{name}'")).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(DaoError::new(ErrorKind::Key, format!("no dataset has a layer '{layer}'; there are: {known}")))
}

/// The number type that is asked for, or the stored one, of all datasets together.
fn number_type(source: &OpenStore, request: &LookupRequest, matrix: &MatrixName) -> Result<Dtype> {
    if request.shape == Shape::Sums {
        return Ok(Dtype::F64);
    }
    if let Some(name) = &request.dtype {
        return Dtype::from_name(name);
    }
    let mut stored = Vec::new();
    for dataset in &source.store().manifest().datasets {
        stored.extend(match matrix {
            MatrixName::X => dataset.dtype,
            _ => source.store().description(dataset)?.matrices.get(matrix).and_then(|matrix| matrix.dtype),
        });
    }
    Ok(Dtype::common(&stored).unwrap_or(Dtype::F32))
}

/// The numbers that are wanted of the datasets of a group; `dataset` is the first of them.
fn wanted_numbers(
    source: &OpenStore,
    request: &LookupRequest,
    dataset: &Dataset,
    group: &Group,
) -> Result<WantedNumbers> {
    if request.shape != Shape::Sums {
        return group.mapping(&request.names, request.duplicates).map(WantedNumbers::Genes);
    }
    let mut masks = vec![0_u64; group.space.len()];
    for (bit, set) in request.sets.iter().enumerate() {
        let marks = |column: &str| source.spaces().marks(source.store(), dataset, column);
        for (mask, member) in masks.iter_mut().zip(set.members(&dataset.name, &group.space, marks)?) {
            *mask |= u64::from(member) << bit;
        }
    }
    Ok(WantedNumbers::Sums(masks))
}
