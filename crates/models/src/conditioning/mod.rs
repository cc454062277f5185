//! What a model conditions, and how: one configuration field of every model.
//!
//! | field | acts on | choices |
//! | --- | --- | --- |
//! | `method`, `placement`, `ramp_steps` | the tokens in front of the first layer | [`Method`] |
//! | `weights` | W_q, W_k, W_v of every layer | [`WeightMethod`] |
//! | `attention` | the output of the heads of every layer | [`AttentionMethod`] |

mod attention;
mod weights;

use std::sync::{Arc, Mutex, PoisonError};

use candle_conditioning::{
    ConditionedTable, Conditioner, NormMatched, Pooled, PooledConfig, Source, Standardise,
    TokenGraying,
};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use conditioned_nn::{Mode, Padding, embedding};
use serde::{Deserialize, Serialize};

pub use attention::AttentionMethod;
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

    /// Strength t; `None` where the method has none.
    pub fn strength(&self) -> Option<f64> {
        match self {
            Self::None | Self::Standardised | Self::TokenGraying(_) => None,
            Self::PerSequence(conditioner) => Some(conditioner.strength()),
            Self::NormMatched(control) => Some(control.strength()),
            Self::Pooled(config) | Self::PooledNormMatched(config) => Some(config.strength),
            Self::Table { strength } => Some(*strength),
        }
    }

    /// Whether every token that comes out depends on no later token: what a causal model asks for.
    pub fn is_causal(&self) -> bool {
        match self {
            Self::None | Self::Table { .. } => true,
            Self::Pooled(config) | Self::PooledNormMatched(config) => {
                config.source == Source::Earlier
            }
            Self::PerSequence(_)
            | Self::NormMatched(_)
            | Self::Standardised
            | Self::TokenGraying(_) => false,
        }
    }

    /// Whether an evaluation applies one linear map to every token.
    pub(crate) fn is_frozen_map(&self) -> bool {
        match self {
            Self::None | Self::Table { .. } | Self::Pooled(_) | Self::PooledNormMatched(_) => true,
            Self::PerSequence(_)
            | Self::NormMatched(_)
            | Self::Standardised
            | Self::TokenGraying(_) => false,
        }
    }

    /// Refuses a method that would let a causal model see the tokens it has to predict.
    ///
    /// # Errors
    /// Unless the method is causal or `allow_future_leak` says that its leak is known.
    pub(crate) fn check_causal(&self, model: &str, allow_future_leak: bool) -> Result<()> {
        if allow_future_leak || self.is_causal() {
            return Ok(());
        }
        let statistics = match self {
            Self::PerSequence(_) => "C is computed from the whole sequence",
            Self::NormMatched(_) => "the scale is computed from the whole sequence",
            Self::TokenGraying(_) => "the spectrum is that of the whole sequence",
            _ => "the statistics of a training step are those of its own batch",
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

impl Placement {
    /// Refuses the place that a model without layer norm in its embedding does not have.
    ///
    /// # Errors
    /// When it is [`Placement::AfterNorm`].
    pub(crate) fn check_no_norm(self, model: &str) -> Result<()> {
        if self == Self::AfterNorm {
            candle_core::bail!(
                "{model}: its embedding has no layer norm; take placement after-position"
            );
        }
        Ok(())
    }
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
        if let Method::TokenGraying(graying) = self.method {
            graying.validate()?;
        }
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

/// The method of one model, with its state.
///
/// State lives in the model's store as buffers `running_*` (f64, on the CPU), so it is saved and
/// resumed with the parameters.
#[derive(Debug)]
pub(crate) struct TokenConditioner {
    transform: Transform,
    ramp_steps: u64,
    /// The micro-batch that goes on with the optimiser step whose tokens are being collected.
    next: Mutex<Option<u64>>,
}

/// What is done to the tokens at full strength.
#[derive(Debug)]
enum Transform {
    None,
    PerSequence(Conditioner),
    Pooled(PooledMap),
    NormMatched(NormMatched),
    PooledNormMatched(PooledMap),
    Standardised(Standardise),
    Graying(TokenGraying),
}

/// Pooled statistics that begin with the tables whose rows add up to X.
///
/// Before the first batch M must know the tokens, and in a causal model not from the batch itself.
/// The first training pass stores the Gram matrix of the tables as the first observation. An
/// evaluation that comes before it takes the same matrix and stores nothing.
#[derive(Debug)]
struct PooledMap {
    pooled: Pooled,
    /// What evaluations before the first observation take.
    provisional: Mutex<Option<Provisional>>,
}

/// Statistics of tables, and the values that these had.
#[derive(Debug, Clone)]
struct Provisional {
    tables: Vec<Tensor>,
    pooled: Arc<Pooled>,
}

impl PooledMap {
    fn new(pooled: Pooled) -> Self {
        Self { pooled, provisional: Mutex::new(None) }
    }

    /// Runs `work` with the statistics that a pass takes; `tables` is empty where none are known.
    fn with<R>(
        &self,
        tables: &[&Tensor],
        mode: Mode,
        work: impl FnOnce(&Pooled) -> Result<R>,
    ) -> Result<R> {
        if tables.is_empty() || self.pooled.observations()? > 0.0 {
            return work(&self.pooled);
        }
        if mode.is_train() {
            self.pooled.start_from_tables(tables)?;
            return work(&self.pooled);
        }
        let provisional = self.provisional(tables)?;
        work(&provisional)
    }

    /// The statistics of `tables`, computed anew only when their values have changed.
    fn provisional(&self, tables: &[&Tensor]) -> Result<Arc<Pooled>> {
        let lock = || self.provisional.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().clone();
        if let Some(known) = known
            && same(&known.tables, tables)?
        {
            return Ok(known.pooled);
        }
        let copies =
            tables.iter().map(|table| table.detach().copy()).collect::<Result<Vec<_>>>()?;
        let pooled = Pooled::new(*self.pooled.config(), copies[0].dim(1)?)?;
        pooled.start_from_tables(&copies.iter().collect::<Vec<_>>())?;
        let pooled = Arc::new(pooled);
        *lock() = Some(Provisional { tables: copies, pooled: pooled.clone() });
        Ok(pooled)
    }
}

/// Whether tables of the same shapes hold the same values.
fn same(known: &[Tensor], tables: &[&Tensor]) -> Result<bool> {
    if known.len() != tables.len() {
        return Ok(false);
    }
    for (known, table) in known.iter().zip(tables) {
        if known.dims() != table.dims() || known.eq(*table)?.min_all()?.to_scalar::<u8>()? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

impl TokenConditioner {
    /// The method for tokens of width `channels`.
    pub(crate) fn new(config: ConditioningConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        let ConditioningConfig { method, ramp_steps, .. } = config;
        let vb = vb.set_device(Device::Cpu);
        let buffer = |name: &str, dims: &[usize], value: f64| {
            vb.get_with_hints_dtype(dims, name, Init::Const(value), DType::F64)
        };
        let pooled = |config| -> Result<PooledMap> {
            let gram = buffer("running_gram", &[channels, channels], 0.0)?;
            let weight = buffer("running_weight", &[], 0.0)?;
            Ok(PooledMap::new(Pooled::with_state(config, gram, weight)?))
        };
        let transform = match method {
            // Conditioned tables act on the tables themselves: see `Table`.
            Method::None | Method::Table { .. } => Transform::None,
            Method::PerSequence(conditioner) => Transform::PerSequence(conditioner),
            Method::TokenGraying(graying) => Transform::Graying(graying),
            Method::Pooled(config) => Transform::Pooled(pooled(config)?),
            Method::PooledNormMatched(config) => Transform::PooledNormMatched(pooled(config)?),
            Method::NormMatched(conditioner) => {
                Transform::NormMatched(NormMatched::new(conditioner))
            }
            Method::Standardised => Transform::Standardised(Standardise::with_state(
                buffer("running_mean", &[channels], 0.0)?,
                buffer("running_var", &[channels], 1.0)?,
                buffer("running_weight", &[], 0.0)?,
            )?),
        };
        Ok(Self { transform, ramp_steps, next: Mutex::new(None) })
    }

    /// X -> Y, (B, N, C). Padding takes no part and is left alone.
    ///
    /// The micro-batches of an optimiser step use the running averages as they stand, and the last one
    /// then moves them once, by the tokens of all. A step begins anew where the numbers of the
    /// micro-batches do not follow each other: what a step that was broken off had collected is
    /// dropped. An evaluation changes nothing.
    ///
    /// `tables` are those whose rows add up to X, where X is such a sum: pooled statistics begin
    /// with them.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        padding: Option<&Padding>,
        tables: &[&Tensor],
        mode: Mode,
    ) -> Result<Tensor> {
        if let Mode::Train { step, last, .. } = mode {
            let next = if last { None } else { Some(step + 1) };
            let mut expected = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::replace(&mut *expected, next) != Some(step) {
                self.discard();
            }
        }
        let y = match padding {
            None => self.forward_full(x, tables, mode)?,
            Some(padding) => self.forward_masked(x, &padding.mask(x.device())?, tables, mode)?,
        };
        match mode {
            Mode::Train { step, .. } if step + 1 < self.ramp_steps => {
                let part = (step + 1) as f64 / self.ramp_steps as f64;
                x + ((y - x)? * part)?
            }
            _ => Ok(y),
        }
    }

    /// Drops what has been collected of a step that does not go on.
    fn discard(&self) {
        match &self.transform {
            Transform::Pooled(map) | Transform::PooledNormMatched(map) => map.pooled.discard(),
            Transform::Standardised(standardise) => standardise.discard(),
            Transform::None
            | Transform::PerSequence(_)
            | Transform::NormMatched(_)
            | Transform::Graying(_) => {}
        }
    }

    fn forward_full(&self, x: &Tensor, tables: &[&Tensor], mode: Mode) -> Result<Tensor> {
        let (train, last) = (mode.is_train(), matches!(mode, Mode::Train { last: true, .. }));
        Ok(match &self.transform {
            Transform::None => x.clone(),
            Transform::PerSequence(conditioner) => conditioner.forward(x)?,
            Transform::Graying(graying) => graying.forward(x)?,
            Transform::NormMatched(control) => control.forward(x)?,
            Transform::Pooled(map) => map.with(tables, mode, |pooled| match train {
                true => {
                    let y = pooled.forward_train_collected(x)?;
                    if last {
                        pooled.commit()?;
                    }
                    Ok(y)
                }
                false => Ok(pooled.forward(x)?),
            })?,
            Transform::PooledNormMatched(map) => map.with(tables, mode, |pooled| {
                let y = (x * pooled.norm_matched_scale()?)?;
                if train {
                    pooled.collect(x)?;
                }
                if last {
                    pooled.commit()?;
                }
                Ok(y)
            })?,
            Transform::Standardised(standardise) if train => {
                let y = standardise.forward_train(x)?;
                standardise.collect(x)?;
                if last {
                    standardise.commit()?;
                }
                y
            }
            Transform::Standardised(standardise) => standardise.forward(x)?,
        })
    }

    fn forward_masked(
        &self,
        x: &Tensor,
        mask: &Tensor,
        tables: &[&Tensor],
        mode: Mode,
    ) -> Result<Tensor> {
        let (train, last) = (mode.is_train(), matches!(mode, Mode::Train { last: true, .. }));
        Ok(match &self.transform {
            Transform::None => x.clone(),
            Transform::PerSequence(conditioner) => conditioner.forward_masked(x, mask)?,
            Transform::Graying(graying) => graying.forward_masked(x, mask)?,
            Transform::NormMatched(control) => control.forward_masked(x, mask)?,
            Transform::Pooled(map) => map.with(tables, mode, |pooled| match train {
                true => {
                    let y = pooled.forward_train_collected_masked(x, mask)?;
                    if last {
                        pooled.commit()?;
                    }
                    Ok(y)
                }
                false => Ok(pooled.forward_masked(x, mask)?),
            })?,
            Transform::PooledNormMatched(map) => map.with(tables, mode, |pooled| {
                let real = mask.unsqueeze(2)?.broadcast_as(x.shape())?.contiguous()?;
                let y = real.where_cond(&(x * pooled.norm_matched_scale()?)?, x)?;
                if train {
                    pooled.collect_masked(x, mask)?;
                }
                if last {
                    pooled.commit()?;
                }
                Ok(y)
            })?,
            Transform::Standardised(standardise) if train => {
                let y = standardise.forward_train_masked(x, mask)?;
                standardise.collect_masked(x, mask)?;
                if last {
                    standardise.commit()?;
                }
                y
            }
            Transform::Standardised(standardise) => standardise.forward_masked(x, mask)?,
        })
    }

    /// Replaces running averages by those over `batches` of X; nothing for methods without state.
    pub(crate) fn recalibrate(
        &self,
        batches: impl IntoIterator<Item = Result<Tensor>>,
    ) -> Result<()> {
        match &self.transform {
            Transform::Pooled(map) | Transform::PooledNormMatched(map) => {
                Ok(map.pooled.recalibrate(batches)?)
            }
            Transform::Standardised(standardise) => Ok(standardise.recalibrate(batches)?),
            Transform::None
            | Transform::PerSequence(_)
            | Transform::NormMatched(_)
            | Transform::Graying(_) => Ok(()),
        }
    }

    /// Whether evaluation uses running averages.
    pub(crate) fn has_state(&self) -> bool {
        matches!(
            self.transform,
            Transform::Pooled(_) | Transform::PooledNormMatched(_) | Transform::Standardised(_)
        )
    }
}

/// A table of embeddings W (V, C), conditioned as a whole where the method says so.
#[derive(Debug)]
pub(crate) enum Table {
    Plain(Tensor),
    Conditioned(ConditionedTable),
}

impl Table {
    /// Over W, shared with the variable that trains it.
    pub(crate) fn new(weight: Tensor, method: Method) -> Result<Self> {
        Ok(match method {
            Method::Table { strength } => {
                Self::Conditioned(ConditionedTable::new(weight, strength)?)
            }
            _ => Self::Plain(weight),
        })
    }

    /// W: what a tied head multiplies with.
    pub(crate) fn weight(&self) -> &Tensor {
        match self {
            Self::Plain(weight) => weight,
            Self::Conditioned(table) => table.weight(),
        }
    }

    /// Follows W, which a training step has moved; evaluation builds its model anew.
    pub(crate) fn refresh(&self, mode: Mode) -> Result<()> {
        match self {
            Self::Conditioned(table) if mode.is_train() => Ok(table.refresh()?),
            _ => Ok(()),
        }
    }

    /// The embeddings of ids (..) -> (.., C).
    pub(crate) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        self.condition(embedding(ids, self.weight())?)
    }

    /// The embeddings `first..first + count`: (count, C).
    pub(crate) fn range(&self, first: usize, count: usize) -> Result<Tensor> {
        self.condition(self.weight().narrow(0, first, count)?)
    }

    /// The whole table of embeddings: (V, C).
    pub(crate) fn embeddings(&self) -> Result<Tensor> {
        self.condition(self.weight().clone())
    }

    fn condition(&self, rows: Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(_) => Ok(rows),
            Self::Conditioned(table) => Ok(table.condition(&rows)?),
        }
    }
}
