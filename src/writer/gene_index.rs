//! The gene-major copy of a part's X, added to a store as a new version in which the part has one.

use std::sync::Arc;

use serde_json::json;

use super::folder::Folder;
use super::matrix::{MatrixSpec, MatrixWriter};
use crate::error::{DaoError, Result};
use crate::interrupt::undisturbed;
use crate::number::{Layout, Num, for_dtype};
use crate::read::OpenStore;
use crate::storage::Storage;
use crate::store::{Description, Lease, MatrixName, Part, Record, Store, ZARR, commit, describe, is_unnamed, listed};

/// The number of values that are read at a time.
const STEP: u64 = 4 << 20;

/// Makes the gene-major copy, out of core and in the codecs of X; false if there is one already. `advance` is called
/// with the number of cells copied since its last call.
///
/// # Errors
/// `Value` for a store that is not written to, or if the dataset was removed meanwhile; `Corrupt` for an X that cannot be
/// read, `Io` for a full disk; nothing of the copy stays then. And what `advance` fails with.
pub fn add_gene_index(open: &OpenStore, part: &Part, mut advance: impl FnMut(usize) -> Result<()>) -> Result<bool> {
    let store = open.store();
    store.check_writable()?;
    let mut now = Store::read(store.storage()?.clone(), None)?.manifest().clone();
    if store.description(listed(&mut now, part)?)?.gene_index.is_some() {
        return Ok(false);
    }
    let matrix = open.matrix(part, &MatrixName::X)?;
    let storage = store.storage()?;
    let mut lease = Lease::new(storage)?;
    let name = format!("gene_index-{}", lease.tag);
    let mut copy = Copy { storage, path: part.file(&name), stays: false };
    let spec = MatrixSpec {
        name: MatrixName::X,
        layout: Layout::Csr,
        portable: matrix.is_portable(),
        shape: [part.n_vars, part.n_obs],
        stored: matrix.dtype(),
        columns: None,
        rows: None,
        source_nnz: part.nnz.unwrap_or(part.n_obs * part.n_vars / 8),
        transposed: true,
    };
    let of_part = Folder::new(storage.clone(), &part.path)?;
    let folder = of_part.join(&name);
    let mut writer = MatrixWriter::new(&folder, spec)?;
    let n_rows = u32::try_from(part.n_obs).map_err(|_| DaoError::value("more than 2^32 - 1 cells"))?;
    matrix.hold_rows()?;
    let mut start = 0;
    while start < n_rows {
        let (mut stop, mut values) = (start, 0);
        while stop < n_rows && values < STEP {
            values += matrix.row_nnz(stop)?.unwrap_or(part.n_vars) + 1;
            stop += 1;
        }
        let rows: Vec<u32> = (start..stop).collect();
        for_dtype!(matrix.dtype(), T => {
            let rows = matrix.rows::<T>(&rows)?;
            let indptr: Vec<i64> = rows.indptr.iter().map(|&at| i64::try_from(at).unwrap_or(i64::MAX)).collect();
            // A cell is a column of the copy.
            writer.push_columns(&indptr, &rows.indices, &T::wrap(rows.data))?;
        });
        advance(rows.len())?;
        start = stop;
    }
    writer.finish()?;
    folder.join(ZARR).write_group(&json!({}))?;
    let files = of_part.list()?;
    let record = Record::now("add_gene_index", format!("dataset '{}'", part.name));
    let (mut added, mut descriptions) = (true, Vec::new());
    let committed = commit(&**storage, &record, |manifest| {
        let listed = listed(manifest, part)?;
        let description = store.description(listed)?;
        added = description.gene_index.is_none();
        if added {
            let gene_index = Some(name.clone());
            let files =
                description.files.iter().chain(&files).map(|(path, meta)| (path.clone(), meta.clone())).collect();
            describe(storage, listed, &Description { gene_index, files, ..description }, &lease, &mut descriptions)?;
        }
        Ok(added)
    });
    copy.stays = added && committed.is_ok() || !is_unnamed(&**storage, &lease.tag);
    if copy.stays && committed.is_err() {
        lease.leave();
    }
    if !copy.stays {
        descriptions.iter().for_each(|path| drop(storage.remove(path)));
    }
    committed.map(|_| added)
}

/// A copy that is being written, which goes when it is dropped before it is named.
struct Copy<'a> {
    storage: &'a Arc<dyn Storage>,
    path: String,
    stays: bool,
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        if !self.stays {
            // Best effort: vacuum removes what stays.
            let _ = undisturbed(|| self.storage.remove_folder(&self.path));
        }
    }
}
