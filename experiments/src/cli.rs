//! The command line of every table, and its commands.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::PossibleValuesParser;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing::{info, info_span};

use crate::allocator::keep_memory;
use crate::arm::Arm;
use crate::budget::Shares;
use crate::plan::{Plan, Purpose, default_out};
use crate::results::Together;
use crate::run::folder::{self, Folder};
use crate::run::log::{self, Format};
use crate::run::queue::Launcher;
use crate::run::worker::{self, interrupted_flag};
use crate::run::{queue, timing};
use crate::search::{Found, Start, Trial, Tuned};
use crate::shard::Shard;
use crate::table::{Command as _, Table};
use crate::{export, report, sweep, tensorboard};
use conditioned_models::Architecture;
use conditioned_nn::store::write_atomic;
use conditioned_report::html;

#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli<T: Table> {
    #[command(subcommand)]
    command: Option<Command<T>>,
    #[command(flatten)]
    options: Options<T>,
    /// The form of progress, warnings and timings on standard error; RUST_LOG=debug shows more of them.
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: Format,
}

/// More than anyone runs: their numbers are added to others.
const MOST_SEEDS: u64 = 1_000_000;

/// What is run, how often, where it is computed, and where it goes.
#[derive(Args, Clone)]
#[group(skip)]
pub struct Options<T: Table> {
    /// A named recipe with its rows, arms and seeds.
    #[arg(long, value_parser = presets::<T>())]
    pub preset: Option<String>,
    /// Rows of the table, separated by commas. Default: those of the preset.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub models: Option<Vec<T::Row>>,
    /// Arms, separated by commas: baseline, per-sequence, pooled, factor, ... (a wrong one prints them all); muon,
    /// and muon+ARM, move the hidden matrices by Muon. Default: those of the preset.
    #[arg(long, value_delimiter = ',')]
    pub arms: Option<Vec<Arm>>,
    /// Seeds per cell. Default: as many as the preset says, fewer in a search or sweep.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MOST_SEEDS))]
    pub seeds: Option<u64>,
    /// Overrides a field of the recipe; a wrong key prints them all.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// A folder of Hugging Face that every cell starts from, or hub:ID.
    #[arg(long)]
    pub init: Option<PathBuf>,
    /// Settings found by `tune`. Default: those recorded with this table. A search begins at them, and looks for
    /// learning rates alone.
    #[arg(long)]
    pub tuned: Option<PathBuf>,
    /// cpu, cuda:N or metal.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Runs side by side, one thread each. Default: the number of cores; one on a GPU.
    #[arg(long, value_parser = positive)]
    pub threads: Option<usize>,
    /// Starts every run by this launcher of MPI, as in --launch "mpirun -n 4": its processes train one model together,
    /// and share the micro-batches of a step (--set accumulate=4). Needs --features mpi; --threads then says how
    /// many runs stand side by side, by default one.
    #[arg(long, value_name = "COMMAND")]
    pub launch: Option<Launcher>,
    /// Only cells i, i + n, i + 2n, ... of the plan, written i/n; when all are there, the same without
    /// --shard makes the table.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Where runs and tables go. Default: runs/NAME of this binary, behind it -PRESET for another preset than that of
    /// `run` without options or data, -search and -sweep.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Options of the table itself.
    #[command(flatten)]
    pub own: T::Options,
}

fn presets<T: Table>() -> PossibleValuesParser {
    PossibleValuesParser::new(T::presets().into_iter().map(|preset| preset.name))
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number of at least 1".to_string()),
        Ok(number) => Ok(number),
    }
}

#[derive(Subcommand)]
enum Command<T: Table> {
    /// Train every cell that is not there yet, then print the table (the default).
    Run(Options<T>),
    /// Print every cell with its parameters, arithmetic, memory and time, and train nothing.
    Plan(Options<T>),
    /// Search learning rates, embedding tables and what the recipe leaves open for every arm, on a slice of the
    /// training data; write DIR/tuned.json and DIR/search.md.
    Tune(Options<T>),
    /// Change one number of the recipe at a time, on a slice of the training data.
    Sweep(Options<T>),
    /// Make table and curves again from the records of --out.
    Report {
        /// The preset whose runs are reported, where --out names no folder. Default: the first one, whose runs are
        /// in runs/NAME of this binary.
        #[arg(long, value_parser = presets::<T>(), conflicts_with = "out")]
        preset: Option<String>,
        /// The folder of the runs, or of their results.csv alone.
        #[arg(long)]
        out: Option<PathBuf>,
        /// A Markdown file to put the table into, between `<!-- NAME PRESET -->` and `<!-- end -->`.
        #[arg(long)]
        insert: Option<PathBuf>,
        /// Also writes the records of all runs for TensorBoard, to the folder `tensorboard` of --out.
        #[arg(long)]
        tensorboard: bool,
        /// Opens the page of the table, report.html, in the browser.
        #[arg(long)]
        open: bool,
    },
    /// Write the model of a finished run for other programs.
    Export {
        /// The folder of a finished run.
        #[arg(long)]
        run: PathBuf,
        /// The folder to write.
        #[arg(long)]
        out: PathBuf,
        /// The program that is to read it, of a ViT.
        #[arg(long, value_enum, default_value_t)]
        layout: export::Layout,
    },
    #[command(flatten)]
    Own(T::Commands),
    /// Train one run (started by `run`).
    #[command(hide = true)]
    Train { folder: PathBuf },
    /// Train one run with the other processes of a launcher (started by `run --launch`).
    #[command(hide = true)]
    TrainTogether { folder: PathBuf },
    /// Time the steps of one run (started by `run`).
    #[command(hide = true)]
    Time { folder: PathBuf },
}

/// The program of a table.
pub fn main<T: Table>() -> ExitCode {
    keep_memory();
    // A flattened group of options would give the program its own description.
    let matches = Cli::<T>::command().name(T::NAME).about(T::ABOUT).get_matches();
    let cli = Cli::<T>::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let command = cli.command.unwrap_or(Command::Run(cli.options));
    match &command {
        Command::Train { folder } => return work::<T>(folder, worker::train),
        Command::TrainTogether { folder } => return work::<T>(folder, worker::train_together),
        Command::Time { folder } => return work::<T>(folder, timing::time),
        _ => {}
    }
    // A reader that has seen enough, such as `head`, ends this process as it ends any other.
    sigpipe::reset();
    log::init(cli.log_format);
    match info_span!("table", table = T::NAME).in_scope(|| run_command(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if cli.log_format == Format::Json => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
        Err(error) => failed(&error),
    }
}

/// What a worker does in the folder of its run.
fn work<T: Table>(folder: &Path, work: fn(&Folder) -> Result<ExitCode>) -> ExitCode {
    let done = log::init_worker(folder).and_then(|()| {
        let span = info_span!("run", table = T::NAME, folder = %folder.display());
        span.in_scope(|| work(&Folder::new(folder)))
    });
    done.unwrap_or_else(|error| failed(&error))
}

/// The main function of a program that is no table: its memory, its pipes, its end.
pub fn program(run: impl FnOnce() -> Result<()>) -> ExitCode {
    keep_memory();
    sigpipe::reset();
    run().map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

/// The end of a process that failed: what is wrong, on standard error, whatever `RUST_LOG` says.
///
/// In one write: the launcher of several processes mixes what they say wherever a write ends.
fn failed(error: &anyhow::Error) -> ExitCode {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("error: {error:#}\n").as_bytes());
    ExitCode::FAILURE
}

/// Prints a line of a result.
///
/// # Errors
/// When standard output cannot be written.
pub fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output")
}

fn run_command<T: Table>(command: Command<T>) -> Result<()> {
    match command {
        Command::Run(options) => run(&Plan::<T>::new(&options, Purpose::Table)?),
        Command::Plan(options) => {
            let plan = Plan::<T>::new(&options, Purpose::Plan)?;
            print(&plan.describe(&plan.table()?)?.terminal(conditioned_report::grid::Grid::width()))
        }
        Command::Tune(options) => tune(&Plan::<T>::new(&options, Purpose::Search)?),
        Command::Sweep(options) => {
            sweep::run(&Plan::<T>::new(&options, Purpose::Sweep)?, &*interrupted_flag()?)
        }
        Command::Report { preset, out, insert, tensorboard, open } => {
            let first = T::presets().first().map_or("", |first| first.name);
            let preset = preset.as_deref().unwrap_or(first);
            let out = out.unwrap_or_else(|| default_out::<T>(preset, ""));
            report::write::<T>(&out, insert.as_deref())?;
            if tensorboard {
                let board = tensorboard::write(&out)?;
                print(&format!("tensorboard --logdir {}", board.display()))?;
            }
            if open {
                html::open(&out.join(report::PAGE))?;
            }
            Ok(())
        }
        Command::Export { run, out, layout } => export::export(&run, &out, layout),
        Command::Own(command) => command.run(),
        Command::Train { .. } | Command::TrainTogether { .. } | Command::Time { .. } => {
            bail!("a worker is no command")
        }
    }
}

/// Trains the cells of the table stage by stage, times a step of each row and arm, writes and prints the
/// table.
fn run<T: Table>(plan: &Plan<T>) -> Result<()> {
    let stop = interrupted_flag()?;
    let cells = plan.table()?;
    info!("{}", plan.announcement(&cells));
    let train = |runs: &[_]| queue::train(runs, &plan.out, &plan.workers, &stop);
    let mut runs = cells.runs.clone();
    let mut together = queue::check(&runs, &plan.out)?;
    for run in plan.stages_to_come(&cells, &runs)? {
        together.check(&run.folder(&plan.out), &run)?;
    }
    plan.keep_settings(&runs)?;
    train(&runs)?;
    if plan.shard.is_part() {
        train(&plan.later_stages(&cells, &runs)?)?;
        info!("this shard is complete; when all are, the same without --shard makes the table");
        return Ok(());
    }
    let timings = timing::measure(&plan.out, &runs, &stop)?;
    if plan.preset().equal_time {
        let timed = Shares::keep(&plan.out, &timings, &runs)?.at_equal_time(&runs);
        train(&timed)?;
        runs.extend(timed);
    }
    train(&plan.later_stages(&cells, &runs)?)?;
    report::write::<T>(&plan.out, None)
}

/// Searches round by round, each from what those before it found; writes the best settings of every arm to
/// `tuned.json`, and what every arm was given to `search.md`.
fn tune<T: Table>(plan: &Plan<T>) -> Result<()> {
    let stop: &AtomicBool = &*interrupted_flag()?;
    loop {
        let cells = plan.search(&Searched::read(plan)?.found)?;
        if cells.runs.is_empty() && !plan.shard.is_part() {
            break;
        }
        info!("next round of the search: {}", plan.announcement(&cells));
        queue::train(&cells.runs, &plan.out, &plan.workers, stop)?;
        if plan.shard.is_part() {
            info!(
                "this shard of the round is complete; when all are, the same again goes on, and `tune` without \
                 --shard ends the search"
            );
            return Ok(());
        }
    }
    let Searched { found, names, hashes } = Searched::read(plan)?;
    let data = (names.join("; "), hashes.join("; "));
    let axes = |row: &str, arm| plan.axes(row, arm);
    let tuned = Tuned::choose(plan.preset().name, (&data.0, &data.1), found, plan.effort(), axes)?;
    let table = tuned.table(T::TITLE);
    write_atomic(&plan.out.join("search.md"), table.markdown().as_bytes())
        .with_context(|| plan.out.display().to_string())?;
    print(&table.terminal(conditioned_report::grid::Grid::width()))?;
    let path = plan.out.join("tuned.json");
    folder::write(&path, &tuned)?;
    print(&path.display().to_string())
}

/// The finished runs of a search.
#[derive(Default)]
struct Searched {
    found: Found,
    /// Rows may have data of their own.
    names: Vec<String>,
    hashes: Vec<String>,
}

impl Searched {
    /// Those of a plan in its folder.
    fn read<T: Table>(plan: &Plan<T>) -> Result<Self> {
        let mut trials = Vec::new();
        let mut together = Together::default();
        let mut finished = Self::default();
        if !plan.out.exists() {
            return Ok(finished);
        }
        for folder in folder::find(&plan.out)? {
            let config = folder.config()?;
            let Some(summary) = folder.summary()? else { continue };
            let Start::Point(setting) = config.cell.start else { continue };
            ensure!(
                (config.table.as_str(), config.preset.as_str()) == (T::NAME, plan.preset().name),
                "{}: a search of {}, preset {}; choose another --out",
                folder.path().display(),
                config.table,
                config.preset
            );
            together.check(folder.path(), &config)?;
            let (name, hash) = config.job.task.data();
            if !finished.hashes.iter().any(|known| known == hash) {
                finished.names.push(name.to_string());
                finished.hashes.push(hash.to_string());
            }
            let strength = config.job.network.conditioning().method.strength();
            trials.push(Trial {
                row: config.cell.row.clone(),
                arm: config.cell.arm,
                strength: strength.filter(|_| setting.strength.is_none()),
                setting,
                seed: config.cell.seed,
                loss: summary.metric("tune_loss"),
                score: T::SCORE.map(|score| summary.metric(score)),
            });
        }
        finished.found = Found::new(trials)?;
        Ok(finished)
    }
}
