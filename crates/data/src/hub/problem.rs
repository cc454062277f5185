//! What a failed request means, and what to do.

use std::error::Error as StdError;

use hf_hub::HFError;

use super::Online;
use super::repository::{Kind, Repository};
use crate::Error;

impl<K: Kind> Repository<'_, K> {
    /// The error of a request that the hub does not answer as it should.
    pub(super) fn refused(&self, online: &Online, what: &str, error: HFError) -> Error {
        let endpoint = &online.endpoint;
        let page = format!("{endpoint}/{}{}", self.kind.url_prefix(), self.id);
        self.fail(match error {
            HFError::AuthRequired { .. } => format!(
                "{what} is not open to all, or does not exist (HTTP 401); check the id, accept the \
                 licence at {page} where there is one, and set HF_TOKEN to a token that is valid"
            ),
            HFError::Forbidden { .. } => format!(
                "HF_TOKEN gives no access to {what} (HTTP 403); accept the licence at {page} where \
                 there is one, or set another token"
            ),
            HFError::RateLimited { .. } => {
                "too many requests (HTTP 429); wait some minutes, or set HF_TOKEN".into()
            }
            HFError::EntryNotFound { context: Some(context), .. }
            | HFError::RevisionNotFound { context: Some(context), .. }
            | HFError::RepoNotFound { context: Some(context), .. }
            | HFError::Http { context } => {
                match (context.status.as_u16(), context.error_code.as_deref()) {
                    (404, Some("EntryNotFound")) => {
                        format!("no file {what} at {page}; check the revision")
                    }
                    (404, Some("RevisionNotFound")) => {
                        format!("no revision {} at {page}; check its name", self.revision)
                    }
                    (404, _) => {
                        format!(
                            "nothing at {page}; check the id, and set HF_TOKEN if it is private"
                        )
                    }
                    (status, _) => {
                        format!("HTTP {status} for {what} from {endpoint}; try again later")
                    }
                }
            }
            HFError::Request { source, .. } if source.is_decode() => not_a_hub(endpoint, &source),
            HFError::Json(source) => not_a_hub(endpoint, &source),
            // Without the address, which may hold a signature.
            HFError::Request { source, .. } => format!(
                "{endpoint} cannot be reached ({}); check the network and HF_ENDPOINT, or set \
                 HF_HUB_OFFLINE=1 to use the cache alone",
                with_causes(&source.without_url())
            ),
            other => format!("{what} from {endpoint}: {}; try again later", with_causes(&other)),
        })
    }

    /// The error of a download that breaks off again and again.
    pub(super) fn broken_off(&self, file: &str, done: u64, size: u64, error: HFError) -> Error {
        let reason = match error {
            HFError::Request { source, .. } => with_causes(&source.without_url()),
            other => with_causes(&other),
        };
        self.fail(format!(
            "{file} broke off after {done} of {size} bytes ({reason}); run it again to go on from there"
        ))
    }

    /// The error of what is not in the cache, offline.
    pub(super) fn absent(&self, what: &str) -> Error {
        self.fail(format!(
            "no {what} in the cache {}, and HF_HUB_OFFLINE is set; unset it for one run, or set \
             HF_HOME to the folder that has it",
            self.hub.cache.display()
        ))
    }
}

fn not_a_hub(endpoint: &str, error: &dyn StdError) -> String {
    format!("{endpoint} gives no list of its files ({}); is it a hub?", with_causes(error))
}

/// An error and its causes, in one line.
pub(super) fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text.replace('\n', " ")
}
