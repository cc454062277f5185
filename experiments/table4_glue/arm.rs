//! Models and arms: what is compared.

use anyhow::Result;
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement};
use experiments::named;
use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;

/// A kind of BERT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Model {
    /// The paper's: pre-norm, gated, without biases.
    CrammedBert,
    /// The published BERT, post-norm.
    Bert,
}

impl Model {
    /// All models.
    pub(crate) const ALL: [Self; 2] = [Self::CrammedBert, Self::Bert];

    /// The name on the command line and in paths.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CrammedBert => "crammed-bert",
            Self::Bert => "bert",
        }
    }
}

/// What is done to the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arm {
    /// Nothing.
    Baseline,
    /// The paper: per sequence.
    PerSequence,
    /// Ours: one matrix from the running Gram.
    Pooled,
    /// Control: the scale of `pooled` without its directions.
    NormMatched,
}

impl Arm {
    /// All arms.
    pub(crate) const ALL: [Self; 4] =
        [Self::Baseline, Self::PerSequence, Self::Pooled, Self::NormMatched];

    /// The name on the command line and in paths.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::PerSequence => "per-sequence",
            Self::Pooled => "pooled",
            Self::NormMatched => "norm-matched",
        }
    }

    /// Where it was best in the sweep of docs/LOG.md.
    fn placement(self) -> Placement {
        match self {
            Self::PerSequence => Placement::BeforePosition,
            // The control stands where what it controls does.
            Self::Baseline | Self::Pooled | Self::NormMatched => Placement::AfterPosition,
        }
    }

    /// What the arm does to the tokens under a recipe.
    ///
    /// # Errors
    /// When the strength is negative or not finite.
    pub(crate) fn conditioning(self, recipe: &Recipe) -> Result<ConditioningConfig> {
        let t = recipe.strength;
        let placement = recipe.placement.unwrap_or(self.placement());
        let method = match self {
            Self::Baseline => return Ok(ConditioningConfig::default()),
            Self::PerSequence => Method::per_sequence(t)?,
            // Earlier batches: an evaluation does what the last steps did.
            Self::Pooled => Method::pooled_earlier(t)?,
            Self::NormMatched => Method::pooled_norm_matched(t)?,
        };
        Ok(ConditioningConfig { method, placement, ramp_steps: 0 })
    }
}

named!(Model, "model");
named!(Arm, "arm");
