//! Versions of stores, resealed: an error, or a value that is written and read again as it is.

use dao_polars::store::{Manifest, checksum};

/// Manifests without their checksum.
pub fn seeds() -> Vec<Vec<u8>> {
    let part = |number: u32, layout: &str| {
        format!(
            r#"{{"number":{number},"dataset":"d{number}","description":"part.json","obs_path":"obs.parquet","path":"d{number}","n_obs":7,"n_vars":3,"nnz":5,"layout":"{layout}",
            "dtype":"float32","bytes":99,"organism":"human","obs":[["a","String"]],"constants":{{"x":1.5,"y":true}},
            "checksum":"crc32c:00000000","obs_file":{{"size":9,"rows":7,"tail":5,"tail_crc32c":1,"columns":[2,3]}},"var_id":"v","layers":["raw"],"obsm":[],"later":{{"b":[1]}}}}"#
        )
    };
    let store = |parts: String| {
        format!(
            r#""format":"dao-version","version":2,"store":"123e4567-e89b-42d3-a456-426614174000","number":1,"since_base":0,
            "oldest":1,"next_number":2,"operation":"o","message":"m","time":"t","package":"p","attempt":"x","n_datasets":2,
            "n_obs":14,"parts":[{parts}],"categories":{{"a":{{"unlisted":0,"values":{{"p":2,"q":1}}}},"b":{{"unlisted":2,"values":null}}}}}}"#
        )
    };
    let both = format!("{},{}", part(0, "csr"), part(1, "dense"));
    [store(String::new()), store(part(0, "csr")), store(both)].map(String::into_bytes).into()
}

pub fn check(rest: &[u8]) -> Result<(), String> {
    let mut bytes = format!(r#"{{"checksum":"{}","#, checksum(rest)).into_bytes();
    bytes.extend(rest);
    let Ok(read) = Manifest::parse(&bytes, "store/dao.json") else { return Ok(()) };
    let text = read.to_json().map_err(|e| format!("what was read is not written: {e}"))?;
    let again = Manifest::parse(text.as_bytes(), "again").map_err(|e| format!("what was written is not read: {e}"))?;
    if again.to_json().ok() == Some(text) { Ok(()) } else { Err("it is read back as another".into()) }
}
