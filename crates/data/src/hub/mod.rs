//! Data sets and models of the Hugging Face hub as local files.
//!
//! [`hf_hub`] asks the hub and fetches; the layer here is what it lacks: offline runs, size and hash of
//! every file before it enters the cache, downloads that go on where they broke off, and one error for
//! each cause. The cache is the one that all programs of the hub share. Feature `hub`.
//!
//! ```no_run
//! use conditioned_data::hub::Hub;
//! use conditioned_data::{Corpus, Layout};
//!
//! let hub = Hub::from_env()?;
//! let train = |path: &str| path.starts_with("data/train-") && path.ends_with(".parquet");
//! for file in hub.dataset("roneneldan/TinyStories", "main", train)? {
//!     for story in Corpus::open(file, Layout::Parquet("text".into()))?.documents() {
//!         let _tokens = story?.len();
//!     }
//! }
//! let folder = hub.model("openai-community/gpt2", "main", &["model.safetensors"])?;
//! assert!(folder.join("model.safetensors").exists());
//! # Ok::<(), conditioned_data::Error>(())
//! ```

mod candle;
mod content;
mod download;
mod environment;
mod problem;
mod repository;
mod sets;
mod snapshot;

use std::path::PathBuf;
use std::time::Duration;

use hf_hub::HFClientSync;

pub use hf_hub::HFClientBuilder;

use crate::{Error, Result};

/// A server that is silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// The hub and its cache.
#[derive(Debug)]
pub struct Hub {
    cache: PathBuf,
    /// None where the cache must do.
    online: Option<Online>,
}

#[derive(Debug)]
struct Online {
    client: HFClientSync,
    endpoint: String,
}

impl Hub {
    /// A hub by these variables of the environment.
    ///
    /// | variable | what it says | without it |
    /// | --- | --- | --- |
    /// | `HF_HOME` | folder of cache and token | `~/.cache/huggingface` |
    /// | `HF_HUB_CACHE` | folder of the cache | the folder `hub` in `HF_HOME` |
    /// | `HF_TOKEN` | token | the file `HF_TOKEN_PATH`, or `token` in `HF_HOME` |
    /// | `HF_ENDPOINT` | address | the public hub |
    /// | `HF_HUB_OFFLINE` | 1, true, yes or on: no network | network |
    /// | `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY` | proxies | none |
    /// | `SSL_CERT_FILE` | certificate authorities | those of the system |
    ///
    /// # Errors
    /// When the address is none, or the certificate authorities cannot be read.
    pub fn from_env() -> Result<Self> {
        if environment::is_offline() {
            return Ok(Self::offline(environment::cache()));
        }
        Self::new(environment::client())
    }

    /// A hub by settings; what they leave out is as the environment says.
    ///
    /// # Errors
    /// As with [`from_env`](Self::from_env).
    pub fn new(settings: HFClientBuilder) -> Result<Self> {
        let connections = reqwest::Client::builder()
            .connect_timeout(SILENCE)
            .read_timeout(SILENCE)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = connections.map_err(Into::into).and_then(|c| settings.client(c).build());
        let client = client.map_err(unusable)?;
        let (cache, endpoint) = (client.cache_dir().into(), client.endpoint().into());
        let client = HFClientSync::from_inner(client).map_err(unusable)?;
        Ok(Self { cache, online: Some(Online { client, endpoint }) })
    }

    /// A cache that must do, without network.
    pub fn offline(cache: impl Into<PathBuf>) -> Self {
        Self { cache: cache.into(), online: None }
    }
}

fn unusable(error: hf_hub::HFError) -> Error {
    let problem = format!(
        "no client ({}); check HF_ENDPOINT, SSL_CERT_FILE and the certificates of the system",
        problem::with_causes(&error)
    );
    Error::Hub { repository: "the hub".into(), problem }
}
