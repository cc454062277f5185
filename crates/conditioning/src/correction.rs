//! Y = X + C with both gradients.
//!
//! ```text
//! C = t sigma_1 U f(S) V^T,   f(sigma) = min(1, sigma / (tau sigma_1))
//! ```
//!
//! - `Detached`: C is a constant, dL/dX = dL/dY.
//! - `Full`: C is differentiated too. With G = dL/dY (k, m), k <= m, B = U^T G V and f of sigma_i
//!   written f_i,
//!
//! ```text
//! dL/dX = G + t sigma_1 U (K V^T + diag(f_i / sigma_i) (U^T G - B V^T)) + t q u_1 v_1^T
//! K_ij  = (f_i + f_j)/(sigma_i + sigma_j) (B_ij - B_ji)/2
//!       + (f_i - f_j)/(sigma_i - sigma_j) (B_ij + B_ji)/2
//! q     = sum of B_ii over sigma_i >= tau sigma_1
//! ```
//!
//! which at full rank is the derivative of sigma_1 times the polar factor: f_i = 1, so K_ij is
//! `(B_ij - B_ji) / (sigma_i + sigma_j)`. It is up to kappa(X) times larger in the weakest
//! directions, which is why C is detached by default; the paper does not say which it uses. Where
//! sigma_1 = sigma_2 the derivative does not exist and one of its one-sided values is returned.

use candle_core::{CpuStorage, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::blocks::{Block, Layout};
use crate::exact::{self, TAU};
use crate::host::map_blocks;
use crate::svd;

/// What flows back through the correction C.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gradient {
    /// Nothing, C is a constant: dL/dX = dL/dY.
    #[default]
    Detached,
    /// All of it: C is differentiated as a function of X.
    Full,
}

/// Y = X + C of every sequence, computed on the host: rows of padding keep their bits.
pub(crate) fn conditioned(x: &Tensor, mask: Option<&Tensor>, t: f64) -> Result<CpuStorage> {
    let layout = Layout::sequences(x, mask)?;
    map_blocks(["x"], [x], &layout, |[x]| condition(x, t))
}

/// f X of every sequence with f = ||X + C||_F / ||X||_F, computed on the host.
pub(crate) fn norm_matched(x: &Tensor, mask: Option<&Tensor>, t: f64) -> Result<CpuStorage> {
    let layout = Layout::sequences(x, mask)?;
    map_blocks(["x"], [x], &layout, |[x]| {
        let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let mut out = x.values().to_vec();
        let size = norm(&out);
        if size > 0.0 {
            let f = norm(&condition(x, t)?) / size;
            out.iter_mut().for_each(|v| *v *= f);
        }
        Ok(out)
    })
}

/// The entries of X + C, row by row.
fn condition(x: &Block, t: f64) -> Result<Vec<f64>> {
    let mut out = x.values().to_vec();
    let (n, d) = x.matrix().shape();
    let Y = MatMut::from_row_major_slice_mut(&mut out, n, d);
    exact::add_correction(x.matrix(), t, Y)?;
    Ok(out)
}

/// dL/dX = G + (dC/dX)^T G of every sequence, X and G: (B, N, d) or (N, d), computed on the host:
/// rows of padding keep the bits of G.
pub(crate) fn full_gradient(
    x: &Tensor,
    G: &Tensor,
    mask: Option<&Tensor>,
    t: f64,
) -> Result<CpuStorage> {
    let layout = Layout::sequences(x, mask)?;
    map_blocks(["x", "gradient"], [x, G], &layout, |[x, G]| {
        let mut out = G.values().to_vec();
        let (n, d) = x.matrix().shape();
        let D = MatMut::from_row_major_slice_mut(&mut out, n, d);
        if n <= d {
            add_derivative(x.matrix(), G.matrix(), t, D)?;
        } else {
            add_derivative(x.matrix().transpose(), G.matrix().transpose(), t, D.transpose_mut())?;
        }
        Ok(out)
    })
}

/// Adds (dC/dX)^T G to D, all (k, m) with k <= m.
fn add_derivative(
    X: MatRef<'_, f64>,
    G: MatRef<'_, f64>,
    t: f64,
    D: MatMut<'_, f64>,
) -> Result<()> {
    let svd::Svd { U, sigma, V } = svd::thin(X)?;
    let Some(&sigma_1) = sigma.first().filter(|&&sigma| sigma > 0.0) else {
        return Ok(());
    };
    let floor = TAU * sigma_1;
    let R = U.transpose() * G; // (k, m)
    let B = &R * &V; // (k, k)
    let inverse = |i: usize| 1.0 / sigma[i].max(floor); // f_i / sigma_i
    let mut K = Mat::from_fn(sigma.len(), sigma.len(), |i, j| {
        let (even, odd) = divided_differences(sigma[i], sigma[j], floor);
        // The last term replaces the part of U^T G inside the row space, see the module header.
        odd * (B[(i, j)] - B[(j, i)]) / 2.0 + even * (B[(i, j)] + B[(j, i)]) / 2.0
            - inverse(i) * B[(i, j)]
    });
    let q: f64 = (0..sigma.len()).filter(|&i| sigma[i] >= floor).map(|i| B[(i, i)]).sum();
    K[(0, 0)] += q / sigma_1;
    let mut inner = Mat::from_fn(R.nrows(), R.ncols(), |i, j| inverse(i) * R[(i, j)]);
    matmul(&mut inner, Accum::Add, &K, V.transpose(), 1.0, Par::Seq);
    matmul(D, Accum::Add, &U, &inner, t * sigma_1, Par::Seq);
    Ok(())
}

/// (f_i - f_j)/(a - b) and (f_i + f_j)/(a + b) for f(sigma) = min(1, sigma / floor).
fn divided_differences(a: f64, b: f64, floor: f64) -> (f64, f64) {
    let f = |sigma: f64| (sigma / floor).min(1.0);
    match (a < floor, b < floor) {
        (false, false) => (0.0, 2.0 / (a + b)),
        (true, true) => (1.0 / floor, 1.0 / floor),
        _ => ((f(a) - f(b)) / (a - b), (f(a) + f(b)) / (a + b)),
    }
}
