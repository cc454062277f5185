//! Finished runs: from run folders to the cells of a table and the lines of `results.csv`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use conditioned_models::Architecture;
use conditioned_models::architecture::TableStds;
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement};
use conditioned_nn::Precision;
use conditioned_train::{Event, Findings, MuonRule, record};
use serde::{Deserialize, Serialize};

use crate::arm::{self, Arm};
use crate::cell::{Budget, Cell, RunConfig, Summary};
use crate::column::DASH;
use crate::job::Init;
use crate::plan::name;
use crate::run::folder::{self, Folder};
use crate::search::Block;
use crate::table::{Curve, Table};

/// Steps whose training losses make a point of a curve.
const SMOOTHED: usize = 10;

/// A finished cell, all its stages together.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// What all its lines say.
    pub cell: Line,
    /// The data of its first stage, by name.
    pub data: String,
    /// The data of the later stages, by stage.
    pub later: BTreeMap<String, String>,
    /// Its numbers, those of later stages as `STAGE/METRIC`; `None` where one is not finite.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// What a language model wrote.
    pub text: Option<String>,
    /// Its learning curve, by step.
    pub curve: Vec<(usize, f64)>,
    /// What its probes found, by step.
    pub probes: Vec<(usize, Findings)>,
}

/// One number of a finished run: a line of `results.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The preset of its recipe.
    pub preset: String,
    /// The row of the table.
    pub row: String,
    /// The arm.
    pub arm: Arm,
    /// Where its setting comes from.
    pub start: Block,
    /// Whether its setting is the best of all that were searched.
    pub best: bool,
    /// What limited it.
    pub budget: Budget,
    /// Its seed.
    pub seed: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning rate of the embedding tables over it.
    pub embedding_lr_scale: f64,
    /// Deviation of the embedding tables at initialisation, of words or class token; empty where there is none.
    pub embedding_std: Option<f64>,
    /// The same of positions.
    pub position_std: Option<f64>,
    /// Strength t of the method, or the factor; empty where there is neither.
    pub strength: Option<f64>,
    /// Where the method acts; empty where tokens are left alone.
    #[serde(default)]
    pub placement: Option<Placement>,
    /// Micro-batches over which tokens go from unconditioned to conditioned; empty where tokens are left alone.
    #[serde(default)]
    pub ramp_steps: Option<u64>,
    /// What training multiplied matrices in.
    #[serde(default)]
    pub precision: Precision,
    /// Optimiser steps of the first stage.
    pub steps: usize,
    /// Trainable scalars of the first stage.
    pub parameters: usize,
    /// The data of the number.
    pub data: String,
    /// What the number is.
    pub metric: String,
    /// Empty where it is not finite.
    pub value: Option<f64>,
    /// The commits that trained it.
    pub commit: String,
}

impl Finished {
    /// A number that is there and finite.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied().flatten()
    }

    /// Whether its model has embedding tables in front of the first block.
    pub fn has_embedding_tables(&self) -> bool {
        self.cell.embedding_std.or(self.cell.position_std).is_some()
    }

    /// With which embedding tables it trained, for a table.
    pub fn tables(&self) -> &'static str {
        if self.has_embedding_tables() { self.cell.start.label() } else { DASH }
    }

    /// Its lines of `results.csv`.
    pub fn lines(&self) -> impl Iterator<Item = Line> + '_ {
        self.metrics.iter().map(|(metric, &value)| {
            let stage = metric.split_once('/').and_then(|(stage, _)| self.later.get(stage));
            let data = stage.unwrap_or(&self.data).clone();
            Line { data, metric: metric.clone(), value, ..self.cell.clone() }
        })
    }

    fn key(&self) -> (&str, Block, Budget, Arm, u64) {
        let Line { row, start, budget, arm, seed, .. } = &self.cell;
        (row, *start, *budget, *arm, *seed)
    }
}

/// The cells of a `results.csv`.
///
/// # Errors
/// When a line is of another form.
pub fn parse(text: &str) -> Result<Vec<Finished>> {
    let mut cells: Vec<Finished> = Vec::new();
    for line in csv::Reader::from_reader(text.as_bytes()).deserialize() {
        let line: Line = line?;
        let of_cell = |cell: &Finished| {
            let Line { row, start, budget, arm, seed, .. } = &line;
            cell.key() == (row, *start, *budget, *arm, *seed)
        };
        let at = cells.iter().rposition(of_cell).unwrap_or_else(|| {
            let cell = Line { metric: String::new(), value: None, ..line.clone() };
            cells.push(new(cell, String::new()));
            cells.len() - 1
        });
        match line.metric.split_once('/') {
            Some((stage, _)) => drop(cells[at].later.insert(stage.to_string(), line.data)),
            None => cells[at].data = line.data,
        }
        let Line { row, arm, seed, metric, value, .. } = line;
        ensure!(
            value.is_none_or(f64::is_finite),
            "{row} {arm} seed {seed}: {metric} is not finite; such a value is left empty"
        );
        ensure!(
            cells[at].metrics.insert(metric.clone(), value).is_none(),
            "{row} {arm} seed {seed}: {metric} twice"
        );
    }
    Ok(cells)
}

fn new(cell: Line, data: String) -> Finished {
    let (later, metrics) = (BTreeMap::new(), BTreeMap::new());
    Finished { cell, data, later, metrics, text: None, curve: Vec::new(), probes: Vec::new() }
}

/// All finished cells of a table below `out`, sorted.
///
/// # Errors
/// When there is none, a record is damaged, or runs do not belong together.
pub fn collect<T: Table>(out: &Path) -> Result<Vec<Finished>> {
    ensure!(
        out.is_dir(),
        "{}: no such folder; `run` makes it, and the runs of other presets and of --out lie elsewhere",
        out.display()
    );
    let mut runs = Vec::new();
    let mut together = Together::default();
    for folder in folder::find(out)? {
        let config = folder.config()?;
        ensure!(
            config.table == T::NAME,
            "{}: a run of {}; this is {}",
            folder.path().display(),
            config.table,
            T::NAME
        );
        let (Some(summary), Some(start)) = (folder.summary()?, Block::of(config.cell.start)) else {
            continue;
        };
        together.check(folder.path(), &config)?;
        runs.push((config, summary, start, folder));
    }
    // First stages first: the others are added to them.
    runs.sort_by_key(|(config, ..)| config.job.init.as_ref().is_some_and(Init::is_of_cell));
    let mut cells: Vec<Finished> = Vec::new();
    for (config, summary, start, folder) in runs {
        let cell = line(&config, &summary, start, folder.commits()?);
        let data = config.job.task.data().0.to_string();
        let key = |c: &Line| (c.row.clone(), c.start, c.budget, c.arm, c.seed);
        let first = cells.iter().position(|other| key(&other.cell) == key(&cell));
        let later = config.job.init.as_ref().is_some_and(Init::is_of_cell);
        let (at, prefix) = match (first, &config.stage) {
            (Some(at), Some(stage)) if later => {
                cells[at].later.insert(stage.clone(), data);
                // What a later stage shows is the work of both.
                let commit = &mut cells[at].cell.commit;
                if !commit.ends_with(&cell.commit) {
                    *commit = format!("{commit} then {}", cell.commit);
                }
                (at, format!("{stage}/"))
            }
            (None, _) if !later => {
                let mut finished = new(cell, data);
                (finished.curve, finished.probes) = records::<T>(&folder)?;
                finished.text.clone_from(&summary.text);
                cells.push(finished);
                (cells.len() - 1, String::new())
            }
            (None, _) => bail!("{}: the stage before it is missing", folder.path().display()),
            (Some(_), _) => bail!("{}: the same cell twice", folder.path().display()),
        };
        let facts = facts(&config).into_iter().map(|(name, value)| (name.to_string(), Some(value)));
        for (name, value) in summary.metrics.into_iter().chain(facts) {
            cells[at].metrics.insert(format!("{prefix}{name}"), value);
        }
    }
    if cells.is_empty() {
        bail!("{}: no finished run", out.display());
    }
    let rows: Vec<String> = T::Row::value_variants().iter().map(|row| name(*row)).collect();
    let order = |row: &str| rows.iter().position(|other| other == row);
    cells.sort_by(|a, b| {
        order(&a.cell.row).cmp(&order(&b.cell.row)).then_with(|| a.key().cmp(&b.key()))
    });
    Ok(cells)
}

fn line(config: &RunConfig, summary: &Summary, start: Block, commit: String) -> Line {
    let TableStds { words, positions } = config.job.network.table_stds();
    let conditioning = config.job.network.conditioning();
    let acts = conditioning.method != Method::None;
    Line {
        preset: config.preset.clone(),
        row: config.cell.row.clone(),
        arm: config.cell.arm,
        start,
        best: config.best,
        budget: config.cell.budget,
        seed: config.cell.seed,
        learning_rate: config.job.fit.schedule.peak,
        embedding_lr_scale: config.job.fit.groups.table_rate,
        embedding_std: words,
        position_std: positions,
        strength: conditioning.method.strength(),
        placement: acts.then_some(conditioning.placement),
        ramp_steps: acts.then_some(conditioning.ramp_steps),
        precision: config.job.fit.precision,
        steps: summary.steps,
        parameters: summary.parameters,
        data: String::new(),
        metric: String::new(),
        value: None,
        commit,
    }
}

/// Numbers that follow from the configuration.
fn facts(config: &RunConfig) -> Vec<(&'static str, f64)> {
    let accumulate = config.job.fit.accumulate;
    let mut facts = config.job.task.facts();
    // A task knows its micro-batches.
    for (_, tokens) in facts.iter_mut().filter(|(name, _)| *name == "step_tokens") {
        *tokens *= accumulate as f64;
    }
    facts.push(("timed_steps", (config.job.micro_batches() / accumulate) as f64));
    facts
}

/// What training left of a curve and of probes, by step.
type Records = (Vec<(usize, f64)>, Vec<(usize, Findings)>);

fn records<T: Table>(folder: &Folder) -> Result<Records> {
    let (mut points, mut probes) = (Vec::new(), Vec::new());
    let file = folder.path().join("metrics.jsonl");
    ensure!(
        file.exists(),
        "{}: the record of this finished run is gone; restore it, or remove the folder of the run to train it anew",
        file.display()
    );
    for event in record::read(&file)? {
        match (event, T::CURVE) {
            (Event::Evaluation { step, metrics, .. }, Curve::Evaluation(name, _)) => {
                points.extend(metrics.get(name).map(|value| (step, *value)));
            }
            (Event::Step { step, loss, .. }, Curve::TrainingLoss) => points.push((step, loss)),
            (Event::Probe { step, metrics, spectra }, _) => {
                probes.push((step, Findings { metrics, spectra }));
            }
            _ => {}
        }
    }
    if matches!(T::CURVE, Curve::Evaluation(..)) {
        return Ok((points, probes));
    }
    let means = points.chunks(SMOOTHED).filter_map(|chunk| {
        let mean = chunk.iter().map(|(_, loss)| loss).sum::<f64>() / chunk.len() as f64;
        Some((chunk.last()?.0, mean))
    });
    Ok((means.collect(), probes))
}

/// What the runs of an arm at a setting share, in any seed.
#[derive(Clone, PartialEq)]
struct Setup {
    conditioning: ConditioningConfig,
    muon: Option<MuonRule>,
    /// Peak, and that of embedding tables over it.
    learning_rates: [f64; 2],
    /// Deviations of embedding tables; nothing where every seed finds its own.
    stds: Option<TableStds>,
}

/// The runs of a table that have one setting: row, arm, start, budget and stage.
type OfArm = (String, Arm, String, Budget, Option<String>);

/// What the runs of one table, or of one search, must share.
#[derive(Default)]
pub struct Together {
    /// Table and preset of the first.
    first: Option<([String; 2], PathBuf)>,
    common: BTreeMap<(String, Option<String>, Budget), (RunConfig, PathBuf)>,
    arms: BTreeMap<OfArm, (Setup, PathBuf)>,
    /// The folders that it has looked at.
    seen: BTreeSet<PathBuf>,
}

impl Together {
    /// Adds the runs below `out`, of a search or of a table, that were begun since it was last asked.
    ///
    /// # Errors
    /// As [`Together::check`], or when a configuration cannot be read.
    pub fn look(&mut self, out: &Path, search: bool) -> Result<()> {
        for folder in folder::find(out)? {
            if self.seen.contains(folder.path()) || !folder.is_begun() {
                continue;
            }
            let config = folder.config()?;
            // A table does not read the runs of a search, nor a search those of a table.
            if config.cell.is_search() == search {
                self.check(folder.path(), &config)?;
            }
            self.seen.insert(folder.path().to_path_buf());
        }
        Ok(())
    }

    /// Adds a run in the folder `at`.
    ///
    /// # Errors
    /// When it does not belong to those before: another preset or recipe, or another setting of its arm.
    pub fn check(&mut self, at: &Path, config: &RunConfig) -> Result<()> {
        let of = [config.table.clone(), config.preset.clone()];
        let (first, first_at) = self.first.get_or_insert_with(|| (of.clone(), at.to_path_buf()));
        ensure!(
            *first == of,
            "{} and {}: runs of {} and of {} do not belong in one table; give each its own --out",
            first_at.display(),
            at.display(),
            first.join(", preset "),
            of.join(", preset ")
        );
        let common = config.common();
        let key = (config.cell.row.clone(), config.stage.clone(), config.cell.budget);
        let (first, first_at) =
            self.common.entry(key).or_insert_with(|| (common.clone(), at.to_path_buf()));
        ensure!(
            *first == common,
            "{} and {}: runs of different recipes do not belong in one table; give each its own --out. They differ in {}",
            first_at.display(),
            at.display(),
            first.difference(&common)?
        );
        let (network, fit) = (&config.job.network, &config.job.fit);
        let own = Setup {
            conditioning: network.conditioning(),
            muon: fit.muon.clone(),
            learning_rates: [fit.schedule.peak, fit.groups.table_rate],
            stds: (config.cell.arm.method != arm::Method::Init).then(|| network.table_stds()),
        };
        let Cell { row, arm, start, budget, .. } = &config.cell;
        // A setting may have its own, and so may a budget (it decides how long a ramp is) and a stage.
        let key = (row.clone(), *arm, start.to_string(), *budget, config.stage.clone());
        let (first, first_at) =
            self.arms.entry(key).or_insert_with(|| (own.clone(), at.to_path_buf()));
        ensure!(
            *first == own,
            "{} and {}: another learning rate, embedding table, strength, placement or optimiser for other seeds of \
             {arm}; they do not belong in one table; give each its own --out",
            first_at.display(),
            at.display()
        );
        Ok(())
    }
}

/// The cells of a committed or finished table: of its run folders, or of its `results.csv` alone.
///
/// # Errors
/// As [`collect`], or when the file is damaged.
pub fn open<T: Table>(out: &Path) -> Result<Vec<Finished>> {
    let file = out.join("results.csv");
    if file.exists() && folder::find(out)?.is_empty() {
        let rows: Vec<String> = T::Row::value_variants().iter().map(|row| name(*row)).collect();
        return read(&file, T::NAME, &rows);
    }
    collect::<T>(out)
}

/// The cells of the `results.csv` of a table with these rows.
///
/// # Errors
/// When the file is damaged, or of another table.
pub fn read(file: &Path, table: &str, rows: &[String]) -> Result<Vec<Finished>> {
    let place = file.display();
    let text = std::fs::read_to_string(file).with_context(|| place.to_string())?;
    let cells = parse(&text).with_context(|| place.to_string())?;
    ensure!(!cells.is_empty(), "{place}: no result in it; restore the file");
    for Finished { cell, .. } in &cells {
        let Line { row, preset, .. } = cell;
        ensure!(
            rows.contains(row) && *preset == cells[0].cell.preset,
            "{place}: {row} of preset {preset}: not one table of {table}"
        );
    }
    Ok(cells)
}
