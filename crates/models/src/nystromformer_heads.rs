//! What is put on a [`Nystromformer`]: a classifier of sequences, or of pairs of them.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{AveragePool, Linear, Mode, Sequence, linear};

use crate::bert_heads::classification_loss;
use crate::nystromformer::{Nystromformer, NystromformerConfig, Sequences};

/// A Nystromformer with a classifier on the mean of its real tokens.
///
/// ```text
/// h = mean of H over real tokens                        (B, C)
/// f = h, or of a pair (a, b) [a; b; a b; a - b]         (B, C) or (B, 4C)
/// logits = W relu(W_1 f + b_1) + b                      (B, K), W_1 (2C, C) or (2C, 4C)
/// ```
///
/// Both texts of a pair go through one encoder, in one batch: the first B sequences, then the second. The
/// reference divides by the padded length, so that short sequences have small features.
///
/// Source: `SCHead` and `SCHeadDual` of mlpen/Nystromformer at commit 5689313 (`LRA/code/model_wrapper.py`), whose
/// hidden width 128 is twice that of the tokens; names of Hugging Face.
#[derive(Debug)]
pub struct NystromformerClassifier {
    nystromformer: Nystromformer,
    pairs: bool,
    pool: Sequence,
    dense: Linear,
    out_proj: Linear,
}

impl NystromformerClassifier {
    /// A model over `vb` with `classes` outputs; the encoder lies at `nystromformer`.
    ///
    /// # Errors
    /// When the configuration contradicts itself, there are less than two classes, or a tensor has another shape.
    pub fn new(
        config: &NystromformerConfig,
        classes: usize,
        pairs: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        if classes < 2 {
            candle_core::bail!("nystromformer: a classifier needs at least two classes");
        }
        let c = config.width;
        let features = if pairs { 4 * c } else { c };
        Ok(Self {
            nystromformer: Nystromformer::new(config, vb.pp("nystromformer"))?,
            pairs,
            pool: Sequence::new([AveragePool.into()]),
            dense: linear(vb.pp("classifier.dense"), features, 2 * c)?,
            out_proj: linear(vb.pp("classifier.out_proj"), 2 * c, classes)?,
        })
    }

    /// The encoder.
    pub fn nystromformer(&self) -> &Nystromformer {
        &self.nystromformer
    }

    /// Logits (B, K) of B sequences, or of B pairs: their first sequences, then their second, 2B in all.
    ///
    /// # Errors
    /// As [`Nystromformer::hidden`], or when the sequences are no pairs.
    pub fn logits(&self, input: &Sequences, mode: Mode) -> Result<Tensor> {
        let hidden = self.nystromformer.hidden(input, mode)?;
        let mean = self.pool.forward(&hidden, input.pass(mode))?; // (B, C) or (2B, C)
        let features = match self.pairs {
            false => mean,
            true => {
                let sequences = mean.dim(0)?;
                if !sequences.is_multiple_of(2) {
                    candle_core::bail!("nystromformer: {sequences} sequences are no pairs");
                }
                let half = sequences / 2;
                let (a, b) = (mean.narrow(0, 0, half)?, mean.narrow(0, half, half)?);
                Tensor::cat(&[&a, &b, &(&a * &b)?, &(&a - &b)?], 1)? // (B, 4C)
            }
        };
        features.apply(&self.dense)?.relu()?.apply(&self.out_proj)
    }

    /// The mean cross-entropy of `labels` (B) of u32 below K.
    ///
    /// # Errors
    /// As [`NystromformerClassifier::logits`], or when the labels are no classes.
    pub fn loss(&self, input: &Sequences, labels: &Tensor, mode: Mode) -> Result<Tensor> {
        classification_loss(&self.logits(input, mode)?, labels)
    }
}
