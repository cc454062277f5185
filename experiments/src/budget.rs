//! The budget in time: how many micro-batches an arm has for what the baseline takes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, ensure};
use conditioned_models::Architecture;
use conditioned_models::conditioning::{ConditioningConfig, Method, PooledPart};
use conditioned_train::Length;
use serde::{Deserialize, Serialize};

use crate::arm::Arm;
use crate::cell::{Budget, Cell, RunConfig};
use crate::run::folder;
use crate::run::timing::Timing;

/// By row and arm, what the time of the baseline is worth.
///
/// Measured once and kept in `budgets.json`: a run that goes on must not change its length.
pub struct Shares(BTreeMap<String, Share>);

/// Micro-batches of an arm at the time of the baseline, over those of the baseline.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    /// BLAKE3 of what was timed.
    recipe: String,
    share: f64,
}

fn key(row: &str, arm: Arm) -> String {
    format!("{row} {arm}")
}

impl Shares {
    /// What was kept in `out`, or follows from the `timings` of `runs` and is kept from now on: of each arm at its
    /// best setting. A row without baseline has none, nor has, with a warning, an arm that was timed at another commit.
    ///
    /// # Errors
    /// When the file is damaged, of another recipe, or cannot be written.
    pub fn keep(out: &Path, timings: &[Timing], runs: &[RunConfig]) -> Result<Self> {
        let file = out.join("budgets.json");
        let mut shares: BTreeMap<String, Share> =
            if file.exists() { folder::read(&file)? } else { BTreeMap::new() };
        let mut told = BTreeSet::new();
        for run in runs.iter().filter(|run| run.is_at_best()) {
            let (row, arm) = (&run.cell.row, run.cell.arm);
            let (key, recipe) = (key(row, arm), recipe(run)?);
            if let Some(kept) = shares.get(&key) {
                ensure!(
                    kept.recipe == recipe,
                    "{}: {key} was timed with another recipe; choose another --out",
                    file.display()
                );
                ensure!(
                    (1e-3..1e3).contains(&kept.share),
                    "{}: {key} has a share of {}, which no arm has; restore the file, or remove it to time anew",
                    file.display(),
                    kept.share
                );
                continue;
            }
            let timing = |arm: Arm| timings.iter().find(|t| t.row == *row && t.arm == arm);
            match (timing(Arm::BASELINE), timing(arm)) {
                (Some(baseline), Some(own)) if baseline.commit == own.commit => {
                    let share = baseline.ms_per_step / own.ms_per_step;
                    shares.insert(key, Share { recipe, share });
                }
                (Some(baseline), Some(own)) if told.insert(key.clone()) => tracing::warn!(
                    "{key}: no run at equal time, as the baseline was timed at commit {} and the arm at {}; name both in \
                     --arms to time them together",
                    baseline.commit,
                    own.commit
                ),
                _ => {}
            }
        }
        folder::write(&file, &shares)?;
        Ok(Self(shares))
    }

    /// Of `runs`, those that other arms than the baseline have at its time: each at its best setting. Where no
    /// baseline was timed there are none.
    pub fn at_equal_time(&self, runs: &[RunConfig]) -> Vec<RunConfig> {
        let best = runs.iter().filter(|run| run.is_at_best());
        let others = best.filter(|run| run.cell.arm != Arm::BASELINE);
        others.filter_map(|run| self.with_time(run)).collect()
    }

    /// A run with as many micro-batches as the baseline has time for, to the nearest whole step between two evaluations.
    fn with_time(&self, run: &RunConfig) -> Option<RunConfig> {
        let Share { share, .. } = self.0.get(&key(&run.cell.row, run.cell.arm))?;
        // An epoch is as many micro-batches as the data have; some micro-batches are themselves.
        let unit = match run.job.fit.length {
            Length::Epochs(epochs) => run.job.micro_batches() / epochs,
            Length::MicroBatches(_) => 1,
        };
        let every = unit * run.job.fit.evaluate_every;
        let evaluations = run.job.micro_batches() / every;
        let a_step = run.job.fit.accumulate;
        let steps = (share * every as f64 / a_step as f64).round().max(1.0) as usize;
        let every = steps * a_step;
        let part = (every * evaluations) as f64 / run.job.micro_batches() as f64;
        let mut run = run.clone();
        run.cell = Cell { budget: Budget::Time, ..run.cell };
        let network = &mut run.job.network;
        network.set_conditioning(of_length(network.conditioning(), part));
        let fit = &mut run.job.fit;
        fit.length = Length::MicroBatches(every * evaluations);
        (fit.evaluate_every, fit.checkpoint_every) = (every, every);
        Some(run)
    }
}

/// What is done to a model in a run that is `part` as long: ramps, and what is frozen, keep their share of it.
fn of_length(mut config: ConditioningConfig, part: f64) -> ConditioningConfig {
    let scaled = |steps: u64| (steps as f64 * part).round() as u64;
    config.ramp_steps = scaled(config.ramp_steps);
    if let Method::PooledPart { part: PooledPart::Frozen { steps }, .. } = &mut config.method {
        *steps = scaled(*steps);
    }
    config
}

/// What the cost of a step depends on, wherever it lies.
fn recipe(run: &RunConfig) -> Result<String> {
    let common = run.common();
    let mut timed = serde_json::to_string(&(common.identity()?, run.job.network.conditioning()))?;
    if let Some(muon) = &run.job.fit.muon {
        timed += &serde_json::to_string(muon)?;
    }
    Ok(blake3::hash(timed.as_bytes()).to_hex().to_string())
}
