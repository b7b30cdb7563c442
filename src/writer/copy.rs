//! Datasets of one store taken over into another, byte for byte.
//!
//! Between any two places: files are read in pieces, held against the list in their part's description, and put to where
//! the other store is. Parts get numbers and folders there, and all of them come with one version.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::part::existing;
use crate::error::{DaoError, ErrorKind, Result};
use crate::interrupt::undisturbed;
use crate::read::schedule;
use crate::storage::{self, Lasting, Storage, StorageOptions};
use crate::store::{
    Description, FileMeta, Lease, ListedFiles, Manifest, PARTS, Part, Record, Store, check_free, commit,
    description_file, folder_name, is_unnamed,
};

/// The most files that are on their way at a time where one of the places is not on this machine: to wait for several
/// answers at once, within some tens of MiB.
const MOST_REMOTE: usize = 8;
/// The most large files that were copied and are on their way to the disk.
const MOST_FLUSHING: usize = 16;

/// The datasets that are copied, as the source has them.
pub struct Copying<'a> {
    source: &'a Store,
    parts: Vec<CopiedPart>,
}

/// A part that is copied, and its files, that of its description among them.
struct CopiedPart {
    part: Part,
    description: Description,
    files: ListedFiles,
}

impl<'a> Copying<'a> {
    /// The datasets of these names, all where none are given. Reads their descriptions.
    ///
    /// # Errors
    /// `Value` for a store that sfaira wrote or no datasets, `Key` for one that the store does not have, and as
    /// [`Store::description`].
    pub fn new(source: &'a Store, datasets: Option<&[String]>) -> Result<Self> {
        let storage = source.storage()?;
        if source.alone()?.by_sfaira {
            let what =
                format!("'{}' is a store that sfaira wrote, whose datasets cannot be copied as they are", source.uri());
            return Err(DaoError::value(what).hint(
                "write their cells: dao.scan(uri).filter(dataset=name).dao.write_dataset(target, dataset=name)",
            ));
        }
        datasets.into_iter().flatten().try_for_each(|name| source.part(name).map(drop))?;
        let is_wanted = |part: &&Part| datasets.is_none_or(|names| names.contains(&part.name));
        let parts: Vec<CopiedPart> = source
            .manifest()
            .parts
            .iter()
            .filter(is_wanted)
            .map(|part| {
                let (bytes, description) = description_file(&**storage, part)?;
                let mut listed = part.all_files(description.files.clone());
                listed.insert(part.description.clone(), FileMeta::of(&bytes));
                let files = ListedFiles::new(storage.clone(), &part.path, listed);
                Ok(CopiedPart { part: part.clone(), description, files })
            })
            .collect::<Result<_>>()?;
        if parts.is_empty() {
            return Err(DaoError::value("there are no datasets to copy").at(format!("store '{}'", source.uri())));
        }
        Ok(Self { source, parts })
    }

    /// Copies the datasets into the store at `uri`, which is made if it is missing, as one version. `advance` is called
    /// with the bytes copied since its last call.
    ///
    /// # Errors
    /// `AlreadyExists` if a name is taken there, `Value` for a store that is not written to, `Corrupt` or `NotFound` for
    /// files that are not as they were written, `Io`, and what `advance` fails with: nothing is visible then.
    pub fn run(
        &self,
        uri: &str,
        options: &StorageOptions,
        record: &Record,
        mut advance: impl FnMut(u64) -> Result<()>,
    ) -> Result<Manifest> {
        let target = storage::open(uri, options)?;
        if let Some(store) = existing(&target)? {
            store.check_writable()?;
            self.check_free(store.manifest(), store.uri())?;
        }
        let mut lease = Lease::new(&target)?;
        let parts: Vec<Part> =
            (0..).zip(&self.parts).map(|(i, copied)| self.placed(&copied.part, i, &lease.tag)).collect();
        let mut written =
            Written { storage: &*target, folders: parts.iter().map(|part| &*part.path).collect(), stays: false };
        self.copy_files(&target, &parts, &mut advance)?;
        let committed = commit(&*target, record, |manifest| {
            lease.confirm()?;
            self.check_free(manifest, target.uri())?;
            for (part, copied) in parts.iter().zip(&self.parts) {
                manifest.add(part.clone(), &copied.description.categories)?;
            }
            Ok(true)
        });
        written.stays = committed.is_ok() || !is_unnamed(&*target, &lease.tag);
        if written.stays && committed.is_err() {
            lease.leave();
        }
        committed
    }

    fn check_free(&self, manifest: &Manifest, uri: &str) -> Result<()> {
        let free = |copied: &CopiedPart| check_free(manifest, &copied.part.name, uri);
        self.parts.iter().try_for_each(free).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => e.hint("rename one of the two: Store.rename_dataset"),
            _ => e,
        })
    }

    /// The entry of the `i`-th part in the store that it is copied to, without its number there. Several parts of a dataset
    /// have folders of their own, whose names end with the tag as all do.
    fn placed(&self, part: &Part, i: usize, tag: &str) -> Part {
        let several = if self.parts.len() == 1 { String::new() } else { format!("{i}-") };
        Part { number: 0, path: format!("{PARTS}/{}-{several}{tag}", folder_name(&part.name)), ..part.clone() }
    }

    /// Copies all files, several at a time, to the folders of `parts`; they are there to stay when this returns.
    fn copy_files(
        &self,
        target: &Arc<dyn Storage>,
        parts: &[Part],
        advance: &mut impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let mut files = Vec::new();
        for (part, copied) in parts.iter().zip(&self.parts) {
            files.extend(copied.files.names().map(|name| (part, copied, name)));
        }
        let is_local = |storage: &dyn Storage| storage.local_root().is_some();
        let local = is_local(&**target) && is_local(&**self.source.storage()?);
        let threads = if local { schedule::threads(None) } else { MOST_REMOTE };
        let (copied_bytes, mut told) = (AtomicU64::new(0), 0);
        let copy = |i: usize| {
            let (part, copied, name) = files[i];
            let mut file = target.create(&part.file(name))?;
            copied
                .files
                .read_through(&copied.part.file(name), |bytes| {
                    file.write(bytes)?;
                    copied_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    Ok(())
                })
                .map_err(|e| e.at(part.place()))?;
            file.finish()
        };
        let mut flushing = VecDeque::new();
        let tick = || {
            let copied = copied_bytes.load(Ordering::Relaxed);
            let since = copied - std::mem::replace(&mut told, copied);
            advance(since)
        };
        schedule::in_order(
            files.len(),
            threads,
            copy,
            |lasting| {
                flushing.extend(lasting);
                // The disk is slower than memory: what is on its way to it stays bounded.
                if flushing.len() > MOST_FLUSHING { wait(flushing.pop_front()) } else { Ok(()) }
            },
            tick,
        )?;
        flushing.into_iter().try_for_each(|flushing| wait(Some(flushing)))?;
        parts.iter().try_for_each(|part| target.sync(&part.path))
    }
}

/// Waits until a file is there to stay.
fn wait(lasting: Lasting) -> Result<()> {
    lasting.map_or(Ok(()), |lasting| lasting())
}

/// The folders of parts that are being written, which go when this is dropped before they are named.
struct Written<'a> {
    storage: &'a dyn Storage,
    folders: Vec<&'a str>,
    stays: bool,
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        if !self.stays {
            // Best effort: vacuum removes what stays.
            undisturbed(|| self.folders.iter().for_each(|folder| drop(self.storage.remove_folder(folder))));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::storage::Local;
    use crate::store::testing::{part, publish};

    /// A store of three parts, two of which are of one dataset, with a file each.
    fn written(folder: &std::path::Path) -> Store {
        let parts = [(0, "d", 0_u8), (1, "d-1", 1), (2, "d", 2)].map(|(number, name, byte)| {
            let path = format!("parts/{number}");
            std::fs::create_dir_all(folder.join(&path)).unwrap();
            std::fs::write(folder.join(&path).join("file"), [byte; 9]).unwrap();
            let files = BTreeMap::from([("file".to_owned(), FileMeta::of(&[byte; 9]))]);
            let description = Description { n_obs: 3, n_vars: 2, files, ..Description::default() };
            let text = description.to_json().unwrap();
            std::fs::write(folder.join(&path).join("part.json"), &text).unwrap();
            Part { number, path, checksum: Some(FileMeta::of(text.as_bytes()).checksum), ..part(name, 3, 2) }
        });
        publish(folder, "source", parts.into());
        Store::open(folder.to_str().unwrap(), &Vec::new(), None).unwrap()
    }

    fn copied(source: &Store, names: Option<&[String]>, uri: &str, told: &mut u64) -> Result<Manifest> {
        Copying::new(source, names)?.run(uri, &Vec::new(), &Record::now("copy", String::new()), |bytes| {
            *told += bytes;
            Ok(())
        })
    }

    #[test]
    fn each_part_has_a_folder_of_its_own() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (source, uri) = (written(from.path()), to.path().to_str().unwrap());
        let mut told = 0;
        let made = copied(&source, None, uri, &mut told).unwrap();
        let found: Vec<_> = made.parts.iter().map(|part| (part.number, part.name.as_str())).collect();
        // In the order of the source's frame, in which parts of a dataset follow each other.
        assert_eq!(found, [(0, "d"), (1, "d"), (2, "d-1")]);
        let target = Local::new(to.path()).unwrap();
        for (part, byte) in made.parts.iter().zip([0, 2, 1]) {
            assert_eq!(target.get(&part.file("file")).unwrap().unwrap(), vec![byte; 9]);
            assert!(target.size(&part.file("part.json")).unwrap().is_some());
        }
        let texts: u64 = target.list_files(PARTS).unwrap().iter().map(|(_, size)| size).sum();
        assert_eq!((told, made.version), (texts, 1));
    }

    #[test]
    fn what_changed_is_not_copied() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (source, uri) = (written(from.path()), to.path().to_str().unwrap());
        std::fs::write(from.path().join("parts/2/file"), [3; 9]).unwrap();
        let error = copied(&source, Some(&["d".to_owned()]), uri, &mut 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().starts_with("dataset 'd', path '"), "{error}");
        assert!(Local::new(to.path()).unwrap().list_files("").unwrap().is_empty());
        let names = ["d-1".to_owned()];
        let made = copied(&source, Some(&names), uri, &mut 0).unwrap();
        assert_eq!(made.parts.len(), 1);
        assert!(
            made.parts[0].path.starts_with("parts/d-1-") && made.parts[0].path.len() == 22,
            "{}",
            made.parts[0].path
        );
        assert_eq!(copied(&source, Some(&names), uri, &mut 0).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(copied(&source, Some(&["e".to_owned()]), uri, &mut 0).unwrap_err().kind(), ErrorKind::Key);
        assert_eq!(copied(&source, Some(&[]), uri, &mut 0).unwrap_err().kind(), ErrorKind::Value);
    }
}
