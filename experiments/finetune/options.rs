//! What is typed: checked and completed by [`crate::plan`].

use std::path::PathBuf;

use clap::Args;
use experiments::options::Common;

/// Where runs go unless another folder is named.
pub(crate) const OUT: &str = "runs/finetune";

/// Where sweeps go unless another folder is named.
pub(crate) const SWEEP_OUT: &str = "runs/finetune-sweep";

/// What is fine-tuned on what, and where it goes.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// A BERT folder of Hugging Face with its tokenizer, or hub:ID.
    #[arg(long)]
    pub(crate) init: Option<PathBuf>,
    /// A task of GLUE (cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte; with --data), or a .csv, .tsv or
    /// .jsonl file with the columns text, perhaps text2, and label (with --dev).
    #[arg(long)]
    pub(crate) task: Option<String>,
    /// The folder with the files of a GLUE task, or hub:ID (nyu-mll/glue).
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// The texts to report on, of a task in a file of your own.
    #[arg(long)]
    pub(crate) dev: Option<PathBuf>,
    /// The labels of a file are scores, not classes.
    #[arg(long)]
    pub(crate) scores: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}
