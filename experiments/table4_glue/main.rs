//! Table 4: a BERT pre-trained and fine-tuned on GLUE, with and without conditioned tokens.
//!
//! `run` pre-trains every cell (model x arm x tables x budget x seed), fine-tunes it on the tasks that
//! are there and prints the table, `plan` only lists the pre-trainings; `tune` searches rates and table
//! scale for every arm on documents held out from pre-training; `report` rebuilds the table from the
//! records.

mod arm;
mod budget;
mod cell;
mod masked;
mod options;
mod plan;
mod recipe;
mod report;
mod results;
mod sweep;
mod tasks;
mod train;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use experiments::allocator::keep_memory;
use experiments::cells::{self, Cell};
use experiments::folder::Folder;
use experiments::search::{self, Start, Trial, Tuned};
use experiments::timing;
use experiments::worker::{self, interrupted_flag};

use crate::budget::Shares;
use crate::cell::{Pretraining, RunConfig};
use crate::options::{OUT, Options, SEARCH_OUT, SWEEP_OUT};
use crate::plan::Plan;
use crate::results::Together;

/// A BERT on GLUE with and without conditioned tokens.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Command {
    /// Train every cell that is not there yet, then print the table (the default).
    Run(Options),
    /// Search rates and table scale for every arm on held-out documents; write DIR/tuned.json.
    Tune(Options),
    /// Change strength and placement, on held-out documents.
    Sweep(Options),
    /// Print every pre-training with parameters, arithmetic and memory, and train nothing.
    Plan(Options),
    /// Rebuild table and curves from the records of --out.
    Report {
        /// Where the runs are.
        #[arg(long, default_value = OUT)]
        out: PathBuf,
    },
    /// Train one cell (started by `run`).
    #[command(hide = true)]
    Train { folder: PathBuf },
    /// Time the steps of one cell (started by `run`).
    #[command(hide = true)]
    Time { folder: PathBuf },
}

fn main() -> ExitCode {
    keep_memory();
    let cli = Cli::parse();
    let result = match cli.command.unwrap_or(Command::Run(cli.options)) {
        Command::Run(options) => Plan::new(&options, OUT).and_then(|plan| run(&plan)),
        Command::Tune(options) => Plan::new(&options, SEARCH_OUT).and_then(|plan| tune(&plan)),
        Command::Sweep(options) => {
            Plan::new(&options, SWEEP_OUT).and_then(|plan| sweep::run(&plan, &*interrupted_flag()?))
        }
        Command::Plan(options) => Plan::new(&options, OUT).and_then(|plan| print(&plan)),
        Command::Report { out } => report::write(&out),
        Command::Train { folder } => return worker::exit(train::train(&Folder::new(folder))),
        Command::Time { folder } => time(&Folder::new(folder)),
    };
    worker::exit(result.map(|()| true))
}

/// Pre-trains at the budget in tokens, times a step of each arm, pre-trains at the budget in time,
/// fine-tunes all of them, writes and prints the table.
fn run(plan: &Plan) -> Result<()> {
    let (place, stop) = (&plan.place, interrupted_flag()?);
    let train = |cells: &[RunConfig]| cells::train(cells, &place.out, place.threads, &stop);
    let configs = |runs: &[Pretraining]| -> Vec<RunConfig> {
        runs.iter().cloned().map(RunConfig::from).collect()
    };
    let tasks = plan.tasks()?;
    let mut runs = plan.pretrainings()?;
    train(&configs(&runs))?;
    if place.shard.is_part() {
        train(&plan.fine_tunings(&runs, &tasks)?)?;
        eprintln!(
            "this shard is complete; when all are, the same without --shard adds the cells at equal time \
             and makes the table"
        );
        return Ok(());
    }
    let named = |run: &Pretraining| {
        (run.cell.model.to_string(), run.cell.arm.to_string(), run.folder(&place.out))
    };
    timing::measure(&place.out, runs.iter().map(named), &stop)?;
    let shares = Shares::keep(&place.out, &timing::read(&place.out)?, &runs)?;
    let timed = Plan::at_equal_time(&runs, &shares);
    train(&configs(&timed))?;
    runs.extend(timed);
    train(&plan.fine_tunings(&runs, &tasks)?)?;
    report::write(&place.out)
}

/// Times the steps of a cell.
fn time(folder: &Folder) -> Result<()> {
    let config: RunConfig = folder.config()?;
    timing::time(|run, control| train::run_cell(&config, run, control).map(|_| ()))
}

/// Prints what `run` would pre-train.
#[allow(clippy::print_stdout)]
fn print(plan: &Plan) -> Result<()> {
    println!("{}", plan::describe(&plan.pretrainings()?).terminal());
    Ok(())
}

/// Trains the cells of the search and records the best settings of every arm.
fn tune(plan: &Plan) -> Result<()> {
    let cells: Vec<RunConfig> = plan.search()?.into_iter().map(RunConfig::from).collect();
    cells::tune(&cells, &plan.place, &*interrupted_flag()?, choose)
}

/// The best settings among the finished cells of a search in `out`.
fn choose(out: &Path) -> Result<Tuned> {
    let mut trials = Vec::new();
    let mut together = Together::default();
    let mut first: Option<Pretraining> = None;
    for (config, summary) in search::finished::<RunConfig>(out)? {
        let RunConfig::Pretraining(run) = &config else { continue };
        let Start::Point(setting) = run.cell.start else { continue };
        together.check(&config.name(), run, None)?;
        first.get_or_insert_with(|| (**run).clone());
        trials.push(Trial {
            arm: plan::key(run.cell.model, run.cell.arm),
            setting,
            seed: run.cell.seed,
            loss: summary.metrics.get("tune_loss").copied().flatten(),
        });
    }
    let Some(first) = first else { bail!("{}: no finished cell of a search", out.display()) };
    let data = (first.text.name.as_str(), first.text.hash.as_str());
    Tuned::choose(first.preset.name(), data, trials, |_| recipe::grid(first.preset))
}
