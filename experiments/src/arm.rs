//! Arms: what is compared. One name, one meaning, in code, on the command line, in records and tables.

use anyhow::Result;
use candle_conditioning::{SpectralConditioning, TokenGraying};
use clap::ValueEnum;
use conditioned_models::conditioning::{
    AttentionMethod, ConditioningConfig, Method, Placement, WeightMethod,
};
use serde::{Deserialize, Serialize};

use crate::recipe::Shared;

/// What is done to a model.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// Nothing.
    Baseline,
    /// Nothing; the embedding tables start at the scale that makes kappa of the first batch smallest.
    Init,
    /// The paper: X + t sigma_1 U V^T of each sequence; at t = 1 its Theorem 4.4. Not causal.
    PerSequence,
    /// Ours: X M with one matrix M from the Gram matrix of earlier batches. Causal.
    Pooled,
    /// The same with the Gram matrix of the current batch. Not causal.
    PooledCurrent,
    /// The token table conditioned as a whole. Causal.
    Table,
    /// Control: X scaled to the norm that `per-sequence` gives it, without its directions. Not causal.
    PerSequenceNormMatched,
    /// Control: X scaled to the norm that `pooled` gives it, without its directions. Causal.
    PooledNormMatched,
    /// Control: each channel of X standardised over the batch. Not causal.
    Standardised,
    /// Sibling: the singular values of each sequence raised to a power below 1. Not causal.
    TokenGraying,
    /// Sibling: lambda I added to the query, key and value weights. Causal.
    SpectralConditioning,
    /// Sibling: every row of the query, key and value weights divided by its norm. Causal.
    WeightConditioning,
    /// Sibling: every row of a head's output divided by its norm. Causal.
    PreconditionedAttention,
}

impl Arm {
    /// Its name.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// What the arm does under a recipe, at `placement`, over a run of `steps` micro-batches.
    ///
    /// # Errors
    /// When a strength is negative or not finite.
    pub fn conditioning(
        self,
        shared: &Shared,
        placement: Placement,
        steps: usize,
    ) -> Result<ConditioningConfig> {
        let t = shared.strength;
        let mut config = ConditioningConfig { placement, ..Default::default() };
        config.method = match self {
            Self::Baseline | Self::Init => return Ok(ConditioningConfig::default()),
            Self::PerSequence => Method::per_sequence(t)?,
            Self::Pooled => Method::pooled_earlier(t)?,
            Self::PooledCurrent => Method::pooled(t)?,
            Self::Table => Method::table(shared.table_strength)?,
            Self::PerSequenceNormMatched => Method::norm_matched(t)?,
            Self::PooledNormMatched => Method::pooled_norm_matched(t)?,
            Self::Standardised => Method::Standardised,
            Self::TokenGraying => {
                Method::token_graying(TokenGraying::Svd { epsilon: shared.graying_epsilon })?
            }
            Self::SpectralConditioning => {
                let lambda = shared.spectral_lambda;
                config.weights = WeightMethod::Spectral(SpectralConditioning::Identity { lambda });
                Method::None
            }
            Self::WeightConditioning => {
                config.weights = WeightMethod::Weight;
                Method::None
            }
            Self::PreconditionedAttention => {
                config.attention = AttentionMethod::Preconditioned;
                Method::None
            }
        };
        if let Method::Pooled(pooled) | Method::PooledNormMatched(pooled) = &mut config.method {
            pooled.momentum = shared.momentum;
        }
        if config.method != Method::None && self != Self::Table {
            config.ramp_steps = (shared.ramp * steps as f64).round() as u64;
        }
        Ok(config)
    }

    /// Whether tokens are other with it than without: then a table shows kappa on both sides.
    pub fn changes_tokens(self) -> bool {
        !matches!(
            self,
            Self::Baseline
                | Self::Init
                | Self::SpectralConditioning
                | Self::WeightConditioning
                | Self::PreconditionedAttention
        )
    }
}

impl std::fmt::Display for Arm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.name())
    }
}
