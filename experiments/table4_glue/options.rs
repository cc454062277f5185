//! What is typed: checked and completed by [`crate::plan`].

use std::path::PathBuf;

use clap::Args;
use experiments::options::Common;

/// Where runs go unless another folder is named.
pub(crate) const OUT: &str = "runs/table4-glue";

/// Where searches go unless another folder is named.
pub(crate) const SEARCH_OUT: &str = "runs/table4-glue-search";

/// Where sweeps go unless another folder is named.
pub(crate) const SWEEP_OUT: &str = "runs/table4-glue-sweep";

/// What is run, on what, and where it goes.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// smoke (seconds), short (minutes, generated text and pairs), glue-cpu (--corpus and --data, hours),
    /// paper (--corpus and --data, days of a GPU). Default: short; with --data: glue-cpu.
    #[arg(long)]
    pub(crate) preset: Option<String>,
    /// crammed-bert, bert. Default: crammed-bert.
    #[arg(long, value_delimiter = ',')]
    pub(crate) models: Option<Vec<String>>,
    /// The text to pre-train on: a text file, a .jsonl file with documents under `text`, a folder of
    /// text files, or hub:ID.
    #[arg(long)]
    pub(crate) corpus: Option<PathBuf>,
    /// A folder with the files of GLUE, a folder per task (rte, RTE, ...), or hub:ID (nyu-mll/glue); tasks
    /// that are not there stay empty in the table.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Settings found by `tune`. Default: those recorded with this table.
    #[arg(long)]
    pub(crate) tuned: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: Common,
}
