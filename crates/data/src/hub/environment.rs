//! What hf-hub leaves of the environment: `~` in paths, blanks around a token, `HF_HUB_OFFLINE`.

use std::path::PathBuf;
use std::{env, fs};

use hf_hub::{HFClient, HFClientBuilder};

pub(super) fn is_offline() -> bool {
    is_on("HF_HUB_OFFLINE")
}

fn is_on(name: &str) -> bool {
    let on = |value: String| ["1", "true", "yes", "on"].contains(&&*value.to_lowercase());
    variable(name).is_some_and(on)
}

pub(super) fn cache() -> PathBuf {
    expand(hf_hub::resolve_cache_dir())
}

/// The settings of a client.
pub(super) fn client() -> HFClientBuilder {
    let settings = HFClient::builder().cache_dir(cache());
    match token() {
        Some(token) => settings.token(token),
        None => settings,
    }
}

fn token() -> Option<String> {
    if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return None;
    }
    variable("HF_TOKEN").or_else(|| {
        let path = variable("HF_TOKEN_PATH").map(PathBuf::from);
        let path = path.unwrap_or_else(|| hf_hub::hf_home().join("token"));
        filled(fs::read_to_string(expand(path)).ok()?)
    })
}

fn variable(name: &str) -> Option<String> {
    filled(env::var(name).ok()?)
}

fn filled(value: String) -> Option<String> {
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_string())
}

/// `~` is the home folder.
fn expand(path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}
