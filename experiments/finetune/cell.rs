//! One cell of the plan, and the whole configuration that follows from it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use conditioned_models::bert::BertConfig;
use conditioned_models::conditioning::ConditioningConfig;
use conditioned_train::FitConfig;
use experiments::cells;
use experiments::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};

use crate::arm::Arm;
use crate::data::DataConfig;
use crate::recipe::Recipe;
use crate::train::Summary;

/// One training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cell {
    /// The arm.
    pub(crate) arm: Arm,
    /// What a sweep changed, as `key=value`; null in a table.
    pub(crate) change: Option<String>,
    /// Seed of head, order of the texts, and dropout.
    pub(crate) seed: u64,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = self.change.as_ref().map_or(String::new(), |change| format!(" {change}"));
        write!(f, "{}{change} seed {}", self.arm, self.seed)
    }
}

/// What every cell starts from.
pub(crate) struct Init {
    /// The folder.
    pub(crate) checkpoint: Checkpoint,
    /// The hash of its tokenizer.
    pub(crate) tokenizer: String,
    /// Its network, without conditioning.
    pub(crate) network: BertConfig,
}

/// Everything that fixes the result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunConfig {
    /// The version of this workspace: another version trains anew.
    pub(crate) version: String,
    /// Its place in the plan.
    pub(crate) cell: Cell,
    /// The checkpoint that it starts from.
    pub(crate) init: Checkpoint,
    /// The hash of its tokenizer.
    pub(crate) tokenizer: String,
    /// Its network.
    pub(crate) network: BertConfig,
    /// The training run.
    pub(crate) fit: FitConfig,
    /// Texts per step.
    pub(crate) batch_size: usize,
    /// Tokens of the longest text.
    pub(crate) longest: usize,
    /// The texts.
    pub(crate) data: DataConfig,
    /// Where it is computed.
    pub(crate) device: String,
}

impl cells::Cell for RunConfig {
    type Summary = Summary;

    fn name(&self) -> String {
        self.cell.to_string()
    }

    fn folder(&self, out: &Path) -> PathBuf {
        let Cell { arm, change, seed } = &self.cell;
        let change = change.as_ref().map_or(String::new(), |change| format!("-{change}"));
        out.join(format!("{arm}{change}")).join(format!("seed{seed}"))
    }

    fn is_search(&self) -> bool {
        self.cell.change.is_some()
    }

    fn diverged(&self) -> Summary {
        Summary { metrics: BTreeMap::new(), steps: 0, parameters: 0 }
    }
}

impl RunConfig {
    /// The configuration of a cell.
    ///
    /// # Errors
    /// When recipe, network and texts do not fit together.
    pub(crate) fn new(
        cell: Cell,
        recipe: &Recipe,
        Init { checkpoint, tokenizer, network }: &Init,
        data: &DataConfig,
        device: &str,
    ) -> Result<Self> {
        recipe.validate()?;
        let ramp_steps = recipe.ramp_steps(data.train_rows(cell.change.is_some()));
        let conditioning = cell.arm.conditioning(recipe, ramp_steps)?;
        let network = BertConfig {
            dropout: recipe.dropout.unwrap_or(network.dropout),
            conditioning,
            ..network.clone()
        };
        network.validate().with_context(|| format!("arm {}", cell.arm))?;
        let fit = recipe.fit(network.depth, cell.seed);
        fit.validate()?;
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_string(),
            cell,
            init: checkpoint.clone(),
            tokenizer: tokenizer.clone(),
            network,
            fit,
            batch_size: recipe.batch_size,
            longest: recipe.longest,
            data: data.clone(),
            device: device.to_string(),
        })
    }

    /// What all cells of a table share: the configuration without seed and arm.
    pub(crate) fn common(&self) -> Self {
        let mut common = self.clone();
        common.cell = Cell { arm: Arm::Baseline, change: None, seed: 0 };
        common.network.conditioning = ConditioningConfig::default();
        common.fit.seed = 0;
        common
    }
}
