//! Requests resolved in an open store: the columns of each dataset, or the reason why it cannot be read.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Lookup, LookupRequest, Shape, WantedNumbers};
use crate::error::{DaoError, ErrorKind, Result};
use crate::genes::{Duplicates, FeatureSpace, GeneSet, Group, Rule, ambiguous, match_names, members, unknown};
use crate::number::Dtype;
use crate::read::OpenStore;
use crate::store::{Dataset, MatrixName};

/// A lookup, and whether it stays right as long as the store is as it is.
pub struct Resolution {
    pub lookup: Lookup,
    /// Whether the lookup may be kept; false where a file could not be read, since the next try may succeed.
    pub lasting: bool,
}

/// Resolves a request in the store of `source`.
///
/// # Errors
/// `Key` for genes, a layer or a column of var that no dataset has; `Value` for sets that mean something nowhere.
/// What is wrong with some datasets alone is told where their cells are met.
pub fn resolve(source: &Arc<OpenStore>, request: &LookupRequest) -> Result<Resolution> {
    let resolver = Resolver { source, request, sets: request.gene_sets(), duplicates: request.duplicates()? };
    resolver.check_layer()?;
    resolver.check_key()?;
    let (wanted, lasting) = resolver.wanted()?;
    let width = if request.shape == Shape::Sums { 2 + resolver.sets.len() } else { request.names.len() };
    let lookup = Lookup {
        source: source.clone(),
        matrix: request.matrix(),
        dtype: resolver.dtype()?,
        normalize: request.normalize(),
        width,
        together: request.shape == Shape::Array,
        wanted,
    };
    Ok(Resolution { lookup, lasting })
}

struct Resolver<'a> {
    source: &'a OpenStore,
    request: &'a LookupRequest,
    sets: Vec<GeneSet>,
    duplicates: Duplicates,
}

impl Resolver<'_> {
    fn datasets(&self) -> &[Dataset] {
        &self.source.store().manifest().datasets
    }

    fn gene_key(&self) -> Option<&str> {
        self.request.gene_key.as_deref()
    }

    /// The wanted numbers of each dataset, and whether they may be kept: see [`Resolution::lasting`].
    fn wanted(&self) -> Result<(HashMap<u32, Arc<WantedNumbers>>, bool)> {
        let (mut wanted, mut lasting) = (HashMap::new(), true);
        let (mut spaces, mut errors): (Vec<Group>, Vec<DaoError>) = Default::default();
        for members in self.groups() {
            let numbers = self.space(&members).and_then(|space| {
                let datasets = members.iter().map(|dataset| (dataset.number, dataset.name.clone())).collect();
                let group = Group { datasets, space };
                let wanted = self.wanted_of(members[0], &group); // a group has a member
                spaces.push(group);
                wanted
            });
            let numbers = numbers.unwrap_or_else(|error| {
                lasting &= matches!(error.kind(), ErrorKind::Key | ErrorKind::Value);
                errors.push(error.clone());
                WantedNumbers::Refused(error.to_string())
            });
            let numbers = Arc::new(numbers);
            wanted.extend(members.iter().map(|dataset| (dataset.number, numbers.clone())));
        }
        self.check_names(&self.request.names, &spaces, &errors)?;
        self.check_sets(&wanted, &spaces, &errors)?;
        Ok((wanted, lasting))
    }

    /// Groups of datasets in which a request means the same columns.
    fn groups(&self) -> Vec<Vec<&Dataset>> {
        let alone = || self.datasets().iter().map(|dataset| vec![dataset]).collect();
        if self.sets.iter().any(|set| matches!(set.rule, Rule::Column(_) | Rule::Genes(_))) {
            return alone();
        }
        // Where the genes of one cannot be read, that is told where its cells are met, and those of the others are.
        self.source.spaces().by_space(self.source.store(), self.datasets(), self.gene_key()).unwrap_or_else(|_| alone())
    }

    /// The genes of datasets in one group; all without a name where var has no column `gene_key`.
    fn space(&self, members: &[&Dataset]) -> Result<Arc<FeatureSpace>> {
        let found = self.source.spaces().if_there(self.source.store(), members[0], self.gene_key())?;
        let unnamed = || FeatureSpace::new((0..members[0].n_vars).map(|_| None));
        Ok(found.unwrap_or_else(|| Arc::new(unnamed())))
    }

    fn wanted_of(&self, dataset: &Dataset, group: &Group) -> Result<WantedNumbers> {
        if self.request.shape != Shape::Sums {
            let (mapping, repeated) = match_names(&group.space, &self.request.names, self.duplicates);
            return if repeated.is_empty() {
                Ok(WantedNumbers::Genes(mapping))
            } else {
                Err(ambiguous(&repeated, &group.to_string()))
            };
        }
        let mut masks = vec![0_u64; group.space.len()];
        for (bit, set) in self.sets.iter().enumerate() {
            for (mask, member) in masks.iter_mut().zip(self.members(set, dataset, &group.space)?) {
                *mask |= u64::from(member) << bit;
            }
        }
        Ok(WantedNumbers::Sums(masks))
    }

    /// Whether each gene of a dataset is in a set.
    fn members(&self, set: &GeneSet, dataset: &Dataset, space: &FeatureSpace) -> Result<Vec<bool>> {
        let (store, spaces) = (self.source.store(), self.source.spaces());
        match &set.rule {
            Rule::Pattern(_) | Rule::Names(_) => members(set, space),
            Rule::Column(column) => {
                let readable = |e: DaoError| match e.kind() {
                    ErrorKind::Key | ErrorKind::Value => set.error(&e.to_string()),
                    _ => e,
                };
                spaces.marks(store, dataset, column).map_err(readable)
            }
            Rule::Genes(by_dataset) => match by_dataset.get(&dataset.name) {
                Some(Ok(columns)) => {
                    let mut members = vec![false; space.len()];
                    for &column in columns {
                        *members
                            .get_mut(column as usize)
                            .ok_or_else(|| set.error("it has other genes than the dataset"))? = true;
                    }
                    Ok(members)
                }
                Some(Err(why)) => Err(set.error(why)),
                None => Err(set.error("the dataset was not there when the expression was made").at(dataset.place())),
            },
        }
    }

    /// Refuses names that no dataset has.
    fn check_names(&self, names: &[String], spaces: &[Group], errors: &[DaoError]) -> Result<()> {
        let is_known = |name: &str| spaces.iter().any(|group| group.space.first(name).is_some());
        let missing: Vec<&str> = names.iter().map(String::as_str).filter(|name| !is_known(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if let Some(error) = errors.iter().find(|e| !matches!(e.kind(), ErrorKind::Key | ErrorKind::Value)) {
            return Err(error.clone());
        }
        let such_as = spaces.first().map_or_else(|| "none".to_owned(), Group::to_string);
        Err(unknown(&missing, spaces.iter().map(|group| &*group.space), &such_as))
    }

    /// Refuses sets that mean something nowhere.
    fn check_sets(
        &self,
        wanted: &HashMap<u32, Arc<WantedNumbers>>,
        spaces: &[Group],
        errors: &[DaoError],
    ) -> Result<()> {
        let masks: Vec<&Vec<u64>> = wanted
            .values()
            .filter_map(|wanted| if let WantedNumbers::Sums(masks) = &**wanted { Some(masks) } else { None })
            .collect();
        if self.request.shape == Shape::Sums
            && masks.is_empty()
            && let Some(error) = errors.first()
        {
            return Err(error.clone());
        }
        for (bit, set) in self.sets.iter().enumerate() {
            match &set.rule {
                Rule::Names(names) => self.check_names(names, spaces, errors)?,
                Rule::Pattern(pattern) if !masks.iter().any(|masks| masks.iter().any(|mask| mask >> bit & 1 == 1)) => {
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

    fn check_key(&self) -> Result<()> {
        let Some(gene_key) = self.gene_key() else { return Ok(()) };
        let (store, spaces) = (self.source.store(), self.source.spaces());
        // A dataset that cannot be read may have the layer.
        let has =
            |dataset: &Dataset| spaces.if_there(store, dataset, Some(gene_key)).map_or(true, |space| space.is_some());
        match self.datasets().first() {
            Some(first) if !self.datasets().iter().any(has) => spaces.space(store, first, Some(gene_key)).map(drop),
            _ => Ok(()),
        }
    }

    fn check_layer(&self) -> Result<()> {
        let MatrixName::Layer(layer) = self.request.matrix() else { return Ok(()) };
        let there: BTreeSet<&String> = self.datasets().iter().flat_map(|dataset| &dataset.layers).collect();
        if there.contains(&layer) {
            return Ok(());
        }
        let known: Vec<String> = there.into_iter().map(|name| format!("'{name}'")).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(DaoError::new(ErrorKind::Key, format!("no dataset has a layer '{layer}'; there are: {known}")))
    }

    fn dtype(&self) -> Result<Dtype> {
        if self.request.shape == Shape::Sums {
            return Ok(Dtype::F64);
        }
        if let Some(dtype) = self.request.dtype()? {
            return Ok(dtype);
        }
        let matrix = self.request.matrix();
        let mut stored = Vec::new();
        for dataset in self.datasets() {
            stored.extend(match matrix {
                MatrixName::X => dataset.dtype,
                _ => self.source.store().description(dataset)?.matrices.get(&matrix).and_then(|matrix| matrix.dtype),
            });
        }
        Ok(Dtype::common(&stored).unwrap_or(Dtype::F32))
    }
}
