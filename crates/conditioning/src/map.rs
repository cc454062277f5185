//! The matrix M that conditions tokens which have the Gram matrix G.
//!
//! ```text
//! M = I + t sigma_1 E diag(1 / max(sigma_i, floor sigma_1)) E^T,   G = E diag(sigma_i^2) E^T   (d, d)
//! ```
//!
//! G^(-1/2) comes from the eigenproblem. An iteration of products (coupled Polar Express on G, 25
//! products of (d, d) for kappa 1e3 and 12 more for sigma_1) would take 0.8 to 1.9 times as long in
//! f64 at sizes 65 to 256, reckoned from one product, and needs a known kappa: `docs/NUMERICS.md`.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use faer::{Mat, MatRef};

use crate::Result;
use crate::exact::Basis;
use crate::running::checked_finite;

/// M = I + t sigma_1 L of a Gram matrix (d, d) given row by row; symmetric to the bit, as L is.
pub(crate) fn inverse_root_map(
    name: &'static str,
    gram: &[f64],
    d: usize,
    t: f64,
    floor: f64,
) -> Result<Arc<Mat<f64>>> {
    checked_finite(name, gram)?;
    let basis = Basis::of_gram(MatRef::from_row_major_slice(gram, d, d))?;
    let mut M = Mat::identity(d, d);
    if let Some(L) = basis.inverse_root(floor) {
        M += faer::Scale(t * basis.spectral_norm()) * L;
    }
    Ok(Arc::new(M))
}

/// M: (d, d) as a tensor, f64 on the CPU.
pub(crate) fn tensor(M: &Mat<f64>) -> Result<Tensor> {
    let d = M.nrows();
    let values: Vec<f64> = (0..d * d).map(|at| M[(at / d, at % d)]).collect();
    Ok(Tensor::from_vec(values, (d, d), &Device::Cpu)?)
}
