//! What is done to the output of attention.

use conditioned_nn::{HeadNorm, Layer};
use serde::{Deserialize, Serialize};

/// What is done to the output of the heads of every layer, before they are mixed. Causal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionMethod {
    /// Nothing.
    #[default]
    None,
    /// Every row of a head over its norm, which is a constant for the gradient: Preconditioned
    /// Attention. It is no linear map of the token and folds into no weight.
    Preconditioned,
}

impl AttentionMethod {
    /// Whether nothing is done.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// The layer that follows the attention of `heads` heads.
    pub(crate) fn layer(self, heads: usize) -> Option<Box<dyn Layer>> {
        match self {
            Self::None => None,
            Self::Preconditioned => Some(HeadNorm { heads }.into()),
        }
    }
}
