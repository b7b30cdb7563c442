//! Azure: a connection string, an account's key or signature, a principal of the environment, `az login`, a machine's identity.

use url::Url;

use super::super::options::{Cloud, Key, Origin, Part, Setting, Settings, of_environment};
use super::Environment;
use crate::error::{DaoError, Result};

const CLOUD: Cloud = Cloud::Azure;
const TEXT: &str = "azure_storage_connection_string";
const ACCOUNT: &str = "azure_storage_account_name";

/// What was passed, and what is found where nothing was.
///
/// # Errors
/// `Value` for a connection string that cannot be understood, or without an account.
pub fn settle(mut settings: Settings, url: &Url, environment: &Environment) -> Result<Settings> {
    expand(&mut settings, true)?;
    let mut found = Settings::default();
    found.add(of_environment(CLOUD, environment));
    expand(&mut found, false)?;
    let account = account_of(url).or_else(|| settings.value(ACCOUNT));
    // Keys and servers of one account are no use to another; principals may be.
    if let (Some(asked), Some(theirs)) = (account, found.value(ACCOUNT))
        && asked != theirs
    {
        let of_account = ["azure_storage_account_key", "azure_storage_sas_key", "azure_storage_endpoint", ACCOUNT];
        found.0.retain(|setting| !of_account.contains(&setting.key));
    }
    settings.add(found.0);
    if let Some(endpoint) = environment.get("IDENTITY_ENDPOINT").filter(|_| settings.who().is_none()) {
        let origin = Origin::Variable("IDENTITY_ENDPOINT".to_owned());
        settings.add(CLOUD.find("azure_msi_endpoint").map(|key| Setting::new(key, endpoint, origin)));
    } else if settings.who().is_none() && settings.get("azure_msi_endpoint").is_none() {
        settings.add(logged_in(environment));
    }
    let is_known = settings.get(ACCOUNT).is_some() || account_of(url).is_some();
    if !is_known && !settings.is_true("azure_storage_use_emulator")? {
        return Err(DaoError::value("the account of Azure is not known").at(format!("'{url}'")).hint(
            "give storage_options={\"account_name\": …}, or AZURE_STORAGE_ACCOUNT_NAME in the environment, or write \
                   abfss://container@account.dfs.core.windows.net/…",
        ));
    }
    Ok(settings)
}

/// The account that an address names.
fn account_of(url: &Url) -> Option<&str> {
    let host = url.host_str()?;
    let names_it = !url.username().is_empty() || url.scheme() == "https";
    host.split('.').next().filter(|_| names_it)
}

/// The Azure CLI, where somebody logged in with it.
fn logged_in(environment: &Environment) -> Option<Setting> {
    let folder = environment.get("AZURE_CONFIG_DIR").map(|folder| environment.expanded(folder));
    let profile = folder.or_else(|| environment.at_home(".azure"))?.join("azureProfile.json");
    let place = format!("`az login`, whose file is '{}'", profile.display());
    let key = CLOUD.find("azure_use_azure_cli").filter(|_| profile.is_file())?;
    Some(Setting::new(key, "true", Origin::File(place)))
}

/// Puts what a connection string says in its place. What else was passed may not contradict it; of the environment it is
/// the string that counts.
fn expand(settings: &mut Settings, was_passed: bool) -> Result<()> {
    let Some(text) = settings.take(TEXT) else { return Ok(()) };
    let parts = parts_of(&text)?;
    for part in &parts {
        if let Some(other) = settings.get(part.key).filter(|other| was_passed && other.value != part.value) {
            return Err(DaoError::value(format!("{} and {} differ in {}", text.from, other.from, part.key))
                .hint("give one of them"));
        }
    }
    let has_endpoint = parts.iter().any(|part| part.part == Part::Endpoint);
    settings.0.retain(|other| {
        let is_same = parts.iter().any(|part| part.key == other.key);
        !is_same && (was_passed || !(other.part == Part::Who || (has_endpoint && other.part == Part::Endpoint)))
    });
    settings.0.extend(parts);
    Ok(())
}

/// The settings in a connection string.
fn parts_of(text: &Setting) -> Result<Vec<Setting>> {
    let wrong = |what: &str| {
        DaoError::value(format!("{} {what}", text.from))
            .expected("DefaultEndpointsProtocol=https;AccountName=…;AccountKey=…, as the portal shows it")
            .hint("copy it again; it is not shown here, as it is secret")
    };
    let mut pairs: Vec<(String, &str)> = Vec::new();
    for part in text.value.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or_else(|| wrong("is no connection string"))?;
        pairs.push((name.trim().to_ascii_lowercase(), value.trim()));
    }
    let get = |name: &str| pairs.iter().find(|(other, _)| other == name).map(|&(_, value)| value);
    let mut found = Vec::new();
    let mut put = |name: &str, value: Option<&str>| {
        let key: Option<&Key> = CLOUD.find(name);
        found.extend(key.zip(value).map(|(key, value)| Setting::new(key, value, text.from.clone())));
    };
    if get("usedevelopmentstorage").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        put("azure_storage_use_emulator", Some("true"));
        return Ok(found);
    }
    let blob = get("blobendpoint").map(|endpoint| endpoint.trim_end_matches('/'));
    // An address of the blobs alone, which has the account as its first name.
    let of_address = blob.and_then(|blob| {
        let host = blob.split("://").nth(1)?.split('/').next()?;
        host.contains(".blob.").then(|| host.split('.').next()).flatten()
    });
    let account = get("accountname").or(of_address).ok_or_else(|| wrong("names no account"))?;
    let protocol = get("defaultendpointsprotocol").unwrap_or("https");
    let suffix = get("endpointsuffix").unwrap_or("core.windows.net");
    let elsewhere =
        (protocol != "https" || suffix != "core.windows.net").then(|| format!("{protocol}://{account}.blob.{suffix}"));
    put(ACCOUNT, Some(account));
    put("azure_storage_account_key", get("accountkey"));
    put("azure_storage_sas_key", get("sharedaccesssignature"));
    put("azure_storage_endpoint", blob.or(elsewhere.as_deref()));
    Ok(found)
}
