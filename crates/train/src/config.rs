//! What a run of [`fit`](crate::fit()) is.

use conditioned_nn::Precision;
use serde::{Deserialize, Serialize};

use crate::adamw::AdamWConfig;
use crate::error::{Result, TrainError};
use crate::groups::GroupRule;
use crate::optimizer::MuonRule;
use crate::schedule::Schedule;

/// How long a run is, and the unit of `evaluate_every` and `checkpoint_every`.
///
/// As JSON `{"epochs": 30}` or `{"micro-batches": 800}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Length {
    /// Passes over the training data. No step reaches into the next epoch: the last step of an
    /// epoch takes what is left.
    Epochs(usize),
    /// Micro-batches, whatever the size of an epoch: the epochs of the data follow one another, and
    /// a step may reach over the end of one. No step reaches over an evaluation, a checkpoint or
    /// the end of the run.
    MicroBatches(usize),
}

impl Length {
    /// The number, and the name of the setting that it stands in.
    fn count(self) -> (&'static str, usize) {
        match self {
            Self::Epochs(count) => ("length.epochs", count),
            Self::MicroBatches(count) => ("length.micro-batches", count),
        }
    }
}

/// The settings of [`fit`](crate::fit()). Unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitConfig {
    /// How long the run is, and the unit of `evaluate_every` and `checkpoint_every`.
    pub length: Length,
    /// Micro-batches per optimiser step; fewer where a step may not reach further, see [`Length`].
    pub accumulate: usize,
    /// The part of the run, in [0, 1], over which the micro-batches of a step grow from one to
    /// `accumulate`, in a line; 0 for no ramp.
    pub ramp: f64,
    /// Learning rate, by the share of all micro-batches that has been seen.
    pub schedule: Schedule,
    /// The constants of AdamW.
    pub adamw: AdamWConfig,
    /// Hidden matrices by Muon; `null` or no field at all leaves all to AdamW.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muon: Option<MuonRule>,
    /// Weight decay, and the rate of the embedding tables.
    pub groups: GroupRule,
    /// The largest global norm of the gradient; `null` does not clip.
    pub clip: Option<f64>,
    /// Decay of the moving average that is evaluated; `null` evaluates the weights themselves.
    pub ema: Option<f64>,
    /// Epochs or micro-batches, by `length`, between evaluations; the end is always evaluated.
    pub evaluate_every: usize,
    /// Epochs or micro-batches, by `length`, between checkpoints; the run always ends with one.
    pub checkpoint_every: usize,
    /// Optimiser steps between probes of the model, the first before any training, the last at the end; `null` or no
    /// field at all probes nothing. A run has the same bits with probes and without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_every: Option<usize>,
    /// In what dtype a training step multiplies matrices; no field at all is full precision.
    #[serde(default, skip_serializing_if = "Precision::is_full")]
    pub precision: Precision,
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
            self.length.count(),
            ("accumulate", self.accumulate),
            ("evaluate_every", self.evaluate_every),
            ("checkpoint_every", self.checkpoint_every),
            ("probe_every", self.probe_every.unwrap_or(1)),
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
        self.ema.map_or(Ok(()), |decay| require_below_one("ema", decay))?;
        self.schedule.validate()?;
        self.adamw.validate()?;
        self.muon.as_ref().map_or(Ok(()), MuonRule::validate)?;
        self.groups.validate()
    }
}

/// Whether a decay lies in [0, 1).
pub(crate) fn require_below_one(field: &'static str, decay: f64) -> Result<()> {
    if (0.0..1.0).contains(&decay) {
        return Ok(());
    }
    Err(TrainError::Config { field, reason: format!("must lie in [0, 1), is {decay}") })
}
