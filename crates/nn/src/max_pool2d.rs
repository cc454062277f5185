//! Max pooling of channels-last images.

use std::borrow::Cow;

use candle_core::{Module, Result, Tensor};

use crate::kernel::{self, Real};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, reference, sequence};

/// The largest of k x k pixels, channel by channel: y_bhwc = max over a, b' below k of x_b(hs + a)(ws + b')c.
///
/// x is (B, H, W, C), y is (B, H', W', C) with H' = (H - k) / s + 1 rounded down, and W' alike: PyTorch's
/// `MaxPool2d` without padding. The gradient goes to the first of equal pixels, row by row.
#[derive(Debug, Clone, Copy)]
pub struct MaxPool2d {
    /// Side k of a window.
    pub size: usize,
    /// Distance s between windows.
    pub stride: usize,
}

impl Module for MaxPool2d {
    /// (B, H, W, C) -> (B, H', W', C).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        sequence::single(x, *self, Mode::Eval)
    }
}

/// Sides of images and of what is pooled of them.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    images: usize,
    height: usize,
    width: usize,
    channels: usize,
    rows: usize,
    columns: usize,
}

impl MaxPool2d {
    /// The sizes of a pass over images of `dims`, if they fit.
    fn sizes(self, dims: &[usize]) -> Option<Sizes> {
        let &[images, height, width, channels] = dims else { return None };
        (self.size > 0 && self.stride > 0).then_some(())?;
        let windows = |side: usize| Some(side.checked_sub(self.size)? / self.stride + 1);
        let (rows, columns) = (windows(height)?, windows(width)?);
        Some(Sizes { images, height, width, channels, rows, columns })
    }

    /// The starts of the pixels of a window in its image, row by row.
    fn window(self, s: Sizes, row: usize, column: usize) -> impl Iterator<Item = usize> {
        let (top, left) = (row * self.stride, column * self.stride);
        let pixels = (0..self.size).flat_map(move |a| (0..self.size).map(move |b| (a, b)));
        pixels.map(move |(a, b)| ((top + a) * s.width + left + b) * s.channels)
    }
}

impl Kernel for MaxPool2d {
    const NAME: &'static str = "max-pool2d";

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        match self.sizes(dims) {
            Some(s) => Ok(vec![s.images, s.rows, s.columns, s.channels]),
            None => candle_core::bail!(
                "max-pool2d: windows of {0} x {0} pixels, {1} apart, do not fit images {dims:?}, (B, H, W, C)",
                self.size,
                self.stride
            ),
        }
    }

    fn on_device(&self, x: &Tensor, _: Pass<'_>) -> Result<Tensor> {
        reference::max_pool2d(x, self.size, self.stride)
    }

    fn forward<T: Real>(&self, Input { x, at, .. }: Input<'_, T>) -> Result<Vec<T>> {
        // `output` has seen these dimensions.
        let Some(s) = self.sizes(at.dims) else { return Ok(Vec::new()) };
        let piece = s.columns * s.channels;
        Ok(kernel::build(s.images * s.rows * piece, piece, |i, y| {
            let x = &x[i / s.rows * s.height * s.width * s.channels..];
            for (column, y) in y.chunks_exact_mut(s.channels).enumerate() {
                y.fill(T::from_f64(f64::NEG_INFINITY));
                for start in self.window(s, i % s.rows, column) {
                    for (y, &x) in y.iter_mut().zip(&x[start..]) {
                        // What is not a number wins, as in PyTorch.
                        if x > *y || x.wide().is_nan() {
                            *y = x;
                        }
                    }
                }
            }
        }))
    }

    fn backward<T: Real>(
        &self,
        Input { x, at, .. }: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let Some(s) = self.sizes(at.dims) else { return Gradients::default() };
        // Windows may overlap: an image is a piece.
        let (image, result) = (s.height * s.width * s.channels, s.rows * s.columns * s.channels);
        kernel::build(x.len(), image, |i, dx| {
            let (x, g) = (&x[i * image..], &g[i * result..(i + 1) * result]);
            for (place, g) in g.chunks_exact(s.channels).enumerate() {
                for (channel, &g) in g.iter().enumerate() {
                    let starts = self.window(s, place / s.columns, place % s.columns);
                    let largest = starts.map(|start| start + channel).reduce(|best, at| {
                        if x[at] > x[best] || x[at].wide().is_nan() { at } else { best }
                    });
                    if let Some(at) = largest {
                        dx[at] += g;
                    }
                }
            }
        })
        .into()
    }
}
