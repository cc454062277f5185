//! The steps of a run, counted in micro-batches.

use crate::config::{FitConfig, Length};
use crate::error::{Result, TrainError};

/// The most micro-batches of a run: what is kept of each step is held in memory.
pub const MOST_MICRO_BATCHES: usize = 100_000_000;

/// Where each optimiser step stands among the micro-batches of the run. Steps here count those done,
/// so step 0 is the first to come.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Micro-batches between evaluations.
    evaluate_every: usize,
    /// Micro-batches between checkpoints.
    checkpoint_every: usize,
    /// Optimiser steps between probes.
    probe_every: Option<usize>,
    /// Micro-batches before each step; the last entry is all of them.
    before: Vec<usize>,
}

impl Plan {
    /// The plan of a run on data with `batches` micro-batches per epoch.
    ///
    /// With A = `accumulate` and a ramp r > 0, the step that begins after the share x of all
    /// micro-batches has `min(floor(x A / r) + 1, A)` of them (the batch ramp of Geiping & Goldstein,
    /// *Cramming*, ICML 2023), or as many as are left to the first end that no step reaches over:
    /// that of an epoch, or for [`Length::MicroBatches`] an evaluation, a checkpoint or the end.
    ///
    /// # Errors
    /// When a setting cannot be used, or there are no batches.
    pub fn new(config: &FitConfig, batches: usize) -> Result<Self> {
        config.validate()?;
        if batches == 0 {
            let reason = "must be at least 1: the training data fill no batch".to_string();
            return Err(TrainError::Config { field: "batches per epoch", reason });
        }
        let (total, unit) = match config.length {
            Length::Epochs(epochs) => (epochs.saturating_mul(batches), batches),
            Length::MicroBatches(count) => (count, 1),
        };
        if total > MOST_MICRO_BATCHES {
            let reason =
                format!("makes {total} micro-batches, and {MOST_MICRO_BATCHES} are the most");
            return Err(TrainError::Config { field: "length", reason });
        }
        let evaluate_every = config.evaluate_every.saturating_mul(unit);
        let checkpoint_every = config.checkpoint_every.saturating_mul(unit);
        let ends = match config.length {
            Length::Epochs(_) => vec![batches],
            Length::MicroBatches(_) => vec![evaluate_every, checkpoint_every],
        };
        let mut before = vec![0];
        let mut done = 0;
        while done < total {
            let left = ends.iter().map(|every| every - done % every).min().unwrap_or(total);
            done += grown(config, done, total).min(left).min(total - done);
            before.push(done);
        }
        Ok(Self { evaluate_every, checkpoint_every, probe_every: config.probe_every, before })
    }

    /// Optimiser steps of the whole run; for epochs without ramp
    /// `epochs * ceil(batches / accumulate)`.
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

    /// Whether an evaluation is due after `done` steps.
    pub(crate) fn evaluates(&self, done: usize) -> bool {
        self.due(done, self.evaluate_every)
    }

    /// Whether a probe is due after `done` steps.
    pub(crate) fn probes(&self, done: usize) -> bool {
        self.probe_every.is_some_and(|every| done == self.total() || done.is_multiple_of(every))
    }

    /// Whether a checkpoint is due after `done` steps.
    pub(crate) fn checkpoints(&self, done: usize) -> bool {
        self.due(done, self.checkpoint_every)
    }

    fn due(&self, done: usize, every: usize) -> bool {
        done == self.total() || self.before[done].is_multiple_of(every)
    }
}

/// The micro-batches of a step that begins after `done` of `total`, if nothing ends it early.
fn grown(config: &FitConfig, done: usize, total: usize) -> usize {
    if config.ramp == 0.0 {
        return config.accumulate;
    }
    let full = done as f64 * config.accumulate as f64 / (config.ramp * total as f64);
    (full as usize).min(config.accumulate - 1) + 1
}
