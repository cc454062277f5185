//! The cells of a plan: their folders claimed, those not complete trained side by side.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::folder::{self, Folder};
use crate::options::Place;
use crate::timing;
use crate::workers::{self, Job};

/// The whole configuration of one cell.
pub trait Cell: Serialize + DeserializeOwned + PartialEq {
    /// Its result.
    type Summary: Serialize + DeserializeOwned;

    /// What it is called.
    fn name(&self) -> String;

    /// Its folder below `out`.
    fn folder(&self, out: &Path) -> PathBuf;

    /// Whether it is a point of a search: one that diverges is a result, the worst, and of the run
    /// only the scores are kept.
    fn is_search(&self) -> bool;

    /// Whether its checkpoints stay when it is finished: of hundreds of them nobody needs all.
    fn keeps_checkpoints(&self) -> bool {
        !self.is_search()
    }

    /// The result of a run whose loss became infinite.
    fn diverged(&self) -> Self::Summary;
}

/// Trains those of `cells` that are not complete, each by `train FOLDER` of this binary.
///
/// # Errors
/// When a folder holds another run, before anything is written; the first failure; or that the run
/// was interrupted.
pub fn train<C: Cell>(
    cells: &[C],
    out: &Path,
    side_by_side: usize,
    stop: &AtomicBool,
) -> Result<()> {
    std::fs::create_dir_all(out)
        .with_context(|| format!("--out {}: cannot be created", out.display()))?;
    let folder = |cell: &C| Folder::new(cell.folder(out));
    for cell in cells {
        folder(cell).check(cell)?;
    }
    let mut jobs = Vec::new();
    for cell in cells {
        let folder = folder(cell);
        folder.claim(cell)?;
        if folder.summary::<C::Summary>()?.is_none() {
            jobs.push(Job { name: cell.name(), arguments: worker("train", folder.path()) });
        }
    }
    let kept = cells.len() - jobs.len();
    if kept > 0 {
        eprintln!("{kept} of {} cells are complete and are kept", cells.len());
    }
    workers::run(jobs, side_by_side, stop)
}

/// Trains the cells of a table and times a step of every row and arm, which `named` gives; `false` when
/// they are those of a shard, and other cells of the table are still to come.
///
/// # Errors
/// As [`train`], or when a step cannot be timed.
pub fn table<C: Cell>(
    cells: &[C],
    place: &Place,
    stop: &AtomicBool,
    named: impl Fn(&C) -> (String, String),
) -> Result<bool> {
    train(cells, &place.out, place.threads, stop)?;
    if place.shard.is_part() {
        eprintln!("this shard is complete; when all are, the same without --shard makes the table");
        return Ok(false);
    }
    let timed = cells.iter().map(|cell| {
        let (row, arm) = named(cell);
        (row, arm, cell.folder(&place.out))
    });
    timing::measure(&place.out, timed, stop)?;
    Ok(true)
}

/// Trains the cells of a search, and writes the best settings that `choose` finds in the folder to
/// `tuned.json`.
///
/// # Errors
/// As [`train`], or when the search is not complete.
pub fn tune<C: Cell, T: Serialize>(
    cells: &[C],
    place: &Place,
    stop: &AtomicBool,
    choose: impl FnOnce(&Path) -> Result<T>,
) -> Result<()> {
    train(cells, &place.out, place.threads, stop)?;
    if place.shard.is_part() {
        eprintln!("this shard is complete; when all are, `tune` without --shard records the best");
        return Ok(());
    }
    let path = place.out.join("tuned.json");
    folder::write(&path, &choose(&place.out)?)?;
    eprintln!("{}", path.display());
    Ok(())
}

/// The arguments that make this binary a worker on a run folder.
pub fn worker(command: &str, folder: &Path) -> Vec<OsString> {
    vec![command.into(), folder.into()]
}

/// Which part of a plan is run here: cells i, i + n, i + 2n, ...
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// From `i/n`; nothing is the whole.
    ///
    /// # Errors
    /// When it is not i/n with 0 <= i < n.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self { index: 0, count: 1 }) };
        let parts = text.split_once('/');
        match parts.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?))) {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            _ => bail!("--shard {text}: expected i/n with 0 <= i < n"),
        }
    }

    /// Whether other shards train other cells of the same plan.
    pub fn is_part(self) -> bool {
        self.count > 1
    }

    /// The cells of this shard.
    pub fn take<C>(self, cells: Vec<C>) -> Vec<C> {
        cells.into_iter().skip(self.index).step_by(self.count).collect()
    }
}

/// Cells side by side: as asked for, or as many as there are cores.
///
/// # Errors
/// When it is zero.
pub fn side_by_side(threads: Option<usize>) -> Result<usize> {
    match threads {
        Some(0) => bail!("--threads 0: at least one thread is needed"),
        Some(threads) => Ok(threads),
        None => Ok(std::thread::available_parallelism().map_or(1, Into::into)),
    }
}
