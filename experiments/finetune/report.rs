//! From finished runs to `results.csv`, the table and the curves.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement};
use conditioned_train::{Event, record};
use experiments::curves::{Curve, Figure, Panel};
use experiments::statistics::Sample;
use experiments::table::Table;
use experiments::timing::{self, Timing};
use experiments::{folder, report};
use serde::{Deserialize, Serialize};

use crate::arm::Arm;
use crate::cell::RunConfig;
use crate::train::Summary;

/// The row of the timings: there is one network.
pub(crate) const ROW: &str = "bert";

/// Steps whose losses make a point of a curve.
const SMOOTHED: usize = 10;

const DASH: &str = "–";

/// One number of one finished run: a line of `results.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Finished {
    data: String,
    arm: Arm,
    strength: Option<f64>,
    seed: u64,
    metric: String,
    /// Empty where it is not finite.
    value: Option<f64>,
    steps: usize,
    commit: String,
}

/// Writes `results.csv`, the table in four forms and the curves to `out`, and prints the table.
///
/// # Errors
/// When there is no finished run, runs do not belong together, or a file cannot be written.
pub(crate) fn write(out: &Path) -> Result<()> {
    if !out.is_dir() {
        bail!("{}: no such folder; `run` makes it", out.display());
    }
    let (mut results, mut curves) = (Vec::new(), Vec::new());
    let mut first: Option<RunConfig> = None;
    // Arms share strength, place and ramp, or a comparison of two would compare these.
    let mut shared: Option<(f64, ConditioningConfig)> = None;
    for folder in folder::find(out)? {
        let config: RunConfig = folder.config()?;
        let Some(summary) = folder.summary::<Summary>()?.filter(|_| config.cell.change.is_none())
        else {
            continue;
        };
        let common = first.get_or_insert_with(|| config.common());
        ensure!(
            *common == config.common(),
            "{}: runs of different recipes do not belong in one table; separate them",
            folder.path().display()
        );
        let conditioning = config.network.conditioning;
        if let Some(t) = conditioning.method.strength() {
            let plain = ConditioningConfig { method: Method::None, ..conditioning };
            ensure!(
                *shared.get_or_insert((t, plain)) == (t, plain),
                "{}: another strength, placement or ramp than in other runs; they do not belong in one \
                 table; separate them",
                folder.path().display()
            );
        }
        for (metric, value) in &summary.metrics {
            results.push(Finished {
                data: config.data.name.clone(),
                arm: config.cell.arm,
                strength: config.network.conditioning.method.strength(),
                seed: config.cell.seed,
                metric: metric.clone(),
                value: *value,
                steps: summary.steps,
                commit: folder.commits()?,
            });
        }
        curves.push((config.cell.arm, losses(&folder)?));
    }
    let Some(first) = first else { bail!("{}: no finished run", out.display()) };
    results.sort_by(|a, b| (a.arm, a.seed, &a.metric).cmp(&(b.arm, b.seed, &b.metric)));
    let place = shared.map(|(_, conditioning)| conditioning);
    let table = table(&first, &results, &timing::read(out)?, place);
    let curves = Arm::ALL.into_iter().filter_map(|arm| {
        let of_arm = curves.iter().filter(|(of, _)| *of == arm);
        let of_arm: Vec<&[(usize, f64)]> = of_arm.map(|(_, losses)| &losses[..]).collect();
        Curve::over(arm.to_string(), &of_arm)
    });
    let panels = vec![Panel { title: first.data.name.clone(), curves: curves.collect() }];
    let figure = Figure {
        x: "optimiser steps".to_string(),
        y: format!("training loss, mean of {SMOOTHED} steps"),
        panels,
    };
    report::write(out, &results, &table, &figure)
}

/// Training losses by step, averaged.
fn losses(folder: &folder::Folder) -> Result<Vec<(usize, f64)>> {
    let events = record::read(&folder.path().join("metrics.jsonl"))?.into_iter();
    let steps: Vec<(usize, f64)> = events
        .filter_map(|event| match event {
            Event::Step { step, loss, .. } => Some((step, loss)),
            _ => None,
        })
        .collect();
    let means = steps.chunks(SMOOTHED).filter_map(|chunk| {
        let mean = chunk.iter().map(|(_, loss)| loss).sum::<f64>() / chunk.len() as f64;
        Some((chunk.last()?.0, mean))
    });
    Ok(means.collect())
}

/// The table of all finished runs: a row an arm, two columns a metric.
fn table(
    first: &RunConfig,
    results: &[Finished],
    timings: &[Timing],
    place: Option<ConditioningConfig>,
) -> Table {
    // Names without a set are the means over the sets.
    let metrics: Vec<&str> = ["accuracy", "f1", "matthews", "pearson", "spearman"]
        .into_iter()
        .filter(|metric| results.iter().any(|run| run.metric == *metric))
        .collect();
    let mut columns = vec!["arm".to_string(), "t".to_string()];
    for metric in &metrics {
        columns.push(format!("{metric} (mean ± sd, n)"));
        columns.push("Δ to baseline, same seeds [95 % interval, n]".to_string());
    }
    columns.extend(["κ of the tokens".to_string(), "ms a step".to_string()]);
    let mut rows = Vec::new();
    for arm in Arm::ALL {
        let of_arm = |metric: &str| -> Vec<&Finished> {
            results.iter().filter(|run| run.arm == arm && run.metric == metric).collect()
        };
        let Some(run) = results.iter().find(|run| run.arm == arm) else { continue };
        let t = run.strength.map_or(DASH.to_string(), |t| t.to_string());
        let mut row = vec![arm.to_string(), t];
        for metric in &metrics {
            let runs = of_arm(metric);
            row.push(sample(&runs).map_or(DASH.to_string(), |sample| sample.spread(1)));
            row.push(difference(&runs, results, metric));
        }
        row.push(kappas(&of_arm("kappa_plain"), &of_arm("kappa_conditioned")));
        let timing = timings.iter().find(|timing| timing.arm == arm.name());
        row.push(timing.map_or(DASH.to_string(), |timing| format!("{:.0}", timing.ms_per_step)));
        rows.push(row);
    }
    Table { title: title(first), columns, rows, notes: notes(first, results, place) }
}

fn title(first: &RunConfig) -> String {
    let folder = first.init.folder.file_name().unwrap_or_default();
    format!(
        "{} fine-tuned on {}, {} training texts, {} epochs",
        folder.display(),
        first.data.name,
        first.data.train_len,
        first.fit.epochs
    )
}

fn notes(
    first: &RunConfig,
    results: &[Finished],
    place: Option<ConditioningConfig>,
) -> Vec<String> {
    let cut: Vec<String> = results
        .iter()
        .filter(|run| run.metric.ends_with("_truncated"))
        .filter_map(|run| {
            let set = run.metric.strip_suffix("_truncated")?;
            let count = run.value.filter(|count| *count > 0.0)?;
            Some(format!("{count:.0} of {set}"))
        })
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let cut = if cut.is_empty() { "none".to_string() } else { cut.join(", ") };
    let place = place.map_or(String::new(), |c| {
        let place = match c.placement {
            Placement::BeforePosition => "words alone",
            Placement::AfterPosition => "words, positions and types",
            Placement::AfterNorm => "tokens behind the layer norm",
        };
        format!(" Conditioned: {place}, reached over {} steps.", c.ramp_steps)
    });
    vec![
        format!(
            "Metrics in %, of the model after the last step; F1 is that of the second class. Rate {} for \
             every arm, {} texts a step; texts cut to {} tokens: {cut}.{place}",
            first.fit.schedule.peak, first.batch_size, first.longest
        ),
        "Δ pairs runs of one seed (Student's t), not corrected for the number of comparisons; an \
         interval around 0 does not show an effect. It covers seeds, not the choice of the dev texts. norm-matched has the scale of pooled tokens \
         without their directions."
            .to_string(),
        "κ: of all tokens of the longest texts of the last set, as they enter the first layer, without \
         and with conditioning. ms a step: one thread, alone."
            .to_string(),
    ]
}

fn sample(runs: &[&Finished]) -> Option<Sample> {
    Sample::of(&runs.iter().map(|run| run.value).collect::<Option<Vec<f64>>>()?)
}

/// The paired difference over the seeds that both have.
fn difference(runs: &[&Finished], results: &[Finished], metric: &str) -> String {
    let baseline = |seed| {
        let same =
            |run: &&Finished| run.arm == Arm::Baseline && run.seed == seed && run.metric == metric;
        results.iter().find(same)?.value
    };
    let pairs: Vec<f64> = runs
        .iter()
        .filter(|run| run.arm != Arm::Baseline)
        .filter_map(|run| Some(run.value? - baseline(run.seed)?))
        .collect();
    Sample::of(&pairs).map_or(DASH.to_string(), |sample| sample.difference(1))
}

fn kappas(plain: &[&Finished], conditioned: &[&Finished]) -> String {
    let mean =
        |runs: &[&Finished]| sample(runs).map_or("∞".to_string(), |s| format!("{:.0}", s.mean));
    match plain.first().is_some_and(|run| run.arm == Arm::Baseline) {
        true => mean(plain),
        false => format!("{} → {}", mean(plain), mean(conditioned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arm: Arm, seed: u64, value: f64) -> Finished {
        Finished {
            data: "D".into(),
            arm,
            strength: None,
            seed,
            metric: "accuracy".into(),
            value: Some(value),
            steps: 1,
            commit: "c".into(),
        }
    }

    #[test]
    fn a_difference_pairs_seeds_and_leaves_out_those_without_a_partner() {
        let results = [
            run(Arm::Baseline, 0, 80.0),
            run(Arm::Baseline, 1, 70.0),
            run(Arm::Pooled, 0, 81.0),
            run(Arm::Pooled, 1, 71.0),
            run(Arm::Pooled, 2, 9.0),
        ];
        let pooled: Vec<&Finished> = results[2..].iter().collect();
        assert_eq!(difference(&pooled, &results, "accuracy"), "+1.0 [+1.0, +1.0], 2");
        let baseline: Vec<&Finished> = results[..2].iter().collect();
        assert_eq!(difference(&baseline, &results, "accuracy"), DASH);
    }
}
