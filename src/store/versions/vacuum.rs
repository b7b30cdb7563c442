//! Vacuum: removes what no kept version names, and nobody is about to name.
//!
//! What is unnamed is what writers left that died, what failed, and what older versions alone had, once these are given up.
//! In this order, so that nothing is lost: what there is, who is writing (leases), and then what is named. Whose file is there
//! has a lease by the second look, or a version by the third. Versions are given up by a version that says so, before
//! anything goes: who restores an older one, or reads it, is told.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::time::Duration;

use super::super::{Manifest, PARTS, Store, read_description};
use super::lease::{WRITING, in_writing, is_tag, now, writers};
use super::{Record, VERSIONS, commit, latest, number_of, read_with_base, summaries};
use crate::error::Result;
use crate::storage::Storage;

/// A file without its name is somebody's who is about to give it one, unless it is so old.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// The files that were removed, or would be: by their paths in the store, their sizes.
pub type Vacuumed = BTreeMap<String, u64>;

impl Store {
    /// Removes what no version from `oldest` on names; the last version stays in any case. With `dry_run`, says what
    /// it would be.
    ///
    /// # Errors
    /// `Value` for a store that is not written to, `Corrupt` for a version or a description that cannot be read: nothing
    /// is removed then.
    pub fn vacuum(&self, oldest: u64, dry_run: bool, record: &Record) -> Result<Vacuumed> {
        self.check_writable()?;
        let storage = &**self.storage()?;
        let there: BTreeMap<String, u64> = storage.list_files(PARTS)?.into_iter().collect();
        let folders = storage.local_root().map(|root| folders_below(root, PARTS));
        let listed = storage.list_files(VERSIONS)?;
        let forgotten = forgotten(storage, &listed)?;
        let (alive, dead) = writers(storage)?;
        let summaries = summaries(storage)?;
        let Some(last) = summaries.last() else { return Ok(Vacuumed::default()) };
        let oldest = oldest.min(last.number);
        if !dry_run && summaries.iter().any(|one| one.number < oldest) {
            commit(storage, record, |manifest| {
                manifest.oldest = manifest.oldest.max(oldest);
                Ok(true)
            })?;
        }
        let named = Named::by_versions_from(storage, oldest)?;
        let is_ours = |path: &str| named.may_remove(path) && !alive.iter().any(|tag| path.contains(tag.as_str()));
        let mut gone: Vacuumed = there.into_iter().filter(|(path, _)| is_ours(path)).collect();
        gone.extend(listed.into_iter().filter(|(path, _)| {
            number_of(path).is_some_and(|number| number < oldest && !named.versions.contains(&number))
        }));
        gone.extend(forgotten);
        gone.extend(dead.into_iter().map(|tag| (format!("{WRITING}/{tag}"), 0)));
        if !dry_run {
            storage.remove_files(&gone.keys().cloned().collect::<Vec<_>>())?;
            if let (Some(root), Some(folders)) = (storage.local_root(), folders) {
                remove_empty(root, &folders, is_ours);
            }
        }
        Ok(gone)
    }
}

/// Whether the last 12 characters of a name, or those before a `-` or `.` in it, are a tag.
fn has_tag(name: &str) -> bool {
    name.split(['-', '.']).skip(1).any(is_tag)
}

/// The files that never got their names, or were written to see what a server does, and whose writers are not at it.
fn forgotten(storage: &dyn Storage, versions: &[(String, u64)]) -> Result<Vec<(String, u64)>> {
    let writing = in_writing(storage)?;
    let is_nameless =
        |(path, _): &&(String, u64)| path.rsplit('/').next().is_some_and(|name| name.starts_with(".new-"));
    let nameless: Vec<_> = versions.iter().chain(&writing).filter(is_nameless).collect();
    if nameless.is_empty() {
        return Ok(Vec::new());
    }
    let (now, mut found) = (now(storage)?, Vec::new());
    for (path, size) in nameless {
        let age = storage.modified(path)?.and_then(|modified| now.duration_since(modified).ok());
        if age.is_some_and(|age| age > FORGOTTEN) {
            found.push((path.clone(), *size));
        }
    }
    Ok(found)
}

/// What versions name.
#[derive(Default)]
struct Named {
    /// The kept versions and those that they are based on.
    versions: BTreeSet<u64>,
    /// The folders of parts.
    folders: HashSet<String>,
    files: HashSet<String>,
}

impl Named {
    /// What the versions from `oldest` to the last one name.
    fn by_versions_from(storage: &dyn Storage, oldest: u64) -> Result<Self> {
        let mut named = Self::default();
        let Some(last) = latest(storage)? else { return Ok(named) };
        for number in oldest..=last {
            let (manifest, base) = read_with_base(storage, number)?;
            named.versions.extend([number, base.number]);
            named.add(storage, &manifest)?;
        }
        Ok(named)
    }

    fn add(&mut self, storage: &dyn Storage, manifest: &Manifest) -> Result<()> {
        for part in &manifest.parts {
            if self.files.insert(part.file(&part.description)) {
                let described = read_description(storage, part)?;
                self.files.extend(part.all_files(described.files).keys().map(|file| part.file(file)));
                self.folders.insert(part.path.clone());
            }
        }
        Ok(())
    }

    /// Whether a file below the folder of parts is of a writer, and none that is named: what users put there is not.
    fn may_remove(&self, path: &str) -> bool {
        let mut names = path.splitn(4, '/');
        let (Some(parts), Some(part), Some(name)) = (names.next(), names.next(), names.next()) else { return false };
        if self.files.contains(path) || !part.rsplit('-').next().is_some_and(is_tag) {
            return false;
        }
        !self.folders.contains(&format!("{parts}/{part}")) || has_tag(name)
    }
}

/// The folders below one, by their paths from `root`, what is above before what is in it. What cannot be read has none.
fn folders_below(root: &Path, above: &str) -> Vec<String> {
    let mut found = vec![above.to_owned()];
    let mut next = 0;
    while let Some(folder) = found.get(next) {
        let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
        let inside = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let inside: Vec<_> =
            inside.filter_map(|entry| Some(format!("{folder}/{}", entry.file_name().to_str()?))).collect();
        found.extend(inside);
        next += 1;
    }
    found.split_off(1)
}

/// Removes the folders that have nothing in them: any more, or because their writer died before it made the first file.
fn remove_empty(root: &Path, folders: &[String], is_ours: impl Fn(&str) -> bool) {
    // Best effort, from the inside outwards: one that has something in it stays.
    for folder in folders.iter().rev().filter(|folder| is_ours(&format!("{folder}/-"))) {
        let _ = std::fs::remove_dir(root.join(folder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_told_from_other_names() {
        assert!(is_tag("68af67944410") && !is_tag("68af6794441") && !is_tag("68AF67944410"));
        assert!(has_tag("gene_index-68af67944410") && has_tag("part-68af67944410-471f9745.json"));
        assert!(has_tag("obs-7-68af67944410.parquet") && !has_tag("obs.parquet") && !has_tag("68af67944410"));
    }

    #[test]
    fn what_is_named_or_nobodys_stays() {
        let named = Named {
            folders: ["parts/a-68af67944410".to_owned()].into(),
            files: ["parts/a-68af67944410/gene_index-9f3138675bcf/zarr.json".to_owned()].into(),
            ..Named::default()
        };
        for (path, may) in [
            ("parts/a-68af67944410/gene_index-9f3138675bcf/zarr.json", false),
            ("parts/a-68af67944410/gene_index-9f3138675bce/zarr.json", true),
            ("parts/a-68af67944410/part-9f3138675bcf-471f9745.json", true),
            ("parts/a-68af67944410/notes.txt", false),
            ("parts/b-68af67944411/obs.parquet", true),
            ("parts/mine/obs.parquet", false),
            ("parts/notes-68af67944411", false),
        ] {
            assert_eq!(named.may_remove(path), may, "{path}");
        }
    }
}
