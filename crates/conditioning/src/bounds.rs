//! Proposition 4.2: what the condition number of tokens does to that of attention. Both sides.
//!
//! ```text
//! LA(X) = X W_Q W_K^T X^T X W_V              kappa <= kappa(W_Q) kappa(W_K) kappa(W_V) kappa(X)^3
//! A(X)  = softmax(X W_Q W_K^T X^T) X W_V     kappa <= kappa(softmax(..)) kappa(X) kappa(W_V)
//! ```
//!
//! X: (N, d) tokens; W_Q, W_K: (d, d_k); W_V: (d, d_v); softmax over each row; kappa over the
//! min(rows, columns) singular values.
//!
//! Source: Saratchandran and Lucey, ICCV 2025, Proposition 4.2.
//!
//! *Where it holds.* kappa(A B) <= kappa(A) kappa(B) needs an inner dimension through which no
//! direction is lost: true for N >= d with square, invertible weights, and not otherwise. For N < d
//! let X = [1 0] and W_Q W_K^T be skew-symmetric: LA(X) = 0. Random draws with N < d and d_k < d, the
//! shapes of ViT and BERT heads, miss the linear bound most of the time: `examples/bounds.rs`
//! counts. There it is a heuristic; so these functions report and do not assert.

use candle_core::Tensor;
use faer::{Mat, MatRef, Scale};

use crate::blocks::power_of_two_below_inverse;
use crate::host::matrix;
use crate::svd::singular_values;
use crate::{Error, Result};

/// Both sides of an inequality left <= right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// The condition number of the attention output; infinite if it is singular.
    pub left: f64,
    /// The product that is published as its bound; infinite if a factor is.
    pub right: f64,
    /// left / right: above 1 the bound is missed.
    pub ratio: f64,
}

impl Bound {
    /// Both sides, of which each may be infinite.
    pub fn new(left: f64, right: f64) -> Self {
        // Nothing exceeds an infinite bound.
        let ratio = if right.is_infinite() { 0.0 } else { left / right };
        Self { left, right, ratio }
    }
}

/// Both sides for linear attention X W_Q W_K^T X^T X W_V, in f64 on the host.
///
/// # Errors
///
/// Shapes that do not multiply; NaN or infinity, by position; no convergence.
pub fn linear_attention(x: &Tensor, w_q: &Tensor, w_k: &Tensor, w_v: &Tensor) -> Result<Bound> {
    let Operands { X, Q, K, V } = Operands::new(x, w_q, w_k, w_v)?;
    let left = kappa((&X * &Q * (K.transpose() * X.transpose()) * (&X * &V)).as_ref())?;
    let right = kappa(Q.as_ref())? * kappa(K.as_ref())? * kappa(V.as_ref())?;
    Ok(Bound::new(left, right * kappa(X.as_ref())?.powi(3)))
}

/// Both sides for softmax attention softmax(X W_Q W_K^T X^T) X W_V, in f64 on the host.
///
/// The paper proves it under a further assumption on the softmax matrix, which is not checked here.
/// There is no factor 1 / sqrt(d_k): put it into W_Q.
///
/// # Errors
///
/// Those of [`linear_attention`].
pub fn softmax_attention(x: &Tensor, w_q: &Tensor, w_k: &Tensor, w_v: &Tensor) -> Result<Bound> {
    let Operands { X, Q, K, V } = Operands::new(x, w_q, w_k, w_v)?;
    let P = softmax(&X * &Q * (K.transpose() * X.transpose())); // (N, N)
    let left = kappa((&P * &X * &V).as_ref())?;
    Ok(Bound::new(left, kappa(P.as_ref())? * kappa(X.as_ref())? * kappa(V.as_ref())?))
}

struct Operands {
    X: Mat<f64>,
    Q: Mat<f64>,
    K: Mat<f64>,
    V: Mat<f64>,
}

impl Operands {
    fn new(x: &Tensor, w_q: &Tensor, w_k: &Tensor, w_v: &Tensor) -> Result<Self> {
        let (X, Q) = (matrix("x", x)?, matrix("w_q", w_q)?);
        let (K, V) = (matrix("w_k", w_k)?, matrix("w_v", w_v)?);
        let d = X.ncols();
        let fits = |name, w: &Mat<f64>, columns| {
            if w.shape() == (d, columns) {
                return Ok(());
            }
            let expected = format!("[{d}, {columns}]");
            Err(Error::Shape { tensor: name, found: w.shape().into(), expected })
        };
        fits("w_q", &Q, Q.ncols())?;
        fits("w_k", &K, Q.ncols())?;
        fits("w_v", &V, V.ncols())?;
        Ok(Self { X, Q, K, V })
    }
}

/// Softmax of every row.
fn softmax(S: Mat<f64>) -> Mat<f64> {
    let top: Vec<f64> =
        (0..S.nrows()).map(|i| S.row(i).iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v))).collect();
    let E = Mat::from_fn(S.nrows(), S.ncols(), |i, j| (S[(i, j)] - top[i]).exp());
    let sum: Vec<f64> = (0..E.nrows()).map(|i| E.row(i).iter().sum()).collect();
    Mat::from_fn(E.nrows(), E.ncols(), |i, j| E[(i, j)] / sum[i])
}

fn kappa(X: MatRef<'_, f64>) -> Result<f64> {
    let scale = power_of_two_below_inverse(X.norm_max());
    let sigma = singular_values((X * Scale(scale)).as_ref())?;
    Ok(match (sigma.first(), sigma.last()) {
        (Some(&top), Some(&low)) if low > 0.0 => top / low,
        _ => f64::INFINITY,
    })
}
