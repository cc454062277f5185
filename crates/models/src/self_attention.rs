//! The attention branch of every model: x + f(x), with what is done to its weights and its output.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use conditioned_nn::{Cache, Layer, Linear, Mode, Sequence};

use crate::conditioning::{ConditioningConfig, Packing, WeightMap};

/// x + after(attention(W x)), W x the queries, keys and values of `before(x)`.
#[derive(Debug)]
pub(crate) struct SelfAttention {
    before: Option<Arc<dyn Layer>>,
    projection: Projection,
    /// Attention, what is done to the output of its heads, and what follows.
    after: Vec<Arc<dyn Layer>>,
}

impl SelfAttention {
    /// Of `heads` heads of attention between what comes before and after it.
    pub(crate) fn new(
        before: Option<Box<dyn Layer>>,
        projection: Projection,
        attention: impl Into<Box<dyn Layer>>,
        heads: usize,
        config: ConditioningConfig,
        after: impl IntoIterator<Item = Box<dyn Layer>>,
    ) -> Self {
        let method = config.attention.layer(heads);
        let after = std::iter::once(attention.into()).chain(method).chain(after);
        Self { before: before.map(Arc::from), projection, after: after.map(Arc::from).collect() }
    }

    /// The result for tokens that follow those in `cache`: see [`Sequence::forward_cached`].
    pub(crate) fn forward_cached(&self, x: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        self.sequence(Mode::Eval)?.forward_cached(x, cache)
    }

    /// The layers of one pass, (B, N, C) -> (B, N, C), or as the attention takes its tokens.
    pub(crate) fn sequence(&self, mode: Mode) -> Result<Sequence> {
        let projection: Arc<dyn Layer> = Arc::new(self.projection.layer(mode)?);
        let layers = self.before.iter().cloned().chain([projection]);
        Ok(Sequence::shared(layers.chain(self.after.iter().cloned()), true))
    }
}

/// The branches of blocks of attention and MLP, one after the other.
pub(crate) fn branches<'a>(
    blocks: impl Iterator<Item = (&'a SelfAttention, &'a Sequence)>,
    mode: Mode,
) -> Result<Vec<Sequence>> {
    let mut branches = Vec::new();
    for (attention, mlp) in blocks {
        branches.extend([attention.sequence(mode)?, mlp.clone()]);
    }
    Ok(branches)
}

/// The weights of queries, keys and values that an evaluation multiplies with, by their names in the
/// builder that the model was made with.
pub(crate) fn folded_weights<'a>(
    layers: impl Iterator<Item = &'a SelfAttention>,
) -> Result<BTreeMap<String, Tensor>> {
    let parts = layers.flat_map(|layer| &layer.projection.parts);
    let folded = parts.map(|Part { layer, map, name }| {
        Ok((name.clone(), map.apply(layer.weight(), Mode::Eval)?))
    });
    folded.collect()
}

/// The projection to queries, keys and values: one stored layer or three.
#[derive(Debug)]
pub(crate) struct Projection {
    packing: Packing,
    parts: Vec<Part>,
}

/// A stored layer, and what is done to its weight.
#[derive(Debug)]
struct Part {
    layer: Linear,
    map: WeightMap,
    /// The name of its weight, from the root of the model.
    name: String,
}

impl Projection {
    /// Over stored layers and where they are in `vb`: one for all three, or one for each.
    pub(crate) fn new<'a>(
        packing: Packing,
        layers: impl IntoIterator<Item = (Linear, VarBuilder<'a>)>,
        config: ConditioningConfig,
    ) -> Result<Self> {
        let parts = layers.into_iter().map(|(layer, vb)| {
            let map = WeightMap::new(config.weights, packing, layer.weight(), &vb)?;
            Ok(Part { layer, map, name: format!("{}.weight", vb.prefix()) })
        });
        Ok(Self { packing, parts: parts.collect::<Result<_>>()? })
    }

    /// The layer of one pass: its outputs are queries, keys and values side by side.
    pub(crate) fn layer(&self, mode: Mode) -> Result<Linear> {
        let layers = self.parts.iter().map(|Part { layer, map, .. }| {
            let weight = map.apply(layer.weight(), mode)?;
            Ok(match self.packing {
                Packing::Heads(_) => layer.with_weight(self.packing.unpack(&weight)?),
                Packing::Rows | Packing::Columns => layer.with_weight(weight),
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        match <[Linear; 1]>::try_from(layers) {
            Ok([layer]) => Ok(layer),
            // Parameters of their own, and one product.
            Err(layers) => Linear::stacked(&layers),
        }
    }
}
