//! What is typed: checked and completed by [`crate::plan`].

use std::path::PathBuf;

use clap::Args;

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
    /// The folder with the files of a GLUE task.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// The texts to report on, of a task in a file of your own.
    #[arg(long)]
    pub(crate) dev: Option<PathBuf>,
    /// The labels of a file are scores, not classes.
    #[arg(long)]
    pub(crate) scores: bool,
    /// baseline, pooled, per-sequence, norm-matched. Default: baseline, pooled.
    #[arg(long, value_delimiter = ',')]
    pub(crate) arms: Option<Vec<String>>,
    /// Seeds per arm. Default: 3; of a sweep 1.
    #[arg(long)]
    pub(crate) seeds: Option<u64>,
    /// cpu, cuda:N or metal.
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// Cells side by side, one thread each. Default: the number of cores.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Where runs and tables go. Default: runs/finetune; of a sweep runs/finetune-sweep.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Override a field of the recipe.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}
