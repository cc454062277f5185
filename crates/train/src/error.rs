//! What can stop a training run, each by name.

use std::path::{Path, PathBuf};

use conditioned_nn::StoreError;

use crate::task::TaskError;

/// A result of this crate.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// What stopped a training run.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting cannot be used.
    #[error("configuration: `{field}` {reason}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The groups of the optimiser do not cover every parameter exactly once.
    #[error(
        "parameter groups: {}",
        groups(.uncovered, .repeated, .unknown)
    )]
    Groups {
        /// Parameters in no group.
        uncovered: Vec<String>,
        /// Parameters in more than one group.
        repeated: Vec<String>,
        /// Names in a group that are no parameters.
        unknown: Vec<String>,
    },
    /// Parameters that the backward pass did not reach.
    #[error(
        "no gradient for {} of {total} parameters: {}. The loss does not depend on them, or an \
         operation without a backward cuts the graph",
        .names.len(), .names.join(", ")
    )]
    MissingGradients {
        /// All of them, in name order.
        names: Vec<String>,
        /// The number of parameters.
        total: usize,
    },
    /// A gradient has another shape than its parameter.
    #[error("the gradient of `{name}` has shape {found:?}, the parameter {expected:?}")]
    GradientShape {
        /// The parameter.
        name: String,
        /// The shape of the gradient.
        found: Vec<usize>,
        /// The shape of the parameter.
        expected: Vec<usize>,
    },
    /// The loss or the norm of the gradient is not a number, or infinite.
    #[error(
        "step {step}: the {what} is {value}{}. What was recorded stands, and a checkpoint where there is one; lower \
         the learning rate, clip, or look at this step's batch",
        .parameter.as_ref().map_or(String::new(), |name| format!(
            " (first parameter whose gradient is not finite: `{name}`)"
        ))
    )]
    NonFinite {
        /// The optimiser step, from 1.
        step: usize,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The first parameter, in name order, whose gradient is not finite.
        parameter: Option<String>,
    },
    /// The loss of a task is not a scalar.
    #[error("the loss must be a scalar, it has shape {found:?}; return the mean")]
    LossShape {
        /// Its shape.
        found: Vec<usize>,
    },
    /// Processes that train one model do not stand at the same parameters.
    #[error(
        "step {step}: process {rank} has other parameters than the rest. All processes must run the same binary with \
         the same settings on processors of one kind, and read the same folder"
    )]
    Apart {
        /// Optimiser steps done.
        step: usize,
        /// This process.
        rank: usize,
    },
    /// A group of processes that train one model cannot be joined.
    #[error("the other processes of this run cannot be joined: {reason}")]
    Collective {
        /// What was tried and why it failed.
        reason: String,
    },
    /// The task ran out of batches.
    #[error("epoch {epoch}: the task promised {promised} batches and gave {given}")]
    Batches {
        /// The epoch, from 0.
        epoch: usize,
        /// Batches per epoch.
        promised: usize,
        /// Batches given.
        given: usize,
    },
    /// The task itself failed.
    #[error("step {step}: the task failed to {action}: {reason}")]
    Task {
        /// Optimiser steps done so far, plus the one in progress.
        step: usize,
        /// What it was asked to do.
        action: &'static str,
        /// Its own error.
        reason: TaskError,
    },
    /// A checkpoint cannot be used.
    #[error("{path}: {reason}")]
    Checkpoint {
        /// The file, or the folder of all of them.
        path: PathBuf,
        /// What was found and what to do.
        reason: String,
    },
    /// A checkpoint belongs to another run.
    #[error(
        "{path}: written by a run of another configuration (hash {found}, this run has \
         {expected}). Choose another run folder, or remove this one to start anew"
    )]
    OtherConfiguration {
        /// The checkpoint.
        path: PathBuf,
        /// The hash in the file.
        found: String,
        /// The hash of this run.
        expected: String,
    },
    /// The record of a run cannot be continued.
    #[error("{path}: {reason}")]
    Record {
        /// The file.
        path: PathBuf,
        /// What was found and what to do.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {reason}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A file of tensors failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl TrainError {
    /// For `map_err`: an [`TrainError::Io`] that names `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |reason| Self::Io { path, reason }
    }

    /// For `map_err`: a [`TrainError::Task`] that says what was asked, and when.
    pub(crate) fn task(step: usize, action: &'static str) -> impl FnOnce(TaskError) -> Self {
        move |reason| Self::Task { step, action, reason }
    }
}

fn groups(uncovered: &[String], repeated: &[String], unknown: &[String]) -> String {
    let parts = [
        ("in no group", uncovered),
        ("in more than one group", repeated),
        ("not a parameter", unknown),
    ];
    let parts = parts.iter().filter(|(_, names)| !names.is_empty());
    parts
        .map(|(what, names)| format!("{what}: {}", names.join(", ")))
        .collect::<Vec<_>>()
        .join("; ")
}
