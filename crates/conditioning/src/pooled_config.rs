//! Settings of pooled conditioning.

use serde::{Deserialize, Serialize};

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

/// The default of [`PooledConfig::floor`].
///
/// Tokens often do not span their channels (UCI digits: rank 21 of 64). A step into a direction
/// that G has never seen is stretched by up to 1 + t / floor: with the [`TAU`](crate::TAU) of the
/// per-sequence method by millions, with this floor by hundreds.
pub const POOLED_FLOOR: f64 = 1e-3;

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
    /// the part t sigma_1 sigma_i / (floor sigma_1). Default [`POOLED_FLOOR`]. The bound (1 + t)/t holds over
    /// the directions above it; no token is stretched by more than 1 + t / floor. Raise it where the
    /// tokens do not span their channels (few patch pixels, few positions): then the next step moves
    /// them into directions that G has never seen.
    pub floor: f64,
}

impl Default for PooledConfig {
    fn default() -> Self {
        Self { strength: 1.0, source: Source::Earlier, momentum: 0.1, floor: POOLED_FLOOR }
    }
}
