//! Table 1: image classification with and without conditioned tokens.
//!
//! `run` trains every cell (model x arm x initialisation x seed) and prints the table; `tune`
//! searches rate and table scale for every arm on the tuning slice; `report` rebuilds the table
//! from the records.

mod arm;
mod cell;
mod data;
mod options;
mod plan;
mod recipe;
mod report;
mod results;
mod task;
mod train;
mod tune;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use experiments::allocator::keep_memory;
use experiments::cells;
use experiments::folder::Folder;
use experiments::worker::{self, interrupted_flag};
use experiments::{search, timing};

use crate::cell::RunConfig;
use crate::options::{OUT, Options, SEARCH_OUT};
use crate::plan::Plan;
use crate::tune::Tuned;

/// Image classification with and without conditioned tokens (ViT and DeiT).
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
    /// Search peak rate and table scale for every arm on the tuning slice; write DIR/tuned.json.
    Tune(Options),
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
        Command::Report { out } => report::write(&out),
        Command::Train { folder } => return worker::exit(train::train(&Folder::new(folder))),
        Command::Time { folder } => time(&Folder::new(folder)),
    };
    worker::exit(result.map(|()| true))
}

/// Trains the cells of the table, times a step of each arm, writes and prints the table.
fn run(plan: &Plan) -> Result<()> {
    let named = |config: &RunConfig| (config.cell.row.to_string(), config.cell.arm.to_string());
    match cells::table(&plan.table()?, &plan.place, &*interrupted_flag()?, named)? {
        true => report::write(&plan.place.out),
        false => Ok(()),
    }
}

/// Times the steps of a cell.
fn time(folder: &Folder) -> Result<()> {
    let config: RunConfig = folder.config()?;
    timing::time(|run, control| train::run_cell(&config, run, control).map(|_| ()))
}

/// Trains the cells of the search and records the best settings of every arm.
fn tune(plan: &Plan) -> Result<()> {
    let choose = |out: &Path| Tuned::choose(&search::finished(out)?);
    cells::tune(&plan.search()?, &plan.place, &*interrupted_flag()?, choose)
}
