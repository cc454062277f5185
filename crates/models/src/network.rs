//! All models behind one name: what a run that can train any of them is configured with.

use candle_core::{DType, Result, Tensor};
use conditioned_nn::Store;
use serde::{Deserialize, Serialize};

use crate::conditioning::{ConditioningConfig, Tokens};
use crate::encoder::EncoderConfig;
use crate::gpt2::{Gpt2, Gpt2Config};
use crate::vit::{Vit, VitConfig};

/// The configuration of a model of any family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// ViT, DeiT.
    Vit(VitConfig),
    /// GPT-2.
    Gpt2(Gpt2Config),
    /// BERT or Crammed BERT.
    Encoder(EncoderConfig),
}

impl Network {
    /// What is done to the tokens.
    pub fn conditioning(&self) -> ConditioningConfig {
        match self {
            Self::Vit(config) => config.conditioning,
            Self::Gpt2(config) => config.conditioning,
            Self::Encoder(config) => config.conditioning(),
        }
    }

    /// Sets what is done to the tokens; a GPT-2 is causal with it, or refused.
    pub fn set_conditioning(&mut self, conditioning: ConditioningConfig) {
        match self {
            Self::Vit(config) => config.conditioning = conditioning,
            Self::Gpt2(config) => {
                (config.conditioning, config.allow_future_leak) = (conditioning, false);
            }
            Self::Encoder(config) => config.set_conditioning(conditioning),
        }
    }

    /// The standard deviations of the embedding tables at initialisation: of words or class token, and of
    /// positions.
    pub fn embedding_stds(&self) -> (f64, f64) {
        match self {
            Self::Vit(config) => (config.table_std, config.table_std),
            Self::Gpt2(config) => (config.token_std, config.position_std),
            Self::Encoder(config) => (config.table_std(), config.table_std()),
        }
    }

    /// Sets the deviation of all embedding tables.
    pub fn set_embedding_std(&mut self, std: f64) {
        match self {
            Self::Vit(config) => config.table_std = std,
            Self::Gpt2(config) => (config.token_std, config.position_std) = (std, std),
            Self::Encoder(config) => config.set_table_std(std),
        }
    }

    /// Sets the deviation that the arm `init` looks for. A GPT-2 keeps its token table: the scale of both
    /// tables together would not change kappa.
    pub fn set_init_std(&mut self, std: f64) {
        match self {
            Self::Gpt2(config) => config.position_std = std,
            _ => self.set_embedding_std(std),
        }
    }

    /// Checks what the types of the fields cannot.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Vit(config) => config.validate(),
            Self::Gpt2(config) => config.validate(),
            Self::Encoder(config) => config.validate(),
        }
    }

    /// Trainable scalars, of an encoder without its head.
    pub fn parameter_count(&self) -> usize {
        match self {
            Self::Vit(config) => config.parameter_count(),
            Self::Gpt2(config) => config.parameter_count(),
            Self::Encoder(config) => config.parameter_count(),
        }
    }

    /// Multiply-accumulates of one forward pass over one image or sequence of `tokens`.
    pub fn macs(&self, tokens: usize) -> usize {
        match self {
            Self::Vit(config) => config.macs(),
            Self::Gpt2(config) => config.macs() / config.context.max(1) * tokens,
            Self::Encoder(config) => config.macs(tokens),
        }
    }

    /// The tokens that enter the first block for `ids` (B, N) or images (B, C, H, W), with fresh parameters
    /// of a seed.
    ///
    /// # Errors
    /// When the configuration contradicts itself or the input does not fit it.
    pub fn fresh_tokens(&self, seed: u64, input: &Tensor) -> Result<Tokens> {
        let store = Store::new(seed, DType::F32, input.device());
        match self {
            Self::Vit(config) => Vit::new(config, store.builder())?.tokens(input),
            Self::Gpt2(config) => Gpt2::new(config, store.builder())?.tokens(input),
            Self::Encoder(config) => config.fresh_tokens(&store, input),
        }
    }
}
