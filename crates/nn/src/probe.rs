//! Looking into a network: tokens, queries, keys, values and attention of every layer.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Result, Tensor};

/// Collects what every attention layer of a pass sees, in the order of the layers, and what the tokens were before
/// and after they were conditioned.
///
/// The pass is an evaluation that computes what it would compute without a probe, to the last bit; what the
/// probe hands out is computed beside it. H heads of width D, N queries.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use conditioned_nn::{Attention, Pass, Probe, Sequence, Store, linear};
/// # fn main() -> candle_core::Result<()> {
/// let store = Store::new(0, DType::F32, &Device::Cpu);
/// let qkv = linear(store.builder().pp("qkv"), 16, 48)?;
/// let layers = Sequence::new([qkv.into(), Attention { heads: 2, causal: false }.into()]);
/// let probe = Probe::default();
/// layers.forward(&Tensor::ones((1, 5, 16), DType::F32, &Device::Cpu)?, Pass::probed(&probe))?;
/// let seen = probe.take();
/// assert_eq!(seen.layers[0].heads.attention.dims(), [1, 2, 5, 5]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Probe(Mutex<Seen>);

/// What a probe saw in a pass.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The tokens X (B, N, C) where they are conditioned, and what came out; the same twice without a method.
    pub conditioning: Option<[Tensor; 2]>,
    /// The attention layers, in order.
    pub layers: Vec<Probed>,
}

/// What a probe saw at one attention layer.
#[derive(Debug, Clone)]
pub struct Probed {
    /// What entered the sequence of the layer: the tokens of the residual stream, before its norm.
    pub tokens: Tensor,
    /// X (.., C), of which queries, keys and values are made: the tokens behind the norm in front of attention,
    /// where there is one.
    pub input: Tensor,
    /// W_V (C, C), the heads side by side, V = X W_V but for the bias; of a layer that sums the values of a
    /// whole sequence.
    pub value_weight: Option<Tensor>,
    /// What the layer made of its input.
    pub heads: Heads,
    /// The output of the layer, its heads side by side, (.., C).
    pub output: Tensor,
}

/// The inner life of an attention layer; a layer over windows has one sequence for each window, one over
/// channels has D x D attention.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Q, (B, H, N, D).
    pub queries: Tensor,
    /// K, (B, H, N, D).
    pub keys: Tensor,
    /// V, (B, H, N, D).
    pub values: Tensor,
    /// The probabilities that values are summed with, (B, H, N, N): rows sum to one but for padding, whose
    /// rows are zero.
    pub attention: Tensor,
    /// Among what values are summed.
    pub among: Among,
}

/// Among what an attention layer sums values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// All tokens of a sequence.
    Tokens,
    /// The tokens of a window.
    Windows,
    /// The channels of a head.
    Channels,
}

impl Heads {
    /// The three parts of a packed (B, N, 3C), split into heads, each (B, H, N, D).
    ///
    /// # Errors
    /// When 3 `heads` does not divide the last dimension.
    pub(crate) fn split(qkv: &Tensor, heads: usize) -> Result<[Tensor; 3]> {
        let (b, n, width) = qkv.dims3()?;
        let qkv = qkv.reshape((b, n, 3, heads, width / (3 * heads)))?;
        let part = |i| qkv.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
        Ok([part(0)?, part(1)?, part(2)?])
    }

    /// Queries, keys and values with what sums the values.
    pub(crate) fn new(
        [queries, keys, values]: [Tensor; 3],
        attention: Tensor,
        among: Among,
    ) -> Self {
        Self { queries, keys, values, attention, among }
    }
}

impl Probe {
    /// What was seen since the last call.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen())
    }

    /// Adds what was seen at a layer that is no part of a [`Sequence`](crate::Sequence).
    pub fn push(&self, probed: Probed) {
        self.seen().layers.push(probed);
    }

    /// Keeps the tokens (B, N, C) where they are conditioned, and what came out.
    pub fn conditioned(&self, before: Tensor, after: Tensor) {
        self.seen().conditioning = Some([before, after]);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
