//! The search of this table: its grids, and what was found.

use anyhow::{Result, bail, ensure};
use experiments::search::{self, PUBLISHED_STD, Search, Setting, Start, Trial, Tuned};

use crate::arm::Arm;
use crate::cell::RunConfig;
use crate::recipe::Preset;
use crate::train::Summary;

/// The settings that an arm is searched over: every rate with the published tables, and every rate
/// with a larger scale and with a larger rate of the tables; `init`, which finds its own scale,
/// has the rates.
pub(crate) fn grid(preset: Preset, arm: Arm) -> Vec<Setting> {
    let (rates, tables): (&[f64], &[(f64, f64)]) = match preset {
        Preset::Smoke => (&[3e-3], &[(1.0, PUBLISHED_STD), (10.0, PUBLISHED_STD)]),
        Preset::Short | Preset::TinystoriesCpu => (
            &[4e-3, 8e-3, 1.6e-2, 3.2e-2],
            &[(1.0, PUBLISHED_STD), (1.0, 0.1), (1.0, 0.3), (4.0, PUBLISHED_STD), (4.0, 0.1)],
        ),
        Preset::Shakespeare | Preset::Paper | Preset::PaperGpt2 => {
            (&[3e-3, 6e-3, 1.2e-2], &[(1.0, PUBLISHED_STD), (1.0, 0.1), (10.0, PUBLISHED_STD)])
        }
    };
    let mut settings = Vec::new();
    for &rate in rates {
        for &(table_rate, std) in tables {
            match arm {
                Arm::Init if std != PUBLISHED_STD => {}
                Arm::Init => settings.push(Setting { rate, table_rate, table_std: None }),
                _ => settings.push(Setting { rate, table_rate, table_std: Some(std) }),
            }
        }
    }
    settings
}

/// The outcome recorded with this table for a preset; that of `short` for `tinystories-cpu`, whose own
/// search would take a day.
pub(crate) fn recorded(preset: Preset) -> Option<&'static str> {
    match preset {
        Preset::Smoke => Some(include_str!("tuned/smoke.json")),
        Preset::Short | Preset::TinystoriesCpu => Some(include_str!("tuned/short.json")),
        Preset::Shakespeare => Some(include_str!("tuned/shakespeare.json")),
        Preset::Paper | Preset::PaperGpt2 => None,
    }
}

/// The search of an arm.
///
/// # Errors
/// When the arm was not searched.
pub(crate) fn best(tuned: Option<&Tuned>, arm: Arm) -> Result<&Search> {
    let flag = if arm == Arm::Literal { " --allow-future-leak" } else { "" };
    let search = tuned.and_then(|tuned| tuned.best(arm.name()));
    search.ok_or_else(|| search::unsearched(arm.name(), &format!("--arms {arm}{flag}")))
}

/// Chooses the best settings among the finished cells of a search.
///
/// # Errors
/// When there are none, they are not of one recipe, or an arm was searched less than another.
pub(crate) fn choose(cells: &[(RunConfig, Summary)]) -> Result<Tuned> {
    let Some((first, _)) = cells.first() else { bail!("no finished cell of a search") };
    let mut trials = Vec::new();
    for (config, summary) in cells {
        let Start::Point(setting) = config.cell.start else { continue };
        ensure!(config.common() == first.common(), "{}: another recipe", config.cell);
        trials.push(Trial {
            arm: config.cell.arm.to_string(),
            setting,
            seed: config.cell.seed,
            loss: summary.metrics.get("tune_loss").copied().flatten(),
        });
    }
    let grid = |arm: &str| arm.parse().map_or(Vec::new(), |arm| grid(first.preset, arm));
    let data = (first.data.text.name.as_str(), first.data.text.hash.as_str());
    Tuned::choose(first.preset.name(), data, trials, grid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_of_the_default_table_has_recorded_settings() {
        for preset in Preset::ALL {
            let tuned = Tuned::open(recorded(preset), None, preset.name()).unwrap();
            let Some(tuned) = tuned else { continue };
            for arm in preset.arms() {
                let search = best(Some(&tuned), *arm).unwrap();
                assert!(search.covers(&grid(preset, *arm)), "{preset} {arm}");
            }
        }
    }
}
