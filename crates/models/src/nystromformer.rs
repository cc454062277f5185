//! Nystromformer, the encoder of long sequences whose attention goes through landmarks.
//!
//! ```text
//! X   = W[ids] + P[positions]                          (B, N, C), conditioned before or behind P
//! X'  = X + NMSA(LN(X)),   X'' = X' + MLP(LN(X'))      depth times, pre-norm
//! H   = LN(X'')
//! ```
//!
//! NMSA is [`NystromAttention`], linear in N; with [`LongAttention::Softmax`] it is exact attention, the sibling
//! that it approximates. Padding takes part in nothing: neither in attention, nor in landmarks, nor in the statistics
//! of a conditioning.
//!
//! Source: Xiong et al., "Nystromformer: A Nystrom-based Algorithm for Approximating Self-Attention", AAAI 2021, as the
//! authors run it on the Long Range Arena (mlpen/Nystromformer at commit 5689313, `LRA/code`): pre-norm, one kind of
//! tokens. Names follow Hugging Face's `NystromformerForSequenceClassification`, which is post-norm, where it has the
//! layer: its norms have the authors' names, `norm1`, `norm2`, `norm`. Linear layers start as PyTorch's. Difference:
//! what attention sums with is not dropped; hidden states are.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{
    Attention, Dropout, Gelu, InverseScale, Layer, LayerNorm, Mode, NystromAttention, Padding,
    Pass, Probe, Seen, Sequence, add_table, init, linear,
};
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, Family, from_fields};
use crate::checks;
use crate::conditioning::{ConditioningConfig, Packing, Placement, Table, Tokens};
use crate::model::Model;
use crate::self_attention::{Projection, SelfAttention, branches};
use crate::stem::{Places, Stem, Way};

/// PyTorch's epsilon of a layer norm.
const EPS: f64 = 1e-5;

/// What a Nystromformer is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NystromformerConfig {
    /// Ids V that the model knows; the loaders of this project keep 0 for padding.
    pub vocabulary: usize,
    /// The longest sequence N.
    pub context: usize,
    /// Token width C.
    pub width: usize,
    /// Layers.
    pub depth: usize,
    /// Heads per layer.
    pub heads: usize,
    /// Hidden width of the MLP.
    pub hidden: usize,
    /// How tokens see each other.
    pub attention: LongAttention,
    /// Probability of dropout on the embedding, inside the MLP and at the end of every residual branch.
    pub dropout: f64,
    /// Deviation of both tables at initialisation; published: 0.02.
    pub table_std: f64,
    /// What is done to the tokens, and where; to weights and to attention.
    pub conditioning: ConditioningConfig,
}

/// Attention of long sequences.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LongAttention {
    /// Through landmarks: [`NystromAttention`].
    Nystrom {
        /// Landmarks M of a head.
        landmarks: usize,
        /// Odd taps of the convolution of the values; 0 for none.
        convolution: usize,
        /// What the pseudo-inverse begins with.
        scale: InverseScale,
    },
    /// Exact: quadratic in N.
    Softmax,
}

impl LongAttention {
    /// With 64 landmarks and 35 taps, as published.
    pub const PUBLISHED: Self =
        Self::Nystrom { landmarks: 64, convolution: 35, scale: InverseScale::Head };

    /// Its layer of `heads` heads; the convolution lies at `conv` of `vb`.
    fn layer(self, heads: usize, vb: &VarBuilder) -> Result<Box<dyn Layer>> {
        match self {
            Self::Softmax => Ok(Attention { heads, causal: false }.into()),
            Self::Nystrom { landmarks, convolution, scale } => {
                let layer = NystromAttention::new(heads, landmarks).scale(scale);
                match convolution {
                    0 => Ok(layer.into()),
                    taps => Ok(layer.convolution(vb.pp("conv"), taps)?.into()),
                }
            }
        }
    }

    /// Multiply-accumulates of a layer of width `c` over `tokens` tokens.
    fn macs(self, tokens: usize, c: usize, heads: usize) -> usize {
        match self {
            Self::Nystrom { landmarks: m, convolution, .. } if tokens > m => {
                // F, B, B V and F W; four products in each of six iterations.
                tokens * c * (4 * m + convolution) + 24 * heads * m.pow(3)
            }
            Self::Nystrom { .. } | Self::Softmax => 2 * tokens * tokens * c,
        }
    }
}

impl Architecture for NystromformerConfig {
    fn family(&self) -> Family {
        Family { name: "nystromformer", label: "Nystromformer" }
    }

    from_fields!(context, conditioning, table_std);

    /// That of the Long Range Arena for its longest texts, with the published dropout of 0.1, and a tiny one.
    fn presets() -> Vec<(&'static str, Self)> {
        let lra = Self {
            vocabulary: 512,
            context: 4096,
            width: 64,
            depth: 2,
            heads: 2,
            hidden: 128,
            attention: LongAttention::PUBLISHED,
            dropout: 0.1,
            table_std: 0.02,
            conditioning: ConditioningConfig::default(),
        };
        let tiny = Self {
            vocabulary: 17,
            context: 24,
            width: 12,
            hidden: 20,
            attention: LongAttention::Nystrom {
                landmarks: 3,
                convolution: 5,
                scale: InverseScale::Head,
            },
            ..lra.clone()
        };
        vec![("nystromformer-lra", lra), ("nystromformer-tiny", tiny)]
    }

    fn validate(&self) -> Result<()> {
        checks::at_least_one(
            "nystromformer",
            [
                ("vocabulary", self.vocabulary),
                ("context", self.context),
                ("width", self.width),
                ("heads", self.heads),
                ("hidden", self.hidden),
            ],
        )?;
        checks::equal_heads("nystromformer", self.heads, self.width)?;
        checks::probability("nystromformer", "dropout", self.dropout)?;
        checks::deviations("nystromformer", [("table_std", self.table_std)])?;
        if let LongAttention::Nystrom { landmarks, convolution, .. } = self.attention {
            checks::at_least_one("nystromformer", [("landmarks", landmarks)])?;
            if convolution > 0 && convolution.is_multiple_of(2) {
                candle_core::bail!(
                    "nystromformer: convolution {convolution} must be odd, or 0 for none"
                );
            }
        }
        let places = Places { tables: true, positions: true, norm: false };
        places.check(&self.conditioning, "nystromformer")
    }

    fn macs(&self, tokens: usize) -> usize {
        let c = self.width;
        let attention = self.attention.macs(tokens, c, self.heads);
        self.depth * (tokens * (4 * c * c + 2 * c * self.hidden) + attention)
    }

    /// [`Nystromformer`], which lies at `nystromformer` as below every head.
    fn build(&self, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(Nystromformer::new(self, vb.pp("nystromformer"))?))
    }
}

/// A batch of sequences as a [`Nystromformer`] reads them.
#[derive(Debug, Clone)]
pub struct Sequences {
    /// Token ids (B, N), u32.
    pub ids: Tensor,
    /// The place of every token, (B, N), u32; `None` where they are 0 to N - 1.
    pub positions: Option<Tensor>,
    /// Where the sequences end; `None` where all have N tokens.
    pub padding: Option<Padding>,
}

impl Sequences {
    /// Sequences of one length, ids (B, N).
    pub fn new(ids: Tensor) -> Self {
        Self { ids, positions: None, padding: None }
    }

    /// Sequences padded to one length: `mask` (B, N) u8, 1 = real.
    ///
    /// # Errors
    /// When shapes differ, or real tokens do not come first in every sequence.
    pub fn padded(ids: Tensor, positions: Option<Tensor>, mask: &Tensor) -> Result<Self> {
        for tensor in positions.iter().chain([mask]) {
            if tensor.dims() != ids.dims() {
                candle_core::bail!(
                    "nystromformer: ids {:?} with positions or a mask {:?}; they must have one shape",
                    ids.dims(),
                    tensor.dims()
                );
            }
        }
        let padding = Padding::of(mask)?;
        let full = padding.lengths().iter().all(|length| Some(length) == ids.dims().get(1));
        Ok(Self { ids, positions, padding: (!full).then_some(padding) })
    }

    /// A pass over them.
    pub(crate) fn pass(&self, mode: Mode) -> Pass<'_> {
        Pass::from(mode).padded(self.padding.as_ref())
    }
}

/// A Nystromformer without head.
#[derive(Debug)]
pub struct Nystromformer {
    stem: Stem,
    words: Table,
    positions: Table,
    dropout: Dropout,
    layers: Vec<EncoderLayer>,
    norm: LayerNorm,
}

impl Nystromformer {
    /// A model over `vb`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or a tensor has another shape.
    pub fn new(config: &NystromformerConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let (c, embeddings) = (config.width, vb.pp("embeddings"));
        let stem = Stem::new(config, c, &vb)?;
        let table = |name, rows| {
            let init = init::normal(config.table_std);
            embeddings.pp(name).get_with_hints((rows, c), "weight", init)
        };
        let layers = (0..config.depth)
            .map(|i| EncoderLayer::new(config, vb.pp("encoder.layer").pp(i)))
            .collect::<Result<_>>()?;
        Ok(Self {
            words: stem.words(table("word_embeddings", config.vocabulary)?)?,
            positions: stem.positions(table("position_embeddings", config.context)?)?,
            dropout: Dropout::new(&embeddings.pp("dropout"), config.dropout)?,
            layers,
            norm: LayerNorm::new(vb.pp("norm"), c, EPS)?,
            stem,
        })
    }

    /// The last hidden state (B, N, C), normalised. At padding it means nothing.
    ///
    /// # Errors
    /// When the sequences are longer than the position table, or an id or a place is not in its table.
    pub fn hidden(&self, input: &Sequences, mode: Mode) -> Result<Tensor> {
        self.encode(input, input.pass(mode))
    }

    /// What goes on inside in an evaluation: see [`Model::probe`].
    ///
    /// # Errors
    /// As [`Nystromformer::hidden`].
    pub fn probe_input(&self, input: &Sequences) -> Result<Seen> {
        let probe = Probe::default();
        self.encode(input, Pass { probe: Some(&probe), ..input.pass(Mode::Eval) })?;
        Ok(probe.take())
    }

    fn encode(&self, input: &Sequences, pass: Pass<'_>) -> Result<Tensor> {
        let x = self.embed_input(input, Way::Conditioned(pass))?;
        let x = self.dropout.forward(&x, pass.mode)?;
        let layers = self.layers.iter().map(|EncoderLayer { attention, mlp }| (attention, mlp));
        let mut branches = branches(layers, pass.mode)?;
        branches.push(Sequence::new([self.norm.clone().into()]));
        Sequence::chain(branches).forward(&x, pass)
    }

    /// The tokens that enter the first layer, (B, N, C), before dropout.
    fn embed_input(&self, input: &Sequences, way: Way<'_>) -> Result<Tensor> {
        self.stem.check(&input.ids)?;
        let (n, context) = (input.ids.dim(1)?, self.positions.weight().dim(0)?);
        if n > context {
            candle_core::bail!(
                "nystromformer: a sequence of {n} tokens is longer than the position table, which \
                 ends at {context}; shorten it, or take a model of a larger context"
            );
        }
        let tables = [self.words.weight(), self.positions.weight()];
        let words = self.words.rows(&input.ids, way)?;
        let words = self.stem.at(Placement::BeforePosition, words, &tables, way)?;
        let x = match &input.positions {
            Some(positions) => (words + self.positions.rows(positions, way)?)?,
            None => add_table(&words, &self.positions.range(0, n, way)?.unsqueeze(0)?)?,
        };
        self.stem.at(Placement::AfterPosition, x, &tables, way)
    }

    /// The tokens entering the first layer in evaluation mode, without and with conditioning, (B, N, C). At
    /// padding they mean nothing.
    ///
    /// # Errors
    /// As [`Nystromformer::hidden`].
    pub fn padded_tokens(&self, input: &Sequences) -> Result<Tokens> {
        Ok(Tokens {
            plain: self.embed_input(input, Way::Plain)?,
            conditioned: self.embed_input(input, Way::Conditioned(input.pass(Mode::Eval)))?,
        })
    }
}

impl Model for Nystromformer {
    fn forward(&self, ids: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        self.encode(&Sequences::new(ids.clone()), pass)
    }

    fn embed(&self, ids: &Tensor, way: Way<'_>) -> Result<Tensor> {
        self.embed_input(&Sequences::new(ids.clone()), way)
    }

    fn stem(&self) -> &Stem {
        &self.stem
    }
}

/// A pre-norm layer: two residual branches.
#[derive(Debug)]
struct EncoderLayer {
    attention: SelfAttention,
    mlp: Sequence,
}

impl EncoderLayer {
    fn new(config: &NystromformerConfig, vb: VarBuilder) -> Result<Self> {
        let (c, hidden, heads) = (config.width, config.hidden, config.heads);
        let dropout = |path| Dropout::new(&vb.pp(path), config.dropout);
        let paths = ["attention.self.query", "attention.self.key", "attention.self.value"];
        let projections =
            paths.map(|path| -> Result<_> { Ok((linear(vb.pp(path), c, c)?, vb.pp(path))) });
        let projections = projections.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Self {
            attention: SelfAttention::new(
                Some(LayerNorm::new(vb.pp("norm1"), c, EPS)?.into()),
                Projection::new(Packing::Rows, projections, config.conditioning)?,
                config.attention.layer(heads, &vb.pp("attention.self"))?,
                heads,
                config.conditioning,
                [
                    linear(vb.pp("attention.output.dense"), c, c)?.into(),
                    dropout("attention.output.dropout")?.into(),
                ],
            ),
            mlp: Sequence::residual([
                LayerNorm::new(vb.pp("norm2"), c, EPS)?.into(),
                linear(vb.pp("intermediate.dense"), c, hidden)?.into(),
                Gelu::Erf.into(),
                dropout("intermediate.dropout")?.into(),
                linear(vb.pp("output.dense"), hidden, c)?.into(),
                dropout("output.dropout")?.into(),
            ]),
        })
    }
}
