//! Sibling on tokens: Token Graying.

use candle_core::{Module, Tensor};
use faer::{Mat, Scale};
use serde::{Deserialize, Deserializer, Serialize};

use crate::blocks::{Block, Layout};
use crate::host::map_blocks;
use crate::op::{Backward, attach};
use crate::running::checked_fraction;
use crate::{Result, svd};

/// Flattens the spectrum of every sequence by a power instead of a shift.
///
/// ```text
/// Svd:  X = U S V^T,           Y = sigma_1 U (S / sigma_1)^eps V^T     kappa(Y) = kappa(X)^eps
/// Dct:  F = D_N X D_d^T,       Y = D_N^T (m sign(F) (|F| / m)^eps) D_d,   m = max |F|
/// ```
///
/// X: (N, d) tokens; D_n: (n, n) the orthonormal cosine transform (DCT-II); eps in (0, 1], and
/// eps = 1 returns X up to rounding.
///
/// Source: Ji, Saratchandran, Moghadam, Lucey, "Always Skip Attention", ICCV 2025
/// ([arXiv 2505.01996](https://arxiv.org/abs/2505.01996)), there on raw tokens before the patch
/// embedding; defaults eps 0.6 (SVD) and 0.95 (DCT). Known: ViT-B on ImageNet-1k 81.0 -> 81.4 with
/// eps 0.6 and 0.7, back to 81.0 with 0.5: a lower kappa did not keep helping. The published times are
/// 6.3 times that of plain training for SVD, 1.01 times for DCT.
///
/// What we chose: the factors sigma_1 and m keep the scale of X, where the source normalises it away; the
/// amplification of the DCT form, which the source does not print, follows the SVD form; the change is
/// a constant for the gradient, dL/dX = dL/dY.
///
/// Not causal: every token comes to depend on the whole sequence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum TokenGraying {
    /// The power of the singular values.
    Svd {
        /// In (0, 1].
        #[serde(deserialize_with = "deserialize_epsilon")]
        epsilon: f64,
    },
    /// The power of the cosine coefficients.
    Dct {
        /// In (0, 1].
        #[serde(deserialize_with = "deserialize_epsilon")]
        epsilon: f64,
    },
}

impl TokenGraying {
    /// The SVD form with the published eps = 0.6.
    pub const SVD: Self = Self::Svd { epsilon: 0.6 };

    /// The DCT form with the published eps = 0.95.
    pub const DCT: Self = Self::Dct { epsilon: 0.95 };

    /// The power eps.
    pub fn epsilon(&self) -> f64 {
        let (Self::Svd { epsilon } | Self::Dct { epsilon }) = *self;
        epsilon
    }

    /// Checks what the type cannot: a value that was not read from a file may hold any eps.
    ///
    /// # Errors
    ///
    /// An eps outside (0, 1].
    pub fn validate(&self) -> Result<()> {
        checked_fraction("epsilon", self.epsilon())
    }

    /// Y of every sequence, x: (B, N, d) or (N, d) -> the same shape; zero sequences stay zero.
    ///
    /// # Errors
    ///
    /// An eps outside (0, 1]; another rank or dtype; NaN or infinity in x, by position; a result
    /// beyond the range of the dtype; no convergence.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.gray(x, None)
    }

    /// Y over the real tokens; mask: (B, N) or (N,) u8, 1 = real. Padding is left alone, and N of the
    /// DCT is the number of real tokens.
    ///
    /// # Errors
    ///
    /// Those of [`TokenGraying::forward`], and a mask of another shape or dtype.
    pub fn forward_masked(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        self.gray(x, Some(mask))
    }

    fn gray(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        self.validate()?;
        let epsilon = self.epsilon();
        let layout = Layout::sequences(x, mask)?;
        let [.., n, d] = *x.dims() else { return Ok(x.clone()) };
        let values = match self {
            Self::Svd { .. } => map_blocks(["x"], [x], &layout, |[x]| by_svd(x, epsilon))?,
            Self::Dct { .. } => {
                let (all, columns) = (cosines(n), cosines(d));
                map_blocks(["x"], [x], &layout, |[x]| {
                    let real = x.matrix().nrows();
                    // Padded sequences have lengths of their own.
                    let own = (real != n).then(|| cosines(real));
                    Ok(by_dct(x, own.as_ref().unwrap_or(&all), &columns, epsilon))
                })?
            }
        };
        attach(x, values, Backward::Identity)
    }
}

impl Module for TokenGraying {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.forward(x)?)
    }
}

fn by_svd(x: &Block, epsilon: f64) -> Result<Vec<f64>> {
    let svd::Svd { mut U, sigma, V } = svd::thin(x.matrix())?;
    let top = sigma.first().copied().filter(|&top| top > 0.0).unwrap_or(1.0);
    for (i, s) in sigma.iter().enumerate() {
        let powered = top * (s / top).powf(epsilon);
        U.col_mut(i).iter_mut().for_each(|u| *u *= powered);
    }
    Ok(row_major(&(U * V.transpose())))
}

fn by_dct(x: &Block, rows: &Mat<f64>, columns: &Mat<f64>, epsilon: f64) -> Vec<f64> {
    let mut F = rows * x.matrix() * columns.transpose();
    let top = F.norm_max();
    if top > 0.0 {
        for i in 0..F.nrows() {
            for f in F.row_mut(i).iter_mut() {
                *f = (f.abs() / top).powf(epsilon).copysign(*f);
            }
        }
    }
    row_major(&(rows.transpose() * (Scale(top) * F) * columns))
}

/// D_n: row k holds the cosines of frequency k at n points, orthonormal.
fn cosines(n: usize) -> Mat<f64> {
    let size = n as f64;
    Mat::from_fn(n, n, |k, i| {
        let weight = if k == 0 { 1.0 } else { 2.0 };
        let angle = std::f64::consts::PI * (i as f64 + 0.5) * k as f64 / size;
        (weight / size).sqrt() * angle.cos()
    })
}

fn row_major(Y: &Mat<f64>) -> Vec<f64> {
    let (n, d) = Y.shape();
    (0..n * d).map(|at| Y[(at / d, at % d)]).collect()
}

fn deserialize_epsilon<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let epsilon = f64::deserialize(deserializer)?;
    checked_fraction("epsilon", epsilon).map_err(serde::de::Error::custom)?;
    Ok(epsilon)
}
