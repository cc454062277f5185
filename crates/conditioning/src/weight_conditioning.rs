//! Sibling on weights: Weight Conditioning.

use candle_core::{D, Module, Tensor};
use serde::{Deserialize, Serialize};

use crate::Result;

/// Divides every row of a weight matrix by its norm.
///
/// ```text
/// W' = diag(1 / sqrt(||W_i||_2^2 + eps^2)) W,   W: (.., m, n), one row per output,   eps = 1e-8
/// ```
///
/// Source: Saratchandran, Wang, Lucey, "Weight Conditioning for Smooth Optimization of Neural
/// Networks", ECCV 2024 ([arXiv 2409.03424](https://arxiv.org/abs/2409.03424)): in every forward pass,
/// with W trainable and nothing to tune. Known: up to a constant it is the best diagonal
/// preconditioner (van der Sluis); applied to convolutions, ViT and NeRF, but no tables were
/// available to us.
///
/// What we chose: the gradient flows through the norms too, as in weight normalisation without
/// gain; eps, so that a zero row stays zero and has a finite gradient.
///
/// Causal: it touches weights only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WeightConditioning;

impl WeightConditioning {
    /// W' of W: (.., m, n) -> the same shape.
    ///
    /// # Errors
    ///
    /// Those of candle.
    pub fn forward(&self, weight: &Tensor) -> Result<Tensor> {
        // In f16 eps^2 would vanish; f32 holds it.
        let wide = crate::power::working_dtype(weight)?;
        let W = weight.to_dtype(wide)?;
        let norm = (W.sqr()?.sum_keepdim(D::Minus1)? + 1e-16)?.sqrt()?; // (.., m, 1)
        Ok(W.broadcast_div(&norm)?.to_dtype(weight.dtype())?)
    }
}

impl Module for WeightConditioning {
    fn forward(&self, weight: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.forward(weight)?)
    }
}
