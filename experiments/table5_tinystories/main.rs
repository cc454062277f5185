//! Table 5: a GPT-2 on stories, with conditioned tokens that do not see the future.
//!
//! `run` trains every cell (arm x tables x seed) and prints the table, `plan` only lists them; `tune` searches rates and
//! table scale for every arm on documents held out from training; `report` rebuilds the table from
//! the records.

mod arm;
mod cell;
mod data;
mod init;
mod model;
mod options;
mod plan;
mod recipe;
mod report;
mod results;
mod sweep;
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
use crate::model::{Eval, Export, Generate};
use crate::options::{OUT, Options, SEARCH_OUT, SWEEP_OUT};
use crate::plan::Plan;

/// GPT-2 on stories with and without conditioned tokens.
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
    /// Change strength, momentum and placement one at a time, on held-out documents.
    Sweep(Options),
    /// Print every cell with parameters, arithmetic and memory, and train nothing.
    Plan(Options),
    /// Write the model of a finished cell as a plain GPT-2 of Hugging Face.
    Export(Export),
    /// Print what a text costs a GPT-2 of Hugging Face.
    Eval(Eval),
    /// Let a GPT-2 of Hugging Face continue a prompt.
    Generate(Generate),
    /// Rebuild table, curves and stories from the records of --out.
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
        Command::Export(options) => model::export(&options),
        Command::Eval(options) => model::eval(&options),
        Command::Generate(options) => model::write(&options),
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

/// Prints what `run` would train.
#[allow(clippy::print_stdout)]
fn print(plan: &Plan) -> Result<()> {
    println!("{}", plan::describe(&plan.table()?).terminal());
    Ok(())
}

/// Trains the cells of the search and records the best settings of every arm.
fn tune(plan: &Plan) -> Result<()> {
    let choose = |out: &Path| tune::choose(&search::finished(out)?);
    cells::tune(&plan.search()?, &plan.place, &*interrupted_flag()?, choose)
}
