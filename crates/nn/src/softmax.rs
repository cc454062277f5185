//! The softmax of scaled scores, with a mask, as one operation.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor};

use crate::kernel::{self, Reads, Real};
use crate::reference;

/// y = softmax(scale x) over the last dimension, among the entries that `mask` shows.
///
/// `mask` is u8, 1 where an entry is seen. It has the last dimension of `x`; the others are those
/// of `x`, one, or absent: (B, 1, 1, M) hides keys from all heads and queries of scores
/// (B, H, N, M). A hidden entry is exactly zero, and a row in which nothing is seen is all zeros,
/// never NaN. The mask is a constant.
///
/// ```
/// use candle_core::{Device, Tensor};
/// # fn main() -> candle_core::Result<()> {
/// let x = Tensor::new(&[[3f32, 3., 9.], [1., 2., 3.]], &Device::Cpu)?;
/// let mask = Tensor::new(&[[1u8, 1, 0], [0, 0, 0]], &Device::Cpu)?;
/// let y = conditioned_nn::softmax(&x, 0.5, Some(&mask))?;
/// assert_eq!(y.to_vec2::<f32>()?, [[0.5, 0.5, 0.], [0., 0., 0.]]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When `x` is a scalar, or the mask is not u8 or does not fit.
pub fn softmax(x: &Tensor, scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    let Some(&width) = x.dims().last() else {
        candle_core::bail!("softmax: a scalar has no last dimension");
    };
    let mask = mask.map(|mask| Seen::new(mask, x, width)).transpose()?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    if !kernel::serves(x) {
        return reference::softmax(x, scale, mask.as_ref().map(|seen| &seen.mask));
    }
    x.contiguous()?.apply_op1(SoftmaxOp { scale, mask })
}

/// A mask and where its rows lie for the rows of x.
struct Seen {
    mask: Tensor,
    /// The leading dimensions of x, each with the distance between its entries in the mask.
    strides: Vec<(usize, usize)>,
}

impl Seen {
    fn new(mask: &Tensor, x: &Tensor, width: usize) -> Result<Self> {
        let mask = mask.contiguous()?;
        let fits = mask.dtype() == DType::U8 && mask.dims().last() == Some(&width);
        let (true, Ok(broadcast)) = (fits, mask.broadcast_as(x.shape())) else {
            candle_core::bail!(
                "softmax: a mask {:?} of {:?} does not fit {:?}",
                mask.dims(),
                mask.dtype(),
                x.dims()
            );
        };
        let leading = &x.dims()[..x.rank() - 1];
        let strides = leading.iter().copied().zip(broadcast.stride().iter().copied()).collect();
        Ok(Self { mask, strides })
    }

    /// The first element of the mask for a row of x.
    fn start(&self, mut row: usize) -> usize {
        let mut start = 0;
        for &(size, stride) in self.strides.iter().rev() {
            start += row % size * stride;
            row /= size;
        }
        start
    }
}

struct SoftmaxOp {
    scale: f64,
    mask: Option<Seen>,
}

impl SoftmaxOp {
    fn forward<T: Real>(&self, x: &[T], width: usize) -> Result<Vec<T>> {
        let reads = Reads::of(self.mask.as_ref().map(|seen| &seen.mask));
        let mask = self.mask.as_ref().zip(reads.slices::<u8>(self.name())?.first().copied());
        let (scale, rows) = (T::from_f64(self.scale), kernel::rows_per_piece(width));
        Ok(kernel::build(x.len(), rows * width, |i, y| {
            kernel::vectorised(
                #[inline(always)]
                || {
                    let x = x[i * rows * width..].chunks_exact(width);
                    for (j, (y, x)) in y.chunks_exact_mut(width).zip(x).enumerate() {
                        match mask {
                            None => row(y, x, scale),
                            Some((seen, mask)) => {
                                let start = seen.start(i * rows + j);
                                masked_row(y, x, scale, &mask[start..start + width]);
                            }
                        }
                    }
                },
            );
        }))
    }

    /// dx = scale y (g - sum(g y)): zero wherever y is.
    fn backward<T: Real>(&self, y: &Tensor, g: &Tensor) -> Result<Tensor> {
        let reads = Reads::of([y, g]);
        let slices = reads.slices::<T>(self.name())?;
        let (shape, width) = (y.shape(), y.dims()[y.rank() - 1]);
        let (y, g) = (slices[0], slices[1]);
        let (scale, piece) = (T::from_f64(self.scale), kernel::rows_per_piece(width) * width);
        let dx = kernel::build(y.len(), piece, |i, dx| {
            kernel::vectorised(
                #[inline(always)]
                || {
                    let y = y[i * piece..].chunks_exact(width);
                    let rows = y.zip(g[i * piece..].chunks_exact(width));
                    for (dx, (y, g)) in dx.chunks_exact_mut(width).zip(rows) {
                        let inner = kernel::sum_map2(y, g, |y, g| y * g);
                        for ((dx, &y), &g) in dx.iter_mut().zip(y).zip(g) {
                            *dx = scale * y * (g - inner);
                        }
                    }
                },
            );
        });
        Tensor::from_vec(dx, shape, &Device::Cpu)
    }
}

/// y = softmax(scale x).
#[inline(always)]
fn row<T: Real>(y: &mut [T], x: &[T], scale: T) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * scale;
    }
    kernel::softmax_in_place(y);
}

/// y = softmax(scale x) among the seen entries.
#[inline(always)]
fn masked_row<T: Real>(y: &mut [T], x: &[T], scale: T, seen: &[u8]) {
    let hidden = T::from_f64(f64::NEG_INFINITY);
    for ((y, &x), &seen) in y.iter_mut().zip(x).zip(seen) {
        *y = if seen != 0 { x * scale } else { hidden };
    }
    let max = kernel::maximum(y);
    for (y, &seen) in y.iter_mut().zip(seen) {
        // The exponential of -inf is not zero in every precision, and NaN when nothing is seen.
        let e = (*y - max).exp();
        *y = if seen != 0 { e } else { T::ZERO };
    }
    let sum = kernel::sum_map(y, |v| v);
    let scale = if sum == T::ZERO { T::ZERO } else { T::ONE / sum };
    for y in y.iter_mut() {
        *y *= scale;
    }
}

impl CustomOp1 for SoftmaxOp {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.dims()[layout.dims().len() - 1];
        kernel::dispatch!(x, self.name(), T => {
            let x = kernel::slice::<T>(x, layout, self.name())?;
            kernel::output(self.forward(x, width)?, layout.shape().clone())
        })
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let g = g.contiguous()?;
        let dx = match x.dtype() {
            DType::F32 => self.backward::<f32>(y, &g)?,
            _ => self.backward::<f64>(y, &g)?,
        };
        Ok(Some(dx))
    }
}
