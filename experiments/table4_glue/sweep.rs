//! One question at a time: strength and place of the conditioned arms, by the loss on the tuning slice.

use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use conditioned_nn::store::write_atomic;
use experiments::cells::{self, Cell};
use experiments::folder::Folder;
use experiments::statistics::Sample;
use experiments::table::Table;

use crate::arm::Arm;
use crate::cell::{RunConfig, Summary};
use crate::plan::Plan;

/// Arms that do something to the tokens.
const CONDITIONED: &[Arm] = &[Arm::PerSequence, Arm::Pooled];

const PLACES: [&str; 3] = ["before-position", "after-position", "after-norm"];
const STRENGTHS: [&str; 3] = ["0.1", "0.3", "1"];

/// Trains what is not there yet, then prints the answers and writes them to `sweep.md`.
///
/// # Errors
/// When a cell fails or a file cannot be written.
#[allow(clippy::print_stdout)]
pub(crate) fn run(plan: &Plan, stop: &AtomicBool) -> Result<()> {
    plan.place.is_whole()?;
    let mut rows = Vec::new();
    let text = plan.text()?;
    let changes = PLACES.iter().flat_map(|place| STRENGTHS.map(|t| (*place, t)));
    for (place, t) in changes {
        let change = [format!("placement={place}"), format!("strength={t}")];
        let changed = plan.changed(&text, &[&change[0], &change[1]], CONDITIONED)?;
        let cells: Vec<RunConfig> = changed.iter().cloned().map(RunConfig::from).collect();
        // A change has a folder of its own: the cells are called alike.
        let out = plan.place.out.join(format!("{place}-{t}"));
        cells::train(&cells, &out, plan.place.threads, stop)?;
        for &arm in CONDITIONED {
            let of_arm = changed.iter().zip(&cells).filter(|(run, _)| run.cell.arm == arm);
            let losses = of_arm.map(|(_, cell)| {
                let summary: Option<Summary> = Folder::new(cell.folder(&out)).summary()?;
                let loss = summary.and_then(|s| s.metrics.get("tune_loss").copied().flatten());
                Ok(loss.unwrap_or(f64::INFINITY))
            });
            let losses = losses.collect::<Result<Vec<f64>>>()?;
            let Some(sample) = Sample::of(&losses) else { continue };
            rows.push(vec![place.to_string(), t.to_string(), arm.to_string(), sample.spread(3)]);
        }
    }
    let columns = ["placement", "t", "arm", "loss on the tuning slice"];
    let table = Table {
        title: "Strength and placement on documents held out from training".to_string(),
        columns: columns.map(str::to_string).to_vec(),
        rows,
        notes: vec!["All else as in the table; mean ± sd over seeds.".to_string()],
    };
    let path = plan.place.out.join("sweep.md");
    write_atomic(&path, table.markdown().as_bytes()).with_context(|| path.display().to_string())?;
    println!("{}", table.terminal());
    Ok(())
}
