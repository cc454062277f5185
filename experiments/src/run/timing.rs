//! What a step of each arm costs, measured alone: `timings.csv`, apart from the results, which a
//! repetition gives bit for bit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use conditioned_nn::store::write_atomic;
use conditioned_train::{Alone, Control, Run};
use serde::{Deserialize, Serialize};

use crate::arm::Arm;
use crate::cell::RunConfig;
use crate::cli::print;
use crate::job;
use crate::run::folder::{COMMIT, Folder};
use crate::run::queue::{this_binary, worker};
use crate::run::worker::{peak_memory, stop_flag};
use conditioned_report::statistics::median;

/// Steps before the clock counts: caches and allocator are warm then.
const WARM: usize = 10;

/// Steps that are timed, unless they take longer than [`LIMIT`].
const STEPS: usize = 30;

/// Steps that are taken however long they take; the later half of few is timed.
const FEWEST: usize = 6;

/// How long a worker takes, about.
const LIMIT: Duration = Duration::from_secs(15);

/// How often each arm is timed. The arms take turns: what slows a machine for a while meets all of them. The
/// least of the medians counts: processes on one machine were seen to differ by 40 %, and nothing makes one
/// faster than it is alone.
const ROUNDS: usize = 5;

/// What a step costs on one thread of this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// The row of the table.
    pub row: String,
    /// The arm.
    pub arm: Arm,
    /// Median milliseconds of a training step, data included: the least among those of five processes (one in a smoke test).
    pub ms_per_step: f64,
    /// Peak memory of the process in MiB, where the system tells.
    pub peak_mib: Option<f64>,
    /// The commit that was timed.
    pub commit: String,
}

/// What a worker measures of its cell.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Measured {
    ms_per_step: f64,
    peak_mib: Option<f64>,
}

/// Times a run of every row and arm by `time FOLDER` of this binary, in turns and with nothing beside it,
/// unless it was timed at this commit. The runs of an arm differ in numbers only: one at its best setting
/// stands for all.
///
/// # Errors
/// When a worker fails or the file cannot be written.
pub fn measure(out: &Path, runs: &[RunConfig], stop: &AtomicBool) -> Result<Vec<Timing>> {
    let mut timings: BTreeMap<(String, Arm), Timing> = BTreeMap::new();
    for timing in read(out)? {
        timings.insert((timing.row.clone(), timing.arm), timing);
    }
    // Numbers of a smoke test mean nothing.
    let rounds = if runs.iter().all(|run| run.preset == "smoke") { 1 } else { ROUNDS };
    let mut pending: Vec<((String, Arm), PathBuf, Vec<Measured>)> = Vec::new();
    // A stable sort: of an arm the best first, and it alone is timed.
    let mut runs: Vec<&RunConfig> = runs.iter().collect();
    runs.sort_by_key(|run| !run.is_at_best());
    for run in runs {
        let key = (run.cell.row.clone(), run.cell.arm);
        let timed = timings.get(&key).is_some_and(|timing| timing.commit == COMMIT);
        if !timed && pending.iter().all(|(other, ..)| *other != key) {
            pending.push((key, run.folder(out), Vec::new()));
        }
    }
    if !pending.is_empty() {
        tracing::info!("timing a step of {} models and arms, one at a time", pending.len());
    }
    for round in 1..=rounds {
        for ((row, arm), folder, measured) in &mut pending {
            tracing::debug!(round, "timing {row} {arm}");
            measured
                .push(measure_one(folder, stop).with_context(|| format!("timing {row} {arm}"))?);
        }
    }
    for ((row, arm), _, measured) in pending {
        let ms_per_step = measured.iter().map(|m| m.ms_per_step).reduce(f64::min);
        let ms_per_step = ms_per_step.ok_or_else(|| anyhow!("{row} {arm} was not timed"))?;
        let peak_mib = measured.iter().filter_map(|m| m.peak_mib).reduce(f64::max);
        let commit = COMMIT.to_string();
        let timing = Timing { row: row.clone(), arm, ms_per_step, peak_mib, commit };
        timings.insert((row, arm), timing);
    }
    let timings: Vec<Timing> = timings.into_values().collect();
    let mut writer = csv::Writer::from_writer(Vec::new());
    for timing in &timings {
        writer.serialize(timing)?;
    }
    let path = out.join("timings.csv");
    write_atomic(&path, &writer.into_inner()?).with_context(|| path.display().to_string())?;
    Ok(timings)
}

/// One worker's measurement of the cell of `folder`.
fn measure_one(folder: &Path, stop: &AtomicBool) -> Result<Measured> {
    let child = this_binary(&worker("time", folder))?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let output = wait(child.context("cannot start a worker")?)?;
    if stop.load(Ordering::Relaxed) {
        bail!("interrupted; the same command goes on where it stopped");
    }
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Waits for a worker with its standard input open: it stops when that closes.
fn wait(mut child: Child) -> Result<Output> {
    let input = child.stdin.take();
    let output = child.wait_with_output()?;
    drop(input);
    Ok(output)
}

/// The timings below `out`; none where nothing was timed yet.
///
/// # Errors
/// When the file is of another form.
pub fn read(out: &Path) -> Result<Vec<Timing>> {
    let path = out.join("timings.csv");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

/// The timings in the text of a `timings.csv`.
///
/// # Errors
/// When it is of another form.
pub fn parse(text: &str) -> Result<Vec<Timing>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let timings: Vec<Timing> = reader.deserialize().collect::<Result<_, _>>()?;
    for Timing { row, arm, ms_per_step: ms, .. } in &timings {
        ensure!(
            ms.is_finite() && *ms > 0.0,
            "{row} {arm}: {ms} ms for a step; remove the file to time anew"
        );
    }
    Ok(timings)
}

/// The worker's part: times the steps of a run that leaves no trace, and prints the result as JSON.
///
/// # Errors
/// When a step fails.
pub fn time(folder: &Folder) -> Result<ExitCode> {
    let mut config = folder.config()?;
    // Whole steps: the first ones of a batch ramp have fewer micro-batches.
    config.job.fit.ramp = 0.0;
    let nowhere = tempfile::tempdir()?;
    let run = Run { folder: nowhere.path().to_path_buf(), identity: String::new() };
    let stop = stop_flag()?;
    let began = Instant::now();
    let (mut last, mut times) = (began, Vec::new());
    let mut progress = |_| {
        times.push(last.elapsed().as_secs_f64() * 1e3);
        last = Instant::now();
        let long = times.len() >= FEWEST && began.elapsed() > LIMIT;
        if long || times.len() >= WARM + STEPS {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let mut control = Control { stop: &stop, progress: &mut progress, collective: &Alone };
    job::train(&config, &job::store(&config)?, &run, &mut control)?;
    // The few steps that follow an evaluation carry its time; a median does not see them.
    let times = &times[WARM.min(times.len() / 2)..];
    let measured = Measured {
        ms_per_step: median(times).ok_or_else(|| anyhow!("no step was timed"))?,
        peak_mib: peak_memory(),
    };
    print(&serde_json::to_string(&measured)?)?;
    Ok(ExitCode::SUCCESS)
}
