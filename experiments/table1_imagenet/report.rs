//! From finished runs to `results.csv`, the table and the curves.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use experiments::curves::{Curve, Figure, Panel};
use experiments::report;
use experiments::statistics::Sample;
use experiments::table::Table;
use experiments::timing::{self, Timing};
use serde::Deserialize;

use crate::arm::{Arm, Row};
use crate::recipe::Preset;
use crate::results::{Accuracies, Block, Finished, collect};

/// The published numbers.
const PAPER: &str = include_str!("paper.csv");

/// Writes `results.csv`, the table in four forms and the curves to `out`, and prints the table.
///
/// # Errors
/// When there is no finished run, a record is damaged, or a file cannot be written.
pub(crate) fn write(out: &Path) -> Result<()> {
    let (results, curves) = collect(out)?;
    let table = table(&results, &timing::read(out)?)?;
    report::write(out, &results, &table, &figure(&results, &curves))
}

/// The runs of a cell of the table. Where the best of all settings has the published scale, its
/// runs stand in both blocks.
fn runs(results: &[Finished], row: Row, block: Block, arm: Arm) -> Vec<&Finished> {
    let belongs = |r: &&Finished| {
        let shared = block == Block::Tuned && r.start == Block::Published && r.best;
        r.row == row && r.arm == arm && (r.start == block || shared)
    };
    results.iter().filter(belongs).collect()
}

/// The table of all finished runs.
fn table(results: &[Finished], timings: &[Timing]) -> Result<Table> {
    let paper = paper()?;
    let mut rows = Vec::new();
    for row in Row::ALL {
        for block in Block::ALL {
            for arm in Arm::ALL {
                // `init` chooses its scale by itself: there is nothing to tune.
                let cell = runs(results, row, block, arm);
                if cell.is_empty() || (block == Block::Tuned && arm == Arm::Init) {
                    continue;
                }
                let baseline = runs(results, row, block, Arm::Baseline);
                let timing = timings.iter().find(|t| t.row == row.name() && t.arm == arm.name());
                rows.push(vec![
                    name(row).to_string(),
                    match (block, arm) {
                        (Block::Published, Arm::Init) => "own scale".to_string(),
                        _ => block.name().to_string(),
                    },
                    arm.to_string(),
                    setting(&cell),
                    spread(&cell),
                    difference(&cell, &baseline),
                    kappas(&cell),
                    steps_to_target(&cell),
                    timing.map_or(DASH.into(), |t| format!("{:.1}", t.ms_per_step)),
                    match paper.get(&(row, arm)) {
                        Some(top1) if block == Block::Published => format!("{top1:.1}"),
                        _ => DASH.to_string(),
                    },
                ]);
            }
        }
    }
    let Some(first) = results.first() else { bail!("no results") };
    let columns = [
        "model",
        "init",
        "arm",
        "std of tables, rate",
        "top-1 % (mean ± sd, n)",
        "Δ to baseline, same seeds [95 % interval, n]",
        "κ(X) → κ(Y)",
        &format!("steps to {} %", first.target),
        "ms per step",
        "paper: ImageNet-1k",
    ];
    Ok(Table {
        title: format!("Table 1 on {}", data(first)),
        columns: columns.map(str::to_string).to_vec(),
        rows,
        notes: notes(results),
    })
}

/// What a reader must know to read the numbers.
fn notes(results: &[Finished]) -> Vec<String> {
    let mut notes = vec![
        "Both blocks: peak rate of every arm by the same search on a slice of the training data. \
         published: class token and position table start at std 0.02; tuned: their std is searched \
         too. init: the std that makes κ of the first batch smallest. Strength t = 0.3 where \
         nothing else is said, from prototypes on these data."
            .to_string(),
        "Δ compares with the baseline of the same block, seed by seed (Student's t). An interval \
         around 0 does not show an effect. Intervals cover seeds only: all runs share one split \
         and its test images. They are not corrected for the number of comparisons."
            .to_string(),
        "κ(X) → κ(Y): median condition number of the tokens entering block 1 at the end of \
         training, without and with the method; pooled bounds the pooled tokens, not each \
         sequence. Steps to accuracy: on the tuning slice, by epochs. ms: one thread, alone."
            .to_string(),
    ];
    let commits: std::collections::BTreeSet<&str> =
        results.iter().map(|result| result.commit.as_str()).collect();
    if commits.len() > 1 {
        let commits: Vec<&str> = commits.into_iter().collect();
        notes.push(format!("The runs come from several commits: {}.", commits.join(", ")));
    }
    notes
}

/// An empty field.
const DASH: &str = "–";

fn name(row: Row) -> &'static str {
    match row {
        Row::Vit => "ViT",
        Row::Deit => "DeiT",
    }
}

fn data(result: &Finished) -> String {
    match result.preset {
        Preset::Smoke => format!("{}, a smoke test: the numbers mean nothing", result.data),
        Preset::Short => format!("{}, stand-in for ImageNet-1k", result.data),
        Preset::Mnist4k => {
            let (data, images) = (&result.data, result.train_images);
            format!("{data}, {images} training images, stand-in for ImageNet-1k")
        }
    }
}

fn sample(runs: &[&Finished], value: impl Fn(&Finished) -> Option<f64>) -> Option<Sample> {
    let values: Option<Vec<f64>> = runs.iter().map(|run| value(run)).collect();
    Sample::of(&values?)
}

fn setting(runs: &[&Finished]) -> String {
    let std = sample(runs, |run| Some(run.table_std));
    let rate = runs.first().map(|run| run.rate);
    match (std, rate) {
        (Some(std), Some(rate)) => format!("{:.2}, {rate}", std.mean),
        _ => DASH.to_string(),
    }
}

fn spread(runs: &[&Finished]) -> String {
    sample(runs, |run| Some(run.top1)).map_or(DASH.to_string(), |sample| sample.spread(1))
}

/// The paired difference over the seeds that both have.
fn difference(runs: &[&Finished], baseline: &[&Finished]) -> String {
    if runs.first().is_some_and(|run| run.arm == Arm::Baseline) {
        return DASH.to_string();
    }
    let pairs: Vec<f64> = runs
        .iter()
        .filter_map(|run| {
            let other = baseline.iter().find(|other| other.seed == run.seed)?;
            Some(run.top1 - other.top1)
        })
        .collect();
    Sample::of(&pairs).map_or(DASH.to_string(), |sample| sample.difference(1))
}

/// Median over seeds of the median over sequences would hide a run; the mean shows it.
fn kappas(runs: &[&Finished]) -> String {
    let number = |sample: Option<Sample>| match sample {
        Some(sample) if sample.mean < 9.95 => format!("{:.1}", sample.mean),
        Some(sample) => format!("{:.0}", sample.mean),
        None => "∞".to_string(),
    };
    let plain = number(sample(runs, |run| run.kappa_plain));
    match runs.first().map(|run| run.arm) {
        Some(Arm::Baseline | Arm::Init) | None => plain,
        _ => format!("{plain} → {}", number(sample(runs, |run| run.kappa_conditioned))),
    }
}

fn steps_to_target(runs: &[&Finished]) -> String {
    let reached: Vec<f64> =
        runs.iter().filter_map(|run| run.steps_to_target).map(|steps| steps as f64).collect();
    match Sample::of(&reached) {
        Some(sample) if sample.n == runs.len() => format!("{:.0}", sample.mean),
        Some(sample) => format!("{:.0} ({} of {} runs)", sample.mean, sample.n, runs.len()),
        None => "not reached".to_string(),
    }
}

/// The paper's top-1 by row and arm.
fn paper() -> Result<BTreeMap<(Row, Arm), f64>> {
    #[derive(Deserialize)]
    struct Line {
        row: Row,
        baseline: f64,
        conditioned: f64,
    }
    let mut numbers = BTreeMap::new();
    for line in csv::Reader::from_reader(PAPER.as_bytes()).deserialize() {
        let line: Line = line.context("paper.csv")?;
        numbers.insert((line.row, Arm::Baseline), line.baseline);
        numbers.insert((line.row, Arm::Conditioned), line.conditioned);
    }
    Ok(numbers)
}

/// Tuning accuracy over steps, a panel per row and block.
fn figure(results: &[Finished], accuracies: &[Accuracies]) -> Figure {
    let mut panels = Vec::new();
    for row in Row::ALL {
        for block in Block::ALL {
            let curves: Vec<Curve> = Arm::ALL
                .into_iter()
                .filter(|arm| block != Block::Tuned || *arm != Arm::Init)
                .filter_map(|arm| {
                    let cell = runs(results, row, block, arm);
                    let index = |run: &Finished| results.iter().position(|other| other == run);
                    let runs = cell.into_iter().filter_map(index).map(|i| &accuracies[i][..]);
                    Curve::over(arm.to_string(), &runs.collect::<Vec<_>>())
                })
                .collect();
            if !curves.is_empty() {
                let title = format!("{}, init {}", name(row), block.name());
                panels.push(Panel { title, curves });
            }
        }
    }
    Figure {
        x: "optimiser steps".to_string(),
        y: "accuracy on the tuning slice, %".to_string(),
        panels,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// The presets whose results are committed.
    const COMMITTED: [&str; 2] = ["short", "mnist-4k"];

    fn here(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    fn text(path: &str) -> String {
        std::fs::read_to_string(here(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// The table of committed results, rendered anew.
    fn rendered(preset: &str) -> String {
        let folder = format!("table1_imagenet/results/{preset}");
        let mut reader = csv::Reader::from_path(here(&format!("{folder}/results.csv"))).unwrap();
        let results: Vec<Finished> = reader.deserialize().collect::<Result<_, _>>().unwrap();
        let timings = timing::read(&here(&folder)).unwrap();
        table(&results, &timings).unwrap().markdown()
    }

    #[test]
    fn committed_tables_are_those_of_the_committed_results() {
        for preset in COMMITTED {
            let table = rendered(preset);
            for file in [
                &format!("table1_imagenet/results/{preset}/table.md"),
                "table1_imagenet/README.md",
                "../README.md",
            ] {
                assert!(
                    text(file).contains(table.trim()),
                    "{file} does not hold the table of preset {preset}; run \
                     scripts/insert_tables.py"
                );
            }
        }
    }

    fn run(arm: Arm, start: Block, seed: u64, top1: f64) -> Finished {
        Finished {
            preset: Preset::Smoke,
            data: "D".into(),
            row: Row::Vit,
            arm,
            start,
            best: false,
            seed,
            top1,
            test_loss: None,
            tune_top1: None,
            kappa_plain: None,
            kappa_conditioned: Some(2.0),
            train_images: 1,
            steps: 10,
            target: 90.0,
            steps_to_target: (seed > 0).then_some(5),
            rate: 1e-3,
            table_std: 0.02,
            parameters: 1,
            commit: "c".into(),
        }
    }

    /// The rows of a table by (init, arm), without the other columns' noise.
    fn cells(results: &[Finished]) -> BTreeMap<(String, String), Vec<String>> {
        let rows = table(results, &[]).unwrap().rows.into_iter();
        rows.map(|row| ((row[1].clone(), row[2].clone()), row)).collect()
    }

    #[test]
    fn a_difference_pairs_seeds_and_leaves_out_those_without_a_partner() {
        let (published, tuned) = (Block::Published, Block::Tuned);
        let results = [
            run(Arm::Baseline, published, 0, 80.0),
            run(Arm::Baseline, published, 1, 90.0),
            run(Arm::Pooled, published, 1, 91.0),
            run(Arm::Pooled, published, 0, 83.0),
            run(Arm::Pooled, published, 2, 10.0),
            run(Arm::Baseline, tuned, 0, 70.0),
        ];
        let cells = cells(&results);
        let pooled = &cells[&("published".to_string(), "pooled".to_string())];
        // Differences 3 and 1: mean 2, sd 1.414, t_1 = 12.706, half width 12.7.
        assert_eq!(pooled[5], "+2.0 [-10.7, +14.7], 2");
        assert_eq!(pooled[4], "61.3 ± 44.6, 3");
        assert_eq!(pooled[7], "5 (2 of 3 runs)");
        assert_eq!(pooled[6], "∞ → 2.0");
        let baseline = &cells[&("tuned".to_string(), "baseline".to_string())];
        assert_eq!((baseline[4].as_str(), baseline[5].as_str()), ("70.0, single seed", DASH));
        assert!(!cells.contains_key(&("tuned".to_string(), "pooled".to_string())), "not run");
    }

    #[test]
    fn a_setting_that_is_best_at_the_published_scale_stands_in_both_blocks() {
        let mut results = [
            run(Arm::Baseline, Block::Published, 0, 80.0),
            run(Arm::Baseline, Block::Tuned, 0, 85.0),
            run(Arm::Pooled, Block::Published, 0, 86.0),
        ];
        results[2].best = true;
        let cells = cells(&results);
        let difference = |init: &str| &cells[&(init.to_string(), "pooled".to_string())][5];
        assert_eq!(difference("published"), "+6.0, single seed");
        assert_eq!(difference("tuned"), "+1.0, single seed");
    }

    #[test]
    fn every_published_number_has_a_place() {
        let paper = paper().unwrap();
        assert_eq!(paper[&(Row::Vit, Arm::Baseline)], 80.3);
        assert_eq!(paper[&(Row::Deit, Arm::Conditioned)], 82.5);
        assert_eq!(paper.len(), 4);
    }
}
