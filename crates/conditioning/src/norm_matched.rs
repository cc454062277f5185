//! Control arm: the size of conditioned tokens without their conditioning.

use candle_core::{Module, Tensor};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::conditioner::Conditioner;
use crate::correction::norm_matched;
use crate::op::{Backward, attach};

/// Scales every sequence to the Frobenius norm that conditioning would give it.
///
/// ```text
/// Y = X + C',   C' = (f - 1) X,   f = ||X + C||_F / ||X||_F   (one number a sequence)
/// ```
///
/// with C that of the [`Conditioner`] it is made from. kappa(Y) = kappa(X): what it gains is owed to
/// the larger tokens, what only the conditioner gains is owed to their condition. C' is a constant
/// for the gradient, dL/dX = dL/dY, as C is. The scale depends on the whole sequence, so it is as
/// little causal as the conditioner.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NormMatched {
    conditioner: Conditioner,
}

impl NormMatched {
    /// The control of `conditioner`; its gradient choice has no effect here.
    pub fn new(conditioner: Conditioner) -> Self {
        Self { conditioner }
    }

    /// Strength t of the conditioner whose norm it matches.
    pub fn strength(&self) -> f64 {
        self.conditioner.strength()
    }

    /// Y = f X, x: (B, N, d) or (N, d) -> the same shape; zero sequences stay zero.
    ///
    /// # Errors
    ///
    /// Those of [`Conditioner::forward`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.scale(x, None)
    }

    /// Y = f X over the real tokens; mask: (B, N) or (N,) u8, 1 = real. Padding is left alone.
    ///
    /// # Errors
    ///
    /// Those of [`Conditioner::forward_masked`].
    pub fn forward_masked(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        self.scale(x, Some(mask))
    }

    fn scale(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        if self.conditioner.strength() == 0.0 {
            return Ok(x.clone());
        }
        let values = norm_matched(x, mask, self.conditioner.strength())?;
        attach(x, values, Backward::Identity)
    }
}

impl Module for NormMatched {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.scale(x, None)?)
    }
}
