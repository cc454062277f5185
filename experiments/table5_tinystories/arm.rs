//! Arms: what is compared.

use anyhow::Result;
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement};
use experiments::named;
use serde::{Deserialize, Serialize};

use crate::recipe::Recipe;

/// What is done to the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arm {
    /// Nothing.
    Baseline,
    /// Nothing; the position table starts at the scale that makes kappa of the first batch
    /// smallest.
    Init,
    /// Ours: one matrix from the Gram of earlier batches.
    Pooled,
    /// The token table conditioned as a whole.
    Table,
    /// Control: the scale of `pooled` without its directions.
    NormMatched,
    /// The paper: per sequence. It sees the future.
    Literal,
}

impl Arm {
    /// All arms.
    pub(crate) const ALL: [Self; 6] =
        [Self::Baseline, Self::Init, Self::Pooled, Self::Table, Self::NormMatched, Self::Literal];

    /// The name on the command line and in paths.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Init => "init",
            Self::Pooled => "pooled",
            Self::Table => "table",
            Self::NormMatched => "norm-matched",
            Self::Literal => "literal",
        }
    }

    /// What the arm does to the tokens under a recipe.
    ///
    /// # Errors
    /// When a strength is negative or not finite.
    pub(crate) fn conditioning(self, recipe: &Recipe) -> Result<ConditioningConfig> {
        let (t, mut placement) = (recipe.strength, recipe.placement);
        let mut method = match self {
            Self::Baseline | Self::Init => Method::None,
            Self::Pooled => Method::pooled_earlier(t)?,
            Self::Table => Method::table(recipe.table_strength)?,
            Self::NormMatched => Method::pooled_norm_matched(t)?,
            // The strength of the theorem.
            Self::Literal => Method::per_sequence(1.0)?,
        };
        if let Method::Pooled(config) | Method::PooledNormMatched(config) = &mut method {
            config.momentum = recipe.momentum;
        }
        if self == Self::Table {
            // A conditioned position table does harm: docs/LOG.md.
            placement = Placement::BeforePosition;
        }
        Ok(ConditioningConfig { method, placement, ..Default::default() })
    }
}

named!(Arm, "arm");
