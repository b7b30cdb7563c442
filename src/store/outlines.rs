//! Descriptions and outlines of parts that are on another machine, kept so that they are asked for once.

use std::sync::Arc;

use moka::sync::Cache;

use super::description::Description;
use super::manifest::Part;
use super::outline::Outline;
use super::{described, description_file};
use crate::error::Result;
use crate::storage::Storage;

/// The most bytes of outlines that are kept, and of descriptions.
const MOST: u64 = 64 << 20;

/// What was read of the parts of a store, by the paths of the files.
pub struct Outlines {
    outlines: Cache<String, Arc<Outline>>,
    descriptions: Cache<String, (Arc<Description>, u32)>,
}

impl Default for Outlines {
    fn default() -> Self {
        let weight = |outline: &Arc<Outline>| u32::try_from(outline.bytes()).unwrap_or(u32::MAX);
        Self {
            outlines: Cache::builder().max_capacity(MOST).weigher(move |_, outline| weight(outline)).build(),
            descriptions: Cache::builder().max_capacity(MOST).weigher(|_, (_, len)| *len).build(),
        }
    }
}

impl Outlines {
    /// The outline of a part, where it was read.
    pub fn known(&self, part: &Part) -> Option<Arc<Outline>> {
        self.outlines.get(&part.path)
    }

    /// The description of a part. It stands in the outline, which is read first: whoever asks for it reads matrices next.
    pub fn description(&self, storage: &dyn Storage, part: &Part) -> Result<Description> {
        let key = part.file(&part.description);
        if let Some((description, _)) = self.descriptions.get(&key) {
            return Ok((*description).clone());
        }
        let outline = self.outline(storage, part)?;
        let whole = |outline: &Arc<Outline>| outline.whole(storage, &part.description);
        let (bytes, description) = match outline.as_ref().map(whole).transpose()?.flatten() {
            Some(bytes) => {
                let description = described(storage, part, &bytes)?;
                (bytes, description)
            }
            // It was changed since the part was written.
            None => description_file(storage, part)?,
        };
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.descriptions.insert(key, (Arc::new(description.clone()), len));
        Ok(description)
    }

    fn outline(&self, storage: &dyn Storage, part: &Part) -> Result<Option<Arc<Outline>>> {
        let Some(file) = &part.outline else { return Ok(None) };
        if let Some(known) = self.known(part) {
            return Ok(Some(known));
        }
        let outline = Arc::new(Outline::open(storage, &part.path, file)?);
        self.outlines.insert(part.path.clone(), outline.clone());
        Ok(Some(outline))
    }
}
