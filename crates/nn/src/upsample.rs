//! Nearest up-sampling of channels-last images.

use std::borrow::Cow;

use candle_core::{Result, Tensor};

use crate::kernel::{self, Real};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, reference, sequence};

/// Images (B, H, W, C) brought to `height` x `width` pixels, each the nearest one that there is:
/// y_bhw = x_b(floor(h H / height))(floor(w W / width)).
///
/// PyTorch's `interpolate(size=(height, width), mode="nearest")`.
///
/// # Errors
/// When x is not (B, H, W, C) with pixels, a side is zero, or the dtype is not a float.
pub fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    sequence::single(x, Nearest { height, width }, Mode::Eval)
}

#[derive(Debug, Clone, Copy)]
struct Nearest {
    height: usize,
    width: usize,
}

/// Height, width and channels of the images.
fn image(dims: &[usize]) -> [usize; 3] {
    match *dims {
        [_, height, width, channels] => [height, width, channels],
        _ => [0; 3],
    }
}

impl Kernel for Nearest {
    const NAME: &'static str = "upsample-nearest";

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        match *dims {
            [b, h, w, c] if h * w * self.height * self.width > 0 => {
                Ok(vec![b, self.height, self.width, c])
            }
            _ => candle_core::bail!(
                "upsample-nearest: input {dims:?} to {} x {} pixels; it takes (B, H, W, C), no side of length 0",
                self.height,
                self.width
            ),
        }
    }

    fn on_device(&self, x: &Tensor, _: Pass<'_>) -> Result<Tensor> {
        reference::upsample_nearest(x, self.height, self.width)
    }

    fn forward<T: Real>(&self, Input { x, at, .. }: Input<'_, T>) -> Result<Vec<T>> {
        let ([h, w, c], piece) = (image(at.dims), self.width * image(at.dims)[2]);
        let len = x.len() / (h * w).max(1) * self.height * self.width;
        Ok(kernel::build(len, piece, |i, y| {
            let row = i / self.height * h + i % self.height * h / self.height;
            for (column, y) in y.chunks_exact_mut(c).enumerate() {
                let start = (row * w + column * w / self.width) * c;
                y.copy_from_slice(&x[start..start + c]);
            }
        }))
    }

    /// The sum over the pixels that a pixel became.
    fn backward<T: Real>(
        &self,
        Input { x, at, .. }: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let [h, w, c] = image(at.dims);
        let result = self.height * self.width * c;
        kernel::build(x.len(), h * w * c, |i, dx| {
            for (place, g) in g[i * result..(i + 1) * result].chunks_exact(c).enumerate() {
                let (row, column) = (place / self.width, place % self.width);
                let start = (row * h / self.height * w + column * w / self.width) * c;
                kernel::add(&mut dx[start..start + c], g);
            }
        })
        .into()
    }
}
