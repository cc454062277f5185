//! What a step of each arm costs, measured alone: `timings.csv`, apart from the results, which a
//! repetition gives bit for bit.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use conditioned_nn::store::write_atomic;
use conditioned_train::{Control, Run};
use experiments::folder::{Environment, Folder};
use experiments::statistics::median;
use experiments::worker::{peak_memory, stop_flag};
use experiments::workers::this_binary;
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Row};
use crate::cell::RunConfig;
use crate::plan::{Plan, worker};
use crate::train::run_cell;

/// Steps before the clock counts: caches and allocator are warm then.
const WARM: usize = 10;

/// Steps that are timed.
const STEPS: usize = 60;

/// What a step costs on one thread of this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Timing {
    /// The row of the table.
    pub(crate) row: Row,
    /// The arm.
    pub(crate) arm: Arm,
    /// Median milliseconds of a training step, data included.
    pub(crate) ms_per_step: f64,
    /// Peak memory of the process in MiB, where the system tells.
    pub(crate) peak_mib: Option<f64>,
    /// The commit that was timed.
    pub(crate) commit: String,
}

/// Times one cell of every row and arm, one after the other with nothing beside it, unless it was
/// timed at this commit.
///
/// # Errors
/// When a worker fails or the file cannot be written.
pub(crate) fn measure(plan: &Plan, cells: &[RunConfig], stop: &AtomicBool) -> Result<()> {
    let path = plan.out().join("timings.csv");
    let known = if path.exists() { read(&path)? } else { Vec::new() };
    let mut timings: BTreeMap<(Row, Arm), Timing> =
        known.into_iter().map(|timing| ((timing.row, timing.arm), timing)).collect();
    let commit = Environment::here().commit;
    let mut seen = Vec::new();
    for config in cells {
        let (row, arm) = (config.cell.row, config.cell.arm);
        // The cells of an arm differ in numbers only: one of them stands for all.
        if seen.contains(&(row, arm)) {
            continue;
        }
        seen.push((row, arm));
        if timings.get(&(row, arm)).is_some_and(|timing| timing.commit == commit) {
            continue;
        }
        eprintln!("timing {row} {arm}");
        let arguments = worker("time", &config.cell.folder(plan.out()));
        let child = this_binary(&arguments)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let output = wait(child.context("cannot start a worker")?)?;
        if stop.load(Ordering::Relaxed) {
            bail!("interrupted; the same command goes on where it stopped");
        }
        if !output.status.success() {
            bail!("timing {row} {arm}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        timings.insert((row, arm), serde_json::from_slice(&output.stdout)?);
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    for timing in timings.values() {
        writer.serialize(timing)?;
    }
    write_atomic(&path, &writer.into_inner()?).with_context(|| path.display().to_string())
}

/// Waits for a worker with its standard input open: it stops when that closes.
fn wait(mut child: Child) -> Result<Output> {
    let input = child.stdin.take();
    let output = child.wait_with_output()?;
    drop(input);
    Ok(output)
}

/// Reads `timings.csv`.
///
/// # Errors
/// When it is missing or of another form.
pub(crate) fn read(path: &Path) -> Result<Vec<Timing>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| path.display().to_string())?;
    reader.deserialize().collect::<Result<_, _>>().with_context(|| path.display().to_string())
}

/// Times the steps of a cell without leaving a trace, and prints a [`Timing`] as JSON.
///
/// # Errors
/// When a step fails.
#[allow(clippy::print_stdout)]
pub(crate) fn time(folder: &Folder) -> Result<()> {
    let config: RunConfig = folder.config()?;
    let nowhere = tempfile::tempdir()?;
    let run = Run { folder: nowhere.path().to_path_buf(), identity: String::new() };
    let stop = stop_flag()?;
    let (mut last, mut times) = (Instant::now(), Vec::new());
    let mut progress = |_| {
        times.push(last.elapsed().as_secs_f64() * 1e3);
        last = Instant::now();
        if times.len() >= WARM + STEPS {
            stop.store(true, Ordering::Relaxed);
        }
    };
    run_cell(&config, &run, &mut Control { stop: &stop, progress: &mut progress })?;
    // The few steps that follow an evaluation carry its time; a median does not see them.
    let times = &times[WARM.min(times.len() / 2)..];
    let timing = Timing {
        row: config.cell.row,
        arm: config.cell.arm,
        ms_per_step: median(times).ok_or_else(|| anyhow!("no step was timed"))?,
        peak_mib: peak_memory(),
        commit: Environment::here().commit,
    };
    println!("{}", serde_json::to_string(&timing)?);
    Ok(())
}
