//! What goes into a run beside its settings, and what comes out.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use candle_core::Tensor;

use crate::collective::Collective;
use crate::config::FitConfig;
use crate::error::{Result, TrainError};
use crate::task::Metrics;

/// Where a run lives, and what it is.
#[derive(Debug, Clone)]
pub struct Run {
    /// Holds `metrics.jsonl` and `checkpoints/`; one run at a time writes here.
    pub folder: PathBuf,
    /// All that fixes the result beside the [`FitConfig`], such as the serialised configuration of
    /// model and data: a checkpoint continues only a run with the same text.
    pub identity: String,
}

impl Run {
    /// The record of events.
    pub fn metrics(&self) -> PathBuf {
        self.folder.join("metrics.jsonl")
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.folder.join("checkpoints")
    }

    /// BLAKE3 over settings and identity, in hexadecimal.
    pub(crate) fn config_hash(&self, config: &FitConfig) -> Result<String> {
        let config = serde_json::to_string(config).map_err(|e| TrainError::Config {
            field: "fit",
            reason: format!("cannot be written as JSON: {e}"),
        })?;
        let mut hasher = blake3::Hasher::new_derive_key("conditioned-train configuration v1");
        for part in [config.as_str(), self.identity.as_str()] {
            hasher.update(&part.len().to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// How the outside watches a run and stops it, and who trains it with this process.
pub struct Control<'a> {
    /// Once set, the step in progress is finished, a checkpoint written, and the run left.
    pub stop: &'a AtomicBool,
    /// Called after every step.
    pub progress: &'a mut dyn FnMut(Progress),
    /// The processes that train the model together; [`Alone`](crate::Alone) if this is the only one.
    pub collective: &'a dyn Collective,
}

/// Where a run stands after a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Optimiser steps done.
    pub step: usize,
    /// Optimiser steps in all.
    pub total: usize,
    /// The epoch of the data, from 0, that the first micro-batch of this step belongs to.
    pub epoch: usize,
    /// Its training loss.
    pub loss: f64,
    /// Its learning rate.
    pub rate: f64,
}

/// How a run was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All steps are done.
    Finished,
    /// The stop flag was set: call [`fit`](crate::fit()) again to continue.
    Interrupted,
}

/// What a run has come to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it was left.
    pub status: Status,
    /// The last evaluation; empty before the first.
    pub metrics: Metrics,
    /// Optimiser steps done in all.
    pub step: usize,
    /// Optimiser steps done by this call.
    pub steps_here: usize,
    /// The moving averages by the names of their parameters, which are what was evaluated; empty where there
    /// are none.
    pub averages: Vec<(String, Tensor)>,
    /// Damaged checkpoints that were passed over, under the names that they now have.
    pub set_aside: Vec<PathBuf>,
}
