//! An address and its options as a store of `object_store`.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::http::HttpBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreScheme, RetryConfig, StaticCredentialProvider};
use url::Url;

use super::super::StorageOptions;
use super::clients;
use super::credentials::{self, Environment};
use super::hub;
use super::options::{Cloud, Part, Setting, Settings};
use super::secrets::{PASSWORD, USERNAME};
use super::service::{Connector, Login};
use crate::error::{DaoError, Result};

/// The time for which one read may go without an answer, retries included.
const PATIENCE: Duration = Duration::from_mins(1);

/// A store, the path of its root in it, and how it is to be asked.
pub struct Built {
    pub store: Arc<dyn ObjectStore>,
    pub prefix: ObjectPath,
    /// How long one read may take.
    pub patience: Duration,
    /// All that it is asked with, also what was not passed: some of it is secret.
    pub settings: StorageOptions,
    /// Whether it can be listed and written to.
    pub is_bucket: bool,
    /// Whether nobody else writes, as its user says.
    pub has_one_writer: bool,
    /// What to do where it refuses.
    pub advice: String,
    /// What says, beside the address, whose objects they are: the server, the account.
    pub server: String,
}

/// The store at an address without secrets.
///
/// # Errors
/// `Value` for an unknown scheme, or options that cannot be used: they are named, and their values are not shown.
/// `NotFound`, `Io`, `Value` for files of credentials.
pub fn build(uri: &str, options: &StorageOptions, environment: &Environment) -> Result<Built> {
    let unusable = |e: &dyn std::fmt::Display| {
        DaoError::value(format!("cannot open '{uri}': {e}"))
            .hint("use a path, file://, s3://, gs://, az://, https:// or hf://datasets/…, and check storage_options")
    };
    let url = Url::parse(uri).map_err(|e| unusable(&e))?;
    let url = with_host_of_azure(&url).unwrap_or(url);
    let (cloud, mut prefix) = if url.scheme() == "hf" {
        (Cloud::Hub, ObjectPath::default())
    } else {
        let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|e| unusable(&e))?;
        (cloud_of(&scheme).ok_or_else(|| unusable(&format!("no store for {}://", url.scheme())))?, prefix)
    };
    let settings =
        credentials::settle(cloud, &url, options, environment).map_err(|e| e.at(format!("store '{uri}'")))?;
    let mut address = url.to_string();
    if cloud == Cloud::Hub {
        (address, prefix) = hub::resolved(uri, settings.value("hf_endpoint"))?;
    } else if cloud == Cloud::Web {
        address = url[..url::Position::BeforePath].to_owned();
    }
    let retry = retries(&settings).map_err(|e| e.at(format!("store '{uri}'")))?;
    let patience = retry.retry_timeout;
    let built = |settings: &[Setting]| store(cloud, &address, settings, &retry);
    let store = clients::client(cloud, &address, &settings.0, || built(&settings.0)).map_err(|e| {
        // An error of the address alone has no value of a setting in it.
        if settings.0.is_empty() {
            return unusable(&e);
        }
        bad_setting(&settings.0, &built).map_or_else(
            || unusable(&"storage_options do not fit it"),
            |bad| bad.malformed().at(format!("store '{uri}'")),
        )
    })?;
    let advice = credentials::advice(cloud, &settings);
    let has_one_writer = settings.is_true("one_writer").map_err(|e| e.at(format!("store '{uri}'")))?;
    let is_bucket = !matches!(cloud, Cloud::Web | Cloud::Hub);
    let server = server(&settings.0);
    let settings = settings.0.into_iter().map(|setting| (setting.key.to_owned(), setting.value)).collect();
    Ok(Built { store, prefix, patience, settings, is_bucket, has_one_writer, advice, server })
}

/// The settings that say which server, and whose objects on it, an address means; none of them is secret.
fn server(settings: &[Setting]) -> String {
    let says_where = |s: &&Setting| {
        s.part == Part::Endpoint || ["azure_storage_account_name", "aws_bucket", "google_bucket"].contains(&s.key)
    };
    // A password in the address of a server is nothing that may be written down.
    let value = |s: &Setting| super::secrets::shown(&s.value);
    let mut all: Vec<String> = settings.iter().filter(says_where).map(|s| format!("{}={}", s.key, value(s))).collect();
    all.sort_unstable();
    all.join(" ")
}

fn cloud_of(scheme: &ObjectStoreScheme) -> Option<Cloud> {
    match scheme {
        ObjectStoreScheme::AmazonS3 => Some(Cloud::S3),
        ObjectStoreScheme::GoogleCloudStorage => Some(Cloud::Google),
        ObjectStoreScheme::MicrosoftAzure => Some(Cloud::Azure),
        ObjectStoreScheme::Http => Some(Cloud::Web),
        _ => None,
    }
}

/// `az://container@account/…` with the account's whole host, without which `object_store` does not know it.
fn with_host_of_azure(url: &Url) -> Option<Url> {
    let account = url.host_str().filter(|host| !host.contains('.') && !url.username().is_empty())?;
    let is_azure = ["az", "abfs", "abfss"].contains(&url.scheme());
    let whole = format!("abfss://{}@{account}.dfs.core.windows.net{}", url.username(), url.path());
    Url::parse(&whole).ok().filter(|_| is_azure)
}

/// The one setting without which the store could be made.
fn bad_setting<'a>(
    settings: &'a [Setting],
    built: &impl Fn(&[Setting]) -> object_store::Result<Arc<dyn ObjectStore>>,
) -> Option<&'a Setting> {
    let without = |i: usize| [&settings[..i], &settings[i + 1..]].concat();
    (0..settings.len()).find(|&i| built(&without(i)).is_ok()).map(|i| &settings[i])
}

fn store(
    cloud: Cloud,
    address: &str,
    settings: &[Setting],
    retry: &RetryConfig,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let value = |wanted: &str| settings.iter().find(|s| s.key == wanted).map(|s| s.value.as_str());
    let is_true = |wanted: &str| settings.iter().any(|s| s.key == wanted && s.is_true().is_ok_and(|yes| yes));
    let login = match cloud {
        Cloud::Web => value(USERNAME).map(|user| Login::Password(user, value(PASSWORD).unwrap_or_default())),
        Cloud::Hub => value("hf_token").map(Login::Bearer),
        _ => None,
    };
    let connector = Connector::new(login, retry.retry_timeout, cloud);
    // Whoever writes http:// means it.
    let plain = address.starts_with("http://").then_some(("allow_http", "true"));
    let all = settings.iter().map(|setting| (setting.key, setting.value.as_str()));
    let all = plain.into_iter().chain(all);
    macro_rules! builder {
        ($builder:ty) => {
            all.fold(<$builder>::new().with_url(address), |builder, (key, value)| match key.parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder, // of the layers above
            })
            .with_retry(retry.clone())
            .with_http_connector(connector)
        };
    }
    Ok(match cloud {
        Cloud::S3 => Arc::new(builder!(AmazonS3Builder).build()?),
        Cloud::Azure => Arc::new(builder!(MicrosoftAzureBuilder).build()?),
        Cloud::Google => {
            let mut builder = builder!(GoogleCloudStorageBuilder);
            // Who is nobody needs no credentials, and a file with some need not be fit for use.
            let bearer = value("google_bearer_token").or_else(|| is_true("google_skip_signature").then_some(""));
            if let Some(bearer) = bearer {
                let credential = GcpCredential { bearer: bearer.to_owned() };
                builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)));
            }
            Arc::new(builder.build()?)
        }
        Cloud::Web | Cloud::Hub => Arc::new(builder!(HttpBuilder).build()?),
    })
}

/// How requests that fail are tried again, by the options that polars has for it.
fn retries(settings: &Settings) -> Result<RetryConfig> {
    let mut retry = RetryConfig { retry_timeout: PATIENCE, ..RetryConfig::default() };
    for setting in &settings.0 {
        let whole = || setting.value.trim().parse::<u32>().map_err(|_| setting.malformed().expected("a whole number"));
        let time = || whole().map(|milliseconds| Duration::from_millis(milliseconds.into()));
        match setting.key {
            "max_retries" => retry.max_retries = usize::try_from(whole()?).unwrap_or(usize::MAX),
            "retry_timeout_ms" => retry.retry_timeout = time()?,
            "retry_init_backoff_ms" => retry.backoff.init_backoff = time()?,
            "retry_max_backoff_ms" => retry.backoff.max_backoff = time()?,
            "retry_base_multiplier" => {
                let base = setting.value.trim().parse().ok().filter(|base: &f64| base.is_finite() && *base >= 1.0);
                retry.backoff.base = base.ok_or_else(|| setting.malformed().expected("a number from 1 on"))?;
            }
            _ => {}
        }
    }
    Ok(retry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(uri: &str, options: &[(&str, &str)]) -> Result<Built> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        build(uri, &options, &Environment::of(&[]))
    }

    #[test]
    fn malformed_options_are_named_and_not_shown() {
        for key in ["timeout", "max_retries", "retry_timeout_ms", "retry_base_multiplier"] {
            let error = built("http://host/a", &[("allow_http", "true"), (key, "hush")]).err().unwrap().to_string();
            assert!(error.contains(&format!("storage_options[\"{key}\"]")) && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn patience_is_an_option() {
        assert_eq!(
            built("http://host/a", &[("retry_timeout_ms", "1500")]).unwrap().patience,
            Duration::from_millis(1500)
        );
        assert_eq!(built("s3://bucket/a", &[]).unwrap().patience, PATIENCE);
    }

    #[test]
    fn a_place_is_a_bucket_whatever_its_address() {
        for (uri, prefix, is_bucket) in [
            ("s3://bucket/a/b", "a/b", true),
            ("https://s3.eu-central-1.amazonaws.com/bucket/a", "a", true),
            ("https://bucket.s3.eu-central-1.amazonaws.com/a", "a", true),
            ("https://id.r2.cloudflarestorage.com/bucket/a", "a", true),
            ("gs://bucket/a", "a", true),
            ("az://container/a", "a", true),
            ("az://container@account/a", "a", true),
            ("abfss://container@account.dfs.core.windows.net/a/b", "a/b", true),
            ("https://account.blob.core.windows.net/container/a", "a", true),
            ("https://host/a/b", "a/b", false),
            ("hf://datasets/lab/atlas@v1/a", "a", false),
        ] {
            let options: &[(&str, &str)] =
                if uri.starts_with("az://container/") { &[("account_name", "x")] } else { &[] };
            let built = built(uri, options).unwrap();
            assert_eq!((built.prefix.as_ref(), built.is_bucket), (prefix, is_bucket), "{uri}");
        }
    }

    #[test]
    fn a_list_of_settings_has_what_was_found_too() {
        let environment = Environment::of(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hush")]);
        let built = build("s3://bucket/a", &Vec::new(), &environment).unwrap();
        assert!(built.settings.contains(&("aws_secret_access_key".to_owned(), "hush".to_owned())));
        assert!(built.advice.contains("the environment variable AWS_ACCESS_KEY_ID") && !built.advice.contains("hush"));
    }
}
