//! Finished runs: from run folders to the lines of `results.csv`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use conditioned_train::{Event, record};
use experiments::folder;
use experiments::search::Block;
use serde::{Deserialize, Serialize};

use crate::arm::Arm;
use crate::cell::RunConfig;
use crate::recipe::Preset;
use crate::train::Summary;

/// One finished run: a line of `results.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Finished {
    /// The preset of its recipe.
    pub(crate) preset: Preset,
    /// The text, by name.
    pub(crate) data: String,
    /// The arm.
    pub(crate) arm: Arm,
    /// Where its setting comes from.
    pub(crate) start: Block,
    /// Whether its setting is the best of all that were searched.
    pub(crate) best: bool,
    /// Its seed.
    pub(crate) seed: u64,
    /// Mean loss of the test documents over all positions, in nats per token.
    pub(crate) loss: f64,
    /// The same in bits per byte.
    pub(crate) bits_per_byte: f64,
    /// Mean loss of the next token after the fixed prefixes.
    pub(crate) next_loss: f64,
    /// `next_loss` less the loss of the same tokens inside whole windows.
    pub(crate) leak_gap: f64,
    /// Loss on the tuning slice.
    pub(crate) tune_loss: Option<f64>,
    /// Median condition number of a sequence's tokens without the method; empty where infinite.
    pub(crate) kappa_plain: Option<f64>,
    /// The same of the tokens that enter block 1.
    pub(crate) kappa_conditioned: Option<f64>,
    /// Condition number of the tokens of all sequences, without the method.
    pub(crate) pooled_kappa_plain: Option<f64>,
    /// The same of the tokens that enter block 1.
    pub(crate) pooled_kappa_conditioned: Option<f64>,
    /// Peak rate.
    pub(crate) rate: f64,
    /// Rate of the tables over it.
    pub(crate) table_rate: f64,
    /// Deviation of the token table at initialisation.
    pub(crate) token_std: f64,
    /// Deviation of the position table at initialisation.
    pub(crate) position_std: f64,
    /// Strength t of the method; empty where there is none.
    pub(crate) strength: Option<f64>,
    /// Optimiser steps.
    pub(crate) steps: usize,
    /// Tokens of a step.
    pub(crate) step_tokens: usize,
    /// Training tokens of the text.
    pub(crate) train_tokens: usize,
    /// Trainable scalars.
    pub(crate) parameters: usize,
    /// What a 5-gram model of the training text pays, in nats per token.
    pub(crate) ngram_loss: f64,
    /// The same in bits per byte.
    pub(crate) ngram_bits_per_byte: f64,
    /// The commits that trained it.
    pub(crate) commit: String,
}

/// What stands beside the line of a run.
pub(crate) struct Beside {
    /// Loss on the tuning slice, by step.
    pub(crate) losses: Vec<(usize, f64)>,
    /// What the model wrote.
    pub(crate) story: Option<String>,
}

/// All finished runs of the table below `out`, sorted by cell.
///
/// # Errors
/// When there is none, a record is damaged, or runs do not belong together.
pub(crate) fn collect(out: &Path) -> Result<(Vec<Finished>, Vec<Beside>)> {
    if !out.is_dir() {
        bail!("{}: no such folder; `run` makes it", out.display());
    }
    let mut runs = Vec::new();
    let mut first: Option<(RunConfig, PathBuf)> = None;
    let mut methods = BTreeMap::new();
    for folder in folder::find(out)? {
        let config: RunConfig = folder.config()?;
        let (Some(summary), Some(start)) =
            (folder.summary::<Summary>()?, Block::of(config.cell.start))
        else {
            continue;
        };
        let (common, at) =
            first.get_or_insert_with(|| (config.common(), folder.path().to_path_buf()));
        ensure!(
            *common == config.common(),
            "{} and {}: runs of different recipes do not belong in one table; separate them",
            at.display(),
            folder.path().display()
        );
        let conditioning = config.network.conditioning;
        ensure!(
            *methods.entry(config.cell.arm).or_insert(conditioning) == conditioning,
            "{}: another strength or placement than in other runs of {}; they do not belong in one \
             table; separate them",
            folder.path().display(),
            config.cell.arm
        );
        runs.push((
            finished(&config, &summary, start, &folder)?,
            Beside { losses: losses(&folder)?, story: summary.story },
        ));
    }
    if runs.is_empty() {
        bail!("{}: no finished run", out.display());
    }
    runs.sort_by_key(|(r, _)| (r.start, r.arm, r.seed));
    for pair in runs.windows(2) {
        let [(a, _), (b, _)] = pair else { continue };
        ensure!(
            (a.start, a.arm, a.seed) != (b.start, b.arm, b.seed),
            "{}: {} {} seed {} twice",
            out.display(),
            a.arm,
            a.start.name(),
            a.seed
        );
    }
    Ok(runs.into_iter().unzip())
}

fn finished(
    config: &RunConfig,
    summary: &Summary,
    start: Block,
    folder: &folder::Folder,
) -> Result<Finished> {
    let metric = |name: &str| summary.metrics.get(name).copied().flatten();
    let needed = |name: &str| match metric(name) {
        Some(value) => Ok(value),
        None => bail!("{}: no {name} in summary.json", folder.path().display()),
    };
    let loss = needed("test_loss")?;
    Ok(Finished {
        preset: config.preset,
        data: config.data.text.name.clone(),
        arm: config.cell.arm,
        start,
        best: config.best,
        seed: config.cell.seed,
        loss,
        bits_per_byte: config.data.bits_per_byte(loss),
        next_loss: needed("next_loss")?,
        leak_gap: needed("leak_gap")?,
        tune_loss: metric("tune_loss"),
        kappa_plain: metric("kappa_plain"),
        kappa_conditioned: metric("kappa_conditioned"),
        pooled_kappa_plain: metric("pooled_kappa_plain"),
        pooled_kappa_conditioned: metric("pooled_kappa_conditioned"),
        rate: config.fit.schedule.peak,
        table_rate: config.fit.groups.table_rate,
        token_std: summary.token_std,
        position_std: summary.position_std,
        strength: config.network.conditioning.method.strength(),
        steps: summary.steps,
        step_tokens: config.batch_size * config.window,
        train_tokens: config.data.text.train_tokens,
        parameters: summary.parameters,
        ngram_loss: config.data.ngram_loss,
        ngram_bits_per_byte: config.data.bits_per_byte(config.data.ngram_loss),
        commit: folder.commits()?,
    })
}

fn losses(folder: &folder::Folder) -> Result<Vec<(usize, f64)>> {
    let events = record::read(&folder.path().join("metrics.jsonl"))?.into_iter();
    let losses = events.filter_map(|event| match event {
        Event::Evaluation { step, metrics, .. } => Some((step, *metrics.get("tune_loss")?)),
        _ => None,
    });
    Ok(losses.collect())
}
