//! Layers in sequence as one operation: what candle's graph sees is input, parameters and result.
//!
//! candle's backward allocates a zeroed gradient for every edge of the graph and adds to it, and
//! keeps every intermediate result. A [`Sequence`] runs its layers on the CPU without edges
//! between them, by a memory plan of its own:
//!
//! | result of | kept for backward |
//! | --- | --- |
//! | the last layer | it is the result |
//! | linear, convolutions, attention, norms, GELU, gated GELU | yes |
//! | layer scale | no: one multiplication |
//! | dropout | no: the mask is drawn again |
//! | the end of a branch | yes, whatever it is: the next one begins with it |
//! | below the lowest layer that learns | no |
//! | inside a convolution | no: the patches are gathered again, piece by piece |
//! | inside attention | no: the probabilities are computed again, block by block |
//!
//! A residual connection is added inside the last matrix product. On other devices and in half or mixed
//! precision the layers run one after the other, by [`crate::device`] and [`crate::reference`].

use std::sync::Arc;

use candle_core::{D, Result, Tensor};

use crate::kernel;
use crate::layer::{At, Kernel, Layer};
use crate::probe::{Among, Probe, Probed};
use crate::sequence_op::SequenceOp;
use crate::{Cache, Mode, Pass};

/// Layers one after the other, f, as one operation: y = f(x), or y = x + f(x).
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use conditioned_nn::{Attention, LayerNorm, Mode, Sequence, Store, linear};
/// # fn main() -> candle_core::Result<()> {
/// let store = Store::new(0, DType::F32, &Device::Cpu);
/// let vb = store.builder();
/// let branch = Sequence::residual([
///     LayerNorm::new(vb.pp("norm"), 16, 1e-6)?.into(),
///     linear(vb.pp("qkv"), 16, 48)?.into(),
///     Attention { heads: 2, causal: false }.into(),
///     linear(vb.pp("proj"), 16, 16)?.into(),
/// ]);
/// let x = Tensor::ones((2, 5, 16), DType::F32, &Device::Cpu)?;
/// assert_eq!(branch.forward(&x, Mode::Eval)?.dims(), [2, 5, 16]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Sequence {
    branches: Vec<Branch>,
}

/// Layers one after the other, f: f(x), or x + f(x) when `residual`.
#[derive(Debug, Clone)]
pub(crate) struct Branch {
    pub(crate) layers: Vec<Arc<dyn Layer>>,
    pub(crate) residual: bool,
}

impl Sequence {
    /// f: the layers one after the other.
    pub fn new(layers: impl IntoIterator<Item = Box<dyn Layer>>) -> Self {
        Self::shared(layers.into_iter().map(Arc::from), false)
    }

    /// x + f(x).
    pub fn residual(layers: impl IntoIterator<Item = Box<dyn Layer>>) -> Self {
        Self::shared(layers.into_iter().map(Arc::from), true)
    }

    /// f, or x + f(x) when `residual`, of layers that may stand in other sequences too.
    pub fn shared(layers: impl IntoIterator<Item = Arc<dyn Layer>>, residual: bool) -> Self {
        Self { branches: vec![Branch { layers: layers.into_iter().collect(), residual }] }
    }

    /// Sequences one after the other, as one operation: the blocks of a transformer.
    pub fn chain(sequences: impl IntoIterator<Item = Self>) -> Self {
        Self { branches: sequences.into_iter().flat_map(|sequence| sequence.branches).collect() }
    }

    /// The result for `x`, (B, N, C) or images (B, H, W, C).
    ///
    /// # Errors
    /// When shapes, dtypes or the padding do not fit; names the layer.
    pub fn forward<'a>(&self, x: &Tensor, pass: impl Into<Pass<'a>>) -> Result<Tensor> {
        let pass = pass.into();
        let Some(probe) = pass.probe else { return run(x, self.branches.clone(), pass) };
        if pass.mode.is_train() {
            candle_core::bail!(
                "probe: it looks on to evaluations; a training pass moves statistics"
            );
        }
        let mut x = x.clone();
        for branch in &self.branches {
            branch.show(&x, probe, pass)?;
            x = run(&x, vec![branch.clone()], pass)?;
        }
        Ok(x)
    }

    /// The result of an evaluation for `x` (B, N, C), the tokens that follow those in `cache`, as if
    /// all of them had been given at once.
    ///
    /// A cache belongs to one sequence of layers, with at most one attention, which is causal.
    ///
    /// # Errors
    /// As [`Sequence::forward`]; when the cache is full or has seen another number of sequences; when there
    /// are several attentions.
    pub fn forward_cached(&self, x: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        let layers = self.branches.iter().flat_map(|branch| &branch.layers);
        let attentions = layers.filter(|layer| layer.cached().is_some()).count();
        if attentions > 1 {
            candle_core::bail!(
                "sequence: {attentions} attentions and one cache; give each of them a sequence and a cache"
            );
        }
        let mut x = x.clone();
        for Branch { layers, residual } in &self.branches {
            let mut y = x.clone();
            for layer in layers {
                y = match layer.cached() {
                    Some(attention) => cache.attend(attention, &y)?,
                    None => apply(&y, layer.clone(), Mode::Eval.into())?,
                };
            }
            x = if *residual { (x + y)? } else { y };
        }
        Ok(x)
    }
}

impl Branch {
    /// Runs the layers one by one and hands what attention does to `probe`.
    fn show(&self, x: &Tensor, probe: &Probe, pass: Pass<'_>) -> Result<()> {
        let mut y = x.clone();
        // What queries, keys and values are made of, and the layer that makes them.
        let mut before: Option<(Tensor, &Arc<dyn Layer>)> = None;
        for layer in &self.layers {
            let output = apply(&y, layer.clone(), pass)?;
            if let Some(heads) = layer.heads(&y, pass)? {
                let (input, value_weight) = match &before {
                    Some((input, projection)) if heads.among == Among::Tokens => {
                        (input, Some(value_weight(projection, input)?))
                    }
                    Some((input, _)) => (input, None),
                    None => (x, None),
                };
                let (tokens, input, output) = (x.clone(), input.clone(), output.clone());
                probe.push(Probed { tokens, input, value_weight, heads, output });
            }
            before = Some((std::mem::replace(&mut y, output), layer));
        }
        Ok(())
    }

    /// The result, layer by layer, in candle's graph.
    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let mut y = x.clone();
        for layer in &self.layers {
            y = layer.on_device(&y, pass)?;
        }
        let y = pass.mode.precision().whole(&y, x)?;
        if self.residual { x + y } else { Ok(y) }
    }
}

/// W_V (C, C) of a layer that maps tokens (.., C) to queries, keys and values side by side.
fn value_weight(projection: &Arc<dyn Layer>, like: &Tensor) -> Result<Tensor> {
    let c = like.dim(D::Minus1)?;
    let of = |x: Tensor| apply(&x.unsqueeze(0)?, projection.clone(), Mode::Eval.into())?.squeeze(0);
    let eye = Tensor::eye(c, like.dtype(), like.device())?;
    let bias = of(eye.zeros_like()?)?;
    let width = bias.dim(1)? / 3;
    (of(eye)? - bias)?.narrow(1, 2 * width, width)?.contiguous()
}

/// x through one layer.
pub(crate) fn single<'a>(
    x: &Tensor,
    layer: impl Kernel + 'static,
    pass: impl Into<Pass<'a>>,
) -> Result<Tensor> {
    apply(x, Arc::new(layer), pass.into())
}

fn apply(x: &Tensor, layer: Arc<dyn Layer>, pass: Pass<'_>) -> Result<Tensor> {
    run(x, vec![Branch { layers: vec![layer], residual: false }], pass)
}

/// Runs the branches on `x`.
fn run(x: &Tensor, mut branches: Vec<Branch>, pass: Pass<'_>) -> Result<Tensor> {
    let mut shapes = vec![x.dims().to_vec()];
    for Branch { layers, residual } in &mut branches {
        layers.retain(|layer| !layer.is_identity(pass.mode));
        let before = shapes.len() - 1;
        for layer in layers {
            let dims = layer.output(At { dims: &shapes[shapes.len() - 1], pass })?;
            shapes.push(dims);
        }
        if *residual && shapes[before] != shapes[shapes.len() - 1] {
            let (x, y) = (&shapes[before], shapes.last());
            candle_core::bail!("residual: {y:?} cannot be added to {x:?}");
        }
    }
    branches.retain(|Branch { layers, residual }| *residual || !layers.is_empty());
    let kernels = kernel::serves(x) && pass.mode.precision().is_full();
    if branches.is_empty() || !kernels || x.elem_count() == 0 {
        return branches.iter().try_fold(x.clone(), |x, branch| branch.on_device(&x, pass));
    }
    if branches.iter().any(|branch| branch.layers.is_empty()) {
        // x + x has no layer to be added in.
        return branches.into_iter().try_fold(x.clone(), |x, branch| match branch.layers.len() {
            0 => x.add(&x),
            _ => run(&x, vec![branch], pass),
        });
    }
    SequenceOp::apply(x, branches, shapes, pass)
}
