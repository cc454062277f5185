//! The search that every arm gets alike: peak rate, scale and rate of the tables, on the tuning
//! slice.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use experiments::folder;
use experiments::statistics::Sample;
use serde::{Deserialize, Serialize};

use crate::arm::Arm;
use crate::cell::{RunConfig, Start};
use crate::recipe::Preset;
use crate::train::Summary;

/// The published deviation of token and position table.
pub(crate) const PUBLISHED_STD: f64 = 0.02;

/// A point of the search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setting {
    /// Peak rate.
    pub(crate) rate: f64,
    /// Rate of the tables over it.
    pub(crate) table_rate: f64,
    /// Deviation of both tables; null where the arm finds its own.
    pub(crate) table_std: Option<f64>,
}

impl Setting {
    fn is_published(&self) -> bool {
        self.table_rate == 1.0 && self.table_std.is_none_or(|std| std == PUBLISHED_STD)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rate{}-x{}", self.rate, self.table_rate)?;
        self.table_std.map_or(Ok(()), |std| write!(f, "-std{std}"))
    }
}

/// The settings that an arm is searched over: every rate with the published tables, and every rate
/// with a larger scale and with a larger rate of the tables; `init`, which finds its own scale,
/// has the rates.
pub(crate) fn grid(preset: Preset, arm: Arm) -> Vec<Setting> {
    let (rates, tables): (&[f64], &[(f64, f64)]) = match preset {
        Preset::Smoke => (&[3e-3], &[(1.0, PUBLISHED_STD), (10.0, PUBLISHED_STD)]),
        Preset::Short | Preset::TinystoriesCpu => (
            &[4e-3, 8e-3, 1.6e-2, 3.2e-2],
            &[(1.0, PUBLISHED_STD), (1.0, 0.1), (1.0, 0.3), (4.0, PUBLISHED_STD), (4.0, 0.1)],
        ),
        Preset::Shakespeare | Preset::Paper | Preset::PaperGpt2 => {
            (&[3e-3, 6e-3, 1.2e-2], &[(1.0, PUBLISHED_STD), (1.0, 0.1), (10.0, PUBLISHED_STD)])
        }
    };
    let mut settings = Vec::new();
    for &rate in rates {
        for &(table_rate, std) in tables {
            match arm {
                Arm::Init if std != PUBLISHED_STD => {}
                Arm::Init => settings.push(Setting { rate, table_rate, table_std: None }),
                _ => settings.push(Setting { rate, table_rate, table_std: Some(std) }),
            }
        }
    }
    settings
}

/// The search of one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Search {
    /// The best setting with tables as published.
    pub(crate) published: Setting,
    /// The best of all.
    pub(crate) tuned: Setting,
    /// All that was tried.
    points: Vec<Point>,
}

/// The tuning losses of a setting, by seed; null where the loss became infinite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    setting: Setting,
    seeds: Vec<u64>,
    loss: Vec<Option<f64>>,
}

impl Point {
    fn mean(&self) -> f64 {
        let values: Vec<f64> = self.loss.iter().map(|l| l.unwrap_or(f64::INFINITY)).collect();
        Sample::of(&values).map_or(f64::INFINITY, |sample| sample.mean)
    }
}

/// The outcome of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tuned {
    preset: Preset,
    /// The text searched on, by name and BLAKE3.
    data: String,
    data_hash: String,
    arms: BTreeMap<Arm, Search>,
}

impl Tuned {
    /// The outcome recorded with this table for a preset; that of `short` for `tinystories-cpu`,
    /// whose own search would take a day.
    ///
    /// # Errors
    /// When the record is damaged.
    pub(crate) fn recorded(preset: Preset) -> Result<Option<Self>> {
        let text = match preset {
            Preset::Smoke => include_str!("tuned/smoke.json"),
            Preset::Short | Preset::TinystoriesCpu => include_str!("tuned/short.json"),
            Preset::Shakespeare => include_str!("tuned/shakespeare.json"),
            Preset::Paper | Preset::PaperGpt2 => return Ok(None),
        };
        let tuned = serde_json::from_str(text);
        Ok(Some(tuned.with_context(|| format!("recorded settings of {preset}"))?))
    }

    /// The outcome in a file, which must be that of a search with `preset`.
    ///
    /// # Errors
    /// When it is missing, of another form or another preset.
    pub(crate) fn read(path: &Path, preset: Preset) -> Result<Self> {
        let tuned: Self = folder::read(path)?;
        ensure!(
            tuned.preset == preset,
            "{}: settings of preset {}, this run has {preset}",
            path.display(),
            tuned.preset
        );
        Ok(tuned)
    }

    /// The search of an arm.
    ///
    /// # Errors
    /// When the arm was not searched.
    pub(crate) fn best(&self, arm: Arm) -> Result<&Search> {
        self.arms.get(&arm).ok_or_else(|| unsearched(arm))
    }

    /// Adds the outcome of another search, which replaces the same arms.
    pub(crate) fn merge(&mut self, other: Self) {
        self.arms.extend(other.arms);
    }

    /// Chooses the best settings among the finished cells of a search.
    ///
    /// # Errors
    /// When there are none, they are not of one recipe, or a grid is not complete with the same
    /// seeds everywhere: an arm must not be searched less than another.
    pub(crate) fn choose(cells: &[(RunConfig, Summary)]) -> Result<Self> {
        let Some((first, _)) = cells.first() else { bail!("no finished cell of a search") };
        let mut points: BTreeMap<Arm, Vec<Point>> = BTreeMap::new();
        for (config, summary) in cells {
            let Start::Point(setting) = config.cell.start else { continue };
            ensure!(config.common() == first.common(), "{}: another recipe", config.cell);
            let points = points.entry(config.cell.arm).or_default();
            let at =
                points.iter().position(|point| point.setting == setting).unwrap_or_else(|| {
                    points.push(Point { setting, seeds: Vec::new(), loss: Vec::new() });
                    points.len() - 1
                });
            points[at].seeds.push(config.cell.seed);
            points[at].loss.push(summary.metrics.get("tune_loss").copied().flatten());
        }
        let seeds = points.values().flatten().next().map_or(Vec::new(), |p| p.seeds.clone());
        let mut arms = BTreeMap::new();
        for (arm, points) in points {
            let search = Search::choose(first.preset, arm, points, &seeds);
            arms.insert(arm, search.with_context(|| arm.to_string())?);
        }
        let (data, data_hash) = (first.data.name.clone(), first.data.hash.clone());
        Ok(Self { preset: first.preset, data, data_hash, arms })
    }
}

/// That an arm has no settings, and what to do.
pub(crate) fn unsearched(arm: Arm) -> anyhow::Error {
    let flag = if arm == Arm::Literal { " --allow-future-leak" } else { "" };
    anyhow!(
        "{arm}: no settings are recorded for this preset. Search them with `tune --arms {arm}{flag} \
         --out DIR` and pass `--tuned DIR/tuned.json`, or give the rate with `--set rate=R`"
    )
}

impl Search {
    /// The best of a complete grid.
    fn choose(preset: Preset, arm: Arm, mut points: Vec<Point>, seeds: &[u64]) -> Result<Self> {
        let grid = grid(preset, arm);
        // What an older grid left behind takes no part.
        points.retain(|point| grid.contains(&point.setting));
        for setting in grid {
            let point = points.iter().find(|point| point.setting == setting);
            ensure!(
                point.is_some_and(|point| point.seeds == seeds),
                "{setting}: not searched with seeds {seeds:?}; run the same search again, without \
                 --shard"
            );
        }
        let best = |keep: fn(&Setting) -> bool| {
            let kept = points.iter().filter(|point| keep(&point.setting));
            kept.min_by(|a, b| a.mean().total_cmp(&b.mean())).map(|point| point.setting)
        };
        match (best(Setting::is_published), best(|_| true)) {
            (Some(published), Some(tuned)) => Ok(Self { published, tuned, points }),
            _ => bail!("no point of the search"),
        }
    }
}

/// The finished cells below `out`, in path order.
///
/// # Errors
/// When a record is damaged.
pub(crate) fn finished(out: &Path) -> Result<Vec<(RunConfig, Summary)>> {
    let mut cells = Vec::new();
    for folder in folder::find(out)? {
        if let Some(summary) = folder.summary()? {
            cells.push((folder.config()?, summary));
        }
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smoke grid: one rate, tables as published and at ten times the rate.
    fn points(published: &[Option<f64>], faster: &[Option<f64>]) -> Vec<Point> {
        let losses = [published, faster];
        let settings = grid(Preset::Smoke, Arm::Pooled).into_iter().zip(losses);
        let point = |(setting, loss): (Setting, &[Option<f64>])| {
            let seeds = (0..loss.len() as u64).collect();
            Point { setting, seeds, loss: loss.to_vec() }
        };
        settings.map(point).collect()
    }

    fn choose(points: Vec<Point>) -> Result<Search> {
        Search::choose(Preset::Smoke, Arm::Pooled, points, &[0, 1])
    }

    #[test]
    fn the_lower_mean_loss_wins_and_a_run_that_diverged_is_the_worst() {
        let search = choose(points(&[Some(2.0), Some(3.0)], &[Some(2.8), Some(2.1)])).unwrap();
        assert_eq!((search.published.table_rate, search.tuned.table_rate), (1.0, 10.0));
        let search = choose(points(&[Some(9.0), Some(9.0)], &[Some(0.1), None])).unwrap();
        assert_eq!(search.tuned, search.published);
    }

    #[test]
    fn an_arm_must_not_be_searched_less_than_another() {
        let error = choose(points(&[Some(2.0), Some(3.0)], &[Some(2.8)])).unwrap_err();
        assert!(error.to_string().contains("rate0.003-x10-std0.02"), "{error}");
    }

    #[test]
    fn every_arm_of_the_default_table_has_recorded_settings() {
        for preset in Preset::ALL {
            let Some(tuned) = Tuned::recorded(preset).unwrap() else { continue };
            for arm in preset.arms() {
                let points = &tuned.best(*arm).unwrap().points;
                assert_eq!(points.len(), grid(preset, *arm).len(), "{preset} {arm}");
            }
        }
    }
}
