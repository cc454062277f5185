//! Finished runs: from run folders to the lines of `results.csv`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use conditioned_train::{Event, record};
use experiments::folder;
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Row};
use crate::cell::{Cell, RunConfig, Start};
use crate::recipe::Preset;
use crate::train::Summary;

/// One finished run: a line of `results.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Finished {
    /// The preset of its recipe.
    pub(crate) preset: Preset,
    /// The images, by name.
    pub(crate) data: String,
    /// The row of the table.
    pub(crate) row: Row,
    /// The arm.
    pub(crate) arm: Arm,
    /// Where its setting comes from.
    pub(crate) start: Block,
    /// Whether its setting is the best of all that were searched.
    pub(crate) best: bool,
    /// Its seed.
    pub(crate) seed: u64,
    /// Test accuracy in %, after the last step.
    pub(crate) top1: f64,
    /// Test cross-entropy.
    pub(crate) test_loss: Option<f64>,
    /// Accuracy on the tuning slice in %.
    pub(crate) tune_top1: Option<f64>,
    /// Median condition number of the tokens without the method; empty where infinite.
    pub(crate) kappa_plain: Option<f64>,
    /// The same of the tokens that enter block 1.
    pub(crate) kappa_conditioned: Option<f64>,
    /// Training images.
    pub(crate) train_images: usize,
    /// Optimiser steps.
    pub(crate) steps: usize,
    /// Tuning accuracy in % that `steps_to_target` waits for.
    pub(crate) target: f64,
    /// The first evaluated step that reached it.
    pub(crate) steps_to_target: Option<usize>,
    /// Peak rate.
    pub(crate) rate: f64,
    /// Deviation of class token and position table at initialisation.
    pub(crate) table_std: f64,
    /// Trainable scalars.
    pub(crate) parameters: usize,
    /// The commits that trained it.
    pub(crate) commit: String,
}

/// The two questions of the table, and whatever was set by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Block {
    /// Does it help the published model?
    Published,
    /// Does it help a tuned one?
    Tuned,
    /// Rate or scale of the tables as set on the command line.
    Set,
}

impl Block {
    /// All blocks.
    pub(crate) const ALL: [Self; 3] = [Self::Published, Self::Tuned, Self::Set];

    /// The name in a table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Tuned => "tuned",
            Self::Set => "as set",
        }
    }
}

/// The tuning accuracies of a run, by step.
pub(crate) type Accuracies = Vec<(usize, f64)>;

/// All finished runs of the table below `out`, sorted by cell, with their learning curves.
pub(crate) fn collect(out: &Path) -> Result<(Vec<Finished>, Vec<Accuracies>)> {
    if !out.is_dir() {
        bail!("{}: no such folder; `run` makes it", out.display());
    }
    let mut runs = Vec::new();
    let mut seen = Seen::default();
    for folder in folder::find(out)? {
        let config: RunConfig = folder.config()?;
        let (Some(summary), Some(start)) = (folder.summary::<Summary>()?, block(config.cell.start))
        else {
            continue;
        };
        seen.admit(&config, folder.path())?;
        let metric = |name: &str| summary.metrics.get(name).copied().flatten();
        let cell = config.cell;
        let Some(top1) = metric("test_accuracy") else {
            bail!("{}: no test accuracy in summary.json", folder.path().display());
        };
        let result = Finished {
            preset: config.preset,
            data: config.data.name,
            row: cell.row,
            arm: cell.arm,
            start,
            best: config.best,
            seed: cell.seed,
            top1,
            test_loss: metric("test_loss"),
            tune_top1: metric("tune_accuracy"),
            kappa_plain: metric("kappa_plain"),
            kappa_conditioned: metric("kappa_conditioned"),
            train_images: config.data.train_images,
            steps: summary.steps,
            target: config.target,
            steps_to_target: summary.steps_to_target,
            rate: config.fit.schedule.peak,
            table_std: summary.table_std,
            parameters: summary.parameters,
            commit: folder.commits()?,
        };
        let events = record::read(&folder.path().join("metrics.jsonl"))?;
        let accuracies = events.into_iter().filter_map(|event| match event {
            Event::Evaluation { step, metrics, .. } => Some((step, *metrics.get("tune_accuracy")?)),
            _ => None,
        });
        runs.push((result, accuracies.collect()));
    }
    if runs.is_empty() {
        bail!("{}: no finished run", out.display());
    }
    runs.sort_by_key(|(r, _)| (r.row, r.start, r.arm, r.seed));
    Ok(runs.into_iter().unzip())
}

/// The runs read so far: all of one recipe per row, no cell twice.
#[derive(Default)]
struct Seen {
    recipes: BTreeMap<Row, (RunConfig, PathBuf)>,
    cells: Vec<(Cell, PathBuf)>,
}

impl Seen {
    /// Whether a run may stand beside those read so far.
    fn admit(&mut self, config: &RunConfig, path: &Path) -> Result<()> {
        let (row, path) = (config.cell.row, path.to_path_buf());
        let (common, first) =
            self.recipes.entry(row).or_insert_with(|| (config.common(), path.clone()));
        ensure!(
            *common == config.common(),
            "{} and {}: runs of different recipes do not belong in one table; separate them",
            first.display(),
            path.display()
        );
        if let Some((_, first)) = self.cells.iter().find(|(cell, _)| *cell == config.cell) {
            bail!("{} and {}: the same cell twice", first.display(), path.display());
        }
        self.cells.push((config.cell, path));
        Ok(())
    }
}

fn block(start: Start) -> Option<Block> {
    match start {
        Start::Published => Some(Block::Published),
        Start::Tuned => Some(Block::Tuned),
        Start::Set => Some(Block::Set),
        Start::Point(_) => None,
    }
}
