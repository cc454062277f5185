//! The search that every arm gets alike, on a slice of the training data: peak learning rate, and learning
//! rate and initial scale of the embedding tables.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::arm::Arm;
use crate::run::folder;
use conditioned_report::statistics::Sample;

/// The published standard deviation of embedding tables.
pub const PUBLISHED_STD: f64 = 0.02;

/// A point of the search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning rate of the embedding tables over it.
    pub embedding_lr_scale: f64,
    /// Standard deviation of the embedding tables at initialisation; null where the arm, or a checkpoint,
    /// has its own.
    pub embedding_std: Option<f64>,
}

impl Setting {
    /// A learning rate with everything else as published.
    pub fn published(learning_rate: f64) -> Self {
        Self { learning_rate, embedding_lr_scale: 1.0, embedding_std: Some(PUBLISHED_STD) }
    }

    fn is_published(&self) -> bool {
        let std = self.embedding_std.unwrap_or(PUBLISHED_STD);
        (self.embedding_lr_scale, std) == (1.0, PUBLISHED_STD)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lr{}-x{}", self.learning_rate, self.embedding_lr_scale)?;
        self.embedding_std.map_or(Ok(()), |std| write!(f, "-std{std}"))
    }
}

/// What is searched: every learning rate with every choice for the embedding tables.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Peak learning rates.
    pub learning_rates: &'static [f64],
    /// (learning rate of the embedding tables over the peak, their standard deviation); the first is the
    /// published one.
    pub embeddings: &'static [(f64, f64)],
}

impl Grid {
    /// The settings of an arm: the same for all, but for `init`, which finds the deviation by itself. Of a network
    /// without embedding `tables` they are learning rates alone.
    pub fn settings(&self, arm: Arm, tables: bool) -> Vec<Setting> {
        let rates = self.learning_rates.iter();
        let all = rates.flat_map(|&learning_rate| {
            self.embeddings.iter().map(move |&(embedding_lr_scale, std)| Setting {
                learning_rate,
                embedding_lr_scale,
                embedding_std: Some(std),
            })
        });
        match arm {
            _ if !tables => all.filter(Setting::is_published).collect(),
            Arm::Init => all
                .filter(|setting| setting.embedding_std == Some(PUBLISHED_STD))
                .map(|setting| Setting { embedding_std: None, ..setting })
                .collect(),
            _ => all.collect(),
        }
    }
}

/// With which setting a cell trains.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The best learning rate for embedding tables as published.
    Published,
    /// The best setting of all.
    Tuned,
    /// As set on the command line or by the preset.
    Set,
    /// A point of a search or sweep: reads no test data.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Block {
    /// Does it help with embedding tables as published?
    Published,
    /// Does it help a tuned model?
    Tuned,
    /// As set on the command line or by the preset.
    Set,
}

impl Block {
    /// The block of a cell; none of a point of a search.
    pub fn of(start: Start) -> Option<Self> {
        match start {
            Start::Published => Some(Self::Published),
            Start::Tuned => Some(Self::Tuned),
            Start::Set => Some(Self::Set),
            Start::Point(_) => None,
        }
    }

    /// Its name in a table.
    pub fn label(self) -> &'static str {
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
    /// The strength that it was searched at; null where the arm has none.
    pub strength: Option<f64>,
    /// The best setting with embedding tables as published.
    pub published: Setting,
    /// The best of all.
    pub tuned: Setting,
    /// All that was tried.
    points: Vec<Point>,
}

/// The results of a setting on the tuning slice, by seed; null where the loss became infinite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    setting: Setting,
    seeds: Vec<u64>,
    loss: Vec<Option<f64>>,
    /// What decides before the loss where there is one: the higher, the better.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    score: Vec<Option<f64>>,
}

impl Point {
    fn mean(values: &[Option<f64>], worst: f64) -> f64 {
        let values: Vec<f64> = values.iter().map(|value| value.unwrap_or(worst)).collect();
        Sample::of(&values).map_or(worst, |sample| sample.mean)
    }

    /// The smaller, the better: by score, then by loss.
    fn rank(&self) -> (f64, f64) {
        (-Self::mean(&self.score, 0.0), Self::mean(&self.loss, f64::INFINITY))
    }
}

impl Search {
    /// How the cells of a table start: at the best setting with embedding tables as published, and at the best
    /// of all where that is another; and whether each is the best of all.
    pub fn starts(&self) -> Vec<(Start, Setting, bool)> {
        let same = self.tuned == self.published;
        let mut starts = vec![(Start::Published, self.published, same)];
        if !same {
            starts.push((Start::Tuned, self.tuned, true));
        }
        starts
    }

    /// Whether all of `grid` was tried.
    pub(crate) fn covers(&self, grid: &[Setting]) -> bool {
        grid.iter().all(|setting| self.points.iter().any(|point| point.setting == *setting))
    }

    /// The best of a complete grid.
    fn choose(
        strength: Option<f64>,
        grid: &[Setting],
        mut points: Vec<Point>,
        seeds: &[u64],
    ) -> Result<Self> {
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
            let best = kept.min_by(|a, b| {
                let ((a, a_loss), (b, b_loss)) = (a.rank(), b.rank());
                a.total_cmp(&b).then(a_loss.total_cmp(&b_loss))
            });
            best.map(|point| point.setting)
        };
        match (best(Setting::is_published), best(|_| true)) {
            (Some(published), Some(tuned)) => Ok(Self { strength, published, tuned, points }),
            _ => bail!("no point of the search"),
        }
    }
}

/// A finished point of a search.
pub struct Trial {
    /// The row of the table.
    pub row: String,
    /// The arm.
    pub arm: Arm,
    /// Its strength, if it has one.
    pub strength: Option<f64>,
    /// Its setting.
    pub setting: Setting,
    /// Its seed.
    pub seed: u64,
    /// Its loss on the tuning slice; null where it became infinite.
    pub loss: Option<f64>,
    /// What decides before the loss, in a table that has it.
    pub score: Option<Option<f64>>,
}

/// The outcome of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    preset: String,
    /// The data searched on, by name and BLAKE3; several where rows have their own.
    data: String,
    data_hash: String,
    rows: BTreeMap<String, BTreeMap<Arm, Search>>,
}

impl Tuned {
    /// What was recorded for a preset, and over it what a file of `--tuned` has.
    ///
    /// # Errors
    /// When either cannot be read, or the file is of another preset, or of rows that are not `known`.
    pub fn open(
        recorded: Option<&str>,
        file: Option<&Path>,
        preset: &str,
        known: &[String],
    ) -> Result<Self> {
        let (data, data_hash) = (String::new(), String::new());
        let mut tuned = match recorded {
            Some(text) => serde_json::from_str(text)
                .with_context(|| format!("recorded settings of preset {preset}"))?,
            None => Self { preset: preset.to_string(), data, data_hash, rows: BTreeMap::new() },
        };
        if let Some(path) = file {
            let other: Self = folder::read(path)?;
            ensure!(
                other.preset == preset,
                "{}: settings of preset {}, this run has {preset}",
                path.display(),
                other.preset
            );
            for (row, arms) in other.rows {
                ensure!(
                    known.contains(&row),
                    "{}: settings of {row}, this table has {}",
                    path.display(),
                    known.join(", ")
                );
                tuned.rows.entry(row).or_default().extend(arms);
            }
        }
        Ok(tuned)
    }

    /// The search of an arm.
    ///
    /// # Errors
    /// When it was not searched: says how to do it.
    pub fn best(&self, row: &str, arm: Arm) -> Result<&Search> {
        let search = self.rows.get(row).and_then(|arms| arms.get(&arm));
        search.with_context(|| {
            format!(
                "{row} {arm}: no settings are recorded for preset {}. Search them with `tune --preset {} \
                 --models {row} --arms {arm} --out DIR` and pass `--tuned DIR/tuned.json`, or give the \
                 learning rate with `--set learning_rate=R`",
                self.preset, self.preset
            )
        })
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
        grid: impl Fn(&str, Arm) -> Vec<Setting>,
    ) -> Result<Self> {
        let mut searches: BTreeMap<(String, Arm), (Option<f64>, Vec<Point>)> = BTreeMap::new();
        for Trial { row, arm, strength, setting, seed, loss, score } in trials {
            let (known, points) =
                searches.entry((row, arm)).or_insert_with(|| (strength, Vec::new()));
            ensure!(
                *known == strength,
                "{arm}: searched at different strengths; use one --out for each"
            );
            let at = points.iter().position(|point| point.setting == setting);
            let at = at.unwrap_or_else(|| {
                let (seeds, loss, score) = (Vec::new(), Vec::new(), Vec::new());
                points.push(Point { setting, seeds, loss, score });
                points.len() - 1
            });
            points[at].seeds.push(seed);
            points[at].loss.push(loss);
            points[at].score.extend(score);
        }
        let first = searches.values().flat_map(|(_, points)| points).next();
        let Some(seeds) = first.map(|point| point.seeds.clone()) else {
            bail!("no finished cell of a search")
        };
        let mut rows: BTreeMap<String, BTreeMap<Arm, Search>> = BTreeMap::new();
        for ((row, arm), (strength, points)) in searches {
            let search = Search::choose(strength, &grid(&row, arm), points, &seeds)
                .with_context(|| format!("{row} {arm}"))?;
            rows.entry(row).or_default().insert(arm, search);
        }
        let [preset, data, data_hash] = [preset, data, data_hash].map(str::to_string);
        Ok(Self { preset, data, data_hash, rows })
    }
}
