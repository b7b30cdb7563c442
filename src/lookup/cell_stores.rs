//! The stores that a column of cells belongs to, as the metadata of its type says them.
//!
//! Owns the form of that JSON (docs/format.md) and the check that a store which is open is the one that cells name.

use serde::Deserialize;

use crate::error::{DaoError, Result};
use crate::store::{Member, Store};

/// A store that cells belong to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct CellStore {
    /// The URI of the store when the cells were selected.
    pub uri: String,
    /// The id of the store.
    pub id: String,
    /// The version of the store, where one was asked for; otherwise it is the last one.
    #[serde(default)]
    pub version: Option<u64>,
}

/// The stores of a column of cells, in the order in which their parts are numbered: mostly one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "Metadata")]
pub struct CellStores(Vec<CellStore>);

/// The metadata of the type.
#[derive(Deserialize)]
#[serde(untagged)]
enum Metadata {
    Several { stores: Vec<CellStore> },
    One(CellStore),
}

impl TryFrom<Metadata> for CellStores {
    type Error = &'static str;

    fn try_from(metadata: Metadata) -> std::result::Result<Self, Self::Error> {
        match metadata {
            Metadata::One(store) => Ok(Self(vec![store])),
            Metadata::Several { stores } if stores.is_empty() => Err("no stores"),
            Metadata::Several { stores } => Ok(Self(stores)),
        }
    }
}

impl CellStores {
    /// These stores; not none.
    pub fn new(stores: Vec<CellStore>) -> Self {
        Self(stores)
    }

    /// Each store, with the URI at which it is now: the one that the cells name, or that in `places`.
    ///
    /// # Errors
    /// `Value` for another number of places.
    pub fn at<'a>(&'a self, places: Option<&'a [String]>) -> Result<Vec<(&'a str, &'a CellStore)>> {
        let Some(places) = places else {
            return Ok(self.0.iter().map(|store| (&store.uri[..], store)).collect());
        };
        if places.len() == self.0.len() {
            return Ok(places.iter().map(String::as_str).zip(&self.0).collect());
        }
        Err(self.other_number(places.len()))
    }

    /// Refuses a store that is not the one that the cells were selected from.
    ///
    /// # Errors
    /// `Value` for another store, another number of them or another order.
    pub fn check(&self, store: &Store) -> Result<()> {
        let members = store.members();
        if members.len() != self.0.len() {
            return Err(self.other_number(members.len()));
        }
        members.iter().zip(&self.0).try_for_each(|(member, cells)| cells.check(member))
    }

    fn other_number(&self, found: usize) -> DaoError {
        let uris: Vec<String> = self.0.iter().map(|store| format!("'{}'", store.uri)).collect();
        let (n, uris) = (uris.len(), uris.join(", "));
        let (what, hint) = if n == 1 {
            (format!("the cells are of one store, {uris}"), "open that one alone".to_owned())
        } else {
            let hint = format!(
                "to read them, open these, in this order: dao.load_store([{uris}]). To change one of them, take its cells from \
                dao.scan of it alone: a join by dataset and obs_name brings columns from one frame to the other"
            );
            (format!("the cells are of {n} stores that were opened as one, {uris}"), hint)
        };
        let stores = |n: usize| format!("{n} store{}", if n == 1 { "" } else { "s" });
        DaoError::value(what).expected(stores(n)).found(stores(found)).hint(hint)
    }
}

impl CellStore {
    /// Refuses a store that is not this one.
    ///
    /// # Errors
    /// `Value` for another store.
    pub fn check(&self, store: &Member) -> Result<()> {
        let (here, found) = (store.uri(), &store.id);
        if *found == self.id {
            return Ok(());
        }
        Err(DaoError::value(format!(
            "the cells are of store {} (at '{}' when they were selected), and '{here}' is store {found}. A store that \
            moved keeps its id: name its new place with store=; a store that was written again, or (sfaira's) got or lost \
            datasets, has new cells: make the selection again from dao.scan. Cells of both are in one frame with \
            dao.scan(['{}', '{here}'])",
            self.id, self.uri, self.uri
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(metadata: &str) -> Option<CellStores> {
        serde_json::from_str(metadata).ok()
    }

    fn cells(uri: &str, version: Option<u64>) -> CellStore {
        CellStore { uri: uri.into(), id: format!("id-{uri}"), version }
    }

    #[test]
    fn metadata_names_one_store_or_several_in_order() {
        let one = r#"{"id": "id-a", "uri": "a", "version": 3}"#;
        assert_eq!(parsed(one), Some(CellStores(vec![cells("a", Some(3))])));
        let several = r#"{"stores": [{"id": "id-b", "uri": "b"}, {"id": "id-a", "uri": "a", "version": 3}]}"#;
        let expected = CellStores(vec![cells("b", None), cells("a", Some(3))]);
        assert_eq!(parsed(several), Some(expected.clone()));
        assert_ne!(parsed(several), Some(CellStores(expected.0.iter().rev().cloned().collect())));
        for wrong in ["", "{}", r#"{"stores": []}"#, r#"{"stores": [{"uri": "a"}]}"#, r#"{"uri": "a"}"#, "[1]"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn stores_are_where_they_were_or_where_they_are_said_to_be() {
        let both = CellStores(vec![cells("b", None), cells("a", Some(3))]);
        let uris = |places: Option<&[String]>| {
            both.at(places)
                .map(|all| all.into_iter().map(|(uri, store)| format!("{uri}:{}", store.id)).collect::<Vec<_>>())
        };
        assert_eq!(uris(None).unwrap(), ["b:id-b", "a:id-a"]);
        assert_eq!(uris(Some(&["x".to_owned(), "y".to_owned()])).unwrap(), ["x:id-b", "y:id-a"]);
        let error = uris(Some(&["x".to_owned()])).unwrap_err().to_string();
        assert!(error.contains("2 stores") && error.contains("load_store(['b', 'a'])"), "{error}");
    }
}
