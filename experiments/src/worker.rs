//! The inside of a worker process: progress to the parent, and the parent's wish to stop.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use conditioned_train::{Control, Metrics, Outcome, Run, Status, TaskError, TrainError};
use serde::{Deserialize, Serialize};

use crate::cells::Cell;
use crate::folder::Folder;

/// Exit code of a worker that was stopped and can be resumed.
pub const INTERRUPTED: u8 = 75;

/// Least time between two progress lines.
const INTERVAL: Duration = Duration::from_millis(100);

/// How a process ends: with what is wrong on standard error, if anything is. `false` is a worker that was
/// stopped and can be resumed.
pub fn exit(done: Result<bool>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One line of a worker's standard output.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub total: usize,
    /// The loss of this step.
    pub loss: f64,
}

/// Writes progress lines, not too often.
#[derive(Debug, Default)]
pub struct Reporter {
    last: Option<Instant>,
}

impl Reporter {
    /// Reports a step; lines that nobody reads any more are dropped.
    pub fn report(&mut self, progress: Progress) {
        let due = self.last.is_none_or(|last| last.elapsed() >= INTERVAL);
        if !due && progress.step < progress.total {
            return;
        }
        self.last = Some(Instant::now());
        if let Ok(line) = serde_json::to_string(&progress) {
            let mut stdout = std::io::stdout().lock();
            let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        }
    }
}

/// Trains the cell of `folder` to its end, by `run_cell`, and writes what `summarise` makes of it;
/// `false` when it was stopped and can be resumed.
///
/// # Errors
/// When anything fails; the last checkpoint stands.
pub fn train<C: Cell, T>(
    folder: &Folder,
    run_cell: impl FnOnce(&C, &Run, &mut Control<'_>) -> Result<(Outcome, T)>,
    summarise: impl FnOnce(&C, &Run, Outcome, T) -> Result<C::Summary>,
) -> Result<bool> {
    let _lock = folder.lock()?;
    let config: C = folder.config()?;
    folder.enter()?;
    let run =
        Run { folder: folder.path().to_path_buf(), identity: serde_json::to_string(&config)? };
    let mut reporter = Reporter::default();
    let mut progress = |p: conditioned_train::Progress| {
        reporter.report(Progress { step: p.step, total: p.total, loss: p.loss });
    };
    let stop = stop_flag()?;
    let mut control = Control { stop: &stop, progress: &mut progress };
    let trained = run_cell(&config, &run, &mut control);
    folder.leave()?;
    let (outcome, rest) = match trained {
        Err(error) if config.is_search() && is_divergence(&error) => {
            folder.finish(&config.diverged())?;
            return Ok(true);
        }
        done => done?,
    };
    for checkpoint in &outcome.set_aside {
        eprintln!("a damaged checkpoint was passed over: {}", checkpoint.display());
    }
    if outcome.status == Status::Interrupted {
        return Ok(false);
    }
    folder.finish(&summarise(&config, &run, outcome, rest)?)?;
    if !config.keeps_checkpoints() {
        std::fs::remove_dir_all(run.checkpoints())?;
    }
    Ok(true)
}

fn is_divergence(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(TrainError::NonFinite { .. }))
}

/// Metrics as JSON can hold them: a number that is not finite is null.
pub fn finite(metrics: Metrics) -> BTreeMap<String, Option<f64>> {
    metrics.into_iter().map(|(name, value)| (name, value.is_finite().then_some(value))).collect()
}

/// A task's error as anyhow's, which does not take boxes.
pub fn boxed(error: TaskError) -> anyhow::Error {
    anyhow!("{error}")
}

/// A flag that is set on Ctrl-C, on termination, and when the parent closes our standard input:
/// so a worker never outlives the process that started it.
///
/// # Errors
/// When the signal handler cannot be installed.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = interrupted_flag()?;
    let flag = stop.clone();
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0; 64];
        while stdin.read(&mut buffer).is_ok_and(|n| n > 0) {}
        flag.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}

/// A flag that is set on Ctrl-C and on termination.
///
/// # Errors
/// When the signal handler cannot be installed.
pub fn interrupted_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
        .context("cannot install the Ctrl-C handler")?;
    Ok(stop)
}

/// The peak memory of this process in MiB, where the system tells.
pub fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}
