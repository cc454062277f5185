//! Arms: what is compared. One name, one meaning, in code, on the command line, in records and tables.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use candle_conditioning::{SpectralConditioning, TokenGraying};
use clap::ValueEnum;
use conditioned_models::conditioning::{
    AttentionMethod, ConditioningConfig, Method as TokenMethod, Placement, PooledPart, WeightMethod,
};
use serde::{Deserialize, Serialize};

use crate::recipe::Shared;

/// What is compared: an optimiser, and what is done to the model. The name of an arm is that of its method;
/// with Muon `muon+METHOD`, and `muon` alone where nothing is done to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Arm {
    /// What moves the parameters.
    pub optimizer: Optimizer,
    /// What is done to the model.
    pub method: Method,
}

/// What moves the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Optimizer {
    /// AdamW, all of them.
    AdamW,
    /// Muon the hidden matrices, AdamW the others.
    Muon,
}

/// The arm of a method whose parameters AdamW moves.
pub const fn adamw(method: Method) -> Arm {
    Arm { optimizer: Optimizer::AdamW, method }
}

/// The arm of a method whose hidden matrices Muon moves.
pub const fn muon(method: Method) -> Arm {
    Arm { optimizer: Optimizer::Muon, method }
}

/// What is done to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Method {
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
    /// Control: X times one number, which a head that is tied to the token table does not see. Causal.
    Factor,
    /// Control: the directions of `pooled` without their scale, times one number. Causal.
    PooledDirections,
    /// Control: what `pooled` does to the gradient of the tables, while tokens stay as they are. Causal.
    PooledGradient,
    /// Control: `pooled` whose Gram matrix stands still after a part of the steps. Causal.
    PooledFrozen,
    /// Control: X + X W with a learned matrix W. Causal.
    LearnedMap,
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

/// The strength t where nothing says otherwise.
pub const STRENGTH: f64 = 0.3;

/// The strength t of `pooled-directions`, whose searched number is its factor.
const PART: f64 = 1.0;

/// Where the search of a factor begins, and what it is where nothing says otherwise.
pub const FACTOR: f64 = 3.0;

impl Arm {
    /// What the others are compared with: nothing is done, AdamW moves all.
    pub const BASELINE: Self = adamw(Method::Baseline);
    /// [`Method::Init`] by AdamW.
    pub const INIT: Self = adamw(Method::Init);
    /// [`Method::PerSequence`] by AdamW.
    pub const PER_SEQUENCE: Self = adamw(Method::PerSequence);
    /// [`Method::Pooled`] by AdamW.
    pub const POOLED: Self = adamw(Method::Pooled);
    /// [`Method::PooledCurrent`] by AdamW.
    pub const POOLED_CURRENT: Self = adamw(Method::PooledCurrent);
    /// [`Method::Table`] by AdamW.
    pub const TABLE: Self = adamw(Method::Table);
    /// [`Method::Factor`] by AdamW.
    pub const FACTOR: Self = adamw(Method::Factor);
    /// [`Method::PerSequenceNormMatched`] by AdamW.
    pub const PER_SEQUENCE_NORM_MATCHED: Self = adamw(Method::PerSequenceNormMatched);
    /// [`Method::PooledNormMatched`] by AdamW.
    pub const POOLED_NORM_MATCHED: Self = adamw(Method::PooledNormMatched);
    /// Muon alone.
    pub const MUON: Self = muon(Method::Baseline);
    /// [`Method::Pooled`] by Muon.
    pub const MUON_POOLED: Self = muon(Method::Pooled);
    /// [`Method::PooledCurrent`] by Muon.
    pub const MUON_POOLED_CURRENT: Self = muon(Method::PooledCurrent);
    /// [`Method::Factor`] by Muon.
    pub const MUON_FACTOR: Self = muon(Method::Factor);

    /// All arms, in the order of a table.
    pub fn all() -> Vec<Self> {
        let methods = Method::value_variants();
        methods.iter().copied().map(adamw).chain(methods.iter().copied().map(muon)).collect()
    }

    /// Its name.
    pub fn name(self) -> String {
        match (self.optimizer, self.method) {
            (Optimizer::AdamW, method) => method.name(),
            (Optimizer::Muon, Method::Baseline) => "muon".to_string(),
            (Optimizer::Muon, method) => format!("muon+{}", method.name()),
        }
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

impl FromStr for Arm {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let (optimizer, method) = match name.strip_prefix("muon") {
            Some("") => return Ok(muon(Method::Baseline)),
            Some(rest) => (Optimizer::Muon, rest.strip_prefix('+').unwrap_or(name)),
            None => (Optimizer::AdamW, name),
        };
        let method = Method::from_str(method, false).map_err(|_| {
            let known: Vec<String> =
                Method::value_variants().iter().map(|method| method.name()).collect();
            format!("no arm `{name}`; known: {}, muon, and muon+ARM for each", known.join(", "))
        })?;
        Ok(Self { optimizer, method })
    }
}

impl TryFrom<String> for Arm {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<Arm> for String {
    fn from(arm: Arm) -> Self {
        arm.name()
    }
}

impl Method {
    /// Its name.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// What the method does under a recipe, at `placement`, over a run of `steps` micro-batches.
    ///
    /// # Errors
    /// When a strength is negative or not finite, or a factor not above 0.
    pub fn conditioning(
        self,
        shared: &Shared,
        placement: Placement,
        steps: usize,
    ) -> Result<ConditioningConfig> {
        let t = shared.strength.unwrap_or(STRENGTH);
        let mut config = ConditioningConfig { placement, ..Default::default() };
        config.method = match self {
            Self::Baseline | Self::Init => return Ok(ConditioningConfig::default()),
            Self::PerSequence => TokenMethod::per_sequence(t)?,
            Self::Pooled => TokenMethod::pooled_earlier(t)?,
            Self::PooledCurrent => TokenMethod::pooled(t)?,
            Self::Table => TokenMethod::table(shared.table_strength.unwrap_or(STRENGTH))?,
            Self::Factor => TokenMethod::factor(shared.factor.unwrap_or(FACTOR))?,
            Self::PooledDirections => {
                let factor = shared.factor.unwrap_or(FACTOR);
                TokenMethod::pooled_part(PART, PooledPart::Directions { factor })?
            }
            Self::PooledGradient => TokenMethod::pooled_part(t, PooledPart::Gradient)?,
            Self::PooledFrozen => {
                let steps = (shared.frozen_after * steps as f64).round() as u64;
                TokenMethod::pooled_part(t, PooledPart::Frozen { steps })?
            }
            Self::LearnedMap => TokenMethod::LearnedMap,
            Self::PerSequenceNormMatched => TokenMethod::norm_matched(t)?,
            Self::PooledNormMatched => TokenMethod::pooled_norm_matched(t)?,
            Self::Standardised => TokenMethod::Standardised,
            Self::TokenGraying => {
                TokenMethod::token_graying(TokenGraying::Svd { epsilon: shared.graying_epsilon })?
            }
            Self::SpectralConditioning => {
                let lambda = shared.spectral_lambda;
                config.weights = WeightMethod::Spectral(SpectralConditioning::Identity { lambda });
                TokenMethod::None
            }
            Self::WeightConditioning => {
                config.weights = WeightMethod::Weight;
                TokenMethod::None
            }
            Self::PreconditionedAttention => {
                config.attention = AttentionMethod::Preconditioned;
                TokenMethod::None
            }
        };
        if let TokenMethod::Pooled(pooled)
        | TokenMethod::PooledNormMatched(pooled)
        | TokenMethod::PooledPart { pooled, .. } = &mut config.method
        {
            pooled.momentum = shared.momentum;
        }
        if self.has_place() {
            config.ramp_steps = (shared.ramp.unwrap_or(0.0) * steps as f64).round() as u64;
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

    /// Whether it has a strength t, or a factor.
    pub fn has_strength(self) -> bool {
        matches!(
            self,
            Self::PerSequence
                | Self::Pooled
                | Self::PooledCurrent
                | Self::Table
                | Self::Factor
                | Self::PooledDirections
                | Self::PooledGradient
                | Self::PooledFrozen
                | Self::PerSequenceNormMatched
                | Self::PooledNormMatched
        )
    }

    /// Whether it changes tokens by what it sees of them: then it may act in front of the position table or
    /// behind it, and tokens can go from X to Y step by step.
    pub fn has_place(self) -> bool {
        self.changes_tokens() && !matches!(self, Self::Table | Self::Factor | Self::LearnedMap)
    }
}
