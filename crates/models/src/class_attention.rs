//! Class attention: the class token asks, all tokens answer (Touvron et al. 2021, "Going deeper with Image
//! Transformers", section 3), as timm's `Xcit` has it.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{
    Among, Gelu, Heads, Layer, LayerNorm, LayerScale, Linear, Pass, Probed, Sequence, softmax,
};

use crate::block::LINEAR_STD;
use crate::conditioning::Packing;
use crate::self_attention::Projection;
use crate::xcit::{EPS, XcitConfig};

/// One block over class token c and patches p, with n = LN1([c; p]):
///
/// ```text
/// c = LN2(c + g1 CA(n)),  c = c + g2 MLP(c)
/// p = p + g1 n_p,  p = LN2(p) if tokens_norm,  p = 2 p
/// ```
///
/// The patches go this way in timm's reference, whose residual connections run over all tokens.
#[derive(Debug)]
pub(crate) struct ClassBlock {
    norm1: LayerNorm,
    queries: Projection,
    keys: Projection,
    values: Projection,
    heads: usize,
    /// What is done to the output of the heads, and the projection behind it.
    after: Sequence,
    scale1: LayerScale,
    norm2: LayerNorm,
    tokens_norm: bool,
    mlp: Sequence,
}

impl ClassBlock {
    pub(crate) fn new(config: &XcitConfig, vb: VarBuilder) -> Result<Self> {
        let (c, hidden) = (config.width, config.width * config.mlp_ratio);
        let linear =
            |path, inputs, outputs| Linear::with_std(vb.pp(path), inputs, outputs, LINEAR_STD);
        let projection = |path| {
            let layer = (linear(path, c, c)?, vb.pp(path));
            Projection::new(Packing::Rows, [layer], config.conditioning)
        };
        let scale = |name| LayerScale::new(vb.clone(), name, c, config.layer_scale);
        let method = config.conditioning.attention.layer(config.heads);
        let proj: Box<dyn Layer> = linear("attn.proj", c, c)?.into();
        Ok(Self {
            norm1: LayerNorm::new(vb.pp("norm1"), c, EPS)?,
            queries: projection("attn.q")?,
            keys: projection("attn.k")?,
            values: projection("attn.v")?,
            heads: config.heads,
            after: Sequence::new(method.into_iter().chain([proj])),
            scale1: scale("gamma1")?,
            norm2: LayerNorm::new(vb.pp("norm2"), c, EPS)?,
            tokens_norm: config.tokens_norm,
            mlp: Sequence::residual([
                linear("mlp.fc1", c, hidden)?.into(),
                Gelu::Erf.into(),
                linear("mlp.fc2", hidden, c)?.into(),
                scale("gamma2")?.into(),
            ]),
        })
    }

    /// Class token (B, 1, C) and patches (B, N, C) to the same.
    pub(crate) fn forward(
        &self,
        class: &Tensor,
        patches: &Tensor,
        pass: Pass<'_>,
    ) -> Result<(Tensor, Tensor)> {
        let (b, n, c) = patches.dims3()?;
        let tokens = Tensor::cat(&[class, patches], 1)?; // (B, 1 + N, C)
        let normal = tokens.apply(&self.norm1)?;
        let split = |x: Tensor, tokens: usize| {
            x.reshape((b, tokens, self.heads, c / self.heads))?.transpose(1, 2)?.contiguous()
        };
        let q = normal.narrow(1, 0, 1)?.apply(&self.queries.layer(pass.mode)?)?;
        let (q, k, v) = (
            split(q, 1)?, // (B, H, 1, D)
            split(normal.apply(&self.keys.layer(pass.mode)?)?, n + 1)?,
            split(normal.apply(&self.values.layer(pass.mode)?)?, n + 1)?,
        );
        let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
        let attention = softmax(&q.matmul(&k.t()?)?, scale, None)?; // (B, H, 1, 1 + N)
        let output = attention.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((b, 1, c))?;
        if let Some(probe) = pass.probe {
            let among = Among::Tokens;
            let heads = Heads { queries: q, keys: k, values: v, attention, among };
            let (input, output) = (normal.clone(), output.clone());
            probe.push(Probed { tokens, input, value_weight: None, heads, output });
        }
        let y = self.after.forward(&output, pass)?;

        let class = (class + y.apply(&self.scale1)?)?.apply(&self.norm2)?;
        let class = self.mlp.forward(&class, pass)?;
        let patches = (patches + normal.narrow(1, 1, n)?.apply(&self.scale1)?)?;
        let patches = if self.tokens_norm { patches.apply(&self.norm2)? } else { patches };
        Ok((class, (patches * 2.0)?))
    }
}
