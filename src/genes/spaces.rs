//! The feature spaces of an open store's parts, read when first needed, and kept.

use std::collections::HashMap;
use std::sync::Arc;

use moka::sync::Cache;

use super::resolve::{Group, resolve};
use super::{Duplicates, FeatureSpace, GeneRequest, Genes, WantedGenes, listed, quoted};
use crate::error::{DaoError, ErrorKind, Result};
use crate::store::{INDEX, Part, Store, VarColumn, VarTable};

/// The most bytes of names that are kept in memory.
const KEPT: u64 = 128 << 20;

/// The feature spaces of an open store's parts, by a part's number and a column of its var, or by the id of a
/// feature space alone; `None` where there is no such column.
pub struct FeatureSpaces(Cache<(Option<u32>, String), Option<Arc<FeatureSpace>>>);

impl Default for FeatureSpaces {
    fn default() -> Self {
        let weight = |_: &_, space: &Option<Arc<FeatureSpace>>| {
            space.as_ref().map_or(1, |space| u32::try_from(space.bytes()).unwrap_or(u32::MAX))
        };
        Self(Cache::builder().weigher(weight).max_capacity(KEPT).build())
    }
}

impl FeatureSpaces {
    /// The id of a part's feature space: two are equal exactly where the genes and their order are.
    ///
    /// # Errors
    /// As [`Store::var`], for a part whose manifest does not name it.
    pub fn id(&self, store: &Store, part: &Part) -> Result<String> {
        if part.feature_space.is_empty() {
            return Ok(self.space(store, part, None)?.id().to_owned());
        }
        Ok(part.feature_space.clone())
    }

    /// A part's genes by the names in the column `gene_key` of var; `None` for the index.
    ///
    /// # Errors
    /// `Key` if there is no such column, `Value` if it holds no names, and as [`Store::var`].
    pub fn space(&self, store: &Store, part: &Part, gene_key: Option<&str>) -> Result<Arc<FeatureSpace>> {
        if let Some(space) = self.if_there(store, part, gene_key)? {
            return Ok(space);
        }
        let (column, name) = (quoted(gene_key.unwrap_or(INDEX)), quoted(&part.address()));
        Err(no_column(&format!("gene_key={column} is no column of var in dataset {name}"), &store.var(part)?))
    }

    /// A part's genes as [`FeatureSpaces::space`] gives them; `None` where there is no such column.
    ///
    /// # Errors
    /// As [`FeatureSpaces::space`].
    pub fn if_there(&self, store: &Store, part: &Part, gene_key: Option<&str>) -> Result<Option<Arc<FeatureSpace>>> {
        let column = gene_key.unwrap_or(INDEX);
        let key = match gene_key {
            None if !part.feature_space.is_empty() => (None, part.feature_space.clone()),
            _ => (Some(part.number), column.to_owned()),
        };
        if let Some(known) = self.0.get(&key) {
            return Ok(known);
        }
        let names = store.var(part)?.column(column).map_err(|e| e.at(part.place()))?;
        let space = names.map(|column| match column {
            VarColumn::Names(names) => FeatureSpace::new(names),
            VarColumn::Marks(marks) => FeatureSpace::new(marks.into_iter().map(|mark| Some(mark?.to_string()))),
        });
        let space = space.map(Arc::new);
        self.0.insert(key, space.clone());
        Ok(space)
    }

    /// Whether a Boolean column of var marks each gene of a part; a null does not.
    ///
    /// # Errors
    /// `Key` if there is no such column, `Value` if it is not Boolean, and as [`Store::var`].
    pub fn marks(&self, store: &Store, part: &Part, column: &str) -> Result<Vec<bool>> {
        let table = store.var(part)?;
        match table.column(column).map_err(|e| e.at(part.place()))? {
            Some(VarColumn::Marks(marks)) => Ok(marks.into_iter().map(|mark| mark == Some(true)).collect()),
            Some(VarColumn::Names(names)) => {
                let first = listed(names.iter().flatten().map(String::as_str).next());
                Err(DaoError::value(format!("column {} of var is not Boolean", quoted(column)))
                    .at(part.place())
                    .expected(format!("true or false for each of {} genes", names.len()))
                    .found(format!("values such as {first}")))
            }
            None => {
                let what = format!("dataset {} has no such column of var: {}", quoted(&part.address()), quoted(column));
                Err(no_column(&what, &table))
            }
        }
    }

    /// The parts grouped by feature space; each alone where another column of var is matched, which may
    /// differ where the index does not.
    ///
    /// # Errors
    /// As [`FeatureSpaces::id`].
    pub fn by_space<'a>(
        &self,
        store: &Store,
        parts: impl IntoIterator<Item = &'a Part>,
        gene_key: Option<&str>,
    ) -> Result<Vec<Vec<&'a Part>>> {
        let (mut groups, mut known): (Vec<Vec<&Part>>, HashMap<String, usize>) = Default::default();
        for part in parts {
            let at = match gene_key {
                Some(_) => groups.len(),
                None => *known.entry(self.id(store, part)?).or_insert(groups.len()),
            };
            match groups.get_mut(at) {
                Some(group) => group.push(part),
                None => groups.push(vec![part]),
            }
        }
        Ok(groups)
    }

    /// The genes that a request means in the parts `numbers`; none for a selection without cells, in which a
    /// request means what it means in the whole store, and all genes are those of any of its datasets.
    ///
    /// # Errors
    /// As [`resolve`] and [`FeatureSpaces::space`], and `Value` for a number that the store does not have.
    pub fn genes(&self, store: &Store, numbers: &[u32], request: &GeneRequest) -> Result<Genes> {
        let gene_key = request.gene_key.as_deref();
        let all = &store.manifest().parts;
        let parts: Vec<&Part> = match numbers {
            [] => all.iter().collect(),
            _ => numbers.iter().map(|&number| store.part_numbered(number)).collect::<Result<_>>()?,
        };
        let groups = self.by_space(store, parts.iter().copied(), gene_key)?;
        if request.wanted == WantedGenes::All && gene_key.is_none() && groups.len() <= 1 {
            let n_vars = parts.first().map_or(0, |part| part.n_vars);
            let n_genes = usize::try_from(n_vars).map_err(|_| DaoError::value("more genes than memory holds"))?;
            return Ok(Genes::all(parts.iter().map(|part| part.number), n_genes));
        }
        if request.wanted == WantedGenes::All && numbers.is_empty() {
            let spaces = groups.into_iter().map(|members| {
                let space = self.if_there(store, members[0], gene_key)?; // a group has a member
                Ok(space.map(|space| Group::new(&members, space)))
            });
            let spaces = spaces.filter_map(Result::transpose).collect::<Result<Vec<_>>>()?;
            let (wanted, duplicates) = (WantedGenes::Union, Duplicates::First);
            let request = GeneRequest { wanted, duplicates, ..request.clone() };
            return resolve(&request, &spaces, || Ok(Vec::new()));
        }
        // A group has a member.
        let read = |members: Vec<&Part>| Ok(Group::new(&members, self.space(store, members[0], gene_key)?));
        let groups = groups.into_iter().map(read).collect::<Result<Vec<_>>>()?;
        resolve(request, &groups, || {
            let here: Vec<u32> = parts.iter().map(|part| part.number).collect();
            let others = all.iter().filter(|part| !here.contains(&part.number));
            let others = self.by_space(store, others, gene_key)?.into_iter().map(|members| {
                let space = self.if_there(store, members[0], gene_key)?;
                Ok(space.map(|space| Group::new(&members, space)))
            });
            others.filter_map(Result::transpose).collect()
        })
    }
}

fn no_column(what: &str, table: &VarTable) -> DaoError {
    let known: Vec<String> = table.names().into_iter().map(quoted).collect();
    DaoError::new(ErrorKind::Key, format!("{what}; its columns: {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::super::Mapping;
    use super::super::testing::{open, write_part};
    use super::*;

    /// Two parts of one feature space, and one of another.
    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        write_part(folder.path(), "a", &[Some("x"), Some("MT-y"), None]);
        write_part(folder.path(), "b", &[Some("x"), Some("MT-y"), None]);
        write_part(folder.path(), "c", &[Some("z"), Some("x"), Some("z")]);
        let store = open(folder.path());
        (folder, store)
    }

    fn request(wanted: WantedGenes, gene_key: Option<&str>) -> GeneRequest {
        GeneRequest { wanted, gene_key: gene_key.map(str::to_owned), duplicates: Duplicates::Error }
    }

    #[test]
    fn parts_of_the_same_names_share_a_space() {
        let (_folder, store) = store();
        let spaces = FeatureSpaces::default();
        let by_space = |gene_key| {
            let groups = spaces.by_space(&store, &store.manifest().parts, gene_key).unwrap();
            groups.iter().map(|group| group.iter().map(|part| part.number).collect()).collect::<Vec<Vec<u32>>>()
        };
        assert_eq!(by_space(None), [vec![0, 1], vec![2]]);
        assert_eq!(by_space(Some("symbol")), [[0], [1], [2]]);
        let part = |number| store.part_numbered(number).unwrap();
        assert_eq!(spaces.id(&store, part(0)).unwrap(), spaces.id(&store, part(1)).unwrap());
        assert_ne!(spaces.id(&store, part(0)).unwrap(), spaces.id(&store, part(2)).unwrap());
    }

    #[test]
    fn columns_of_var_are_names_or_marks() {
        let (folder, store) = store();
        let (spaces, first) = (FeatureSpaces::default(), store.part("a").unwrap());
        let names = |key| -> Vec<Option<String>> {
            let space = spaces.space(&store, first, key).unwrap();
            space.names().iter().map(|name| name.as_deref().map(str::to_owned)).collect()
        };
        let text = |texts: [&str; 3]| texts.map(|text| (!text.is_empty()).then(|| text.to_owned()));
        assert_eq!(names(None), text(["x", "MT-y", ""]));
        assert_eq!(names(Some("symbol")), text(["X", "MT-Y", ""]));
        assert_eq!(names(Some("mito")), text(["false", "true", "false"]));
        assert_eq!(names(Some("day")), text(["1970-01-01", "1970-01-02", "1970-01-03"]));
        assert_eq!(spaces.marks(&store, first, "mito").unwrap(), [false, true, false]);
        assert!(spaces.if_there(&store, first, Some("no")).unwrap().is_none());
        let error = spaces.space(&store, first, Some("no")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        assert!(
            error.to_string().contains("gene_key='no' is no column of var in dataset 'a'; its columns: 'var_name'")
        );
        let error = spaces.marks(&store, first, "no").unwrap_err().to_string();
        assert!(error.contains("dataset 'a' has no such column of var: 'no'"), "{error}");
        let error = spaces.marks(&store, first, "symbol").unwrap_err().to_string();
        assert!(error.contains("'symbol' of var is not Boolean") && error.contains("values such as 'X'"), "{error}");
        // What was read once is not read again.
        std::fs::remove_file(folder.path().join("a/parquet/var.parquet")).unwrap();
        assert_eq!(names(None), text(["x", "MT-y", ""]));
        assert_eq!(spaces.marks(&store, first, "mito").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn requests_mean_columns_of_parts() {
        let (_folder, store) = store();
        let spaces = FeatureSpaces::default();
        let genes = |numbers: &[u32], wanted, key| spaces.genes(&store, numbers, &request(wanted, key));
        let names = |names: &[&str]| WantedGenes::Names(names.iter().map(|&name| name.to_owned()).collect());
        let all = genes(&[0, 1], WantedGenes::All, None).unwrap();
        assert_eq!((all.n_genes, all.mapping(1).unwrap()), (3, None));
        assert!(genes(&[0, 2], WantedGenes::All, None).unwrap_err().to_string().contains("2 different feature spaces"));
        let found = genes(&[2, 0], names(&["MT-y", "x"]), None).unwrap();
        assert_eq!(found.mapping(0).unwrap().map(Mapping::pairs), Some(&[(0, 1), (1, 0)][..]));
        assert_eq!(found.mapping(2).unwrap().map(Mapping::pairs), Some(&[(1, 1)][..]));
        assert!(found.mapping(1).is_err());
        // A name that only another part of the store has is known.
        assert_eq!(genes(&[2], names(&["MT-y"]), None).unwrap().n_genes, 1);
        assert_eq!(genes(&[2], names(&["no"]), None).unwrap_err().kind(), ErrorKind::Key);
        assert!(genes(&[2], names(&["z"]), None).unwrap_err().to_string().contains("ambiguous gene name 'z'"));
        assert_eq!(genes(&[0], names(&["MT-Y"]), Some("symbol")).unwrap().names.unwrap(), ["MT-Y"]);
        let mut anywhere = genes(&[], WantedGenes::All, None).unwrap().names.unwrap();
        anywhere.sort_unstable();
        assert_eq!(anywhere, ["MT-y", "x", "z"]);
        assert!(genes(&[7], WantedGenes::All, None).is_err());
    }
}
