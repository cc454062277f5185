//! Patch merging (Liu et al. 2021): four neighbouring tokens become one.

use std::borrow::Cow;

use candle_core::{Module, Result, Tensor};

use crate::kernel::{self, Real};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, reference, sequence};

/// The channels of 2 x 2 tokens side by side: (B, H, W, C) -> (B, H/2, W/2, 4C).
///
/// The order is that of Swin (and timm): (row, column) = (0, 0), (1, 0), (0, 1), (1, 1).
#[derive(Debug, Clone, Copy)]
pub struct MergePatches;

impl Module for MergePatches {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        sequence::single(x, *self, Mode::Eval)
    }
}

/// The four tokens that make one, as (row, column), in the order of their channels.
const PARTS: [(usize, usize); 4] = [(0, 0), (1, 0), (0, 1), (1, 1)];

/// Width and channels of an image.
fn row(dims: &[usize]) -> (usize, usize) {
    match *dims {
        [.., width, channels] => (width, channels),
        _ => (0, 0),
    }
}

impl Kernel for MergePatches {
    const NAME: &'static str = "merge-patches";

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        match *dims {
            [b, h, w, c] if h % 2 == 0 && w % 2 == 0 => Ok(vec![b, h / 2, w / 2, 4 * c]),
            [_, h, w, _] => candle_core::bail!(
                "merge-patches: a grid of {h} x {w} tokens has an odd side; choose \
                 image and patch size so that it is even"
            ),
            _ => candle_core::bail!("merge-patches: input {dims:?} is not (B, H, W, C)"),
        }
    }

    fn on_device(&self, x: &Tensor, _: Pass<'_>) -> Result<Tensor> {
        reference::merge_patches(x)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let (x, (w, c)) = (input.x, row(input.at.dims));
        // A piece is one row of the result: two rows of the input.
        let piece = 2 * w * c;
        Ok(kernel::build(x.len(), piece, |i, y| {
            let x = &x[i * piece..];
            for (column, y) in y.chunks_exact_mut(4 * c).enumerate() {
                for ((a, b), y) in PARTS.into_iter().zip(y.chunks_exact_mut(c)) {
                    let start = (a * w + 2 * column + b) * c;
                    y.copy_from_slice(&x[start..start + c]);
                }
            }
        }))
    }

    /// The same tokens, back at their places.
    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let (w, c) = row(input.at.dims);
        let piece = 2 * w * c;
        kernel::build(g.len(), piece, |i, dx| {
            for (column, g) in g[i * piece..(i + 1) * piece].chunks_exact(4 * c).enumerate() {
                for ((a, b), g) in PARTS.into_iter().zip(g.chunks_exact(c)) {
                    let start = (a * w + 2 * column + b) * c;
                    dx[start..start + c].copy_from_slice(g);
                }
            }
        })
        .into()
    }
}
