//! The learning rate along a run: linear warm-up, then half a cosine down to a floor.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// Linear warm-up, then a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983) to a floor.
///
/// With `T` steps in all and `w = round(warmup T)`, the rate of step `s = 0, 1, ..., T - 1` is
///
/// ```text
/// s <  w:  peak (s + 1) / (w + 1)
/// s >= w:  peak (floor + (1 - floor) (1 + cos(pi (s - w) / (T - w))) / 2)
/// ```
///
/// so the first step already moves, step `w` has the peak, and the floor would be reached at step
/// `T`, the first that is not taken (the form of nanoGPT's `get_lr`). A floor of 1 is a constant
/// rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The highest rate.
    pub peak: f64,
    /// The part of all steps that warms up, in [0, 1].
    pub warmup: f64,
    /// The last rate as a part of the peak, in [0, 1].
    pub floor: f64,
}

impl Schedule {
    /// The rate of `step` (from 0) in a run of `total` steps.
    pub fn rate(&self, step: usize, total: usize) -> f64 {
        let warmup = (self.warmup * total as f64).round() as usize;
        if step < warmup {
            return self.peak * (step + 1) as f64 / (warmup + 1) as f64;
        }
        let length = total.saturating_sub(warmup).max(1);
        let progress = ((step - warmup) as f64 / length as f64).min(1.0);
        self.peak * (self.floor + (1.0 - self.floor) * 0.5 * (1.0 + (PI * progress).cos()))
    }

    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// When the peak is not positive and finite, or a part lies outside [0, 1].
    pub fn validate(&self) -> Result<()> {
        if !(self.peak > 0.0 && self.peak.is_finite()) {
            return Err(TrainError::Config {
                field: "schedule.peak",
                reason: format!("must be positive and finite, is {}", self.peak),
            });
        }
        for (field, part) in [("schedule.warmup", self.warmup), ("schedule.floor", self.floor)] {
            if !(0.0..=1.0).contains(&part) {
                let reason = format!("must lie in [0, 1], is {part}");
                return Err(TrainError::Config { field, reason });
            }
        }
        Ok(())
    }
}
