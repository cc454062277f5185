//! What a run of [`fit`](crate::fit()) is, and the plan of steps that follows from it.

use serde::{Deserialize, Serialize};

use crate::adamw::AdamWConfig;
use crate::ema;
use crate::error::{Result, TrainError};
use crate::groups::GroupRule;
use crate::schedule::Schedule;

/// The settings of [`fit`](crate::fit()). Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitConfig {
    /// Passes over the training data.
    pub epochs: usize,
    /// Micro-batches per optimiser step; the last step of an epoch takes what is left.
    pub accumulate: usize,
    /// The part of the run, in [0, 1], over which the micro-batches of a step grow from one to
    /// `accumulate`, in a line; 0 for no ramp.
    pub ramp: f64,
    /// Learning rate, by the share of all micro-batches that has been seen.
    pub schedule: Schedule,
    /// Optimiser constants.
    pub adamw: AdamWConfig,
    /// Weight decay, and the rate of the tables.
    pub groups: GroupRule,
    /// The largest global norm of the gradient; `null` does not clip.
    pub clip: Option<f64>,
    /// Decay of the moving average that is evaluated; `null` evaluates the weights themselves.
    pub ema: Option<f64>,
    /// Epochs between evaluations; the last epoch is always evaluated.
    pub evaluate_every: usize,
    /// Epochs between checkpoints; the last epoch always ends with one.
    pub checkpoint_every: usize,
    /// Root of the random streams of training steps (dropout, drop path).
    pub seed: u64,
}

impl FitConfig {
    /// Whether the settings can be used.
    ///
    /// # Errors
    /// Names the first setting that cannot.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("epochs", self.epochs),
            ("accumulate", self.accumulate),
            ("evaluate_every", self.evaluate_every),
            ("checkpoint_every", self.checkpoint_every),
        ];
        for (field, count) in counts {
            if count == 0 {
                return Err(TrainError::Config { field, reason: "must be at least 1".to_string() });
            }
        }
        if let Some(clip) = self.clip
            && !(clip > 0.0 && clip.is_finite())
        {
            let reason = format!("must be positive and finite, is {clip}");
            return Err(TrainError::Config { field: "clip", reason });
        }
        if !(0.0..=1.0).contains(&self.ramp) {
            let reason = format!("must lie in [0, 1], is {}", self.ramp);
            return Err(TrainError::Config { field: "ramp", reason });
        }
        self.ema.map_or(Ok(()), ema::validate)?;
        self.schedule.validate()?;
        self.adamw.validate()?;
        self.groups.validate()
    }
}

/// Where each optimiser step stands among epochs and micro-batches. Steps here count those done, so
/// step 0 is the first to come.
#[derive(Debug, Clone)]
pub struct Plan {
    evaluate_every: usize,
    checkpoint_every: usize,
    /// Micro-batches of an epoch.
    batches: usize,
    /// Micro-batches before each step; the last entry is all of them.
    before: Vec<usize>,
}

impl Plan {
    /// The plan of a run with `batches` micro-batches per epoch.
    ///
    /// With A = `accumulate` and a ramp r > 0, the step that begins after the share x of all
    /// micro-batches has `min(floor(x A / r) + 1, A)` of them (the batch ramp of Geiping & Goldstein,
    /// *Cramming*, ICML 2023), and no step reaches into the next epoch.
    ///
    /// # Errors
    /// When a setting cannot be used, or there are no batches.
    pub fn new(config: &FitConfig, batches: usize) -> Result<Self> {
        config.validate()?;
        if batches == 0 {
            let reason = "must be at least 1: the training data fill no batch".to_string();
            return Err(TrainError::Config { field: "batches per epoch", reason });
        }
        let FitConfig { epochs, accumulate, ramp, evaluate_every, checkpoint_every, .. } = *config;
        let total = epochs * batches;
        let mut before = vec![0];
        let mut done = 0;
        while done < total {
            let grown = match ramp > 0.0 {
                true => {
                    let full = done as f64 * accumulate as f64 / (ramp * total as f64);
                    (full as usize).min(accumulate - 1) + 1
                }
                false => accumulate,
            };
            done += grown.min(batches - done % batches);
            before.push(done);
        }
        Ok(Self { evaluate_every, checkpoint_every, batches, before })
    }

    /// Optimiser steps of the whole run; without ramp `epochs * ceil(batches / accumulate)`.
    pub fn total(&self) -> usize {
        self.before.len() - 1
    }

    /// Micro-batches of the whole run.
    pub fn total_batches(&self) -> usize {
        self.before[self.total()]
    }

    /// The number of micro-batches before `step` in the whole run.
    ///
    /// # Panics
    /// When `step` is beyond the total.
    pub fn batches_before(&self, step: usize) -> usize {
        self.before[step]
    }

    /// The number of micro-batches of `step`.
    ///
    /// # Panics
    /// When `step` is not below the total.
    pub fn batches(&self, step: usize) -> usize {
        self.before[step + 1] - self.before[step]
    }

    /// The epoch of `step`.
    pub(crate) fn epoch(&self, step: usize) -> usize {
        self.before[step] / self.batches
    }

    /// The number of the first micro-batch of `step` within its epoch.
    pub(crate) fn first_batch(&self, step: usize) -> usize {
        self.before[step] % self.batches
    }

    /// Whether an evaluation is due after `done` steps.
    pub(crate) fn evaluates(&self, done: usize) -> bool {
        self.due(done, self.evaluate_every)
    }

    /// Whether a checkpoint is due after `done` steps.
    pub(crate) fn checkpoints(&self, done: usize) -> bool {
        self.due(done, self.checkpoint_every)
    }

    fn due(&self, done: usize, every: usize) -> bool {
        done == self.total() || self.before[done].is_multiple_of(self.batches * every)
    }
}
