//! What users say of servers and credentials, in whatever words, as settings of one place.
//!
//! Owns the names and forms of options, and who wins: what was passed, then the environment, then files of profiles. What
//! of it says who asks comes from one of these alone. Where credentials are looked for is [`super::credentials`]'.

pub mod keys;

use std::fmt;

use super::super::StorageOptions;
use super::credentials::Environment;
use crate::error::{DaoError, Result};
pub use keys::{Cloud, Key, Part};

/// Where a setting comes from, for errors.
#[derive(Clone, PartialEq, Eq)]
pub enum Origin {
    /// An option, as it was spelled.
    Option(String),
    Variable(String),
    /// A file, and what of it.
    File(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(name) => write!(f, "storage_options[\"{name}\"]"),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::File(place) => f.write_str(place),
        }
    }
}

/// An option with its value, which may be secret.
#[derive(Clone)]
pub struct Setting {
    pub key: &'static str,
    pub part: Part,
    pub value: String,
    pub from: Origin,
}

// Without its value.
impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.key, self.from)
    }
}

impl Setting {
    pub fn new(key: &Key, value: &str, from: Origin) -> Self {
        Self { key: key.name, part: key.part, value: seconds(key, value), from }
    }

    /// A setting that follows from this one.
    pub fn made(&self, cloud: Cloud, key: &str, value: &str) -> Option<Self> {
        cloud.find(key).map(|key| Self::new(key, value, self.from.clone()))
    }

    /// Its value as a truth.
    ///
    /// # Errors
    /// `Value` for another.
    pub fn is_true(&self) -> Result<bool> {
        match self.value.to_ascii_lowercase().as_str() {
            "1" | "true" | "on" | "yes" | "y" => Ok(true),
            "0" | "false" | "off" | "no" | "n" => Ok(false),
            _ => Err(self.malformed().expected("true or false")),
        }
    }

    /// Whether it says who asks. That somebody is *not* nobody does not say who it is.
    fn says_who(&self) -> bool {
        let is_switch = self.key.ends_with("skip_signature") || matches!(self.key, "azure_use_azure_cli" | "hf_anon");
        self.part == Part::Who && !(is_switch && self.is_true().is_ok_and(|yes| !yes))
    }

    /// The error for a value that cannot be used, which it does not show.
    pub fn malformed(&self) -> DaoError {
        DaoError::value(format!("{} has a value that cannot be used", self.from))
            .hint("see 'Stores behind URLs' in the guides for its form; it is not shown here, as it may be secret")
    }
}

/// A span of time as `object_store` reads it: a number alone is one of seconds.
fn seconds(key: &Key, value: &str) -> String {
    match value.trim().parse::<f64>() {
        Ok(number) if key.part == Part::Time && number.is_finite() && number >= 0.0 => {
            format!("{}us", (number * 1e6).round())
        }
        _ => value.to_owned(),
    }
}

/// What was found so far; the first to say something wins.
#[derive(Default)]
pub struct Settings(pub Vec<Setting>);

impl Settings {
    pub fn get(&self, key: &str) -> Option<&Setting> {
        self.0.iter().find(|setting| setting.key == key)
    }

    pub fn value(&self, key: &str) -> Option<&str> {
        self.get(key).map(|setting| setting.value.as_str())
    }

    /// Whether it is said to be so.
    ///
    /// # Errors
    /// `Value` for a value that is no truth.
    pub fn is_true(&self, key: &str) -> Result<bool> {
        self.get(key).map_or(Ok(false), Setting::is_true)
    }

    /// Takes a setting out.
    pub fn take(&mut self, key: &str) -> Option<Setting> {
        let at = self.0.iter().position(|setting| setting.key == key)?;
        Some(self.0.remove(at))
    }

    /// What says who asks, if anything does.
    pub fn who(&self) -> Option<&Setting> {
        self.0.iter().find(|setting| setting.says_who())
    }

    pub fn has(&self, part: Part) -> bool {
        self.0.iter().any(|setting| setting.part == part)
    }

    /// Adds what another layer says of things that nothing was said about.
    pub fn add(&mut self, layer: impl IntoIterator<Item = Setting>) {
        let said = [
            (Part::Who, self.who().is_some()),
            (Part::Endpoint, self.has(Part::Endpoint)),
            (Part::Region, self.has(Part::Region)),
        ];
        let known: Vec<&str> = self.0.iter().map(|setting| setting.key).collect();
        let is_new = |setting: &Setting| {
            !known.contains(&setting.key) && !said.contains(&(setting.part, true)) && !setting.value.is_empty()
        };
        let new: Vec<Setting> = layer.into_iter().filter(is_new).collect();
        self.0.extend(new);
    }

    /// Allows plain HTTP where the server's address says so, and nothing else was said.
    pub fn allow_http_as_written(&mut self, cloud: Cloud) {
        let plain = |s: &&Setting| s.part == Part::Endpoint && s.value.to_ascii_lowercase().starts_with("http://");
        if self.get("allow_http").is_none()
            && let Some(plain) = self.0.iter().find(plain)
        {
            let allowed = plain.made(cloud, "allow_http", "true");
            self.0.extend(allowed);
        }
    }
}

/// The options that were passed, as far as they are of this cloud. Those of others are nobody's mistake.
///
/// # Errors
/// `Value` for a name that nobody knows, a value that is empty, or two for one thing.
pub fn passed(cloud: Cloud, options: &StorageOptions) -> Result<Settings> {
    let mut options: Vec<&(String, String)> = options.iter().collect();
    options.sort_unstable();
    let mut found = Settings::default();
    for (name, value) in options {
        let lower = name.to_ascii_lowercase();
        let Some(key) = cloud.find(&lower) else {
            if keys::is_known(&lower) {
                continue;
            }
            return Err(keys::unknown(name));
        };
        let setting = Setting::new(key, value, Origin::Option(name.clone()));
        if value.is_empty() && key.part == Part::Who {
            return Err(DaoError::value(format!("{} is empty", setting.from)).hint("give a value, or leave it out"));
        }
        match found.get(key.name) {
            Some(same) if same.value == setting.value => {}
            Some(other) => {
                return Err(DaoError::value(format!("{} and {} differ, and mean the same", other.from, setting.from))
                    .hint("give one of them"));
            }
            None => found.0.push(setting),
        }
    }
    Ok(found)
}

/// The variables of the environment that are settings of this cloud.
pub fn of_environment(cloud: Cloud, environment: &Environment) -> Vec<Setting> {
    let is_bucket = |key: &Key| ["aws_bucket", "google_bucket", "azure_container_name"].contains(&key.name);
    let all = environment.all().filter_map(|(name, value)| {
        let lower = name.to_ascii_lowercase();
        let key = cloud
            .find(&lower)
            .filter(|key| name.starts_with(&cloud.prefix().to_ascii_uppercase()) && !is_bucket(key))?;
        Some(Setting::new(key, value, Origin::Variable(name.to_owned())))
    });
    // In the order of their names, of which the first wins.
    let mut found: Vec<Setting> = Vec::new();
    for setting in all {
        if found.iter().all(|other| other.key != setting.key) {
            found.push(setting);
        }
    }
    found
}
