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
    /// Learning rate.
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
        self.ema.map_or(Ok(()), ema::validate)?;
        self.schedule.validate()?;
        self.adamw.validate()?;
        self.groups.validate()
    }
}

/// Where each optimiser step stands among epochs and batches. Steps here count those done, so
/// step 0 is the first to come.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    epochs: usize,
    accumulate: usize,
    evaluate_every: usize,
    checkpoint_every: usize,
    batches: usize,
}

impl Plan {
    /// The plan of a run with `batches` micro-batches per epoch.
    ///
    /// # Errors
    /// When a setting cannot be used, or there are no batches.
    pub fn new(config: &FitConfig, batches: usize) -> Result<Self> {
        config.validate()?;
        if batches == 0 {
            let reason = "must be at least 1: the training data fill no batch".to_string();
            return Err(TrainError::Config { field: "batches per epoch", reason });
        }
        Ok(Self {
            epochs: config.epochs,
            accumulate: config.accumulate,
            evaluate_every: config.evaluate_every,
            checkpoint_every: config.checkpoint_every,
            batches,
        })
    }

    /// Optimiser steps of the whole run: `epochs * ceil(batches / accumulate)`.
    pub fn total(&self) -> usize {
        self.epochs * self.steps_per_epoch()
    }

    /// Optimiser steps per epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.batches.div_ceil(self.accumulate)
    }

    /// The epoch of `step`.
    pub(crate) fn epoch(&self, step: usize) -> usize {
        step / self.steps_per_epoch()
    }

    /// The number of the first micro-batch of `step` within its epoch.
    pub(crate) fn first_batch(&self, step: usize) -> usize {
        step % self.steps_per_epoch() * self.accumulate
    }

    /// The number of micro-batches of `step`.
    pub(crate) fn batches(&self, step: usize) -> usize {
        self.accumulate.min(self.batches - self.first_batch(step))
    }

    /// The number of micro-batches before `step` in the whole run.
    pub(crate) fn batches_before(&self, step: usize) -> usize {
        self.epoch(step) * self.batches + self.first_batch(step)
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
        done == self.total() || done.is_multiple_of(self.steps_per_epoch() * every)
    }
}
