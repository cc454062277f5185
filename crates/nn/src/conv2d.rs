//! Convolutions of channels-last images, as matrix products over gathered patches.

use std::borrow::Cow;

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use crate::kernel::{self, Onto, Real, View};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, device, init, reference, sequence};

/// A convolution over channels-last images: k x k taps, stride s, p zeros around the image.
///
/// y_bhwo = bias_o + sum over i, a, c of weight_oiac x_b(hs + a - p)(ws + c - p)i.
///
/// x is (B, H, W, I), y is (B, H', W', O) with H' = (H + 2p - k) / s + 1 rounded down, and W' alike.
/// `weight` is (O, I, k, k) and `bias` (O,): PyTorch's `Conv2d`, which sees the same images as
/// (B, I, H, W).
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// A convolution over given tensors, `weight` (O, I, k, k) and `bias` (O,), of stride 1 without
    /// padding.
    pub fn from_tensors(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias, stride: 1, padding: 0 }
    }

    /// A convolution from `inputs` to `outputs` channels by `taps` x `taps` windows, of stride 1
    /// without padding: `weight` and `bias` with PyTorch's default initialisation, uniform in
    /// +-1/(taps sqrt(inputs)).
    ///
    /// # Errors
    /// When the parameters cannot be created or have another shape.
    pub fn new(vb: VarBuilder, inputs: usize, outputs: usize, taps: usize) -> Result<Self> {
        let bias = vb.get_with_hints(outputs, "bias", init::torch_default(inputs * taps * taps))?;
        Ok(Self { bias: Some(bias), ..Self::without_bias(vb, inputs, outputs, taps)? })
    }

    /// As [`Conv2d::new`], without a bias: before a batch normalisation.
    ///
    /// # Errors
    /// As [`Conv2d::new`].
    pub fn without_bias(
        vb: VarBuilder,
        inputs: usize,
        outputs: usize,
        taps: usize,
    ) -> Result<Self> {
        let default = init::torch_default(inputs * taps * taps);
        let weight = vb.get_with_hints((outputs, inputs, taps, taps), "weight", default)?;
        Ok(Self::from_tensors(weight, None))
    }

    /// The same with another stride.
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// The same with `padding` zeros on each side of the image.
    pub fn padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The windows over images of `dims`, if they fit.
    fn windows(&self, dims: &[usize]) -> Option<Windows> {
        let (stride, padding) = (self.stride, self.padding);
        let &[outputs, inputs, taps, same] = self.weight.dims() else { return None };
        let &[images, height, width, channels] = dims else { return None };
        let bias_fits = self.bias.as_ref().is_none_or(|bias| bias.dims() == [outputs]);
        let fits = channels == inputs && taps == same && taps > 0 && stride > 0 && bias_fits;
        let places = |side: usize| Some((side + 2 * padding).checked_sub(taps)? / stride + 1);
        fits.then_some(())?;
        let (rows, columns) = (places(height)?, places(width)?);
        Some(Windows {
            images,
            height,
            width,
            inputs,
            outputs,
            taps,
            stride,
            padding,
            rows,
            columns,
        })
    }
}

impl Module for Conv2d {
    /// (B, H, W, I) -> (B, H', W', O).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        sequence::single(x, self.clone(), Mode::Eval)
    }
}

/// Elements of gathered patches that are multiplied at once, at most: they stay in the cache of a
/// core.
const PATCHES: usize = 1 << 18;

/// Pixels that are multiplied at once even if their patches are larger, so that the weight is not
/// read too often.
const PIXELS: usize = 768;

/// Elements of partial sums of the weight's gradient.
const PARTIAL: usize = 1 << 21;

/// The windows of a convolution over its images; a *pixel* is one place of the result.
#[derive(Debug, Clone, Copy)]
struct Windows {
    images: usize,
    height: usize,
    width: usize,
    inputs: usize,
    outputs: usize,
    taps: usize,
    stride: usize,
    padding: usize,
    /// Windows below one another.
    rows: usize,
    /// Windows side by side.
    columns: usize,
}

impl Windows {
    /// Elements of one window, in the order (row, column, channel).
    fn len(self) -> usize {
        self.taps * self.taps * self.inputs
    }

    /// Pixels of one image.
    fn image(self) -> usize {
        self.rows * self.columns
    }

    /// Pixels in all.
    fn pixels(self) -> usize {
        self.images * self.image()
    }

    /// Pixels that are multiplied at once: pieces of one size, a multiple of four of them.
    fn pixels_at_once(self) -> usize {
        let most = (PATCHES / self.len().max(1)).max(PIXELS);
        let pieces = self.pixels().div_ceil(most).next_multiple_of(4);
        self.pixels().div_ceil(pieces.max(1)).max(1)
    }

    /// Calls `run(at, from, len)` for each run of adjacent elements of a window inside the image:
    /// its places in the window and in `x`.
    #[inline(always)]
    fn runs(self, pixel: usize, mut run: impl FnMut(usize, usize, usize)) {
        let (image, place) = (pixel / self.image(), pixel % self.image());
        let top = place / self.columns * self.stride;
        let left = place % self.columns * self.stride;
        // Window columns inside the image.
        let first = self.padding.saturating_sub(left).min(self.taps);
        let end = (self.width + self.padding).saturating_sub(left).clamp(first, self.taps);
        let len = (end - first) * self.inputs;
        for a in 0..self.taps {
            let Some(row) = (top + a).checked_sub(self.padding).filter(|row| *row < self.height)
            else {
                continue;
            };
            if len > 0 {
                let from = (image * self.height + row) * self.width + left + first - self.padding;
                run((a * self.taps + first) * self.inputs, from * self.inputs, len);
            }
        }
    }

    /// Whether a window lies in the image as a whole.
    #[inline(always)]
    fn is_inside(self, pixel: usize) -> bool {
        let place = pixel % self.image();
        let inside = |at: usize, side: usize| {
            at * self.stride >= self.padding && at * self.stride + self.taps <= side + self.padding
        };
        inside(place / self.columns, self.height) && inside(place % self.columns, self.width)
    }

    /// The patches under the windows of the pixels from `first` on, one a row.
    fn gather<T: Real>(self, x: &[T], first: usize, patches: &mut [T]) {
        for (pixel, patch) in (first..).zip(patches.chunks_exact_mut(self.len())) {
            if !self.is_inside(pixel) {
                patch.fill(T::ZERO);
            }
            self.runs(pixel, |at, from, len| {
                patch[at..at + len].copy_from_slice(&x[from..from + len]);
            });
        }
    }

    /// Adds patches to the places that they come from; `dx` begins with the image of `pixel` 0.
    fn scatter<T: Real>(self, patches: &[T], first: usize, dx: &mut [T]) {
        kernel::vectorised(
            #[inline(always)]
            || {
                for (pixel, patch) in (first..).zip(patches.chunks_exact(self.len())) {
                    self.runs(pixel, |at, from, len| {
                        kernel::add(&mut dx[from..from + len], &patch[at..at + len]);
                    });
                }
            },
        );
    }

    /// The weight (O, I, k, k) as (O, k, k, I), a row for each output.
    fn permuted<T: Real>(self, weight: &[T]) -> Vec<T> {
        let (len, area) = (self.len(), self.taps * self.taps);
        let mut permuted = vec![T::ZERO; weight.len()];
        for (to, from) in permuted.chunks_exact_mut(len).zip(weight.chunks_exact(len)) {
            for (i, from) in from.chunks_exact(area).enumerate() {
                for (t, &v) in from.iter().enumerate() {
                    to[t * self.inputs + i] = v;
                }
            }
        }
        permuted
    }

    /// The weight (O, I, k, k) as (k, k, I, O), a column for each output: what the product with
    /// patches reads without transposing it.
    fn permuted_columns<T: Real>(self, weight: &[T]) -> Vec<T> {
        let permuted = self.permuted(weight);
        let mut columns = vec![T::ZERO; weight.len()];
        for (o, row) in permuted.chunks_exact(self.len()).enumerate() {
            for (to, &v) in columns.chunks_exact_mut(self.outputs).zip(row) {
                to[o] = v;
            }
        }
        columns
    }

    /// The inverse of [`Windows::permuted`].
    fn permuted_back<T: Real>(self, permuted: &[T]) -> Vec<T> {
        let (len, area) = (self.len(), self.taps * self.taps);
        let mut weight = vec![T::ZERO; permuted.len()];
        for (to, from) in weight.chunks_exact_mut(len).zip(permuted.chunks_exact(len)) {
            for (i, to) in to.chunks_exact_mut(area).enumerate() {
                for (t, v) in to.iter_mut().enumerate() {
                    *v = from[t * self.inputs + i];
                }
            }
        }
        weight
    }

    /// `pixels` patches, one a row.
    fn patches(self, pixels: usize) -> View {
        View::rows(pixels, self.len(), 0, self.len())
    }

    /// `pixels` results, one a row.
    fn results(self, pixels: usize) -> View {
        View::rows(pixels, self.outputs, 0, self.outputs)
    }

    /// The permuted weight.
    fn weight(self) -> View {
        View::rows(self.outputs, self.len(), 0, self.len())
    }

    /// Its transpose, of [`Windows::permuted_columns`].
    fn weight_columns(self) -> View {
        View::rows(self.len(), self.outputs, 0, self.outputs)
    }

    /// y = patches W^T + b, piece by piece of pixels.
    fn forward<T: Real>(self, x: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
        let (weight, at_once) = (self.permuted_columns(weight), self.pixels_at_once());
        let piece = at_once * self.outputs;
        kernel::build(self.pixels() * self.outputs, piece, |i, y| {
            let pixels = y.len() / self.outputs;
            let mut patches = vec![T::ZERO; pixels * self.len()];
            self.gather(x, i * at_once, &mut patches);
            if let Some(bias) = bias {
                y.chunks_exact_mut(self.outputs).for_each(|y| y.copy_from_slice(bias));
            }
            let (y, patches) = ((y, self.results(pixels)), (&*patches, self.patches(pixels)));
            let weight = (&*weight, self.weight_columns());
            kernel::matmul(y, patches, weight, T::ONE, Onto::itself_if(bias.is_some()));
        })
    }

    /// dW = g^T patches: a sum for each of several groups of pixels, added in order.
    fn backward_weight<T: Real>(self, x: &[T], g: &[T]) -> Vec<T> {
        let (len, at_once) = (self.outputs * self.len(), self.pixels_at_once());
        let groups = (PARTIAL / len.max(1)).clamp(4, 64);
        // Whole pieces for each group.
        let group = self.pixels().div_ceil(groups).div_ceil(at_once).max(1) * at_once;
        let partial = kernel::build(self.pixels().div_ceil(group) * len, len, |i, dw| {
            let end = ((i + 1) * group).min(self.pixels());
            let mut patches = vec![T::ZERO; at_once.min(end - i * group) * self.len()];
            for first in (i * group..end).step_by(at_once) {
                let pixels = at_once.min(end - first);
                let patches = &mut patches[..pixels * self.len()];
                self.gather(x, first, patches);
                let g = (&g[first * self.outputs..], self.results(pixels).t());
                let patches = (&*patches, self.patches(pixels));
                kernel::matmul((dw, self.weight()), g, patches, T::ONE, Onto::Itself);
            }
        });
        self.permuted_back(&kernel::column_sums(&partial, len))
    }

    /// dx: g W, added to the places of the patches; an image is a piece.
    fn backward_input<T: Real>(self, weight: &[T], g: &[T]) -> Vec<T> {
        let (weight, at_once) = (self.permuted(weight), self.pixels_at_once());
        let len = self.height * self.width * self.inputs;
        kernel::build(self.images * len, len, |image, dx| {
            let g = &g[image * self.image() * self.outputs..];
            let mut patches = vec![T::ZERO; at_once.min(self.image()) * self.len()];
            for first in (0..self.image()).step_by(at_once) {
                let pixels = at_once.min(self.image() - first);
                let patches = &mut patches[..pixels * self.len()];
                let g = (&g[first * self.outputs..], self.results(pixels));
                let to = (&mut *patches, self.patches(pixels));
                kernel::matmul(to, g, (&weight, self.weight()), T::ONE, Onto::Nothing);
                self.scatter(patches, first, dx);
            }
        })
    }
}

impl Kernel for Conv2d {
    const NAME: &'static str = "conv2d";

    fn parameters(&self, _: Mode) -> Vec<&Tensor> {
        std::iter::once(&self.weight).chain(&self.bias).collect()
    }

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        match self.windows(dims) {
            Some(w) => Ok(vec![w.images, w.rows, w.columns, w.outputs]),
            None => candle_core::bail!(
                "conv2d: input {dims:?}, weight {:?}, bias {:?}, stride {} and padding {} do not fit",
                self.weight.dims(),
                self.bias.as_ref().map(Tensor::dims),
                self.stride,
                self.padding
            ),
        }
    }

    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let precision = pass.mode.precision();
        let (x, weight) = (precision.factor(x)?, precision.factor(&self.weight)?);
        let y = reference::conv2d(&x, &weight, None, self.stride, self.padding)?;
        device::add_bias(&y, self.bias.as_ref(), precision)
    }

    fn forward<T: Real>(&self, Input { x, parameters, at }: Input<'_, T>) -> Result<Vec<T>> {
        // `output` has seen these dimensions.
        let Some(windows) = self.windows(at.dims) else { return Ok(Vec::new()) };
        Ok(windows.forward(x, parameters[0], parameters.get(1).copied()))
    }

    /// dx = scattered g W, dW = g^T patches, db = 1^T g; the patches are gathered again.
    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        wanted: Wanted<'_>,
    ) -> Gradients<T> {
        let Input { x, parameters, at } = input;
        let Some(windows) = self.windows(at.dims) else { return Gradients::default() };
        let mut gradients = Gradients::default();
        gradients.parameters.push(match wanted.parameters[0] {
            true => windows.backward_weight(x, &g),
            false => Vec::new(),
        });
        if wanted.parameters.get(1) == Some(&true) {
            gradients.parameters.push(kernel::column_sums(&g, windows.outputs));
        }
        if wanted.input {
            gradients.input = Some(windows.backward_input(parameters[0], &g));
        }
        gradients
    }
}
