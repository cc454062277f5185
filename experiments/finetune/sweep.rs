//! One question at a time, on a slice of the training texts: the rate of the baseline, and strength
//! and place of the conditioned arms.

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

const ALL: &[Arm] = &Arm::ALL;
const CONDITIONED: &[Arm] = &[Arm::Pooled, Arm::PerSequence, Arm::NormMatched];

/// What is changed, as `--set` would, and the arms that it concerns.
const CHANGES: [(&str, &[Arm]); 11] = [
    ("rate=3e-5", ALL),
    ("rate=1e-4", ALL),
    ("rate=3e-4", ALL),
    ("strength=0.01", CONDITIONED),
    ("strength=0.03", CONDITIONED),
    ("strength=0.1", CONDITIONED),
    ("strength=0.3", CONDITIONED),
    ("strength=1", CONDITIONED),
    ("placement=before-position", CONDITIONED),
    ("placement=after-norm", CONDITIONED),
    ("ramp=0", CONDITIONED),
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
        let cells = plan.changed(change, arms)?;
        cells::train(&cells, &plan.place.out, plan.place.threads, stop)?;
        for &arm in arms {
            let of_arm: Vec<_> = cells.iter().filter(|cell| cell.cell.arm == arm).collect();
            let column = |metric: &str| -> Result<String> {
                let values = of_arm.iter().map(|cell| {
                    let summary: Option<Summary> =
                        Folder::new(cell.folder(&plan.place.out)).summary()?;
                    let value = summary.and_then(|s| s.metrics.get(metric).copied().flatten());
                    Ok(value.unwrap_or(f64::NAN))
                });
                let values = values.collect::<Result<Vec<_>>>()?;
                Ok(Sample::of(&values).map_or(String::new(), |sample| sample.spread(3)))
            };
            if of_arm.is_empty() {
                continue;
            }
            let judged = ["accuracy", "matthews", "pearson"].map(column);
            let [accuracy, matthews, pearson] = judged;
            let scores = [accuracy?, matthews?, pearson?];
            let known = scores.into_iter().filter(|score| !score.contains("NaN"));
            let score = known.collect::<Vec<_>>().join("; ");
            let loss = column("tune_loss")?;
            let loss = if loss.contains("NaN") { "diverged".to_string() } else { loss };
            rows.push(vec![change.to_string(), arm.to_string(), loss, score]);
        }
    }
    let columns =
        ["changed", "arm", "loss on the tuning slice", "accuracy, Matthews or Pearson, %"];
    let table = Table {
        title: "Rate, strength and placement on a slice of the training texts".to_string(),
        columns: columns.map(str::to_string).to_vec(),
        rows,
        notes: vec!["All else as set; mean ± sd over seeds.".to_string()],
    };
    let path = plan.place.out.join("sweep.md");
    write_atomic(&path, table.markdown().as_bytes()).with_context(|| path.display().to_string())?;
    println!("{}", table.terminal());
    Ok(())
}
