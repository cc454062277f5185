//! Runs side by side: each in a process of its own with one thread, so that small models fill all
//! cores, a crash takes one run, and memory is given back.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use tracing::{Span, info, info_span};

use crate::cell::RunConfig;
use crate::results::Together;
use crate::run::folder::Folder;
use crate::run::log;
use crate::run::worker::{INTERRUPTED, Progress};

/// What an interrupted command says.
pub const RESUME: &str = "interrupted; the same command goes on where it stopped";

/// How runs are trained.
#[derive(Debug, Clone)]
pub struct Workers {
    /// Runs side by side.
    pub side_by_side: usize,
    /// What starts the processes of a run; `None` for one process, which this one starts.
    launcher: Option<Launcher>,
}

impl Workers {
    /// As many runs side by side as there are cores unless told otherwise; one of launched ones, and one on a GPU,
    /// whose memory several would have to share.
    pub fn new(side_by_side: Option<usize>, launcher: Option<Launcher>, device: &str) -> Self {
        let default = || match (&launcher, device) {
            (None, "cpu") => std::thread::available_parallelism().map_or(1, Into::into),
            _ => 1,
        };
        Self { side_by_side: side_by_side.unwrap_or_else(default).max(1), launcher }
    }
}

/// The command of MPI that starts the processes of a run, such as `mpirun -n 4` or `srun -n 8`.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: String,
    arguments: Vec<String>,
}

impl FromStr for Launcher {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !cfg!(feature = "mpi") {
            return Err("this binary was built without MPI; add --features mpi".to_string());
        }
        let mut words = text.split_whitespace().map(str::to_string);
        let program = words.next().ok_or("expected a command, such as mpirun -n 4")?;
        Ok(Self { program, arguments: words.collect() })
    }
}

/// Checks that `runs` may be trained in `out`, before anything is written: that their folders hold no others, and that
/// they belong to the runs there, so that nothing is trained that no table could show.
///
/// # Errors
/// Names two runs that do not belong together, or the folder that holds another.
pub fn check(runs: &[RunConfig], out: &Path) -> Result<Together> {
    std::fs::create_dir_all(out)
        .with_context(|| format!("--out {}: cannot be created", out.display()))?;
    for run in runs {
        Folder::new(run.folder(out)).check(run)?;
    }
    let mut together = Together::default();
    if let Some(first) = runs.first() {
        together.look(out, first.cell.is_search())?;
    }
    runs.iter().try_for_each(|run| together.check(&run.folder(out), run))?;
    Ok(together)
}

/// Trains those of `runs` that are not complete, several at a time, each by `train FOLDER` of this binary.
///
/// On a terminal every run has a bar; in a pipe or a file there is one line a finished run. After the first
/// failure no run is begun.
///
/// # Errors
/// Those of [`check`]; the first failure, with what the worker said; or that the command was interrupted.
pub fn train(runs: &[RunConfig], out: &Path, workers: &Workers, stop: &AtomicBool) -> Result<()> {
    let together = Mutex::new(check(runs, out)?);
    let folder = |run: &RunConfig| Folder::new(run.folder(out));
    let mut pending = VecDeque::new();
    for run in runs {
        folder(run).claim(run)?;
        if folder(run).summary()?.is_none() {
            pending.push_back(run);
        }
    }
    if pending.len() < runs.len() {
        info!("{} of {} runs are complete and are kept", runs.len() - pending.len(), runs.len());
    }
    let board = Board::new(pending.len());
    let queue = Mutex::new(pending);
    let failure = Mutex::new(None);
    let parent = Span::current();
    std::thread::scope(|scope| {
        for _ in 0..workers.side_by_side {
            scope.spawn(|| {
                let _in_table = parent.enter();
                while !stop.load(Ordering::Relaxed) && lock(&failure).is_none() {
                    let Some(run) = lock(&queue).pop_front() else { break };
                    let (name, folder) = (run.name(), folder(run));
                    let cell = info_span!("cell", cell = name);
                    // A worker trains what it finds in the folder: so it must be this run, before and after.
                    let claimed = || folder.check_claim(run);
                    let trained = cell.in_scope(|| {
                        claimed()?;
                        // Another command may have begun runs that do not belong to these.
                        lock(&together).look(out, run.cell.is_search())?;
                        train_one(&name, folder.path(), &board, workers, stop)?;
                        claimed()
                    });
                    if let Err(error) = trained {
                        lock(&failure).get_or_insert(error.context(name));
                    }
                }
            });
        }
    });
    board.total.finish_and_clear();
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        _ if stop.load(Ordering::Relaxed) => bail!(RESUME),
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The arguments that make this binary a worker on a run folder.
pub fn worker(command: &str, folder: &Path) -> Vec<OsString> {
    vec![command.into(), folder.into()]
}

/// A command that runs this binary again, with one thread.
///
/// # Errors
/// When the binary cannot be found.
pub fn this_binary(arguments: &[OsString]) -> Result<Command> {
    let mut command = Command::new(own_path()?);
    command.args(arguments);
    Ok(with_one_thread(command))
}

fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("this binary is gone")
}

/// What says how many threads the kernels and candle have.
const ONE_THREAD: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];

fn with_one_thread(mut command: Command) -> Command {
    command.envs(ONE_THREAD.map(|name| (name, "1")));
    command
}

/// The command that trains the run of a folder.
fn trainer(folder: &Path, launcher: Option<&Launcher>) -> Result<Command> {
    let Some(launcher) = launcher else { return this_binary(&worker("train", folder)) };
    let mut command = Command::new(&launcher.program);
    // A launcher may hand no environment to other machines.
    command.args(&launcher.arguments).arg("env").args(ONE_THREAD.map(|name| format!("{name}=1")));
    command.arg(own_path()?).args(worker("train-together", folder));
    // Ctrl-C on a terminal would reach the launcher too, which kills its processes before they have saved.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(with_one_thread(command))
}

fn train_one(
    name: &str,
    folder: &Path,
    board: &Board,
    workers: &Workers,
    stop: &AtomicBool,
) -> Result<()> {
    let bar = board.begin(name);
    let began = Instant::now();
    let launcher = workers.launcher.as_ref();
    let mut child = trainer(folder, launcher)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| match launcher {
            Some(launcher) => format!("--launch: cannot start `{}`", launcher.program),
            None => "cannot start a worker".to_string(),
        })?;
    // The worker stops when this end of its standard input closes, also when we are killed.
    let mut stdin = child.stdin.take();
    let stdout = child.stdout.take().ok_or_else(|| anyhow!("no output"))?;
    let stderr = child.stderr.take().ok_or_else(|| anyhow!("no output"))?;
    let span = Span::current();
    let messages = std::thread::spawn(move || {
        let _in_cell = span.enter();
        log::hand_on(BufReader::new(stderr))
    });
    let progress = std::thread::spawn({
        let bar = bar.clone();
        move || BufReader::new(stdout).lines().map_while(Result::ok).for_each(|l| show(&bar, &l))
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
    bar.finish_and_clear();
    match status.code() {
        Some(0) => {
            board.done(name, began.elapsed());
            Ok(())
        }
        Some(code) if code == i32::from(INTERRUPTED) && stop.load(Ordering::Relaxed) => Ok(()),
        _ if messages.trim().is_empty() => bail!("the worker ended with {status}"),
        _ if launcher.is_some() => bail!("{}", error_of_launched(&messages)),
        _ => bail!("{}", messages.trim().trim_start_matches("error: ")),
    }
}

/// What launched processes ended with: the first error of one of them, without what the launcher says of the
/// others; where one was killed, what the launcher says of it.
fn error_of_launched(messages: &str) -> String {
    let lines = || messages.lines().map(str::trim).filter(|line| !line.is_empty());
    if let Some(error) = lines().find_map(|line| line.strip_prefix("error: ")) {
        return error.to_string();
    }
    let said: Vec<&str> = lines().filter(|line| !line.starts_with("---")).collect();
    format!(
        "one of its processes was ended, and the others with it, or none was started; the same command goes on from \
         the last checkpoint. The launcher says: {}",
        said.join(" ")
    )
}

/// The progress of all runs.
struct Board {
    total: ProgressBar,
    began: Instant,
    count: Mutex<(usize, usize)>,
}

impl Board {
    fn new(runs: usize) -> Self {
        let total = log::bars().add(ProgressBar::new(runs as u64));
        total.set_style(style("{bar:24} {pos}/{len} runs, {elapsed} gone, {eta} left"));
        Self { total, began: Instant::now(), count: Mutex::new((0, runs)) }
    }

    fn begin(&self, name: &str) -> ProgressBar {
        let bar = log::bars().insert_before(&self.total, ProgressBar::new(0));
        bar.set_style(style("{bar:24} {prefix}  step {pos}/{len}  loss {msg}  {eta} left"));
        bar.set_prefix(name.to_string());
        bar
    }

    fn done(&self, name: &str, took: Duration) {
        let mut count = lock(&self.count);
        count.0 += 1;
        self.total.inc(1);
        let (done, runs) = *count;
        let left = self.began.elapsed().mul_f64((runs - done) as f64 / done as f64);
        let (took, left) = (HumanDuration(took), HumanDuration(left));
        info!("[{done}/{runs}] {name} in {took}, about {left} left");
    }
}

fn show(bar: &ProgressBar, line: &str) {
    let Ok(progress) = serde_json::from_str::<Progress>(line) else { return };
    bar.set_length(progress.total as u64);
    bar.set_position(progress.step as u64);
    bar.set_message(format!("{:.3}", progress.loss));
}

/// A template of ours; should it not parse, the default style is better than an end.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_has_one_run_at_a_time_unless_told_otherwise() {
        let side_by_side = |threads, device| Workers::new(threads, None, device).side_by_side;
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        assert_eq!(side_by_side(None, "cpu"), cores);
        assert_eq!((side_by_side(None, "cuda:0"), side_by_side(None, "metal")), (1, 1));
        assert_eq!((side_by_side(Some(3), "cuda:0"), side_by_side(Some(5), "cpu")), (3, 5));
    }

    #[test]
    fn launched_processes_have_one_error() {
        let launcher = "-----\nPrimary job terminated normally, but 1 process returned\n-----\n";
        let both = format!("error: the loss is NaN\nerror: the loss is NaN\n{launcher}");
        assert_eq!(error_of_launched(&both), "the loss is NaN");
        let killed = "-----\nrank 1 exited on signal 9 (Killed).\n-----\n";
        let error = error_of_launched(killed);
        assert!(
            error.ends_with("The launcher says: rank 1 exited on signal 9 (Killed)."),
            "{error}"
        );
    }
}
