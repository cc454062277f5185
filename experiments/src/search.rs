//! The search that every arm gets alike: peak rate, rate and scale of the tables, on a tuning slice.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::cells::Cell;
use crate::folder;
use crate::statistics::Sample;

/// The published deviation of the tables of language models.
pub const PUBLISHED_STD: f64 = 0.02;

/// A point of the search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Peak rate.
    pub rate: f64,
    /// Rate of the tables over it.
    pub table_rate: f64,
    /// Deviation of the tables; null where the arm finds its own.
    pub table_std: Option<f64>,
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

/// Where the tables of a cell start, and with which rates it goes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The published scale and one rate for all, the best one.
    Published,
    /// The best setting of all.
    Tuned,
    /// As set on the command line or by the preset.
    Set,
    /// A point of the search.
    Point(Setting),
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published => f.write_str("published"),
            Self::Tuned => f.write_str("tuned"),
            Self::Set => f.write_str("set"),
            Self::Point(setting) => write!(f, "{setting}"),
        }
    }
}

/// The two questions of a table, and whatever was set by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Block {
    /// Does it help with tables as published?
    Published,
    /// Does it help a tuned model?
    Tuned,
    /// As set on the command line or by the preset.
    Set,
}

impl Block {
    /// All blocks.
    pub const ALL: [Self; 3] = [Self::Published, Self::Tuned, Self::Set];

    /// The block of a cell; none of a point of a search.
    pub fn of(start: Start) -> Option<Self> {
        match start {
            Start::Published => Some(Self::Published),
            Start::Tuned => Some(Self::Tuned),
            Start::Set => Some(Self::Set),
            Start::Point(_) => None,
        }
    }

    /// The name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Tuned => "tuned",
            Self::Set => "as set",
        }
    }
}

/// The search of one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// The best setting with tables as published.
    pub published: Setting,
    /// The best of all.
    pub tuned: Setting,
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

impl Search {
    /// How the cells of a table start: at the best setting with tables as published, and at the best of
    /// all where that is another; and whether each is the best of all.
    pub fn starts(&self) -> Vec<(Start, Setting, bool)> {
        let same = self.tuned == self.published;
        let mut starts = vec![(Start::Published, self.published, same)];
        if !same {
            starts.push((Start::Tuned, self.tuned, true));
        }
        starts
    }

    /// Whether all of `grid` was tried.
    pub fn covers(&self, grid: &[Setting]) -> bool {
        grid.iter().all(|setting| self.points.iter().any(|point| point.setting == *setting))
    }

    /// The best of a complete grid.
    fn choose(grid: &[Setting], mut points: Vec<Point>, seeds: &[u64]) -> Result<Self> {
        // What an older grid left behind takes no part.
        points.retain(|point| grid.contains(&point.setting));
        for setting in grid {
            let point = points.iter().find(|point| point.setting == *setting);
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

/// A finished point of a search.
pub struct Trial {
    /// What is searched for: an arm, of a model where there are several.
    pub arm: String,
    /// Its setting.
    pub setting: Setting,
    /// Its seed.
    pub seed: u64,
    /// Its loss on the tuning slice; null where it became infinite.
    pub loss: Option<f64>,
}

/// The outcome of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    preset: String,
    /// The text searched on, by name and BLAKE3.
    data: String,
    data_hash: String,
    arms: BTreeMap<String, Search>,
}

impl Tuned {
    /// The outcome recorded as `text` for a preset.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn recorded(text: &str, preset: &str) -> Result<Self> {
        serde_json::from_str(text).with_context(|| format!("recorded settings of {preset}"))
    }

    /// The outcome in a file, which must be that of a search with `preset`.
    ///
    /// # Errors
    /// When it is missing, of another form or another preset.
    pub fn read(path: &Path, preset: &str) -> Result<Self> {
        let tuned: Self = folder::read(path)?;
        ensure!(
            tuned.preset == preset,
            "{}: settings of preset {}, this run has {preset}",
            path.display(),
            tuned.preset
        );
        Ok(tuned)
    }

    /// What was recorded for a preset, and over it what a file of `--tuned` has.
    ///
    /// # Errors
    /// When either cannot be used.
    pub fn open(recorded: Option<&str>, file: Option<&Path>, preset: &str) -> Result<Option<Self>> {
        let mut tuned = recorded.map(|text| Self::recorded(text, preset)).transpose()?;
        if let Some(path) = file {
            let other = Self::read(path, preset)?;
            match &mut tuned {
                Some(tuned) => tuned.arms.extend(other.arms),
                None => tuned = Some(other),
            }
        }
        Ok(tuned)
    }

    /// The search of an arm.
    pub fn best(&self, arm: &str) -> Option<&Search> {
        self.arms.get(arm)
    }

    /// Chooses the best settings among the finished points of a search on `data`, (name, hash).
    ///
    /// # Errors
    /// When there are none, or the `grid` of an arm is not complete with the same seeds everywhere: an
    /// arm must not be searched less than another.
    pub fn choose(
        preset: &str,
        (data, data_hash): (&str, &str),
        trials: Vec<Trial>,
        grid: impl Fn(&str) -> Vec<Setting>,
    ) -> Result<Self> {
        let mut points: BTreeMap<String, Vec<Point>> = BTreeMap::new();
        for Trial { arm, setting, seed, loss } in trials {
            let points = points.entry(arm).or_default();
            let at =
                points.iter().position(|point| point.setting == setting).unwrap_or_else(|| {
                    points.push(Point { setting, seeds: Vec::new(), loss: Vec::new() });
                    points.len() - 1
                });
            points[at].seeds.push(seed);
            points[at].loss.push(loss);
        }
        let Some(first) = points.values().flatten().next() else {
            bail!("no finished cell of a search")
        };
        let seeds = first.seeds.clone();
        let mut arms = BTreeMap::new();
        for (arm, points) in points {
            let search =
                Search::choose(&grid(&arm), points, &seeds).with_context(|| arm.clone())?;
            arms.insert(arm, search);
        }
        let [preset, data, data_hash] = [preset, data, data_hash].map(str::to_string);
        Ok(Self { preset, data, data_hash, arms })
    }
}

/// That an arm has no settings, and what to do; `flags` are those that name it.
pub fn unsearched(arm: &str, flags: &str) -> anyhow::Error {
    anyhow!(
        "{arm}: no settings are recorded for this preset. Search them with `tune {flags} --out DIR` and \
         pass `--tuned DIR/tuned.json`, or give the rate with `--set rate=R`"
    )
}

/// The finished cells below `out`, in path order.
///
/// # Errors
/// When a record is damaged.
pub fn finished<C: Cell>(out: &Path) -> Result<Vec<(C, C::Summary)>> {
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

    const PUBLISHED: Setting =
        Setting { rate: 3e-3, table_rate: 1.0, table_std: Some(PUBLISHED_STD) };
    const FASTER: Setting = Setting { table_rate: 10.0, ..PUBLISHED };

    fn choose(published: &[Option<f64>], faster: &[Option<f64>]) -> Result<Search> {
        let losses = [(PUBLISHED, published), (FASTER, faster)].into_iter();
        let trials = losses.flat_map(|(setting, losses)| {
            let arm = "pooled".to_string();
            let trial = move |(seed, &loss)| Trial { arm: arm.clone(), setting, seed, loss };
            (0..).zip(losses).map(trial)
        });
        let grid = |_: &str| vec![PUBLISHED, FASTER];
        let tuned = Tuned::choose("smoke", ("text", "hash"), trials.collect(), grid)?;
        Ok(tuned.best("pooled").unwrap().clone())
    }

    #[test]
    fn the_lower_mean_loss_wins_and_a_run_that_diverged_is_the_worst() {
        let search = choose(&[Some(2.0), Some(3.0)], &[Some(2.8), Some(2.1)]).unwrap();
        assert_eq!((search.published, search.tuned), (PUBLISHED, FASTER));
        assert_eq!(search.starts().len(), 2);
        let search = choose(&[Some(9.0), Some(9.0)], &[Some(0.1), None]).unwrap();
        assert_eq!(search.starts(), [(Start::Published, PUBLISHED, true)]);
    }

    #[test]
    fn an_arm_must_not_be_searched_less_than_another() {
        let error = choose(&[Some(2.0), Some(3.0)], &[Some(2.8)]).unwrap_err();
        assert!(format!("{error:#}").contains("pooled: rate0.003-x10-std0.02"), "{error:#}");
    }
}
