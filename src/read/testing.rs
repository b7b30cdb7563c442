//! A small store for tests, written file by file.

use std::path::Path;

use serde_json::json;

use super::OpenStore;
use crate::matrix::TOTALS;
use crate::matrix::testing::{SparseRows, portable, sharded, write_array, write_sparse};
use crate::storage::{Local, Storage};
use crate::store::testing::{part, publish};
use crate::store::{FileMeta, Files, Part, Store, checksum, seal};

/// Parts of five genes: lung, number 0, with a gene-major copy and totals; and heart, number 4, with an embedding
/// that is no matrix.
pub fn datasets() -> [(&'static str, u32, SparseRows); 2] {
    let lung = vec![vec![(0, 3), (4, 1)], vec![], vec![(2, 9)]];
    let heart = vec![vec![(1, 7)], vec![(0, 2), (3, 6)]];
    [("lung", 0, lung), ("heart", 4, heart)]
}

/// Writes the store to `folder`; `change` changes what the version says of its parts.
pub fn written(folder: &Path, change: impl FnOnce(&mut Vec<Part>)) -> OpenStore {
    write(folder, change, [9.0, 9.0])
}

/// Writes the store to `folder`, with `wrong` values of the lung's `"totals"` or its gene `"index"`.
pub fn contradicting(folder: &Path, wrong: &str) -> OpenStore {
    write(folder, |_| (), ["totals", "index"].map(|name| if name == wrong { 8.0 } else { 9.0 }))
}

/// The files below `folder`, as a description lists them.
fn files(folder: &Path) -> Files {
    let listed = Local::new(folder).unwrap().list_files("").unwrap().into_iter();
    listed.map(|(path, _)| (path.clone(), FileMeta::of(&std::fs::read(folder.join(path)).unwrap()))).collect()
}

fn write(folder: &Path, change: impl FnOnce(&mut Vec<Part>), [total, copied]: [f64; 2]) -> OpenStore {
    let mut listed = Vec::new();
    for (name, number, rows) in datasets() {
        let path = folder.join("parts").join(name);
        let (n_obs, is_lung) = (rows.len() as u64, number == 0);
        write_sparse(&path.join("zarr/X"), "csr_matrix", [n_obs, 5], &rows, true);
        let matrix = |n_columns: u64, totals: bool| {
            json!({
                "layout": "csr", "dtype": "uint16", "source_dtype": "uint16", "shape": [n_obs, n_columns], "nnz": 3,
                "max_abs": 9.0, "totals": totals,
            })
        };
        let matrices = if is_lung {
            json!({"X": matrix(5, true)})
        } else {
            json!({"X": matrix(5, false), "layers/narrow": matrix(4, false), "obsm/lost": matrix(2, false)})
        };
        std::fs::write(path.join("uns.json"), "{}").unwrap();
        if is_lung {
            let totals = path.join("zarr/totals/X");
            let codecs = portable();
            write_array(&totals.join(TOTALS[0]), &[4.0_f64, 0.0, total], &sharded::<f64>(3, 4, 2, &codecs, "end"));
            write_array(&totals.join(TOTALS[1]), &[2_u32, 0, 1], &sharded::<u32>(3, 4, 2, &codecs, "end"));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "8 or 9")]
            let genes: SparseRows = vec![vec![(0, 3)], vec![], vec![(2, copied as u16)], vec![], vec![(0, 1)]];
            write_sparse(&path.join("gene_index/zarr/X"), "csc_matrix", [3, 5], &genes, true);
        }
        let description = json!({
            "format": "dao-part", "version": 2, "n_obs": n_obs, "n_vars": 5, "nnz": 3,
            "matrices": matrices, "obs": {"columns": []}, "var": {"columns": []},
            "files": files(&path), "var_path": "var.parquet", "uns_path": "uns.json",
            "gene_index": is_lung.then_some("gene_index"),
        });
        let description = seal(&description.to_string());
        std::fs::write(path.join("part.json"), &description).unwrap();
        let checksum = Some(checksum(description.as_bytes()));
        listed.push(Part { number, nnz: Some(3), checksum, ..part(name, n_obs, 5) });
    }
    change(&mut listed);
    publish(folder, "store", listed);
    OpenStore::new(Store::open(folder.to_str().unwrap(), &Vec::new(), None).unwrap())
}
