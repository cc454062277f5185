//! The columns of a table: what stands in a cell, from the runs of its row.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use conditioned_models::conditioning::Placement;
use serde::Deserialize;

use crate::arm::{Arm, Method};
use crate::cell::Budget;
use crate::groups::Group;
use crate::results::Finished;
use crate::run::timing::Timing;
use crate::search::Block;
use crate::settings::place_name;
use conditioned_report::statistics::Sample;

/// An empty field.
pub const DASH: &str = "–";

/// What a line of a table is about.
pub struct RowView<'a> {
    /// The model's name in the table.
    pub label: String,
    /// Its runs, and what they share.
    pub group: Group<'a>,
    /// The runs of the baseline that it is compared with.
    pub baseline: Vec<&'a Finished>,
    /// What a step costs.
    pub timing: Option<&'a Timing>,
    /// The paper's numbers of its row and arm, by metric.
    pub paper: BTreeMap<&'a str, f64>,
}

type Show = Box<dyn Fn(&RowView<'_>) -> String>;
type Difference = Box<dyn Fn(&RowView<'_>) -> Option<Sample>>;
type ShowPaper = Box<dyn Fn(&BTreeMap<&str, f64>) -> Option<String>>;

/// A column.
pub struct Column {
    /// Its head.
    pub head: String,
    /// Whether it carries the answer: it stays on a narrow terminal.
    pub answer: bool,
    /// What stands in a cell.
    pub show: Show,
    /// The metric that it shows, where it is one.
    pub metric: Option<String>,
    /// The differences to the baseline that a cell shows, seed by seed.
    pub difference: Option<Difference>,
    /// What stands there in a row of the paper's own.
    pub paper: ShowPaper,
}

impl Column {
    /// A column by what stands in its cells.
    pub fn new(head: impl Into<String>, show: impl Fn(&RowView<'_>) -> String + 'static) -> Self {
        let (head, show) = (head.into(), Box::new(show));
        let paper = Box::new(|_: &BTreeMap<&str, f64>| None);
        Self { head, answer: false, show, metric: None, difference: None, paper }
    }

    /// The same column, which stays on a narrow terminal.
    pub fn answer(self) -> Self {
        Self { answer: true, ..self }
    }

    /// Head and metric of a column that carries the answer and shows a metric.
    pub fn answers(&self) -> Option<(&str, &str)> {
        self.metric.as_deref().filter(|_| self.answer).map(|metric| (self.head.as_str(), metric))
    }

    fn with_paper(self, paper: impl Fn(&BTreeMap<&str, f64>) -> Option<String> + 'static) -> Self {
        Self { paper: Box::new(paper), ..self }
    }
}

/// The model.
pub fn model() -> Column {
    Column::new("model", |row| row.label.clone()).answer()
}

/// Whether embedding tables are as published or tuned.
pub fn start() -> Column {
    let show = |row: &RowView<'_>| {
        let label = match (row.group.block, row.group.arm.method) {
            _ if !row.group.has_embedding_tables() => DASH,
            (Block::Published, Method::Init) => "own scale",
            (block, _) => block.label(),
        };
        label.to_string()
    };
    Column::new("embedding tables", show).answer()
}

/// What limited the runs.
pub fn budget() -> Column {
    Column::new("budget", |row| match row.group.budget {
        Budget::Steps => "same tokens".to_string(),
        Budget::Time => "same time".to_string(),
    })
    .answer()
}

/// The same where some runs had the time of the baseline.
pub fn budgets(results: &[Finished]) -> Option<Column> {
    results.iter().any(|run| run.cell.budget == Budget::Time).then(budget)
}

/// The arm; `leaks` says of a causal model that the arm is not causal.
pub fn arm(leaks: bool) -> Column {
    let show = move |row: &RowView<'_>| match row.group.arm.method {
        Method::PerSequence
        | Method::PooledCurrent
        | Method::PerSequenceNormMatched
        | Method::Standardised
        | Method::TokenGraying
            if leaks =>
        {
            format!("{} (sees the future)", row.group.arm)
        }
        _ => row.group.arm.to_string(),
    };
    Column::new("arm", show).answer()
}

/// Strength t, or the factor.
pub fn strength() -> Column {
    Column::new("t", |row| {
        let strength = row.group.runs.first().and_then(|run| run.cell.strength);
        strength.map_or(DASH.to_string(), |t| t.to_string())
    })
}

/// Learning rate, learning rate and deviation of the embedding tables, of positions where they differ.
pub fn setting() -> Column {
    Column::new("learning rate, of embedding tables, their std", |row| {
        let Some(first) = row.group.runs.first().map(|run| &run.cell) else {
            return DASH.to_string();
        };
        let mean = |of: fn(&Finished) -> Option<f64>| {
            let values: Vec<f64> = row.group.runs.iter().filter_map(|run| of(run)).collect();
            Sample::of(&values).map(|sample| sample.mean)
        };
        let std = mean(|run| run.cell.embedding_std);
        let position = mean(|run| run.cell.position_std).filter(|position| Some(*position) != std);
        let mut setting = format!("{}, x{}", first.learning_rate, first.embedding_lr_scale);
        // Those below are of a search, and short.
        let show = |std: f64| match std < 0.01 {
            true => ((std * 1e6).round() / 1e6).to_string(),
            false => format!("{std:.2}"),
        };
        setting += &std.map_or(String::new(), |std| format!(", {}", show(std)));
        setting += &position.map_or(String::new(), |std| format!(", positions {}", show(std)));
        let elsewhere = first.placement.filter(|place| *place != Placement::AfterPosition);
        setting += &elsewhere.map_or(String::new(), |place| format!(", {}", place_name(place)));
        let ramp = first.ramp_steps.filter(|steps| *steps > 0);
        setting += &ramp.map_or(String::new(), |steps| format!(", ramp {steps}"));
        setting
    })
}

/// The peak learning rate, where there are no embedding tables.
pub fn learning_rate() -> Column {
    Column::new("learning rate", |row| {
        row.group.runs.first().map_or(DASH.to_string(), |run| run.cell.learning_rate.to_string())
    })
}

/// The values of a metric by seed, where they are finite.
pub fn values(runs: &[&Finished], metric: &str) -> BTreeMap<u64, f64> {
    runs.iter().filter_map(|run| Some((run.cell.seed, run.metric(metric)?))).collect()
}

fn spread_of(values: &BTreeMap<u64, f64>, decimals: usize) -> String {
    let values: Vec<f64> = values.values().copied().collect();
    Sample::of(&values).map_or(DASH.to_string(), |sample| sample.spread(decimals))
}

/// The paired difference over the seeds that both have.
fn difference_of(
    arm: Arm,
    values: &BTreeMap<u64, f64>,
    baseline: &BTreeMap<u64, f64>,
) -> Option<Sample> {
    if arm == Arm::BASELINE {
        return None;
    }
    let pairs = values.iter().filter_map(|(seed, value)| Some(value - baseline.get(seed)?));
    let pairs: Vec<f64> = pairs.collect();
    Sample::of(&pairs)
}

/// A column of paired differences.
fn of_differences(
    head: &str,
    decimals: usize,
    difference: impl Fn(&RowView<'_>) -> Option<Sample> + Clone + 'static,
) -> Column {
    let sample = difference.clone();
    let show = move |row: &RowView<'_>| {
        sample(row).map_or(DASH.to_string(), |sample| sample.difference(decimals))
    };
    Column { difference: Some(Box::new(difference)), ..Column::new(head, show).answer() }
}

/// Mean, deviation and number of a metric.
pub fn spread(head: &str, metric: impl Into<String>, decimals: usize) -> Column {
    let metric = metric.into();
    let (of_paper, of_runs) = (metric.clone(), metric.clone());
    let column =
        Column::new(head, move |row| spread_of(&values(&row.group.runs, &of_runs), decimals))
            .with_paper(move |paper| {
                paper.get(&*of_paper).map(|value| format!("{value:.decimals$}"))
            });
    Column { metric: Some(metric), ..column }
}

/// The difference of a metric to the baseline, seed by seed, with its interval.
pub fn difference(head: &str, metric: impl Into<String>, decimals: usize) -> Column {
    let metric = metric.into();
    of_differences(head, decimals, move |row| {
        difference_of(
            row.group.arm,
            &values(&row.group.runs, &metric),
            &values(&row.baseline, &metric),
        )
    })
}

/// By seed the mean of metrics; none of a seed that lacks one.
fn averages(runs: &[&Finished], metrics: &[String]) -> BTreeMap<u64, f64> {
    let mean = |run: &&Finished| {
        let all: Option<Vec<f64>> = metrics.iter().map(|metric| run.metric(metric)).collect();
        let all = all.filter(|all| !all.is_empty())?;
        Some((run.cell.seed, all.iter().sum::<f64>() / all.len() as f64))
    };
    runs.iter().filter_map(mean).collect()
}

/// The mean of metrics, and its difference to the baseline; the paper's is over `of_paper`.
pub fn average(metrics: Vec<String>, of_paper: Vec<String>, decimals: usize) -> [Column; 2] {
    let own = metrics.clone();
    let mean = move |paper: &BTreeMap<&str, f64>| {
        let all: Option<Vec<f64>> = of_paper.iter().map(|m| paper.get(&**m).copied()).collect();
        let all = all.filter(|all| !all.is_empty())?;
        Some(format!("{:.decimals$}", all.iter().sum::<f64>() / all.len() as f64))
    };
    [
        Column::new("average", move |row| spread_of(&averages(&row.group.runs, &own), decimals))
            .answer()
            .with_paper(mean),
        of_differences("Δ of the average", decimals, move |row| {
            let (own, other) =
                (averages(&row.group.runs, &metrics), averages(&row.baseline, &metrics));
            difference_of(row.group.arm, &own, &other)
        }),
    ]
}

/// The mean of a metric in some form.
pub fn mean(head: &str, metric: &'static str, form: fn(f64) -> String) -> Column {
    Column::new(head, move |row| {
        let values: Vec<f64> = values(&row.group.runs, metric).into_values().collect();
        Sample::of(&values).map_or(DASH.to_string(), |sample| form(sample.mean))
    })
}

/// The mean of a number of steps that some runs may not have reached.
pub fn steps_to(head: String, metric: &'static str) -> Column {
    Column::new(head, move |row| {
        let reached: Vec<f64> = values(&row.group.runs, metric).into_values().collect();
        let all = row.group.runs.len();
        match Sample::of(&reached) {
            Some(sample) if sample.n == all => format!("{:.0}", sample.mean),
            Some(sample) => format!("{:.0} ({} of {all} runs)", sample.mean, sample.n),
            None => "not reached".to_string(),
        }
    })
}

/// Condition numbers without and with the arm; `which` is `sequence` or `pooled`.
pub fn kappa(head: &str, which: &'static str) -> Column {
    Column::new(head, move |row| {
        // A median over seeds would hide a run; the mean shows it.
        let number = |side: &str| {
            let metric = format!("kappa_{which}_{side}");
            let recorded =
                row.group.runs.iter().filter_map(|run| run.metrics.get(&metric).copied());
            // A number that is not finite is recorded as null.
            let kappas: Vec<f64> = recorded.map(|kappa| kappa.unwrap_or(f64::INFINITY)).collect();
            match Sample::of(&kappas).map(|sample| sample.mean) {
                None => DASH.to_string(),
                Some(mean) if !mean.is_finite() => "∞".to_string(),
                Some(mean) if mean < 9.95 => format!("{mean:.1}"),
                Some(mean) if mean > 1e5 => format!("{mean:.0e}"),
                Some(mean) => format!("{mean:.0}"),
            }
        };
        match row.group.arm.method.changes_tokens() {
            false => number("plain"),
            true => match (number("plain"), number("conditioned")) {
                (plain, conditioned) if plain == DASH && conditioned == DASH => plain,
                (plain, conditioned) => format!("{plain} → {conditioned}"),
            },
        }
    })
}

/// Median milliseconds of a step, alone on one thread.
pub fn ms_per_step() -> Column {
    Column::new("ms per step", |row| {
        row.timing.map_or(DASH.to_string(), |timing| format!("{:.1}", timing.ms_per_step))
    })
}

/// Tokens a second, from a step of `step_tokens`.
pub fn tokens_per_second() -> Column {
    Column::new("tokens/s", |row| {
        let tokens = row.group.runs.first().and_then(|run| run.metric("step_tokens"));
        let speed = row.timing.zip(tokens).map(|(t, tokens)| 1e3 * tokens / t.ms_per_step);
        speed.map_or(DASH.to_string(), |speed| format!("{speed:.0}"))
    })
}

/// Seconds of the whole first stage on one thread.
pub fn seconds() -> Column {
    Column::new("seconds", |row| {
        let steps = row.group.runs.first().and_then(|run| run.metric("timed_steps"));
        let seconds = row.timing.zip(steps).map(|(t, steps)| 1e-3 * t.ms_per_step * steps);
        seconds.map_or(DASH.to_string(), |seconds| format!("{seconds:.0}"))
    })
}

/// The paper's number of a row and arm, beside the block of published embedding tables.
pub fn paper(head: &str, metric: &'static str, decimals: usize) -> Column {
    Column::new(format!("paper: {head}"), move |row| match row.paper.get(metric) {
        Some(value) if row.group.block != Block::Tuned => format!("{value:.decimals$}"),
        _ => DASH.to_string(),
    })
}

/// A number of the paper: a line of `paper.csv`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The row of the table; `*` is any.
    pub row: String,
    /// The arm.
    pub arm: Arm,
    /// The metric.
    pub metric: String,
    /// The number.
    pub value: f64,
}

/// The numbers in the text of a `paper.csv`.
///
/// # Errors
/// When a line is of another form.
pub fn published(text: &str) -> Result<Vec<Published>> {
    let lines = csv::Reader::from_reader(text.as_bytes()).into_deserialize().collect::<Vec<_>>();
    lines.into_iter().collect::<std::result::Result<_, _>>().context("paper.csv")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::parse;

    #[test]
    fn kappa_is_infinite_where_null_was_recorded_and_absent_where_nothing_was() {
        let csv = include_str!("../table1_imagenet/results/short/results.csv");
        let mut run = parse(csv).unwrap().swap_remove(0);
        run.metrics.retain(|name, _| !name.starts_with("kappa"));
        let shown = |arm, run: &Finished| {
            (kappa("", "sequence").show)(&RowView {
                label: String::new(),
                group: Group {
                    row: &run.cell.row,
                    block: Block::Published,
                    budget: Budget::Steps,
                    arm,
                    runs: vec![run],
                },
                baseline: Vec::new(),
                timing: None,
                paper: BTreeMap::new(),
            })
        };
        assert_eq!([Arm::BASELINE, Arm::POOLED].map(|arm| shown(arm, &run)), [DASH, DASH]);
        run.metrics.insert("kappa_sequence_plain".to_string(), None);
        run.metrics.insert("kappa_sequence_conditioned".to_string(), Some(20.0));
        let both = [Arm::BASELINE, Arm::POOLED].map(|arm| shown(arm, &run));
        assert_eq!(both, ["∞", "∞ → 20"]);
    }
}
