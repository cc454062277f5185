//! What is typed: checked and completed by [`crate::plan`].

use std::path::PathBuf;

use clap::Args;

/// Where runs go unless another folder is named.
pub(crate) const OUT: &str = "runs/table1-imagenet";

/// Where searches go unless another folder is named.
pub(crate) const SEARCH_OUT: &str = "runs/table1-imagenet-search";

/// What is run, on what, and where it goes.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// smoke (seconds), short (minutes, UCI digits), mnist-4k (4,000 images of --data).
    /// Default: short; with --data: mnist-4k.
    #[arg(long)]
    pub(crate) preset: Option<String>,
    /// Rows of the table: vit, deit. Default: those of the preset.
    #[arg(long, value_delimiter = ',')]
    pub(crate) models: Option<Vec<String>>,
    /// Default: baseline, init, conditioned, pooled; on request norm-matched, theorem,
    /// standardised.
    #[arg(long, value_delimiter = ',')]
    pub(crate) arms: Option<Vec<String>>,
    /// Seeds per cell, Default: those of the preset; of a search 3.
    #[arg(long)]
    pub(crate) seeds: Option<u64>,
    /// cpu, cuda:N or metal.
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// Cells side by side, one thread each. Default: the number of cores.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// A folder of IDX files (MNIST, Fashion-MNIST, KMNIST: 28 x 28, 10 classes), gzipped or not.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Where runs and tables go. Default: runs/table1-imagenet; of a search
    /// runs/table1-imagenet-search.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Only cells i, i + n, i + 2n, ... of the plan, written i/n; `report` makes the table when all
    /// are there.
    #[arg(long)]
    pub(crate) shard: Option<String>,
    /// Override a field of the recipe.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Settings found by `tune`. Default: those recorded with this table.
    #[arg(long)]
    pub(crate) tuned: Option<PathBuf>,
}
