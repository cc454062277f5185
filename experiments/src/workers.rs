//! Cells side by side: each in a process of its own with one thread, so that small models fill all
//! cores, a crash takes one cell, and memory is given back.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};

use crate::worker::{INTERRUPTED, Progress};

/// One cell to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// What the progress line calls it.
    pub name: String,
    /// Arguments of this very binary.
    pub arguments: Vec<OsString>,
}

/// Runs all jobs, `side_by_side` at a time, each by this binary with one thread.
///
/// On a terminal every running job has a bar; in a pipe or a file there is one line a finished job.
/// After the first failure no job is begun.
///
/// # Errors
/// The first failure, with what the worker said; or that the run was interrupted.
pub fn run(jobs: Vec<Job>, side_by_side: usize, stop: &AtomicBool) -> Result<()> {
    let board = Board::new(jobs.len());
    let queue = Mutex::new(VecDeque::from(jobs));
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..side_by_side.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && lock(&failure).is_none() {
                    let Some(job) = lock(&queue).pop_front() else { break };
                    if let Err(error) = run_one(&job, &board, stop) {
                        lock(&failure).get_or_insert(error.context(job.name));
                    }
                }
            });
        }
    });
    board.clear();
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        _ if stop.load(Ordering::Relaxed) => {
            bail!("interrupted; the same command goes on where it stopped")
        }
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command that runs this binary again, with one thread.
///
/// # Errors
/// When the binary cannot be found.
pub fn this_binary(arguments: &[OsString]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this binary is gone")?);
    command.args(arguments).env("RAYON_NUM_THREADS", "1").env("CANDLE_NUM_THREADS", "1");
    Ok(command)
}

fn run_one(job: &Job, board: &Board, stop: &AtomicBool) -> Result<()> {
    let bar = board.begin(&job.name);
    let mut child = this_binary(&job.arguments)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start a worker")?;
    // The worker stops when this end of its standard input closes, also when we are killed.
    let mut stdin = child.stdin.take();
    let stdout = child.stdout.take().ok_or_else(|| anyhow!("no output"))?;
    let mut stderr = child.stderr.take().ok_or_else(|| anyhow!("no output"))?;
    let messages = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let progress = std::thread::spawn({
        let bar = bar.clone();
        move || BufReader::new(stdout).lines().map_while(Result::ok).for_each(|l| bar.line(&l))
    });
    let status = loop {
        if stop.load(Ordering::Relaxed) {
            stdin.take();
        }
        match child.try_wait()? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let _ = progress.join();
    let messages = messages.join().unwrap_or_default();
    board.end(&bar, status.success());
    if status.success() && !messages.trim().is_empty() {
        board.note(&format!("{}: {}", job.name, messages.trim()));
    }
    match status.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(INTERRUPTED) && stop.load(Ordering::Relaxed) => Ok(()),
        _ if messages.trim().is_empty() => bail!("the worker ended with {status}"),
        _ => bail!("{}", messages.trim().trim_start_matches("error: ")),
    }
}

/// The progress of all jobs.
struct Board {
    bars: Option<MultiProgress>,
    total: ProgressBar,
    began: Instant,
    count: Mutex<(usize, usize)>,
}

/// The progress of one job.
#[derive(Clone)]
struct Bar {
    name: String,
    bar: Option<ProgressBar>,
    began: Instant,
}

impl Board {
    fn new(jobs: usize) -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        let total = ProgressBar::new(jobs as u64);
        let total = match &bars {
            Some(bars) => bars.add(total),
            None => ProgressBar::hidden(),
        };
        total.set_style(style("{bar:24} {pos}/{len} cells, {elapsed} gone, {eta} left"));
        Self { bars, total, began: Instant::now(), count: Mutex::new((0, jobs)) }
    }

    fn begin(&self, name: &str) -> Bar {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.insert_before(&self.total, ProgressBar::new(0));
            bar.set_style(style("{bar:24} {prefix}  step {pos}/{len}  loss {msg}  {eta} left"));
            bar.set_prefix(name.to_string());
            bar
        });
        Bar { name: name.to_string(), bar, began: Instant::now() }
    }

    fn end(&self, bar: &Bar, success: bool) {
        if let Some(bar) = &bar.bar {
            bar.finish_and_clear();
        }
        if !success {
            return;
        }
        let mut count = lock(&self.count);
        count.0 += 1;
        self.total.inc(1);
        if self.bars.is_none() {
            let (done, jobs) = *count;
            let left = self.began.elapsed().mul_f64((jobs - done) as f64 / done as f64);
            let spent = HumanDuration(bar.began.elapsed());
            eprintln!(
                "[{done}/{jobs}] {} in {spent}, about {} left",
                bar.name,
                HumanDuration(left)
            );
        }
    }

    /// A line that stays: what a worker that succeeded has to say.
    fn note(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            None => eprintln!("{text}"),
        }
    }

    fn clear(&self) {
        self.total.finish_and_clear();
    }
}

impl Bar {
    fn line(&self, line: &str) {
        let (Some(bar), Ok(progress)) = (&self.bar, serde_json::from_str::<Progress>(line)) else {
            return;
        };
        bar.set_length(progress.total as u64);
        bar.set_position(progress.step as u64);
        bar.set_message(format!("{:.3}", progress.loss));
    }
}

/// A template of ours; should it not parse, the default style is better than an end.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
