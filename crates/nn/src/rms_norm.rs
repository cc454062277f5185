//! Root-mean-square normalisation (Zhang & Sennrich 2019).

use std::borrow::Cow;

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use crate::kernel::{self, Real};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, device, sequence};

/// Normalisation over the last dimension by the root mean square, with weight:
/// y = x / sqrt(mean(x^2) + eps) * weight.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// A layer over a given tensor, (width,).
    pub fn from_tensor(weight: Tensor, eps: f64) -> Self {
        Self { weight, eps }
    }

    /// A layer of `width` channels: `weight` (width,) starts at one.
    ///
    /// # Errors
    /// When the parameter cannot be created or has another shape.
    pub fn new(vb: VarBuilder, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: vb.get_with_hints(width, "weight", candle_nn::init::ONE)?, eps })
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        sequence::single(x, self.clone(), Mode::Eval)
    }
}

/// y = x / sqrt(mean(x^2) + eps) * weight over the last dimension.
///
/// `x` is (..., C), `weight` is (C,).
///
/// # Errors
/// When shapes or dtypes do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    x.apply(&RmsNorm::from_tensor(weight.clone(), eps))
}

/// 1/sqrt(mean(x^2) + eps) of a row.
#[inline(always)]
fn inverse<T: Real>(x: &[T], eps: T) -> T {
    let mean_square = kernel::sum_map(x, |v| v * v) / T::from_f64(x.len() as f64);
    T::ONE / (mean_square + eps).sqrt()
}

impl Kernel for RmsNorm {
    const NAME: &'static str = "rms-norm";

    fn parameters(&self, _: Mode) -> Vec<&Tensor> {
        vec![&self.weight]
    }

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        let weight = self.weight.dims();
        if weight.len() != 1 || dims.last() != weight.last() {
            candle_core::bail!(
                "rms-norm: input {dims:?} and weight {weight:?} do not share the last dimension"
            );
        }
        Ok(dims.to_vec())
    }

    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        device::rms_norm(&pass.mode.precision().whole(x, &self.weight)?, &self.weight, self.eps)
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let Input { x, parameters, at } = input;
        let (c, w, eps) = (at.rows().width, parameters[0], T::from_f64(self.eps));
        Ok(kernel::map_rows(
            x,
            c,
            #[inline(always)]
            |x, y| {
                let r = inverse(x, eps);
                for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                    *y = x * r * w;
                }
            },
        ))
    }

    /// With n = x r, r = 1/sqrt(mean(x^2) + eps) and h = g w:
    /// dx = r (h - n mean(h n)), dw = sum over rows of g n.
    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        _: Wanted<'_>,
    ) -> Gradients<T> {
        let Input { x, parameters, at } = input;
        let (c, eps) = (at.rows().width, T::from_f64(self.eps));
        let (w, scale) = (parameters[0], T::ONE / T::from_f64(c as f64));
        let mut dx = g.into_owned();
        let dw = kernel::for_pieces_with_sums(&mut dx, c, c, |start, dx, dw| {
            kernel::vectorised(
                #[inline(always)]
                || {
                    for (x, g) in x[start..].chunks_exact(c).zip(dx.chunks_exact_mut(c)) {
                        let r = inverse(x, eps);
                        for j in 0..c {
                            dw[j] += g[j] * x[j] * r;
                            g[j] *= w[j];
                        }
                        let mean_hn = kernel::sum_map2(g, x, |h, x| h * x) * r * scale;
                        for j in 0..c {
                            g[j] = r * (g[j] - x[j] * r * mean_hn);
                        }
                    }
                },
            );
        });
        Gradients { input: Some(dx), parameters: vec![dw] }
    }
}
