//! What of an address and its options must not be seen: in reprs, errors, plans and saved files.

use percent_encoding::percent_decode_str;
use url::Url;

use super::super::StorageOptions;
use crate::error::{DaoError, Result};

/// The options for what stands before the `@` of `http://user:password@host`.
pub const USERNAME: &str = "username";
pub const PASSWORD: &str = "password";

/// What replaces a secret in a text.
const HIDDEN: &str = "…";

/// An address that anyone may see, and the options, to which its user and password have been added.
///
/// # Errors
/// `Value` for an address that is malformed, or has secrets where they cannot be kept apart.
pub fn split(uri: &str, options: &StorageOptions) -> Result<(String, StorageOptions)> {
    let uri = uri.trim_end_matches('/');
    let scheme = uri.split("://").next().unwrap_or_default();
    // Nothing else of it is shown: who can say which part of it is the password?
    let refused = |what: &str| DaoError::value(format!("cannot open '{scheme}://{HIDDEN}': {what}"));
    if uri.contains(['?', '#']) {
        return Err(refused("an address without '?' and '#' is needed").hint(
            "give a signature by option, storage_options={\"sas_token\": …} for Azure, and write '?' in a name as %3F",
        ));
    }
    let mut url = Url::parse(uri).map_err(|e| refused(&e.to_string()))?;
    let mut options = options.clone();
    let is_web = matches!(url.scheme(), "http" | "https");
    if url.password().is_some() && !is_web {
        return Err(refused("a password in the address").hint("give it by option, in storage_options"));
    }
    if !is_web || (url.username().is_empty() && url.password().is_none()) {
        return Ok((uri.to_owned(), options));
    }
    for (key, value) in [(USERNAME, url.username()), (PASSWORD, url.password().unwrap_or_default())] {
        options.retain(|(name, _)| name != key);
        options.push((key.to_owned(), percent_decode_str(value).decode_utf8_lossy().into_owned()));
    }
    // Neither fails for an address of the web, which has a host.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    Ok((url.as_str().trim_end_matches('/').to_owned(), options))
}

/// An address as errors may show it.
pub fn shown(uri: &str) -> String {
    match split(uri, &StorageOptions::new()) {
        Ok((uri, _)) => uri,
        Err(_) => format!("{}://{HIDDEN}", uri.split("://").next().unwrap_or_default()),
    }
}

/// A text of others (an error of a request) without the secrets among the options, and without signatures.
pub fn without_secrets(mut text: String, options: &StorageOptions) -> String {
    const SECRET: [&str; 6] = ["key", "secret", "token", "password", "sas", "signature"];
    for (key, value) in options {
        let key = key.to_lowercase();
        // The name of a file may be seen.
        let is_secret = SECRET.iter().any(|word| key.contains(word)) && !key.ends_with("_file");
        if is_secret && value.len() >= 4 {
            text = text.replace(value.as_str(), HIDDEN);
        }
    }
    for name in ["sig=", "Signature=", "X-Amz-Credential=", "X-Amz-Security-Token=", "X-Goog-Credential="] {
        let mut parts = text.split(name);
        let mut clean = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| "&\"'<> )".contains(c) || c.is_whitespace()).unwrap_or(part.len());
            clean.extend([name, HIDDEN, &part[end..]]);
        }
        text = clean;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_become_options() {
        let (uri, options) = split("http://me:p%40ss@host:80/a/b/", &Vec::new()).unwrap();
        assert_eq!(uri, "http://host/a/b");
        let wanted = [("username", "me"), ("password", "p@ss")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(options, wanted);
        assert_eq!(split("s3://bucket/a b/", &options).unwrap(), ("s3://bucket/a b".to_owned(), options));
        let container = "abfss://container@account.dfs.core.windows.net/a";
        assert_eq!(split(container, &Vec::new()).unwrap(), (container.to_owned(), Vec::new()));
    }

    #[test]
    fn secrets_that_stay_are_refused_unseen() {
        for uri in ["https://h/a?sig=hush", "s3://me:hush@bucket/a", "http://u:hu/sh@h/a", "https://h/a#hush"] {
            let error = split(uri, &Vec::new()).unwrap_err().to_string();
            assert!(!error.contains("hush") && !error.contains("hu/sh"), "{error}");
            assert!(!shown(uri).contains("hu"), "{}", shown(uri));
        }
        assert_eq!(shown("https://u:hush@h/a"), "https://h/a");
    }

    #[test]
    fn texts_of_others_lose_their_secrets() {
        let options = vec![("account_key".to_owned(), "hush".to_owned()), ("region".to_owned(), "here".to_owned())];
        let text = "GET https://h/a?sv=1&sig=ab%2Fc&se=2 hush here X-Amz-Signature=ff".to_owned();
        assert_eq!(without_secrets(text, &options), "GET https://h/a?sv=1&sig=…&se=2 … here X-Amz-Signature=…");
    }
}
