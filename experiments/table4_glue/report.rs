//! From finished runs to `results.csv`, the table and the curves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use conditioned_data::Task;
use experiments::curves::{self, Figure, Panel};
use experiments::report;
use experiments::search::Block;
use experiments::statistics::Sample;
use experiments::table::Table;
use experiments::timing::{self, Timing};

use crate::arm::{Arm, Model};
use crate::cell::Budget;
use crate::recipe::Preset;
use crate::results::{Curve, Finished, collect};

/// The published numbers. That of STS-B follows from the published average.
const PAPER: &str = include_str!("paper.csv");

/// An empty field.
const DASH: &str = "–";

/// Writes `results.csv`, the table in four forms and the curves to `out`, and prints the table.
///
/// # Errors
/// When there is no finished run, a record is damaged, or a file cannot be written.
pub(crate) fn write(out: &Path) -> Result<()> {
    let (results, curves) = collect(out)?;
    let table = table(&results, &timing::read(out)?)?;
    report::write(out, &results, &table, &figure(&curves))
}

/// A row of the table.
#[derive(Clone, Copy)]
struct Row {
    model: Model,
    block: Block,
    budget: Budget,
    arm: Arm,
}

impl Row {
    fn all() -> Vec<Self> {
        let mut rows = Vec::new();
        for model in Model::ALL {
            for block in Block::ALL {
                for budget in [Budget::Tokens, Budget::Time] {
                    rows.extend(Arm::ALL.map(|arm| Self { model, block, budget, arm }));
                }
            }
        }
        rows
    }

    /// The numbers of its runs. Where the best of all settings has the published tables, its runs
    /// stand in both blocks; those at equal time have their best setting.
    fn of(self, results: &[Finished]) -> Vec<&Finished> {
        let Self { model, block, budget, arm } = self;
        let belongs = |r: &&Finished| {
            let shared = block == Block::Tuned && r.start == Block::Published && r.best;
            let own = r.start == block && (budget, block) != (Budget::Time, Block::Published);
            (r.model, r.budget, r.arm) == (model, budget, arm) && (own || shared)
        };
        results.iter().filter(belongs).collect()
    }
}

/// The values of a metric by seed.
fn values(runs: &[&Finished], metric: &str) -> BTreeMap<u64, f64> {
    let of_metric = runs.iter().filter(|run| run.metric == metric);
    of_metric.filter_map(|run| Some((run.seed, run.value?))).collect()
}

/// By seed the mean over the tasks that any run has; none of a seed that lacks one.
fn averages(runs: &[&Finished], tasks: &[Task]) -> BTreeMap<u64, f64> {
    let scores: Vec<_> = tasks.iter().map(|task| values(runs, task.name())).collect();
    let seeds: BTreeSet<u64> = runs.iter().map(|run| run.seed).collect();
    let mean = |seed: u64| {
        let all: Option<Vec<f64>> = scores.iter().map(|of| of.get(&seed).copied()).collect();
        all.filter(|all| !all.is_empty()).map(|all| all.iter().sum::<f64>() / all.len() as f64)
    };
    seeds.into_iter().filter_map(|seed| Some((seed, mean(seed)?))).collect()
}

fn spread(values: &BTreeMap<u64, f64>, decimals: usize) -> String {
    let values: Vec<f64> = values.values().copied().collect();
    Sample::of(&values).map_or(DASH.to_string(), |sample| sample.spread(decimals))
}

/// The paired difference over the seeds that both have.
fn difference(
    values: &BTreeMap<u64, f64>,
    baseline: &BTreeMap<u64, f64>,
    decimals: usize,
) -> String {
    let pairs = values.iter().filter_map(|(seed, value)| Some(value - baseline.get(seed)?));
    let pairs: Vec<f64> = pairs.collect();
    Sample::of(&pairs).map_or(DASH.to_string(), |sample| sample.difference(decimals))
}

/// The table of all finished runs.
fn table(results: &[Finished], timings: &[Timing]) -> Result<Table> {
    let Some(first) = results.first() else { bail!("no results") };
    let tasks: Vec<Task> = Task::ALL
        .into_iter()
        .filter(|task| results.iter().any(|run| run.metric == task.name()))
        .collect();
    let mut rows = Vec::new();
    for row in Row::all() {
        let runs = row.of(results);
        let Some(run) = runs.first() else { continue };
        let other = Row { arm: Arm::Baseline, budget: Budget::Tokens, ..row }.of(results);
        let delta = |own: BTreeMap<u64, f64>, other, decimals| match row.arm {
            Arm::Baseline => DASH.to_string(),
            _ => difference(&own, &other, decimals),
        };
        let timing = timings
            .iter()
            .find(|t| t.row == row.model.name() && t.arm == row.arm.name())
            .map(|t| format!("{:.0}", 1e-3 * t.ms_per_step * run.timed_steps as f64));
        let mut cells = vec![
            row.model.to_string(),
            row.block.name().to_string(),
            match row.budget {
                Budget::Tokens => "tokens".to_string(),
                Budget::Time => "time".to_string(),
            },
            row.arm.to_string(),
            run.strength.map_or(DASH.to_string(), |t| t.to_string()),
            format!("{}, x{}, {:.2}", run.rate, run.table_rate, run.table_std),
            format!("{:.2}", 1e-6 * run.tokens as f64),
            timing.unwrap_or(DASH.to_string()),
            spread(&values(&runs, "loss"), 3),
            delta(values(&runs, "loss"), values(&other, "loss"), 3),
        ];
        cells.extend(Task::ALL.map(|task| spread(&values(&runs, task.name()), 1)));
        cells.push(spread(&averages(&runs, &tasks), 1));
        cells.push(delta(averages(&runs, &tasks), averages(&other, &tasks), 1));
        cells.push(kappas(&runs, row.arm));
        rows.push(cells);
    }
    rows.extend(paper()?);
    let mut columns: Vec<String> = [
        "model",
        "tables",
        "budget",
        "arm",
        "t",
        "rate, rate and std of the tables",
        "M tokens",
        "s",
        "loss of hidden words",
        "Δ to baseline, same seeds [95 % interval, n]",
    ]
    .map(str::to_string)
    .to_vec();
    columns.extend(Task::ALL.map(|task| heading(task).to_string()));
    columns.extend(["average", "Δ to baseline", "κ(X) → κ(Y)"].map(str::to_string));
    Ok(Table { title: title(first, results), columns, rows, notes: notes(results, &tasks) })
}

/// A column's head.
fn heading(task: Task) -> &'static str {
    match task {
        Task::Mnli => "MNLI",
        Task::Sst2 => "SST-2",
        Task::StsB => "STS-B",
        Task::Rte => "RTE",
        Task::Qnli => "QNLI",
        Task::Qqp => "QQP",
        Task::Mrpc => "MRPC",
        Task::Cola => "CoLA",
    }
}

fn title(first: &Finished, results: &[Finished]) -> String {
    let text = results.iter().find(|run| run.metric == "loss");
    let text = text.map_or(String::new(), |run| run.data.clone());
    let kind = match first.preset {
        Preset::Smoke => ", a smoke test: the numbers mean nothing",
        Preset::Short => ", stand-in for GLUE",
        Preset::GlueCpu | Preset::Paper => "",
    };
    format!("Table 4: pre-trained on {text}{kind}")
}

/// What a reader must know to read the numbers.
fn notes(results: &[Finished], tasks: &[Task]) -> Vec<String> {
    let named: Vec<String> = tasks
        .iter()
        .filter_map(|task| {
            let run = results.iter().find(|run| run.metric == task.name())?;
            let count = |what: &str| {
                let metric = format!("{task}_{what}");
                let found = results.iter().find(|run| run.metric == metric)?.value?;
                (found > 0.0).then_some(found)
            };
            let cut = count("truncated").map_or(String::new(), |n| format!(", {n:.0} texts cut"));
            let left = count("skipped")
                .map_or(String::new(), |n| format!(", {n:.0} unusable rows left out"));
            Some(format!(
                "{}: {}, {} to train on{cut}{left}",
                heading(*task),
                run.data,
                run.train_rows
            ))
        })
        .collect();
    let mut notes = vec![
        format!(
            "Tasks, on their dev sets after the last step, in %: accuracy (of MNLI the mean over both sets); of \
             MRPC and QQP the mean of accuracy and F1, of STS-B of Pearson and Spearman, of CoLA \
             Matthews' correlation. {}. {DASH}: not there; the average is over the tasks that are.",
            named.join("; ")
        ),
        "Budget: tokens: every arm sees as many; time: as many micro-batches as fit into the time of the \
         baseline, measured once. s: pre-training on one thread, steps times the median step, alone. Δ \
         compares with the baseline of the same tables, seed by seed (Student's t), not corrected for the \
         number of comparisons; an interval around 0 does not show an effect."
            .to_string(),
        "Loss: nats per hidden word of test documents. κ: median over windows, as they enter the first \
         layer."
            .to_string(),
        "Paper: GLUE, Crammed BERT pre-trained for a day on one GPU; STS-B follows from its average."
            .to_string(),
    ];
    notes.push(match results.iter().any(|run| run.start != Block::Set) {
        true => "Rates of every arm by the same search on documents held out from pre-training. published: \
                 tables start at std 0.02 and learn at the peak rate; tuned: their std and rate are \
                 searched too. norm-matched: the scale of pooled tokens without their directions."
            .to_string(),
        false => "Rates and tables as set: nothing was searched, all arms share them.".to_string(),
    });
    let commits: BTreeSet<&str> = results.iter().map(|result| result.commit.as_str()).collect();
    if commits.len() > 1 {
        let commits: Vec<&str> = commits.into_iter().collect();
        notes.push(format!("The runs come from several commits: {}.", commits.join(", ")));
    }
    notes
}

/// Without and with the method, means over seeds.
fn kappas(runs: &[&Finished], arm: Arm) -> String {
    let number = |metric: &str| {
        let of_metric: Vec<_> = runs.iter().filter(|run| run.metric == metric).collect();
        let values: Option<Vec<f64>> = of_metric.iter().map(|run| run.value).collect();
        match values.and_then(|values| Sample::of(&values)) {
            Some(sample) if sample.mean < 9.95 => format!("{:.1}", sample.mean),
            Some(sample) if sample.mean > 1e5 => format!("{:.0e}", sample.mean),
            Some(sample) => format!("{:.0}", sample.mean),
            None => "∞".to_string(),
        }
    };
    match arm {
        Arm::Baseline => number("kappa_plain"),
        _ => format!("{} → {}", number("kappa_plain"), number("kappa_conditioned")),
    }
}

/// The paper's rows.
fn paper() -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    let mut reader = csv::Reader::from_reader(PAPER.as_bytes());
    for line in reader.deserialize() {
        let line: BTreeMap<String, String> = line.context("paper.csv")?;
        let field = |name: &str| line.get(name).cloned().unwrap_or_default();
        let scores: Vec<String> = Task::ALL.map(|task| field(task.name())).to_vec();
        let mut sum = 0.0;
        for score in &scores {
            sum += score.parse::<f64>().with_context(|| format!("paper.csv: {score}"))?;
        }
        let mut cells = vec![DASH.to_string(); 10];
        (cells[0], cells[3]) = ("paper".to_string(), field("arm"));
        cells.extend(scores);
        cells.extend([format!("{:.1}", sum / 8.0), DASH.to_string(), DASH.to_string()]);
        rows.push(cells);
    }
    Ok(rows)
}

/// Loss on the tuning slice over steps, a panel per model and block.
fn figure(results: &[Curve]) -> Figure {
    let mut panels = Vec::new();
    for model in Model::ALL {
        for block in Block::ALL {
            let of_arm = |arm: Arm| {
                let shared =
                    |c: &Curve| block == Block::Tuned && c.start == Block::Published && c.best;
                let curves = results.iter().filter(|c| {
                    (c.model, c.arm) == (model, arm) && (c.start == block || shared(c))
                });
                let losses: Vec<&[(usize, f64)]> = curves.map(|c| &c.losses[..]).collect();
                curves::Curve::over(arm.to_string(), &losses)
            };
            let curves: Vec<_> = Arm::ALL.into_iter().filter_map(of_arm).collect();
            if !curves.is_empty() {
                panels.push(Panel { title: format!("{model}, tables {}", block.name()), curves });
            }
        }
    }
    Figure {
        x: "optimiser steps".to_string(),
        y: "loss on the tuning slice, nats per hidden word".to_string(),
        panels,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn committed_tables_are_those_of_the_committed_results() {
        let here = |path: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let text = |path: PathBuf| {
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let folder = here("table4_glue/results/short");
        let mut reader = csv::Reader::from_path(folder.join("results.csv")).unwrap();
        let results: Vec<Finished> = reader.deserialize().collect::<Result<_, _>>().unwrap();
        let table = table(&results, &timing::read(&folder).unwrap()).unwrap().markdown();
        for file in [folder.join("table.md"), here("table4_glue/README.md"), here("../README.md")] {
            let name = file.display().to_string();
            assert!(text(file).contains(table.trim()), "{name}; run scripts/insert_tables.py");
        }
    }
}
