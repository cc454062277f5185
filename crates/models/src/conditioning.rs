//! Which tokens a model conditions, and how: one configuration field of every model.

use candle_conditioning::{Conditioner, NormMatched, Pooled, PooledConfig, Source, Standardise};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use conditioned_nn::Mode;
use serde::{Deserialize, Serialize};

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
    /// Control: each channel standardised over the batch. Not causal.
    Standardised,
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
        Conditioner::default().with_strength(t)?;
        let config = PooledConfig { strength: t, source: Source::Current, ..Default::default() };
        Ok(Self::Pooled(config))
    }
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
}

/// The configuration field: method and placement.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConditioningConfig {
    /// What is done.
    pub method: Method,
    /// Where it is done.
    pub placement: Placement,
}

impl From<Method> for ConditioningConfig {
    /// The method at the default placement.
    fn from(method: Method) -> Self {
        Self { method, placement: Placement::default() }
    }
}

/// The method of one model, with its state.
///
/// State lives in the model's store as buffers `running_*` (f64, on the CPU), so it is saved and
/// resumed with the parameters.
#[derive(Debug)]
pub(crate) enum TokenConditioner {
    None,
    PerSequence(Conditioner),
    Pooled(Pooled),
    NormMatched(NormMatched),
    Standardised(Standardise),
}

impl TokenConditioner {
    /// The method for tokens of width `channels`.
    pub(crate) fn new(method: Method, channels: usize, vb: VarBuilder) -> Result<Self> {
        let vb = vb.set_device(Device::Cpu);
        let buffer = |name: &str, dims: &[usize], value: f64| {
            vb.get_with_hints_dtype(dims, name, Init::Const(value), DType::F64)
        };
        Ok(match method {
            Method::None => Self::None,
            Method::PerSequence(conditioner) => Self::PerSequence(conditioner),
            Method::Pooled(config) => Self::Pooled(Pooled::with_state(
                config,
                buffer("running_gram", &[channels, channels], 0.0)?,
                buffer("running_weight", &[], 0.0)?,
            )?),
            Method::NormMatched(conditioner) => Self::NormMatched(NormMatched::new(conditioner)),
            Method::Standardised => Self::Standardised(Standardise::with_state(
                buffer("running_mean", &[channels], 0.0)?,
                buffer("running_var", &[channels], 1.0)?,
                buffer("running_weight", &[], 0.0)?,
            )?),
        })
    }

    /// X -> Y, (B, N, C). A training pass also moves the running averages, after its own use of
    /// them.
    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let train = mode.is_train();
        Ok(match self {
            Self::None => x.clone(),
            Self::PerSequence(conditioner) => conditioner.forward(x)?,
            Self::NormMatched(control) => control.forward(x)?,
            Self::Pooled(pooled) if train => pooled.forward_train_observed(x)?,
            Self::Pooled(pooled) => pooled.forward(x)?,
            Self::Standardised(standardise) if train => {
                let y = standardise.forward_train(x)?;
                standardise.observe(x)?;
                y
            }
            Self::Standardised(standardise) => standardise.forward(x)?,
        })
    }

    /// Replaces running averages by those over `batches` of X; nothing for methods without state.
    pub(crate) fn recalibrate(
        &self,
        batches: impl IntoIterator<Item = Result<Tensor>>,
    ) -> Result<()> {
        match self {
            Self::Pooled(pooled) => Ok(pooled.recalibrate(batches)?),
            Self::Standardised(standardise) => Ok(standardise.recalibrate(batches)?),
            Self::None | Self::PerSequence(_) | Self::NormMatched(_) => Ok(()),
        }
    }

    /// Whether evaluation uses running averages.
    pub(crate) fn has_state(&self) -> bool {
        matches!(self, Self::Pooled(_) | Self::Standardised(_))
    }
}
