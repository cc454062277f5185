//! The two branches of a pre-norm block with timm's names, which ViT, Swin, XCiT and DaViT share.

use candle_core::Result;
use candle_nn::VarBuilder;
use conditioned_nn::{DropPath, Gelu, Layer, LayerNorm, LayerScale, Linear, Sequence};

use crate::conditioning::{ConditioningConfig, Packing};
use crate::self_attention::{Projection, SelfAttention};

/// Deviation of every linear weight at initialisation, as in timm.
pub(crate) const LINEAR_STD: f64 = 0.02;

/// What both branches of a block have in common.
pub(crate) struct Branches<'a> {
    /// Where the block is.
    pub(crate) vb: VarBuilder<'a>,
    /// Token width C.
    pub(crate) width: usize,
    /// Hidden width of the MLP.
    pub(crate) hidden: usize,
    /// Epsilon of the layer norms.
    pub(crate) eps: f64,
    /// Factors of the branches at initialisation, `gamma1` and `gamma2`; `None` has no factors.
    pub(crate) layer_scale: Option<f64>,
    /// Drop-path rate.
    pub(crate) drop_path: f64,
    /// What is done to the weights of queries, keys and values and to the output of attention.
    pub(crate) conditioning: ConditioningConfig,
}

impl Branches<'_> {
    /// X + DropPath(g1 Proj(A(QKV(LN1(X))))), A an attention of `heads`.
    pub(crate) fn attention(
        &self,
        attention: impl Into<Box<dyn Layer>>,
        heads: usize,
    ) -> Result<SelfAttention> {
        let c = self.width;
        let qkv = (self.linear("attn.qkv", c, 3 * c)?, self.vb.pp("attn.qkv"));
        let proj: Box<dyn Layer> = self.linear("attn.proj", c, c)?.into();
        Ok(SelfAttention::new(
            Some(self.norm("norm1")?.into()),
            Projection::new(Packing::Rows, [qkv], self.conditioning)?,
            attention,
            heads,
            self.conditioning,
            [proj].into_iter().chain(self.end("gamma1", "drop_path1")?),
        ))
    }

    /// X + DropPath(g2 W2 GELU(W1 LN2(X))).
    pub(crate) fn mlp(&self) -> Result<Sequence> {
        let layers = [
            self.norm("norm2")?.into(),
            self.linear("mlp.fc1", self.width, self.hidden)?.into(),
            Gelu::Erf.into(),
            self.linear("mlp.fc2", self.hidden, self.width)?.into(),
        ];
        self.branch(layers, "gamma2", "drop_path2")
    }

    /// X + DropPath(g f(X)), f the layers one after the other.
    pub(crate) fn branch<const N: usize>(
        &self,
        layers: [Box<dyn Layer>; N],
        scale: &str,
        drop_path: &str,
    ) -> Result<Sequence> {
        Ok(Sequence::residual(layers.into_iter().chain(self.end(scale, drop_path)?)))
    }

    /// A layer norm of the block.
    pub(crate) fn norm(&self, name: &str) -> Result<LayerNorm> {
        LayerNorm::new(self.vb.pp(name), self.width, self.eps)
    }

    fn linear(&self, path: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        Linear::with_std(self.vb.pp(path), inputs, outputs, LINEAR_STD)
    }

    /// Factors, where there are any, and drop path.
    fn end(&self, scale: &str, drop_path: &str) -> Result<Vec<Box<dyn Layer>>> {
        let mut layers: Vec<Box<dyn Layer>> = Vec::new();
        if let Some(value) = self.layer_scale {
            layers.push(LayerScale::new(self.vb.clone(), scale, self.width, value)?.into());
        }
        layers.push(DropPath::new(&self.vb.pp(drop_path), self.drop_path)?.into());
        Ok(layers)
    }
}

/// The drop-path rate of one of `blocks` blocks, which grows linearly from 0 to `last`.
pub(crate) fn drop_path_of(last: f64, block: usize, blocks: usize) -> f64 {
    block as f64 / blocks.saturating_sub(1).max(1) as f64 * last
}
