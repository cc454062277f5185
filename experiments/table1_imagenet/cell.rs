//! One cell of the plan, and the whole configuration that follows from it.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use conditioned_models::conditioning::ConditioningConfig;
use conditioned_models::vit::VitConfig;
use conditioned_train::FitConfig;
use experiments::cells;
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Row};
use crate::data::DataConfig;
use crate::recipe::{PUBLISHED_STD, Preset, Recipe};
use crate::train::Summary;
use crate::tune::Setting;

/// Where class token and position table start, and with which rate the run goes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Start {
    /// The published scale, and the best rate for it.
    Published,
    /// The best pair of scale and rate.
    Tuned,
    /// Scale or rate as set on the command line.
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
            Self::Point(Setting { rate, table_std: Some(std) }) => write!(f, "rate{rate}-std{std}"),
            Self::Point(Setting { rate, table_std: None }) => write!(f, "rate{rate}"),
        }
    }
}

/// One training run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cell {
    /// The row of the table.
    pub(crate) row: Row,
    /// The arm.
    pub(crate) arm: Arm,
    /// Scale of the tables and rate.
    pub(crate) start: Start,
    /// Seed of parameters, order of the data, and every random layer.
    pub(crate) seed: u64,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} seed {}", self.row, self.arm, self.start, self.seed)
    }
}

/// How the scale of the tables is found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scale {
    /// It is `network.table_std`.
    Given,
    /// By a search for the smallest kappa of the first batch, before training.
    SmallestKappa,
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
    /// Whether no other scale of the tables is better for this arm: then a published cell is a
    /// tuned one too.
    pub(crate) best: bool,
    /// The network.
    pub(crate) network: VitConfig,
    /// How the scale of its tables is found.
    pub(crate) scale: Scale,
    /// The training run.
    pub(crate) fit: FitConfig,
    /// The images.
    pub(crate) data: DataConfig,
    /// Tuning accuracy in % whose first step is reported.
    pub(crate) target: f64,
    /// Whether the test images are read at the end: never in a search.
    pub(crate) test: bool,
    /// Where it is computed.
    pub(crate) device: String,
}

impl cells::Cell for RunConfig {
    type Summary = Summary;

    fn name(&self) -> String {
        self.cell.to_string()
    }

    fn folder(&self, out: &Path) -> PathBuf {
        let Cell { row, arm, start, seed } = self.cell;
        out.join(row.name()).join(format!("{arm}-{start}")).join(format!("seed{seed}"))
    }

    fn is_search(&self) -> bool {
        !self.test
    }

    fn diverged(&self) -> Summary {
        Summary::diverged(self.network.table_std)
    }
}

impl RunConfig {
    /// The configuration of a cell at a setting.
    ///
    /// # Errors
    /// When the recipe contradicts itself, or does not fit the data.
    pub(crate) fn new(
        preset: Preset,
        cell: Cell,
        (setting, best): (Setting, bool),
        recipe: &Recipe,
        data: &DataConfig,
        device: &str,
    ) -> Result<Self> {
        let table_std = setting.table_std.unwrap_or(PUBLISHED_STD);
        let config = Self {
            version: env!("CARGO_PKG_VERSION").to_string(),
            preset,
            cell,
            best,
            network: recipe.network(cell.arm, table_std)?,
            scale: match (cell.arm, setting.table_std) {
                (Arm::Init, None) => Scale::SmallestKappa,
                _ => Scale::Given,
            },
            fit: recipe.fit(setting.rate, cell.seed),
            data: data.clone(),
            target: recipe.target,
            test: !matches!(cell.start, Start::Point(_)),
            device: device.to_string(),
        };
        config.network.validate()?;
        config.fit.validate()?;
        Ok(config)
    }

    /// What all cells of a row share: the configuration without seed, arm and setting.
    pub(crate) fn common(&self) -> Self {
        let mut common = self.clone();
        common.cell = Cell { arm: Arm::Baseline, start: Start::Published, seed: 0, ..self.cell };
        common.best = false;
        common.network.conditioning = ConditioningConfig::default();
        common.network.table_std = PUBLISHED_STD;
        common.scale = Scale::Given;
        common.fit.schedule.peak = 0.0;
        common.fit.seed = 0;
        common
    }
}
