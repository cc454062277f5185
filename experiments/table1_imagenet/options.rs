//! What is typed: checked and completed by [`crate::plan`].

use std::path::PathBuf;

use clap::Args;
use experiments::options::Common;

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
    /// A folder of IDX files (MNIST, Fashion-MNIST, KMNIST: 28 x 28, 10 classes), gzipped or not.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Settings found by `tune`. Default: those recorded with this table.
    #[arg(long)]
    pub(crate) tuned: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: Common,
}
