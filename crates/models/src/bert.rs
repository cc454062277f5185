//! BERT, the bidirectional encoder, and its heads.
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

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{
    Attention, Dropout, Gelu, LayerNorm, Linear, Mode, Padding, Sequence, add_table, embedding,
    init,
};
use serde::{Deserialize, Serialize};

use crate::UnknownPreset;
use crate::bert_embedding::{Embedding, rows_at};
use crate::conditioning::{ConditioningConfig, Method, Packing, Placement, Table, Tokens};
use crate::self_attention::{Projection, SelfAttention, folded_weights};

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
    /// Presets by name: (name, [vocabulary, context, width, depth, heads, hidden]).
    ///
    /// The two published sizes, the sentence encoder MiniLM-L6, and `bert-4x128`, which trains on a
    /// laptop.
    const PRESETS: [(&'static str, [usize; 6]); 4] = [
        ("bert-base-uncased", [30522, 512, 768, 12, 12, 3072]),
        ("bert-large-uncased", [30522, 512, 1024, 24, 16, 4096]),
        ("minilm-l6", [30522, 512, 384, 6, 12, 1536]),
        ("bert-4x128", [4096, 128, 128, 4, 4, 512]),
    ];

    /// The names of all presets.
    pub fn presets() -> impl Iterator<Item = &'static str> {
        Self::PRESETS.iter().map(|(name, _)| *name)
    }

    /// The preset called `name`, with the published dropout of 0.1 and without conditioning.
    ///
    /// # Errors
    /// When there is no such preset.
    pub fn preset(name: &str) -> std::result::Result<Self, UnknownPreset> {
        let preset = Self::PRESETS.iter().find(|(known, _)| *known == name);
        let Some((_, [vocabulary, context, width, depth, heads, hidden])) = preset else {
            let known = Self::presets().collect();
            return Err(UnknownPreset { name: name.to_string(), known });
        };
        Ok(Self {
            vocabulary: *vocabulary,
            context: *context,
            types: 2,
            width: *width,
            depth: *depth,
            heads: *heads,
            hidden: *hidden,
            dropout: 0.1,
            table_std: 0.02,
            linear_std: LINEAR_STD,
            conditioning: ConditioningConfig::default(),
        })
    }

    /// Trainable scalars of the encoder, without pooler and heads.
    pub fn parameter_count(&self) -> usize {
        let (c, hidden) = (self.width, self.hidden);
        let layer = 4 * (c + 1) * c + (c + 1) * hidden + (hidden + 1) * c + 4 * c;
        (self.vocabulary + self.context + self.types + 2) * c + self.depth * layer
    }

    /// Multiply-accumulates of one forward pass of the encoder over `tokens` tokens of one sequence,
    /// matrix products only.
    pub fn macs(&self, tokens: usize) -> usize {
        let c = self.width;
        self.depth * tokens * (4 * c * c + 2 * c * self.hidden + 2 * tokens * c)
    }

    /// Whether the conditioning folds into parameters: into the three tables one linear map of every
    /// token in front of the layer norm, or none; into the weights what is done to them; what is done
    /// to the output of attention does not.
    pub fn folds(&self) -> bool {
        let ConditioningConfig { method, placement, attention, .. } = self.conditioning;
        attention.is_none()
            && (method == Method::None
                || (method.is_frozen_map() && placement != Placement::AfterNorm))
    }

    /// Checks what the types of the fields cannot.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("vocabulary", self.vocabulary),
            ("context", self.context),
            ("types", self.types),
            ("width", self.width),
            ("heads", self.heads),
            ("hidden", self.hidden),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            candle_core::bail!("bert: {name} must be at least 1");
        }
        if !self.width.is_multiple_of(self.heads) {
            candle_core::bail!("bert: {} heads do not divide width {}", self.heads, self.width);
        }
        for (name, std) in [("table_std", self.table_std), ("linear_std", self.linear_std)] {
            if !(std >= 0.0 && std.is_finite()) {
                candle_core::bail!("bert: {name} {std} must be finite and >= 0");
            }
        }
        self.conditioning.validate()
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
    conditioning: ConditioningConfig,
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
        let ConditioningConfig { method, placement, .. } = config.conditioning;
        let (c, embeddings) = (config.width, vb.pp("embeddings"));
        let table = |name, rows| {
            let init = init::normal(config.table_std);
            embeddings.pp(name).get_with_hints((rows, c), "weight", init)
        };
        let positions = table("position_embeddings", config.context)?;
        let layers = (0..config.depth)
            .map(|i| Layer::new(config, vb.pp("encoder.layer").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            folds: config.folds(),
            conditioning: config.conditioning,
            embedding: Embedding::new(
                table("word_embeddings", config.vocabulary)?,
                LayerNorm::new(embeddings.pp("LayerNorm"), c, EPS)?,
                config.conditioning,
                vb.pp("conditioner"),
            )?,
            positions: match placement {
                Placement::BeforePosition => Table::Plain(positions),
                _ => Table::new(positions, method)?,
            },
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
        self.encode(input, None, mode)
    }

    /// The last hidden state at `positions` (B, M) of u32 alone: (B, M, C).
    ///
    /// What the last layer does to each token alone is done to these tokens only.
    ///
    /// # Errors
    /// As [`Bert::hidden`], or when a position is not in its sequence.
    pub fn hidden_at(&self, input: &BertInput, positions: &Tensor, mode: Mode) -> Result<Tensor> {
        self.encode(input, Some(positions), mode)
    }

    fn encode(&self, input: &BertInput, read: Option<&Tensor>, mode: Mode) -> Result<Tensor> {
        let padding = input.padding.as_ref();
        self.positions.refresh(mode)?;
        let place = |words: &Tensor| self.place(words, input);
        let x = self.embedding.forward(input, &self.added(), place, mode)?;
        let mut x = self.dropout.forward(&x, mode)?;
        let Some((last, layers)) = self.layers.split_last() else {
            return read.map_or(Ok(x.clone()), |positions| rows_at(&x, positions));
        };
        for layer in layers {
            x = layer.feed(&layer.attend(&x, padding, mode)?, mode)?;
        }
        x = last.attend(&x, padding, mode)?;
        if let Some(positions) = read {
            x = rows_at(&x, positions)?;
        }
        last.feed(&x, mode)
    }

    /// The tables whose rows are added to the words.
    fn added(&self) -> [&Tensor; 2] {
        [self.positions.weight(), &self.types]
    }

    /// Adds positions and types: (B, N, C) -> (B, N, C).
    fn place(&self, words: &Tensor, input: &BertInput) -> Result<Tensor> {
        let (length, context) = (words.dim(1)?, self.context());
        if length > context {
            candle_core::bail!(
                "bert: a sequence of {length} tokens is longer than the position table, which ends \
                 at {context}"
            );
        }
        let typed = (words + embedding(&input.types, &self.types)?)?;
        add_table(&typed, &self.positions.range(0, length)?.unsqueeze(0)?)
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
    pub fn tokens(&self, input: &BertInput) -> Result<Tokens> {
        self.embedding.tokens(input, &self.added(), |words| self.place(words, input))
    }

    /// The weights of queries, keys and values with which a model without conditioning computes what
    /// this one does, by their names in the builder that the model was made with.
    ///
    /// # Errors
    /// When something is done to the output of attention.
    pub fn folded_weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.conditioning.check_folds("bert")?;
        folded_weights(self.layers.iter().map(|layer| &layer.attention))
    }

    /// Word, position and type table with which a model without conditioning, and with
    /// [`Bert::folded_weights`], computes what this one does.
    ///
    /// # Errors
    /// When the method depends on the sequence, or acts behind the layer norm; or when something is done
    /// to the output of attention.
    pub fn folded_tables(&self) -> Result<[Tensor; 3]> {
        self.conditioning.check_folds("bert")?;
        if !self.folds {
            candle_core::bail!(
                "bert: only pooled conditioning, its norm-matched control and conditioned tables in \
                 front of the layer norm of the embedding fold into the tables; save the model with \
                 its conditioning instead"
            );
        }
        let added = self.added();
        let words = self.embedding.folded_words(&added)?;
        let fold = |table: Tensor| match self.embedding.placement() {
            Placement::BeforePosition => Ok(table),
            _ => self.embedding.fold(&table, &added),
        };
        Ok([words, fold(self.positions.embeddings()?)?, fold(self.types.clone())?])
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
    fn attend(&self, x: &Tensor, padding: Option<&Padding>, mode: Mode) -> Result<Tensor> {
        self.output_norm.forward(&self.attention.forward(x, padding, mode)?)
    }

    /// LN(x + MLP(x)).
    fn feed(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.norm.forward(&self.mlp.forward(x, mode)?)
    }
}
