//! The learning rate along a run: up, and down again.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// The learning rate along a run, by the share of it that is done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The highest rate.
    pub peak: f64,
    /// The way to it and back.
    pub shape: Shape,
}

/// How the rate rises and falls.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Shape {
    /// Linear warm-up, then a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983) to a floor.
    ///
    /// With T of the run in all and w = round(warmup T), the rate of s = 0, 1, ..., T - 1 is
    ///
    /// ```text
    /// s <  w:  peak (s + 1) / (w + 1)
    /// s >= w:  peak (floor + (1 - floor) (1 + cos(pi (s - w) / (T - w))) / 2)
    /// ```
    ///
    /// so the first step already moves, s = w has the peak, and the floor would be reached at T, the
    /// first that is not taken (the form of nanoGPT's `get_lr`). A floor of 1 is a constant rate.
    Cosine {
        /// The part of the run that warms up, in [0, 1].
        warmup: f64,
        /// The last rate as a part of the peak, in [0, 1].
        floor: f64,
    },
    /// A line up to the peak, and a line down to zero (`budget-triangle2` of Geiping & Goldstein,
    /// *Cramming*, ICML 2023, with base = falloff = 1/4).
    ///
    /// ```text
    /// peak min(base + (1 - base) x / (1 - falloff), (1 - x) / falloff),    x = s / T
    /// ```
    Triangle {
        /// The first rate as a part of the peak, in [0, 1].
        base: f64,
        /// The part of the run that falls, in (0, 1).
        falloff: f64,
    },
}

impl Schedule {
    /// The rate after `done` of `total`.
    pub fn rate(&self, done: usize, total: usize) -> f64 {
        match self.shape {
            Shape::Cosine { warmup, floor } => {
                let warmup = (warmup * total as f64).round() as usize;
                if done < warmup {
                    return self.peak * (done + 1) as f64 / (warmup + 1) as f64;
                }
                let length = total.saturating_sub(warmup).max(1);
                let progress = ((done - warmup) as f64 / length as f64).min(1.0);
                self.peak * (floor + (1.0 - floor) * 0.5 * (1.0 + (PI * progress).cos()))
            }
            Shape::Triangle { base, falloff } => {
                let x = (done as f64 / total.max(1) as f64).min(1.0);
                let rising = base + (1.0 - base) * x / (1.0 - falloff);
                self.peak * rising.min((1.0 - x) / falloff)
            }
        }
    }

    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// When the peak is not positive and finite, or a part lies outside its range.
    pub fn validate(&self) -> Result<()> {
        if !(self.peak > 0.0 && self.peak.is_finite()) {
            return Err(TrainError::Config {
                field: "schedule.peak",
                reason: format!("must be positive and finite, is {}", self.peak),
            });
        }
        let part = |field, part: f64, inside: bool, range: &str| match inside {
            true => Ok(()),
            false => {
                let reason = format!("must lie in {range}, is {part}");
                Err(TrainError::Config { field, reason })
            }
        };
        let closed = |field, x: f64| part(field, x, (0.0..=1.0).contains(&x), "[0, 1]");
        match self.shape {
            Shape::Cosine { warmup, floor } => {
                closed("schedule.warmup", warmup)?;
                closed("schedule.floor", floor)
            }
            Shape::Triangle { base, falloff } => {
                closed("schedule.base", base)?;
                let inside = falloff > 0.0 && falloff < 1.0;
                part("schedule.falloff", falloff, inside, "(0, 1)")
            }
        }
    }
}
