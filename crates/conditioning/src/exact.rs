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

use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{
    ComputeEigenvectors, SelfAdjointEvdParams, self_adjoint_evd, self_adjoint_evd_scratch,
};
use faer::linalg::matmul::{matmul, triangular};
use faer::{Accum, Auto, Mat, MatMut, MatRef, Par, Spec};

use crate::inverse_root::Reduced;
use crate::tridiagonal::Weaker;
use crate::{Error, Result};

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

/// From this size on the tridiagonal eigenproblem is divided and conquered; faer's own 128 is slower
/// by 3 to 12 % at sizes 128 to 256.
const DIVIDE: usize = 64;

/// Eigenvectors of a Gram matrix with the square roots of its eigenvalues.
pub(crate) struct Basis {
    /// E: (k, k), one eigenvector a column.
    E: Mat<f64>,
    /// sigma_i of column i; the largest is the last.
    sigma: Vec<f64>,
}

impl Basis {
    /// The basis of a Gram matrix, whose lower triangle is read.
    pub(crate) fn of_gram(G: MatRef<'_, f64>) -> Result<Self> {
        let (E, lambda) = eigen(G)?;
        // Rounding may leave an eigenvalue of a singular Gram matrix below zero.
        let sigma = lambda.into_iter().map(|l| l.max(0.0).sqrt()).collect();
        Ok(Self { E, sigma })
    }

    /// The left singular vectors and values of X: (k, m) with k <= m, G = X X^T.
    fn of_rows(X: MatRef<'_, f64>, G: MatRef<'_, f64>) -> Result<Self> {
        let mut basis = Self::of_gram(G)?;
        let floor = TAU * basis.spectral_norm();
        basis.refine(X, floor)?;
        Ok(basis)
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
        if W.norm_l2() <= floor {
            self.sigma[..weak].fill(0.0);
            return Ok(());
        }
        let mut inner = Self::of_gram(gram(W.as_ref(), 1.0).as_ref())?;
        inner.refine(W.as_ref(), floor)?;
        let rotated = self.E.subcols_mut(0, weak);
        matmul(rotated, Accum::Replace, &E, &inner.E, 1.0, Par::Seq);
        self.sigma[..weak].copy_from_slice(&inner.sigma);
        Ok(())
    }

    /// L = E diag(1 / max(sigma_i, tau sigma_1)) E^T, or `None` if every sigma is zero.
    pub(crate) fn inverse_root(&self, tau: f64) -> Option<Mat<f64>> {
        let floor = tau * self.spectral_norm();
        if floor == 0.0 {
            return None;
        }
        let k = self.sigma.len();
        let mut F = self.E.clone();
        for (i, &sigma) in self.sigma.iter().enumerate() {
            F.col_mut(i).iter_mut().for_each(|e| *e /= sigma.max(floor).sqrt());
        }
        let mut L = Mat::zeros(k, k);
        lower_product(L.as_mut(), F.as_ref(), F.transpose(), 1.0);
        for j in 1..k {
            for i in 0..j {
                L[(i, j)] = L[(j, i)];
            }
        }
        Some(L)
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
    let G = gram(X, 1.0);
    let reduced = Reduced::of(G.as_ref());
    let L = match reduced.and_then(|reduced| reduced.inverse_root(FADING, Weaker::Faded)) {
        Some((L, _)) => Some(L),
        None => Basis::of_gram(G.as_ref())?.inverse_root(FADING),
    };
    match L {
        Some(L) => matmul(Y, Accum::Replace, &L, X, 1.0, Par::Seq),
        None => Y.fill(0.0),
    }
    Ok(())
}

/// L of X: (k, m) with k <= m, and sigma_1; `None` for zero.
fn inverse_root_of_rows(X: MatRef<'_, f64>) -> Result<Option<(Mat<f64>, f64)>> {
    let G = gram(X, 1.0);
    let reduced = Reduced::of(G.as_ref());
    if let Some(found) = reduced.and_then(|reduced| reduced.inverse_root(LOST, Weaker::Refused)) {
        return Ok(Some(found));
    }
    let basis = Basis::of_rows(X, G.as_ref())?;
    Ok(basis.inverse_root(TAU).map(|L| (L, basis.spectral_norm())))
}

/// L = E diag(1 / max(sigma_i, floor sigma_1)) E^T of a Gram matrix alone, and sigma_1; `None` for
/// zero. Reads the lower triangle.
pub(crate) fn floored_inverse_root(
    G: MatRef<'_, f64>,
    floor: f64,
) -> Result<Option<(Mat<f64>, f64)>> {
    if let Some(reduced) = Reduced::of(G) {
        let found = reduced.inverse_root(floor.max(LOST), Weaker::Refused);
        return found.map_or_else(|| reduced.floored_inverse_root(floor), Ok).map(Some);
    }
    let basis = Basis::of_gram(G)?;
    Ok(basis.inverse_root(floor).map(|L| (L, basis.spectral_norm())))
}

/// The lower triangle of `alpha X X^T`, X: (k, m).
pub(crate) fn gram(X: MatRef<'_, f64>, alpha: f64) -> Mat<f64> {
    let mut G = Mat::zeros(X.nrows(), X.nrows());
    lower_product(G.as_mut(), X, X.transpose(), alpha);
    G
}

fn lower_product(C: MatMut<'_, f64>, A: MatRef<'_, f64>, B: MatRef<'_, f64>, alpha: f64) {
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

/// Eigenvectors and eigenvalues, the latter ascending.
fn eigen(G: MatRef<'_, f64>) -> Result<(Mat<f64>, Vec<f64>)> {
    let k = G.nrows();
    let (mut E, mut lambda) = (Mat::zeros(k, k), vec![0.0; k]);
    let parameters = eigen_parameters();
    let scratch =
        self_adjoint_evd_scratch::<f64>(k, ComputeEigenvectors::Yes, Par::Seq, parameters);
    self_adjoint_evd(
        G,
        DiagMut::from_slice_mut(&mut lambda),
        Some(E.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        parameters,
    )
    .map_err(|_| no_convergence(k))?;
    Ok((E, lambda))
}

/// How eigenproblems are solved.
pub(crate) fn eigen_parameters() -> Spec<SelfAdjointEvdParams, f64> {
    let mut parameters = <SelfAdjointEvdParams as Auto<f64>>::auto();
    parameters.recursion_threshold = DIVIDE;
    parameters.into()
}

/// The error of an eigenproblem of size k.
pub(crate) fn no_convergence(k: usize) -> Error {
    Error::NoConvergence { decomposition: "eigen decomposition", rows: k, columns: k }
}
