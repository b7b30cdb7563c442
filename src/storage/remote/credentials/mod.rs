//! Where credentials are looked for: what was passed, the environment, files of profiles, and then roles of the machine.
//!
//! Owns the order of these for each cloud ([`aws`], [`azure`], [`google`], [`hub`]), and the files that they keep them in.
//! Roles are `object_store`'s to ask for.

mod aws;
mod azure;
mod google;
mod hub;
mod ini;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use url::Url;

use super::super::StorageOptions;
use super::options::{Cloud, Settings, passed};
use crate::error::{DaoError, Result};

/// The variables that a process was started with.
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Self {
        let all = std::env::vars_os();
        Self(all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect())
    }

    #[cfg(test)]
    pub fn of(variables: &[(&str, &str)]) -> Self {
        Self(variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// A variable. One that is empty is none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Names and values, sorted.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).filter(|(_, value)| !value.is_empty())
    }

    /// A path in the user's folder.
    pub fn at_home(&self, path: &str) -> Option<PathBuf> {
        let home = self.get(if cfg!(windows) { "USERPROFILE" } else { "HOME" })?;
        Some(Path::new(home).join(path))
    }

    /// A path as a user writes it.
    pub fn expanded(&self, path: &str) -> PathBuf {
        path.strip_prefix("~/").and_then(|below| self.at_home(below)).unwrap_or_else(|| PathBuf::from(path))
    }
}

/// All settings for a place: its options, and who it is asked as.
///
/// # Errors
/// `Value` for options that cannot be used, `NotFound`, `Io` or `Value` for files of credentials.
pub fn settle(cloud: Cloud, url: &Url, options: &StorageOptions, environment: &Environment) -> Result<Settings> {
    let passed = passed(cloud, options)?;
    let mut settings = match cloud {
        Cloud::S3 => aws::settle(passed, environment)?,
        Cloud::Azure => azure::settle(passed, url, environment)?,
        Cloud::Google => google::settle(passed, environment)?,
        Cloud::Hub => hub::settle(passed, environment)?,
        Cloud::Web => passed,
    };
    settings.allow_http_as_written(cloud);
    Ok(settings)
}

/// What to do where a server refuses: it says who was asked as, never with what.
pub fn advice(cloud: Cloud, settings: &Settings) -> String {
    const CHECK: &str = "check the network, the address";
    if let Some(who) = settings.who() {
        return format!("{CHECK} and the credentials, which are those of {}", who.from);
    }
    match cloud {
        Cloud::S3 => format!(
            "{CHECK}, and give credentials: none are in storage_options, the environment or a profile. For a public bucket \
             write storage_options={{\"anon\": True}}"
        ),
        Cloud::Google => format!(
            "{CHECK}, and give credentials: none are in storage_options, the environment or gcloud's files. For a public \
             bucket write storage_options={{\"anon\": True}}"
        ),
        Cloud::Azure => format!(
            "{CHECK}, and give credentials: none are in storage_options or the environment. For a public container write \
             storage_options={{\"anon\": True}}"
        ),
        Cloud::Hub => format!("{CHECK}, and give a token where it is private or gated: HF_TOKEN, or `hf auth login`"),
        Cloud::Web => format!("{CHECK} and storage_options"),
    }
}

/// The text of a file of credentials; `None` where there is none.
///
/// # Errors
/// `Io` for one that cannot be read, `Value` for one that is no text.
fn text_of(path: &Path, what: &str) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8(bytes).map_err(|_| {
            DaoError::value(format!("{what} is no text in UTF-8"))
                .at(format!("path '{}'", path.display()))
                .hint("write it again with the tool that made it")
        })?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(DaoError::io(path, &format!("reading {what}"), &e)),
    }
}

#[cfg(test)]
mod tests;
