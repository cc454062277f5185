//! Arms: what is compared.

use anyhow::Result;
use conditioned_models::conditioning::{ConditioningConfig, Method};
use experiments::named;
use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;

/// What is done to the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arm {
    /// Nothing: the checkpoint as it is.
    Baseline,
    /// Ours: one matrix from the running Gram.
    Pooled,
    /// The paper: per sequence.
    PerSequence,
    /// Control: the scale of `pooled` without its directions.
    NormMatched,
}

impl Arm {
    /// All arms.
    pub(crate) const ALL: [Self; 4] =
        [Self::Baseline, Self::Pooled, Self::PerSequence, Self::NormMatched];

    /// The name on the command line and in paths.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Pooled => "pooled",
            Self::PerSequence => "per-sequence",
            Self::NormMatched => "norm-matched",
        }
    }

    /// What the arm does to the tokens under a recipe, reached after `ramp_steps`.
    ///
    /// # Errors
    /// When the strength is negative or not finite.
    pub(crate) fn conditioning(
        self,
        recipe: &Recipe,
        ramp_steps: u64,
    ) -> Result<ConditioningConfig> {
        let (t, placement) = (recipe.strength, recipe.placement);
        // Earlier batches: an evaluation does what the last steps did.
        let method = match self {
            Self::Baseline => return Ok(ConditioningConfig::default()),
            Self::Pooled => Method::pooled_earlier(t)?,
            Self::PerSequence => Method::per_sequence(t)?,
            Self::NormMatched => Method::pooled_norm_matched(t)?,
        };
        Ok(ConditioningConfig { method, placement, ramp_steps })
    }
}

named!(Arm, "arm");
