//! One cell of the plan, pre-training or fine-tuning, and the whole configuration that follows from it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use conditioned_models::conditioning::ConditioningConfig;
use conditioned_train::FitConfig;
use experiments::cells;
use experiments::checkpoint::Checkpoint;
use experiments::corpus::TextConfig;
use experiments::encoder::EncoderConfig;
use experiments::search::{PUBLISHED_STD, Setting, Start};
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Model};
use crate::recipe::{Preset, Recipe};
use crate::tasks::TaskConfig;

/// What limits a pre-training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Budget {
    /// As many tokens as the recipe says.
    Tokens,
    /// The time that the baseline takes for them.
    Time,
}

/// One pre-training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cell {
    /// The kind of BERT.
    pub(crate) model: Model,
    /// The arm.
    pub(crate) arm: Arm,
    /// Scale of the tables and rates.
    pub(crate) start: Start,
    /// What limits it.
    pub(crate) budget: Budget,
    /// Seed of parameters, order of the data, and every random layer.
    pub(crate) seed: u64,
}

impl Cell {
    /// Its folder below that of its stage.
    fn folder(&self) -> PathBuf {
        let Self { model, arm, start, budget, seed } = self;
        let budget = match budget {
            Budget::Tokens => "",
            Budget::Time => "-time",
        };
        Path::new(model.name()).join(format!("{arm}-{start}{budget}")).join(format!("seed{seed}"))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, arm, start, budget, seed } = self;
        let budget = match budget {
            Budget::Tokens => "",
            Budget::Time => " at equal time",
        };
        write!(f, "{model} {arm} {start}{budget} seed {seed}")
    }
}

/// Everything that fixes the result of a pre-training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pretraining {
    /// The version of this workspace: another version trains anew.
    pub(crate) version: String,
    /// The preset it comes from.
    pub(crate) preset: Preset,
    /// Its place in the plan.
    pub(crate) cell: Cell,
    /// Whether no other setting is better for this arm: then a published cell is a tuned one too.
    pub(crate) best: bool,
    /// The network.
    pub(crate) network: EncoderConfig,
    /// The training run.
    pub(crate) fit: FitConfig,
    /// Micro-batches.
    pub(crate) micro_batches: usize,
    /// Windows of a micro-batch.
    pub(crate) batch_size: usize,
    /// Tokens T of a window.
    pub(crate) window: usize,
    /// Share of them that are hidden.
    pub(crate) mask: f64,
    /// Windows of an evaluation, at most.
    pub(crate) evaluation_windows: usize,
    /// The text.
    pub(crate) text: TextConfig,
    /// Whether the test documents are read at the end: never in a search.
    pub(crate) test: bool,
    /// Where it is computed.
    pub(crate) device: String,
}

/// Everything that fixes the result of a fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FineTuning {
    /// What it starts from.
    pub(crate) pretraining: Pretraining,
    /// The weights that it left.
    pub(crate) pretrained: Checkpoint,
    /// The texts.
    pub(crate) task: TaskConfig,
    /// The training run.
    pub(crate) fit: FitConfig,
    /// Texts per step.
    pub(crate) batch_size: usize,
    /// Tokens of the longest text.
    pub(crate) longest: usize,
    /// Dropout.
    pub(crate) dropout: f64,
}

/// The configuration of a cell of either stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "stage")]
pub(crate) enum RunConfig {
    /// Words are hidden and restored.
    Pretraining(Box<Pretraining>),
    /// A task of GLUE.
    FineTuning(Box<FineTuning>),
}

impl From<Pretraining> for RunConfig {
    fn from(run: Pretraining) -> Self {
        Self::Pretraining(Box::new(run))
    }
}

/// The result of a run: numbers that a repetition gives bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    /// The evaluation after the last step; a number that is not finite is null.
    pub(crate) metrics: BTreeMap<String, Option<f64>>,
    /// Optimiser steps.
    pub(crate) steps: usize,
    /// Trainable scalars.
    pub(crate) parameters: usize,
}

impl cells::Cell for RunConfig {
    type Summary = Summary;

    fn name(&self) -> String {
        match self {
            Self::Pretraining(run) => run.cell.to_string(),
            Self::FineTuning(run) => format!("{} {}", run.task.name, run.pretraining.cell),
        }
    }

    fn folder(&self, out: &Path) -> PathBuf {
        match self {
            Self::Pretraining(run) => run.folder(out),
            Self::FineTuning(run) => {
                out.join(run.task.task.name()).join(run.pretraining.cell.folder())
            }
        }
    }

    fn is_search(&self) -> bool {
        match self {
            Self::Pretraining(run) => !run.test,
            Self::FineTuning(_) => false,
        }
    }

    fn keeps_checkpoints(&self) -> bool {
        matches!(self, Self::Pretraining(run) if run.test)
    }

    fn diverged(&self) -> Summary {
        Summary { metrics: BTreeMap::new(), steps: 0, parameters: 0 }
    }
}

impl Pretraining {
    /// The configuration of a cell at a setting, over `micro_batches`.
    ///
    /// # Errors
    /// When the recipe contradicts itself, or does not fit the text.
    pub(crate) fn new(
        preset: Preset,
        cell: Cell,
        (setting, best): (Setting, bool),
        recipe: &Recipe,
        text: &TextConfig,
        device: &str,
    ) -> Result<Self> {
        recipe.validate()?;
        let conditioning = cell.arm.conditioning(recipe)?;
        let std = setting.table_std.unwrap_or(PUBLISHED_STD);
        let network = recipe.network(cell.model, conditioning, text.vocabulary, std);
        network.validate().with_context(|| format!("arm {}", cell.arm))?;
        let fit = recipe.pretraining(setting, cell.seed);
        fit.validate()?;
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_string(),
            preset,
            cell,
            best,
            network,
            fit,
            micro_batches: recipe.micro_batches,
            batch_size: recipe.batch_size,
            window: recipe.window,
            mask: recipe.mask,
            evaluation_windows: recipe.evaluation_windows,
            text: text.clone(),
            test: !matches!(cell.start, Start::Point(_)),
            device: device.to_string(),
        })
    }

    /// Its folder below `out`.
    pub(crate) fn folder(&self, out: &Path) -> PathBuf {
        out.join("pre-training").join(self.cell.folder())
    }

    /// Tokens of the whole pre-training.
    pub(crate) fn tokens(&self) -> usize {
        self.micro_batches * self.batch_size * self.window
    }

    /// What the runs of one model share: the configuration without arm, setting, budget and seed.
    pub(crate) fn common(&self) -> Self {
        let mut common = self.clone();
        common.cell = Cell {
            arm: Arm::Baseline,
            start: Start::Published,
            budget: Budget::Tokens,
            seed: 0,
            ..self.cell
        };
        common.best = false;
        common.network = common.network.with(ConditioningConfig::default(), PUBLISHED_STD);
        common.fit.schedule.peak = 0.0;
        common.fit.groups.table_rate = 1.0;
        common.fit.seed = 0;
        common.micro_batches = 0;
        common
    }
}

impl FineTuning {
    /// The fine-tuning of a pre-trained model below `out` on a task.
    ///
    /// # Errors
    /// When the weights are not there.
    pub(crate) fn new(
        pretraining: &Pretraining,
        out: &Path,
        task: &TaskConfig,
        recipe: &Recipe,
    ) -> Result<Self> {
        let fit = recipe.fine_tuning(pretraining.cell.seed);
        let folder = pretraining.folder(out);
        let folder = std::path::absolute(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self {
            pretrained: Checkpoint::read(&folder)?,
            pretraining: pretraining.clone(),
            task: task.clone(),
            fit,
            batch_size: recipe.task_batch_size,
            longest: recipe.task_longest,
            dropout: recipe.task_dropout,
        })
    }

    /// The network that is fine-tuned.
    pub(crate) fn network(&self) -> EncoderConfig {
        self.pretraining.network.clone().with_dropout(self.dropout)
    }
}
