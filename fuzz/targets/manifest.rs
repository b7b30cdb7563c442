//! Manifests of stores, resealed: an error, or a value that is written and read again as it is.

use dao_polars::store::{Manifest, checksum};

/// Manifests without their checksum.
pub fn seeds() -> Vec<Vec<u8>> {
    let dataset = |number: u32, layout: &str| {
        format!(
            r#"{{"number":{number},"id":"d{number}","path":"d{number}","n_obs":7,"n_vars":3,"nnz":5,"layout":"{layout}",
            "dtype":"float32","bytes":99,"organism":"human","obs":[["a","String"]],"constants":{{"x":1.5,"y":true}},
            "checksum":"crc32c:00000000","obs_file":{{"size":9,"rows":7,"tail":5,"tail_crc32c":1,"columns":[2,3]}},"var_id":"v","layers":["raw"],"obsm":[],"later":{{"b":[1]}}}}"#
        )
    };
    let store = |datasets: String| {
        format!(
            r#""format":"dao-store","version":1,"id":"123e4567-e89b-42d3-a456-426614174000","next_number":2,
            "datasets":[{datasets}],"categories":{{"a":["p","q"],"b":null}},"other":1}}"#
        )
    };
    let both = format!("{},{}", dataset(0, "csr"), dataset(1, "dense"));
    [store(String::new()), store(dataset(0, "csr")), store(both)].map(String::into_bytes).into()
}

pub fn check(rest: &[u8]) -> Result<(), String> {
    let mut bytes = format!(r#"{{"checksum":"{}","#, checksum(rest)).into_bytes();
    bytes.extend(rest);
    let Ok(read) = Manifest::parse(&bytes, "store/dao.json") else { return Ok(()) };
    let text = read.to_json().map_err(|e| format!("what was read is not written: {e}"))?;
    let again = Manifest::parse(text.as_bytes(), "again").map_err(|e| format!("what was written is not read: {e}"))?;
    if again.to_json().ok() == Some(text) { Ok(()) } else { Err("it is read back as another".into()) }
}
