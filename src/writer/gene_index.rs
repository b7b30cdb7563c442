//! The gene-major copy of a dataset's X, added to a store beside it.
//!
//! It lies in a folder of its own that is moved in when it is complete: nothing that is there changes.

use serde_json::json;

use super::folder::{Folder, write_file};
use super::matrix::{MatrixSpec, MatrixWriter};
use super::publish::Staging;
use crate::error::{DaoError, Result};
use crate::number::{Layout, Num, for_dtype};
use crate::read::OpenStore;
use crate::store::{Dataset, GENE_INDEX, GeneIndexMeta, MANIFEST, MatrixName};

/// The number of values that are read at a time.
const STEP: u64 = 4 << 20;

/// Makes the gene-major copy, out of core and in the codecs of X; false if there is one already. `advance` is called
/// with the number of cells copied since its last call.
///
/// # Errors
/// `Value` for a store that is not written to, `Corrupt` for an X that cannot be read, `Io` for a full disk;
/// nothing of the copy stays then. And what `advance` fails with.
pub fn add_gene_index(
    open: &OpenStore,
    dataset: &Dataset,
    mut advance: impl FnMut(usize) -> Result<()>,
) -> Result<bool> {
    let store = open.store();
    store.check_writable()?;
    if store.gene_index(dataset)?.is_some() {
        return Ok(false);
    }
    let matrix = open.matrix(dataset, &MatrixName::X)?;
    let staging = Staging::beside(store)?;
    let spec = MatrixSpec {
        name: MatrixName::X,
        layout: Layout::Csr,
        portable: matrix.is_portable(),
        shape: [dataset.n_vars, dataset.n_obs],
        stored: matrix.dtype(),
        columns: None,
        rows: None,
        source_nnz: dataset.nnz.unwrap_or(dataset.n_obs * dataset.n_vars / 8),
        transposed: true,
    };
    let folder = Folder::new(staging.folder());
    let mut writer = MatrixWriter::new(&folder, spec)?;
    let n_rows = u32::try_from(dataset.n_obs).map_err(|_| DaoError::value("more than 2^32 - 1 cells"))?;
    let mut start = 0;
    while start < n_rows {
        let (mut stop, mut values) = (start, 0);
        while stop < n_rows && values < STEP {
            values += matrix.row_nnz(stop).unwrap_or(dataset.n_vars) + 1;
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
    folder.join("zarr").write_group(&json!({}))?;
    let meta = GeneIndexMeta::to_json(dataset, folder.list()?)?;
    write_file(&staging.folder().join(MANIFEST), meta.as_bytes())?;
    staging.publish_into(dataset, GENE_INDEX)
}
