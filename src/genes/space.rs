//! The genes of datasets that share them: their names in one column of var, in order.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// The names that a request for genes is matched against, and where each is.
#[derive(Debug, Default)]
pub struct FeatureSpace {
    /// The name of each gene; `None` for a null in var.
    names: Vec<Option<Arc<str>>>,
    /// The first gene of each name.
    first: HashMap<Arc<str>, u32>,
    /// The genes of each name that repeats, ascending.
    repeated: HashMap<Arc<str>, Vec<u32>>,
}

impl FeatureSpace {
    /// A feature space of genes with these names.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = Option<String>>) -> Self {
        let mut space = Self::default();
        for name in names {
            // Genes are numbered with 31 bits.
            let at = u32::try_from(space.names.len()).unwrap_or(u32::MAX);
            let name: Option<Arc<str>> = name.map(Arc::from);
            if let Some(name) = &name {
                match space.first.get(name) {
                    Some(&first) => {
                        space.repeated.entry(name.clone()).or_insert_with(|| vec![first]).push(at);
                    }
                    None => {
                        space.first.insert(name.clone(), at);
                    }
                }
            }
            space.names.push(name);
        }
        space
    }

    /// The number of genes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether the space has no genes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The name of each gene.
    #[must_use]
    pub fn names(&self) -> &[Option<Arc<str>>] {
        &self.names
    }

    /// The first gene of a name.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<u32> {
        self.first.get(name).copied()
    }

    /// The genes of a name that repeats.
    #[must_use]
    pub fn repeats(&self, name: &str) -> Option<&[u32]> {
        self.repeated.get(name).map(Vec::as_slice)
    }

    /// Whether some name repeats.
    #[must_use]
    pub fn has_repeats(&self) -> bool {
        !self.repeated.is_empty()
    }

    /// The names, each once, in the order of their first genes.
    pub fn distinct(&self) -> impl Iterator<Item = &Arc<str>> {
        let is_first =
            |&(at, name): &(usize, &Arc<str>)| self.first.get(name).is_some_and(|&first| first as usize == at);
        self.names
            .iter()
            .enumerate()
            .filter_map(|(at, name)| Some((at, name.as_ref()?)))
            .filter(is_first)
            .map(|(_, name)| name)
    }

    /// The bytes that the space takes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.names.iter().flatten().map(|name| name.len() + 96).sum::<usize>() + 16 * self.names.len()
    }
}

/// Names an ordered var index: equal exactly where the names and their order are. The hash of the names as
/// JSON, as Python's `json.dumps` writes them.
#[must_use]
pub fn feature_space_id<'a>(names: impl IntoIterator<Item = Option<&'a str>>) -> String {
    let mut hash = Sha256::new();
    hash.update(b"[");
    for (i, name) in names.into_iter().enumerate() {
        hash.update(if i == 0 { "" } else { ", " });
        hash.update(serde_json::Value::from(name).to_string());
    }
    hash.update(b"]");
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_stores_that_were_written() {
        // The values that Python's hashlib and json.dumps(names, ensure_ascii=False) give.
        assert_eq!(feature_space_id(["g0", "g1"].map(Some)), "1aabc1bec6a094adbb058441366812e4");
        assert_eq!(feature_space_id([Some("a\"\\\n\u{1}\u{7f}é😀/"), None]), "c36dcb870b20732c552c8e6ba50b72c5");
        assert_eq!(feature_space_id([]), "4f53cda18c2baa0c0354bb5f9a3ecbe5");
    }

    #[test]
    fn repeats_and_nulls_are_known() {
        let space = FeatureSpace::new(["b", "a", "b", "", "b"].map(|n| (!n.is_empty()).then(|| n.to_owned())));
        assert_eq!((space.first("b"), space.first("a"), space.first("c")), (Some(0), Some(1), None));
        assert_eq!((space.repeats("b"), space.repeats("a")), (Some(&[0, 2, 4][..]), None));
        assert_eq!(space.distinct().map(|name| &**name).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(space.len(), 5);
    }
}
