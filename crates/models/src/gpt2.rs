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
    Attention, Cache, Dropout, Gelu, LayerNorm, Linear, Mode, Pass, Sequence, add_table, init,
    linear_cross_entropy,
};
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, Family, TableStds, from_fields};
use crate::checks;
use crate::conditioning::{ConditioningConfig, Packing, Placement, Table};
use crate::model::Model;
use crate::self_attention::{Projection, SelfAttention, branches, folded_weights};
use crate::stem::{Places, Stem, Way};

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

impl Architecture for Gpt2Config {
    fn family(&self) -> Family {
        Family { name: "gpt2", label: "GPT-2" }
    }

    from_fields!(context);

    /// The four published sizes; `gpt2-6x384`, a small one for measurements; `gpt2-4x128`, this project's first
    /// prototype. None has dropout.
    fn presets() -> Vec<(&'static str, Self)> {
        let base = Self {
            vocabulary: 50257,
            context: 1024,
            width: 768,
            depth: 12,
            heads: 12,
            dropout: 0.0,
            token_std: 0.02,
            position_std: 0.02,
            tie_word_embeddings: true,
            conditioning: ConditioningConfig::default(),
            allow_future_leak: false,
        };
        let medium = Self { width: 1024, depth: 24, heads: 16, ..base.clone() };
        let large = Self { width: 1280, depth: 36, heads: 20, ..base.clone() };
        let extra_large = Self { width: 1600, depth: 48, heads: 25, ..base.clone() };
        let small =
            Self { vocabulary: 4096, context: 256, width: 384, depth: 6, heads: 6, ..base.clone() };
        let smallest = Self { context: 128, width: 128, depth: 4, heads: 4, ..small.clone() };
        vec![
            ("gpt2", base),
            ("gpt2-medium", medium),
            ("gpt2-large", large),
            ("gpt2-xl", extra_large),
            ("gpt2-6x384", small),
            ("gpt2-4x128", smallest),
        ]
    }

    fn validate(&self) -> Result<()> {
        checks::at_least_one(
            "gpt2",
            [
                ("vocabulary", self.vocabulary),
                ("context", self.context),
                ("width", self.width),
                ("heads", self.heads),
            ],
        )?;
        checks::equal_heads("gpt2", self.heads, self.width)?;
        checks::deviations(
            "gpt2",
            [("token_std", self.token_std), ("position_std", self.position_std)],
        )?;
        let places = Places { tables: true, positions: true, norm: false };
        places.check(&self.conditioning, "gpt2")?;
        self.conditioning.method.check_causal("gpt2", self.allow_future_leak)
    }

    fn conditioning(&self) -> ConditioningConfig {
        self.conditioning
    }

    /// Sets what is done to tokens, weights and attention; from then on it is causal, or refused.
    fn set_conditioning(&mut self, conditioning: ConditioningConfig) {
        (self.conditioning, self.allow_future_leak) = (conditioning, false);
    }

    fn table_stds(&self) -> TableStds {
        TableStds { words: Some(self.token_std), positions: Some(self.position_std) }
    }

    fn set_table_std(&mut self, std: f64) -> Result<()> {
        (self.token_std, self.position_std) = (std, std);
        Ok(())
    }

    /// That of the position table: the scale of both tables together would not change kappa.
    fn set_init_std(&mut self, std: f64) -> Result<()> {
        self.position_std = std;
        Ok(())
    }

    /// The head is included; each token attends to the past of a full sequence on average.
    fn macs(&self, tokens: usize) -> usize {
        let (t, c) = (self.context, self.width);
        tokens * c * (self.depth * (12 * c + t + 1) + self.vocabulary)
    }

    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(Gpt2::new(self, vb)?))
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
    causal: bool,
    stem: Stem,
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
        let (c, vocabulary) = (config.width, config.vocabulary);
        let table =
            |name, rows, std| vb.pp(name).get_with_hints((rows, c), "weight", init::normal(std));
        let stem = Stem::new(config, c, &vb)?;
        let blocks = (0..config.depth)
            .map(|i| Block::new(config, vb.pp("h").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            wte: stem.words(table("wte", vocabulary, config.token_std)?)?,
            wpe: stem.positions(table("wpe", config.context, config.position_std)?)?,
            lm_head: match config.tie_word_embeddings {
                true => None,
                false => Some(table("lm_head", vocabulary, LINEAR_STD)?),
            },
            causal: config.conditioning.method.is_causal(),
            stem,
            dropout: Dropout::new(&vb.pp("drop"), config.dropout)?,
            blocks,
            norm: LayerNorm::new(vb.pp("ln_f"), c, EPS)?,
        })
    }

    /// Ids (B, T) to the last hidden state (B, T, C), normalised.
    ///
    /// # Errors
    /// When the sequence is longer than the context or an id is not in the vocabulary.
    pub fn hidden<'a>(&self, ids: &Tensor, pass: impl Into<Pass<'a>>) -> Result<Tensor> {
        let pass = pass.into();
        let x = self.embed(ids, Way::Conditioned(pass))?;
        let x = self.dropout.forward(&x, pass.mode)?;
        let blocks = self.blocks.iter().map(|Block { attention, mlp }| (attention, mlp));
        let mut branches = branches(blocks, pass.mode)?;
        branches.push(Sequence::new([self.norm.clone().into()]));
        Sequence::chain(branches).forward(&x, pass)
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
        let mut x = self.embed_from(ids, cache.len(), Way::Conditioned(Mode::Eval.into()))?;
        for (block, cache) in self.blocks.iter().zip(&mut cache.0) {
            let tokens = block.attention.forward_cached(&x, cache)?;
            x = block.mlp.forward(&tokens, Mode::Eval)?;
        }
        let x = self.norm.forward(&x.narrow(1, last, 1)?.squeeze(1)?)?;
        Linear::new(self.head().clone(), None).forward(&x)
    }

    /// Whether no token depends on a later one.
    pub fn is_causal(&self) -> bool {
        self.causal
    }

    /// The longest sequence T.
    pub fn context(&self) -> usize {
        self.wpe.weight().dims()[0]
    }

    /// Ids (B, N) at the positions from `first` on to the tokens that enter the first block,
    /// (B, N, C).
    fn embed_from(&self, ids: &Tensor, first: usize, way: Way<'_>) -> Result<Tensor> {
        self.stem.check(ids)?;
        let (length, context) = (ids.dim(1)?, self.context());
        let words = self.wte.rows(ids, way)?;
        let words = self.stem.at(Placement::BeforePosition, words, &self.tables(), way)?;
        let end = first + length;
        if end > context {
            candle_core::bail!(
                "gpt2: a sequence of {end} tokens is longer than the position table, which ends \
                 at {context}"
            );
        }
        let x = add_table(&words, &self.wpe.range(first, length, way)?.unsqueeze(0)?)?;
        self.stem.at(Placement::AfterPosition, x, &self.tables(), way)
    }

    /// The tables whose rows add up to the tokens.
    fn tables(&self) -> [&Tensor; 2] {
        [self.wte.weight(), self.wpe.weight()]
    }

    /// Ids (B, T) to logits (B, T, V).
    ///
    /// # Errors
    /// As [`Gpt2::hidden`].
    pub fn logits<'a>(&self, ids: &Tensor, pass: impl Into<Pass<'a>>) -> Result<Tensor> {
        Linear::new(self.head().clone(), None).forward(&self.hidden(ids, pass)?)
    }

    /// The mean cross-entropy of `targets` (B, T) after `ids` (B, T), in nats per token.
    ///
    /// # Errors
    /// As [`Gpt2::hidden`], or when a target is not in the vocabulary.
    pub fn loss(&self, ids: &Tensor, targets: &Tensor, mode: Mode) -> Result<Tensor> {
        let (hidden, targets) = (self.hidden(ids, mode)?, targets.to_dtype(DType::U32)?);
        linear_cross_entropy(&hidden, self.head(), &targets, mode.precision())
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
        self.stem.check_folds()?;
        if !self.is_causal() {
            candle_core::bail!(
                "gpt2: what this method does to a token depends on other tokens; it cannot be \
                 folded into the tables"
            );
        }
        let words = self.stem.fold(&self.wte.embeddings()?, &self.tables())?;
        let positions = self.stem.fold_positions(&self.wpe.embeddings()?, &self.tables())?;
        Ok((words, positions))
    }

    /// The weights of queries, keys and values with which a model without conditioning computes what
    /// this one does, by their names in the builder that the model was made with.
    ///
    /// # Errors
    /// When something is done to the output of attention.
    pub fn folded_weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.stem.check_folds()?;
        folded_weights(self.blocks.iter().map(|block| &block.attention))
    }
}

impl Model for Gpt2 {
    fn forward(&self, ids: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        self.logits(ids, pass)
    }

    fn embed(&self, ids: &Tensor, way: Way<'_>) -> Result<Tensor> {
        self.embed_from(ids, 0, way)
    }

    fn stem(&self) -> &Stem {
        &self.stem
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
                config.heads,
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
}
