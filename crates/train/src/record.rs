//! The record of a run: one JSON line per event, the same bytes for the same run.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::mem::discriminant;
use std::path::{Path, PathBuf};

use conditioned_nn::store::write_atomic;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::finite;
use crate::task::Metrics;

/// One line of `metrics.jsonl`. There is no clock in it, so that two runs compare byte for byte.
///
/// Steps count finished optimiser steps (the first is 1), epochs count from 0. A number that is
/// not finite is null in the file and NaN when read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// After the first backward pass: the parameters whose gradient is zero in every entry.
    Coverage {
        /// Always 1.
        step: usize,
        /// Their names.
        zero_gradients: Vec<String>,
    },
    /// After every optimiser step.
    Step {
        /// This step.
        step: usize,
        /// The epoch of the data that its first micro-batch belongs to.
        epoch: usize,
        /// The training loss before it.
        #[serde(with = "finite::number")]
        loss: f64,
        /// Its learning rate.
        #[serde(with = "finite::number")]
        rate: f64,
        /// The global norm of the gradient, before clipping.
        #[serde(with = "finite::number")]
        grad_norm: f64,
    },
    /// After every evaluation.
    Evaluation {
        /// The step before it.
        step: usize,
        /// The epoch of that step.
        epoch: usize,
        /// The task's numbers.
        #[serde(with = "finite::metrics")]
        metrics: Metrics,
    },
    /// After every probe.
    Probe {
        /// The step before it; 0 before the first.
        step: usize,
        /// The task's numbers.
        #[serde(with = "finite::metrics")]
        metrics: Metrics,
        /// Singular values, largest first, by the name of the matrix.
        #[serde(with = "finite::spectra")]
        spectra: BTreeMap<String, Vec<f32>>,
    },
}

impl Event {
    /// The step that the event belongs to.
    pub fn step(&self) -> usize {
        match self {
            Self::Coverage { step, .. }
            | Self::Step { step, .. }
            | Self::Evaluation { step, .. }
            | Self::Probe { step, .. } => *step,
        }
    }
}

/// Appends events to `metrics.jsonl`.
#[derive(Debug)]
pub struct Recorder {
    file: File,
    path: PathBuf,
}

impl Recorder {
    /// Opens (or creates) the record of a run that stands at `step`: later events, and a last line
    /// that was cut off, are removed, in one atomic replacement; all events of a run that begins anew.
    ///
    /// # Errors
    /// When the file cannot be read or written, another line than the last is no event, steps do not rise, or the
    /// record ends before `step`.
    pub fn open(path: &Path, step: usize) -> Result<Self> {
        let found = match std::fs::read(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            other => Some(other.map_err(TrainError::io(path))?),
        };
        let events = parse(path, found.as_deref().unwrap_or_default())?;
        let belongs = |event: &&Event| step > 0 && event.step() <= step;
        let kept: Vec<&Event> = events.iter().filter(belongs).collect();
        let last = kept.iter().map(|event| event.step()).max().unwrap_or(0);
        if last != step {
            let reason = format!(
                "ends at step {last}, but the checkpoint is at {step}; restore the file, or remove the folder of \
                     the run to start anew"
            );
            return Err(TrainError::Record { path: path.to_path_buf(), reason });
        }
        let lines: Vec<String> = kept.into_iter().map(|e| line(path, e)).collect::<Result<_>>()?;
        let lines = lines.concat();
        // A new file too: its name must be on the disk before a checkpoint counts on its lines.
        if found.as_deref() != Some(lines.as_bytes()) {
            write_atomic(path, lines.as_bytes()).map_err(TrainError::io(path))?;
        }
        let file = OpenOptions::new().append(true).open(path);
        Ok(Self { file: file.map_err(TrainError::io(path))?, path: path.to_path_buf() })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&mut self, event: &Event) -> Result<()> {
        let line = line(&self.path, event)?;
        self.file.write_all(line.as_bytes()).map_err(TrainError::io(&self.path))
    }

    /// Waits until all lines are on the disk: before a checkpoint that counts on them.
    ///
    /// # Errors
    /// The system's reason.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(TrainError::io(&self.path))
    }
}

/// Reads all events of a record; a last line that was cut off is left out.
///
/// # Errors
/// When the file cannot be read, another line than the last is no event, or steps do not rise.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    parse(path, &std::fs::read(path).map_err(TrainError::io(path))?)
}

fn parse(path: &Path, text: &[u8]) -> Result<Vec<Event>> {
    // What follows the last newline was cut off; nothing follows it in a whole file.
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let lines = text[..whole].split_inclusive(|&byte| byte == b'\n').enumerate();
    let damaged = |index: usize, what: String| TrainError::Record {
        path: path.to_path_buf(),
        reason: format!(
            "line {} is damaged ({what}); restore the file, or remove the folder of the run to start anew",
            index + 1
        ),
    };
    let mut events: Vec<Event> = Vec::new();
    for (index, line) in lines {
        let event: Event =
            serde_json::from_slice(line).map_err(|e| damaged(index, e.to_string()))?;
        let (step, kind) = (event.step(), discriminant(&event));
        let mut not_before = events.iter().rev().take_while(|other| other.step() >= step);
        if not_before.any(|other| other.step() > step || discriminant(other) == kind) {
            return Err(damaged(index, format!("step {step} comes a second time, or too late")));
        }
        events.push(event);
    }
    Ok(events)
}

fn line(path: &Path, event: &Event) -> Result<String> {
    let mut line = serde_json::to_string(event)
        .map_err(|e| TrainError::Record { path: path.to_path_buf(), reason: e.to_string() })?;
    line.push('\n');
    Ok(line)
}
