//! S3: keys of the environment, a web identity, a profile, a container's role, and last the machine's.

use std::path::PathBuf;

use super::super::options::{Cloud, Origin, Part, Setting, Settings, of_environment};
use super::ini::{Section, sections};
use super::{Environment, text_of};
use crate::error::{DaoError, ErrorKind, Result};

const CLOUD: Cloud = Cloud::S3;
const KEYS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

/// What was passed, and what is found where nothing was.
///
/// # Errors
/// `Value` for keys of which one is missing, a profile that is not there, or of a kind that is not known here; `Io`.
pub fn settle(mut settings: Settings, environment: &Environment) -> Result<Settings> {
    as_boto_says(&mut settings)?;
    let asked = settings.take("aws_profile");
    complete(&settings.0)?;
    if settings.get("aws_role_arn").is_some() && settings.get("aws_web_identity_token_file").is_none() {
        return Err(DaoError::value("a role to assume is known with aws_web_identity_token_file alone").hint(
            "assume it outside, `aws sts assume-role`, and give the keys; or give its profile's: `aws configure \
             export-credentials --profile NAME`",
        ));
    }
    let mut found = of_environment(CLOUD, environment);
    let of_container = |setting: &Setting| setting.key.starts_with("aws_container_");
    let container: Vec<Setting> = found.extract_if(.., |setting| of_container(setting)).collect();
    let named = found.extract_if(.., |setting| setting.key == "aws_profile").next();
    if found.iter().all(|setting| setting.key != "aws_web_identity_token_file") {
        found.retain(|setting| !setting.key.starts_with("aws_role_"));
    }
    complete(&found)?;
    let files = |settings: &Settings| Files::new(settings, &found, environment);
    if asked.is_some() {
        let (profile, lacking) = files(&settings).profile(asked.as_ref())?;
        settings.add(profile);
        if let (None, Some(error)) = (settings.who(), lacking) {
            return Err(error);
        }
        settings.add(found);
    } else {
        let files = files(&settings);
        settings.add(found);
        let is_known = settings.who().is_some();
        let has_all = is_known && settings.has(Part::Endpoint) && settings.has(Part::Region);
        if !has_all {
            match files.profile(named.as_ref()) {
                Ok((profile, lacking)) => {
                    settings.add(profile);
                    if let (None, Some(error)) = (settings.who(), lacking) {
                        return Err(error);
                    }
                }
                // Who asks is known: a profile that nobody asked for is not needed.
                Err(_) if is_known && named.is_none() => {}
                Err(e) => return Err(e),
            }
        }
    }
    if settings.who().is_none() {
        check_container(&container)?;
        settings.add(container);
    }
    settings.0.retain(|setting| !["aws_shared_credentials_file", "aws_config_file"].contains(&setting.key));
    Ok(settings)
}

/// What s3fs and boto3 call otherwise.
fn as_boto_says(settings: &mut Settings) -> Result<()> {
    for (theirs, ours) in [("use_ssl", "allow_http"), ("verify", "allow_invalid_certificates")] {
        if let Some(setting) = settings.take(theirs)
            && !setting.is_true()?
            && settings.get(ours).is_none()
        {
            settings.0.extend(setting.made(CLOUD, ours, "true"));
        }
    }
    Ok(())
}

/// Refuses keys of one layer of which one is missing.
fn complete(layer: &[Setting]) -> Result<()> {
    let of = |key: &str| layer.iter().find(|setting| setting.key == key);
    let [id, secret, token] = KEYS.map(of);
    let (there, missing) = match (id, secret, token) {
        (Some(there), None, _) => (there, KEYS[1]),
        (None, Some(there), _) | (None, None, Some(there)) => (there, KEYS[0]),
        _ => return Ok(()),
    };
    let error = DaoError::value(format!("{} needs {missing} beside it, which is not there", there.from));
    Err(match &there.from {
        Origin::Option(name) if name == "token" => {
            error.hint("give both; a token for gs://, az:// or hf:// is called bearer_token or hf_token")
        }
        _ => error.hint("give both in the same place: keys are never put together from several"),
    })
}

/// Refuses a container's role that `object_store` would pass over.
fn check_container(found: &[Setting]) -> Result<()> {
    let has = |key: &str| found.iter().any(|setting| setting.key == key);
    if has("aws_container_credentials_full_uri") && !has("aws_container_authorization_token_file") {
        return Err(DaoError::value(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI is known with AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE alone",
        )
        .hint("give the keys themselves: `aws configure export-credentials`"));
    }
    Ok(())
}

/// A profile's settings, and the error for credentials that it has in a way that is not known here.
type Profile = (Vec<Setting>, Option<DaoError>);

/// The two files of profiles.
struct Files {
    credentials: Option<PathBuf>,
    config: Option<PathBuf>,
}

impl Files {
    fn new(settings: &Settings, found: &[Setting], environment: &Environment) -> Self {
        let said = |key: &str| settings.get(key).or_else(|| found.iter().find(|setting| setting.key == key));
        let file = |key: &str, usual: &str| {
            said(key).map_or_else(|| environment.at_home(usual), |setting| Some(environment.expanded(&setting.value)))
        };
        Self {
            credentials: file("aws_shared_credentials_file", ".aws/credentials"),
            config: file("aws_config_file", ".aws/config"),
        }
    }

    /// What the profile of that name says, or the usual one, where there is one.
    fn profile(&self, asked: Option<&Setting>) -> Result<Profile> {
        let name = asked.map_or("default", |setting| setting.value.as_str());
        let (mut found, mut names, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for (path, is_config) in [(&self.credentials, false), (&self.config, true)] {
            let Some(path) = path else { continue };
            let Some(text) = text_of(path, "the file of profiles")? else { continue };
            let place = format!("path '{}'", path.display());
            for section in sections(&text).map_err(|e| e.at(place.clone()))? {
                let called = profile_name(&section.name, is_config).map(str::to_owned);
                if let Some(called) = called {
                    if called == name {
                        found.push((section, format!("profile '{name}' of '{}'", path.display())));
                    } else {
                        names.push(called);
                        all.push(section);
                    }
                } else {
                    all.push(section);
                }
            }
        }
        if let (true, Some(asked)) = (found.is_empty(), asked) {
            return Err(self.no_profile(asked, names));
        }
        settings_of(name, &found, &all)
    }

    fn no_profile(&self, asked: &Setting, mut names: Vec<String>) -> DaoError {
        names.sort_unstable();
        names.dedup();
        let shown =
            |path: &Option<PathBuf>| path.as_ref().map_or_else(String::new, |path| format!("'{}'", path.display()));
        let listed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        DaoError::new(ErrorKind::Value, format!("no profile '{}', which {} asks for", asked.value, asked.from))
            .expected(format!("one of {} or {}", shown(&self.credentials), shown(&self.config)))
            .found(listed)
            .hint("write the name of one of these, or make it: `aws configure --profile NAME`")
    }
}

/// The profile that a section is of. Elsewhere than in `config` each section is one.
fn profile_name(section: &str, is_config: bool) -> Option<&str> {
    match (section, is_config) {
        (name, false) => Some(name),
        ("default", true) => Some("default"),
        (name, true) => name.strip_prefix("profile "),
    }
}

/// A profile's sections as settings; those of the credentials' file are before the other's.
fn settings_of(name: &str, found: &[(Section, String)], others: &[Section]) -> Result<Profile> {
    let value = |key: &str| found.iter().find_map(|(section, place)| Some((section.get(key)?, place)));
    let (mut settings, mut lacking) = (Vec::new(), None);
    let mut take = |key: &str, value: Option<(&str, &String)>| {
        if let (Some(key), Some((value, place))) = (CLOUD.find(key), value) {
            settings.push(Setting::new(key, value, Origin::File(place.clone())));
        }
    };
    let endpoint = value("s3.endpoint_url").or_else(|| {
        let (services, place) = value("services")?;
        let section = others.iter().find(|section| section.name == format!("services {services}"))?;
        Some((section.get("s3.endpoint_url")?, place))
    });
    take("aws_endpoint_url", endpoint.or_else(|| value("endpoint_url")));
    take("aws_region", value("region"));
    // The three keys are of one section.
    if let Some((section, place)) = found.iter().find(|(section, _)| section.get("aws_access_key_id").is_some()) {
        KEYS.iter().for_each(|key| take(key, section.get(key).map(|value| (value, place))));
    } else if let (Some(file), Some(role)) = (value("web_identity_token_file"), value("role_arn")) {
        take("aws_web_identity_token_file", Some(file));
        take("aws_role_arn", Some(role));
        take("aws_role_session_name", value("role_session_name"));
    } else {
        let unknown = ["credential_process", "sso_session", "sso_start_url", "role_arn", "login_session"];
        if let Some((key, (_, place))) = unknown.iter().find_map(|&key| Some((key, value(key)?))) {
            let what = format!("{place} has its credentials by {key}, which is not known here");
            lacking = Some(DaoError::value(what).hint(format!(
                "put keys into the environment, which last as long as the login: \
                 eval \"$(aws configure export-credentials --profile {name} --format env)\""
            )));
        }
    }
    complete(&settings)?;
    Ok((settings, lacking))
}
