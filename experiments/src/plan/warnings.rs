//! Where recorded settings are not of what is trained now: searched with another recipe, strength or data.

use std::collections::BTreeSet;

use super::{Plan, name};
use crate::arm::Arm;
use crate::cell::RunConfig;
use crate::recipe::{Recipe, Shared};
use crate::search::{Search, Start};
use crate::table::Table;

/// Fields that no first stage is trained with, but by which it is judged, or that have a warning of their own.
const NOT_TRAINED_WITH: [&str; 10] = [
    "embedding_lr_scale",
    "embedding_std",
    "evaluation_windows",
    "evaluations",
    "factor",
    "probe_every",
    "prompt",
    "strength",
    "table_strength",
    "target",
];

impl<T: Table> Plan<T> {
    /// Says where the searches of these arms are not of the recipe that is trained now.
    pub fn warn(&self) {
        let mut changed = BTreeSet::new();
        for (row, recipe) in &self.rows {
            if recipe.shared().learning_rate.is_some() {
                continue;
            }
            let row_name = name(*row);
            for &arm in &self.arms {
                // What cannot be is told where it is planned.
                if let Ok(best) = self.tuned.best(&row_name, arm) {
                    self.warn_of(&row_name, arm, recipe.shared(), best);
                }
            }
            if self.arms.iter().any(|arm| self.tuned.is_recorded(&row_name, *arm)) {
                changed.extend(changed_keys(&(self.preset.recipe)(*row), recipe));
            }
        }
        if !changed.is_empty() {
            let changed: Vec<String> = changed.into_iter().collect();
            tracing::warn!(
                "the recorded settings were searched with the recipe of preset {}, and --set changes {}; `tune` \
                 searches with that",
                self.preset.name,
                changed.join(", ")
            );
        }
    }

    fn warn_of(&self, row: &str, arm: Arm, shared: &Shared, best: &Search) {
        let conditioning = arm.method.conditioning(shared, T::placement(arm.method), 1);
        let strength = conditioning.ok().and_then(|conditioning| conditioning.method.strength());
        if best.strength.is_some() && best.strength != strength {
            tracing::warn!(
                "{row} {arm}: the recorded settings were searched at strength {}, this run has {}",
                best.strength.unwrap_or_default(),
                strength.unwrap_or_default()
            );
        }
        if self.axes(row, arm).is_ok_and(|axes| !best.covers(&axes.begin())) {
            tracing::warn!("{row} {arm}: the recorded search has not tried all that `tune` would");
        }
    }

    /// Says which arms of a row were searched on other data than those of its runs.
    pub(super) fn warn_of_data(&self, row: &str, runs: &[RunConfig]) {
        let mut told: Vec<Arm> = Vec::new();
        for run in runs.iter().filter(|run| run.cell.row == row) {
            let arm = run.cell.arm;
            let recorded = matches!(run.cell.start, Start::Published | Start::Tuned);
            let (own, hash) = run.job.task.data();
            let searched = self.tuned.other_data(row, arm, hash).filter(|_| recorded);
            if let Some(searched) = searched.filter(|_| !told.contains(&arm)) {
                told.push(arm);
                tracing::warn!(
                    "{row} {arm}: its settings were searched on {searched}, and this is {own}; `tune` searches on it"
                );
            }
        }
    }
}

/// The fields in which a recipe differs from that of its preset, of those that it is trained with.
fn changed_keys<R: Recipe>(of_preset: &R, recipe: &R) -> Vec<String> {
    let fields = |recipe: &R| match serde_json::to_value(recipe) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let of_preset = fields(of_preset);
    let judges = |key: &str| {
        let parts = ["task_", "test_", "tune_", "prefix_"];
        NOT_TRAINED_WITH.contains(&key) || parts.iter().any(|part| key.starts_with(part))
    };
    let changed =
        fields(recipe).into_iter().filter(|(key, value)| of_preset.get(key) != Some(value));
    changed.map(|(key, _)| key).filter(|key| !judges(key)).collect()
}
