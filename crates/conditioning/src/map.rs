//! The matrix M that conditions tokens which have the Gram matrix G.
//!
//! ```text
//! M = I + t sigma_1 E diag(1 / max(sigma_i, floor sigma_1)) E^T,   G = E diag(sigma_i^2) E^T   (d, d)
//! ```
//!
//! G^(-1/2) comes from the tridiagonal form of G; if a direction that is not zero may lie below the floor or less than
//! nine times above it, from the eigenvectors.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use faer::{Mat, MatRef};

use crate::Result;
use crate::exact::floored_inverse_root;
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
    let G = MatRef::from_row_major_slice(gram, d, d);
    let Some((mut M, spectral_norm)) = floored_inverse_root(G, floor)? else {
        return Ok(Arc::new(Mat::identity(d, d)));
    };
    M *= faer::Scale(t * spectral_norm);
    for i in 0..d {
        M[(i, i)] += 1.0;
    }
    Ok(Arc::new(M))
}

/// M: (d, d) as a tensor, f64 on the CPU.
pub(crate) fn tensor(M: &Mat<f64>) -> Result<Tensor> {
    let d = M.nrows();
    let values: Vec<f64> = (0..d * d).map(|at| M[(at / d, at % d)]).collect();
    Ok(Tensor::from_vec(values, (d, d), &Device::Cpu)?)
}
