//! The encoders that texts are classified with, behind one name.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{Mode, Seen};

use crate::architecture::architectures;
use crate::bert::{BertConfig, BertInput};
use crate::bert_heads::{BertClassifier, BertMaskedLm};
use crate::conditioning::Tokens;
use crate::crammed_bert::CrammedBertConfig;
use crate::crammed_heads::{CrammedBertClassifier, CrammedBertMaskedLm};

architectures! {
    /// A BERT of one of two kinds.
    pub enum EncoderConfig {
        /// The published one, post-norm.
        Bert(BertConfig),
        /// Crammed BERT, pre-norm.
        CrammedBert(CrammedBertConfig),
    }
}

/// Runs `$body` with the configuration or model of either kind.
macro_rules! either {
    ($self:expr, $type:ident, $of:ident => $body:expr) => {
        match $self {
            $type::Bert($of) => $body,
            $type::CrammedBert($of) => $body,
        }
    };
}

impl EncoderConfig {
    /// The tokens V that it knows.
    pub fn vocabulary(&self) -> usize {
        either!(self, Self, config => config.vocabulary)
    }

    /// Sets the probability of dropout.
    pub fn set_dropout(&mut self, dropout: f64) {
        either!(self, Self, config => config.dropout = dropout);
    }

    /// A classifier of `outputs` classes, or of scores where there is one, over `vb`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    pub fn classifier(&self, outputs: usize, vb: VarBuilder) -> Result<Classifier> {
        Ok(match self {
            Self::Bert(config) => Classifier::Bert(BertClassifier::new(config, outputs, vb)?),
            Self::CrammedBert(config) => {
                Classifier::CrammedBert(CrammedBertClassifier::new(config, outputs, vb)?)
            }
        })
    }

    /// A model of masked words over `vb`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    pub fn masked_lm(&self, vb: VarBuilder) -> Result<MaskedLm> {
        Ok(match self {
            Self::Bert(config) => MaskedLm::Bert(BertMaskedLm::new(config, vb)?),
            Self::CrammedBert(config) => {
                MaskedLm::CrammedBert(CrammedBertMaskedLm::new(config, vb)?)
            }
        })
    }
}

/// An encoder with a classifier on it.
#[derive(Debug)]
pub enum Classifier {
    /// On a BERT.
    Bert(BertClassifier),
    /// On a Crammed BERT.
    CrammedBert(CrammedBertClassifier),
}

impl Classifier {
    /// Logits (B, K).
    ///
    /// # Errors
    /// When the texts do not fit the model.
    pub fn logits(&self, input: &BertInput, mode: Mode) -> Result<Tensor> {
        either!(self, Self, model => model.logits(input, mode))
    }

    /// The loss of `labels` (B).
    ///
    /// # Errors
    /// When texts or labels do not fit the model.
    pub fn loss(&self, input: &BertInput, labels: &Tensor, mode: Mode) -> Result<Tensor> {
        either!(self, Self, model => model.loss(input, labels, mode))
    }

    /// What the encoder does inside in an evaluation of texts: see [`Model::probe`](crate::Model::probe).
    ///
    /// # Errors
    /// When the texts do not fit the model.
    pub fn probe(&self, input: &BertInput) -> Result<Seen> {
        either!(self, Self, model => model.bert().probe_input(input))
    }

    /// The real tokens entering the first layer in evaluation mode, (R, C).
    ///
    /// # Errors
    /// When the texts do not fit the model.
    pub fn real_tokens(&self, input: &BertInput) -> Result<Tokens> {
        either!(self, Self, model => model.bert().real_tokens(input))
    }
}

/// An encoder with a head that restores masked words.
#[derive(Debug)]
pub enum MaskedLm {
    /// On a BERT.
    Bert(BertMaskedLm),
    /// On a Crammed BERT.
    CrammedBert(CrammedBertMaskedLm),
}

impl MaskedLm {
    /// The mean cross-entropy of the words `targets` (B, M) at `positions` (B, M), in nats.
    ///
    /// # Errors
    /// When the texts do not fit the model.
    pub fn loss(
        &self,
        input: &BertInput,
        positions: &Tensor,
        targets: &Tensor,
        mode: Mode,
    ) -> Result<Tensor> {
        either!(self, Self, model => model.loss(input, positions, targets, mode))
    }

    /// What the encoder does inside in an evaluation of texts: see [`Model::probe`](crate::Model::probe).
    ///
    /// # Errors
    /// When the texts do not fit the model.
    pub fn probe(&self, input: &BertInput) -> Result<Seen> {
        either!(self, Self, model => model.bert().probe_input(input))
    }

    /// The real tokens entering the first layer in evaluation mode, (R, C).
    ///
    /// # Errors
    /// When the texts do not fit the model.
    pub fn real_tokens(&self, input: &BertInput) -> Result<Tokens> {
        either!(self, Self, model => model.bert().real_tokens(input))
    }
}
