//! One question at a time about pooled conditioning and conditioned tables, on the tuning slice:
//! strength, momentum, placement, each with all else at the arm's tuned setting.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use conditioned_nn::store::write_atomic;
use experiments::cells::{self, Cell};
use experiments::folder::Folder;
use experiments::statistics::Sample;
use experiments::table::Table;

use crate::arm::Arm;
use crate::plan::Plan;
use crate::train::Summary;

/// What is changed, as `--set` would, and the arms that it concerns. The presets on stories have
/// strength 1 and momentum 0.1 after the position table, and conditioned tables of strength 0.3: the lines
/// `strength=1` and `table_strength=0.3` are all as it is.
const CHANGES: [(&str, &[Arm]); 9] = [
    ("strength=0.3", &[Arm::Pooled]),
    ("strength=1", &[Arm::Pooled]),
    ("strength=3", &[Arm::Pooled]),
    ("momentum=0.03", &[Arm::Pooled]),
    ("momentum=0.5", &[Arm::Pooled]),
    ("placement=before-position", &[Arm::Pooled]),
    ("table_strength=0.1", &[Arm::Table]),
    ("table_strength=0.3", &[Arm::Table]),
    ("table_strength=1", &[Arm::Table]),
];

/// Trains what is not there yet, then prints the answers and writes them to `sweep.md`.
///
/// # Errors
/// When a cell fails or a file cannot be written.
#[allow(clippy::print_stdout)]
pub(crate) fn run(plan: &Plan, stop: &AtomicBool) -> Result<()> {
    plan.place.is_whole()?;
    let mut rows = Vec::new();
    for (change, arms) in CHANGES {
        let out = plan.place.out.join(change);
        let cells = plan.changed(change, arms)?;
        cells::train(&cells, &out, plan.place.threads, stop)?;
        for arm in arms {
            let of_arm: Vec<_> = cells.iter().filter(|cell| cell.cell.arm == *arm).collect();
            if of_arm.is_empty() {
                continue;
            }
            let losses = of_arm.iter().map(|cell| loss(&cell.folder(&out)));
            let sample = Sample::of(&losses.collect::<Result<Vec<_>>>()?);
            let loss = sample.map_or(String::new(), |sample| sample.spread(3));
            rows.push(vec![change.to_string(), arm.to_string(), loss]);
        }
    }
    let columns = ["changed", "arm", "loss on the tuning slice (mean ± sd, n)"];
    let table = Table {
        title: "Strength, momentum and placement".to_string(),
        columns: columns.map(str::to_string).to_vec(),
        rows,
        notes: vec!["All else as in the preset, at the arm's tuned rates and tables.".to_string()],
    };
    let path = plan.place.out.join("sweep.md");
    write_atomic(&path, table.markdown().as_bytes()).with_context(|| path.display().to_string())?;
    println!("{}", table.terminal());
    Ok(())
}

/// The loss of a finished cell; infinite where it diverged.
fn loss(folder: &Path) -> Result<f64> {
    let summary: Option<Summary> = Folder::new(folder).summary()?;
    let loss = summary.and_then(|summary| summary.metrics.get("tune_loss").copied().flatten());
    Ok(loss.unwrap_or(f64::INFINITY))
}
