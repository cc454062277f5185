//! The rows of the heads of attention divided by their norms: Preconditioned Attention.

use std::borrow::Cow;

use candle_core::{Result, Tensor};

use crate::kernel::{self, Real, Rows};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, reference, sequence};

/// Added to the norm of a row.
pub const EPSILON: f64 = 1e-8;

/// y = x / (|x| + eps) for every row of every head, eps = 1e-8: (..., C) -> (..., C).
///
/// The last dimension is that of [`crate::Attention`], behind which this stands in a
/// [`crate::Sequence`]: `heads` rows of width D = C / heads side by side, |x| the Euclidean norm of one
/// of them. The norm is a constant for the gradient: dx = dy / (|x| + eps). A row of zeros, such as
/// attention gives to padding, stays one and gets no gradient.
///
/// Source: Saratchandran, "Preconditioned Attention", AISTATS 2026; see
/// `candle_conditioning::PreconditionedAttention` for what is read into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadNorm {
    /// Heads H.
    pub heads: usize,
}

/// Every row of every head over its norm; see [`HeadNorm`].
///
/// # Errors
/// When `heads` does not divide the last dimension or the dtype is not a float.
pub fn head_norm(x: &Tensor, heads: usize) -> Result<Tensor> {
    sequence::single(x, HeadNorm { heads }, Mode::Eval)
}

impl HeadNorm {
    /// Runs `work` on the rows of heads of `x` and what belongs to them in `out`, on all threads.
    fn for_rows<T: Real>(
        self,
        x: &[T],
        out: &mut [T],
        rows: Rows,
        work: impl Fn(&[T], &mut [T]) + Sync + Send,
    ) {
        let d = (rows.width / self.heads).max(1);
        let piece = kernel::rows_per_piece(rows.width) * rows.width;
        kernel::for_pieces(out, piece, |i, out| {
            let rows = x[i * piece..].chunks_exact(d).zip(out.chunks_exact_mut(d));
            rows.for_each(|(x, out)| work(x, out));
        });
    }
}

/// 1 / (|x| + eps) of a row, 0 of a row of zeros.
#[inline(always)]
fn inverse<T: Real>(x: &[T]) -> T {
    let norm = kernel::sum_map(x, |v| v * v).sqrt();
    if norm == T::ZERO { T::ZERO } else { T::ONE / (norm + T::from_f64(EPSILON)) }
}

impl Kernel for HeadNorm {
    const NAME: &'static str = "head-norm";

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        match dims {
            [.., width] if self.heads > 0 && width.is_multiple_of(self.heads) => Ok(dims.to_vec()),
            _ => candle_core::bail!(
                "head-norm: the last dimension of {dims:?} is not that of {} equal heads",
                self.heads
            ),
        }
    }

    fn on_device(&self, x: &Tensor, _: Pass<'_>) -> Result<Tensor> {
        reference::head_norm(x, self.heads)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let x = input.x;
        let mut y = x.to_vec();
        self.for_rows(x, &mut y, input.at.rows(), |x, y| {
            kernel::vectorised(
                #[inline(always)]
                || {
                    let r = inverse(x);
                    for y in y.iter_mut() {
                        *y *= r;
                    }
                },
            );
        });
        Ok(y)
    }

    /// dx = g / (|x| + eps).
    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let mut dx = g.into_owned();
        self.for_rows(input.x, &mut dx, input.at.rows(), |x, g| {
            kernel::vectorised(
                #[inline(always)]
                || {
                    let r = inverse(x);
                    for g in g.iter_mut() {
                        *g *= r;
                    }
                },
            );
        });
        dx.into()
    }
}
