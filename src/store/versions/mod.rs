//! Versions as files: `dao.json`, written once, and `versions/<number>.json`, one a version, never changed.
//!
//! A version is made by creating its file, which must not exist before: see [`commit`]. It lists all parts, or those that
//! differ from an older version that does, its base: many versions of many datasets stay small, and none needs a third file
//! to be read. `versions/latest` has a number from which on to look for the last one; it may be an older one's.
//!
//! `draft` makes one, `record` says what made it, `edit` what edits do to parts, `lease` who is writing (`heartbeat`: on
//! buckets), and `vacuum` removes what nothing names.

mod draft;
mod edit;
mod heartbeat;
mod lease;
mod record;
mod vacuum;

use std::collections::{BTreeMap, HashMap};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::categories::{Categories, ColumnCategories};
use super::files::missing;
use super::manifest::{Manifest, Part, with_shared_parts};
use super::versioned;
use crate::error::{DaoError, ErrorKind, Result};
use crate::storage::{Storage, Together};
pub use draft::{Draft, commit};
pub use edit::{describe, listed};
pub use lease::Lease;
pub use record::{Record, SourceFile};
pub use vacuum::Vacuumed;

/// File of a store that says its format and its id.
pub const STORE_FILE: &str = "dao.json";
/// Folder of the versions.
pub const VERSIONS: &str = "versions";
/// File with the number of a version that was the last one.
const LATEST: &str = "versions/latest";
/// `format` of a store's `dao.json`.
const STORE_FORMAT: &str = "dao-store";
/// `format` of a version.
const VERSION_FORMAT: &str = "dao-version";

/// What `dao.json` says.
#[derive(Serialize, Deserialize)]
struct Identity {
    id: String,
}

/// A version, as its file has it.
#[derive(Serialize, Deserialize)]
struct VersionFile {
    /// The store's id.
    store: String,
    number: u64,
    /// The version that has all parts that are not listed here; none where all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<u64>,
    /// How many parts the versions since the base, this one among them, list together.
    since_base: usize,
    oldest: u64,
    next_number: u32,
    #[serde(flatten)]
    record: Record,
    /// The numbers of datasets and cells of the version.
    n_datasets: usize,
    n_obs: u64,
    #[serde(deserialize_with = "with_shared_parts")]
    parts: Vec<Part>,
    /// The numbers of the parts that the base has and this version has not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gone: Vec<u32>,
    /// The columns that differ from those of the base; nothing for those that are gone.
    categories: BTreeMap<String, Option<ColumnCategories>>,
}

/// A version and what it was made of, without its parts.
#[derive(Debug, Deserialize)]
pub struct Summary {
    pub number: u64,
    #[serde(flatten)]
    pub record: Record,
    pub n_datasets: u64,
    pub n_obs: u64,
    oldest: u64,
}

/// The file of a version, relative to the store.
pub fn version_path(number: u64) -> String {
    format!("{VERSIONS}/{number:010}.json")
}

/// The number of a version's file.
pub fn number_of(path: &str) -> Option<u64> {
    path.strip_prefix(VERSIONS)?.strip_prefix('/')?.strip_suffix(".json")?.parse().ok()
}

/// The number of the last version; `None` for a store that has none.
///
/// # Errors
/// What the storage fails with.
pub fn latest(storage: &dyn Storage) -> Result<Option<u64>> {
    let has = |number| storage.size(&version_path(number)).map(|size| size.is_some());
    let hint = hint(storage)?;
    let mut last = match hint {
        // The hint is one of a version that is there, but where it is older than what vacuum left.
        Some(hint) if has(hint)? => hint,
        // Plain HTTP cannot list; a store that has but its first versions is found all the same.
        _ => {
            let listed = match storage.list_files(VERSIONS) {
                // Taken for a store without versions, it would get a first one beside those that it has.
                Err(e) if storage.can_list() && e.kind() != ErrorKind::NotFound => return Err(e),
                listed => listed.unwrap_or_default(),
            };
            match listed.iter().filter_map(|(path, _)| number_of(path)).max() {
                Some(last) if hint.is_some_and(|hint| last < hint) => return Err(lost(storage, last, hint)),
                Some(last) => last,
                None if has(1)? => 1,
                None => return Ok(None),
            }
        }
    };
    while has(last + 1)? {
        last += 1;
    }
    Ok(Some(last))
}

/// Asks for the files that opening a version, or the last one, reads: those that there mostly are, together.
///
/// # Errors
/// What the storage fails with.
pub fn ask(storage: &Together, version: Option<u64>) -> Result<()> {
    let with_next = |number: u64| [version_path(number), version_path(number.saturating_add(1))];
    let Some(version) = version else {
        storage.ask(&[LATEST.to_owned()])?;
        return match hint(storage)? {
            Some(hint) => storage.ask(&with_next(hint)),
            None => Ok(()),
        };
    };
    let [this, next] = with_next(version);
    storage.ask(&[LATEST.to_owned(), this, next])
}

/// The number of the version that the hint names.
fn hint(storage: &dyn Storage) -> Result<Option<u64>> {
    Ok(storage.get(LATEST)?.and_then(|hint| std::str::from_utf8(&hint).ok()?.trim().parse::<u64>().ok()))
}

/// The error for a last version that is gone: without it the store would be an older one, silently.
fn lost(storage: &dyn Storage, last: u64, hint: Option<u64>) -> DaoError {
    missing(&format!("{}/{}", storage.uri(), version_path(hint.unwrap_or_default()))).at(format!(
        "the last version, as {LATEST} says; the last one that is there is version {last}. Remove {LATEST} if that is right"
    ))
}

/// Whether the last version is known, and names nothing that has this tag in its name: who failed to make one may remove it.
pub fn is_unnamed(storage: &dyn Storage, tag: &str) -> bool {
    let has_tag = |part: &Part| part.path.ends_with(tag) || part.description.contains(tag);
    read_latest(storage).is_ok_and(|(manifest, _)| !manifest.parts.iter().any(has_tag))
}

/// Reads a version; what it lists, or its base.
///
/// # Errors
/// `Value` for one that is not there or was written by a newer dao-polars, `Corrupt` for one that cannot be understood.
pub fn read(storage: &dyn Storage, number: u64) -> Result<Manifest> {
    read_with_base(storage, number).map(|(manifest, _)| manifest)
}

/// Reads a version, and what the next one is told apart from.
///
/// # Errors
/// As [`read`].
fn read_with_base(storage: &dyn Storage, number: u64) -> Result<(Manifest, Base)> {
    let file = read_file(storage, number)?.ok_or_else(|| no_version(storage, number))?;
    assembled(storage, file)
}

/// Refuses a version that vacuum has given up: its file may be there, as the base of others.
///
/// # Errors
/// `Value` for such a one, and as [`read`].
pub fn check_kept(storage: &dyn Storage, number: u64) -> Result<()> {
    let last = latest(storage)?.map(|last| read_file(storage, last)).transpose()?.flatten();
    if last.is_some_and(|last| number < last.oldest) { Err(no_version(storage, number)) } else { Ok(()) }
}

/// The last version, and what it was built on; version 0 of a new store where there is none.
fn read_latest(storage: &dyn Storage) -> Result<(Manifest, Option<Base>)> {
    let Some(number) = latest(storage)? else {
        return Ok((Manifest::new(), None));
    };
    read_with_base(storage, number).map(|(manifest, base)| (manifest, Some(base)))
}

/// Whether the store has a `dao.json`, and so had versions.
///
/// # Errors
/// `Value` for a store of another format version, `Corrupt` for a damaged file.
pub fn is_store(storage: &dyn Storage) -> Result<bool> {
    let Some(bytes) = storage.get(STORE_FILE)? else { return Ok(false) };
    let place = format!("{}/{STORE_FILE}", storage.uri());
    versioned::parse::<Identity>(&bytes, &place, STORE_FORMAT).map(|_| true)
}

/// The versions that are there, ascending.
///
/// # Errors
/// As [`read`].
pub fn summaries(storage: &dyn Storage) -> Result<Vec<Summary>> {
    let mut found = Vec::new();
    let Some(last) = latest(storage)? else { return Ok(found) };
    let (mut number, mut oldest) = (last, 1);
    while number >= oldest {
        let path = format!("{}/{}", storage.uri(), version_path(number));
        let summary: Summary = parsed(storage, number)?.ok_or_else(|| missing(&path))?;
        oldest = oldest.max(summary.oldest);
        found.push(summary);
        number -= 1;
    }
    found.reverse();
    Ok(found)
}

impl Manifest {
    /// The version that a file has which lists all its parts; `place` is for errors.
    ///
    /// # Errors
    /// `Value` for another format version, `Corrupt` for anything that contradicts itself or lists less.
    pub fn parse(bytes: &[u8], place: &str) -> Result<Self> {
        whole(versioned::parse(bytes, place, VERSION_FORMAT)?, place)
    }

    /// The version as a file that lists all its parts: JSON.
    pub fn to_json(&self) -> Result<String> {
        to_json(self, None)
    }
}

/// The version that others are told apart from, and how many parts these list together.
struct Base {
    number: u64,
    parts: Vec<Part>,
    categories: Categories,
    since: usize,
}

/// The error for a version that is not there.
pub fn no_version(storage: &dyn Storage, number: u64) -> DaoError {
    let there =
        match summaries(storage).map(|all| (all.first().map(|one| one.number), all.last().map(|one| one.number))) {
            Ok((Some(first), Some(last))) => format!("{first} to {last}"),
            _ => "none".to_owned(),
        };
    DaoError::value(format!("the store has no version {number}"))
        .at(format!("store '{}'", storage.uri()))
        .expected(format!("one of the versions that are there: {there}"))
}

/// What a version's file says, as far as `T` asks for it; `None` where there is no such file.
fn parsed<T: DeserializeOwned>(storage: &dyn Storage, number: u64) -> Result<Option<T>> {
    let path = version_path(number);
    let Some(bytes) = storage.get(&path)? else { return Ok(None) };
    versioned::parse(&bytes, &format!("{}/{path}", storage.uri()), VERSION_FORMAT).map(Some)
}

fn read_file(storage: &dyn Storage, number: u64) -> Result<Option<VersionFile>> {
    let Some(file) = parsed::<VersionFile>(storage, number)? else { return Ok(None) };
    if file.number != number || file.base.is_some_and(|base| base >= number) {
        let place = format!("{}/{}", storage.uri(), version_path(number));
        return Err(DaoError::corrupt(&place, "the file is that of another version")
            .expected(format!("version {number}, on an older base"))
            .found(format!("version {}, on base {:?}", file.number, file.base)));
    }
    Ok(Some(file))
}

/// The version that a file has, and what the next one is told apart from.
fn assembled(storage: &dyn Storage, file: VersionFile) -> Result<(Manifest, Base)> {
    let place = format!("{}/{}", storage.uri(), version_path(file.number));
    let Some(base) = file.base else {
        let number = file.number;
        let manifest = whole(file, &place)?;
        let (parts, categories) = (manifest.parts.clone(), manifest.categories.clone());
        return Ok((manifest, Base { number, parts, categories, since: 0 }));
    };
    let mut manifest = file.manifest();
    let base_place = format!("{}/{}", storage.uri(), version_path(base));
    let whole = read_file(storage, base)?.ok_or_else(|| missing(&base_place))?;
    let since = file.since_base;
    let whole = self::whole(whole, &base_place)?;
    if whole.id != manifest.id {
        return Err(DaoError::corrupt(&base_place, "the version is of another store")
            .expected(format!("store {}, as version {} says", manifest.id, file.number))
            .found(&whole.id));
    }
    let base = Base { number: base, parts: whole.parts.clone(), categories: whole.categories.clone(), since };
    let mut parts: BTreeMap<u32, Part> = whole.parts.into_iter().map(|part| (part.number, part)).collect();
    file.gone.iter().for_each(|number| drop(parts.remove(number)));
    parts.extend(file.parts.into_iter().map(|part| (part.number, part)));
    manifest.parts = parts.into_values().collect();
    manifest.categories = whole.categories;
    for (column, values) in file.categories {
        match values {
            Some(values) => drop(manifest.categories.0.insert(column, values)),
            None => drop(manifest.categories.0.remove(&column)),
        }
    }
    manifest.check(&place)?;
    Ok((manifest, base))
}

impl VersionFile {
    /// The version without what is told apart from its base.
    fn manifest(&self) -> Manifest {
        Manifest {
            id: self.store.clone(),
            version: self.number,
            next_number: self.next_number,
            oldest: self.oldest,
            record: self.record.clone(),
            ..Manifest::default()
        }
    }
}

/// The version that a file has which lists all its parts.
fn whole(file: VersionFile, place: &str) -> Result<Manifest> {
    if let Some(base) = file.base {
        return Err(DaoError::corrupt(place, "the version does not list all of the store's parts")
            .found(format!("version {base} as its base")));
    }
    let mut manifest = file.manifest();
    manifest.parts = file.parts;
    manifest.categories.0 =
        file.categories.into_iter().filter_map(|(column, values)| Some((column, values?))).collect();
    manifest.check(place)?;
    Ok(manifest)
}

/// The text of a version: what differs from `base`, unless what is told apart from that has become as long as it is.
fn to_json(manifest: &Manifest, base: Option<&Base>) -> Result<String> {
    let mut file = VersionFile {
        store: manifest.id.clone(),
        number: manifest.version,
        base: None,
        since_base: 0,
        oldest: manifest.oldest,
        next_number: manifest.next_number,
        record: manifest.record.clone(),
        n_datasets: manifest.n_datasets(),
        n_obs: manifest.n_obs(),
        parts: Vec::new(),
        gone: Vec::new(),
        categories: BTreeMap::new(),
    };
    if let Some(base) = base {
        let mut known: HashMap<u32, &Part> = base.parts.iter().map(|part| (part.number, part)).collect();
        let differs = |part: &&Part| known.remove(&part.number) != Some(*part);
        let parts: Vec<Part> = manifest.parts.iter().filter(differs).cloned().collect();
        let since = base.since + parts.len() + known.len();
        if since < base.parts.len() {
            let mut gone: Vec<u32> = known.into_keys().collect();
            gone.sort_unstable();
            let (old, new) = (&base.categories.0, &manifest.categories.0);
            let changed = new.iter().filter(|(column, values)| old.get(*column) != Some(*values));
            let lost = old.keys().filter(|column| !new.contains_key(*column));
            file.categories = changed.map(|(column, values)| (column.clone(), Some(values.clone()))).collect();
            file.categories.extend(lost.map(|column| (column.clone(), None)));
            let file = VersionFile { base: Some(base.number), since_base: since, parts, gone, ..file };
            return versioned::to_json(VERSION_FORMAT, &file);
        }
    }
    let all = manifest.categories.0.iter();
    file.categories = all.map(|(column, values)| (column.clone(), Some(values.clone()))).collect();
    file.parts.clone_from(&manifest.parts);
    versioned::to_json(VERSION_FORMAT, &file)
}

#[cfg(test)]
mod tests {
    use super::super::testing::part;
    use super::*;
    use crate::storage::Local;

    fn add(storage: &dyn Storage, name: &str) -> Result<Manifest> {
        let listed = Part { description: "part.json".into(), obs_name: "obs.parquet".into(), ..part(name, 3, 2) };
        commit(storage, &Record::now("write_dataset", name.into()), |manifest| {
            manifest.add(listed.clone(), &BTreeMap::new())?;
            Ok(true)
        })
    }

    #[test]
    fn a_version_is_made_of_the_last_one() {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::new(folder.path()).unwrap();
        assert_eq!(latest(&local).unwrap(), None);
        for (number, name) in (1..).zip(["a", "b", "c", "d", "e", "f", "g"]) {
            assert_eq!(add(&local, name).unwrap().version, number);
            assert_eq!(latest(&local).unwrap(), Some(number));
        }
        for (number, taken) in (1..8).zip(1..) {
            let found = read(&local, number).unwrap();
            let names: Vec<_> = found.parts.iter().map(|part| (part.number, part.name.as_str())).collect();
            let expected: Vec<_> = (0..).zip(["a", "b", "c", "d", "e", "f", "g"]).take(taken).collect();
            assert_eq!((names, found.record.message.as_str()), (expected.clone(), expected.last().unwrap().1));
        }
        let all = summaries(&local).unwrap();
        assert_eq!(
            all.iter().map(|one| (one.number, one.n_obs)).collect::<Vec<_>>(),
            (1..8).map(|n| (n, 3 * n)).collect::<Vec<_>>()
        );
        let bases: Vec<_> = (1..8).map(|number| read_file(&local, number).unwrap().unwrap().base).collect();
        assert!(bases.contains(&None) && bases.iter().any(Option::is_some), "{bases:?}");
        let error = read(&local, 8).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().contains("1 to 7"), "{error}");
    }

    #[test]
    fn a_hint_that_is_old_or_gone_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::new(folder.path()).unwrap();
        for name in ["a", "b", "c"] {
            add(&local, name).unwrap();
        }
        for hint in ["1", "", "x", "3\n"] {
            std::fs::write(folder.path().join(LATEST), hint).unwrap();
            assert_eq!(latest(&local).unwrap(), Some(3), "{hint:?}");
        }
        std::fs::remove_file(folder.path().join(version_path(3))).unwrap();
        let error = latest(&local).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("0000000003.json") && error.to_string().contains("version 2"), "{error}");
        std::fs::remove_file(folder.path().join(LATEST)).unwrap();
        assert_eq!(latest(&local).unwrap(), Some(2));
    }

    #[test]
    fn writers_that_race_all_get_in_with_numbers_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..8).map(|i| format!("d{i}")).collect();
        std::thread::scope(|scope| {
            for name in &names {
                scope.spawn(|| add(&Local::new(folder.path()).unwrap(), name).unwrap());
            }
        });
        let local = Local::new(folder.path()).unwrap();
        let found = read(&local, 8).unwrap();
        assert_eq!(found.parts.iter().map(|part| part.number).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
        let mut found: Vec<_> = found.parts.iter().map(|part| part.name.clone()).collect();
        found.sort_unstable();
        assert_eq!((found, latest(&local).unwrap()), (names, Some(8)));
    }

    #[test]
    fn a_change_that_fails_makes_no_version() {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::new(folder.path()).unwrap();
        add(&local, "a").unwrap();
        let same = commit(&local, &Record::now("x", String::new()), |_| Ok(false)).unwrap();
        assert_eq!(same.version, 1);
        let failed = commit(&local, &Record::now("x", String::new()), |_| Err(DaoError::value("no")));
        assert!(failed.is_err());
        assert_eq!((latest(&local).unwrap(), local.list_files("").unwrap().len()), (Some(1), 3));
    }
}
