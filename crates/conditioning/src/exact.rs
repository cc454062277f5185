//! The exact path to the polar factor: the inverse root of the small Gram matrix, in f64.
//!
//! ```text
//! X = U S V^T,   C = t sigma_1 U f(S) V^T,   f(sigma) = min(1, sigma / (tau sigma_1))
//! ```
//!
//! With the small side first (k = min(N, d) rows; transpose if N > d), `G = X X^T = E S^2 E^T` and
//!
//! ```text
//! C = t sigma_1 L X,   L = E diag(1 / max(sigma_i, tau sigma_1)) E^T   (k, k)
//! ```
//!
//! If sigma_min >= sigma_1 / 4096, then L = G^(-1/2), which `inverse_root` finds without E. Else the
//! eigenvectors are needed. A Gram matrix squares the condition number: near `1e-8 sigma_1` its
//! eigenvalues are nothing but rounding. The tokens themselves still hold the digits. So the weaker
//! part of the basis is projected out of X, where it is large compared with its own rounding, and
//! gets an eigenproblem of its own, and so on. Down to `tau sigma_1` the error of C then stays
//! below 1e-7. (A Newton-Schulz step would restore those directions too, but it would also lift the
//! degenerate ones, which f leaves alone.)

use faer::linalg::matmul::{matmul, triangular};
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::Result;
use crate::inverse_root::{Reduced, by_columns, mirror};
use crate::tridiagonal::Weaker;

/// Where a direction counts as degenerate: sigma_i < tau sigma_1. The resolution of f32 storage.
pub const TAU: f64 = 1e-7;

/// With sigma_min < LOST sigma_1 a basis is needed and solved again in its weaker part: at the fraction
/// r the eigenvalues of a Gram matrix are good to 1e-16 / r^2, here 2e-9.
const LOST: f64 = 1.0 / 4096.0;

/// Down to here U V^T has its directions whole, in sigma_1. The weaker they may be, the smaller is the
/// smallest shift of the sum of inverses, and the larger its rounding: 5e-7 here, 5e-5 at LOST.
const FADING: f64 = 1.0 / 1024.0;

/// The weaker part: sigma_i < WEAK sigma_1. Rounding mixes directions a > b by 1e-16 sigma_1^2 / (a b),
/// which nothing undoes if they come to lie on different sides: 2e-8 for a = WEAK, b = tau.
const WEAK: f64 = 1.0 / 16.0;

/// Eigenvalues below this fraction of the largest count as zero, if directions below a floor of LOST or more have one
/// weight: that moves L by NEGLIGIBLE / (2 floor^2) of its norm at most. Tokens of rank r in f32 leave 1e-15.
const NEGLIGIBLE: f64 = 1e-14;

/// Eigenvectors of a Gram matrix with the square roots of its eigenvalues.
pub(crate) struct Basis {
    /// E: (k, k), one eigenvector a column.
    E: Mat<f64>,
    /// sigma_i of column i; the largest is the last.
    sigma: Vec<f64>,
}

impl Basis {
    /// The basis of a Gram matrix.
    pub(crate) fn of(gram: &Reduced) -> Result<Self> {
        let (E, sigma) = gram.basis()?;
        Ok(Self { E, sigma })
    }

    /// sigma_1.
    pub(crate) fn spectral_norm(&self) -> f64 {
        self.sigma.last().copied().unwrap_or(0.0)
    }

    /// Solves the weaker part again, from X instead of its Gram matrix, if it has lost its digits.
    ///
    /// Below `floor` every direction has the same weight in L, so that it matters no more how they
    /// are mixed.
    fn refine(&mut self, X: MatRef<'_, f64>, floor: f64) -> Result<()> {
        let top = self.spectral_norm();
        if top <= floor || self.sigma[0] >= LOST * top {
            return Ok(());
        }
        let weak = self.sigma.partition_point(|&sigma| sigma < WEAK * top);
        let E = self.E.subcols(0, weak).to_owned();
        let mut W = Mat::zeros(weak, X.ncols());
        matmul(&mut W, Accum::Replace, E.transpose(), X, 1.0, Par::Seq);
        let G = gram(W.as_ref(), 1.0);
        // The Frobenius norm of W.
        if G.diagonal().column_vector().iter().sum::<f64>().sqrt() <= floor {
            self.sigma[..weak].fill(0.0);
            return Ok(());
        }
        let Some(gram) = Reduced::of(G.as_ref(), 0.0) else { return Ok(()) };
        let mut inner = Self::of(&gram)?;
        inner.refine(W.as_ref(), floor)?;
        let rotated = self.E.subcols_mut(0, weak);
        matmul(rotated, Accum::Replace, &E, &inner.E, 1.0, Par::Seq);
        self.sigma[..weak].copy_from_slice(&inner.sigma);
        Ok(())
    }

    /// L = E diag(1 / max(sigma_i, floor sigma_1)) E^T, symmetric to the bit.
    pub(crate) fn inverse_root(mut self, floor: f64) -> Mat<f64> {
        let floor = floor * self.spectral_norm();
        for (e, &sigma) in self.E.col_iter_mut().zip(&self.sigma) {
            let weight = sigma.max(floor).sqrt().recip();
            e.iter_mut().for_each(|e| *e *= weight);
        }
        let E = &self.E;
        let mut L = Mat::zeros(E.nrows(), E.nrows());
        by_columns(L.as_mut(), 0, &|at, L| {
            let F = E.subrows(at, L.ncols());
            let (above, L) = L.split_at_row_mut(at);
            matmul(above, Accum::Replace, E.subrows(0, at), F.transpose(), 1.0, Par::Seq);
            lower_product(L.subrows_mut(0, F.nrows()).transpose_mut(), F, F.transpose(), 1.0);
        });
        mirror(&mut L);
        L
    }
}

/// Adds C to Y, which holds X when called: Y = X + t sigma_1 U f(S) V^T, X: (N, d).
pub(crate) fn add_correction(X: MatRef<'_, f64>, t: f64, Y: MatMut<'_, f64>) -> Result<()> {
    let wide = X.nrows() <= X.ncols();
    let (X, Y) = if wide { (X, Y) } else { (X.transpose(), Y.transpose_mut()) };
    if let Some((L, spectral_norm)) = inverse_root_of_rows(X)? {
        matmul(Y, Accum::Add, &L, X, t * spectral_norm, Par::Seq);
    }
    Ok(())
}

/// Sets Y to U f(S) V^T, X: (N, d), with f = 1 down to FADING sigma_1 and falling to zero below; to zero
/// for X = 0.
pub(crate) fn set_polar_factor(X: MatRef<'_, f64>, Y: MatMut<'_, f64>) -> Result<()> {
    let wide = X.nrows() <= X.ncols();
    let (X, mut Y) = if wide { (X, Y) } else { (X.transpose(), Y.transpose_mut()) };
    let Some(gram) = Reduced::of(gram(X, 1.0).as_ref(), 0.0) else {
        Y.fill(0.0);
        return Ok(());
    };
    let L = match gram.inverse_root(FADING, Weaker::Faded) {
        Some((L, _)) => L,
        None => Basis::of(&gram)?.inverse_root(FADING),
    };
    matmul(Y, Accum::Replace, &L, X, 1.0, Par::Seq);
    Ok(())
}

/// L of X: (k, m) with k <= m, and sigma_1; `None` for zero.
fn inverse_root_of_rows(X: MatRef<'_, f64>) -> Result<Option<(Mat<f64>, f64)>> {
    let Some(gram) = Reduced::of(gram(X, 1.0).as_ref(), 0.0) else { return Ok(None) };
    if let Some(found) = gram.inverse_root(LOST, Weaker::Refused) {
        return Ok(Some(found));
    }
    let mut basis = Basis::of(&gram)?;
    let spectral_norm = basis.spectral_norm();
    basis.refine(X, TAU * spectral_norm)?;
    Ok(Some((basis.inverse_root(TAU), spectral_norm)))
}

/// L = E diag(1 / max(sigma_i, floor sigma_1)) E^T of a Gram matrix alone, and sigma_1; `None` for
/// zero. Reads the lower triangle.
pub(crate) fn floored_inverse_root(
    G: MatRef<'_, f64>,
    floor: f64,
) -> Result<Option<(Mat<f64>, f64)>> {
    let (negligible, weaker) = match floor < LOST {
        true => (0.0, Weaker::Refused),
        false => (NEGLIGIBLE, Weaker::Floored(NEGLIGIBLE)),
    };
    let Some(gram) = Reduced::of(G, negligible) else { return Ok(None) };
    if let Some(found) = gram.inverse_root(floor.max(LOST), weaker) {
        return Ok(Some(found));
    }
    let basis = Basis::of(&gram)?;
    let spectral_norm = basis.spectral_norm();
    Ok(Some((basis.inverse_root(floor), spectral_norm)))
}

/// The lower triangle of `alpha X X^T`, X: (k, m).
pub(crate) fn gram(X: MatRef<'_, f64>, alpha: f64) -> Mat<f64> {
    let mut G = Mat::zeros(X.nrows(), X.nrows());
    lower_product(G.as_mut(), X, X.transpose(), alpha);
    G
}

pub(crate) fn lower_product(
    C: MatMut<'_, f64>,
    A: MatRef<'_, f64>,
    B: MatRef<'_, f64>,
    alpha: f64,
) {
    use triangular::BlockStructure::{Rectangular, TriangularLower};
    triangular::matmul(
        C,
        TriangularLower,
        Accum::Replace,
        A,
        Rectangular,
        B,
        Rectangular,
        alpha,
        Par::Seq,
    );
}

#[cfg(test)]
mod tests {
    use faer::Side;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Of the norm of L: what counts as zero moves it by 5e-9.
    const TOLERANCE: f64 = 1e-8;

    const FLOOR: f64 = 1e-3;

    /// G = E diag(sigma^2) E^T with random E.
    fn gram_of(rng: &mut ChaCha8Rng, sigma: &[f64]) -> Mat<f64> {
        let k = sigma.len();
        let E = Mat::from_fn(k, k, |_, _| rng.random_range(-1.0..1.0)).qr().compute_Q();
        let D = Mat::from_fn(k, k, |i, j| if i == j { sigma[i] * sigma[i] } else { 0.0 });
        &E * D * E.transpose()
    }

    /// The definition of L.
    fn defined(G: &Mat<f64>) -> Mat<f64> {
        let evd = G.self_adjoint_eigen(Side::Lower).unwrap();
        let lambda = evd.S().column_vector();
        let top = lambda.iter().copied().fold(0.0, f64::max);
        let k = G.nrows();
        let D = Mat::from_fn(k, k, |i, j| match i == j {
            true => lambda[i].max(FLOOR * FLOOR * top).sqrt().recip(),
            false => 0.0,
        });
        evd.U() * D * evd.U().transpose()
    }

    #[test]
    fn directions_that_tokens_do_not_have_get_the_weight_of_the_floor() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for k in [5, 20, 61, 200] {
            for rank in [1, 2, k / 2, k - 1, k] {
                // Well above the floor, close above it, and below.
                for weakest in [0.1, 1.5 * FLOOR, 0.2 * FLOOR] {
                    let part = |i: usize| i as f64 / (rank - 1).max(1) as f64;
                    let sigma = (0..k).map(|i| if i < rank { weakest.powf(part(i)) } else { 0.0 });
                    let G = gram_of(&mut rng, &sigma.collect::<Vec<_>>());
                    let (L, spectral_norm) =
                        floored_inverse_root(G.as_ref(), FLOOR).unwrap().unwrap();
                    assert!((spectral_norm - 1.0).abs() < TOLERANCE);
                    let error = (&L - defined(&G)).norm_max() * FLOOR;
                    assert!(error < TOLERANCE, "{k}, rank {rank}, {weakest}: {error:e}");
                    assert_eq!(L, L.transpose());
                    // faer's own eigenproblem of so small a matrix would be wrong.
                    let small = G * faer::Scale(2f64.powi(-100));
                    let (found, _) = floored_inverse_root(small.as_ref(), FLOOR).unwrap().unwrap();
                    let error = (found * faer::Scale(2f64.powi(-50)) - L).norm_max() * FLOOR;
                    assert!(error < TOLERANCE, "{k}, rank {rank}, {weakest}, small: {error:e}");
                }
            }
        }
    }
}
