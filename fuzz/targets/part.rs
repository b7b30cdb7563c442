//! Descriptions of parts, resealed: an error, or a value that is written and read again as it is,
//! and names no file outside of its folder.

use dao_polars::store::{Description, Files, Part, checksum};

/// Descriptions without their checksum.
pub fn seeds() -> Vec<Vec<u8>> {
    let description = |matrices: &str, more: &str| {
        format!(
            r#""format":"dao-part","version":2,"var_path":"v","uns_path":"u","n_obs":3,"n_vars":2,"nnz":4,"matrices":{{{matrices}}},
            "files":{{"uns.json":{{"size":2,"checksum":"crc32c:01234567"}},"zarr/X/zarr.json":{{"size":9,"checksum":""}}}},
            "obs":{{"columns":[]}},"var":{{"index_name":"g","index":{{"kind":"s"}},"columns":[
            {{"name":"a","source":"A","dtype":"String","pandas":[1]}}]}}{more}}}"#
        )
    };
    let x = r#""X":{"layout":"csr","dtype":"uint16","source_dtype":"f4","shape":[3,2],"nnz":4,"max_abs":9.5,"totals":true}"#;
    let raw =
        r#""layers/raw":{"layout":"dense","dtype":null,"source_dtype":"x","shape":[3,2],"nnz":null,"max_abs":null}"#;
    let whole =
        r#","constants":{"x":1.5},"var_id":"v","later":{"b":[1]},"gene_index":"g","categories":{"a":["x"],"b":null}"#;
    [description("", ""), description(x, ""), description(&format!("{x},{raw}"), whole)].map(String::into_bytes).into()
}

pub fn check(rest: &[u8]) -> Result<(), String> {
    let mut bytes = format!(r#"{{"checksum":"{}","#, checksum(rest)).into_bytes();
    bytes.extend(rest);
    let part =
        Part { name: "lung".into(), n_obs: 3, n_vars: 2, checksum: Some("crc32c:01234567".into()), ..Part::default() };
    if let Ok(read) = Description::parse(&bytes, "lung/dao.json", &part) {
        stay_inside(&read.files)?;
        let text = read.to_json().map_err(|e| format!("what was read is not written: {e}"))?;
        let again = Description::parse(text.as_bytes(), "again", &part)
            .map_err(|e| format!("what was written is not read: {e}"))?;
        if again.to_json().ok() != Some(text) {
            return Err("it is read back as another".into());
        }
    }
    Ok(())
}

fn stay_inside(files: &Files) -> Result<(), String> {
    match files.keys().find(|path| path.split('/').any(|part| matches!(part, "" | "." | ".."))) {
        Some(path) => Err(format!("it lists a file outside of its folder: {path:?}")),
        None => Ok(()),
    }
}
