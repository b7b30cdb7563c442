//! Rows in output order made canonical and written: as CSR arrays, or as one dense array.
//!
//! Canonical: columns ascend within a row, duplicates are summed.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::array::{ArrayWriter, Coding, make_folder, write_json};
use super::matrix::MatrixSpec;
use super::spill::Block;
use super::totals::Kept;
use crate::codec::Pfor;
use crate::error::{DaoError, Result};
use crate::number::{Dtype, Layout, Num};

/// Where canonical rows go, in output order.
pub struct Sink {
    arrays: Arrays,
    totals: Option<Kept>,
}

#[expect(clippy::large_enum_variant, reason = "one exists for each matrix being written")]
enum Arrays {
    Csr {
        folder: PathBuf,
        indices: ArrayWriter,
        data: ArrayWriter,
        indptr: Vec<i64>,
        ascending: Coding,
        transposed: bool,
    },
    Dense {
        array: ArrayWriter,
        width: usize,
        nnz: u64,
    },
}

impl Sink {
    /// A sink in the new folder `folder`, with `totals` of its rows beside it.
    ///
    /// # Errors
    /// `Io` if the folders cannot be made.
    pub fn new(folder: &Path, spec: &MatrixSpec, totals: Option<Kept>) -> Result<Self> {
        Ok(Self { arrays: Arrays::new(folder, spec)?, totals })
    }
    /// The next rows.
    ///
    /// # Errors
    /// `Value` for duplicates whose sum does not fit, `Io` for a full disk.
    pub fn write<T: Num>(&mut self, mut block: Block<T>, name: &str) -> Result<()> {
        canonicalize(&mut block, name)?;
        if let Some(totals) = &mut self.totals {
            totals.push(&block);
        }
        match &mut self.arrays {
            Arrays::Csr { indices, data, indptr, .. } => {
                let start = indptr.last().copied().unwrap_or(0);
                indptr.extend(block.indptr[1..].iter().map(|&end| start + i64::try_from(end).unwrap_or(i64::MAX)));
                indices.push(&block.indices)?;
                data.push(&block.data)
            }
            Arrays::Dense { array, width, nnz } => {
                *nnz += block.data.len() as u64;
                let mut row = vec![T::zero(); *width];
                for ends in block.indptr.windows(2) {
                    row.fill(T::zero());
                    for at in ends[0]..ends[1] {
                        // Columns were held against the output's when they were mapped.
                        row[usize::try_from(block.indices[at]).unwrap_or(usize::MAX)] = block.data[at];
                    }
                    array.push(&row)?;
                }
                Ok(())
            }
        }
    }

    /// Writes the rest, of a matrix of `shape`; the number of stored values.
    ///
    /// # Errors
    /// `Io` for a full disk.
    pub fn finish(self, shape: [u64; 2]) -> Result<u64> {
        if let Some(totals) = self.totals {
            totals.finish(usize::try_from(shape[0]).unwrap_or(0))?;
        }
        match self.arrays {
            Arrays::Csr { folder, indices, data, mut indptr, ascending, transposed } => {
                let nnz = indptr.last().copied().unwrap_or(0);
                // Rows that a source without columns never sent.
                indptr.resize(usize::try_from(shape[0]).unwrap_or(0) + 1, nnz);
                indices.finish()?;
                data.finish()?;
                let mut pointers =
                    ArrayWriter::new(&folder.join("indptr"), Dtype::I64, indptr.len() as u64, None, ascending)?;
                pointers.push(&indptr)?;
                pointers.finish()?;
                let (encoding, shape) =
                    if transposed { ("csc_matrix", [shape[1], shape[0]]) } else { ("csr_matrix", shape) };
                let attributes = json!({"encoding-type": encoding, "encoding-version": "0.1.0", "shape": shape});
                write_group(&folder, &attributes)?;
                Ok(u64::try_from(nnz).unwrap_or(0))
            }
            Arrays::Dense { array, nnz, .. } => array.finish().map(|()| nnz),
        }
    }
}

impl Arrays {
    fn new(folder: &Path, spec: &MatrixSpec) -> Result<Self> {
        let [n_rows, n_columns] = spec.shape;
        if spec.layout == Layout::Dense {
            let array = ArrayWriter::new(folder, spec.stored, n_rows * n_columns, Some(n_columns), Coding::Portable)?;
            return Ok(Self::Dense { array, width: usize::try_from(n_columns).unwrap_or(0), nnz: 0 });
        }
        make_folder(folder)?;
        let narrow = match n_columns {
            0..=0x100 => Dtype::U8,
            0x101..=0x1_0000 => Dtype::U16,
            _ => Dtype::U32,
        };
        let coding = |delta| if spec.portable { Coding::Portable } else { Coding::Pfor(Pfor { delta }) };
        Ok(Self::Csr {
            indices: ArrayWriter::new(&folder.join("indices"), narrow, spec.source_nnz, None, coding(true))?,
            data: ArrayWriter::new(&folder.join("data"), spec.stored, spec.source_nnz, None, coding(false))?,
            folder: folder.to_owned(),
            indptr: vec![0],
            ascending: coding(true),
            transposed: spec.transposed,
        })
    }
}

/// Sorts each row by column and sums duplicates.
fn canonicalize<T: Num>(block: &mut Block<T>, name: &str) -> Result<()> {
    if block.indptr.windows(2).all(|ends| block.indices[ends[0]..ends[1]].windows(2).all(|pair| pair[0] < pair[1])) {
        return Ok(());
    }
    let (mut kept, mut start) = (0, 0);
    let mut row: Vec<(i32, T)> = Vec::new();
    for i in 1..block.indptr.len() {
        let stop = block.indptr[i];
        row.clear();
        row.extend(block.indices[start..stop].iter().copied().zip(block.data[start..stop].iter().copied()));
        row.sort_by_key(|&(column, _)| column);
        let first = kept;
        for &(column, value) in &row {
            if kept > first && block.indices[kept - 1] == column {
                block.data[kept - 1] = sum(block.data[kept - 1], value, name)?;
            } else {
                block.indices[kept] = column;
                block.data[kept] = value;
                kept += 1;
            }
        }
        start = stop;
        block.indptr[i] = kept;
    }
    block.indices.truncate(kept);
    block.data.truncate(kept);
    Ok(())
}

fn sum<T: Num>(a: T, b: T, name: &str) -> Result<T> {
    if T::DTYPE.is_float() {
        return Ok(a + b);
    }
    let (a, b): (i128, i128) = (a.as_(), b.as_());
    let total = T::of_i128(a + b);
    let back: i128 = total.as_();
    if back == a + b {
        return Ok(total);
    }
    Err(DaoError::value(format!(
        "repeated entries of one cell and gene sum to {}, too large for {}",
        a + b,
        T::DTYPE.name()
    ))
    .at(name.to_owned())
    .hint("read the study with anndata, call X.sum_duplicates() and write that AnnData"))
}

/// Writes the metadata of a zarr group.
///
/// # Errors
/// `Io`.
pub fn write_group(folder: &Path, attributes: &serde_json::Value) -> Result<()> {
    write_json(&folder.join("zarr.json"), &json!({"zarr_format": 3, "node_type": "group", "attributes": attributes}))
}
