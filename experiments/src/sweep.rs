//! One question at a time, on data held out from training: each change of the recipe with all else at the
//! arm's best setting.

use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use conditioned_nn::store::write_atomic;

use crate::cli::print;
use crate::plan::Plan;
use crate::run::folder::Folder;
use crate::run::queue;
use crate::table::Table;
use conditioned_report::grid::Grid;
use conditioned_report::statistics::Sample;

/// Trains what is not there yet, then prints the answers and writes them to `sweep.md`.
///
/// # Errors
/// When there is nothing to sweep, a run fails, or a file cannot be written.
pub fn run<T: Table>(plan: &Plan<T>, stop: &AtomicBool) -> Result<()> {
    ensure!(!plan.shard.is_part(), "--shard: is for `run` and `tune`");
    let changes = plan.preset().sweep;
    ensure!(!changes.is_empty(), "preset {}: nothing to sweep", plan.preset().name);
    plan.warn();
    let mut rows: Vec<Vec<String>> = Vec::new();
    let changes = changes.iter().flat_map(|of| of.one_of.iter().map(move |change| (*change, of)));
    // All of them before the first run: a change that cannot be is known at once.
    let planned = changes.map(|(name, of)| Ok((name, plan.changed(name, of)?)));
    for (name, cells) in planned.collect::<Result<Vec<_>>>()? {
        // A change has a folder of its own: the cells are called alike.
        let out = plan.out.join(name.replace(' ', "-"));
        queue::train(&cells.runs, &out, &plan.workers, stop)?;
        let mut seen = Vec::new();
        for run in &cells.runs {
            let key = (&run.cell.row, run.cell.arm);
            if seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let column = |metric: &str| -> Result<String> {
                let same = cells.runs.iter().filter(|r| (&r.cell.row, r.cell.arm) == key);
                let values = same.map(|run| {
                    let summary = Folder::new(run.folder(&out)).summary()?;
                    Ok(summary.and_then(|summary| summary.metric(metric)))
                });
                let values: Option<Vec<f64>> =
                    values.collect::<Result<Vec<_>>>()?.into_iter().collect();
                let sample = values.and_then(|values| Sample::of(&values));
                Ok(sample.map_or(String::new(), |sample| sample.spread(3)))
            };
            let loss = column("tune_loss")?;
            let loss = if loss.is_empty() { "diverged".to_string() } else { loss };
            let score = column(T::SCORE.unwrap_or("score"))?;
            rows.push(vec![name.to_string(), key.0.clone(), key.1.to_string(), loss, score]);
        }
    }
    ensure!(!rows.is_empty(), "--arms: no change of this sweep concerns them");
    let heads = ["changed", "model", "arm", "loss on the tuning slice", "score, %"];
    let mut columns: Vec<(String, bool)> = heads.map(|head| (head.to_string(), true)).to_vec();
    if rows.iter().all(|row| row[4].is_empty()) {
        columns.pop();
        rows.iter_mut().for_each(|row| drop(row.pop()));
    }
    let grid = Grid {
        title: format!("{}: one change at a time", T::TITLE),
        columns,
        rows,
        notes: vec![
            "All else as in the preset, at the arm's best setting; mean ± sd over seeds. No test data are \
             read."
                .to_string(),
        ],
    };
    let path = plan.out.join("sweep.md");
    write_atomic(&path, grid.markdown().as_bytes()).with_context(|| path.display().to_string())?;
    print(&grid.terminal(Grid::width()))
}
