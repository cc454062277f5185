//! GPT-2, the decoder-only language model.
//!
//! ```text
//! X   = E[ids] + P                                      (B, T, C)
//! X'  = X + MSA(LN(X)),   X'' = X' + MLP(LN(X'))        depth times, pre-norm, causal
//! logits = LN(X) E^T                                    (B, T, V), the head is tied
//! ```
//!
//! Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. Names and
//! layout follow the Hugging Face `GPT2Model`: projections are `Conv1D`, stored (in, out).
//! Initialisation as there: normal of deviation 0.02, 0.02 / sqrt(2 depth) for the two projections
//! that end a residual branch; the tables have a deviation of their own.

use candle_core::{DType, Module, Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{
    Attention, Dropout, Gelu, LayerNorm, Linear, Mode, Sequence, add_table, embedding, init,
    linear_cross_entropy,
};
use serde::{Deserialize, Serialize};

use crate::UnknownPreset;

/// Epsilon of every layer norm.
const EPS: f64 = 1e-5;

/// Deviation of every linear weight at initialisation.
const LINEAR_STD: f64 = 0.02;

/// What a GPT-2 is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpt2Config {
    /// Tokens V that the model knows.
    pub vocabulary: usize,
    /// The longest sequence T.
    pub context: usize,
    /// Token width C.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads per block.
    pub heads: usize,
    /// Probability of dropout on the embedding and at the end of every residual branch.
    pub dropout: f64,
    /// Deviation of token and position table at initialisation; published: 0.02.
    pub table_std: f64,
}

impl Gpt2Config {
    /// Presets by name: (name, vocabulary, context, width, depth, heads).
    ///
    /// The four published sizes, and `gpt2-6x384`, a small one for measurements.
    const PRESETS: [(&'static str, [usize; 5]); 5] = [
        ("gpt2", [50257, 1024, 768, 12, 12]),
        ("gpt2-medium", [50257, 1024, 1024, 24, 16]),
        ("gpt2-large", [50257, 1024, 1280, 36, 20]),
        ("gpt2-xl", [50257, 1024, 1600, 48, 25]),
        ("gpt2-6x384", [4096, 256, 384, 6, 6]),
    ];

    /// The names of all presets.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        Self::PRESETS.iter().map(|(name, _)| *name)
    }

    /// The preset called `name`, without dropout.
    ///
    /// # Errors
    /// When there is no such preset.
    pub fn preset(name: &str) -> std::result::Result<Self, UnknownPreset> {
        let preset = Self::PRESETS.iter().find(|(known, _)| *known == name);
        let Some((_, [vocabulary, context, width, depth, heads])) = preset else {
            let known = Self::presets().collect();
            return Err(UnknownPreset { name: name.to_string(), known });
        };
        Ok(Self {
            vocabulary: *vocabulary,
            context: *context,
            width: *width,
            depth: *depth,
            heads: *heads,
            dropout: 0.0,
            table_std: 0.02,
        })
    }

    /// Trainable scalars.
    pub fn parameter_count(&self) -> usize {
        let c = self.width;
        let block = 4 * c + (c + 1) * 3 * c + (c + 1) * c + (c + 1) * 4 * c + (4 * c + 1) * c;
        (self.vocabulary + self.context) * c + self.depth * block + 2 * c
    }

    /// Multiply-accumulates of one forward pass of one full sequence, matrix products only: head
    /// included, attention to the past only.
    pub fn macs(&self) -> usize {
        let (t, c) = (self.context, self.width);
        t * c * (self.depth * (12 * c + t + 1) + self.vocabulary)
    }

    /// Checks what the types of the fields cannot.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("vocabulary", self.vocabulary),
            ("context", self.context),
            ("width", self.width),
            ("heads", self.heads),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            candle_core::bail!("gpt2: {name} must be at least 1");
        }
        if !self.width.is_multiple_of(self.heads) {
            candle_core::bail!("gpt2: {} heads do not divide width {}", self.heads, self.width);
        }
        if !(self.table_std >= 0.0 && self.table_std.is_finite()) {
            candle_core::bail!("gpt2: table_std {} must be finite and >= 0", self.table_std);
        }
        Ok(())
    }
}

/// A GPT-2 whose head is tied to its token table.
#[derive(Debug)]
pub struct Gpt2 {
    wte: Tensor,
    wpe: Tensor,
    dropout: Dropout,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Gpt2 {
    /// A model over `vb`, at the names of the Hugging Face `GPT2Model`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    pub fn new(config: &Gpt2Config, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let table = init::normal(config.table_std);
        let blocks = (0..config.depth)
            .map(|i| Block::new(config, vb.pp("h").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            wte: vb.pp("wte").get_with_hints((config.vocabulary, config.width), "weight", table)?,
            wpe: vb.pp("wpe").get_with_hints((config.context, config.width), "weight", table)?,
            dropout: Dropout::new(&vb.pp("drop"), config.dropout)?,
            blocks,
            norm: LayerNorm::new(vb.pp("ln_f"), config.width, EPS)?,
        })
    }

    /// Ids (B, T) to the last hidden state (B, T, C), normalised.
    ///
    /// # Errors
    /// When the sequence is longer than the context or an id is not in the vocabulary.
    pub fn hidden(&self, ids: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = self.dropout.forward(&self.embed(ids)?, mode)?;
        for block in &self.blocks {
            x = block.forward(&x, mode)?;
        }
        self.norm.forward(&x)
    }

    /// Ids (B, T) to the tokens that enter the first block, (B, T, C).
    fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let (_, length) = ids.dims2()?;
        let context = self.wpe.dim(0)?;
        if length > context {
            candle_core::bail!("gpt2: {length} tokens are more than the context of {context}");
        }
        add_table(&embedding(ids, &self.wte)?, &self.wpe.narrow(0, 0, length)?.unsqueeze(0)?)
    }

    /// Ids (B, T) to logits (B, T, V).
    ///
    /// # Errors
    /// As [`Gpt2::hidden`].
    pub fn logits(&self, ids: &Tensor, mode: Mode) -> Result<Tensor> {
        Linear::new(self.wte.clone(), None).forward(&self.hidden(ids, mode)?)
    }

    /// The mean cross-entropy of `targets` (B, T) after `ids` (B, T), in nats per token.
    ///
    /// # Errors
    /// As [`Gpt2::hidden`], or when a target is not in the vocabulary.
    pub fn loss(&self, ids: &Tensor, targets: &Tensor, mode: Mode) -> Result<Tensor> {
        linear_cross_entropy(&self.hidden(ids, mode)?, &self.wte, &targets.to_dtype(DType::U32)?)
    }
}

/// A pre-norm block: two residual branches.
#[derive(Debug)]
struct Block {
    attention: Sequence,
    mlp: Sequence,
}

impl Block {
    fn new(config: &Gpt2Config, vb: VarBuilder) -> Result<Self> {
        let (c, hidden) = (config.width, 4 * config.width);
        let last_std = LINEAR_STD / (2.0 * config.depth as f64).sqrt();
        let norm = |name| LayerNorm::new(vb.pp(name), c, EPS);
        let dropout = |name| Dropout::new(&vb.pp(name), config.dropout);
        let conv1d = |path, inputs, outputs, std| Linear::conv1d(vb.pp(path), inputs, outputs, std);
        Ok(Self {
            attention: Sequence::residual([
                norm("ln_1")?.into(),
                conv1d("attn.c_attn", c, 3 * c, LINEAR_STD)?.into(),
                Attention { heads: config.heads, causal: true }.into(),
                conv1d("attn.c_proj", c, c, last_std)?.into(),
                dropout("attn.resid_dropout")?.into(),
            ]),
            mlp: Sequence::residual([
                norm("ln_2")?.into(),
                conv1d("mlp.c_fc", c, hidden, LINEAR_STD)?.into(),
                Gelu::Tanh.into(),
                conv1d("mlp.c_proj", hidden, c, last_std)?.into(),
                dropout("mlp.dropout")?.into(),
            ]),
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.mlp.forward(&self.attention.forward(x, mode)?, mode)
    }
}
