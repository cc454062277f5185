//! BERT, the bidirectional encoder.
//!
//! ```text
//! E   = W[ids] + P + T[types]                          (B, N, C)
//! X   = LN(E), conditioned at one of three places: W[ids], E, or X
//! X'  = LN(X + MSA(X)),   X'' = LN(X' + MLP(X'))       depth times, post-norm
//! ```
//!
//! Attention sees real tokens only, and padding takes no part in the statistics of a conditioning:
//! what is done to a sequence depends neither on its padding nor, with frozen statistics, on its batch.
//!
//! Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", NAACL 2019. Names,
//! layout and initialisation follow the Hugging Face `BertModel`: normal of deviation 0.02, biases
//! zero; the tables have a deviation of their own. One difference: attention probabilities are not
//! dropped, hidden states are.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{
    Attention, Dropout, Gelu, LayerNorm, Linear, Mode, Padding, Pass, Probe, Seen, Sequence,
    add_table, embedding, init,
};
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, Family, from_fields};
use crate::bert_embedding::{Embedding, pass_over, real_tokens, rows_at};
use crate::checks;
use crate::conditioning::{ConditioningConfig, Method, Packing, Placement, Table, Tokens};
use crate::model::Model;
use crate::self_attention::{Projection, SelfAttention, folded_weights};
use crate::stem::{Places, Stem, Way};

/// Epsilon of every layer norm.
pub(crate) const EPS: f64 = 1e-12;

/// Deviation of every linear weight at initialisation, as published.
const LINEAR_STD: f64 = 0.02;

/// What a BERT is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BertConfig {
    /// Tokens V that the model knows.
    pub vocabulary: usize,
    /// The longest sequence N.
    pub context: usize,
    /// Kinds of tokens: first and second text.
    pub types: usize,
    /// Token width C.
    pub width: usize,
    /// Layers.
    pub depth: usize,
    /// Heads per layer.
    pub heads: usize,
    /// Hidden width of the MLP.
    pub hidden: usize,
    /// Probability of dropout on the embedding, at the end of every residual branch and before a
    /// classifier.
    pub dropout: f64,
    /// Deviation of the three tables at initialisation; published: 0.02.
    pub table_std: f64,
    /// Deviation of the linear layers of the encoder at initialisation; published: 0.02 at a width of 768.
    /// Products keep their scale with 0.02 sqrt(768 / C); with 0.02 a narrow encoder learns late, or never.
    pub linear_std: f64,
    /// What is done to the tokens, and where; to weights and to attention.
    pub conditioning: ConditioningConfig,
}

impl BertConfig {
    /// Whether the conditioning folds into parameters: into the three tables one linear map of every
    /// token in front of the layer norm, or none; into the weights what is done to them; what is done
    /// to the output of attention does not.
    pub fn folds(&self) -> bool {
        let ConditioningConfig { method, placement, attention, .. } = self.conditioning;
        attention.is_none()
            && (method == Method::None
                || (method.is_frozen_map() && placement != Placement::AfterNorm))
    }
}

impl Architecture for BertConfig {
    fn family(&self) -> Family {
        Family { name: "bert", label: "BERT" }
    }

    from_fields!(context, conditioning, table_std);

    /// The two published sizes, the sentence encoder MiniLM-L6, and `bert-4x128`, which trains on a laptop; with
    /// the published dropout of 0.1.
    fn presets() -> Vec<(&'static str, Self)> {
        let base = Self {
            vocabulary: 30522,
            context: 512,
            types: 2,
            width: 768,
            depth: 12,
            heads: 12,
            hidden: 3072,
            dropout: 0.1,
            table_std: 0.02,
            linear_std: LINEAR_STD,
            conditioning: ConditioningConfig::default(),
        };
        let large = Self { width: 1024, depth: 24, heads: 16, hidden: 4096, ..base.clone() };
        let mini = Self { width: 384, depth: 6, hidden: 1536, ..base.clone() };
        let small = Self {
            vocabulary: 4096,
            context: 128,
            width: 128,
            depth: 4,
            heads: 4,
            hidden: 512,
            ..base.clone()
        };
        vec![
            ("bert-base-uncased", base),
            ("bert-large-uncased", large),
            ("minilm-l6", mini),
            ("bert-4x128", small),
        ]
    }

    fn validate(&self) -> Result<()> {
        checks::at_least_one(
            "bert",
            [
                ("vocabulary", self.vocabulary),
                ("context", self.context),
                ("types", self.types),
                ("width", self.width),
                ("heads", self.heads),
                ("hidden", self.hidden),
            ],
        )?;
        checks::equal_heads("bert", self.heads, self.width)?;
        checks::deviations(
            "bert",
            [("table_std", self.table_std), ("linear_std", self.linear_std)],
        )?;
        let places = Places { tables: true, positions: true, norm: true };
        places.check(&self.conditioning, "bert")
    }

    fn macs(&self, tokens: usize) -> usize {
        let c = self.width;
        self.depth * tokens * (4 * c * c + 2 * c * self.hidden + 2 * tokens * c)
    }

    /// [`Bert`], which lies at `bert` as below every head.
    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(Bert::new(self, vb.pp("bert"))?))
    }
}

/// A batch of texts as a [`Bert`] reads them.
#[derive(Debug, Clone)]
pub struct BertInput {
    /// Token ids (B, N), u32.
    pub ids: Tensor,
    /// 0 for tokens of the first text and 1 for those of the second, (B, N), u32.
    pub types: Tensor,
    /// Where the texts end; `None` where all have N tokens.
    pub padding: Option<Padding>,
}

impl BertInput {
    /// Single texts of one length, ids (B, N).
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn new(ids: Tensor) -> Result<Self> {
        Ok(Self { types: ids.zeros_like()?, ids, padding: None })
    }

    /// Texts or pairs padded to one length: `mask` (B, N) u8, 1 = real.
    ///
    /// # Errors
    /// When shapes differ, or real tokens do not come first in every sequence.
    pub fn padded(ids: Tensor, types: Tensor, mask: &Tensor) -> Result<Self> {
        if ids.dims() != types.dims() || ids.dims() != mask.dims() {
            candle_core::bail!(
                "bert: ids {:?}, types {:?} and mask {:?} must have one shape",
                ids.dims(),
                types.dims(),
                mask.dims()
            );
        }
        let padding = Padding::of(mask)?;
        let full = padding.lengths().iter().all(|length| Some(length) == ids.dims().get(1));
        Ok(Self { ids, types, padding: (!full).then_some(padding) })
    }
}

/// A BERT without head.
#[derive(Debug)]
pub struct Bert {
    folds: bool,
    embedding: Embedding,
    positions: Table,
    types: Tensor,
    dropout: Dropout,
    layers: Vec<Layer>,
}

impl Bert {
    /// A model over `vb`, at the names of the Hugging Face `BertModel`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    pub fn new(config: &BertConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let (c, embeddings) = (config.width, vb.pp("embeddings"));
        let stem = Stem::new(config, c, &vb)?;
        let table = |name, rows| {
            let init = init::normal(config.table_std);
            embeddings.pp(name).get_with_hints((rows, c), "weight", init)
        };
        let layers = (0..config.depth)
            .map(|i| Layer::new(config, vb.pp("encoder.layer").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            folds: config.folds(),
            positions: stem.positions(table("position_embeddings", config.context)?)?,
            embedding: Embedding::new(
                table("word_embeddings", config.vocabulary)?,
                LayerNorm::new(embeddings.pp("LayerNorm"), c, EPS)?,
                stem,
            )?,
            types: table("token_type_embeddings", config.types)?,
            dropout: Dropout::new(&embeddings.pp("dropout"), config.dropout)?,
            layers,
        })
    }

    /// The last hidden state (B, N, C). At padding it means nothing.
    ///
    /// # Errors
    /// When the sequences are longer than the position table, or an id or a type is not in its table.
    pub fn hidden(&self, input: &BertInput, mode: Mode) -> Result<Tensor> {
        self.encode(input, None, pass_over(input, mode))
    }

    /// The last hidden state at `positions` (B, M) of u32 alone: (B, M, C).
    ///
    /// What the last layer does to each token alone is done to these tokens only.
    ///
    /// # Errors
    /// As [`Bert::hidden`], or when a position is not in its sequence.
    pub fn hidden_at(&self, input: &BertInput, positions: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encode(input, Some(positions), pass_over(input, mode))
    }

    /// What goes on inside in an evaluation: see [`Model::probe`].
    ///
    /// # Errors
    /// As [`Bert::hidden`].
    pub fn probe_input(&self, input: &BertInput) -> Result<Seen> {
        let probe = Probe::default();
        self.encode(input, None, Pass { probe: Some(&probe), ..pass_over(input, Mode::Eval) })?;
        Ok(probe.take())
    }

    fn encode(&self, input: &BertInput, read: Option<&Tensor>, pass: Pass<'_>) -> Result<Tensor> {
        let x = self.embed_input(input, Way::Conditioned(pass))?;
        let mut x = self.dropout.forward(&x, pass.mode)?;
        let mut branches = Vec::with_capacity(2 * self.layers.len());
        for layer in &self.layers {
            branches.extend([layer.attend(pass.mode)?, layer.feed()]);
        }
        let last = branches.pop();
        x = Sequence::chain(branches).forward(&x, pass)?;
        if let Some(positions) = read {
            x = rows_at(&x, positions)?;
        }
        Sequence::chain(last).forward(&x, pass)
    }

    /// The tokens that enter the first layer, (B, N, C), before dropout.
    fn embed_input(&self, input: &BertInput, way: Way<'_>) -> Result<Tensor> {
        let place = |words: &Tensor| self.place(words, &input.types, way);
        self.embedding.forward(&input.ids, &self.added(), place, way)
    }

    /// The tables whose rows are added to the words.
    fn added(&self) -> [&Tensor; 2] {
        [self.positions.weight(), &self.types]
    }

    /// Adds positions and types: (B, N, C) -> (B, N, C).
    fn place(&self, words: &Tensor, types: &Tensor, way: Way<'_>) -> Result<Tensor> {
        let (length, context) = (words.dim(1)?, self.context());
        if length > context {
            candle_core::bail!(
                "bert: a sequence of {length} tokens is longer than the position table, which ends \
                 at {context}"
            );
        }
        let typed = (words + embedding(types, &self.types)?)?;
        add_table(&typed, &self.positions.range(0, length, way)?.unsqueeze(0)?)
    }

    /// The longest sequence N.
    pub fn context(&self) -> usize {
        self.positions.weight().dims()[0]
    }

    /// The word table (V, C), which a masked-language head multiplies with.
    pub fn word_table(&self) -> &Tensor {
        self.embedding.words()
    }

    /// Sentence embeddings (B, C): the mean of the last hidden states of the real tokens, of length
    /// one, as sentence-transformers compute them.
    ///
    /// # Errors
    /// As [`Bert::hidden`].
    pub fn sentence_embeddings(&self, input: &BertInput) -> Result<Tensor> {
        let hidden = self.hidden(input, Mode::Eval)?;
        let mean = match &input.padding {
            None => hidden.mean(1)?,
            Some(padding) => {
                let mask = padding.mask(hidden.device())?.to_dtype(hidden.dtype())?.unsqueeze(2)?;
                hidden.broadcast_mul(&mask)?.sum(1)?.broadcast_div(&mask.sum(1)?)?
            }
        };
        mean.broadcast_div(&mean.sqr()?.sum_keepdim(1)?.sqrt()?)
    }

    /// The tokens entering the first layer in evaluation mode, without and with conditioning, (R, C):
    /// real ones, of all sequences.
    ///
    /// # Errors
    /// As [`Bert::hidden`].
    pub fn real_tokens(&self, input: &BertInput) -> Result<Tokens> {
        real_tokens(input, |way| self.embed_input(input, way))
    }

    /// The weights of queries, keys and values with which a model without conditioning computes what
    /// this one does, by their names in the builder that the model was made with.
    ///
    /// # Errors
    /// When something is done to the output of attention.
    pub fn folded_weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.embedding.stem().check_folds()?;
        folded_weights(self.layers.iter().map(|layer| &layer.attention))
    }

    /// Word, position and type table with which a model without conditioning, and with
    /// [`Bert::folded_weights`], computes what this one does.
    ///
    /// # Errors
    /// When the method depends on the sequence, or acts behind the layer norm; or when something is done
    /// to the output of attention.
    pub fn folded_tables(&self) -> Result<[Tensor; 3]> {
        self.embedding.stem().check_folds()?;
        if !self.folds {
            candle_core::bail!(
                "bert: only pooled conditioning, its norm-matched control and conditioned tables in \
                 front of the layer norm of the embedding fold into the tables; save the model with \
                 its conditioning instead"
            );
        }
        let added = self.added();
        let words = self.embedding.folded_words(&added)?;
        let fold = |table: &Tensor| self.embedding.fold_positions(table, &added);
        Ok([words, fold(&self.positions.embeddings()?)?, fold(&self.types)?])
    }
}

impl Model for Bert {
    fn forward(&self, ids: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        self.encode(&BertInput::new(ids.clone())?, None, pass)
    }

    fn embed(&self, ids: &Tensor, way: Way<'_>) -> Result<Tensor> {
        self.embed_input(&BertInput::new(ids.clone())?, way)
    }

    fn stem(&self) -> &Stem {
        self.embedding.stem()
    }
}

/// A post-norm layer.
#[derive(Debug)]
struct Layer {
    attention: SelfAttention,
    output_norm: LayerNorm,
    mlp: Sequence,
    norm: LayerNorm,
}

impl Layer {
    fn new(config: &BertConfig, vb: VarBuilder) -> Result<Self> {
        let (c, hidden) = (config.width, config.hidden);
        let linear = |path, inputs, outputs| {
            Linear::with_std(vb.pp(path), inputs, outputs, config.linear_std)
        };
        let dropout = |path| Dropout::new(&vb.pp(path), config.dropout);
        let paths = ["attention.self.query", "attention.self.key", "attention.self.value"];
        let projections = paths.map(|path| -> Result<_> { Ok((linear(path, c, c)?, vb.pp(path))) });
        let projections = projections.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Self {
            attention: SelfAttention::new(
                None,
                Projection::new(Packing::Rows, projections, config.conditioning)?,
                Attention { heads: config.heads, causal: false },
                config.heads,
                config.conditioning,
                [
                    linear("attention.output.dense", c, c)?.into(),
                    dropout("attention.output.dropout")?.into(),
                ],
            ),
            output_norm: LayerNorm::new(vb.pp("attention.output.LayerNorm"), c, EPS)?,
            mlp: Sequence::residual([
                linear("intermediate.dense", c, hidden)?.into(),
                Gelu::Erf.into(),
                linear("output.dense", hidden, c)?.into(),
                dropout("output.dropout")?.into(),
            ]),
            norm: LayerNorm::new(vb.pp("output.LayerNorm"), c, EPS)?,
        })
    }

    /// LN(x + MSA(x)).
    fn attend(&self, mode: Mode) -> Result<Sequence> {
        let norm = Sequence::new([self.output_norm.clone().into()]);
        Ok(Sequence::chain([self.attention.sequence(mode)?, norm]))
    }

    /// LN(x + MLP(x)).
    fn feed(&self) -> Sequence {
        let norm = Sequence::new([self.norm.clone().into()]);
        Sequence::chain([self.mlp.clone(), norm])
    }
}
