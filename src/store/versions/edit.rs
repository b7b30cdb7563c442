//! What edits do to the parts of a version that is in the making.

use std::sync::Arc;

use super::super::{Description, Manifest, Part, Store, checksum, read_description};
use super::{Lease, Record, commit, read};
use crate::error::{DaoError, Result};
use crate::storage::Storage;

/// The entry of a part in another version than the one that `part` is of.
///
/// # Errors
/// `Value` if it was removed meanwhile.
pub fn listed<'a>(manifest: &'a mut Manifest, part: &Part) -> Result<&'a mut Part> {
    let version = manifest.version;
    manifest.parts.iter_mut().find(|listed| listed.number == part.number).ok_or_else(|| {
        DaoError::value(format!("the dataset is no longer in the store, as of version {version}"))
            .at(part.place())
            .hint("open the store again")
    })
}

/// Gives a part a new description, in a file of its own, whose path is added to `written`: for who removes it again where
/// no version is made that names it.
///
/// # Errors
/// `Io`.
pub fn describe(
    storage: &Arc<dyn Storage>,
    part: &mut Part,
    description: &Description,
    lease: &Lease,
    written: &mut Vec<String>,
) -> Result<()> {
    // This is right before the version is made that names it.
    lease.confirm()?;
    let text = description.to_json()?;
    let crc = checksum(text.as_bytes());
    // Named by what it holds: another attempt at the same version may have another.
    let name = format!("part-{}-{}.json", lease.tag, crc.trim_start_matches("crc32c:"));
    written.push(part.file(&name));
    let mut file = storage.create(&part.file(&name))?;
    file.write(text.as_bytes())?;
    if let Some(flushing) = file.finish()? {
        flushing()?;
    }
    storage.sync(&part.path)?;
    part.bytes = description.bytes(&text) + part.outline.as_ref().map_or(0, |outline| outline.size);
    (part.description, part.checksum) = (name, Some(crc));
    Ok(())
}

impl Manifest {
    /// Gives the parts of a dataset another name; there may be none.
    pub fn rename(&mut self, old: &str, new: &str) {
        self.parts.iter_mut().filter(|part| part.name == old).for_each(|part| part.name = new.to_owned());
        self.sort();
    }

    /// Leaves the parts of a dataset out; there may be none.
    ///
    /// # Errors
    /// As [`read_description`].
    pub fn remove(&mut self, storage: &dyn Storage, name: &str) -> Result<()> {
        let (gone, kept) = std::mem::take(&mut self.parts).into_iter().partition(|part| part.name == name);
        self.parts = kept;
        let gone: Vec<Part> = gone;
        for part in &gone {
            self.categories.remove(&read_description(storage, part)?.categories);
        }
        Ok(())
    }
}

impl Store {
    /// Makes an older version the last one again: a new version like it. Numbers that were given since stay given.
    ///
    /// # Errors
    /// `Value` if there is no such version.
    pub fn restore(&self, version: u64, record: &Record) -> Result<Manifest> {
        self.check_writable()?;
        let storage = &**self.storage()?;
        let old = read(storage, version)?;
        commit(storage, record, |manifest| {
            manifest.check_kept(version)?;
            manifest.parts.clone_from(&old.parts);
            manifest.categories = old.categories.clone();
            Ok(true)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::super::FileMeta;
    use super::super::super::testing::{part, publish};
    use super::*;
    use crate::error::ErrorKind;

    /// A store of two datasets, the first of two parts; each has a category of its own.
    fn written(folder: &std::path::Path) -> Store {
        let parts = [(0, "lung"), (1, "heart"), (2, "lung")].map(|(number, name)| {
            let path = format!("parts/{number}");
            std::fs::create_dir_all(folder.join(&path)).unwrap();
            let categories = BTreeMap::from([("type".to_owned(), Some([format!("t{number}")].into()))]);
            let description = Description { n_obs: 3, n_vars: 2, categories, ..Description::default() };
            let text = description.to_json().unwrap();
            std::fs::write(folder.join(&path).join("part.json"), &text).unwrap();
            let checksum = Some(FileMeta::of(text.as_bytes()).checksum);
            (Part { number, path, checksum, ..part(name, 3, 2) }, description.categories)
        });
        publish(folder, "store", Vec::new());
        let storage = crate::storage::Local::new(folder).unwrap();
        commit(&storage, &Record::now("test", String::new()), |manifest| {
            parts.iter().try_for_each(|(part, categories)| manifest.add(part.clone(), categories))?;
            Ok(true)
        })
        .unwrap();
        Store::open(folder.to_str().unwrap(), &Vec::new(), None).unwrap()
    }

    fn names(manifest: &Manifest) -> Vec<(u32, &str)> {
        manifest.parts.iter().map(|part| (part.number, part.name.as_str())).collect()
    }

    fn types(manifest: &Manifest) -> Vec<&str> {
        manifest.categories.0.get("type").and_then(|column| column.listed()).into_iter().flatten().collect()
    }

    #[test]
    fn datasets_are_renamed_removed_and_restored() {
        let folder = tempfile::tempdir().unwrap();
        let store = written(folder.path());
        let record = || Record::now("edit", "m".into());
        assert_eq!(names(store.manifest()), [(0, "lung"), (2, "lung"), (1, "heart")]);
        assert_eq!(types(store.manifest()), ["t0", "t1", "t2"]);
        let renamed = commit(&**store.storage().unwrap(), &record(), |manifest| {
            manifest.rename("lung", "air");
            Ok(true)
        })
        .unwrap();
        assert_eq!(names(&renamed), [(0, "air"), (2, "air"), (1, "heart")]);
        let removed = commit(&**store.storage().unwrap(), &record(), |manifest| {
            manifest.remove(&**store.storage().unwrap(), "air")?;
            Ok(true)
        })
        .unwrap();
        assert_eq!((names(&removed), types(&removed), removed.next_number), (vec![(1, "heart")], vec!["t1"], 3));
        let restored = store.restore(2, &record()).unwrap();
        assert_eq!((restored.version, names(&restored)), (5, names(store.manifest())));
        assert_eq!(types(&restored), ["t0", "t1", "t2"]);
        assert_eq!(store.restore(9, &record()).unwrap_err().kind(), ErrorKind::Value);
        let read = read(&**store.storage().unwrap(), 4).unwrap();
        assert_eq!((names(&read), types(&read)), (names(&removed), types(&removed)));
    }
}
