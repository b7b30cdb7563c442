//! Tables of genes: as many names as the table has rows, or an error.

use dao_polars::store::{VarColumn, VarTable};

pub fn seeds() -> Vec<Vec<u8>> {
    let whole = include_bytes!("../corpus/var/small.parquet").to_vec();
    // Its footer counts rows and has lost their groups.
    vec![whole, include_bytes!("../corpus/var/no_row_groups.parquet").to_vec()]
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
