//! The depthwise convolution of images of tokens: every channel by a stencil of its own.

use std::borrow::Cow;

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use crate::kernel::{self, Real, Stencil};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, init, reference, sequence};

/// A depthwise convolution over images of tokens, channels last: odd k x k taps, stride 1, zeros
/// around the image, so that the result has the size of the input, (B, H, W, C).
///
/// y_bhwc = bias_c + sum over a, d of weight_cad x_b(h + a - k/2)(w + d - k/2)c, k/2 rounded down.
///
/// `weight` is (C, 1, k, k) and `bias` (C,), as in PyTorch's `Conv2d(C, C, k, padding=k // 2,
/// groups=C)`, which sees the same tokens as (B, C, H, W).
#[derive(Debug, Clone)]
pub struct DepthwiseConv2d {
    weight: Tensor,
    bias: Tensor,
}

impl DepthwiseConv2d {
    /// A layer over given tensors: `weight` (C, 1, k, k), `bias` (C,).
    pub fn from_tensors(weight: Tensor, bias: Tensor) -> Self {
        Self { weight, bias }
    }

    /// A layer of `channels` with `taps` x `taps` weights each, with PyTorch's default
    /// initialisation, uniform in +-1/taps.
    ///
    /// # Errors
    /// When the parameters cannot be created or have another shape.
    pub fn new(vb: VarBuilder, channels: usize, taps: usize) -> Result<Self> {
        let default = init::torch_default(taps * taps);
        let weight = vb.get_with_hints((channels, 1, taps, taps), "weight", default)?;
        let bias = vb.get_with_hints(channels, "bias", default)?;
        Ok(Self { weight, bias })
    }

    /// The stencil over images of `dims`, if it fits.
    fn stencil(&self, dims: &[usize]) -> Option<Stencil> {
        let (&[images, height, width, channels], &[c, 1, k, same]) = (dims, self.weight.dims())
        else {
            return None;
        };
        let fits = c == channels && self.bias.dims() == [c] && k == same && k % 2 == 1;
        fits.then_some(Stencil { images, height, width, channels, taps: (k, k) })
    }
}

impl Module for DepthwiseConv2d {
    /// (B, H, W, C) -> (B, H, W, C).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        sequence::single(x, self.clone(), Mode::Eval)
    }
}

/// The transpose of a matrix of rows of `width`.
fn transposed<T: Real>(x: &[T], width: usize) -> Vec<T> {
    let rows = x.len() / width.max(1);
    (0..x.len()).map(|i| x[i % rows * width + i / rows]).collect()
}

impl Kernel for DepthwiseConv2d {
    const NAME: &'static str = "depthwise";

    fn parameters(&self, _: Mode) -> Vec<&Tensor> {
        vec![&self.weight, &self.bias]
    }

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        if self.stencil(dims).is_none() {
            candle_core::bail!(
                "depthwise: input {dims:?}, weight {:?} and bias {:?} do not fit",
                self.weight.dims(),
                self.bias.dims()
            );
        }
        Ok(dims.to_vec())
    }

    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        reference::depthwise2d(
            &pass.mode.precision().whole(x, &self.weight)?,
            &self.weight,
            &self.bias,
        )
    }

    fn forward<T: Real>(&self, Input { x, parameters, at }: Input<'_, T>) -> Result<Vec<T>> {
        // `output` has seen these dimensions.
        let Some(stencil) = self.stencil(at.dims) else { return Ok(Vec::new()) };
        let taps = transposed(parameters[0], stencil.taps.0 * stencil.taps.1);
        Ok(stencil.forward(x, &taps, Some(parameters[1])))
    }

    /// dx: the convolution of g with the taps turned round; dw_t = sum over p of g_p x_(p + t);
    /// db = sum over p of g_p.
    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        wanted: Wanted<'_>,
    ) -> Gradients<T> {
        let Input { x, parameters, at } = input;
        let Some(stencil) = self.stencil(at.dims) else { return Gradients::default() };
        let of = |wanted: bool, gradient: &dyn Fn() -> Vec<T>| match wanted {
            true => gradient(),
            false => Vec::new(),
        };
        let dw = || transposed(&stencil.backward_taps(x, &g), stencil.channels);
        let db = || kernel::column_sums(&g, stencil.channels);
        let dx = || {
            let taps = transposed(parameters[0], stencil.taps.0 * stencil.taps.1);
            stencil.backward_input(&g, &taps)
        };
        let parameters = vec![of(wanted.parameters[0], &dw), of(wanted.parameters[1], &db)];
        Gradients { input: wanted.input.then(dx), parameters }
    }
}
