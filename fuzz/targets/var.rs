//! Tables of genes: as many names as the table has rows, or an error.

use dao_polars::store::{VarColumn, VarTable};

/// All are files: what writes parquet is no part of what is tested.
pub fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

pub fn check(bytes: &[u8]) -> Result<(), String> {
    for by_pandas in [false, true] {
        let Ok(table) = VarTable::open(bytes.to_vec().into(), by_pandas, "var.parquet") else { continue };
        for name in table.names() {
            let n = match table.column(name) {
                Ok(Some(VarColumn::Names(names))) => names.len(),
                _ => continue,
            };
            if n != table.n_rows() {
                return Err(format!("column {name:?} has {n} values of {}", table.n_rows()));
            }
        }
    }
    Ok(())
}
