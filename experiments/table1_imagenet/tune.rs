//! The search that every arm gets alike: peak rate x scale of the tables, on the tuning slice.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use experiments::folder;
use experiments::statistics::Sample;
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Row};
use crate::cell::{Cell, RunConfig, Start};
use crate::recipe::{PUBLISHED_STD, Preset};
use crate::train::Summary;

/// Peak rates and deviations of class token and position table of the search; the first deviation
/// is the published one.
fn axes(preset: Preset) -> (&'static [f64], &'static [f64]) {
    match preset {
        Preset::Smoke => (&[2e-3], &[PUBLISHED_STD, 0.3]),
        Preset::Short => (&[1e-3, 2e-3, 4e-3, 8e-3], &[PUBLISHED_STD, 0.1, 0.3, 1.0]),
        Preset::Mnist4k => (&[1e-3, 3e-3], &[PUBLISHED_STD, 0.5]),
    }
}

/// A point of the search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setting {
    /// Peak rate.
    pub(crate) rate: f64,
    /// Deviation of the tables; null where the arm finds it by itself.
    pub(crate) table_std: Option<f64>,
}

/// The best settings of one arm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Best {
    /// At the published scale of the tables.
    pub(crate) published: Setting,
    /// At any scale.
    pub(crate) tuned: Setting,
}

/// The outcome of a search: row, arm, best settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Tuned(BTreeMap<String, BTreeMap<String, Best>>);

impl Tuned {
    /// The outcome recorded with this table for a preset.
    ///
    /// # Errors
    /// When the record is damaged.
    pub(crate) fn recorded(preset: Preset) -> Result<Self> {
        let text = match preset {
            Preset::Smoke => include_str!("tuned/smoke.json"),
            Preset::Short => include_str!("tuned/short.json"),
            Preset::Mnist4k => include_str!("tuned/mnist-4k.json"),
        };
        serde_json::from_str(text).with_context(|| format!("tuned/{}.json", preset.name()))
    }

    /// The outcome in a file.
    ///
    /// # Errors
    /// When it is missing or of another form.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        folder::read(path)
    }

    /// The best settings of an arm.
    ///
    /// # Errors
    /// When the arm was not searched.
    pub(crate) fn best(&self, row: Row, arm: Arm) -> Result<Best> {
        let best = self.0.get(row.name()).and_then(|arms| arms.get(arm.name()));
        best.copied().ok_or_else(|| {
            anyhow!(
                "{row} {arm}: no settings are recorded for this preset; search them with `tune \
                 --models {row} --arms {arm} --out DIR` and pass `--tuned DIR/tuned.json`"
            )
        })
    }

    /// Adds the outcome of another search, which replaces the same arms.
    pub(crate) fn merge(&mut self, other: Self) {
        for (row, arms) in other.0 {
            self.0.entry(row).or_default().extend(arms);
        }
    }

    /// Chooses the best settings among finished cells.
    ///
    /// # Errors
    /// When an arm has no finished cell at the published scale.
    pub(crate) fn choose(cells: &[(Cell, Summary)]) -> Result<Self> {
        let mut scores: BTreeMap<(Row, Arm), Vec<Score>> = BTreeMap::new();
        for (cell, summary) in cells {
            let Start::Point(setting) = cell.start else {
                bail!("{cell} is not part of a search");
            };
            let scores = scores.entry((cell.row, cell.arm)).or_default();
            let score = match scores.iter_mut().find(|score| score.setting == setting) {
                Some(score) => score,
                None => {
                    scores.push(Score { setting, accuracy: Vec::new(), loss: Vec::new() });
                    let last = scores.len() - 1;
                    &mut scores[last]
                }
            };
            let metric = |name: &str| summary.metrics.get(name).copied().flatten();
            score.accuracy.push(metric("tune_accuracy").unwrap_or(0.0));
            score.loss.push(metric("tune_loss").unwrap_or(f64::INFINITY));
        }
        let mut tuned = Self::default();
        for ((row, arm), scores) in scores {
            let published = best(scores.iter().filter(|score| score.is_published()));
            let (Some(published), Some(any)) = (published, best(scores.iter())) else {
                bail!("{row} {arm}: no cell at the published scale of the tables");
            };
            let best = Best { published, tuned: any };
            tuned.0.entry(row.to_string()).or_default().insert(arm.to_string(), best);
        }
        Ok(tuned)
    }
}

/// The tuning results of a setting over seeds.
struct Score {
    setting: Setting,
    accuracy: Vec<f64>,
    loss: Vec<f64>,
}

impl Score {
    fn is_published(&self) -> bool {
        self.setting.table_std.is_none_or(|std| std == PUBLISHED_STD)
    }

    /// Mean accuracy, then mean loss (the smaller the better).
    fn rank(&self) -> (f64, f64) {
        let mean = |values: &[f64]| Sample::of(values).map_or(f64::NAN, |sample| sample.mean);
        (mean(&self.accuracy), -mean(&self.loss))
    }
}

/// The setting with the highest mean tuning accuracy; the lower mean loss decides ties.
fn best<'a>(scores: impl Iterator<Item = &'a Score>) -> Option<Setting> {
    let best = scores.max_by(|a, b| {
        let ((a, a_loss), (b, b_loss)) = (a.rank(), b.rank());
        a.total_cmp(&b).then(a_loss.total_cmp(&b_loss))
    });
    best.map(|score| score.setting)
}

/// The settings that an arm is searched over: the same grid for every arm that has table scales to
/// choose, and the same rates for the one that finds its own.
pub(crate) fn grid(preset: Preset, arm: Arm) -> Vec<Setting> {
    let (rates, stds) = axes(preset);
    let stds: Vec<Option<f64>> = match arm {
        Arm::Init => vec![None],
        _ => stds.iter().copied().map(Some).collect(),
    };
    let points = rates
        .iter()
        .flat_map(|&rate| stds.iter().map(move |&table_std| Setting { rate, table_std }));
    points.collect()
}

/// The finished cells below `out`.
///
/// # Errors
/// When a record is damaged.
pub(crate) fn finished(out: &Path) -> Result<Vec<(Cell, Summary)>> {
    let mut cells = Vec::new();
    for folder in folder::find(out)? {
        if let Some(summary) = folder.summary()? {
            let config: RunConfig = folder.config()?;
            cells.push((config.cell, summary));
        }
    }
    Ok(cells)
}
