//! faer's singular value decomposition, serial and in f64.

use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, SvdParams, svd, svd_scratch};
use faer::{Auto, Mat, MatRef, Par};

use crate::{Error, Result};

/// X = U diag(sigma) V^T with thin factors, sigma descending.
pub(crate) struct Svd {
    pub(crate) U: Mat<f64>,
    pub(crate) sigma: Vec<f64>,
    pub(crate) V: Mat<f64>,
}

/// The singular values of X, largest first.
pub(crate) fn singular_values(X: MatRef<'_, f64>) -> Result<Vec<f64>> {
    Ok(decompose(X, ComputeSvdVectors::No)?.sigma)
}

/// The thin decomposition of X: (n, m) into U: (n, r), V: (m, r), r = min(n, m).
pub(crate) fn thin(X: MatRef<'_, f64>) -> Result<Svd> {
    decompose(X, ComputeSvdVectors::Thin)
}

fn decompose(X: MatRef<'_, f64>, vectors: ComputeSvdVectors) -> Result<Svd> {
    let (rows, columns) = X.shape();
    let rank = rows.min(columns);
    let kept = if vectors == ComputeSvdVectors::No { 0 } else { rank };
    let (mut U, mut V) = (Mat::zeros(rows, kept), Mat::zeros(columns, kept));
    let mut sigma = vec![0.0; rank];
    // By QR steps alone, at any size: faer's way of dividing larger matrices does not converge for some whose rows are all
    // alike, and has 5e-5 sigma_1 for zeros of others.
    let mut parameters = <SvdParams as Auto<f64>>::auto();
    parameters.recursion_threshold = usize::MAX;
    let parameters = parameters.into();
    let scratch = svd_scratch::<f64>(rows, columns, vectors, vectors, Par::Seq, parameters);
    svd(
        X,
        DiagMut::from_slice_mut(&mut sigma),
        (kept > 0).then_some(U.as_mut()),
        (kept > 0).then_some(V.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        parameters,
    )
    .map_err(|_| Error::NoConvergence {
        decomposition: "singular value decomposition",
        rows,
        columns,
    })?;
    Ok(Svd { U, sigma, V })
}
