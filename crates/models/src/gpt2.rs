//! GPT-2, the decoder-only language model.
//!
//! ```text
//! X   = condition(E[ids] + P)                           (B, T, C)
//! X'  = X + MSA(LN(X)),   X'' = X' + MLP(LN(X'))        depth times, pre-norm, causal
//! logits = LN(X) E^T                                    (B, T, V), the head is tied
//! ```
//!
//! A method that is not causal is refused: see [`Gpt2Config::allow_future_leak`]. Causal methods
//! act on every token alone, by the same linear map until the next training step, so they fold into
//! the two tables ([`Gpt2::folded_tables`]). The head multiplies with the raw E.
//!
//! Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. Names and
//! layout follow the Hugging Face `GPT2Model`: projections are `Conv1D`, stored (in, out).
//! Initialisation as there: normal of deviation 0.02, 0.02 / sqrt(2 depth) for the two projections
//! that end a residual branch; the tables have deviations of their own.

use std::collections::BTreeMap;

use candle_core::{DType, Module, Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{
    Attention, Cache, Dropout, Gelu, LayerNorm, Linear, Mode, Sequence, add_table, embedding, init,
    linear_cross_entropy,
};
use serde::{Deserialize, Serialize};

use crate::UnknownPreset;
use crate::conditioning::{
    ConditioningConfig, Packing, Placement, Table, TokenConditioner, Tokens,
};
use crate::self_attention::{Projection, SelfAttention, folded_weights};

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
    /// Deviation of the token table at initialisation; published: 0.02.
    pub token_std: f64,
    /// Deviation of the position table at initialisation; published: 0.02.
    pub position_std: f64,
    /// Whether the head is the token table; published: true. Else it is `lm_head.weight` (V, C).
    pub tie_word_embeddings: bool,
    /// What is done to the tokens before the first block, to weights and to attention.
    pub conditioning: ConditioningConfig,
    /// Takes a method that is not causal all the same, for a reproduction of the literal one. The
    /// model then sees tokens that it has to predict: neither its loss nor what it generates can be
    /// compared with others.
    pub allow_future_leak: bool,
}

impl Gpt2Config {
    /// Presets by name: (name, vocabulary, context, width, depth, heads).
    ///
    /// The four published sizes; `gpt2-6x384`, a small one for measurements; `gpt2-4x128`, this
    /// project's first prototype.
    const PRESETS: [(&'static str, [usize; 5]); 6] = [
        ("gpt2", [50257, 1024, 768, 12, 12]),
        ("gpt2-medium", [50257, 1024, 1024, 24, 16]),
        ("gpt2-large", [50257, 1024, 1280, 36, 20]),
        ("gpt2-xl", [50257, 1024, 1600, 48, 25]),
        ("gpt2-6x384", [4096, 256, 384, 6, 6]),
        ("gpt2-4x128", [4096, 128, 128, 4, 4]),
    ];

    /// The names of all presets.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        Self::PRESETS.iter().map(|(name, _)| *name)
    }

    /// The preset called `name`, without dropout and without conditioning.
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
            token_std: 0.02,
            position_std: 0.02,
            tie_word_embeddings: true,
            conditioning: ConditioningConfig::default(),
            allow_future_leak: false,
        })
    }

    /// Trainable scalars.
    pub fn parameter_count(&self) -> usize {
        let c = self.width;
        let block = 4 * c + (c + 1) * 3 * c + (c + 1) * c + (c + 1) * 4 * c + (4 * c + 1) * c;
        let tables = if self.tie_word_embeddings { 1 } else { 2 } * self.vocabulary + self.context;
        tables * c + self.depth * block + 2 * c
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
        for (name, std) in [("token_std", self.token_std), ("position_std", self.position_std)] {
            if !(std >= 0.0 && std.is_finite()) {
                candle_core::bail!("gpt2: {name} {std} must be finite and >= 0");
            }
        }
        self.conditioning.validate()?;
        self.conditioning.placement.check_no_norm("gpt2")?;
        self.conditioning.method.check_causal("gpt2", self.allow_future_leak)
    }
}

/// What a [`Gpt2`] remembers of the tokens that it has seen, for [`Gpt2::next_logits`].
#[derive(Debug)]
pub struct Gpt2Cache(Vec<Cache>);

impl Gpt2Cache {
    /// Tokens seen so far, in every sequence.
    pub fn len(&self) -> usize {
        self.0.first().map_or(0, Cache::len)
    }

    /// Whether no token has been seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A GPT-2 with its head.
#[derive(Debug)]
pub struct Gpt2 {
    wte: Table,
    wpe: Table,
    /// `None` where the head is tied to `wte`.
    lm_head: Option<Tensor>,
    conditioning: ConditioningConfig,
    conditioner: TokenConditioner,
    dropout: Dropout,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Gpt2 {
    /// A model over `vb`, at the names of the Hugging Face `GPT2Model`, and `lm_head.weight`.
    ///
    /// # Errors
    /// When the configuration contradicts itself, a method would see the future, or a tensor has
    /// another shape.
    pub fn new(config: &Gpt2Config, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let ConditioningConfig { method, placement, .. } = config.conditioning;
        let (c, vocabulary) = (config.width, config.vocabulary);
        let table =
            |name, rows, std| vb.pp(name).get_with_hints((rows, c), "weight", init::normal(std));
        let positions = table("wpe", config.context, config.position_std)?;
        let blocks = (0..config.depth)
            .map(|i| Block::new(config, vb.pp("h").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            wte: Table::new(table("wte", vocabulary, config.token_std)?, method)?,
            wpe: match placement {
                Placement::BeforePosition => Table::Plain(positions),
                Placement::AfterPosition | Placement::AfterNorm => Table::new(positions, method)?,
            },
            lm_head: match config.tie_word_embeddings {
                true => None,
                false => Some(table("lm_head", vocabulary, LINEAR_STD)?),
            },
            conditioning: config.conditioning,
            conditioner: TokenConditioner::new(config.conditioning, c, vb.pp("conditioner"))?,
            dropout: Dropout::new(&vb.pp("drop"), config.dropout)?,
            blocks,
            norm: LayerNorm::new(vb.pp("ln_f"), c, EPS)?,
        })
    }

    /// Ids (B, T) to the last hidden state (B, T, C), normalised.
    ///
    /// # Errors
    /// When the sequence is longer than the context or an id is not in the vocabulary.
    pub fn hidden(&self, ids: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut x = self.dropout.forward(&self.embed(ids, 0, mode)?, mode)?;
        for block in &self.blocks {
            x = block.forward(&x, mode)?;
        }
        self.norm.forward(&x)
    }

    /// An empty cache for [`Gpt2::next_logits`].
    pub fn cache(&self) -> Gpt2Cache {
        Gpt2Cache(self.blocks.iter().map(|_| Cache::new(self.context())).collect())
    }

    /// Logits (B, V) of the token that follows `ids` (B, N), which follow those in `cache`. The cost
    /// is that of N tokens, however many came before.
    ///
    /// # Errors
    /// When the tokens so far and these are more than the context, an id is not in the vocabulary,
    /// N is 0, or the method is not causal: it would change the tokens in the cache.
    pub fn next_logits(&self, ids: &Tensor, cache: &mut Gpt2Cache) -> Result<Tensor> {
        if !self.is_causal() {
            candle_core::bail!(
                "gpt2: this method is not causal: each new token would change those before, so \
                 nothing can be remembered of them. Take `logits` of the whole sequence"
            );
        }
        let Some(last) = ids.dims2()?.1.checked_sub(1) else {
            candle_core::bail!("gpt2: no token to continue; give at least one");
        };
        let mut x = self.embed(ids, cache.len(), Mode::Eval)?;
        for (block, cache) in self.blocks.iter().zip(&mut cache.0) {
            let tokens = block.attention.forward_cached(&x, cache)?;
            x = block.mlp.forward(&tokens, Mode::Eval)?;
        }
        let x = self.norm.forward(&x.narrow(1, last, 1)?.squeeze(1)?)?;
        Linear::new(self.head().clone(), None).forward(&x)
    }

    /// Whether no token depends on a later one.
    pub fn is_causal(&self) -> bool {
        self.conditioning.method.is_causal()
    }

    /// The longest sequence T.
    pub fn context(&self) -> usize {
        self.wpe.weight().dims()[0]
    }

    /// Ids (B, N) at the positions from `first` on to the tokens that enter the first block,
    /// (B, N, C).
    fn embed(&self, ids: &Tensor, first: usize, mode: Mode) -> Result<Tensor> {
        self.wte.refresh(mode)?;
        self.wpe.refresh(mode)?;
        let words = self.wte.rows(ids)?;
        match self.conditioning.placement {
            Placement::BeforePosition => self.position(&self.condition(&words, mode)?, first),
            Placement::AfterPosition | Placement::AfterNorm => {
                self.condition(&self.position(&words, first)?, mode)
            }
        }
    }

    /// X -> Y, (.., C), for sums of rows of the tables that make X.
    fn condition(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let tables: &[&Tensor] = match self.conditioning.placement {
            Placement::BeforePosition => &[self.wte.weight()],
            Placement::AfterPosition | Placement::AfterNorm => {
                &[self.wte.weight(), self.wpe.weight()]
            }
        };
        self.conditioner.forward(x, None, tables, mode)
    }

    /// Adds the position table from row `first` on: (B, N, C) -> (B, N, C).
    fn position(&self, words: &Tensor, first: usize) -> Result<Tensor> {
        let (_, length, _) = words.dims3()?;
        let (end, context) = (first + length, self.context());
        if end > context {
            candle_core::bail!(
                "gpt2: a sequence of {end} tokens is longer than the position table, which ends \
                 at {context}"
            );
        }
        add_table(words, &self.wpe.range(first, length)?.unsqueeze(0)?)
    }

    /// The tokens entering the first block in evaluation mode, without and with conditioning.
    ///
    /// # Errors
    /// As [`Gpt2::hidden`].
    pub fn tokens(&self, ids: &Tensor) -> Result<Tokens> {
        let conditioned = self.embed(ids, 0, Mode::Eval)?;
        let positions = self.wpe.weight().narrow(0, 0, ids.dim(1)?)?.unsqueeze(0)?;
        let plain = add_table(&embedding(ids, self.wte.weight())?, &positions)?;
        Ok(Tokens { plain, conditioned })
    }

    /// Ids (B, T) to logits (B, T, V).
    ///
    /// # Errors
    /// As [`Gpt2::hidden`].
    pub fn logits(&self, ids: &Tensor, mode: Mode) -> Result<Tensor> {
        Linear::new(self.head().clone(), None).forward(&self.hidden(ids, mode)?)
    }

    /// The mean cross-entropy of `targets` (B, T) after `ids` (B, T), in nats per token.
    ///
    /// # Errors
    /// As [`Gpt2::hidden`], or when a target is not in the vocabulary.
    pub fn loss(&self, ids: &Tensor, targets: &Tensor, mode: Mode) -> Result<Tensor> {
        linear_cross_entropy(&self.hidden(ids, mode)?, self.head(), &targets.to_dtype(DType::U32)?)
    }

    /// The table that the head multiplies with, (V, C): unconditioned also where it is tied.
    pub fn head(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(self.wte.weight())
    }

    /// Token table (V, C) and position table (T, C) with which a model without conditioning, and
    /// with [`Gpt2::head`] for its head and [`Gpt2::folded_weights`], computes what this one does.
    ///
    /// # Errors
    /// When the method is not causal: what it does to a token depends on others; or when something is
    /// done to the output of attention.
    pub fn folded_tables(&self) -> Result<(Tensor, Tensor)> {
        self.conditioning.check_folds("gpt2")?;
        if !self.is_causal() {
            candle_core::bail!(
                "gpt2: what this method does to a token depends on other tokens; it cannot be \
                 folded into the tables"
            );
        }
        let fold = |table: &Table| self.condition(&table.embeddings()?, Mode::Eval);
        Ok(match self.conditioning.placement {
            Placement::BeforePosition => (fold(&self.wte)?, self.wpe.embeddings()?),
            Placement::AfterPosition | Placement::AfterNorm => (fold(&self.wte)?, fold(&self.wpe)?),
        })
    }
}

impl Gpt2 {
    /// The weights of queries, keys and values with which a model without conditioning computes what
    /// this one does, by their names in the builder that the model was made with.
    ///
    /// # Errors
    /// When something is done to the output of attention.
    pub fn folded_weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.conditioning.check_folds("gpt2")?;
        folded_weights(self.blocks.iter().map(|block| &block.attention))
    }
}

/// A pre-norm block: two residual branches.
#[derive(Debug)]
struct Block {
    attention: SelfAttention,
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
            attention: SelfAttention::new(
                Some(norm("ln_1")?.into()),
                Projection::new(
                    Packing::Columns,
                    [(conv1d("attn.c_attn", c, 3 * c, LINEAR_STD)?, vb.pp("attn.c_attn"))],
                    config.conditioning,
                )?,
                Attention { heads: config.heads, causal: true },
                config.conditioning,
                [
                    conv1d("attn.c_proj", c, c, last_std)?.into(),
                    dropout("attn.resid_dropout")?.into(),
                ],
            ),
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
        self.mlp.forward(&self.attention.forward(x, None, mode)?, mode)
    }
}
