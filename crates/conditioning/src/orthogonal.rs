//! The polar factor itself: U V^T of a matrix, which Muon takes for its update.

use candle_core::Tensor;
use faer::MatMut;

use crate::blocks::Layout;
use crate::host::{from_host, map_blocks};
use crate::{Polar, Result, exact, iterative};

/// U V^T of every matrix X = U S V^T in x: (B, N, d) or (N, d), without a gradient.
///
/// All singular values become 1: of all matrices with a spectral norm of at most 1, U V^T has the
/// largest inner product with X. So it is the steepest descent in the spectral norm, and what Muon
/// (Jordan et al. 2024) makes of the momentum of a weight matrix. Directions below sigma_1 / 1024 (`Exact`)
/// or 1e-6 sigma_1 (`Iterative`) get a part that falls to zero with sigma_i. That the exact way gives them
/// up earlier than for tokens, where the theorem asks for them, saves their eigenvectors: of a momentum they
/// are noise, and the five Newton-Schulz steps of other programs reach down to about 1/500 of its norm.
///
/// One step of Muon for a weight of a plain candle model:
///
/// ```
/// use candle_conditioning::{Polar, orthogonalise};
/// use candle_core::{Device, Tensor, Var};
///
/// # fn main() -> candle_core::Result<()> {
/// let weight = Var::randn(0f32, 0.02, (8, 4), &Device::Cpu)?;
/// let x = Tensor::randn(0f32, 1.0, (16, 4), &Device::Cpu)?;
/// let mut momentum = weight.zeros_like()?;
///
/// let loss = x.matmul(&weight.t()?)?.sqr()?.mean_all()?;
/// let grads = loss.backward()?;
/// let gradient = grads.get(&weight).ok_or_else(|| candle_core::Error::msg("no gradient"))?;
/// momentum = ((&momentum * 0.95)? + gradient)?;
/// let update = orthogonalise(&momentum, Polar::default())?;
/// weight.set(&(weight.as_tensor() - (&update * 0.02)?)?)?;
///
/// // Its columns are orthonormal.
/// let apart = (update.t()?.matmul(&update)? - Tensor::eye(4, update.dtype(), &Device::Cpu)?)?;
/// assert!(apart.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()? < 1e-5);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Another rank or dtype; a tolerance outside (0, 1); on the CPU NaN or infinity in x, by position.
pub fn orthogonalise(x: &Tensor, polar: Polar) -> Result<Tensor> {
    if let Polar::Iterative { tolerance } = polar.checked()?.way(x) {
        return iterative::polar_factor(&x.detach(), tolerance);
    }
    let values = map_blocks(["x"], [x], &Layout::sequences(x, None)?, |[x]| {
        let (n, d) = x.matrix().shape();
        let mut out = vec![0.0; n * d];
        exact::set_polar_factor(x.matrix(), MatMut::from_row_major_slice_mut(&mut out, n, d))?;
        // `map_blocks` divides by the scale of x; U V^T does not depend on it.
        out.iter_mut().for_each(|value| *value *= x.scale);
        Ok(out)
    })?;
    Ok(from_host(values, x)?)
}
