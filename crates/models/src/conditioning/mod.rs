//! What a model conditions, and how: one configuration field of every model.
//!
//! | field | acts on | choices |
//! | --- | --- | --- |
//! | `method`, `placement`, `ramp_steps` | the tokens in front of the first layer | [`Method`] |
//! | `weights` | W_q, W_k, W_v of every layer | [`WeightMethod`] |
//! | `attention` | the output of the heads of every layer | [`AttentionMethod`] |

// A method of tokens is one file here, its variant of `Method` and its line in `Method::kind`: the file
// says what can be asked of the configuration (`TokenMethod`) and what is done to tokens (`TokenMap`).

mod attention;
mod conditioner;
mod factor;
mod learned_map;
mod none;
mod norm_matched;
mod per_sequence;
mod pooled;
mod pooled_norm_matched;
mod pooled_part;
mod standardised;
mod table;
mod token_graying;
mod token_map;
mod weights;

use candle_conditioning::{Conditioner, NormMatched, PooledConfig, Source, TokenGraying};
use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

pub use attention::AttentionMethod;
pub(crate) use conditioner::TokenConditioner;
pub use pooled_part::PooledPart;
pub(crate) use table::Table;
use token_map::TokenMethod;
pub use weights::WeightMethod;
pub(crate) use weights::{Packing, WeightMap};

/// What is done to the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Method {
    /// Nothing: the published model.
    #[default]
    None,
    /// Y = X + t sigma_1 U V^T of each sequence (the paper, Theorem 4.4). Not causal.
    PerSequence(Conditioner),
    /// Y = X M with one matrix M for all sequences, from the pooled Gram.
    Pooled(PooledConfig),
    /// Control: X scaled to the norm that the per-sequence method gives it. Not causal.
    NormMatched(Conditioner),
    /// Control: X scaled by one number for all sequences to the norm that the pooled method gives
    /// their tokens, f^2 = tr(M G M) / tr(G).
    PooledNormMatched(PooledConfig),
    /// Control: a part of the pooled method alone.
    PooledPart {
        /// The pooled method, with the Gram of earlier batches.
        pooled: PooledConfig,
        /// The part.
        part: PooledPart,
    },
    /// Control: Y = X + X W with a trainable W (C, C), zero at first. It counts among the parameters, as the
    /// only one of a method.
    LearnedMap,
    /// Control: Y = f X with one number f for all tokens.
    Factor {
        /// f > 0.
        factor: f64,
    },
    /// Control: each channel standardised over the batch. Not causal.
    Standardised,
    /// The spectrum of each sequence flattened by a power: Token Graying. Not causal.
    TokenGraying(TokenGraying),
    /// Each embedding table conditioned as a whole, `W (I + t sigma_1 (W^T W)^(-1/2))`: the token
    /// table, and after the position table also that. Only for models whose tokens are rows of
    /// tables.
    Table {
        /// t >= 0.
        strength: f64,
    },
}

impl Method {
    /// The paper's method at strength `t`.
    ///
    /// # Errors
    /// When `t` is negative or not finite.
    pub fn per_sequence(t: f64) -> Result<Self> {
        Ok(Self::PerSequence(Conditioner::default().with_strength(t)?))
    }

    /// The control that only scales as the paper's method at strength `t` would.
    ///
    /// # Errors
    /// When `t` is negative or not finite.
    pub fn norm_matched(t: f64) -> Result<Self> {
        Ok(Self::NormMatched(Conditioner::default().with_strength(t)?))
    }

    /// Pooled conditioning at strength `t` with the Gram of the current batch: for models that are
    /// not causal.
    ///
    /// # Errors
    /// When `t` is negative or not finite.
    pub fn pooled(t: f64) -> Result<Self> {
        Ok(Self::Pooled(pooled_config(t, Source::Current)?))
    }

    /// Pooled conditioning at strength `t` with the Gram of earlier batches: causal.
    ///
    /// # Errors
    /// When `t` is negative or not finite.
    pub fn pooled_earlier(t: f64) -> Result<Self> {
        Ok(Self::Pooled(pooled_config(t, Source::Earlier)?))
    }

    /// The control that only scales as [`Method::pooled_earlier`] does at strength `t`: causal.
    ///
    /// # Errors
    /// When `t` is negative or not finite.
    pub fn pooled_norm_matched(t: f64) -> Result<Self> {
        Ok(Self::PooledNormMatched(pooled_config(t, Source::Earlier)?))
    }

    /// A part of pooled conditioning at strength `t` with the Gram of earlier batches: causal.
    ///
    /// # Errors
    /// When `t` is negative or not finite, or a factor is not above 0.
    pub fn pooled_part(t: f64, part: PooledPart) -> Result<Self> {
        let method = Self::PooledPart { pooled: pooled_config(t, Source::Earlier)?, part };
        method.kind().validate()?;
        Ok(method)
    }

    /// Tokens times `factor`: causal.
    ///
    /// # Errors
    /// When the factor is not above 0, or not finite.
    pub fn factor(factor: f64) -> Result<Self> {
        let method = Self::Factor { factor };
        method.kind().validate()?;
        Ok(method)
    }

    /// Conditioned tables at strength `t`: causal.
    ///
    /// # Errors
    /// When `t` is negative or not finite.
    pub fn table(t: f64) -> Result<Self> {
        Conditioner::default().with_strength(t)?;
        Ok(Self::Table { strength: t })
    }

    /// Token Graying in one of its two forms.
    ///
    /// # Errors
    /// When eps lies outside (0, 1].
    pub fn token_graying(graying: TokenGraying) -> Result<Self> {
        graying.validate()?;
        Ok(Self::TokenGraying(graying))
    }

    /// What can be asked of the method, and what makes it.
    fn kind(&self) -> Box<dyn TokenMethod> {
        match *self {
            Self::None => Box::new(none::Identity),
            Self::PerSequence(conditioner) => Box::new(conditioner),
            Self::Pooled(config) => Box::new(config),
            Self::NormMatched(conditioner) => Box::new(NormMatched::new(conditioner)),
            Self::PooledNormMatched(config) => {
                Box::new(pooled_norm_matched::PooledNormMatched(config))
            }
            Self::PooledPart { pooled, part } => Box::new(pooled_part::PartOfPooled(pooled, part)),
            Self::LearnedMap => Box::new(learned_map::LearnedMap),
            Self::Factor { factor } => Box::new(factor::Factor(factor)),
            Self::Standardised => Box::new(standardised::Standardised),
            Self::TokenGraying(graying) => Box::new(graying),
            Self::Table { strength } => Box::new(table::ConditionedTables { strength }),
        }
    }

    /// Strength t, or the factor; `None` where the method has neither.
    pub fn strength(&self) -> Option<f64> {
        self.kind().strength()
    }

    /// Whether every token that comes out depends on no later token: what a causal model asks for.
    pub fn is_causal(&self) -> bool {
        self.kind().leak().is_none()
    }

    /// Whether an evaluation applies one linear map to every token.
    pub(crate) fn is_frozen_map(&self) -> bool {
        self.kind().is_frozen_map()
    }

    /// Refuses a method that would let a causal model see the tokens it has to predict.
    ///
    /// # Errors
    /// Unless the method is causal or `allow_future_leak` says that its leak is known.
    pub(crate) fn check_causal(&self, model: &str, allow_future_leak: bool) -> Result<()> {
        let Some(statistics) = self.kind().leak().filter(|_| !allow_future_leak) else {
            return Ok(());
        };
        candle_core::bail!(
            "{model}: this method is not causal: {statistics}, so that every token would carry \
             information of the tokens that the model has to predict, and its loss would mean \
             nothing. Take pooled conditioning of earlier batches (source `earlier`), conditioned \
             tables, or the norm-matched control of the pooled method; `allow_future_leak` \
             reproduces the literal method all the same"
        )
    }
}

fn pooled_config(strength: f64, source: Source) -> Result<PooledConfig> {
    Conditioner::default().with_strength(strength)?;
    Ok(PooledConfig { strength, source, ..Default::default() })
}

/// Where it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// On what enters the first block: after class token and position table.
    #[default]
    AfterPosition,
    /// On the embedded patches or words alone.
    BeforePosition,
    /// On what enters the first block, after the layer norm of the embedding: for models that have
    /// one.
    AfterNorm,
}

/// The configuration field: what is done to tokens, to weights and to attention.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConditioningConfig {
    /// What is done.
    pub method: Method,
    /// Where it is done.
    pub placement: Placement,
    /// Forward passes of training over which the tokens go from X to Y in equal parts, so that a network
    /// that was trained without conditioning can follow; 0 for none. An evaluation is at full strength.
    #[serde(skip_serializing_if = "is_zero")]
    pub ramp_steps: u64,
    /// What is done to the weights of queries, keys and values.
    #[serde(skip_serializing_if = "WeightMethod::is_none")]
    pub weights: WeightMethod,
    /// What is done to the output of attention.
    #[serde(skip_serializing_if = "AttentionMethod::is_none")]
    pub attention: AttentionMethod,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(steps: &u64) -> bool {
    *steps == 0
}

impl ConditioningConfig {
    /// Whether nothing is conditioned: the published model.
    pub fn is_plain(&self) -> bool {
        self.method == Method::None && self.weights.is_none() && self.attention.is_none()
    }

    /// Refuses what no table and no weight can take over from a layer.
    ///
    /// # Errors
    /// When something is done to the output of attention.
    pub(crate) fn check_folds(&self, model: &str) -> Result<()> {
        if !self.attention.is_none() {
            candle_core::bail!(
                "{model}: preconditioned attention divides every token's output by its own norm, \
                 which no weight can fold in; save the model with its conditioning instead"
            );
        }
        Ok(())
    }

    /// Checks what the types of the fields cannot.
    ///
    /// # Errors
    /// When conditioned tables shall have a ramp, or a number is out of its range.
    pub(crate) fn validate(&self) -> Result<()> {
        self.method.kind().validate()?;
        self.weights.validate()?;
        if self.ramp_steps > 0 && matches!(self.method, Method::Table { .. }) {
            candle_core::bail!("conditioned tables have no ramp; set ramp_steps to 0");
        }
        Ok(())
    }
}

impl From<Method> for ConditioningConfig {
    /// The method at the default placement.
    fn from(method: Method) -> Self {
        Self { method, ..Self::default() }
    }
}

/// The tokens on both sides of the conditioning.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// What would enter the first block without conditioning, (B, N, C).
    pub plain: Tensor,
    /// What enters the first block, (B, N, C).
    pub conditioned: Tensor,
}
