//! Fine-tuning: a checkpoint on a task of texts, with and without conditioned tokens.
//!
//! `run` trains every cell (arm x seed) and prints the table; `sweep` asks one question at a time on a
//! slice of the training texts; `export` writes the model of a cell for others.

mod arm;
mod cell;
mod data;
mod export;
mod options;
mod plan;
mod recipe;
mod report;
mod sweep;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use experiments::allocator::keep_memory;
use experiments::cells;
use experiments::folder::Folder;
use experiments::timing;
use experiments::worker::{self, interrupted_flag};

use crate::cell::RunConfig;
use crate::export::{Case, Export};
use crate::options::{OUT, Options, SWEEP_OUT};
use crate::plan::Plan;

/// Fine-tuning of a BERT on a task of texts, with and without conditioned tokens.
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
    /// Change rate, strength and placement one at a time, on a slice of the training texts.
    Sweep(Options),
    /// Write the model of a finished cell as a folder of Hugging Face.
    Export(Export),
    /// Write parameters and batches with which a cell starts, for a comparison.
    Case(Case),
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
        Command::Sweep(options) => {
            Plan::new(&options, SWEEP_OUT).and_then(|plan| sweep::run(&plan, &*interrupted_flag()?))
        }
        Command::Export(options) => export::export(&options),
        Command::Case(options) => export::case(&options),
        Command::Report { out } => report::write(&out),
        Command::Train { folder } => return worker::exit(train::train(&Folder::new(folder))),
        Command::Time { folder } => time(&Folder::new(folder)),
    };
    worker::exit(result.map(|()| true))
}

/// Trains the cells of the table, times a step of each arm, writes and prints the table.
fn run(plan: &Plan) -> Result<()> {
    let named = |config: &RunConfig| (report::ROW.to_string(), config.cell.arm.to_string());
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
