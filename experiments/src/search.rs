//! The search that every arm gets alike, on a slice of the training data.
//!
//! It begins with the settings of a [`Grid`](crate::settings::Grid), goes on to the neighbours of the best until
//! the best has none that was not tried, so that it lies inside of what was tried, and gives the best few all
//! seeds. Settings with embedding tables as published have a best of their own.
//!
//! What is run next follows from the results of the rounds before, gone through from the start, and from nothing
//! else: a search that was interrupted or sharded is the one that was not.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::arm::Arm;
use crate::plan::distinct;
use crate::run::folder;
use crate::settings::{Axes, Setting};
use conditioned_report::grid::Grid;
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

/// The outcome of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    preset: String,
    /// The data searched on, by name and BLAKE3; several where rows have their own.
    data: String,
    data_hash: String,
    rows: BTreeMap<String, BTreeMap<Arm, Search>>,
    /// The same of the searches that are those of a file of `--tuned`.
    #[serde(skip)]
    data_of_file: BTreeMap<(String, Arm), (String, String)>,
}

impl Tuned {
    /// Nothing searched for a preset.
    fn none(preset: &str) -> Self {
        let (data, data_hash, rows, data_of_file) = Default::default();
        Self { preset: preset.to_string(), data, data_hash, rows, data_of_file }
    }

    /// Takes over the searches that `other` has of these rows and arms, with their data.
    pub fn take(&mut self, other: &Self, cells: &[(&str, Arm)]) {
        for &(row, arm) in cells {
            let Ok(search) = other.best(row, arm) else { continue };
            self.rows.entry(row.to_string()).or_default().insert(arm, search.clone());
            let (data, hashes) = other.data_of(row, arm);
            for (data, hash) in data.split("; ").zip(hashes.split("; ")) {
                if !self.data_hash.split("; ").any(|known| known == hash) {
                    let and = if self.data_hash.is_empty() { "" } else { "; " };
                    self.data += &format!("{and}{data}");
                    self.data_hash += &format!("{and}{hash}");
                }
            }
        }
    }

    /// Names and hashes of the data that an arm of a row was searched on.
    fn data_of(&self, row: &str, arm: Arm) -> (&str, &str) {
        let of_file = self.data_of_file.get(&(row.to_string(), arm));
        of_file.map_or((&self.data, &self.data_hash), |(data, hashes)| (data, hashes))
    }

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
        let mut tuned = match recorded {
            Some(text) => serde_json::from_str(text)
                .with_context(|| format!("recorded settings of preset {preset}"))?,
            None => Self::none(preset),
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
                for arm in arms.keys() {
                    let data = (other.data.clone(), other.data_hash.clone());
                    tuned.data_of_file.insert((row.clone(), *arm), data);
                }
                tuned.rows.entry(row).or_default().extend(arms);
            }
        }
        Ok(tuned)
    }

    /// The names of the data that an arm of a row was searched on, if those of this hash are not among them.
    pub fn other_data(&self, row: &str, arm: Arm, hash: &str) -> Option<&str> {
        let (data, hashes) = self.data_of(row, arm);
        (!hashes.split("; ").any(|of| of == hash)).then_some(data)
    }

    /// Whether the search of an arm is that recorded with the table, and not of a file of `--tuned`.
    pub fn is_recorded(&self, row: &str, arm: Arm) -> bool {
        let recorded = self.rows.get(row).is_some_and(|arms| arms.contains_key(&arm));
        recorded && !self.data_of_file.contains_key(&(row.to_string(), arm))
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
    /// When there are none, or the search of an arm, with what `axes` says, is not complete: an arm must not
    /// be searched less than another.
    pub fn choose(
        preset: &str,
        (data, data_hash): (&str, &str),
        found: Found,
        effort: Effort,
        axes: impl Fn(&str, Arm) -> Result<Axes>,
    ) -> Result<Self> {
        ensure!(!found.0.is_empty(), "no finished cell of a search");
        let mut rows: BTreeMap<String, BTreeMap<Arm, Search>> = BTreeMap::new();
        for ((row, arm), (strength, points)) in found.0 {
            let search = Search::choose(strength, effort, &axes(&row, arm)?, &points)
                .with_context(|| format!("{row} {arm}"))?;
            rows.entry(row).or_default().insert(arm, search);
        }
        let [preset, data, data_hash] = [preset, data, data_hash].map(str::to_string);
        Ok(Self { preset, data, data_hash, rows, data_of_file: BTreeMap::new() })
    }

    /// What every arm was given, and where its best lies.
    pub fn table(&self, title: &str) -> Grid {
        let heads = [
            "model",
            "arm",
            "runs",
            "best of all",
            "its seeds",
            "result",
            "at the edge of what was tried",
            "best with published tables",
            "its result",
        ];
        let mut rows = Vec::new();
        for (row, arm, search) in self
            .rows
            .iter()
            .flat_map(|(row, arms)| arms.iter().map(move |(arm, search)| (row, arm, search)))
        {
            let result = |setting| search.result(setting).unwrap_or_default();
            let ((seeds, tuned), (_, published)) = (result(search.tuned), result(search.published));
            let edges = search.edges(Block::Tuned);
            rows.push(vec![
                row.clone(),
                arm.to_string(),
                search.runs().to_string(),
                search.tuned.to_string(),
                seeds.to_string(),
                tuned,
                if edges.is_empty() { "none".to_string() } else { edges.join(", ") },
                search.published.to_string(),
                published,
            ]);
        }
        Grid {
            title: format!("{title}: what every arm was given on {}", self.data),
            columns: heads.map(|head| (head.to_string(), true)).to_vec(),
            rows,
            notes: vec![
                "lr: peak learning rate; x: that of the embedding tables over it; std: their deviation at \
                 initialisation; t: strength, or the factor. Result: loss on a slice of the training data, behind the \
                 score that decides before it where there is one. No test data are read."
                    .to_string(),
            ],
        }
    }
}
