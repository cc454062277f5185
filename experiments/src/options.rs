//! The options that every table has.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::cells::{self, Shard};
use crate::device;

/// What is run, how often, where it is computed, and where it goes.
#[derive(Args, Clone)]
pub struct Common {
    /// Arms by name, separated by commas; an unknown name prints them all. Default: the usual ones of the
    /// table.
    #[arg(long, value_delimiter = ',')]
    pub arms: Option<Vec<String>>,
    /// Seeds per cell. Default: as many as the table says, fewer in a search or sweep.
    #[arg(long)]
    pub seeds: Option<u64>,
    /// cpu, cuda:N or metal.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Cells side by side, one thread each. Default: the number of cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Where runs and tables go. Default: runs/NAME of this binary, runs/NAME-search, runs/NAME-sweep.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only cells i, i + n, i + 2n, ... of the plan, written i/n; when all are there, the same without
    /// --shard makes the table.
    #[arg(long)]
    shard: Option<String>,
    /// Override a field of the recipe; a wrong key prints them all.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// How cells are run.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where runs and tables go.
    pub out: PathBuf,
    /// Cells side by side.
    pub threads: usize,
    /// Which of the cells are run here.
    pub shard: Shard,
}

impl Place {
    /// That a sweep, which prints all its cells, is not one of several shards.
    ///
    /// # Errors
    /// When it is.
    pub fn is_whole(&self) -> Result<()> {
        ensure!(!self.shard.is_part(), "--shard: is for `run` and `tune`");
        Ok(())
    }
}

impl Common {
    /// Checks what is the same for every table; `out` is where runs go by default.
    ///
    /// # Errors
    /// When a number is zero, the shard is none, or the device is not there.
    pub fn place(&self, out: &str) -> Result<Place> {
        ensure!(self.seeds != Some(0), "--seeds 0: a cell needs at least one seed");
        device::open(&self.device)?;
        Ok(Place {
            out: self.out.clone().unwrap_or_else(|| out.into()),
            threads: cells::side_by_side(self.threads)?,
            shard: Shard::parse(self.shard.as_deref())?,
        })
    }
}
