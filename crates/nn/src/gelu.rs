//! The Gaussian error linear unit (Hendrycks & Gimpel 2016), exact form.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use crate::kernel::{self, Real};
use crate::reference;

/// y = x Phi(x) = x/2 (1 + erf(x / sqrt 2)), the form of ViT and BERT.
///
/// In `f32` on the CPU the absolute error is below 1e-6 max(1, |x|).
///
/// # Errors
/// When the dtype is not a float.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if !kernel::serves(x) {
        return reference::gelu(x);
    }
    x.contiguous()?.apply_op1(GeluOp)
}

/// Elements per parallel piece.
const PIECE: usize = 1 << 14;

/// Phi(x), the normal distribution function.
#[inline(always)]
fn phi<T: Real>(x: T) -> T {
    let half = T::from_f64(0.5);
    half + half * (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf()
}

/// d/dx x Phi(x) = Phi(x) + x phi(x), with phi the normal density.
#[inline(always)]
fn slope<T: Real>(x: T) -> T {
    let norm = 0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    let density = (T::from_f64(-0.5) * x * x).exp() * T::from_f64(norm);
    phi(x) + x * density
}

struct GeluOp;

impl CustomOp1 for GeluOp {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        kernel::dispatch!(x, self.name(), T => {
            let x: &[T] = kernel::slice(x, layout, self.name())?;
            let mut y = vec![T::ZERO; x.len()];
            kernel::for_pieces(&mut y, PIECE, |i, y| {
                let x = &x[i * PIECE..i * PIECE + y.len()];
                kernel::vectorised(
                    #[inline(always)]
                    || {
                        for (y, &x) in y.iter_mut().zip(x) {
                            *y = x * phi(x);
                        }
                    },
                );
            });
            kernel::output(y, layout.shape().clone())
        })
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.detach().apply_op2_no_bwd(&g.contiguous()?, &GeluGradOp)?))
    }
}

/// (x, g) -> g d/dx x Phi(x).
struct GeluGradOp;

impl CustomOp2 for GeluGradOp {
    fn name(&self) -> &'static str {
        "gelu-gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        kernel::dispatch!(x, self.name(), T => {
            let x: &[T] = kernel::slice(x, x_layout, self.name())?;
            let g: &[T] = kernel::slice(g, g_layout, self.name())?;
            let mut dx = vec![T::ZERO; x.len()];
            kernel::for_pieces(&mut dx, PIECE, |i, dx| {
                let range = i * PIECE..i * PIECE + dx.len();
                let (x, g) = (&x[range.clone()], &g[range]);
                kernel::vectorised(
                    #[inline(always)]
                    || {
                        for ((dx, &x), &g) in dx.iter_mut().zip(x).zip(g) {
                            *dx = g * slope(x);
                        }
                    },
                );
            });
            kernel::output(dx, x_layout.shape().clone())
        })
    }
}
