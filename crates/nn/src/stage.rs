//! What a layer is to a [`Sequence`](crate::Sequence): kernels on slices, forward and backward.

use std::borrow::Cow;

use candle_core::{Result, Tensor};

use crate::attention::PaddedAttention;
use crate::dropout::Mask;
use crate::kernel::{Real, Rows};
use crate::{GatedGelu, Gelu, HeadNorm, LayerNorm, Linear, RmsNorm};

/// A layer in one pass.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    LayerNorm(LayerNorm),
    RmsNorm(RmsNorm),
    Linear(Linear),
    Gelu(Gelu),
    GatedGelu(GatedGelu),
    Attention(PaddedAttention),
    HeadNorm(HeadNorm),
    Mask(Mask),
}

/// What a layer is to a sequence.
pub(crate) trait Kernel {
    /// Its name in errors.
    const NAME: &'static str;
    /// Whether its result is computed again in backward rather than kept.
    const CHEAP: bool;

    /// Its parameters, in the order of the slices that the kernels get.
    fn parameters(&self) -> Vec<&Tensor>;

    /// The dimensions of its result; an error when the input does not fit.
    fn output(&self, dims: &[usize]) -> Result<Vec<usize>>;

    /// The same on other devices and in half precision, in candle's operations.
    fn on_device(&self, x: &Tensor) -> Result<Tensor>;

    /// y = f(x); `rows` is the shape of x.
    fn forward<T: Real>(&self, x: &[T], parameters: &[&[T]], rows: Rows) -> Vec<T>;

    /// The gradients at x for the gradient `g` of y.
    fn backward<T: Real>(
        &self,
        x: &[T],
        parameters: &[&[T]],
        rows: Rows,
        g: Cow<'_, [T]>,
        wanted: Wanted<'_>,
    ) -> Gradients<T>;
}

/// Which gradients somebody waits for. A kernel may compute more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) input: bool,
    pub(crate) parameters: &'a [bool],
}

/// The gradients of a layer. What is not wanted may be missing or empty.
#[derive(Debug)]
pub(crate) struct Gradients<T> {
    pub(crate) input: Option<Vec<T>>,
    pub(crate) parameters: Vec<Vec<T>>,
}

impl<T> Default for Gradients<T> {
    fn default() -> Self {
        Self { input: None, parameters: Vec::new() }
    }
}

/// Calls the same for the layer of every stage.
macro_rules! each {
    ($stage:expr, $layer:ident: $L:ident => $call:expr) => {
        match $stage {
            $crate::stage::Stage::LayerNorm($layer) => {
                type $L = $crate::LayerNorm;
                $call
            }
            Stage::RmsNorm($layer) => {
                type $L = $crate::RmsNorm;
                $call
            }
            Stage::Linear($layer) => {
                type $L = $crate::Linear;
                $call
            }
            Stage::Gelu($layer) => {
                type $L = $crate::Gelu;
                $call
            }
            Stage::GatedGelu($layer) => {
                type $L = $crate::GatedGelu;
                $call
            }
            Stage::Attention($layer) => {
                type $L = $crate::attention::PaddedAttention;
                $call
            }
            Stage::HeadNorm($layer) => {
                type $L = $crate::HeadNorm;
                $call
            }
            Stage::Mask($layer) => {
                type $L = $crate::dropout::Mask;
                $call
            }
        }
    };
}
pub(crate) use each;

impl Stage {
    /// The name of the layer in errors.
    pub(crate) fn name(&self) -> &'static str {
        each!(self, _l: L => L::NAME)
    }

    /// Whether the result is computed again in backward.
    pub(crate) fn cheap(&self) -> bool {
        each!(self, _l: L => L::CHEAP)
    }

    /// The parameters of the layer.
    pub(crate) fn parameters(&self) -> Vec<&Tensor> {
        each!(self, layer: _L => layer.parameters())
    }
}
