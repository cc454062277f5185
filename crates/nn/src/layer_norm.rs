//! Layer normalisation (Ba, Kiros & Hinton 2016) with a fused backward.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;

use crate::kernel::{self, Real};
use crate::reference;

/// Layer normalisation over the last dimension, with weight and bias.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
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

impl candle_core::Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// y = (x - mean) / sqrt(var + eps) * weight + bias over the last dimension.
///
/// `x` is (..., C), `weight` and `bias` are (C,); var is the biased variance, as in PyTorch.
///
/// # Errors
/// When shapes or dtypes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if !kernel::serves(x) {
        return reference::layer_norm(x, weight, bias, eps);
    }
    if weight.rank() != 1 || x.dims().last() != weight.dims().last() || weight.dims() != bias.dims()
    {
        candle_core::bail!(
            "layer_norm: input {:?}, weight {:?}, bias {:?} do not share the last dimension",
            x.dims(),
            weight.dims(),
            bias.dims()
        );
    }
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, LayerNormOp { eps })
}

/// Mean and 1/sqrt(var + eps) of a row.
#[inline(always)]
fn statistics<T: Real>(x: &[T], eps: T) -> (T, T) {
    let scale = T::ONE / T::from_f64(x.len() as f64);
    let mean = kernel::sum_map(x, |v| v) * scale;
    let variance = kernel::sum_map(x, |v| (v - mean) * (v - mean)) * scale;
    (mean, T::ONE / (variance + eps).sqrt())
}

struct LayerNormOp {
    eps: f64,
}

impl LayerNormOp {
    fn forward<T: Real>(&self, x: &[T], w: &[T], b: &[T]) -> Vec<T> {
        let (c, eps) = (w.len(), T::from_f64(self.eps));
        let piece = kernel::rows_per_piece(c) * c;
        let mut y = vec![T::ZERO; x.len()];
        kernel::for_pieces(&mut y, piece, |i, y| {
            kernel::vectorised(
                #[inline(always)]
                || {
                    let rows = x[i * piece..].chunks_exact(c);
                    for (x, y) in rows.zip(y.chunks_exact_mut(c)) {
                        let (mean, r) = statistics(x, eps);
                        for j in 0..c {
                            y[j] = (x[j] - mean) * r * w[j] + b[j];
                        }
                    }
                },
            );
        });
        y
    }
}

impl CustomOp3 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        kernel::dispatch!(x, self.name(), T => {
            let y = self.forward::<T>(
                kernel::slice(x, x_layout, self.name())?,
                kernel::slice(w, w_layout, self.name())?,
                kernel::slice(b, b_layout, self.name())?,
            );
            kernel::output(y, x_layout.shape().clone())
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _b: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let c = w.elem_count();
        let n = x.elem_count();
        let packed = x.detach().apply_op3_no_bwd(
            &w.detach(),
            &g.contiguous()?,
            &LayerNormGradOp { eps: self.eps },
        )?;
        let dx = packed.narrow(0, 0, n)?.reshape(x.shape())?;
        let dw = packed.narrow(0, n, c)?;
        let db = packed.narrow(0, n + c, c)?;
        Ok((Some(dx), Some(dw), Some(db)))
    }
}

/// (x, w, g) -> dx, dw and db, one after the other.
///
/// With n = (x - mean) r, r = 1/sqrt(var + eps) and h = g w:
/// dx = r (h - mean(h) - n mean(h n)), dw = sum over rows of g n, db = sum over rows of g.
struct LayerNormGradOp {
    eps: f64,
}

impl LayerNormGradOp {
    fn gradients<T: Real>(&self, x: &[T], w: &[T], g: &[T]) -> Vec<T> {
        let (c, eps) = (w.len(), T::from_f64(self.eps));
        let scale = T::ONE / T::from_f64(c as f64);
        let rows = kernel::rows_per_piece(c);
        let pieces = x.len().div_ceil(rows * c);
        // Each piece owns its rows of dx and a partial (dw, db); all in one buffer, so that the
        // pieces run in parallel and the partial sums are added in a fixed order.
        let stride = rows * c + 2 * c;
        let mut work = vec![T::ZERO; pieces * stride];
        kernel::for_pieces(&mut work, stride, |i, piece| {
            kernel::vectorised(
                #[inline(always)]
                || {
                    let (sums, dx) = piece.split_at_mut(2 * c);
                    let (dw, db) = sums.split_at_mut(c);
                    let range = i * rows * c..((i + 1) * rows * c).min(x.len());
                    let rows = x[range.clone()].chunks_exact(c).zip(g[range].chunks_exact(c));
                    for ((x, g), dx) in rows.zip(dx.chunks_exact_mut(c)) {
                        let (mean, r) = statistics(x, eps);
                        for j in 0..c {
                            let n = (x[j] - mean) * r;
                            dw[j] += g[j] * n;
                            db[j] += g[j];
                            dx[j] = g[j] * w[j];
                        }
                        let mean_h = kernel::sum_map(dx, |h| h) * scale;
                        let mean_hn = kernel::sum_map2(dx, x, |h, x| h * (x - mean)) * r * scale;
                        for j in 0..c {
                            let n = (x[j] - mean) * r;
                            dx[j] = r * (dx[j] - mean_h - n * mean_hn);
                        }
                    }
                },
            );
        });
        let mut out = Vec::with_capacity(x.len() + 2 * c);
        let mut sums = vec![T::ZERO; 2 * c];
        for (i, piece) in work.chunks_exact(stride).enumerate() {
            for (sum, &part) in sums.iter_mut().zip(piece) {
                *sum += part;
            }
            let len = (x.len() - i * rows * c).min(rows * c);
            out.extend_from_slice(&piece[2 * c..2 * c + len]);
        }
        out.extend_from_slice(&sums);
        out
    }
}

impl CustomOp3 for LayerNormGradOp {
    fn name(&self) -> &'static str {
        "layer-norm-gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        g: &CpuStorage,
        g_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        kernel::dispatch!(x, self.name(), T => {
            let out = self.gradients::<T>(
                kernel::slice(x, x_layout, self.name())?,
                kernel::slice(w, w_layout, self.name())?,
                kernel::slice(g, g_layout, self.name())?,
            );
            let shape = Shape::from(out.len());
            kernel::output(out, shape)
        })
    }
}
