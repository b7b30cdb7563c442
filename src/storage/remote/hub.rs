//! Addresses of the Hugging Face hub as those that its server has: `hf://datasets/owner/name@revision/path`.

use object_store::path::Path as ObjectPath;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::error::{DaoError, Result};

const SERVER: &str = "https://huggingface.co";
/// What stands in the name of a branch or tag as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The address below which a repository's files are, and the path there.
///
/// # Errors
/// `Value` for an address of another form.
pub fn resolved(uri: &str, server: Option<&str>) -> Result<(String, ObjectPath)> {
    let wrong = || {
        DaoError::value(format!("cannot open '{uri}'"))
            .expected("hf://datasets/owner/name/path, or hf://datasets/owner/name@revision/path")
            .hint("take owner and name from the page of the data set")
    };
    let mut parts = uri.strip_prefix("hf://").ok_or_else(wrong)?.split('/');
    let (kind, owner, name) = (parts.next(), parts.next(), parts.next());
    let kind = kind.filter(|kind| ["datasets", "spaces"].contains(kind)).ok_or_else(wrong)?;
    let (Some(owner), Some(name)) = (owner, name) else { return Err(wrong()) };
    let mut below: Vec<&str> = parts.collect();
    let (name, revision) = match name.split_once('@') {
        None => (name, "main".to_owned()),
        // Branches of the hub's own have slashes in their names.
        Some((name, "refs")) if below.len() >= 2 => {
            let of_hub: Vec<&str> = below.drain(..2).collect();
            (name, format!("refs/{}", of_hub.join("/")))
        }
        Some((name, revision)) => (name, percent_decode_str(revision).decode_utf8().map_err(|_| wrong())?.into_owned()),
    };
    let is_name = |name: &str| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !name.starts_with('.')
    };
    if !is_name(owner) || !is_name(name) || revision.is_empty() {
        return Err(wrong());
    }
    let server = server.unwrap_or(SERVER).trim_end_matches('/');
    let revision = utf8_percent_encode(&revision, PLAIN);
    let path = ObjectPath::from_url_path(below.join("/")).map_err(|_| wrong())?;
    Ok((format!("{server}/{kind}/{owner}/{name}/resolve/{revision}"), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_hub() {
        let hub = "https://huggingface.co/datasets/lab/atlas/resolve";
        for (uri, address, path) in [
            ("hf://datasets/lab/atlas", "main", ""),
            ("hf://datasets/lab/atlas/stores/a b", "main", "stores/a b"),
            ("hf://datasets/lab/atlas@v1.0/s", "v1.0", "s"),
            ("hf://datasets/lab/atlas@refs/pr/12/s", "refs%2Fpr%2F12", "s"),
            ("hf://datasets/lab/atlas@a%2Fb/s/t", "a%2Fb", "s/t"),
        ] {
            let (base, below) = resolved(uri, None).unwrap();
            assert_eq!((base, below.as_ref()), (format!("{hub}/{address}"), path), "{uri}");
        }
        let (base, _) = resolved("hf://datasets/lab/atlas/s", Some("http://mirror:80/hf/")).unwrap();
        assert_eq!(base, "http://mirror:80/hf/datasets/lab/atlas/resolve/main");
    }

    #[test]
    fn other_addresses_are_refused() {
        for uri in
            ["hf://lab/model/x", "hf://datasets/lab", "hf://datasets/lab/a@/x", "hf://datasets/../a", "hf://datasets"]
        {
            let error = resolved(uri, None).unwrap_err().to_string();
            assert!(error.contains(uri) && error.contains("expected hf://datasets/owner/name"), "{error}");
        }
    }
}
