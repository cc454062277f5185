//! The iterative path to the polar factor: matrix products only, on the device of the tokens.
//!
//! ```text
//! P <- X / s,   s >= sigma_1                     (k, m), small side first
//! P <- a P + (b A + c A^2) P,   A = P P^T        for each (a, b, c) of the steps: P -> U V^T
//! C  = t s P
//! ```
//!
//! The steps are Polar Express polynomials for the interval [1e-6, 1] ([`express`]), the same ones
//! for every sequence. s is a bound on sigma_1 from above, at most 2e-3 too large, so that no
//! singular value starts beyond 1, where the polynomials would throw it away; C is then too large by
//! as much, which only lowers kappa(Y).
//!
//! It iterates on X itself and not on its Gram matrix, which in f32 resolves kappa to 3e3 only.
//! Directions below 1e-6 sigma_1 are lifted in proportion to sigma_i, as the exact path does below
//! tau; in f32 this includes the rounding of X, so that degenerate directions of f32 tokens get a
//! part of some percent of t sigma_1, in no direction in particular.

use candle_core::{CpuStorage, Storage, Tensor};

use crate::blocks::Layout;
use crate::express;
use crate::flat::restore;
use crate::host::each_block;
use crate::power::{Estimate, Rows, working_dtype};
use crate::{Error, Result};

/// The weakest direction that the steps are made for, in sigma_1.
const LOWEST: f64 = 1e-6;

/// Y = X + C with C a constant for the gradient, on the device of x: (B, N, d) or (N, d).
pub(crate) fn conditioned(
    x: &Tensor,
    mask: Option<&Tensor>,
    t: f64,
    tolerance: f64,
) -> Result<Tensor> {
    let dtype = working_dtype(x)?;
    let rows = Rows::new(x, mask, dtype)?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    let (P, top) = polar_of(&rows, tolerance)?;
    let C = as_stored(P.broadcast_mul(&((top * rows.scale)? * t)?)?, x)?;
    let y = (x.to_dtype(dtype)? + C)?;
    let y = restore(&y, x, mask)?;
    if x.device().is_cpu() {
        each_block("conditioned x", &y, &Layout::sequences(&y, mask)?, |_| Ok(()))?;
    }
    Ok(y)
}

/// U V^T of every matrix, on the device of x: (B, N, d) or (N, d).
pub(crate) fn polar_factor(x: &Tensor, tolerance: f64) -> Result<Tensor> {
    let rows = Rows::new(x, None, working_dtype(x)?)?;
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    let (P, _) = polar_of(&rows, tolerance)?;
    Ok(as_stored(P, x)?.to_dtype(x.dtype())?)
}

/// U V^T of the rows, (B, k, m), and a bound from above on their sigma_1, (B, 1, 1).
fn polar_of(rows: &Rows, tolerance: f64) -> Result<(Tensor, Tensor)> {
    let top = rows.top(Estimate::Above)?;
    let P = polar(&rows.values.broadcast_div(&(&top + 1e-30)?)?, tolerance)?;
    Ok((P, top))
}

/// A matrix with its small side first in the shape of x.
fn as_stored(P: Tensor, x: &Tensor) -> Result<Tensor> {
    let wide = matches!(x.dims(), [.., n, d] if n <= d);
    let P = if wide { P } else { P.t()?.contiguous()? };
    Ok(P.reshape(x.shape())?)
}

/// The values of a tensor on the host.
pub(crate) fn host_storage(y: &Tensor) -> Result<CpuStorage> {
    let y = y.detach().to_device(&candle_core::Device::Cpu)?.copy()?;
    let (storage, _) = y.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(storage.clone()),
        _ => Err(Error::Candle(candle_core::Error::msg("a CPU tensor without CPU storage"))),
    }
}

/// U V^T of P: (B, k, m) with sigma_1 <= 1.
fn polar(P: &Tensor, tolerance: f64) -> Result<Tensor> {
    let mut P = P.clone();
    for [a, b, c] in express::steps(LOWEST, tolerance) {
        let A = P.matmul(&P.t()?)?; // (B, k, k)
        let B = ((&A * b)? + (A.matmul(&A)? * c)?)?; // (B, k, k)
        P = ((&P * a)? + B.matmul(&P)?)?; // (B, k, m)
    }
    Ok(P)
}
