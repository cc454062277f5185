//! What a plan costs: parameters, operations, memory and time, before anything is trained.

use anyhow::Result;
use conditioned_models::Architecture;
use conditioned_report::grid::Grid;

use crate::cell::{Cell, RunConfig};
use crate::column::DASH;
use crate::plan::{Cells, Plan};
use crate::run::timing::{self, Timing};
use crate::table::Table;

/// What one thread does in a second, for an estimate of the time where none was recorded.
const OPERATIONS_PER_SECOND: f64 = 2e10;

impl<T: Table> Plan<T> {
    /// What the cells cost: a row per model, arm and setting.
    ///
    /// # Errors
    /// When a network contradicts itself.
    pub fn describe(&self, cells: &Cells<T>) -> Result<Grid> {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let timings = self.timings();
        for run in &cells.runs {
            let Cell { row, arm, start, seed, .. } = &run.cell;
            let name = format!("{row} {arm} {start}");
            if let Some(known) = rows.iter_mut().find(|row| row[0] == name) {
                known[1] = format!("{} {seed}", known[1]);
                continue;
            }
            let job = &run.job;
            let (tokens, batch, _) = job.task.sizes();
            let parameters = job.parameter_count()?;
            let samples = job.micro_batches() * batch;
            rows.push(vec![
                name,
                seed.to_string(),
                format!("{}, x{}", job.fit.schedule.peak, job.fit.groups.table_rate),
                job.network.table_stds().words.map_or(DASH.to_string(), |std| format!("{std:.3}")),
                parameters.to_string(),
                format!("{:.3}", 2e-9 * job.macs() as f64),
                (job.micro_batches() / job.fit.accumulate).to_string(),
                (samples * tokens.max(1)).to_string(),
                format!("{:.3}", job.operations() * 1e-15),
                // Weights, gradient and AdamW's two moments in f32.
                format!("{:.0}", 16.0 * parameters as f64 / (1 << 20) as f64),
                duration(seconds(&timings, run)),
            ]);
        }
        let columns = [
            ("cell", true),
            ("seeds", true),
            ("learning rate, of embedding tables", false),
            ("std of embedding tables", false),
            ("parameters", false),
            ("GFLOP an image or sequence", false),
            ("steps", false),
            ("images or tokens", false),
            ("PFLOP a seed", false),
            ("MiB of parameters and their state", false),
            ("time a seed, one thread", true),
        ];
        let mut notes = vec![
            "Activations, heads, evaluation and data are not counted in operations and memory."
                .to_string(),
        ];
        if self.preset().equal_time {
            notes.push("Later stages and the runs at equal time come on top.".to_string());
        }
        notes.push(self.announcement(cells));
        Ok(Grid {
            title: format!("{}: {}", T::TITLE, count(cells.runs.len(), "run")),
            columns: columns.map(|(head, answer)| (head.to_string(), answer)).to_vec(),
            rows,
            notes,
        })
    }

    /// What will be done and how long it takes, in a sentence.
    pub fn announcement(&self, cells: &Cells<T>) -> String {
        let (runs, arms) = (count(cells.runs.len(), "run"), count(self.arms.len(), "arm"));
        let left_out: Vec<String> = self.left_out.iter().map(|arm| arm.name()).collect();
        let left_out = match left_out.is_empty() {
            true => String::new(),
            false => format!("; left out to save time, see --arms: {}", left_out.join(", ")),
        };
        let timings = self.timings();
        let total: f64 = cells.runs.iter().map(|run| seconds(&timings, run)).sum();
        let basis = match self.preset().timings {
            Some(_) => {
                "where the committed results were made; an older machine takes up to five times as long"
            }
            None => "roughly, by its operations",
        };
        let stages = cells.data.first().map_or(0, |(_, data)| T::stages(data).len());
        let stages = match stages {
            0 | 1 => String::new(),
            n => format!(" of the first of {n} stages"),
        };
        format!(
            "{runs}{stages}: {} of {} with {arms}, {} side by side: about {} ({basis}){left_out}",
            count(cells.data.len(), "model"),
            self.preset().name,
            self.workers.side_by_side,
            duration(total / self.workers.side_by_side as f64)
        )
    }

    /// Step times of the committed results; none where they were not recorded.
    fn timings(&self) -> Vec<Timing> {
        self.preset().timings.and_then(|text| timing::parse(text).ok()).unwrap_or_default()
    }
}

/// About what a run takes on one thread.
fn seconds(timings: &[Timing], run: &RunConfig) -> f64 {
    let (row, arm) = (&run.cell.row, run.cell.arm);
    let steps = run.job.micro_batches() as f64 / run.job.fit.accumulate as f64;
    match timings.iter().find(|t| t.row == *row && t.arm == arm) {
        Some(timing) => 1e-3 * timing.ms_per_step * steps,
        None => run.job.operations() / OPERATIONS_PER_SECOND,
    }
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn duration(seconds: f64) -> String {
    let duration = std::time::Duration::from_secs_f64(seconds.max(1.0));
    indicatif::HumanDuration(duration).to_string()
}
