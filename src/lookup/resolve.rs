//! Requests resolved in an open store: the columns of each part, or the reason why it cannot be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Lookup, LookupRequest, Shape, WantedNumbers};
use crate::error::{DaoError, ErrorKind, Result};
use crate::genes::{FeatureSpace, Group, Rule, missing, unknown};
use crate::number::Dtype;
use crate::read::{Normalize, OpenStore};
use crate::store::{MatrixName, Part};

impl Lookup {
    /// The meaning of a request in the store of `source`.
    ///
    /// # Errors
    /// `Key` for genes, a layer or a column of var that no part has; `Value` for sets that mean something nowhere.
    /// What is wrong with some parts alone is told where their cells are met.
    pub fn new(source: &Arc<OpenStore>, request: &LookupRequest) -> Result<Self> {
        let matrix = request.matrix();
        check_layer(&source.store().manifest().parts, &matrix)?;
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

    /// Finds the wanted numbers of each part.
    fn resolve_genes(&mut self, request: &LookupRequest) -> Result<()> {
        let (source, gene_key) = (self.source.clone(), request.gene_key.as_deref());
        let (store, spaces) = (source.store(), source.spaces());
        let parts = &store.manifest().parts;
        let alone = || parts.iter().map(|part| vec![part]).collect();
        let by_part = request.sets.iter().any(|set| matches!(set.rule, Rule::Column(_) | Rule::Members(_)));
        // Where the genes of one cannot be read, that is told where its cells are met, and those of the others are.
        let groups =
            if by_part { alone() } else { spaces.by_space(store, parts, gene_key).unwrap_or_else(|_| alone()) };
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
            self.wanted.extend(members.iter().map(|part| (part.number, numbers.clone())));
        }
        // A part that cannot be read may have the column.
        if let (Some(first), [], None) = (parts.first(), &named[..], self.errors().next()) {
            spaces.space(store, first, gene_key)?;
        }
        self.check_names(&request.names, &named)?;
        self.check_sets(request, &named)
    }

    /// Refuses names that no part has.
    fn check_names(&self, names: &[String], groups: &[Group]) -> Result<()> {
        let missing = missing(names, groups);
        if missing.is_empty() {
            return Ok(());
        }
        // A part that could not be read may have them.
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

fn check_layer(parts: &[Part], matrix: &MatrixName) -> Result<()> {
    let MatrixName::Layer(layer) = matrix else { return Ok(()) };
    let there: BTreeSet<&String> = parts.iter().flat_map(|part| part.layers.iter()).collect();
    if there.contains(layer) {
        return Ok(());
    }
    let known: Vec<String> = there.into_iter().map(|name| format!("'{name}'")).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(DaoError::new(ErrorKind::Key, format!("no dataset has a layer '{layer}'; there are: {known}")))
}

/// The number type that is asked for, or the stored one, of all parts together.
fn number_type(source: &OpenStore, request: &LookupRequest, matrix: &MatrixName) -> Result<Dtype> {
    if request.shape == Shape::Sums {
        return Ok(Dtype::F64);
    }
    if let Some(name) = &request.dtype {
        return Dtype::from_name(name);
    }
    let mut stored = Vec::new();
    for part in &source.store().manifest().parts {
        stored.extend(match matrix {
            MatrixName::X => part.dtype,
            _ => source.store().description(part)?.matrices.get(matrix).and_then(|matrix| matrix.dtype),
        });
    }
    Ok(Dtype::common(&stored).unwrap_or(Dtype::F32))
}

/// The numbers that are wanted of the parts of a group; `part` is the first of them.
fn wanted_numbers(source: &OpenStore, request: &LookupRequest, part: &Part, group: &Group) -> Result<WantedNumbers> {
    if request.shape != Shape::Sums {
        return group.mapping(&request.names, request.duplicates).map(WantedNumbers::Genes);
    }
    let mut masks = vec![0_u64; group.space.len()];
    for (bit, set) in request.sets.iter().enumerate() {
        let marks = |column: &str| source.spaces().marks(source.store(), part, column);
        for (mask, member) in masks.iter_mut().zip(set.members(&part.address(), &group.space, marks)?) {
            *mask |= u64::from(member) << bit;
        }
    }
    Ok(WantedNumbers::Sums(masks))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::genes::testing::{open, write_part};

    /// A store of two parts with one gene in common.
    fn store() -> (tempfile::TempDir, Arc<OpenStore>) {
        let folder = tempfile::tempdir().unwrap();
        write_part(folder.path(), "a", &[Some("x"), Some("MT-y"), None]);
        write_part(folder.path(), "b", &[Some("z"), Some("x"), Some("z")]);
        let store = Arc::new(OpenStore::new(open(folder.path())));
        (folder, store)
    }

    fn request(shape: &str, more: Value) -> LookupRequest {
        let mut request = json!({"shape": shape, "duplicates": "error"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(request).unwrap()
    }

    fn pairs(lookup: &Lookup, number: u32) -> Vec<(u32, u32)> {
        match lookup.wanted[&number].as_deref().unwrap() {
            WantedNumbers::Genes(mapping) => mapping.pairs().to_vec(),
            WantedNumbers::Sums(_) => Vec::new(),
        }
    }

    #[test]
    fn names_are_columns_of_each_part() {
        let (_folder, store) = store();
        let resolve = |shape, more| Lookup::new(&store, &request(shape, more));
        let lookup = resolve("struct", json!({"names": ["MT-y", "x"]})).unwrap();
        assert_eq!((pairs(&lookup, 0), pairs(&lookup, 1)), (vec![(0, 1), (1, 0)], vec![(1, 1)]));
        assert_eq!((lookup.dtype, lookup.width, lookup.together, lookup.is_lasting()), (Dtype::U16, 2, false, true));
        let lookup = resolve("array", json!({"names": ["X"], "gene_key": "symbol", "dtype": "float64"})).unwrap();
        assert_eq!((pairs(&lookup, 0), lookup.dtype, lookup.together), (vec![(0, 0)], Dtype::F64, true));
        // What is wrong with one part is told where its cells are met.
        let lookup = resolve("one", json!({"names": ["z"]})).unwrap();
        assert_eq!(pairs(&lookup, 0), []);
        assert!(lookup.wanted[&1].as_ref().unwrap_err().to_string().contains("ambiguous gene name 'z'"));
        assert!(lookup.read(&[0, 8], Dtype::U16, Some(1)).is_ok());
        assert!(lookup.read(&[0, 1 << 32], Dtype::U16, Some(1)).err().unwrap().to_string().contains("ambiguous"));
        assert!(lookup.read(&[9], Dtype::U16, Some(1)).err().unwrap().to_string().contains("names row 9"));
        assert!(lookup.read(&[2 << 32], Dtype::U16, Some(1)).is_err());
    }

    #[test]
    fn what_no_part_has_is_an_error() {
        let (_folder, store) = store();
        for (more, kind, what) in [
            (
                json!({"names": ["X"]}),
                ErrorKind::Key,
                "unknown gene 'X' (nearest: 'x'): in no dataset of the store, such as 'a'",
            ),
            (
                json!({"names": ["x"], "gene_key": "no"}),
                ErrorKind::Key,
                "gene_key='no' is no column of var in dataset 'a'",
            ),
            (json!({"names": ["x"], "layer": "raw"}), ErrorKind::Key, "no dataset has a layer 'raw'; there are: none"),
            (json!({"names": ["x"], "dtype": "text"}), ErrorKind::Value, "'text' is not a number type"),
        ] {
            let error = Lookup::new(&store, &request("one", more)).err().unwrap();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    #[test]
    fn sets_are_bits_of_columns() {
        let (_folder, store) = store();
        let resolve = |sets| Lookup::new(&store, &request("sums", json!({"sets": sets})));
        let masks = |lookup: &Lookup, number| match &**lookup.wanted[&number].as_ref().unwrap() {
            WantedNumbers::Sums(masks) => masks.clone(),
            WantedNumbers::Genes(_) => Vec::new(),
        };
        let lookup =
            resolve(json!([{"name": "mt", "pattern": "^MT-"}, {"name": "some", "names": ["x", "z"]}])).unwrap();
        assert_eq!((masks(&lookup, 0), masks(&lookup, 1)), (vec![2, 1, 0], vec![2, 2, 2]));
        assert_eq!((lookup.width, lookup.dtype), (4, Dtype::F64));
        let absent = |number: u32| lookup.absent(lookup.wanted[&number].as_ref().unwrap());
        assert_eq!((absent(0), absent(1)), (vec![false; 4], vec![false, false, true, false]));
        let members = json!([{"name": "s", "members": {"a": {"columns": [2]}, "b": {"refused": "no"}}}]);
        let lookup = resolve(members).unwrap();
        assert_eq!(masks(&lookup, 0), [0, 0, 1]);
        assert_eq!(lookup.wanted[&1].as_ref().unwrap_err().to_string(), "gene set 's': no");
        assert_eq!(masks(&resolve(json!([{"name": "s", "column": "mito"}])).unwrap(), 0), [0, 1, 0]);
        let error = |sets| resolve(sets).err().unwrap().to_string();
        assert!(error(json!([{"name": "s", "column": "no"}])).contains("gene set 's': dataset 'a' has no such column"));
        assert!(error(json!([{"name": "s", "pattern": "q"}])).contains("no gene of any dataset matches 'q'"));
        assert!(error(json!([{"name": "s", "pattern": "("}])).contains("is no regular expression"));
        assert!(error(json!([{"name": "s", "names": ["no"]}])).contains("unknown gene 'no'"));
    }

    #[test]
    fn what_could_not_be_read_is_tried_again() {
        let (folder, _) = store();
        std::fs::remove_file(folder.path().join("b/parquet/var.parquet")).unwrap();
        let store = Arc::new(OpenStore::new(open(folder.path())));
        let lookup = Lookup::new(&store, &request("one", json!({"names": ["x"]}))).unwrap();
        assert!(!lookup.is_lasting());
        assert_eq!(lookup.wanted[&1].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
        // The part that cannot be read may have it.
        let error = Lookup::new(&store, &request("one", json!({"names": ["q"]}))).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
