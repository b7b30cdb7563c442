//! The genes of parts that share them: their names in one column of var, in order.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use smallvec::SmallVec;

/// The names that a request for genes is matched against, and where each is.
#[derive(Debug, Default)]
pub struct FeatureSpace {
    /// The name of each gene; `None` for a null in var.
    names: Vec<Option<Arc<str>>>,
    /// The genes of each name, ascending: one, but for names that repeat.
    columns: HashMap<Arc<str>, SmallVec<[u32; 2]>>,
    id: OnceLock<String>,
}

impl FeatureSpace {
    /// A feature space of genes with these names.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = Option<String>>) -> Self {
        let names = names.into_iter().map(|name| name.map(Arc::from)).collect();
        let mut space = Self { names, ..Self::default() };
        // Genes are numbered with 31 bits.
        for (column, name) in (0..).zip(&space.names) {
            if let Some(name) = name {
                space.columns.entry(name.clone()).or_default().push(column);
            }
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

    /// The genes of a name, ascending; none for a name that is not there.
    #[must_use]
    pub fn columns(&self, name: &str) -> &[u32] {
        self.columns.get(name).map_or(&[], |columns| columns)
    }

    /// The names, each once, in the order of their first genes, and the genes of each.
    pub fn distinct(&self) -> impl Iterator<Item = (&str, &[u32])> {
        (0..).zip(&self.names).filter_map(|(column, name)| {
            let name = name.as_deref()?;
            let columns = self.columns(name);
            (columns.first() == Some(&column)).then_some((name, columns))
        })
    }

    /// The bytes that the space takes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.names.iter().flatten().map(|name| name.len() + 96).sum::<usize>() + 16 * self.names.len()
    }

    /// The id of the names and their order: see [`feature_space_id`].
    pub fn id(&self) -> &str {
        self.id.get_or_init(|| feature_space_id(self.names.iter().map(Option::as_deref)))
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
        assert_eq!(["b", "a", "c"].map(|name| space.columns(name)), [&[0, 2, 4][..], &[1], &[]]);
        assert_eq!(space.distinct().map(|(name, _)| name).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(
            (space.len(), space.id()),
            (5, &*feature_space_id([Some("b"), Some("a"), Some("b"), None, Some("b")]))
        );
    }
}
