//! [`Settings`]: where the hub and its cache are.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fmt, fs};

use crate::{Error, Result};

/// Where the hub and its cache are, and what it may do.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Address of the hub, or of a mirror.
    pub endpoint: String,
    /// Secret that opens what is not open to all.
    pub token: Option<String>,
    /// Folder of the cache.
    pub cache: PathBuf,
    /// Whether the cache must do, without network.
    pub offline: bool,
    /// Pause before a failed request is made again, doubled each time.
    pub pause: Duration,
}

/// Without the token.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, token, cache, offline, pause } = self;
        f.debug_struct("Settings")
            .field("endpoint", endpoint)
            .field("token", &token.as_ref().map(|_| "(secret)"))
            .field("cache", cache)
            .field("offline", offline)
            .field("pause", pause)
            .finish()
    }
}

impl Settings {
    /// The public hub, no token, and this folder as cache.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: "https://huggingface.co".into(),
            token: None,
            cache: cache.into(),
            offline: false,
            pause: Duration::from_secs(1),
        }
    }

    /// Settings by these variables of the environment.
    ///
    /// | variable | what it says | without it |
    /// | --- | --- | --- |
    /// | `HF_HOME` | folder of cache and token | `~/.cache/huggingface` |
    /// | `HF_TOKEN` | token | the file `token` in `HF_HOME` |
    /// | `HF_ENDPOINT` | address | the public hub |
    /// | `HF_HUB_OFFLINE` | 1, true, yes or on: no network | network |
    ///
    /// # Errors
    /// When there is neither `HF_HOME` nor a home folder.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| env::var(name).ok(), env::home_dir())
    }

    /// Settings by variables that are given, and the home folder.
    ///
    /// # Errors
    /// When there is neither `HF_HOME` nor a home folder.
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
        home: Option<PathBuf>,
    ) -> Result<Self> {
        let variable =
            |name| variable(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let default = || Some(home?.join(".cache").join("huggingface"));
        let Some(home) = variable("HF_HOME").map(PathBuf::from).or_else(default) else {
            let expected = "no home folder for the cache of the hub; give one";
            return Err(Error::config("HF_HOME", "(unset)", expected));
        };
        let file = || fs::read_to_string(home.join("token")).ok().map(|t| t.trim().to_string());
        let token = variable("HF_TOKEN").or_else(file).filter(|token| !token.is_empty());
        let on = |value: String| ["1", "true", "yes", "on"].contains(&&*value.to_lowercase());
        let mut settings = Self::new(home.join("hub"));
        if let Some(endpoint) = variable("HF_ENDPOINT") {
            settings.endpoint = endpoint;
        }
        Ok(Self { token, offline: variable("HF_HUB_OFFLINE").is_some_and(on), ..settings })
    }
}
