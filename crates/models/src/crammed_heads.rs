//! What is put on a [`CrammedBert`]: a classifier of texts, and a head that restores masked words.

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{Dropout, Linear, Mode, linear_cross_entropy};

use crate::bert::BertInput;
use crate::bert_heads::{classification_loss, first_tokens};
use crate::crammed_bert::{CrammedBert, CrammedBertConfig, LINEAR_STD};

/// A Crammed BERT with a linear classifier on its pooled first token, or a regression where it has one
/// output.
///
/// ```text
/// logits = W dropout(tanh(W_p h_0 + b_p)) + b          (B, K), W_p (4C/3, C)
/// ```
///
/// Source: `ScriptableLMForSequenceClassification` of the reference, pooling the first token as its
/// `config/eval/GLUE_sane.yaml`: 1024 pooled channels at the published width of 768, here in that
/// proportion at every width.
#[derive(Debug)]
pub struct CrammedBertClassifier {
    bert: CrammedBert,
    pooler: Linear,
    dropout: Dropout,
    head: Linear,
}

impl CrammedBertClassifier {
    /// A model over `vb` with `classes` outputs; the encoder lies at `encoder`.
    ///
    /// # Errors
    /// When the configuration contradicts itself, there is no class, or a tensor has another shape.
    pub fn new(config: &CrammedBertConfig, classes: usize, vb: VarBuilder) -> Result<Self> {
        if classes == 0 {
            candle_core::bail!("crammed-bert: a classifier needs at least one class");
        }
        let (c, pooled) = (config.width, config.pooled_width());
        Ok(Self {
            bert: CrammedBert::new(config, vb.pp("encoder"))?,
            pooler: Linear::with_std(vb.pp("pooler.dense"), c, pooled, LINEAR_STD)?,
            dropout: Dropout::new(&vb.pp("pooler.dropout"), config.dropout)?,
            head: Linear::with_std(vb.pp("head"), pooled, classes, LINEAR_STD)?,
        })
    }

    /// The encoder.
    pub fn bert(&self) -> &CrammedBert {
        &self.bert
    }

    /// The pooled first token, (B, 4C/3).
    ///
    /// # Errors
    /// As [`CrammedBert::hidden`].
    pub fn pooled(&self, input: &BertInput, mode: Mode) -> Result<Tensor> {
        let hidden = self.bert.hidden_at(input, &first_tokens(input)?, mode)?.squeeze(1)?;
        self.pooler.forward(&hidden)?.tanh()
    }

    /// Logits (B, K).
    ///
    /// # Errors
    /// As [`CrammedBert::hidden`].
    pub fn logits(&self, input: &BertInput, mode: Mode) -> Result<Tensor> {
        self.head.forward(&self.dropout.forward(&self.pooled(input, mode)?, mode)?)
    }

    /// The mean cross-entropy of `labels` (B) of u32 below K; with f32 labels and one output, the mean
    /// squared error.
    ///
    /// # Errors
    /// As [`CrammedBert::hidden`], or when the labels are not of either kind.
    pub fn loss(&self, input: &BertInput, labels: &Tensor, mode: Mode) -> Result<Tensor> {
        classification_loss(&self.logits(input, mode)?, labels)
    }
}

/// A Crammed BERT that restores masked words; the decoder is the raw word table, without bias and
/// without a layer before it.
///
/// ```text
/// logits = h E^T                                       at the masked positions, (B, M, V)
/// ```
///
/// Source: `ScriptableLMForPreTraining` of the reference.
#[derive(Debug)]
pub struct CrammedBertMaskedLm {
    bert: CrammedBert,
}

impl CrammedBertMaskedLm {
    /// A model over `vb`; the encoder lies at `encoder`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    pub fn new(config: &CrammedBertConfig, vb: VarBuilder) -> Result<Self> {
        Ok(Self { bert: CrammedBert::new(config, vb.pp("encoder"))? })
    }

    /// The encoder.
    pub fn bert(&self) -> &CrammedBert {
        &self.bert
    }

    /// Logits of the words at `positions` (B, M) of u32: (B, M, V).
    ///
    /// # Errors
    /// As [`CrammedBert::hidden_at`].
    pub fn logits(&self, input: &BertInput, positions: &Tensor, mode: Mode) -> Result<Tensor> {
        let hidden = self.bert.hidden_at(input, positions, mode)?;
        Linear::new(self.bert.word_table().clone(), None).forward(&hidden)
    }

    /// The mean cross-entropy of the words `targets` (B, M) of u32 at `positions` (B, M), in nats.
    ///
    /// # Errors
    /// As [`CrammedBert::hidden_at`], or when a target is not in the vocabulary.
    pub fn loss(
        &self,
        input: &BertInput,
        positions: &Tensor,
        targets: &Tensor,
        mode: Mode,
    ) -> Result<Tensor> {
        let hidden = self.bert.hidden_at(input, positions, mode)?;
        linear_cross_entropy(&hidden, self.bert.word_table(), targets, mode.precision())
    }
}
