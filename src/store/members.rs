//! The stores that an opened store is of: one, or several that are read as one.
//!
//! Owns how the parts of several are numbered, and which store a part lies in. On disk nothing of it is to be seen: each store
//! numbers its own parts, and the upper eight bits of a number say which store it is of among those that are open together.

use std::collections::HashMap;
use std::sync::Arc;

use super::Store;
use super::manifest::{Manifest, Part};
use super::outlines::Outlines;
use crate::error::{DaoError, Result};
use crate::storage::Storage;

/// The bits of a part's number that its own store gave, where several are open as one.
const OWN_BITS: u32 = 24;
/// The most stores that are open as one.
const MOST: usize = 1 << (u32::BITS - OWN_BITS);

/// One of the stores that an opened store is of.
pub struct Member {
    /// The way to its bytes.
    pub storage: Arc<dyn Storage>,
    /// Whether sfaira wrote it: its tables are then pandas' parquet and pickles, and it has no versions.
    pub by_sfaira: bool,
    /// Its id.
    pub id: String,
    /// The number of its version.
    pub version: u64,
    /// What is known of its parts without asking for it again.
    pub(super) outlines: Outlines,
    /// The number that it gives its next part.
    next_number: u32,
}

impl Member {
    /// The only store of an opened one.
    pub fn new(storage: Arc<dyn Storage>, by_sfaira: bool, manifest: &Manifest) -> Self {
        let &Manifest { ref id, version, next_number, .. } = manifest;
        Self { storage, by_sfaira, id: id.clone(), version, outlines: Outlines::default(), next_number }
    }

    /// Its absolute path, or its URL.
    pub fn uri(&self) -> &str {
        self.storage.uri()
    }
}

impl Store {
    /// Several stores as one, whose parts follow each other in the order of the stores. A part's number has its store's place
    /// in its upper eight bits, so that those of the first are as they were. One store alone stays what it is.
    ///
    /// The manifest has their parts; what else it says is each store's own.
    ///
    /// # Errors
    /// `Value` for none, for more than 256, for a store that is there twice, and for one that has given numbers of parts past
    /// 2^24.
    pub fn join(mut stores: Vec<Self>) -> Result<Self> {
        if let [_] = stores[..] {
            return stores.pop().ok_or_else(|| DaoError::internal("a store went missing"));
        }
        check_count(stores.len())?;
        let uri = stores.iter().map(Self::uri).collect::<Vec<_>>().join(" + ");
        let id = stores.iter().map(|store| &store.manifest.id[..]).collect::<Vec<_>>().join(" + ");
        let (mut members, mut parts) = (Vec::new(), Vec::new());
        for (place, store) in (0..).zip(stores) {
            store.alone()?; // those of several would be numbered twice
            let name: Arc<str> = store.uri.into();
            for mut part in store.manifest.parts {
                if part.number >> OWN_BITS != 0 {
                    return Err(DaoError::value("a store that has had more than 2^24 parts is not opened with others")
                        .at(format!("store '{name}'"))
                        .hint("dao.copy brings its datasets into a store that numbers them anew"));
                }
                part.number |= place << OWN_BITS;
                part.store = Some(name.clone());
                parts.push(part);
            }
            members.extend(store.members);
        }
        check_different(&members)?;
        Ok(Self { members, uri, manifest: Manifest { id, parts, ..Manifest::default() } })
    }

    /// The same version of the store, to be joined with others.
    ///
    /// # Errors
    /// As [`Store::alone`].
    pub fn again(&self) -> Result<Self> {
        let &Member { ref storage, by_sfaira, .. } = self.alone()?;
        let manifest = self.manifest.clone();
        let members = vec![Member::new(storage.clone(), by_sfaira, &manifest)];
        Ok(Self { members, uri: self.uri.clone(), manifest })
    }

    /// The stores that it is of, in their order: itself, where it is one.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The one store that this is.
    ///
    /// # Errors
    /// `Value` for several that were opened as one.
    pub fn alone(&self) -> Result<&Member> {
        if let [member] = &self.members[..] {
            return Ok(member);
        }
        Err(DaoError::value(format!(
            "{} stores that were opened as one are read together; each is changed, copied and asked for its versions alone",
            self.members.len()
        ))
        .at(format!("stores '{}'", self.uri.replace(" + ", "', '")))
        .hint("open the one that you mean alone: dao.load_store(uri)"))
    }

    /// The place among the stores of the one that gave a number of a part.
    pub fn place_of(&self, number: u32) -> usize {
        if self.members.len() == 1 { 0 } else { (number >> OWN_BITS) as usize }
    }

    /// The store that a part lies in.
    pub fn member(&self, part: &Part) -> &Member {
        // A part of another store than this would be a bug; its files are then not found, or not what they should be.
        self.members.get(self.place_of(part.number)).unwrap_or(&self.members[0])
    }

    /// Whether a number was given to a part, which may be gone. sfaira's stores do not tell.
    pub fn has_given(&self, number: u32) -> bool {
        let own = if self.members.len() == 1 { number } else { number & ((1 << OWN_BITS) - 1) };
        self.members.get(self.place_of(number)).is_some_and(|member| own < member.next_number && !member.by_sfaira)
    }
}

fn check_count(n: usize) -> Result<()> {
    if n == 0 {
        return Err(DaoError::value("no stores to open").expected("one or more"));
    }
    if n > MOST {
        return Err(DaoError::value("too many stores to open as one")
            .expected(format!("at most {MOST}"))
            .found(n)
            .hint("dao.copy brings datasets of several stores into one"));
    }
    Ok(())
}

/// Refuses a store that is there twice: nothing would tell its cells apart.
fn check_different(members: &[Member]) -> Result<()> {
    let mut known: HashMap<&str, &str> = HashMap::new();
    for member in members {
        let Some(before) = known.insert(&member.id, member.uri()) else { continue };
        let one = format!("'{before}' and '{}' are one store: both have id {}", member.uri(), member.id);
        let (what, hint) = match (before == member.uri(), member.by_sfaira) {
            (true, _) => (format!("the store '{before}' is there twice"), "name each store once"),
            (false, true) => (
                one,
                "the id of a store that sfaira wrote is made of its datasets' names and cell counts; where the cells are others, \
                write those of one to a store of ours",
            ),
            (false, false) => {
                (one, "a folder that was copied is the same store still; dao.copy makes another one of its datasets")
            }
        };
        return Err(DaoError::value(what).hint(hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::testing::{part, publish};
    use super::*;
    use crate::error::ErrorKind;

    /// A test's store of parts of these numbers.
    fn store(folder: &Path, id: &str, numbers: &[u32]) -> Store {
        let parts = numbers.iter().map(|&number| Part { number, ..part(&format!("d{number}"), 3, 2) });
        publish(folder, id, parts.collect());
        Store::open(folder.to_str().unwrap(), &Vec::new(), None).unwrap()
    }

    /// Stores of these numbers of parts.
    fn stores(folder: &Path, all: &[&[u32]]) -> Vec<Store> {
        let one = |(i, numbers): (usize, &&[u32])| store(&folder.join(i.to_string()), &format!("id{i}"), numbers);
        all.iter().enumerate().map(one).collect()
    }

    fn refused(stores: Vec<Store>, what: &str) {
        let error = Store::join(stores).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().contains(what), "{error}");
    }

    #[test]
    fn parts_say_which_store_they_lie_in() {
        let folder = tempfile::tempdir().unwrap();
        let uri = |i: usize| folder.path().join(i.to_string()).to_str().unwrap().to_owned();
        let all = Store::join(stores(folder.path(), &[&[0, 5], &[2], &[0, (1 << 24) - 1]])).unwrap();
        let numbers: Vec<u32> = all.manifest().parts.iter().map(|part| part.number).collect();
        assert_eq!(numbers, [0, 5, 1 << 24 | 2, 2 << 24, 3 * (1 << 24) - 1]);
        let places: Vec<&str> = all.manifest().parts.iter().map(|part| all.member(part).uri()).collect();
        assert_eq!(places, [&uri(0), &uri(0), &uri(1), &uri(2), &uri(2)]);
        assert_eq!(all.uri(), [uri(0), uri(1), uri(2)].join(" + "));
        assert_eq!((&all.manifest().id[..], all.manifest().n_datasets()), ("id0 + id1 + id2", 5));
        let second = all.part_numbered(1 << 24 | 2).unwrap();
        assert_eq!(second.place(), format!("dataset 'd2' of store '{}'", uri(1)));
        assert_eq!(second.address(), format!("{}/d2", uri(1)));
        for (number, given) in
            [(0, true), (5, true), (6, false), (1 << 24, true), (1 << 24 | 3, false), (3 << 24, false)]
        {
            assert_eq!(all.has_given(number), given, "{number}");
        }
    }

    #[test]
    fn one_store_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let one = Store::join(stores(folder.path(), &[&[3, 1 << 30]])).unwrap();
        let numbers: Vec<u32> = one.manifest().parts.iter().map(|part| part.number).collect();
        assert_eq!((numbers, one.place_of(1 << 30), &one.manifest().id[..]), (vec![3, 1 << 30], 0, "id0"));
        assert!(one.check_writable().is_ok() && one.storage().is_ok());
        assert!(one.has_given(1 << 29) && !one.has_given(1 << 31));
        assert_eq!(one.manifest().parts[0].address(), "d3");
    }

    #[test]
    fn several_are_not_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let both = Store::join(stores(folder.path(), &[&[0], &[0]])).unwrap();
        for error in [both.check_writable().unwrap_err(), both.storage().err().unwrap()] {
            assert_eq!(error.kind(), ErrorKind::Value);
            assert!(error.to_string().contains("2 stores") && error.to_string().contains("alone"), "{error}");
        }
        refused(vec![both, store(&folder.path().join("2"), "id2", &[0])], "2 stores");
    }

    #[test]
    fn what_cannot_be_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        refused(Vec::new(), "no stores");
        refused(stores(&folder.path().join("many"), &[&[0], &[1 << 24]]), "2^24 parts");
        drop(stores(folder.path(), &[&[0], &[0]]));
        let again =
            |i: usize| Store::open(folder.path().join(i.to_string()).to_str().unwrap(), &Vec::new(), None).unwrap();
        refused(vec![again(0), again(1), again(0)], "is there twice");
        refused(vec![store(&folder.path().join("copy"), "id0", &[0]), again(0)], "are one store: both have id id0");
        assert!(check_count(MOST).is_ok());
        assert!(check_count(MOST + 1).unwrap_err().to_string().contains("at most 256"));
    }
}
