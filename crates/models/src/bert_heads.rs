//! What is put on a [`Bert`]: a classifier of texts, and a head that restores masked words.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{Dropout, LayerNorm, Linear, Mode, cross_entropy, gelu, linear_cross_entropy};

use crate::bert::{Bert, BertConfig, BertInput, EPS};

/// Deviation of the weights of a head at initialisation.
const STD: f64 = 0.02;

/// A BERT with a linear classifier on its pooled first token, or a regression where it has one output.
///
/// ```text
/// logits = W dropout(tanh(W_p h_0 + b_p)) + b          (B, K)
/// ```
///
/// Source: `BertForSequenceClassification` of Hugging Face.
#[derive(Debug)]
pub struct BertClassifier {
    bert: Bert,
    pooler: Linear,
    dropout: Dropout,
    classifier: Linear,
}

impl BertClassifier {
    /// A model over `vb` with `classes` outputs; the encoder lies at `bert`.
    ///
    /// # Errors
    /// When the configuration contradicts itself, there is no class, or a tensor has another shape.
    pub fn new(config: &BertConfig, classes: usize, vb: VarBuilder) -> Result<Self> {
        if classes == 0 {
            candle_core::bail!("bert: a classifier needs at least one class");
        }
        let c = config.width;
        Ok(Self {
            bert: Bert::new(config, vb.pp("bert"))?,
            pooler: Linear::with_std(vb.pp("bert.pooler.dense"), c, c, STD)?,
            dropout: Dropout::new(&vb.pp("dropout"), config.dropout)?,
            classifier: Linear::with_std(vb.pp("classifier"), c, classes, STD)?,
        })
    }

    /// The encoder.
    pub fn bert(&self) -> &Bert {
        &self.bert
    }

    /// The pooled first token, (B, C).
    ///
    /// # Errors
    /// As [`Bert::hidden`].
    pub fn pooled(&self, input: &BertInput, mode: Mode) -> Result<Tensor> {
        let hidden = self.bert.hidden_at(input, &first_tokens(input)?, mode)?.squeeze(1)?;
        self.pooler.forward(&hidden)?.tanh()
    }

    /// Logits (B, K).
    ///
    /// # Errors
    /// As [`Bert::hidden`].
    pub fn logits(&self, input: &BertInput, mode: Mode) -> Result<Tensor> {
        self.classifier.forward(&self.dropout.forward(&self.pooled(input, mode)?, mode)?)
    }

    /// The mean cross-entropy of `labels` (B) of u32 below K; with f32 labels and one output, the mean
    /// squared error.
    ///
    /// # Errors
    /// As [`Bert::hidden`], or when the labels are not of either kind.
    pub fn loss(&self, input: &BertInput, labels: &Tensor, mode: Mode) -> Result<Tensor> {
        classification_loss(&self.logits(input, mode)?, labels)
    }
}

/// The place of the first token of each sequence, (B, 1), on the CPU, where places are read without waiting for a GPU.
pub(crate) fn first_tokens(input: &BertInput) -> Result<Tensor> {
    Tensor::zeros((input.ids.dim(0)?, 1), DType::U32, &Device::Cpu)
}

/// The mean cross-entropy of `labels` (B) of u32 below K for logits (B, K), K at least 2; with K = 1 the
/// mean squared error of scores in f32. Labels on the CPU are read without waiting for a GPU.
///
/// # Errors
/// When the labels are of neither kind.
pub fn classification_loss(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let outputs = logits.dim(1)?;
    match labels.dtype() {
        DType::U32 if outputs > 1 => {
            let labels = labels.to_device(&Device::Cpu)?;
            let targets = candle_nn::encoding::one_hot(labels, outputs, 1f32, 0f32)?;
            cross_entropy(logits, &targets.to_dtype(logits.dtype())?.to_device(logits.device())?)
        }
        DType::F32 | DType::F64 if outputs == 1 => {
            let scores = labels.to_dtype(logits.dtype())?.to_device(logits.device())?;
            (logits.squeeze(1)? - scores)?.sqr()?.mean_all()
        }
        found => candle_core::bail!(
            "bert: labels of {found:?} with {outputs} outputs; classes are u32 and have two or more, \
             scores are f32 and have one"
        ),
    }
}

/// A BERT that restores masked words; the decoder is the raw word table.
///
/// ```text
/// logits = LN(gelu(W h + b)) E^T + c                   at the masked positions, (B, M, V)
/// ```
///
/// Source: `BertForMaskedLM` of Hugging Face.
#[derive(Debug)]
pub struct BertMaskedLm {
    bert: Bert,
    dense: Linear,
    norm: LayerNorm,
    bias: Tensor,
}

impl BertMaskedLm {
    /// A model over `vb`; the encoder lies at `bert`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    pub fn new(config: &BertConfig, vb: VarBuilder) -> Result<Self> {
        let (c, cls) = (config.width, vb.pp("cls.predictions"));
        Ok(Self {
            bert: Bert::new(config, vb.pp("bert"))?,
            dense: Linear::with_std(cls.pp("transform.dense"), c, c, STD)?,
            norm: LayerNorm::new(cls.pp("transform.LayerNorm"), c, EPS)?,
            bias: cls.get_with_hints(config.vocabulary, "bias", candle_nn::init::ZERO)?,
        })
    }

    /// The encoder.
    pub fn bert(&self) -> &Bert {
        &self.bert
    }

    fn transformed(&self, input: &BertInput, positions: &Tensor, mode: Mode) -> Result<Tensor> {
        let hidden = self.bert.hidden_at(input, positions, mode)?;
        self.norm.forward(&gelu(&self.dense.forward(&hidden)?)?)
    }

    /// Logits of the words at `positions` (B, M) of u32: (B, M, V).
    ///
    /// # Errors
    /// As [`Bert::hidden_at`].
    pub fn logits(&self, input: &BertInput, positions: &Tensor, mode: Mode) -> Result<Tensor> {
        let transformed = self.transformed(input, positions, mode)?;
        let table = self.bert.word_table().clone();
        Linear::new(table, Some(self.bias.clone())).forward(&transformed)
    }

    /// The mean cross-entropy of the words `targets` (B, M) of u32 at `positions` (B, M), in nats.
    ///
    /// # Errors
    /// As [`Bert::hidden_at`], or when a target is not in the vocabulary.
    pub fn loss(
        &self,
        input: &BertInput,
        positions: &Tensor,
        targets: &Tensor,
        mode: Mode,
    ) -> Result<Tensor> {
        let transformed = self.transformed(input, positions, mode)?;
        // The bias is the weight of a last channel that is one.
        let (b, m, _) = transformed.dims3()?;
        let one = Tensor::ones((b, m, 1), transformed.dtype(), transformed.device())?;
        let weight = Tensor::cat(&[self.bert.word_table(), &self.bias.unsqueeze(1)?], 1)?;
        linear_cross_entropy(
            &Tensor::cat(&[&transformed, &one], 2)?,
            &weight,
            targets,
            mode.precision(),
        )
    }
}
