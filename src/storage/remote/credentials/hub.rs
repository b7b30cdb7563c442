//! The Hugging Face hub: its token, as `huggingface_hub` looks for it.

use super::super::options::{Cloud, Origin, Setting, Settings, of_environment};
use super::{Environment, text_of};
use crate::error::Result;

const CLOUD: Cloud = Cloud::Hub;
const TOKEN: &str = "hf_token";

/// What was passed, and what is found where nothing was.
///
/// # Errors
/// `Io` for a file that cannot be read.
pub fn settle(mut settings: Settings, environment: &Environment) -> Result<Settings> {
    if settings.take("hf_anon").map_or(Ok(false), |anonymous| anonymous.is_true())? {
        settings.take(TOKEN);
        return Ok(settings);
    }
    // As huggingface_hub has it: False for none, True for that of the login.
    match settings.value(TOKEN) {
        Some("false") => {
            settings.take(TOKEN);
            return Ok(settings);
        }
        Some("true") => drop(settings.take(TOKEN)),
        _ => {}
    }
    let is_explicit = |value: &str| ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str());
    let only_passed = environment.get("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(is_explicit);
    settings.add(of_environment(CLOUD, environment).into_iter().filter(|s| !(only_passed && s.key == TOKEN)));
    if settings.get(TOKEN).is_none() && !only_passed {
        settings.add(of_login(environment)?);
    }
    Ok(settings)
}

/// The token that `hf auth login` wrote.
fn of_login(environment: &Environment) -> Result<Option<Setting>> {
    let folder = || {
        let home = environment.get("HF_HOME").map(|folder| environment.expanded(folder));
        let cache = || environment.get("XDG_CACHE_HOME").map(|folder| environment.expanded(folder).join("huggingface"));
        home.or_else(cache).or_else(|| environment.at_home(".cache/huggingface"))
    };
    let path = environment.get("HF_TOKEN_PATH").map(|path| environment.expanded(path));
    let Some(path) = path.or_else(|| folder().map(|folder| folder.join("token"))) else { return Ok(None) };
    let token = text_of(&path, "the hub's token")?;
    let token = token.as_deref().map(str::trim).filter(|token| !token.is_empty());
    let origin = || Origin::File(format!("'{}', which `hf auth login` wrote", path.display()));
    Ok(CLOUD.find(TOKEN).zip(token).map(|(key, token)| Setting::new(key, token, origin())))
}
