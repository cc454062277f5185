//! One cell of a table, the whole configuration that follows from it, and its result.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use conditioned_models::Architecture;
use conditioned_models::conditioning::ConditioningConfig;
use conditioned_train::Length;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::arm::Arm;
use crate::device::DeviceName;
use crate::job::Job;
use crate::search::Start;
use crate::settings::PUBLISHED_STD;

/// The layout of run folders and their records. Another number is another layout.
pub const FORMAT: u32 = 2;

/// What limits a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Budget {
    /// As many steps as the recipe says.
    Steps,
    /// The time that the baseline takes for them.
    Time,
}

/// The place of a run in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// The row of the table: a model.
    pub row: String,
    /// The arm.
    pub arm: Arm,
    /// Its setting.
    pub start: Start,
    /// What limits it.
    pub budget: Budget,
    /// Seed of parameters, order of the data, and every random layer.
    pub seed: u64,
}

impl Cell {
    /// Whether it is a point of a search: it reads no test data, and one that diverges is a result, the worst.
    pub fn is_search(&self) -> bool {
        matches!(self.start, Start::Point(_))
    }

    fn budget(&self, text: &'static str) -> &'static str {
        match self.budget {
            Budget::Steps => "",
            Budget::Time => text,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, arm, start, seed, .. } = self;
        write!(f, "{row} {arm} {start}{} seed {seed}", self.budget(" at equal time"))
    }
}

/// Everything that fixes the result of a run: written to its folder before the first step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of this workspace: another version trains anew.
    pub version: String,
    /// The table, by the name of its binary.
    pub table: String,
    /// The preset that the recipe comes from.
    pub preset: String,
    /// Its place in the table.
    pub cell: Cell,
    /// The stage of a cell that has several, by name.
    pub stage: Option<String>,
    /// Whether no other setting is better for this arm: then a published cell is a tuned one too.
    pub best: bool,
    /// What is trained on what.
    pub job: Job,
    /// Where it is computed.
    pub device: DeviceName,
}

impl RunConfig {
    /// What it is called.
    pub fn name(&self) -> String {
        let stage = self.stage.as_ref().map_or(String::new(), |stage| format!(" {stage}"));
        format!("{}{stage}", self.cell)
    }

    /// Its folder below `out`.
    pub fn folder(&self, out: &Path) -> PathBuf {
        let Cell { row, arm, start, seed, .. } = &self.cell;
        let budget = self.cell.budget("-equal-time");
        let cell = out.join(row).join(format!("{arm}-{start}{budget}")).join(format!("seed{seed}"));
        match &self.stage {
            Some(stage) => cell.join(stage),
            None => cell,
        }
    }

    /// Whether its arm is at its best setting, or at the one that was set: what is timed, and runs again at equal
    /// time.
    pub fn is_at_best(&self) -> bool {
        self.best || self.cell.start == Start::Set
    }

    /// What the runs of one row and stage of a table share: the configuration without arm, setting, budget
    /// and seed.
    pub fn common(&self) -> Self {
        let mut common = self.clone();
        common.cell = Cell {
            row: self.cell.row.clone(),
            arm: Arm::BASELINE,
            start: Start::Published,
            budget: Budget::Steps,
            seed: 0,
        };
        common.best = false;
        let network = &mut common.job.network;
        network.set_conditioning(ConditioningConfig::default());
        // A network without embedding tables has none to make alike.
        network.set_table_std(PUBLISHED_STD).ok();
        common.job.init = common.job.init.filter(|init| !init.is_of_cell());
        common.job.fit.schedule.peak = 0.0;
        common.job.fit.groups.table_rate = 1.0;
        common.job.fit.seed = 0;
        common.job.fit.probe_every = None;
        common.job.fit.muon = None;
        // At equal time every arm has a length of its own.
        if self.cell.budget == Budget::Time {
            let fit = &mut common.job.fit;
            fit.length = Length::MicroBatches(0);
            (fit.evaluate_every, fit.checkpoint_every) = (0, 0);
        }
        common
    }

    /// The text that fixes a run: a checkpoint continues no other. Data, tokenizers and weights are in it by
    /// their hashes and not by their places, so that a folder of runs can be moved; of a GPU its number is not.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn identity(&self) -> Result<String> {
        Ok(self.fixed()?.to_string())
    }

    fn fixed(&self) -> Result<Value> {
        let mut json = serde_json::to_value(self).with_context(|| self.name())?;
        forget_places(&mut json);
        json["device"] = self.device.kind().into();
        Ok(json)
    }

    /// The first field in which two configurations differ, with both values.
    ///
    /// # Errors
    /// When they cannot be written as JSON.
    pub fn difference(&self, other: &Self) -> Result<String> {
        let found = difference(&self.fixed()?, &other.fixed()?);
        Ok(found.map_or_else(String::new, |(field, values)| format!("{field}: {values}")))
    }
}

/// Where two values first differ, as a path of fields, and both values there.
fn difference(a: &Value, b: &Value) -> Option<(String, String)> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
            let [a, b] = [a, b].map(|fields| |name| fields.get(name).unwrap_or(&Value::Null));
            names.into_iter().find_map(|name| {
                let (path, values) = difference(a(name), b(name))?;
                let dot = if path.is_empty() { "" } else { "." };
                Some((format!("{name}{dot}{path}"), values))
            })
        }
        (a, b) => (a != b).then(|| (String::new(), format!("{a} and {b}"))),
    }
}

/// Empties every field that is the place of a file.
fn forget_places(json: &mut Value) {
    match json {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| match value {
            Value::String(_) if ["folder", "path", "hub", "train", "dev"].contains(&&**name) => {
                *value = Value::Null;
            }
            value => forget_places(value),
        }),
        Value::Array(values) => values.iter_mut().for_each(forget_places),
        _ => {}
    }
}

/// The result of a run: numbers that a repetition gives bit for bit.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The evaluation after the last step, and what follows from the records; null where a number is not
    /// finite. Empty where the loss of a search became infinite.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// Optimiser steps.
    pub steps: usize,
    /// Trainable scalars.
    pub parameters: usize,
    /// What a language model wrote.
    pub text: Option<String>,
}

impl Summary {
    /// A metric that is there and finite.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named_by_its_path() {
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let a = json(r#"{"device": "cpu", "fit": {"length": {"epochs": 3}, "batch": 4}}"#);
        let differs = |b: &str| difference(&a, &json(b));
        let of = |path: &str, values: &str| Some((path.to_string(), values.to_string()));
        let epochs = r#"{"device": "cpu", "fit": {"length": {"epochs": 5}, "batch": 4}}"#;
        assert_eq!(differs(epochs), of("fit.length.epochs", "3 and 5"));
        let more =
            r#"{"device": "cpu", "fit": {"length": {"epochs": 3}, "batch": 4, "ramp": 0.1}}"#;
        assert_eq!(differs(more), of("fit.ramp", "null and 0.1"));
        assert_eq!(difference(&a, &a), None);
    }
}
