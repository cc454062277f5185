//! The budget in time: how many micro-batches an arm has for what the baseline takes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use experiments::folder;
use experiments::timing::Timing;

use crate::arm::{Arm, Model};

/// Micro-batches of an arm at the time of the baseline, over those of the baseline.
///
/// Measured once and kept in `budgets.json`: a run that goes on must not change its length.
pub(crate) struct Shares(BTreeMap<String, f64>);

impl Shares {
    /// What was kept in `out`, or follows from `timings` and is kept from now on.
    ///
    /// # Errors
    /// When the file is damaged or cannot be written.
    pub(crate) fn keep(out: &Path, timings: &[Timing]) -> Result<Self> {
        let file = out.join("budgets.json");
        let mut shares: BTreeMap<String, f64> =
            if file.exists() { folder::read(&file)? } else { BTreeMap::new() };
        for timing in timings {
            let is_baseline =
                |other: &&Timing| other.row == timing.row && other.arm == Arm::Baseline.name();
            let Some(baseline) = timings.iter().find(is_baseline) else { continue };
            let share = baseline.ms_per_step / timing.ms_per_step;
            shares.entry(format!("{} {}", timing.row, timing.arm)).or_insert(share);
        }
        folder::write(&file, &shares)?;
        Ok(Self(shares))
    }

    /// `micro_batches` of the baseline in those of an arm, a multiple of `evaluations`.
    ///
    /// # Errors
    /// When the arm was not timed.
    pub(crate) fn of(
        &self,
        (model, arm): (Model, Arm),
        micro_batches: usize,
        evaluations: usize,
    ) -> Result<usize> {
        let share = self.0.get(&format!("{model} {arm}"));
        let share = share.ok_or_else(|| anyhow!("{model} {arm}: its steps were not timed"))?;
        let epochs = (share * micro_batches as f64 / evaluations as f64).round() as usize;
        Ok(epochs.max(1) * evaluations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slower_arm_has_fewer_micro_batches_and_keeps_their_number() {
        let out = tempfile::tempdir().unwrap();
        let timing = |arm: Arm, ms_per_step| Timing {
            row: Model::CrammedBert.to_string(),
            arm: arm.to_string(),
            ms_per_step,
            peak_mib: None,
            commit: String::new(),
        };
        let timings = [timing(Arm::Baseline, 8.0), timing(Arm::PerSequence, 10.0)];
        let of = |timings: &[Timing]| {
            let shares = Shares::keep(out.path(), timings).unwrap();
            shares.of((Model::CrammedBert, Arm::PerSequence), 1000, 10).unwrap()
        };
        assert_eq!(of(&timings), 800);
        assert_eq!(of(&[timing(Arm::Baseline, 8.0), timing(Arm::PerSequence, 16.0)]), 800);
        let shares = Shares::keep(out.path(), &timings).unwrap();
        let error = shares.of((Model::Bert, Arm::Pooled), 1000, 10).unwrap_err().to_string();
        assert!(error.contains("bert pooled"), "{error}");
    }
}
