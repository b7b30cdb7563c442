//! Google: a service account, application default credentials, a token; last the machine's role.

use std::path::Path;

use super::super::options::{Cloud, Origin, Part, Setting, Settings, of_environment};
use super::{Environment, text_of};
use crate::error::{DaoError, ErrorKind, Result};

const CLOUD: Cloud = Cloud::Google;
const FILES: [&str; 2] = ["google_service_account", "google_application_credentials"];
const ANONYMOUS: &str = "google_skip_signature";

/// What was passed, and what is found where nothing was.
///
/// # Errors
/// `NotFound`, `Io` or `Value` for a file of credentials that is not there, or not of a kind that is known.
pub fn settle(mut settings: Settings, environment: &Environment) -> Result<Settings> {
    as_gcsfs_says(&mut settings, environment)?;
    settings.take("google_project");
    let mut found = of_environment(CLOUD, environment);
    let variable = |name: &str, key: &str| {
        let value = environment.get(name)?;
        CLOUD.find(key).map(|key| Setting::new(key, value, Origin::Variable(name.to_owned())))
    };
    found.extend(variable("SERVICE_ACCOUNT", "google_service_account"));
    // A server for tests, at which nobody logs in.
    let emulator = variable("STORAGE_EMULATOR_HOST", "google_base_url").map(|mut at| {
        if !at.value.contains("://") {
            at.value.insert_str(0, "http://");
        }
        at
    });
    let is_emulated = emulator.is_some() && !settings.has(Part::Endpoint);
    if is_emulated && settings.who().is_none() {
        settings.add(emulator.as_ref().and_then(|at| at.made(CLOUD, ANONYMOUS, "true")));
    }
    settings.add(emulator);
    settings.add(found);
    if settings.who().is_none() {
        settings.add(of_gcloud(environment));
    }
    // Of both the text counts: object_store refuses two.
    if settings.get("google_service_account_key").is_some() {
        settings.take(FILES[0]);
    }
    for setting in settings.0.iter_mut().filter(|setting| FILES.contains(&setting.key)) {
        let path = environment.expanded(&setting.value);
        check(&path, setting)?;
        setting.value = path.display().to_string();
    }
    Ok(settings)
}

/// What gcsfs calls a token: a word, a file, a dict as JSON, or a token.
fn as_gcsfs_says(settings: &mut Settings, environment: &Environment) -> Result<()> {
    let Some(token) = settings.take("google_token") else { return Ok(()) };
    let (key, value) = match token.value.as_str() {
        "anon" => (ANONYMOUS, "true"),
        "google_default" | "cloud" | "cache" => return Ok(()),
        "browser" => {
            return Err(DaoError::value(format!("{} asks for a login in a browser", token.from))
                .hint("log in with `gcloud auth application-default login`, and leave it out"));
        }
        text if text.trim_start().starts_with('{') => ("google_service_account_key", text),
        text if environment.expanded(text).is_file() || text.ends_with(".json") => (FILES[1], text),
        text => ("google_bearer_token", text),
    };
    if settings.get(key).is_none() {
        settings.0.extend(token.made(CLOUD, key, value));
    }
    Ok(())
}

/// What `gcloud auth application-default login` wrote.
fn of_gcloud(environment: &Environment) -> Option<Setting> {
    let folder = environment.get("CLOUDSDK_CONFIG").map(|folder| environment.expanded(folder)).or_else(|| {
        if cfg!(windows) {
            environment.get("APPDATA").map(|folder| Path::new(folder).join("gcloud"))
        } else {
            environment.at_home(".config/gcloud")
        }
    })?;
    let path = folder.join("application_default_credentials.json");
    let key = CLOUD.find(FILES[1]).filter(|_| path.is_file())?;
    let path = path.display().to_string();
    Some(Setting::new(key, &path, Origin::File(format!("gcloud's file '{path}'"))))
}

/// Looks into a file of credentials, of which `object_store` says little when it is not one.
fn check(path: &Path, setting: &Setting) -> Result<()> {
    let at = |error: DaoError| error.at(format!("path '{}', which {} names", path.display(), setting.from));
    let missing = || {
        at(DaoError::new(ErrorKind::NotFound, "no such file of credentials")).hint(
            "write the path of a service account's JSON file, or of what `gcloud auth application-default login` wrote",
        )
    };
    let text = text_of(path, "the file of credentials")?.ok_or_else(missing)?;
    let found: serde_json::Value = serde_json::from_str(&text)
        .map_err(|_| at(DaoError::value("not a file of credentials: no JSON")).hint("download it again"))?;
    let kind = found.get("type").and_then(serde_json::Value::as_str);
    let (is_account, is_user) = (kind == Some("service_account"), kind == Some("authorized_user"));
    // What is written for a server that asks for nothing has no type.
    let (is_known, expected) = if setting.key == FILES[0] {
        (is_account || kind.is_none(), "a service_account")
    } else {
        (is_account || is_user, "a service_account or an authorized_user")
    };
    if is_known {
        return Ok(());
    }
    Err(at(DaoError::value("credentials of a kind that is not known here"))
        .expected(expected)
        .found(kind.unwrap_or("no \"type\""))
        .hint("give a token: storage_options={\"bearer_token\": …}, which `gcloud auth print-access-token` prints"))
}
