//! `Conditioner`: Theorem 4.4 as a layer without parameters.

use candle_core::{Module, Tensor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::correction::{Gradient, conditioned};
use crate::iterative;
use crate::op::{Backward, attach};
use crate::polar::Polar;
use crate::{Error, Result};

/// Conditions every sequence by itself: Y = X + C, kappa(Y) <= (1 + t)/t.
///
/// ```text
/// X = U S V^T   (N, d)
/// C = t sigma_1 U f(S) V^T,   f(sigma) = min(1, sigma / (tau sigma_1)),   tau = 1e-7
/// Y = X + C                   singular values sigma_i + t sigma_1 f(sigma_i)
/// ```
///
/// The default is the theorem: t = 1, kappa(Y) <= 2, C a constant for the gradient. The bound holds
/// over the directions with sigma_i >= tau sigma_1; weaker ones, down to exact zeros, have no
/// reliable singular vectors and fade out. Every row of Y depends on the whole sequence: inside a
/// causal model this shows each token its future.
///
/// It is pure and has no state. How C is computed is a setting, [`Polar`]: in f64 on the host, which
/// is the default for tensors on the CPU, or by products on the device. The bits of a sequence do not
/// depend on its batch or on the number of threads, those of the exact way neither on padding that
/// is masked.
///
/// It serialises as `{"strength": 1.0, "gradient": "detached", "polar": "automatic"}`; missing fields take their default,
/// unknown ones and invalid strengths are errors.
///
/// Source: Saratchandran and Lucey, "Enhancing Transformers Through Conditioned Embedded Tokens",
/// ICCV 2025, Theorem 4.4; the strength t and the rule for degenerate directions are ours.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conditioner {
    #[serde(deserialize_with = "deserialize_strength")]
    strength: f64,
    gradient: Gradient,
    #[serde(deserialize_with = "deserialize_polar")]
    polar: Polar,
}

impl Default for Conditioner {
    fn default() -> Self {
        Self { strength: 1.0, gradient: Gradient::Detached, polar: Polar::Automatic }
    }
}

impl Conditioner {
    /// The same with another strength t; t = 0 leaves X as it is.
    ///
    /// # Errors
    ///
    /// A negative, NaN or infinite t.
    pub fn with_strength(self, t: f64) -> Result<Self> {
        Ok(Self { strength: checked_strength(t)?, ..self })
    }

    /// The same with another gradient.
    pub fn with_gradient(self, gradient: Gradient) -> Self {
        Self { gradient, ..self }
    }

    /// The same with another way to the polar factor.
    ///
    /// # Errors
    ///
    /// A tolerance outside (0, 1).
    pub fn with_polar(self, polar: Polar) -> Result<Self> {
        Ok(Self { polar: polar.checked()?, ..self })
    }

    /// t.
    pub fn strength(&self) -> f64 {
        self.strength
    }

    /// What flows back through C.
    pub fn gradient(&self) -> Gradient {
        self.gradient
    }

    /// The way to the polar factor.
    pub fn polar(&self) -> Polar {
        self.polar
    }

    /// The bound on kappa(Y): (1 + t)/t, infinite at t = 0.
    pub fn bound(&self) -> f64 {
        (1.0 + self.strength) / self.strength
    }

    /// Y = X + C, x: (B, N, d) or (N, d) -> the same shape.
    ///
    /// # Errors
    ///
    /// Another rank; a dtype other than f16, bf16, f32, f64; NaN or infinity in x, by position; a
    /// result beyond the range of the dtype; no convergence.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.condition(x, None)
    }

    /// Y = X + C over the real tokens; mask: (B, N) or (N,) u8, 1 = real.
    ///
    /// Padding takes no part and its rows come back bit for bit. The real rows have the bits of the
    /// same sequence without padding.
    ///
    /// # Errors
    ///
    /// Those of [`Conditioner::forward`], and a mask of another shape or dtype.
    pub fn forward_masked(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        self.condition(x, Some(mask))
    }

    fn condition(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        if self.strength == 0.0 {
            return Ok(x.clone());
        }
        let values = match self.polar.way(x) {
            Polar::Iterative { tolerance } => {
                let y = iterative::conditioned(x, mask, self.strength, tolerance)?;
                if self.gradient == Gradient::Detached {
                    return Ok(y);
                }
                // The derivative comes from the host whichever way the value came.
                iterative::host_storage(&y)?
            }
            Polar::Automatic | Polar::Exact => conditioned(x, mask, self.strength)?,
        };
        let backward = match self.gradient {
            Gradient::Detached => Backward::Identity,
            Gradient::Full => Backward::Correction { t: self.strength, mask: mask.cloned() },
        };
        attach(x, values, backward)
    }
}

impl Module for Conditioner {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.condition(x, None)?)
    }
}

/// t, if it is finite and not negative.
pub(crate) fn checked_strength(t: f64) -> Result<f64> {
    if t.is_finite() && t >= 0.0 { Ok(t) } else { Err(Error::Strength(t)) }
}

fn deserialize_strength<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    checked_strength(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn deserialize_polar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Polar, D::Error> {
    Polar::deserialize(deserializer)?.checked().map_err(serde::de::Error::custom)
}
