//! The budget in time: how many micro-batches an arm has for what the baseline takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use experiments::folder;
use experiments::timing::Timing;
use serde::{Deserialize, Serialize};

use crate::arm::{Arm, Model};
use crate::cell::Pretraining;
use crate::plan::key;

/// By model and arm, what the time of the baseline is worth.
///
/// Measured once and kept in `budgets.json`: a run that goes on must not change its length.
pub(crate) struct Shares(BTreeMap<String, Share>);

/// Micro-batches of an arm at the time of the baseline, over those of the baseline.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    /// BLAKE3 of what was timed.
    recipe: String,
    share: f64,
}

impl Shares {
    /// What was kept in `out`, or follows from the `timings` of `runs` and is kept from now on. A model
    /// without baseline has none.
    ///
    /// # Errors
    /// When the file is damaged, of another recipe, or cannot be written.
    pub(crate) fn keep(out: &Path, timings: &[Timing], runs: &[Pretraining]) -> Result<Self> {
        let file = out.join("budgets.json");
        let mut shares: BTreeMap<String, Share> =
            if file.exists() { folder::read(&file)? } else { BTreeMap::new() };
        for run in runs {
            let (model, arm) = (run.cell.model, run.cell.arm);
            let (key, recipe) = (key(model, arm), recipe(run)?);
            if let Some(kept) = shares.get(&key) {
                ensure!(
                    kept.recipe == recipe,
                    "{}: {key} was timed with another recipe; choose another --out",
                    file.display()
                );
                continue;
            }
            let ms = |arm: Arm| {
                let own = |timing: &&Timing| timing.row == model.name() && timing.arm == arm.name();
                timings.iter().find(own).map(|timing| timing.ms_per_step)
            };
            if let (Some(baseline), Some(own)) = (ms(Arm::Baseline), ms(arm)) {
                shares.insert(key, Share { recipe, share: baseline / own });
            }
        }
        folder::write(&file, &shares)?;
        Ok(Self(shares))
    }

    /// The `micro_batches` that the baseline takes in those of an arm, to the nearest multiple of
    /// `evaluations`; `None` where no baseline was timed beside it.
    pub(crate) fn of(
        &self,
        (model, arm): (Model, Arm),
        micro_batches: usize,
        evaluations: usize,
    ) -> Option<usize> {
        let Share { share, .. } = self.0.get(&key(model, arm))?;
        let between = (share * micro_batches as f64 / evaluations as f64).round() as usize;
        Some(between.max(1) * evaluations)
    }
}

/// What the cost of a step depends on, wherever it lies.
fn recipe(run: &Pretraining) -> Result<String> {
    let mut common = run.common();
    common.text.folder = PathBuf::new();
    let timed = serde_json::to_string(&(common, run.network.conditioning()))?;
    Ok(blake3::hash(timed.as_bytes()).to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slower_arm_has_fewer_micro_batches() {
        let slow = Share { recipe: String::new(), share: 0.8 };
        let shares = Shares(BTreeMap::from([(key(Model::Bert, Arm::PerSequence), slow)]));
        assert_eq!(shares.of((Model::Bert, Arm::PerSequence), 1000, 10), Some(800));
        // To the nearest multiple, and never none.
        assert_eq!(shares.of((Model::Bert, Arm::PerSequence), 1000, 300), Some(900));
        assert_eq!(shares.of((Model::Bert, Arm::PerSequence), 100, 1000), Some(1000));
        assert_eq!(shares.of((Model::Bert, Arm::Pooled), 1000, 10), None);
    }
}
