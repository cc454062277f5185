//! Crammed BERT, the encoder that one GPU pre-trains in a day.
//!
//! ```text
//! E   = W[ids] + s P                                    (B, N, C), s learned, P sinusoids
//! X   = LN(E), conditioned at one of three places: W[ids], E, or X
//! X'  = X + MSA(LN(X)),   X'' = X' + FFN(LN(X'))        depth times, pre-norm
//! H   = LN(X'')
//! FFN(Z) = (A * gelu(B)) W_out^T,   (A, B) = Z W_in^T   the second half gates the first
//! ```
//!
//! Dense layers have no bias; queries, keys and values are one projection. There are no kinds of
//! tokens: `types` of a [`BertInput`] are ignored. As in [`crate::bert`], attention sees real tokens
//! only and padding takes no part in the statistics of a conditioning.
//!
//! The sinusoid is no table that is learned, so conditioned tables ([`Method::Table`]) are the word
//! table alone, at every placement.
//!
//! Source: Geiping & Goldstein, "Cramming: Training a Language Model on a Single GPU in One Day",
//! ICML 2023; names, layout and initialisation follow JonasGeiping/cramming at commit 196c991
//! (`cramming/architectures/crammed_bert.py`, `cramming/config/arch/crammed-bert.yaml`): normal of deviation 0.02, not
//! scaled by depth. Its pre-training runs without dropout, the preset's 0.1 is that of a fine-tuning.
//! Differences: attention probabilities are not dropped, hidden states are; the word of padding, id 0,
//! starts and learns as any other, where the reference starts it at zero and looks it up without
//! gradient.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use conditioned_nn::{
    Attention, Dropout, GatedGelu, LayerNorm, Linear, Mode, Pass, Probe, Seen, Sequence, add_table,
    init,
};
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, Family, PackedWeight, from_fields};
use crate::bert::{BertInput, EPS};
use crate::bert_embedding::{Embedding, pass_over, real_tokens, rows_at};
use crate::checks;
use crate::conditioning::{ConditioningConfig, Method, Packing, Placement, Tokens};
use crate::model::Model;
use crate::self_attention::{Projection, SelfAttention, branches, folded_weights};
use crate::stem::{Places, Stem, Way};

/// Deviation of every linear weight at initialisation, as published.
pub(crate) const LINEAR_STD: f64 = 0.02;

/// What a Crammed BERT is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrammedBertConfig {
    /// Tokens V that the model knows.
    pub vocabulary: usize,
    /// The longest sequence N.
    pub context: usize,
    /// Token width C, even: every frequency of the sinusoid is a sine and a cosine.
    pub width: usize,
    /// Layers.
    pub depth: usize,
    /// Heads per layer.
    pub heads: usize,
    /// Outputs of the first layer of the feed-forward, even: one half gates the other.
    pub hidden: usize,
    /// Probability of dropout on the embedding, at the end of every residual branch and before a
    /// classifier.
    pub dropout: f64,
    /// Deviation of the word table at initialisation; published: 0.02.
    pub table_std: f64,
    /// Deviation of the linear layers of the encoder at initialisation; published: 0.02 at a width of 768.
    /// Products keep their scale with 0.02 sqrt(768 / C); with 0.02 a narrow encoder learns late, or never.
    pub linear_std: f64,
    /// What is done to the tokens, and where; to weights and to attention.
    pub conditioning: ConditioningConfig,
}

impl CrammedBertConfig {
    /// Weights of one feed-forward: `hidden` outputs, of which a half comes back.
    fn feed_forward(&self) -> usize {
        self.width * self.hidden + self.hidden / 2 * self.width
    }

    /// Width of the pooled first token: 1024 at the published width of 768.
    pub(crate) fn pooled_width(&self) -> usize {
        4 * self.width / 3
    }

    /// Whether the conditioning folds into parameters: into the word table conditioned tables, one
    /// linear map of the words alone, or none (a map M of the sum does not: s P M is no sinusoid); into
    /// the weights what is done to them; what is done to the output of attention does not.
    pub fn folds(&self) -> bool {
        let ConditioningConfig { method, placement, attention, .. } = self.conditioning;
        attention.is_none()
            && match method {
                Method::None | Method::Table { .. } => true,
                _ => method.is_frozen_map() && placement == Placement::BeforePosition,
            }
    }
}

impl Architecture for CrammedBertConfig {
    fn family(&self) -> Family {
        Family { name: "crammed-bert", label: "Crammed BERT" }
    }

    from_fields!(context, conditioning, table_std);

    /// The published size, and `crammed-4x128`, which trains on a laptop; with the dropout of 0.1 of a
    /// fine-tuning.
    fn presets() -> Vec<(&'static str, Self)> {
        let base = Self {
            vocabulary: 32768,
            context: 128,
            width: 768,
            depth: 16,
            heads: 12,
            hidden: 3072,
            dropout: 0.1,
            table_std: 0.02,
            linear_std: LINEAR_STD,
            conditioning: ConditioningConfig::default(),
        };
        let small =
            Self { vocabulary: 4096, width: 128, depth: 4, heads: 4, hidden: 512, ..base.clone() };
        vec![("crammed-bert", base), ("crammed-4x128", small)]
    }

    fn validate(&self) -> Result<()> {
        checks::at_least_one(
            "crammed-bert",
            [
                ("vocabulary", self.vocabulary),
                ("context", self.context),
                ("width", self.width),
                ("depth", self.depth),
                ("heads", self.heads),
                ("hidden", self.hidden),
            ],
        )?;
        checks::equal_heads("crammed-bert", self.heads, self.width)?;
        if !self.width.is_multiple_of(2) {
            candle_core::bail!(
                "crammed-bert: width {} must be even: every frequency of the sinusoid is a sine and \
                 a cosine",
                self.width
            );
        }
        if !self.hidden.is_multiple_of(2) {
            candle_core::bail!(
                "crammed-bert: hidden {} must be even: one half gates the other",
                self.hidden
            );
        }
        checks::deviations(
            "crammed-bert",
            [("table_std", self.table_std), ("linear_std", self.linear_std)],
        )?;
        let places = Places { tables: true, positions: true, norm: true };
        places.check(&self.conditioning, "crammed-bert")
    }

    fn packed_weights(&self) -> Vec<PackedWeight> {
        vec![PackedWeight { names: "*.query_key_value.weight", axis: 0, blocks: self.heads }]
    }

    fn macs(&self, tokens: usize) -> usize {
        let c = self.width;
        self.depth * tokens * (4 * c * c + self.feed_forward() + 2 * tokens * c)
    }

    /// [`CrammedBert`], which lies at `encoder` as below every head.
    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(CrammedBert::new(self, vb.pp("encoder"))?))
    }
}

/// A Crammed BERT without head.
#[derive(Debug)]
pub struct CrammedBert {
    folds: bool,
    embedding: Embedding,
    /// P (context, C).
    sinusoid: Tensor,
    /// s (1,).
    scale: Tensor,
    dropout: Dropout,
    layers: Vec<Layer>,
    norm: LayerNorm,
}

impl CrammedBert {
    /// A model over `vb`, at the names of the reference below `encoder`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    pub fn new(config: &CrammedBertConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let (c, embedding) = (config.width, vb.pp("embedding"));
        let words = embedding.pp("word_embedding").get_with_hints(
            (config.vocabulary, c),
            "weight",
            init::normal(config.table_std),
        )?;
        let layers = (0..config.depth)
            .map(|i| Layer::new(config, vb.pp("layers").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            folds: config.folds(),
            embedding: Embedding::new(
                words,
                LayerNorm::new(embedding.pp("norm"), c, EPS)?,
                Stem::new(config, c, &vb)?,
            )?,
            sinusoid: sinusoid(config.context, c, vb.dtype(), vb.device())?,
            scale: embedding.pp("pos_embedding").get_with_hints(
                1,
                "scale_factor",
                Init::Const((c as f64).powf(-0.5)),
            )?,
            dropout: Dropout::new(&embedding.pp("dropout"), config.dropout)?,
            layers,
            norm: LayerNorm::new(vb.pp("final_norm"), c, EPS)?,
        })
    }

    /// The last hidden state (B, N, C), normalised. At padding it means nothing.
    ///
    /// # Errors
    /// When the sequences are longer than the context, or an id is not in the vocabulary.
    pub fn hidden(&self, input: &BertInput, mode: Mode) -> Result<Tensor> {
        self.encode(input, None, pass_over(input, mode))
    }

    /// The last hidden state at `positions` (B, M) of u32 alone: (B, M, C).
    ///
    /// What the last layer does to each token alone is done to these tokens only.
    ///
    /// # Errors
    /// As [`CrammedBert::hidden`], or when a position is not in its sequence.
    pub fn hidden_at(&self, input: &BertInput, positions: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encode(input, Some(positions), pass_over(input, mode))
    }

    /// What goes on inside in an evaluation: see [`Model::probe`].
    ///
    /// # Errors
    /// As [`CrammedBert::hidden`].
    pub fn probe_input(&self, input: &BertInput) -> Result<Seen> {
        let probe = Probe::default();
        self.encode(input, None, Pass { probe: Some(&probe), ..pass_over(input, Mode::Eval) })?;
        Ok(probe.take())
    }

    fn encode(&self, input: &BertInput, read: Option<&Tensor>, pass: Pass<'_>) -> Result<Tensor> {
        let x = self.embed_ids(&input.ids, Way::Conditioned(pass))?;
        let mut x = self.dropout.forward(&x, pass.mode)?;
        let layers = self.layers.iter().map(|layer| (&layer.attention, &layer.ffn));
        let mut branches = branches(layers, pass.mode)?;
        let last = branches.pop();
        x = Sequence::chain(branches).forward(&x, pass)?;
        if let Some(positions) = read {
            x = rows_at(&x, positions)?;
        }
        let norm = Sequence::new([self.norm.clone().into()]);
        Sequence::chain(last.into_iter().chain([norm])).forward(&x, pass)
    }

    /// The tokens that enter the first layer, (B, N, C), before dropout.
    fn embed_ids(&self, ids: &Tensor, way: Way<'_>) -> Result<Tensor> {
        let table = self.positions()?;
        self.embedding.forward(ids, &[&table], |words| place(words, &table), way)
    }

    /// s P (context, C).
    fn positions(&self) -> Result<Tensor> {
        self.sinusoid.broadcast_mul(&self.scale)
    }

    /// The longest sequence N.
    pub fn context(&self) -> usize {
        self.sinusoid.dims()[0]
    }

    /// The word table (V, C), which a masked-language head multiplies with.
    pub fn word_table(&self) -> &Tensor {
        self.embedding.words()
    }

    /// The tokens entering the first layer in evaluation mode, without and with conditioning, (R, C):
    /// real ones, of all sequences.
    ///
    /// # Errors
    /// As [`CrammedBert::hidden`].
    pub fn real_tokens(&self, input: &BertInput) -> Result<Tokens> {
        real_tokens(input, |way| self.embed_ids(&input.ids, way))
    }

    /// The weights of queries, keys and values with which an encoder without conditioning computes what
    /// this one does, by their names in the builder that the model was made with.
    ///
    /// # Errors
    /// When something is done to the output of attention.
    pub fn folded_weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.embedding.stem().check_folds()?;
        folded_weights(self.layers.iter().map(|layer| &layer.attention))
    }

    /// The word table (V, C) with which an encoder without conditioning, and with
    /// [`CrammedBert::folded_weights`], computes what this one does; a masked-language head keeps the raw
    /// one.
    ///
    /// # Errors
    /// When the conditioning does not fold: see [`CrammedBertConfig::folds`].
    pub fn folded_words(&self) -> Result<Tensor> {
        self.embedding.stem().check_folds()?;
        if !self.folds {
            candle_core::bail!(
                "crammed-bert: only conditioned tables, and pooled conditioning or its norm-matched \
                 control at placement before-position, fold into the word table; save the model with \
                 its conditioning instead"
            );
        }
        self.embedding.folded_words(&[&self.positions()?])
    }
}

impl Model for CrammedBert {
    fn forward(&self, ids: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        self.encode(&BertInput::new(ids.clone())?, None, pass)
    }

    fn embed(&self, ids: &Tensor, way: Way<'_>) -> Result<Tensor> {
        self.embed_ids(ids, way)
    }

    fn stem(&self) -> &Stem {
        self.embedding.stem()
    }
}

/// P\[p, 2i\] = sin(p w_i), P\[p, 2i + 1\] = cos(p w_i) with w_i = 10000^(-2i / C), (context, C).
///
/// Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
fn sinusoid(context: usize, c: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let values: Vec<f64> = (0..context * c)
        .map(|at| {
            let (position, channel) = ((at / c) as f64, at % c);
            let frequency = 10000f64.powf(-((channel / 2 * 2) as f64) / c as f64);
            let (sine, cosine) = (position * frequency).sin_cos();
            if channel % 2 == 0 { sine } else { cosine }
        })
        .collect();
    Tensor::from_vec(values, (context, c), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

/// Adds the first rows of `table` (context, C): (B, N, C) -> (B, N, C).
fn place(words: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (length, context) = (words.dim(1)?, table.dim(0)?);
    if length > context {
        candle_core::bail!(
            "crammed-bert: a sequence of {length} tokens is longer than the context of {context}; \
             shorten it, or take a larger `context`: a sinusoid has any length"
        );
    }
    add_table(words, &table.narrow(0, 0, length)?.unsqueeze(0)?)
}

/// A pre-norm layer: two residual branches.
#[derive(Debug)]
struct Layer {
    attention: SelfAttention,
    ffn: Sequence,
}

impl Layer {
    fn new(config: &CrammedBertConfig, vb: VarBuilder) -> Result<Self> {
        let (c, hidden) = (config.width, config.hidden);
        let weight = |path: &str, inputs, outputs| {
            vb.pp(path).get_with_hints((outputs, inputs), "weight", init::normal(config.linear_std))
        };
        let linear = |path, inputs, outputs| -> Result<Linear> {
            Ok(Linear::new(weight(path, inputs, outputs)?, None))
        };
        let dropout = |path| Dropout::new(&vb.pp(path), config.dropout);
        let projection = "attn.self_attention.query_key_value";
        Ok(Self {
            attention: SelfAttention::new(
                Some(LayerNorm::new(vb.pp("norm1"), c, EPS)?.into()),
                // The reference stores the rows head by head, (H, 3, D).
                Projection::new(
                    Packing::Heads(config.heads),
                    [(linear(projection, c, 3 * c)?, vb.pp(projection))],
                    config.conditioning,
                )?,
                Attention { heads: config.heads, causal: false },
                config.heads,
                config.conditioning,
                [linear("attn.dense", c, c)?.into(), dropout("attn.dropout")?.into()],
            ),
            ffn: Sequence::residual([
                LayerNorm::new(vb.pp("norm2"), c, EPS)?.into(),
                linear("ffn.dense_in", c, hidden)?.into(),
                GatedGelu.into(),
                linear("ffn.dense_out", hidden / 2, c)?.into(),
                dropout("ffn.dropout")?.into(),
            ]),
        })
    }
}
