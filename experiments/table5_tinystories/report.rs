//! From finished runs to `results.csv`, the table, the curves and the stories.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use conditioned_nn::store::write_atomic;
use experiments::curves::{Curve, Figure, Panel};
use experiments::report;
use experiments::search::Block;
use experiments::statistics::Sample;
use experiments::table::Table;
use experiments::timing::{self, Timing};
use serde::Deserialize;

use crate::arm::Arm;
use crate::recipe::Preset;
use crate::results::{Beside, Finished, collect};

/// The published numbers.
const PAPER: &str = include_str!("paper.csv");

/// The row of the timings: there is one network.
pub(crate) const ROW: &str = "gpt2";

/// Writes `results.csv`, the table in four forms, the curves and the stories to `out`, and prints
/// the table.
///
/// # Errors
/// When there is no finished run, a record is damaged, or a file cannot be written.
pub(crate) fn write(out: &Path) -> Result<()> {
    let (results, beside) = collect(out)?;
    let table = table(&results, &timing::read(out)?)?;
    let stories = out.join("stories.md");
    write_atomic(&stories, stories_of(&results, &beside).as_bytes())
        .with_context(|| stories.display().to_string())?;
    report::write(out, &results, &table, &figure(&results, &beside))
}

/// The runs of a cell of the table. Where the best of all settings has the published tables, its
/// runs stand in both blocks.
fn runs(results: &[Finished], block: Block, arm: Arm) -> Vec<&Finished> {
    let belongs = |r: &&Finished| {
        let shared = block == Block::Tuned && r.start == Block::Published && r.best;
        r.arm == arm && (r.start == block || shared)
    };
    results.iter().filter(belongs).collect()
}

/// The table of all finished runs.
fn table(results: &[Finished], timings: &[Timing]) -> Result<Table> {
    let Some(first) = results.first() else { bail!("no results") };
    let paper = paper()?;
    let mut rows = Vec::new();
    for block in Block::ALL {
        for arm in Arm::ALL {
            let cell = runs(results, block, arm);
            let Some(run) = cell.first() else { continue };
            let baseline = runs(results, block, Arm::Baseline);
            let timing = timings.iter().find(|timing| timing.arm == arm.name());
            let tokens =
                |t: &Timing| format!("{:.0}", 1e3 * run.step_tokens as f64 / t.ms_per_step);
            rows.push(vec![
                block.name().to_string(),
                match arm {
                    Arm::Literal => format!("{arm} (sees the future)"),
                    _ => arm.to_string(),
                },
                run.strength.map_or(DASH.to_string(), |t| t.to_string()),
                setting(&cell),
                spread(&cell, |run| run.loss),
                difference(&cell, &baseline, |run| run.loss),
                spread(&cell, |run| run.next_loss),
                difference(&cell, &baseline, |run| run.next_loss),
                sample(&cell, |run| Some(run.leak_gap))
                    .map_or(DASH.to_string(), |gap| format!("{:.1e}", gap.mean)),
                kappas(&cell, |run| [run.kappa_plain, run.kappa_conditioned]),
                kappas(&cell, |run| [run.pooled_kappa_plain, run.pooled_kappa_conditioned]),
                timing.map_or(DASH.to_string(), tokens),
                match paper.get(&arm) {
                    Some(loss) if block != Block::Tuned => format!("{loss:.2}"),
                    _ => DASH.to_string(),
                },
            ]);
        }
    }
    let columns = [
        "tables",
        "arm",
        "t",
        "rate, rate of tables, std of tokens, of positions",
        "loss (mean ± sd, n)",
        "Δ to baseline, same seeds [95 % interval, n]",
        "next-token loss",
        "Δ to baseline",
        "leak gap",
        "κ(X) → κ(Y), a sequence",
        "pooled",
        "tokens/s",
        "paper: TinyStories",
    ];
    Ok(Table {
        title: format!("Table 5 on {}", data(first)),
        columns: columns.map(str::to_string).to_vec(),
        rows,
        notes: notes(results, first),
    })
}

/// What a reader must know to read the numbers.
fn notes(results: &[Finished], first: &Finished) -> Vec<String> {
    let mut notes = vec![
        format!(
            "A 5-gram model of the training text (5 million tokens at most) pays {:.3} nats per token, \
             {:.3} bits per byte, for all test documents. The best cell pays {:.3} bits per byte for \
             their first windows.",
            first.ngram_loss,
            first.ngram_bits_per_byte,
            best_bits_per_byte(results)
        ),
        format!(
            "Loss: nats per token of test documents, all positions. Next-token loss: of one token \
             after fixed prefixes, which is what generation uses; leak gap: how much smaller the loss \
             of the same tokens is inside whole windows, where a model that sees the future finds \
             it. {} parameters, {} steps of {} tokens.",
            first.parameters, first.steps, first.step_tokens
        ),
        "Δ compares with the baseline of the same block, seed by seed (Student's t), not corrected \
         for the number of comparisons; an interval around 0 does not show an effect. tokens/s: one \
         thread, alone."
            .to_string(),
    ];
    let searched = results.iter().any(|run| run.start != Block::Set);
    notes.push(match searched {
        true => "Peak rate of every arm by the same search on documents held out from training. \
                 published: both tables start at std 0.02 and learn at the peak rate; tuned: their std \
                 and rate are searched too. init: the std of the position table that makes κ of the \
                 first batch smallest."
            .to_string(),
        false => "Rates and tables as set: nothing was searched, all arms share them.".to_string(),
    });
    if searched && first.preset == Preset::TinystoriesCpu {
        notes.push(
            "Settings are those found on generated stories (preset short) unless others were given."
                .to_string(),
        );
    }
    let commits: std::collections::BTreeSet<&str> =
        results.iter().map(|result| result.commit.as_str()).collect();
    if commits.len() > 1 {
        let commits: Vec<&str> = commits.into_iter().collect();
        notes.push(format!("The runs come from several commits: {}.", commits.join(", ")));
    }
    notes
}

/// The smallest mean bits per byte of a causal cell.
fn best_bits_per_byte(results: &[Finished]) -> f64 {
    let cells = Block::ALL.into_iter().flat_map(|block| Arm::ALL.map(|arm| (block, arm)));
    cells
        .filter(|(_, arm)| *arm != Arm::Literal)
        .filter_map(|(block, arm)| sample(&runs(results, block, arm), |r| Some(r.bits_per_byte)))
        .map(|sample| sample.mean)
        .fold(f64::INFINITY, f64::min)
}

/// An empty field.
const DASH: &str = "–";

fn data(result: &Finished) -> String {
    let (data, tokens) = (&result.data, result.train_tokens);
    match result.preset {
        Preset::Smoke => format!("{data}, a smoke test: the numbers mean nothing"),
        Preset::Short => format!("{data}, {tokens} training tokens, stand-in for TinyStories"),
        Preset::Shakespeare => format!("{data}, {tokens} training characters"),
        _ => format!("{data}, {tokens} training tokens"),
    }
}

fn sample(runs: &[&Finished], value: impl Fn(&Finished) -> Option<f64>) -> Option<Sample> {
    let values: Option<Vec<f64>> = runs.iter().map(|run| value(run)).collect();
    Sample::of(&values?)
}

fn spread(runs: &[&Finished], value: impl Fn(&Finished) -> f64) -> String {
    let sample = sample(runs, |run| Some(value(run)));
    sample.map_or(DASH.to_string(), |sample| sample.spread(3))
}

/// The paired difference over the seeds that both have.
fn difference(
    runs: &[&Finished],
    baseline: &[&Finished],
    value: impl Fn(&Finished) -> f64,
) -> String {
    if runs.first().is_some_and(|run| run.arm == Arm::Baseline) {
        return DASH.to_string();
    }
    let pairs: Vec<f64> = runs
        .iter()
        .filter_map(|run| {
            let other = baseline.iter().find(|other| other.seed == run.seed)?;
            Some(value(run) - value(other))
        })
        .collect();
    Sample::of(&pairs).map_or(DASH.to_string(), |sample| sample.difference(3))
}

fn setting(runs: &[&Finished]) -> String {
    let position = sample(runs, |run| Some(run.position_std));
    match (runs.first(), position) {
        (Some(run), Some(position)) => {
            format!("{}, x{}, {:.2}, {:.2}", run.rate, run.table_rate, run.token_std, position.mean)
        }
        _ => DASH.to_string(),
    }
}

/// Without and with the method, means over seeds.
fn kappas(runs: &[&Finished], value: impl Fn(&Finished) -> [Option<f64>; 2]) -> String {
    let number = |i: usize| match sample(runs, |run| value(run)[i]) {
        Some(sample) if sample.mean < 9.95 => format!("{:.1}", sample.mean),
        Some(sample) => format!("{:.0}", sample.mean),
        None => "∞".to_string(),
    };
    match runs.first().map(|run| run.arm) {
        Some(Arm::Baseline | Arm::Init) | None => number(0),
        _ => format!("{} → {}", number(0), number(1)),
    }
}

/// The paper's validation losses by arm.
fn paper() -> Result<BTreeMap<Arm, f64>> {
    #[derive(Deserialize)]
    struct Line {
        arm: Arm,
        loss: f64,
    }
    let mut numbers = BTreeMap::new();
    for line in csv::Reader::from_reader(PAPER.as_bytes()).deserialize() {
        let line: Line = line.context("paper.csv")?;
        numbers.insert(line.arm, line.loss);
    }
    Ok(numbers)
}

/// Loss on the tuning slice over steps, a panel per block.
fn figure(results: &[Finished], beside: &[Beside]) -> Figure {
    let mut panels = Vec::new();
    for block in Block::ALL {
        let curves: Vec<Curve> = Arm::ALL
            .into_iter()
            .filter_map(|arm| {
                let index = |run: &Finished| results.iter().position(|other| other == run);
                let cell = runs(results, block, arm).into_iter().filter_map(index);
                let cell: Vec<&[(usize, f64)]> = cell.map(|i| &beside[i].losses[..]).collect();
                Curve::over(arm.to_string(), &cell)
            })
            .collect();
        if !curves.is_empty() {
            panels.push(Panel { title: format!("tables {}", block.name()), curves });
        }
    }
    Figure {
        x: "optimiser steps".to_string(),
        y: "loss on the tuning slice, nats per token".to_string(),
        panels,
    }
}

/// What the first seed of every cell wrote.
fn stories_of(results: &[Finished], beside: &[Beside]) -> String {
    let mut text = String::from("# What the models wrote\n");
    let mut seen = Vec::new();
    for (run, beside) in results.iter().zip(beside) {
        let cell = (run.start, run.arm);
        if seen.contains(&cell) {
            continue;
        }
        seen.push(cell);
        let story = beside.story.as_deref().unwrap_or("(nothing)");
        let _ = write!(
            text,
            "\n## {}, tables {}, seed {}\n\n{}\n",
            run.arm,
            run.start.name(),
            run.seed,
            story.trim().lines().map(|line| format!("> {line}\n")).collect::<String>()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// The presets whose results are committed.
    const COMMITTED: [&str; 3] = ["short", "shakespeare", "tinystories-cpu"];

    fn here(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    fn text(path: &str) -> String {
        std::fs::read_to_string(here(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    #[test]
    fn committed_tables_are_those_of_the_committed_results() {
        for preset in COMMITTED {
            let folder = format!("table5_tinystories/results/{preset}");
            let mut reader =
                csv::Reader::from_path(here(&format!("{folder}/results.csv"))).unwrap();
            let results: Vec<Finished> = reader.deserialize().collect::<Result<_, _>>().unwrap();
            let table = table(&results, &timing::read(&here(&folder)).unwrap()).unwrap().markdown();
            let own = [format!("{folder}/table.md"), "table5_tinystories/README.md".to_string()];
            let front = (preset == "short").then(|| "../README.md".to_string());
            for file in own.iter().chain(&front) {
                assert!(
                    text(file).contains(table.trim()),
                    "{file} does not hold the table of preset {preset}; run \
                     scripts/insert_tables.py"
                );
            }
        }
    }

    fn run(arm: Arm, start: Block, seed: u64, loss: f64) -> Finished {
        Finished {
            preset: Preset::Smoke,
            data: "D".into(),
            arm,
            start,
            best: false,
            seed,
            loss,
            bits_per_byte: loss / 2.0,
            next_loss: loss,
            leak_gap: 0.0,
            tune_loss: None,
            kappa_plain: None,
            kappa_conditioned: Some(2.0),
            pooled_kappa_plain: Some(20.0),
            pooled_kappa_conditioned: Some(4.0),
            rate: 1e-3,
            table_rate: 1.0,
            token_std: 0.02,
            position_std: 0.02,
            strength: None,
            steps: 10,
            step_tokens: 64,
            train_tokens: 1,
            parameters: 1,
            ngram_loss: 1.5,
            ngram_bits_per_byte: 0.75,
            commit: "c".into(),
        }
    }

    /// The rows of a table by (tables, arm).
    fn cells(results: &[Finished]) -> BTreeMap<(String, String), Vec<String>> {
        let rows = table(results, &[]).unwrap().rows.into_iter();
        rows.map(|row| ((row[0].clone(), row[1].clone()), row)).collect()
    }

    #[test]
    fn a_difference_pairs_seeds_and_leaves_out_those_without_a_partner() {
        let (published, tuned) = (Block::Published, Block::Tuned);
        let results = [
            run(Arm::Baseline, published, 0, 2.0),
            run(Arm::Baseline, published, 1, 3.0),
            run(Arm::Pooled, published, 1, 2.5),
            run(Arm::Pooled, published, 0, 1.5),
            run(Arm::Pooled, published, 2, 9.0),
            run(Arm::Baseline, tuned, 0, 1.0),
        ];
        let cells = cells(&results);
        let pooled = &cells[&("published".to_string(), "pooled".to_string())];
        assert_eq!(pooled[5], "-0.500 [-0.500, -0.500], 2");
        assert_eq!((pooled[9].as_str(), pooled[10].as_str()), ("∞ → 2.0", "20 → 4.0"));
        let baseline = &cells[&("tuned".to_string(), "baseline".to_string())];
        assert_eq!((baseline[4].as_str(), baseline[5].as_str()), ("1.000, single seed", DASH));
        assert!(!cells.contains_key(&("tuned".to_string(), "pooled".to_string())), "not run");
    }

    #[test]
    fn a_setting_that_is_best_with_published_tables_stands_in_both_blocks() {
        let mut results = [
            run(Arm::Baseline, Block::Published, 0, 3.0),
            run(Arm::Baseline, Block::Tuned, 0, 2.5),
            run(Arm::Pooled, Block::Published, 0, 2.0),
        ];
        results[2].best = true;
        let cells = cells(&results);
        let difference = |tables: &str| &cells[&(tables.to_string(), "pooled".to_string())][5];
        assert_eq!(difference("published"), "-1.000, single seed");
        assert_eq!(difference("tuned"), "-0.500, single seed");
    }

    #[test]
    fn the_literal_method_is_marked_and_no_best() {
        let results = [
            run(Arm::Baseline, Block::Published, 0, 3.0),
            run(Arm::Literal, Block::Published, 0, 1.0),
        ];
        assert_eq!(best_bits_per_byte(&results), 1.5);
        let key = ("published".to_string(), "literal (sees the future)".to_string());
        assert_eq!(cells(&results)[&key][12], "2.36");
    }
}
