//! Finished runs: from run folders to the lines of `results.csv`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use conditioned_train::{Event, record};
use experiments::folder::{self, Folder};
use experiments::search::Block;
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Model};
use crate::cell::{Budget, FineTuning, Pretraining, RunConfig, Summary};
use crate::recipe::Preset;

/// One number of one finished run: a line of `results.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Finished {
    /// The preset of its recipe.
    pub(crate) preset: Preset,
    /// The kind of BERT.
    pub(crate) model: Model,
    /// The arm.
    pub(crate) arm: Arm,
    /// Where the setting of its pre-training comes from.
    pub(crate) start: Block,
    /// Whether that is the best of all that were searched.
    pub(crate) best: bool,
    /// What limited the pre-training.
    pub(crate) budget: Budget,
    /// Its seed.
    pub(crate) seed: u64,
    /// The text that it was pre-trained on, or the task that it was fine-tuned on.
    pub(crate) data: String,
    /// `loss` (of hidden words of test documents, nats), condition numbers, the name of a task (the mean of
    /// its metrics, %).
    pub(crate) metric: String,
    /// Empty where it is not finite.
    pub(crate) value: Option<f64>,
    /// Peak rate of the pre-training.
    pub(crate) rate: f64,
    /// Rate of the tables over it.
    pub(crate) table_rate: f64,
    /// Deviation of the tables at initialisation.
    pub(crate) table_std: f64,
    /// Strength t of the method; empty where there is none.
    pub(crate) strength: Option<f64>,
    /// Tokens of the pre-training.
    pub(crate) tokens: usize,
    /// Steps of the pre-training that are as long as those that are timed.
    pub(crate) timed_steps: usize,
    /// Texts that a task has to train on; 0 in pre-training.
    pub(crate) train_rows: usize,
    /// Trainable scalars of the pre-trained model with its head, or of the classifier.
    pub(crate) parameters: usize,
    /// The commits that trained it.
    pub(crate) commit: String,
}

/// Losses on the tuning slice by step, of a pre-training.
pub(crate) struct Curve {
    pub(crate) start: Block,
    pub(crate) best: bool,
    pub(crate) model: Model,
    pub(crate) arm: Arm,
    pub(crate) losses: Vec<(usize, f64)>,
}

/// All numbers of finished runs below `out`, sorted, and the curves of their pre-training.
///
/// # Errors
/// When there is none, a record is damaged, or runs do not belong together.
pub(crate) fn collect(out: &Path) -> Result<(Vec<Finished>, Vec<Curve>)> {
    if !out.is_dir() {
        bail!("{}: no such folder; `run` makes it", out.display());
    }
    let (mut lines, mut curves) = (Vec::new(), Vec::new());
    let mut together = Together::default();
    for folder in folder::find(out)? {
        let config: RunConfig = folder.config()?;
        let Some(summary) = folder.summary::<Summary>()? else { continue };
        let (run, task) = match &config {
            RunConfig::Pretraining(run) => (&**run, None),
            RunConfig::FineTuning(run) => (&run.pretraining, Some(&**run)),
        };
        let Some(start) = Block::of(run.cell.start) else { continue };
        together.check(&folder.path().display().to_string(), run, task)?;
        // What a classifier shows is the work of both stages.
        let mut commit = folder.commits()?;
        if task.is_some() {
            let first = Folder::new(run.folder(out)).commits()?;
            if first != commit {
                commit = format!("{first} then {commit}");
            }
        }
        let metrics = match task {
            Some(task) => of_task(task, &summary),
            None => of_pretraining(&summary),
        };
        if task.is_none() && run.cell.budget == Budget::Tokens {
            let (model, arm, losses) = (run.cell.model, run.cell.arm, losses(&folder)?);
            curves.push(Curve { start, best: run.best, model, arm, losses });
        }
        for (metric, value) in metrics {
            lines.push(Finished {
                preset: run.preset,
                model: run.cell.model,
                arm: run.cell.arm,
                start,
                best: run.best,
                budget: run.cell.budget,
                seed: run.cell.seed,
                data: task.map_or(&run.text.name, |task| &task.task.name).clone(),
                metric,
                value,
                rate: run.fit.schedule.peak,
                table_rate: run.fit.groups.table_rate,
                table_std: run.network.table_std(),
                strength: run.network.conditioning().method.strength(),
                tokens: run.tokens(),
                // The first steps of a ramp are one micro-batch long.
                timed_steps: match run.fit.ramp > 0.0 {
                    true => run.micro_batches,
                    false => run.micro_batches / run.fit.accumulate,
                },
                train_rows: task.map_or(0, |task| task.task.train_rows),
                parameters: summary.parameters,
                commit: commit.clone(),
            });
        }
    }
    if lines.is_empty() {
        bail!("{}: no finished run", out.display());
    }
    lines.sort_by(|a, b| key(a).cmp(&key(b)));
    Ok((lines, curves))
}

fn key(line: &Finished) -> (Model, Block, Budget, Arm, u64, &str) {
    let Finished { model, start, budget, arm, seed, metric, .. } = line;
    (*model, *start, *budget, *arm, *seed, metric)
}

/// What the runs of one table must share.
#[derive(Default)]
pub(crate) struct Together {
    pretraining: BTreeMap<Model, Pretraining>,
    methods: BTreeMap<Arm, conditioned_models::conditioning::ConditioningConfig>,
    tasks: BTreeMap<&'static str, FineTuning>,
}

impl Together {
    /// Adds a run, which `at` names.
    ///
    /// # Errors
    /// When it does not belong to those before.
    pub(crate) fn check(
        &mut self,
        at: &str,
        run: &Pretraining,
        task: Option<&FineTuning>,
    ) -> Result<()> {
        let common = run.common();
        ensure!(
            *self.pretraining.entry(run.cell.model).or_insert_with(|| common.clone()) == common,
            "{at}: runs of different recipes do not belong in one table; separate them"
        );
        let method = run.network.conditioning();
        ensure!(
            *self.methods.entry(run.cell.arm).or_insert(method) == method,
            "{at}: another strength or placement than in other runs of {}; they do not belong in one \
             table; separate them",
            run.cell.arm
        );
        let Some(task) = task else { return Ok(()) };
        let mut shared = task.clone();
        // Seed and model are those of the pre-training, which was checked.
        shared.fit.seed = 0;
        let first = self.tasks.entry(task.task.task.name()).or_insert_with(|| shared.clone());
        shared.pretraining.clone_from(&first.pretraining);
        shared.pretrained.clone_from(&first.pretrained);
        ensure!(
            *first == shared,
            "{at}: another fine-tuning than in other runs of {}; separate them",
            task.task.name
        );
        Ok(())
    }
}

fn of_pretraining(summary: &Summary) -> Vec<(String, Option<f64>)> {
    let named =
        |(from, to): (&str, &str)| (to.to_string(), summary.metrics.get(from).copied().flatten());
    let names = [
        ("test_loss", "loss"),
        ("kappa_plain", "kappa_plain"),
        ("kappa_conditioned", "kappa_conditioned"),
        ("pooled_kappa_plain", "pooled_kappa_plain"),
        ("pooled_kappa_conditioned", "pooled_kappa_conditioned"),
    ];
    names.map(named).to_vec()
}

/// The mean of the task's metrics under its name, texts that were cut, and rows that were left out.
fn of_task(task: &FineTuning, summary: &Summary) -> Vec<(String, Option<f64>)> {
    let value = |name: &str| summary.metrics.get(name).copied().flatten();
    // As GLUE's own table has it.
    let metrics = task.task.task.metrics();
    let all: Option<Vec<f64>> = metrics.iter().map(|metric| value(metric.name())).collect();
    let score = all.map(|all| all.iter().sum::<f64>() / all.len() as f64);
    let cut = summary.metrics.iter().filter(|(name, _)| name.ends_with("_truncated"));
    let cut: f64 = cut.filter_map(|(_, count)| *count).sum();
    let name = task.task.task.name();
    vec![
        (name.to_string(), score),
        (format!("{name}_truncated"), Some(cut)),
        (format!("{name}_skipped"), Some(task.task.skipped as f64)),
    ]
}

fn losses(folder: &Folder) -> Result<Vec<(usize, f64)>> {
    let events = record::read(&folder.path().join("metrics.jsonl"))?.into_iter();
    let losses = events.filter_map(|event| match event {
        Event::Evaluation { step, metrics, .. } => Some((step, *metrics.get("tune_loss")?)),
        _ => None,
    });
    Ok(losses.collect())
}
