//! The gated GELU, GEGLU (Shazeer, "GLU Variants Improve Transformer", 2020).

use std::borrow::Cow;

use candle_core::{Result, Tensor};

use crate::gelu::{Gelu, gate, slope};
use crate::kernel::{self, Real};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, device, sequence};

/// y = a gelu(b) for x = (a, b), the halves of the last dimension: (..., 2H) -> (..., H).
///
/// The second half is the gate, as in Crammed BERT; the GELU is the exact one, [`Gelu::Erf`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatedGelu;

/// The gated GELU, (..., 2H) -> (..., H); see [`GatedGelu`].
///
/// # Errors
/// When the last dimension is odd or the dtype is not a float.
pub fn gated_gelu(x: &Tensor) -> Result<Tensor> {
    sequence::single(x, GatedGelu, Mode::Eval)
}

impl Kernel for GatedGelu {
    const NAME: &'static str = "gated-gelu";

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        match dims {
            [leading @ .., width] if width.is_multiple_of(2) => {
                Ok([leading, &[width / 2]].concat())
            }
            _ => candle_core::bail!(
                "gated-gelu: the last dimension of {dims:?} has no two halves; make it even"
            ),
        }
    }

    fn on_device(&self, x: &Tensor, _: Pass<'_>) -> Result<Tensor> {
        device::gated_gelu(x)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let (x, width) = (input.x, input.at.rows().width);
        let half = width / 2;
        let piece_rows = kernel::rows_per_piece(width);
        Ok(kernel::build(x.len() / 2, piece_rows * half, |i, y| {
            kernel::vectorised(
                #[inline(always)]
                || {
                    let rows = x[i * piece_rows * 2 * half..].chunks_exact(2 * half);
                    for (x, y) in rows.zip(y.chunks_exact_mut(half)) {
                        let (a, b) = x.split_at(half);
                        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                            *y = a * (b * gate(Gelu::Erf, b));
                        }
                    }
                },
            );
        }))
    }

    /// da = g gelu(b), db = g a gelu'(b).
    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let (x, width) = (input.x, input.at.rows().width);
        let half = width / 2;
        let piece_rows = kernel::rows_per_piece(width);
        let dx = kernel::build(x.len(), piece_rows * 2 * half, |i, dx| {
            kernel::vectorised(
                #[inline(always)]
                || {
                    let first = i * piece_rows;
                    let rows = x[first * 2 * half..].chunks_exact(2 * half);
                    let rows = rows.zip(g[first * half..].chunks_exact(half));
                    for ((x, g), dx) in rows.zip(dx.chunks_exact_mut(2 * half)) {
                        let ((a, b), (da, db)) = (x.split_at(half), dx.split_at_mut(half));
                        for (((da, &b), &g), db) in da.iter_mut().zip(b).zip(g).zip(&mut *db) {
                            *da = g * (b * gate(Gelu::Erf, b));
                            *db = g * slope(Gelu::Erf, b);
                        }
                        for (db, &a) in db.iter_mut().zip(a) {
                            *db *= a;
                        }
                    }
                },
            );
        });
        dx.into()
    }
}
