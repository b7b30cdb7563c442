//! An address and its options as a store of `object_store`.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{Error as ObjectError, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use super::super::StorageOptions;
use super::secrets::{PASSWORD, USERNAME};
use super::service::Connector;
use crate::error::{DaoError, Result};

/// The time for which one read may go without an answer, retries included.
const PATIENCE: Duration = Duration::from_mins(1);

/// A store, the path of its root in it, and how long one read may take.
pub struct Built {
    pub store: Arc<dyn ObjectStore>,
    pub prefix: ObjectPath,
    pub patience: Duration,
}

/// The store at an address without secrets.
///
/// # Errors
/// `Value` for an unknown scheme, or options that cannot be used: they are named, and their values are not shown.
pub fn build(uri: &str, options: &StorageOptions) -> Result<Built> {
    let unusable = |e: &dyn std::fmt::Display| {
        DaoError::value(format!("cannot open '{uri}': {e}"))
            .hint("use a path, file://, s3://, gs://, az:// or https://, and check storage_options")
    };
    let url = Url::parse(uri).map_err(|e| unusable(&e))?;
    let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|e| unusable(&e))?;
    let retry = retries(options)?;
    let patience = retry.retry_timeout;
    let built = |options: &StorageOptions| store(&scheme, &url, options, &retry);
    let store = match built(options) {
        Ok(store) => store,
        // An error of the address alone has no value of an option in it.
        Err(_) if options.is_empty() => {
            return Err(unusable(&built(options).err().map_or_else(String::new, |e| e.to_string())));
        }
        Err(_) => {
            return Err(bad_option(uri, options, &built).unwrap_or_else(|| unusable(&"storage_options do not fit it")));
        }
    };
    Ok(Built { store, prefix, patience })
}

/// The error that names the one option without which the store could be made.
fn bad_option(
    uri: &str,
    options: &StorageOptions,
    built: &impl Fn(&StorageOptions) -> object_store::Result<Arc<dyn ObjectStore>>,
) -> Option<DaoError> {
    let without = |i: usize| -> StorageOptions {
        options.iter().enumerate().filter(|(at, _)| *at != i).map(|(_, option)| option.clone()).collect()
    };
    let bad = (0..options.len()).find(|&i| built(&without(i)).is_ok())?;
    Some(malformed(&options[bad].0).at(format!("store '{uri}'")))
}

fn malformed(key: &str) -> DaoError {
    DaoError::value(format!("storage_options[\"{key}\"] has a value that cannot be used"))
        .hint("see the options of object_store and polars for its form; it is not shown here, as it may be secret")
}

fn store(
    scheme: &ObjectStoreScheme,
    url: &Url,
    options: &StorageOptions,
    retry: &RetryConfig,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let is_web = *scheme == ObjectStoreScheme::Http;
    let option = |wanted: &str| options.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
    let user = option(USERNAME).filter(|_| is_web).map(|user| (user, option(PASSWORD).unwrap_or_default()));
    let connector = Connector::new(user, retry.retry_timeout);
    // Whoever writes http:// means it.
    let plain = (url.scheme() == "http").then_some(("allow_http", "true"));
    let all = plain.into_iter().chain(options.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    macro_rules! built {
        ($builder:ty, $url:expr) => {{
            // Options of polars, and of other clouds, are not ours to refuse.
            let builder = all.fold(<$builder>::new().with_url($url), |builder, (key, value)| {
                match key.to_ascii_lowercase().parse() {
                    Ok(key) => builder.with_config(key, value),
                    Err(_) => builder,
                }
            });
            Ok(Arc::new(builder.with_retry(retry.clone()).with_http_connector(connector).build()?))
        }};
    }
    match scheme {
        ObjectStoreScheme::AmazonS3 => built!(AmazonS3Builder, url.as_str()),
        ObjectStoreScheme::GoogleCloudStorage => built!(GoogleCloudStorageBuilder, url.as_str()),
        ObjectStoreScheme::MicrosoftAzure => built!(MicrosoftAzureBuilder, url.as_str()),
        ObjectStoreScheme::Http => built!(HttpBuilder, &url[..url::Position::BeforePath]),
        _ => Err(ObjectError::NotSupported { source: format!("no store for {}://", url.scheme()).into() }),
    }
}

/// How requests that fail are tried again, by the options that polars has for it.
fn retries(options: &StorageOptions) -> Result<RetryConfig> {
    let mut retry = RetryConfig { retry_timeout: PATIENCE, ..RetryConfig::default() };
    for (key, value) in options {
        let whole = || value.trim().parse::<u32>().map_err(|_| malformed(key));
        let time = || whole().map(|milliseconds| Duration::from_millis(milliseconds.into()));
        match key.to_ascii_lowercase().as_str() {
            "max_retries" => retry.max_retries = usize::try_from(whole()?).unwrap_or(usize::MAX),
            "retry_timeout_ms" => retry.retry_timeout = time()?,
            "retry_init_backoff_ms" => retry.backoff.init_backoff = time()?,
            "retry_max_backoff_ms" => retry.backoff.max_backoff = time()?,
            "retry_base_multiplier" => {
                let base = value.trim().parse().ok().filter(|base: &f64| base.is_finite() && *base >= 1.0);
                retry.backoff.base = base.ok_or_else(|| malformed(key))?;
            }
            _ => {}
        }
    }
    Ok(retry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(uri: &str, options: &[(&str, &str)]) -> String {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        build(uri, &options).err().unwrap().to_string()
    }

    #[test]
    fn malformed_options_are_named_and_not_shown() {
        for key in ["timeout", "max_retries", "retry_timeout_ms", "retry_base_multiplier"] {
            let error = error("http://host/a", &[("allow_http", "true"), (key, "hush")]);
            assert!(error.contains(&format!("storage_options[\"{key}\"]")) && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn patience_is_an_option() {
        let options = vec![("retry_timeout_ms".to_owned(), "1500".to_owned())];
        assert_eq!(build("http://host/a", &options).unwrap().patience, Duration::from_millis(1500));
        assert_eq!(build("s3://bucket/a", &Vec::new()).unwrap().patience, PATIENCE);
    }
}
