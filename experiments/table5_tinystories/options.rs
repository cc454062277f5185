//! What is typed: checked and completed by [`crate::plan`].

use std::path::PathBuf;

use clap::Args;
use experiments::options::Common;

/// Where runs go unless another folder is named.
pub(crate) const OUT: &str = "runs/table5-tinystories";

/// Where searches go unless another folder is named.
pub(crate) const SEARCH_OUT: &str = "runs/table5-tinystories-search";

/// Where sweeps go unless another folder is named.
pub(crate) const SWEEP_OUT: &str = "runs/table5-tinystories-sweep";

/// What is run, on what, and where it goes.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// smoke (seconds), short (minutes, generated stories), shakespeare (--data tiny Shakespeare),
    /// tinystories-cpu (--data some MiB of TinyStories, an hour), paper and paper-gpt2 (all of
    /// TinyStories, a GPU). Default: short; with --data: tinystories-cpu.
    #[arg(long)]
    pub(crate) preset: Option<String>,
    /// Runs the literal method although it sees the tokens that it has to predict; its rows are
    /// marked.
    #[arg(long)]
    pub(crate) allow_future_leak: bool,
    /// A text file, a .jsonl file with documents under `text`, a folder of text files, or hub:ID, a
    /// data set of the hub (roneneldan/TinyStories).
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// A GPT-2 folder of Hugging Face, or hub:ID, that every cell starts from, its tokenizer included; the rate
    /// comes by --set rate=.
    #[arg(long)]
    pub(crate) init: Option<PathBuf>,
    /// Settings found by `tune`. Default: those recorded with this table.
    #[arg(long)]
    pub(crate) tuned: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: Common,
}
