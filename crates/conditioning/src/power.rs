//! The largest singular value by power iteration, without a starting vector.
//!
//! ```text
//! H = X X^T (small side first, k x k),   H <- H^2 / ||H^2||_F   up to 12 times:   P = H^q, q <= 4096
//! ||P||_F^(1/q)      in [lambda_1, lambda_1 k^(1/2q)]     a bound from above
//! tr(P H) / tr(P)    in [lambda_1 (1 - ln(k)/q), lambda_1]   the Rayleigh quotient of P
//! ```
//!
//! Squaring takes q steps in log2(q) products, for all starting vectors at once: none can be
//! orthogonal to what is sought. Both are exact to rounding unless singular values crowd within
//! 1e-3 of the first. Products only: it runs on every device.

use candle_core::{D, DType, Device, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par, Scale};

use crate::blocks::Layout;
use crate::host::each_block;
use crate::{Error, Result};

/// q = 2^SQUARINGS power steps.
const SQUARINGS: usize = 12;

/// sigma_1 of every sequence by power iteration: (B, N, d) -> (B,) and (N, d) -> (), on the device
/// of x. On the CPU it computes and returns f64, elsewhere f64 for f64 and f32 for the rest.
///
/// It never exceeds sigma_1 beyond rounding and falls short by at most ln(min(N, d)) / 8192,
/// relatively, where singular values crowd below the first; otherwise by rounding only.
/// [`Spectrum::spectral_norm`](crate::Spectrum::spectral_norm) is exact there too, and slower.
///
/// # Errors
///
/// Another rank or dtype; on the CPU NaN or infinity in x, by position. Other devices pass them on.
pub fn spectral_norm(x: &Tensor) -> Result<Tensor> {
    let leading = &x.dims()[..x.rank().saturating_sub(2)];
    if x.device().is_cpu() {
        let mut found = each_block("x", x, &Layout::sequences(x, None)?, |block| {
            Ok(rayleigh(block.matrix()) / block.scale)
        })?;
        // Sequences without tokens are no blocks.
        found.resize(leading.iter().product(), None);
        let values = found.into_iter().map(|top| top.unwrap_or(0.0)).collect::<Vec<_>>();
        return Ok(Tensor::from_vec(values, leading, &Device::Cpu)?);
    }
    let rows = Rows::new(x, None, working_dtype(x)?)?;
    Ok((rows.top(Estimate::Rayleigh)? * rows.scale)?.reshape(leading)?)
}

/// sigma_1 of X on the host.
fn rayleigh(X: MatRef<'_, f64>) -> f64 {
    let X = if X.nrows() <= X.ncols() { X } else { X.transpose() };
    let k = X.nrows();
    let mut H = Mat::zeros(k, k);
    matmul(&mut H, Accum::Replace, X, X.transpose(), 1.0, Par::Seq);
    let size = H.norm_l2();
    if size == 0.0 {
        return 0.0;
    }
    H *= Scale(1.0 / size);
    let trace = |A: &Mat<f64>| A.diagonal().column_vector().sum();
    let (mut P, mut next) = (H.clone(), Mat::zeros(k, k));
    for _ in 0..SQUARINGS {
        // Norm 1 and trace 1: P is one projector, and no power changes it.
        if trace(&P) < 1.0 + f64::EPSILON {
            break;
        }
        matmul(&mut next, Accum::Replace, &P, &P, 1.0, Par::Seq);
        let norm = next.norm_l2();
        std::mem::swap(&mut P, &mut next);
        P *= Scale(1.0 / norm);
    }
    let product: f64 = (0..k).map(|j| P.col(j).transpose() * H.col(j)).sum();
    (size * product / trace(&P)).sqrt()
}

/// The dtype that iterations compute in.
pub(crate) fn working_dtype(x: &Tensor) -> Result<DType> {
    match x.dtype() {
        DType::F64 => Ok(DType::F64),
        DType::F32 | DType::F16 | DType::BF16 => Ok(DType::F32),
        found => Err(Error::Dtype { tensor: "x", found, expected: "f16, bf16, f32 or f64" }),
    }
}

/// Which of the two values of the module header.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Estimate {
    Above,
    Rayleigh,
}

/// Token matrices with the small side first, scaled to a largest entry of 1.
pub(crate) struct Rows {
    /// X or X^T: (B, k, m), k <= m.
    pub(crate) values: Tensor,
    /// What they were divided by: (B, 1, 1).
    pub(crate) scale: Tensor,
    /// X X^T: (B, k, k).
    gram: Tensor,
}

impl Rows {
    /// Of x: (B, N, d) or (N, d), with rows of padding set to zero, in `dtype`.
    pub(crate) fn new(x: &Tensor, mask: Option<&Tensor>, dtype: DType) -> Result<Self> {
        working_dtype(x)?;
        let on_cpu = x.device().is_cpu();
        let layout = Layout::sequences(x, mask.filter(|_| on_cpu))?;
        if on_cpu {
            each_block("x", x, &layout, |_| Ok(()))?;
        }
        let x = match mask {
            Some(mask) => crate::flat::spread(mask, x)?.where_cond(x, &x.zeros_like()?)?,
            None => x.clone(),
        };
        let x = x.detach().to_dtype(dtype)?;
        let x = if x.rank() == 2 { x.unsqueeze(0)? } else { x };
        let (batch, n, d) = x.dims3()?; // (B, N, d)
        if batch * n * d == 0 {
            let one = Tensor::ones((batch, 1, 1), dtype, x.device())?;
            let gram = Tensor::zeros((batch, 1, 1), dtype, x.device())?;
            return Ok(Self { values: x, scale: one, gram });
        }
        let x = if n <= d { x } else { x.t()? }.contiguous()?; // (B, k, m)
        let scale = one_if_zero(&x.abs()?.flatten_from(1)?.max_keepdim(1)?.unsqueeze(2)?)?;
        let values = x.broadcast_div(&scale)?;
        let gram = values.matmul(&values.t()?)?; // (B, k, k)
        Ok(Self { values, scale, gram })
    }

    /// sigma_1 of the scaled values: (B, 1, 1), zero for zero ones.
    pub(crate) fn top(&self, estimate: Estimate) -> Result<Tensor> {
        let size = one_if_zero(&norm(&self.gram)?)?;
        let H = self.gram.broadcast_div(&size)?;
        let mut P = H.clone();
        // ln ||H^q||_F^(1/q), gathered on the way.
        let mut logarithm = Tensor::zeros_like(&size)?;
        for squaring in 1..=SQUARINGS {
            P = P.matmul(&P)?;
            let size = one_if_zero(&norm(&P)?)?;
            P = P.broadcast_div(&size)?;
            logarithm = (logarithm + (size.log()? * 0.5f64.powi(squaring as i32))?)?;
        }
        let lambda = match estimate {
            Estimate::Above => (logarithm.exp()? * norm(&H)?)?,
            Estimate::Rayleigh => {
                // tr(P H) / tr(P), with the diagonal of P taken by the identity.
                let eye = identity(P.dim(1)?, P.dtype(), P.device())?;
                let trace = one_if_zero(&total(&P.broadcast_mul(&eye)?)?)?;
                (total(&(&P * &H)?)? / trace)?
            }
        };
        Ok((lambda * size)?.sqrt()?)
    }
}

/// Sums over the last two dimensions: (B, k, k) -> (B, 1, 1).
fn total(x: &Tensor) -> Result<Tensor> {
    Ok(x.sum_keepdim(D::Minus1)?.sum_keepdim(D::Minus2)?)
}

fn norm(x: &Tensor) -> Result<Tensor> {
    Ok(total(&x.sqr()?)?.sqrt()?)
}

/// I (k, k), made on the device: `Tensor::eye` would copy it there.
pub(crate) fn identity(k: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let at = Tensor::arange(0u32, k as u32, device)?;
    Ok(at.unsqueeze(1)?.broadcast_eq(&at.unsqueeze(0)?)?.to_dtype(dtype)?)
}

/// x with ones for zeros, to divide by.
pub(crate) fn one_if_zero(x: &Tensor) -> Result<Tensor> {
    Ok((x + x.eq(&x.zeros_like()?)?.to_dtype(x.dtype())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_and_the_host_agree() -> Result<()> {
        // Deterministic entries without structure; 2 sequences on either side of square.
        for shape in [(2, 7, 12), (2, 12, 7)] {
            let values = (0..168).map(|i| f64::from(i * i * 37 % 101) - 50.0).collect::<Vec<_>>();
            let x = Tensor::from_vec(values, shape, &Device::Cpu)?;
            let rows = Rows::new(&x, None, DType::F64)?;
            let host = spectral_norm(&x)?.to_vec1::<f64>()?;
            for (estimate, above) in [(Estimate::Rayleigh, 0.0), (Estimate::Above, 2e-4)] {
                let found = (rows.top(estimate)? * &rows.scale)?.flatten_all()?.to_vec1::<f64>()?;
                for (found, host) in found.iter().zip(&host) {
                    assert!(*found >= host * (1.0 - 1e-12), "{found} {host}");
                    assert!(*found <= host * (1.0 + above + 1e-12), "{found} {host}");
                }
            }
        }
        Ok(())
    }
}
