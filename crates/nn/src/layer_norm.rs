//! Layer normalisation (Ba, Kiros & Hinton 2016).

use std::borrow::Cow;

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use crate::kernel::{self, Real};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, device, sequence};

/// Layer normalisation over the last dimension, with weight and bias:
/// y = (x - mean) / sqrt(var + eps) * weight + bias.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// A layer over given tensors, both (width,).
    pub fn from_tensors(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps }
    }

    /// A layer of `width` channels: `weight` (width,) starts at one, `bias` (width,) at zero.
    ///
    /// # Errors
    /// When the parameters cannot be created or have another shape.
    pub fn new(vb: VarBuilder, width: usize, eps: f64) -> Result<Self> {
        let weight = vb.get_with_hints(width, "weight", candle_nn::init::ONE)?;
        let bias = vb.get_with_hints(width, "bias", candle_nn::init::ZERO)?;
        Ok(Self { weight, bias, eps })
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        sequence::single(x, self.clone(), Mode::Eval)
    }
}

/// y = (x - mean) / sqrt(var + eps) * weight + bias over the last dimension.
///
/// `x` is (..., C), `weight` and `bias` are (C,); var is the biased variance, as in PyTorch.
///
/// # Errors
/// When shapes or dtypes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    x.apply(&LayerNorm::from_tensors(weight.clone(), bias.clone(), eps))
}

/// Mean and 1/sqrt(var + eps) of a row.
#[inline(always)]
fn statistics<T: Real>(x: &[T], eps: T) -> (T, T) {
    let scale = T::ONE / T::from_f64(x.len() as f64);
    let mean = kernel::sum_map(x, |v| v) * scale;
    let variance = kernel::sum_map(x, |v| (v - mean) * (v - mean)) * scale;
    (mean, T::ONE / (variance + eps).sqrt())
}

impl Kernel for LayerNorm {
    const NAME: &'static str = "layer-norm";

    fn parameters(&self, _: Mode) -> Vec<&Tensor> {
        vec![&self.weight, &self.bias]
    }

    fn output(&self, At { dims, .. }: At<'_>) -> Result<Vec<usize>> {
        let (weight, bias) = (self.weight.dims(), self.bias.dims());
        if weight.len() != 1 || dims.last() != weight.last() || weight != bias {
            candle_core::bail!(
                "layer-norm: input {dims:?}, weight {weight:?}, bias {bias:?} do not share the \
                 last dimension"
            );
        }
        Ok(dims.to_vec())
    }

    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        device::layer_norm(
            &pass.mode.precision().whole(x, &self.weight)?,
            &self.weight,
            &self.bias,
            self.eps,
        )
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let Input { x, parameters, at } = input;
        let (c, eps) = (at.rows().width, T::from_f64(self.eps));
        let (w, b) = (parameters[0], parameters[1]);
        Ok(kernel::map_rows(
            x,
            c,
            #[inline(always)]
            |x, y| {
                let (mean, r) = statistics(x, eps);
                for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(w).zip(b) {
                    *y = (x - mean) * r * w + b;
                }
            },
        ))
    }

    /// With n = (x - mean) r, r = 1/sqrt(var + eps) and h = g w:
    /// dx = r (h - mean(h) - n mean(h n)), dw = sum over rows of g n, db = sum over rows of g.
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
        let sums = kernel::for_pieces_with_sums(&mut dx, c, 2 * c, |start, dx, sums| {
            kernel::vectorised(
                #[inline(always)]
                || {
                    let (dw, db) = sums.split_at_mut(c);
                    for (x, g) in x[start..].chunks_exact(c).zip(dx.chunks_exact_mut(c)) {
                        let (mean, r) = statistics(x, eps);
                        for j in 0..c {
                            dw[j] += g[j] * (x[j] - mean) * r;
                            db[j] += g[j];
                            g[j] *= w[j];
                        }
                        let mean_h = kernel::sum_map(g, |h| h) * scale;
                        let mean_hn = kernel::sum_map2(g, x, |h, x| h * (x - mean)) * r * scale;
                        for j in 0..c {
                            let n = (x[j] - mean) * r;
                            g[j] = r * (g[j] - mean_h - n * mean_hn);
                        }
                    }
                },
            );
        });
        let (dw, db) = sums.split_at(c);
        Gradients { input: Some(dx), parameters: vec![dw.to_vec(), db.to_vec()] }
    }
}
