//! The search that every arm gets alike, on a slice of the training data.
//!
//! It begins with the settings of a [`Grid`](crate::settings::Grid), goes on to the neighbours of the best until
//! the best has none that was not tried, so that it lies inside of what was tried, and gives the best few all
//! seeds. Settings with embedding tables as published have a best of their own.
//!
//! What is run next follows from the results of the rounds before, gone through from the start, and from nothing
//! else: a search that was interrupted or sharded is the one that was not.

mod tuned;

pub use tuned::Tuned;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::arm::Arm;
use crate::plan::distinct;
use crate::settings::{Axes, Setting};
use conditioned_report::statistics::Sample;

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

/// How much a search was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// Runs.
    pub runs: usize,
    /// Settings that were tried.
    pub settings: usize,
    /// Seeds of the setting that has most.
    pub seeds: usize,
}

/// The search of one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// The strength that it was searched at; null where the arm has none, or it was searched too.
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

    /// Its result of one seed, if it has that.
    fn of_seed(&self, seed: u64) -> Option<Self> {
        let at = self.seeds.iter().position(|of| *of == seed)?;
        let score = self.score.get(at).copied().into_iter().collect();
        Some(Self { setting: self.setting, seeds: vec![seed], loss: vec![self.loss[at]], score })
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

    /// Whether all of `settings` were tried.
    pub(crate) fn covers(&self, settings: &[Setting]) -> bool {
        settings.iter().all(|setting| self.points.iter().any(|point| point.setting == *setting))
    }

    /// Runs that it took.
    pub fn runs(&self) -> usize {
        self.points.iter().map(|point| point.seeds.len()).sum()
    }

    /// How much it was.
    pub fn given(&self) -> Given {
        let seeds = self.points.iter().map(|point| point.seeds.len()).max().unwrap_or_default();
        Given { runs: self.runs(), settings: self.points.len(), seeds }
    }

    /// Seeds and mean of a setting that was tried: its loss, behind its score in a table that has one.
    pub fn result(&self, setting: Setting) -> Option<(usize, String)> {
        let point = self.points.iter().find(|point| point.setting == setting)?;
        let (score, loss) = point.rank();
        let score = if point.score.is_empty() { String::new() } else { format!("{:.1}, ", -score) };
        Some((point.seeds.len(), format!("{score}{loss:.4}")))
    }

    /// The numbers of the best of all settings, or of those with embedding tables as published, that have no tried value
    /// on one side.
    pub fn edges(&self, block: Block) -> Vec<&'static str> {
        // One setting that is the best of both had all points beside it.
        let published = block == Block::Published && self.published != self.tuned;
        let best = if published { self.published } else { self.tuned };
        let points =
            || self.points.iter().filter(move |point| !published || point.setting.is_published());
        let names = ["learning rate", "table rate", "table std", "strength"];
        let numbers = |s: &Setting| {
            [Some(s.learning_rate), Some(s.embedding_lr_scale), s.embedding_std, s.strength]
        };
        let at_edge = |number: usize| {
            let best = numbers(&best)[number];
            let values = || points().map(|point| numbers(&point.setting)[number]);
            let inside = values().any(|v| v < best) && values().any(|v| v > best);
            best.is_some() && values().any(|v| v != best) && !inside
        };
        (0..names.len()).filter(|number| at_edge(*number)).map(|number| names[number]).collect()
    }

    /// The best of a complete search.
    fn choose(strength: Option<f64>, effort: Effort, axes: &Axes, found: &[Point]) -> Result<Self> {
        let (points, missing) = effort.replay(axes, found);
        if let Some((setting, seed)) = missing.first() {
            bail!(
                "{setting}: not searched with seed {seed}; run the same search again, without --shard"
            );
        }
        let is_finite = |keep: fn(&Setting) -> bool| {
            let mut losses = ranked(&points, keep).into_iter().flat_map(|point| &point.loss);
            losses.any(Option::is_some)
        };
        ensure!(
            is_finite(Setting::is_published),
            "every setting with embedding tables as published diverged: search at smaller learning rates"
        );
        let best = |keep: fn(&Setting) -> bool| ranked(&points, keep).first().map(|p| p.setting);
        match (best(Setting::is_published), best(|_| true)) {
            (Some(published), Some(tuned)) => Ok(Self { strength, published, tuned, points }),
            _ => bail!("no point of the search"),
        }
    }
}

/// Those of the points that are kept, the best first; of equal ones that which was tried first.
fn ranked(points: &[Point], keep: fn(&Setting) -> bool) -> Vec<&Point> {
    let mut kept: Vec<&Point> = points.iter().filter(|point| keep(&point.setting)).collect();
    kept.sort_by(|a, b| {
        let ((a, a_loss), (b, b_loss)) = (a.rank(), b.rank());
        a.total_cmp(&b).then(a_loss.total_cmp(&b_loss))
    });
    kept
}

/// How many of the best settings have all seeds.
const FINALISTS: usize = 3;

/// How hard a search tries, for every arm alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Seeds of the best settings.
    pub seeds: u64,
    /// Runs after which it goes on to no further setting.
    pub budget: usize,
}

impl Effort {
    /// The search from its start over the results that were `found`: the points in the order in which it tries them,
    /// and what it has to run next; nothing when it is complete.
    fn replay(self, axes: &Axes, found: &[Point]) -> (Vec<Point>, Vec<(Setting, u64)>) {
        let result = |&(setting, seed): &(Setting, u64)| {
            found.iter().find_map(|point| point.of_seed(seed).filter(|_| point.setting == setting))
        };
        let mut points = Vec::new();
        loop {
            let mut wanted = self.next(axes, &points);
            let results: Vec<Point> = wanted.iter().filter_map(result).collect();
            if wanted.is_empty() || results.len() < wanted.len() {
                wanted.retain(|run| result(run).is_none());
                return (points, wanted);
            }
            results.into_iter().for_each(|point| add(&mut points, point));
        }
    }

    /// What has to be run after these points; nothing when the search is complete.
    fn next(self, axes: &Axes, points: &[Point]) -> Vec<(Setting, u64)> {
        let tried = |setting: &Setting| points.iter().any(|point| point.setting == *setting);
        let untried = |settings: Vec<Setting>| -> Vec<(Setting, u64)> {
            let settings = settings.into_iter().filter(|setting| !tried(setting));
            distinct(&settings.map(|setting| (setting, 0)).collect::<Vec<_>>())
        };
        let begin = untried(axes.begin());
        if !begin.is_empty() {
            return begin;
        }
        let blocks: [fn(&Setting) -> bool; 2] = [Setting::is_published, |_| true];
        let rankings = blocks.map(|keep| (keep, ranked(points, keep)));
        let runs: usize = points.iter().map(|point| point.seeds.len()).sum();
        if runs < self.budget {
            let bests = rankings.iter().filter_map(|(keep, ranked)| Some((keep, ranked.first()?)));
            let beside = bests
                .flat_map(|(keep, best)| axes.neighbours(best.setting).into_iter().filter(keep));
            let beside = untried(beside.collect());
            if !beside.is_empty() {
                return beside;
            }
        }
        let finalists = rankings.iter().flat_map(|(_, ranked)| ranked.iter().take(FINALISTS));
        let unseen = finalists.flat_map(|point| {
            let seeds = (0..self.seeds).filter(|seed| !point.seeds.contains(seed));
            seeds.map(|seed| (point.setting, seed))
        });
        distinct(&unseen.collect::<Vec<_>>())
    }
}

/// Adds results to those of the same setting, or behind all points.
fn add(points: &mut Vec<Point>, new: Point) {
    match points.iter_mut().find(|point| point.setting == new.setting) {
        Some(point) => {
            point.seeds.extend(new.seeds);
            point.loss.extend(new.loss);
            point.score.extend(new.score);
        }
        None => points.push(new),
    }
}

/// The finished points of a search, by row and arm.
#[derive(Debug, Default)]
pub struct Found(BTreeMap<(String, Arm), (Option<f64>, Vec<Point>)>);

impl Found {
    /// Finished points, sorted.
    ///
    /// # Errors
    /// When an arm was searched at different strengths by different recipes.
    pub fn new(trials: Vec<Trial>) -> Result<Self> {
        let mut searches: BTreeMap<(String, Arm), (Option<f64>, Vec<Point>)> = BTreeMap::new();
        for Trial { row, arm, strength, setting, seed, loss, score } in trials {
            let (known, points) =
                searches.entry((row, arm)).or_insert_with(|| (strength, Vec::new()));
            ensure!(
                *known == strength,
                "{arm}: searched at different strengths; use one --out for each"
            );
            let score = score.into_iter().collect();
            add(points, Point { setting, seeds: vec![seed], loss: vec![loss], score });
        }
        Ok(Self(searches))
    }

    /// What the search of an arm has to run next; nothing when it is complete.
    pub fn missing(&self, row: &str, arm: Arm, axes: &Axes, effort: Effort) -> Vec<(Setting, u64)> {
        let points = self.0.get(&(row.to_string(), arm)).map_or(&[][..], |(_, points)| points);
        effort.replay(axes, points).1
    }
}

/// A finished point of a search.
pub struct Trial {
    /// The row of the table.
    pub row: String,
    /// The arm.
    pub arm: Arm,
    /// Its strength, if it has one that the recipe says.
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
