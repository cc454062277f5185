//! The records of runs as event files of TensorBoard.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};
use conditioned_report::tensorboard::EventFile;
use conditioned_train::{Event, Run, record};

use crate::run::folder::{self, Folder};

/// Writes the records of all runs below `out`, finished or not, to the folder `tensorboard` in it, which is
/// returned: `tensorboard --logdir` shows it, a line a run.
///
/// Series: `training/{loss,learning_rate,gradient_norm}` at every step, `evaluation/METRIC` at every evaluation,
/// `probe/PLACE/MEASURE` and the histograms `spectrum/PLACE` of singular values at every probe; a number that is not finite is left out. Steps count optimiser steps. All events of a run have the
/// time at which its record was last written, so that a repetition gives the same bytes.
///
/// # Errors
/// When there is no run, a record cannot be read, or a file cannot be written.
pub fn write(out: &Path) -> Result<PathBuf> {
    ensure!(out.is_dir(), "{}: no such folder; `run` makes it", out.display());
    let board = out.join("tensorboard");
    let mut written = 0;
    for folder in folder::find(out)? {
        let Some(events) = events(&folder)? else { continue };
        let place = board.join(folder.path().strip_prefix(out)?);
        std::fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
        events.write(&place)?;
        written += 1;
    }
    ensure!(written > 0, "{}: no run has a record yet", out.display());
    Ok(board)
}

/// The record of a run; nothing of one that has not begun.
fn events(folder: &Folder) -> Result<Option<EventFile>> {
    let run = Run { folder: folder.path().to_path_buf(), identity: String::new() };
    let file = run.metrics();
    if !file.exists() {
        return Ok(None);
    }
    let modified = file.metadata().and_then(|data| data.modified());
    let modified = modified.with_context(|| file.display().to_string())?;
    let mut events = EventFile::new(modified.duration_since(UNIX_EPOCH)?.as_secs_f64());
    for event in record::read(&file)? {
        match event {
            Event::Coverage { .. } => {}
            Event::Step { step, loss, rate, grad_norm, .. } => {
                events.scalar(step, "training/loss", loss);
                events.scalar(step, "training/learning_rate", rate);
                events.scalar(step, "training/gradient_norm", grad_norm);
            }
            Event::Evaluation { step, metrics, .. } => {
                for (name, value) in metrics {
                    events.scalar(step, &format!("evaluation/{name}"), value);
                }
            }
            Event::Probe { step, metrics, spectra } => {
                for (name, value) in metrics {
                    events.scalar(step, &format!("probe/{name}"), value);
                }
                for (name, spectrum) in spectra {
                    let spectrum: Vec<f64> = spectrum.into_iter().map(f64::from).collect();
                    events.histogram(step, &format!("spectrum/{name}"), &spectrum);
                }
            }
        }
    }
    Ok(Some(events))
}
