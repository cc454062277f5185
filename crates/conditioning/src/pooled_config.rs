//! Settings of pooled conditioning.

use serde::{Deserialize, Serialize};

use crate::TAU;

/// Which tokens the matrix M of a training step is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The running average over earlier batches: M knows nothing of this batch. Fit for causal
    /// models.
    #[default]
    Earlier,
    /// This batch; evaluation uses the running average. Every token depends on the whole batch, so
    /// a causal model would see its future.
    Current,
}

/// What the gradient of Y = X M = X + C takes as constant. Nothing flows through the statistics G
/// either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Constant {
    /// M: dL/dX = dL/dY M, the gradient of a linear layer. It is larger in weak directions, by up to
    /// 1 + t / floor.
    #[default]
    Matrix,
    /// C = X (M - I): dL/dX = dL/dY, as [`Gradient::Detached`](crate::Gradient::Detached) does.
    Correction,
}

/// Settings of [`Pooled`](crate::Pooled); missing fields take their default, unknown ones are errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PooledConfig {
    /// t >= 0. Default 1.
    pub strength: f64,
    /// Where training takes M from. Default [`Source::Earlier`].
    pub source: Source,
    /// The weight of a new observation in the running average, in (0, 1]. Default 0.1.
    pub momentum: f64,
    /// Where a direction counts as degenerate, in (0, 1]: with sigma_i < floor sigma_1 it gets only
    /// the part t sigma_1 sigma_i / (floor sigma_1). Default [`TAU`]. The bound (1 + t)/t holds over
    /// the directions above it; no token is stretched by more than 1 + t / floor. Raise it where the
    /// tokens do not span their channels (few patch pixels, few positions): then the next step moves
    /// them into directions that G has never seen.
    pub floor: f64,
    /// What the gradient takes as constant. Default [`Constant::Matrix`].
    pub constant: Constant,
}

impl Default for PooledConfig {
    fn default() -> Self {
        Self {
            strength: 1.0,
            source: Source::Earlier,
            momentum: 0.1,
            floor: TAU,
            constant: Constant::Matrix,
        }
    }
}
