//! One cell of the plan, and the whole configuration that follows from it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use conditioned_models::conditioning::ConditioningConfig;
use conditioned_models::gpt2::Gpt2Config;
use conditioned_train::FitConfig;
use experiments::cells;
use experiments::checkpoint::Checkpoint;
use experiments::search::{PUBLISHED_STD, Setting, Start};
use serde::{Deserialize, Serialize};

use crate::arm::Arm;
use crate::data::DataConfig;
use crate::init;
use crate::recipe::{Preset, Recipe};
use crate::train::Summary;

/// One training run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cell {
    /// The arm.
    pub(crate) arm: Arm,
    /// Scale of the tables and rates.
    pub(crate) start: Start,
    /// Seed of parameters, order of the data, and every random layer.
    pub(crate) seed: u64,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} seed {}", self.arm, self.start, self.seed)
    }
}

/// How the scale of the position table is found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scale {
    /// It is `network.position_std`.
    Given,
    /// By a search for the smallest kappa of the first batch, before training.
    SmallestKappa,
}

/// What is measured, and on how much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measure {
    /// Windows of the tuning slice.
    pub(crate) tune_windows: usize,
    /// Windows of the test documents; null reads none of them, as in a search.
    pub(crate) test_windows: Option<usize>,
    /// Windows whose prefixes are continued by one token.
    pub(crate) prefix_windows: usize,
    /// Lengths of the prefixes.
    pub(crate) prefix_lengths: Vec<usize>,
    /// What the story begins with.
    pub(crate) prompt: String,
}

/// What all cells of a plan share beside recipe and text.
#[derive(Clone)]
pub(crate) struct Shared {
    /// Where it is computed.
    pub(crate) device: String,
    /// Whether the literal method may run.
    pub(crate) allow_future_leak: bool,
    /// The checkpoint that they start from, and its network.
    pub(crate) init: Option<(Checkpoint, Gpt2Config)>,
}

/// Everything that fixes the result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunConfig {
    /// The version of this workspace: another version trains anew.
    pub(crate) version: String,
    /// The preset it comes from.
    pub(crate) preset: Preset,
    /// Its place in the plan.
    pub(crate) cell: Cell,
    /// Whether no other setting is better for this arm: then a published cell is a tuned one too.
    pub(crate) best: bool,
    /// The network.
    pub(crate) network: Gpt2Config,
    /// How the scale of its position table is found.
    pub(crate) scale: Scale,
    /// The training run.
    pub(crate) fit: FitConfig,
    /// The checkpoint that it starts from; null draws the parameters.
    pub(crate) init: Option<Checkpoint>,
    /// Tokens T of a window.
    pub(crate) window: usize,
    /// Windows per step.
    pub(crate) batch_size: usize,
    /// Optimiser steps.
    pub(crate) steps: usize,
    /// The text.
    pub(crate) data: DataConfig,
    /// The evaluation.
    pub(crate) measure: Measure,
    /// Where it is computed.
    pub(crate) device: String,
}

impl cells::Cell for RunConfig {
    type Summary = Summary;

    fn name(&self) -> String {
        self.cell.to_string()
    }

    fn folder(&self, out: &Path) -> PathBuf {
        let Cell { arm, start, seed } = self.cell;
        out.join(format!("{arm}-{start}")).join(format!("seed{seed}"))
    }

    fn is_search(&self) -> bool {
        self.measure.test_windows.is_none()
    }

    fn diverged(&self) -> Summary {
        Summary {
            metrics: BTreeMap::new(),
            steps: 0,
            token_std: self.network.token_std,
            position_std: self.network.position_std,
            parameters: 0,
            story: None,
        }
    }
}

impl RunConfig {
    /// The configuration of a cell at a setting.
    ///
    /// # Errors
    /// When the recipe contradicts itself, or an arm sees the future and may not.
    pub(crate) fn new(
        preset: Preset,
        cell: Cell,
        (setting, best): (Setting, bool),
        recipe: &Recipe,
        data: &DataConfig,
        shared: &Shared,
    ) -> Result<Self> {
        recipe.validate()?;
        let std = setting.table_std.unwrap_or(PUBLISHED_STD);
        let mut network =
            recipe.network(cell.arm, data.text.vocabulary, std, shared.allow_future_leak)?;
        if let Some((checkpoint, given)) = &shared.init {
            init::fits(checkpoint, given, cell.arm, recipe, data)?;
            network = Gpt2Config {
                dropout: network.dropout,
                conditioning: network.conditioning,
                allow_future_leak: network.allow_future_leak,
                ..given.clone()
            };
        }
        network.validate().with_context(|| format!("arm {}", cell.arm))?;
        let fit = recipe.fit(setting, cell.seed);
        fit.validate()?;
        let is_search = matches!(cell.start, Start::Point(_));
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_string(),
            preset,
            cell,
            best,
            network,
            scale: match (cell.arm, setting.table_std) {
                (Arm::Init, None) => Scale::SmallestKappa,
                _ => Scale::Given,
            },
            fit,
            init: shared.init.as_ref().map(|(checkpoint, _)| checkpoint.clone()),
            window: recipe.context,
            batch_size: recipe.batch_size,
            steps: recipe.steps,
            data: data.clone(),
            measure: Measure {
                tune_windows: recipe.tune_windows,
                test_windows: (!is_search).then_some(recipe.test_windows),
                prefix_windows: recipe.prefix_windows,
                prefix_lengths: recipe.prefix_lengths.clone(),
                prompt: recipe.prompt.clone(),
            },
            device: shared.device.clone(),
        })
    }

    /// What all cells share: the configuration without seed, arm and setting.
    pub(crate) fn common(&self) -> Self {
        let mut common = self.clone();
        common.cell = Cell { arm: Arm::Baseline, start: Start::Published, seed: 0 };
        common.best = false;
        common.network.conditioning = ConditioningConfig::default();
        common.network.allow_future_leak = false;
        (common.network.token_std, common.network.position_std) = (PUBLISHED_STD, PUBLISHED_STD);
        common.scale = Scale::Given;
        common.fit.schedule.peak = 0.0;
        common.fit.groups.table_rate = 1.0;
        common.fit.seed = 0;
        common
    }
}
