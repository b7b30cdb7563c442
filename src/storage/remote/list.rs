//! Lists of objects: all below a path at once on a bucket, folder by folder over HTTP.

use futures_util::StreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ListResult, ObjectMeta, ObjectStore};

use super::Remote;
use crate::error::Result;

/// The objects that a page of a list has, and that are removed by one request where a server can.
pub const PAGE: usize = 1000;

impl Remote {
    /// The names of the folders directly below `path`, sorted.
    pub(super) fn folders_below(&self, path: &str) -> Result<Vec<String>> {
        let folders = self.list(path, &self.object(path))?.common_prefixes;
        let mut names: Vec<String> = folders.iter().filter_map(|folder| folder.filename().map(str::to_owned)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The paths and sizes of all objects below `path`.
    pub(super) fn files_below(&self, path: &str) -> Result<Vec<(String, u64)>> {
        if self.is_bucket {
            let objects = self.list_all(path)?;
            return Ok(objects
                .iter()
                .filter_map(|object| Some((self.below(&object.location)?, object.size)))
                .collect());
        }
        let (mut files, mut folders) = (Vec::new(), vec![self.object(path)]);
        while let Some(folder) = folders.pop() {
            let listed = self.list(path, &folder)?;
            files.extend(listed.objects.iter().filter_map(|object| Some((self.below(&object.location)?, object.size))));
            folders.extend(listed.common_prefixes);
        }
        Ok(files)
    }

    /// The path below the root of an object.
    fn below(&self, object: &ObjectPath) -> Option<String> {
        object.as_ref().strip_prefix(self.prefix.as_ref()).map(|path| path.trim_matches('/').to_owned())
    }

    /// The objects and folders directly below `folder`, which is at `path` or below it.
    fn list(&self, path: &str, folder: &ObjectPath) -> Result<ListResult> {
        let listed = self.answer(path, self.store.list_with_delimiter(Some(folder)))?;
        listed.map_err(|e| self.failed(path, "reading", &e))
    }

    /// All objects below `path`, as many at a time as a page of a list has.
    fn list_all(&self, path: &str) -> Result<Vec<ObjectMeta>> {
        let (mut found, mut objects) = (Vec::new(), self.store.list(Some(&self.object(path))).chunks(PAGE));
        while let Some(page) = self.answer(path, objects.next())? {
            for object in page {
                found.push(object.map_err(|e| self.failed(path, "reading", &e))?);
            }
        }
        Ok(found)
    }
}
