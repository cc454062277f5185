//! The inside of a worker process: progress to the parent, and the parent's wish to stop.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[cfg(feature = "mpi")]
use anyhow::ensure;
use anyhow::{Context, Result, anyhow};
use conditioned_train::{Alone, Collective, Control, Metrics, Run, Status, TaskError, TrainError};
use serde::{Deserialize, Serialize};

use crate::cell::{RunConfig, Summary};
use crate::job::{self, WEIGHTS};
use crate::run::folder::Folder;

/// Exit code of a worker that was stopped and can be resumed.
pub const INTERRUPTED: u8 = 75;

/// Least time between two progress lines.
const INTERVAL: Duration = Duration::from_millis(100);

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

/// Trains the run of `folder` to its end and writes its weights and summary.
///
/// # Errors
/// When anything fails; the last checkpoint stands.
pub fn train(folder: &Folder) -> Result<ExitCode> {
    train_with(folder, &Alone)
}

/// The same with the processes that a launcher started beside this one.
///
/// # Errors
/// Those of [`train`]; when this binary was built without MPI.
pub fn train_together(folder: &Folder) -> Result<ExitCode> {
    #[cfg(feature = "mpi")]
    {
        // To leave MPI is to wait for the others, which may wait for us: after an error or a panic the launcher
        // ends them.
        let processes = std::mem::ManuallyDrop::new(conditioned_train::Mpi::join()?);
        require_share_for_each(folder, processes.size())?;
        let code = train_with(folder, &*processes)?;
        drop(std::mem::ManuallyDrop::into_inner(processes));
        Ok(code)
    }
    #[cfg(not(feature = "mpi"))]
    Err(anyhow!(
        "{}: this binary was built without MPI; add --features mpi",
        folder.path().display()
    ))
}

/// That there are several processes, and a micro-batch of a step for each.
#[cfg(feature = "mpi")]
fn require_share_for_each(folder: &Folder, processes: usize) -> Result<()> {
    ensure!(
        processes > 1,
        "the launcher started no second process that this one sees: it must start two or more, and belong to the MPI \
         that this binary was built with"
    );
    let accumulate = folder.config()?.job.fit.accumulate;
    ensure!(
        processes <= accumulate,
        "{processes} processes for {accumulate} micro-batches a step: some would have nothing to do. Split the batch \
         with --set accumulate={processes} (for the tasks of table 4 task_accumulate) and a smaller batch_size, or \
         launch fewer"
    );
    Ok(())
}

fn train_with(folder: &Folder, collective: &dyn Collective) -> Result<ExitCode> {
    let config = folder.config()?;
    let run = Run { folder: folder.path().to_path_buf(), identity: config.identity()? };
    // From here on no other command can claim it.
    let _lock = (collective.rank() == 0).then(|| folder.lock()).transpose()?;
    // Another command may have trained it since it was planned. The first decides for all: what another machine
    // sees of a shared disk may be old.
    let finished = collective.rank() == 0 && finished(folder, &config)?;
    if collective.any(finished)? {
        return Ok(ExitCode::SUCCESS);
    }
    // What this process has read is what the first has locked.
    folder.check_claim(&config)?;
    let code = match collective.rank() {
        0 => lead(folder, &config, &run, collective)?,
        _ => follow(&config, &run, collective)?,
    };
    // A launcher may take the end of one process for the end of all, so none leaves while the first writes.
    collective.wait()?;
    Ok(code)
}

/// Whether the run of a folder, which is locked, is complete.
fn finished(folder: &Folder, config: &RunConfig) -> Result<bool> {
    folder.check_claim(config)?;
    let finished = folder.summary()?.is_some();
    if finished {
        tracing::info!("another command has finished this run, and it is kept");
    }
    Ok(finished)
}

/// Trains as the first process, which alone writes results and is stopped by its standard input.
fn lead(
    folder: &Folder,
    config: &RunConfig,
    run: &Run,
    collective: &dyn Collective,
) -> Result<ExitCode> {
    let store = job::store_of(config, collective.local_rank())?;
    folder.enter(store.device())?;
    let mut reporter = Reporter::default();
    let mut progress = |p: conditioned_train::Progress| {
        tracing::debug!(step = p.step, loss = p.loss, learning_rate = p.rate, "step");
        reporter.report(Progress { step: p.step, total: p.total, loss: p.loss });
    };
    let stop = stop_flag()?;
    let mut control = Control { stop: &stop, progress: &mut progress, collective };
    tracing::info!(processes = collective.size(), "training begins");
    let trained = job::train(config, &store, run, &mut control);
    folder.leave()?;
    let (outcome, extras) = match trained {
        Err(error) if config.cell.is_search() && is_divergence(&error) => {
            tracing::info!("the loss became infinite: the worst result of a search");
            folder.finish(&Summary::default())?;
            return Ok(ExitCode::SUCCESS);
        }
        done => done?,
    };
    for checkpoint in &outcome.set_aside {
        tracing::warn!("a damaged checkpoint was passed over: {}", checkpoint.display());
    }
    if outcome.status == Status::Interrupted {
        tracing::info!(step = outcome.step, "interrupted");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let mut metrics = outcome.metrics;
    metrics.extend(extras.metrics);
    // A search leaves its scores alone: of hundreds of networks nobody needs the weights.
    if !config.cell.is_search() {
        store.save(&run.folder.join(WEIGHTS), &BTreeMap::new())?;
    }
    folder.finish(&Summary {
        metrics: finite(metrics),
        steps: outcome.step,
        parameters: store.parameter_count(),
        text: extras.text,
    })?;
    remove(&run.checkpoints())?;
    tracing::info!(steps = outcome.step, "finished");
    Ok(ExitCode::SUCCESS)
}

/// Trains as one of the other processes.
fn follow(config: &RunConfig, run: &Run, collective: &dyn Collective) -> Result<ExitCode> {
    let stop = interrupted_flag()?;
    let mut control = Control { stop: &stop, progress: &mut |_| {}, collective };
    let store = job::store_of(config, collective.local_rank())?;
    match job::train(config, &store, run, &mut control) {
        Err(error) if !(config.cell.is_search() && is_divergence(&error)) => Err(error),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Removes a folder that may be gone already.
fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
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
