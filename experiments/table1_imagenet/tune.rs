//! The search that every arm gets alike: peak rate x scale of the tables, on the tuning slice, by
//! accuracy, and by loss between equals.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use experiments::folder;
use experiments::statistics::Sample;
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Row};
use crate::cell::{RunConfig, Start};
use crate::recipe::{PUBLISHED_STD, Preset};
use crate::train::Summary;

/// Peak rates and deviations of class token and position table of the search; the first deviation
/// is the published one. They end at 1: normals are truncated at +-2, so that a larger deviation
/// hardly changes what is drawn.
fn axes(preset: Preset) -> (&'static [f64], &'static [f64]) {
    match preset {
        Preset::Smoke => (&[2e-3], &[PUBLISHED_STD, 0.3]),
        Preset::Short => (&[1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2], &[PUBLISHED_STD, 0.1, 0.3, 1.0]),
        Preset::Mnist4k => (&[1e-3, 3e-3, 9e-3], &[PUBLISHED_STD, 0.2, 1.0]),
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

/// The search of one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Search {
    /// The best setting at the published scale of the tables.
    pub(crate) published: Setting,
    /// The best setting at any scale.
    pub(crate) tuned: Setting,
    /// All that was tried.
    points: Vec<Point>,
}

/// The tuning results of a setting, by seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    setting: Setting,
    seeds: Vec<u64>,
    /// Accuracy on the tuning slice in %; null where the loss became infinite.
    accuracy: Vec<Option<f64>>,
    /// Loss on the tuning slice.
    loss: Vec<Option<f64>>,
}

impl Point {
    fn is_published(&self) -> bool {
        self.setting.table_std.is_none_or(|std| std == PUBLISHED_STD)
    }

    /// Mean accuracy, then mean loss (the smaller the better).
    fn rank(&self) -> (f64, f64) {
        let mean = |values: &[Option<f64>], worst: f64| {
            let values: Vec<f64> = values.iter().map(|value| value.unwrap_or(worst)).collect();
            Sample::of(&values).map_or(worst, |sample| sample.mean)
        };
        (mean(&self.accuracy, 0.0), -mean(&self.loss, f64::INFINITY))
    }
}

/// The outcome of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tuned {
    preset: Preset,
    /// The images searched on, by name and BLAKE3.
    data: String,
    data_hash: String,
    rows: BTreeMap<Row, BTreeMap<Arm, Search>>,
}

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

    /// The outcome in a file, which must be that of a search with `preset`.
    ///
    /// # Errors
    /// When it is missing, of another form or another preset.
    pub(crate) fn read(path: &Path, preset: Preset) -> Result<Self> {
        let tuned: Self = folder::read(path)?;
        ensure!(
            tuned.preset == preset,
            "{}: settings of preset {}, this run has {}",
            path.display(),
            tuned.preset.name(),
            preset.name()
        );
        Ok(tuned)
    }

    /// The search of an arm.
    ///
    /// # Errors
    /// When the arm was not searched.
    pub(crate) fn best(&self, row: Row, arm: Arm) -> Result<&Search> {
        let search = self.rows.get(&row).and_then(|arms| arms.get(&arm));
        search.ok_or_else(|| {
            anyhow!(
                "{row} {arm}: no settings are recorded for this preset. Search them with `tune \
                 --models {row} --arms {arm} --out DIR` and pass `--tuned DIR/tuned.json`, or give \
                 the rate with `--set rate=R`"
            )
        })
    }

    /// Adds the outcome of another search, which replaces the same arms.
    pub(crate) fn merge(&mut self, other: Self) {
        for (row, arms) in other.rows {
            self.rows.entry(row).or_default().extend(arms);
        }
    }

    /// Chooses the best settings among the finished cells of a search.
    ///
    /// # Errors
    /// When there are none, they are not of one recipe, or a grid is not complete with the same
    /// seeds everywhere: an arm must not be searched less than another.
    pub(crate) fn choose(cells: &[(RunConfig, Summary)]) -> Result<Self> {
        let Some((first, _)) = cells.first() else { bail!("no finished cell of a search") };
        let mut points: BTreeMap<(Row, Arm), Vec<Point>> = BTreeMap::new();
        let mut recipes: BTreeMap<Row, RunConfig> = BTreeMap::new();
        for (config, summary) in cells {
            let Start::Point(setting) = config.cell.start else { continue };
            let common = recipes.entry(config.cell.row).or_insert_with(|| config.common());
            ensure!(*common == config.common(), "{}: another recipe", config.cell);
            let points = points.entry((config.cell.row, config.cell.arm)).or_default();
            let known = points.iter().position(|point| point.setting == setting);
            let at = known.unwrap_or_else(|| {
                let (seeds, accuracy, loss) = (Vec::new(), Vec::new(), Vec::new());
                points.push(Point { setting, seeds, accuracy, loss });
                points.len() - 1
            });
            let metric = |name: &str| summary.metrics.get(name).copied().flatten();
            points[at].seeds.push(config.cell.seed);
            points[at].accuracy.push(metric("tune_accuracy"));
            points[at].loss.push(metric("tune_loss"));
        }
        let seeds = points.values().flatten().next().map_or(Vec::new(), |p| p.seeds.clone());
        let mut rows: BTreeMap<Row, BTreeMap<Arm, Search>> = BTreeMap::new();
        for ((row, arm), points) in points {
            let search = Search::choose(first.preset, arm, points, &seeds);
            let search = search.with_context(|| format!("{row} {arm}"))?;
            rows.entry(row).or_default().insert(arm, search);
        }
        let (data, data_hash) = (first.data.name.clone(), first.data.hash.clone());
        Ok(Self { preset: first.preset, data, data_hash, rows })
    }
}

impl Search {
    /// The best of a complete grid.
    fn choose(preset: Preset, arm: Arm, points: Vec<Point>, seeds: &[u64]) -> Result<Self> {
        for setting in grid(preset, arm) {
            let point = points.iter().find(|point| point.setting == setting);
            ensure!(
                point.is_some_and(|point| point.seeds == seeds),
                "{}: not searched with seeds {seeds:?}; run the same search again, without --shard",
                Start::Point(setting)
            );
        }
        let published = best(points.iter().filter(|point| point.is_published()));
        match (published, best(points.iter())) {
            (Some(published), Some(tuned)) => Ok(Self { published, tuned, points }),
            _ => bail!("no point of the search"),
        }
    }
}

/// The setting with the highest mean tuning accuracy; the lower mean loss decides ties.
fn best<'a>(points: impl Iterator<Item = &'a Point>) -> Option<Setting> {
    let best = points.max_by(|a, b| {
        let ((a, a_loss), (b, b_loss)) = (a.rank(), b.rank());
        a.total_cmp(&b).then(a_loss.total_cmp(&b_loss))
    });
    best.map(|point| point.setting)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn point(rate: f64, std: f64, accuracy: [f64; 2], loss: [f64; 2]) -> Point {
        Point {
            setting: Setting { rate, table_std: Some(std) },
            seeds: vec![0, 1],
            accuracy: accuracy.map(Some).to_vec(),
            loss: loss.map(Some).to_vec(),
        }
    }

    /// The smoke grid: one rate, the published scale and 0.3.
    fn smoke(published: Point, other: Point) -> Result<Search> {
        Search::choose(Preset::Smoke, Arm::Pooled, vec![published, other], &[0, 1])
    }

    #[test]
    fn the_higher_mean_accuracy_wins_and_loss_decides_ties() {
        let low = point(2e-3, 0.02, [80.0, 90.0], [0.1, 0.1]);
        let high = point(2e-3, 0.3, [88.0, 84.0], [0.9, 0.9]);
        let search = smoke(low.clone(), high.clone()).unwrap();
        assert_eq!((search.published, search.tuned), (low.setting, high.setting));
        let tied = point(2e-3, 0.3, [85.0, 85.0], [0.2, 0.1]);
        assert_eq!(smoke(low.clone(), tied).unwrap().tuned, low.setting);
    }

    #[test]
    fn a_run_that_diverged_is_the_worst() {
        let mut diverged = point(2e-3, 0.3, [99.0, 0.0], [0.1, 0.0]);
        (diverged.accuracy[1], diverged.loss[1]) = (None, None);
        let poor = point(2e-3, 0.02, [50.0, 50.0], [2.0, 2.0]);
        assert_eq!(smoke(poor.clone(), diverged).unwrap().tuned, poor.setting);
    }

    #[test]
    fn an_arm_must_not_be_searched_less_than_another() {
        let whole = point(2e-3, 0.02, [80.0, 90.0], [0.1, 0.1]);
        let mut half = point(2e-3, 0.3, [80.0, 90.0], [0.1, 0.1]);
        half.seeds.pop();
        let error = smoke(whole.clone(), half).unwrap_err().to_string();
        assert!(error.contains("rate0.002-std0.3"), "{error}");
        let error = Search::choose(Preset::Smoke, Arm::Pooled, vec![whole], &[0, 1]).unwrap_err();
        assert!(error.to_string().contains("not searched"), "{error}");
    }

    #[test]
    fn every_arm_of_the_default_table_has_recorded_settings() {
        for (preset, arms) in [
            (Preset::Smoke, &Arm::ALL[..]),
            (Preset::Short, &Arm::DEFAULT[..]),
            (Preset::Mnist4k, &Arm::DEFAULT[..]),
        ] {
            let tuned = Tuned::recorded(preset).unwrap();
            assert_eq!(tuned.preset, preset);
            for row in preset.rows() {
                for arm in arms {
                    let search = tuned.best(*row, *arm).unwrap();
                    let points = search.points.len();
                    assert_eq!(points, grid(preset, *arm).len(), "{preset:?} {row} {arm}");
                }
            }
        }
    }
}
