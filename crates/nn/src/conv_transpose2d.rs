//! Transposed convolutions whose windows touch and do not overlap: images made larger by learned maps.

use std::borrow::Cow;

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use crate::kernel::{self, Real, View};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, init, reference, sequence};

/// A transposed convolution of k x k taps and stride k over channels-last images: every pixel becomes k x k pixels.
///
/// y_b(kh + a)(kw + c)o = bias_o + sum over i of x_bhwi weight_ioac, for a, c below k.
///
/// x is (B, H, W, I), y is (B, kH, kW, O). `weight` is (I, O, k, k) and `bias` (O,): PyTorch's `ConvTranspose2d` with
/// `stride=k`, which sees the same images as (B, I, H, W).
#[derive(Debug, Clone)]
pub struct ConvTranspose2d {
    weight: Tensor,
    bias: Tensor,
}

impl ConvTranspose2d {
    /// A layer over given tensors, `weight` (I, O, k, k) and `bias` (O,).
    pub fn from_tensors(weight: Tensor, bias: Tensor) -> Self {
        Self { weight, bias }
    }

    /// A layer from `inputs` to `outputs` channels with `taps` x `taps` pixels for one: `weight` and `bias` with
    /// PyTorch's default initialisation, uniform in +-1/(taps sqrt(outputs)).
    ///
    /// # Errors
    /// When the parameters cannot be created or have another shape.
    pub fn new(vb: VarBuilder, inputs: usize, outputs: usize, taps: usize) -> Result<Self> {
        let default = init::torch_default(outputs * taps * taps);
        let weight = vb.get_with_hints((inputs, outputs, taps, taps), "weight", default)?;
        Ok(Self::from_tensors(weight, vb.get_with_hints(outputs, "bias", default)?))
    }

    /// The sizes of a pass over images of `dims`, if they fit.
    fn sizes(&self, dims: &[usize]) -> Option<Sizes> {
        let &[inputs, outputs, taps, same] = self.weight.dims() else { return None };
        let &[images, height, width, channels] = dims else { return None };
        let fits = channels == inputs && taps == same && taps > 0 && self.bias.dims() == [outputs];
        fits.then_some(Sizes { rows: images * height, width, inputs, outputs, taps })
    }
}

impl Module for ConvTranspose2d {
    /// (B, H, W, I) -> (B, kH, kW, O).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        sequence::single(x, self.clone(), Mode::Eval)
    }
}

/// The sizes of a pass. A pixel of the input is a *source*, and its pixels of the result lie side by side in a matrix
/// (sources, k, k, O): the product of the sources with the weight.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Rows of all images.
    rows: usize,
    /// Sources in a row.
    width: usize,
    inputs: usize,
    outputs: usize,
    taps: usize,
}

impl Sizes {
    /// Elements that a source becomes.
    fn len(self) -> usize {
        self.taps * self.taps * self.outputs
    }

    fn sources(self) -> View {
        View::rows(self.rows * self.width, self.inputs, 0, self.inputs)
    }

    fn products(self) -> View {
        View::rows(self.rows * self.width, self.len(), 0, self.len())
    }

    /// The weight as a matrix (I, k k O).
    fn weight(self) -> View {
        View::rows(self.inputs, self.len(), 0, self.len())
    }

    /// (I, O, k, k) -> (I, k, k, O), or back.
    fn permuted<T: Real>(self, weight: &[T], back: bool) -> Vec<T> {
        let (area, len) = (self.taps * self.taps, self.len());
        let mut permuted = vec![T::ZERO; weight.len()];
        for (to, from) in permuted.chunks_exact_mut(len).zip(weight.chunks_exact(len)) {
            for (o, t) in (0..self.outputs).flat_map(|o| (0..area).map(move |t| (o, t))) {
                let (torch, ours) = (o * area + t, t * self.outputs + o);
                match back {
                    false => to[ours] = from[torch],
                    true => to[torch] = from[ours],
                }
            }
        }
        permuted
    }

    /// Calls `run(in the products, in the image)` with the starts of each run of k O adjacent elements of a row of
    /// sources.
    fn runs(self, mut run: impl FnMut(usize, usize)) {
        let (across, wide) = (self.taps * self.outputs, self.width * self.taps * self.outputs);
        for (source, tap) in (0..self.width).flat_map(|s| (0..self.taps).map(move |t| (s, t))) {
            run(source * self.len() + tap * across, tap * wide + source * across);
        }
    }

    /// The gradient of the products: the pixels that a source became, side by side.
    fn gathered<T: Real>(self, g: &[T]) -> Vec<T> {
        let (piece, across) = (self.width * self.len(), self.taps * self.outputs);
        kernel::build(g.len(), piece, |row, products| {
            let g = &g[row * piece..];
            self.runs(|to, from| {
                products[to..to + across].copy_from_slice(&g[from..from + across]);
            });
        })
    }
}

impl Kernel for ConvTranspose2d {
    const NAME: &'static str = "conv-transpose2d";

    fn parameters(&self, _: Mode) -> Vec<&Tensor> {
        vec![&self.weight, &self.bias]
    }

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        match (self.sizes(dims), dims) {
            (Some(s), &[b, h, w, _]) => Ok(vec![b, h * s.taps, w * s.taps, s.outputs]),
            _ => candle_core::bail!(
                "conv-transpose2d: input {dims:?}, weight {:?} and bias {:?} do not fit",
                self.weight.dims(),
                self.bias.dims()
            ),
        }
    }

    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        reference::conv_transpose2d(
            &pass.mode.precision().whole(x, &self.weight)?,
            &self.weight,
            &self.bias,
        )
    }

    fn forward<T: Real>(&self, Input { x, parameters, at }: Input<'_, T>) -> Result<Vec<T>> {
        // `output` has seen these dimensions.
        let Some(s) = self.sizes(at.dims) else { return Ok(Vec::new()) };
        let weight = s.permuted(parameters[0], false);
        let products = kernel::product_of((x, s.sources()), (&weight, s.weight()), T::ONE);
        let (piece, across) = (s.width * s.len(), s.taps * s.outputs);
        Ok(kernel::build(products.len(), piece, |row, y| {
            let products = &products[row * piece..];
            s.runs(|from, to| {
                y[to..to + across].copy_from_slice(&products[from..from + across]);
            });
            for y in y.chunks_exact_mut(s.outputs) {
                kernel::add(y, parameters[1]);
            }
        }))
    }

    /// dx = G W^T, dW = x^T G and db = 1^T G, G the gradient of the products.
    fn backward<T: Real>(
        &self,
        Input { x, parameters, at }: Input<'_, T>,
        g: Cow<'_, [T]>,
        wanted: Wanted<'_>,
    ) -> Gradients<T> {
        let Some(s) = self.sizes(at.dims) else { return Gradients::default() };
        let products = s.gathered(&g);
        let dw = wanted.parameters[0].then(|| {
            let dw = kernel::product_of((x, s.sources().t()), (&products, s.products()), T::ONE);
            s.permuted(&dw, true)
        });
        let dx = wanted.input.then(|| {
            let weight = s.permuted(parameters[0], false);
            kernel::product_of((&products, s.products()), (&weight, s.weight().t()), T::ONE)
        });
        let db = wanted.parameters[1].then(|| kernel::column_sums(&g, s.outputs));
        Gradients { input: dx, parameters: vec![dw.unwrap_or_default(), db.unwrap_or_default()] }
    }
}
