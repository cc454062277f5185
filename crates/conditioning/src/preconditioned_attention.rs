//! Sibling on attention: Preconditioned Attention.

use candle_core::{D, Module, Tensor};
use serde::{Deserialize, Serialize};

use crate::Result;

/// Gives every row of a head's output unit norm.
///
/// ```text
/// A' = C A,   A = softmax(Q K^T / sqrt(d)) V: (.., N, d),   C = diag(1 / (||A_i||_2 + eps)),   eps = 1e-8
/// ```
///
/// Source: Saratchandran, "Preconditioned Attention", AISTATS 2026
/// ([arXiv 2603.27153](https://arxiv.org/abs/2603.27153)): a diagonal matrix, dependent on Q, K and V,
/// from the left. That it is the inverse norm of the row and constant for the gradient is read off an
/// implementation by others. Known: the paper claims gains in vision and language; no tables were
/// available to us.
///
/// What we chose: that reading. dL/dA = C dL/dA'.
///
/// Causal: each row is scaled by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PreconditionedAttention;

impl PreconditionedAttention {
    /// A' of A: (.., N, d) -> the same shape; zero rows stay zero.
    ///
    /// # Errors
    ///
    /// Those of candle.
    pub fn forward(&self, attended: &Tensor) -> Result<Tensor> {
        let wide = crate::power::working_dtype(attended)?;
        let A = attended.to_dtype(wide)?;
        let norm = (A.detach().sqr()?.sum_keepdim(D::Minus1)?.sqrt()? + 1e-8)?; // (.., N, 1)
        Ok(A.broadcast_div(&norm)?.to_dtype(attended.dtype())?)
    }
}

impl Module for PreconditionedAttention {
    fn forward(&self, attended: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.forward(attended)?)
    }
}
