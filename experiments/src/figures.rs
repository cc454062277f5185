//! What the records of a table show as figures: learning curves, condition numbers along training and by layer,
//! spectra, both sides of Proposition 4.2, and results against condition numbers.
//!
//! All but the first and the last need probes: `--set probe_every=STEPS`, or the table `figure-conditioning`.

use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use conditioned_data::Metric;
use conditioned_nn::store::write_atomic;
use conditioned_report::curves::{self, Figure};
use conditioned_report::heat::{self, HeatMap};
use conditioned_report::html::Plate;
use conditioned_report::scatter::{self, Group, Point, Scatter};
use conditioned_train::Findings;

use crate::arm::Arm;
use crate::cell::Budget;
use crate::groups;
use crate::plan::name;
use crate::probe::{KAPPA, RESOLVED};
use crate::results::Finished;
use crate::table::{Curve, Table};

/// A figure, the name of its files, and what it shows.
pub struct Named {
    /// The name of its files.
    pub name: &'static str,
    /// What it shows.
    pub plate: Plate,
}

impl Named {
    /// Writes it as SVG, PNG and CSV into `folder`, each whole or not at all.
    ///
    /// # Errors
    /// When it cannot be drawn or written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(self.name);
        self.plate.drawing.save(&path)?;
        let csv = path.with_extension("csv");
        write_atomic(&csv, self.plate.drawing.csv()?.as_bytes())
            .with_context(|| csv.display().to_string())
    }
}

/// The place whose tokens are drawn first: what enters layer 1.
const FIRST: &str = "layer1/tokens";

/// What is drawn by layer, and what it is called.
const BY_LAYER: [(&str, &str); 4] = [
    ("tokens", "tokens"),
    ("queries", "queries of a head"),
    ("attention", "attention matrix of a head"),
    ("output", "output of attention"),
];

/// The figures that the results hold enough for, in order; without the records of their runs that is the last one.
/// `column` is what results are called, with the metric.
pub fn figures<T: Table>(results: &[Finished], column: Option<(&str, &str)>) -> Vec<Named> {
    let groups = of_steps::<T>(results);
    let mut figures = Vec::new();
    if results.iter().any(|run| !run.curve.is_empty()) {
        figures.push(learning_curves::<T>(&groups));
    }
    if results.iter().any(|run| !run.probes.is_empty()) {
        figures.extend([along_training(&groups), by_layer(&groups), spectra(&groups)]);
        figures.extend(bounds(&groups));
    }
    figures.extend(column.and_then(|(head, metric)| against_kappa::<T>(results, head, metric)));
    figures
}

/// The runs of a row and block, by arm.
struct Runs<'a> {
    title: String,
    arms: Vec<(Arm, Vec<&'a Finished>)>,
}

fn of_steps<T: Table>(results: &[Finished]) -> Vec<Runs<'_>> {
    let rows: Vec<String> = T::Row::value_variants().iter().map(|row| name(*row)).collect();
    let mut groups = groups::groups(results, &rows);
    groups.retain(|group| group.budget == Budget::Steps);
    let together = groups.chunk_by(|a, b| (a.row, a.block) == (b.row, b.block));
    let runs = together.filter_map(|groups| {
        let first = groups.first()?;
        let mut title = T::label(first.row);
        if first.has_embedding_tables() {
            title += &format!(", embedding tables {}", first.block.label());
        }
        let arms = groups.iter().map(|group| (group.arm, group.runs.clone())).collect();
        Some(Runs { title, arms })
    });
    runs.collect()
}

impl Runs<'_> {
    /// A curve for every arm: mean over seeds and range of the points of each run.
    fn curves(&self, points: impl Fn(&Finished) -> Vec<(usize, f64)>) -> Vec<curves::Curve> {
        let curve = |(arm, runs): &(Arm, Vec<&Finished>)| {
            let points: Vec<Vec<(usize, f64)>> = runs.iter().map(|run| points(run)).collect();
            let points: Vec<&[(usize, f64)]> = points.iter().map(Vec::as_slice).collect();
            curves::Curve::over(arm.to_string(), &points).filter(|curve| !curve.points.is_empty())
        };
        self.arms.iter().filter_map(curve).collect()
    }
}

/// A condition number as far as f32 resolves it; null in the records is infinite.
pub fn resolved(kappa: f64) -> f64 {
    if kappa.is_nan() { RESOLVED } else { kappa.min(RESOLVED) }
}

/// kappa of a place as far as f32 resolves it.
fn kappa(found: &Findings, place: &str) -> Option<f64> {
    found.metrics.get(&format!("{place}/{KAPPA}")).copied().map(resolved)
}

/// The layers of a probe.
pub fn layers(found: &Findings) -> usize {
    let is_layer = |layer: &usize| found.spectra.contains_key(&format!("layer{layer}/tokens"));
    (1..).take_while(is_layer).count()
}

/// The learning curves, a panel per row and block.
fn learning_curves<T: Table>(groups: &[Runs<'_>]) -> Named {
    let panel = |runs: &Runs<'_>| curves::Panel {
        title: runs.title.clone(),
        curves: runs.curves(|run| run.curve.clone()),
    };
    let y = match T::CURVE {
        Curve::Evaluation(_, label) => label,
        Curve::TrainingLoss => "training loss, mean of 10 steps",
    };
    let figure = Figure {
        x: "optimiser steps".to_string(),
        y: y.to_string(),
        log_y: false,
        panels: groups.iter().map(panel).collect(),
    };
    let caption = "Learning curves: mean over seeds, and their range.".to_string();
    Named { name: "curves", plate: Plate { caption, drawing: Box::new(figure) } }
}

/// kappa of tokens, of the output of attention in layer 1, and of its mean over layers: the paper's figure.
fn along_training(groups: &[Runs<'_>]) -> Named {
    type Of = fn(&Findings) -> Option<f64>;
    let kinds: [(&str, Of); 4] = [
        ("tokens that enter layer 1", |found| kappa(found, FIRST)),
        ("the same behind the norm", |found| kappa(found, "layer1/input")),
        ("output of attention, layer 1", |found| kappa(found, "layer1/output")),
        ("output of attention, mean over layers", |found| {
            let layers = layers(found);
            let kappas = (1..=layers).map(|layer| kappa(found, &format!("layer{layer}/output")));
            Some(kappas.sum::<Option<f64>>()? / layers as f64)
        }),
    ];
    let panels = groups.iter().flat_map(|runs| {
        kinds.map(|(kind, of)| curves::Panel {
            title: format!("{}: {kind}", runs.title),
            curves: runs.curves(|run| {
                run.probes.iter().filter_map(|(step, found)| Some((*step, of(found)?))).collect()
            }),
        })
    });
    let figure = Figure {
        x: "optimiser steps".to_string(),
        y: "κ, median over sequences".to_string(),
        log_y: true,
        panels: panels.filter(|panel| !panel.curves.is_empty()).collect(),
    };
    let caption = "Condition numbers along training: mean over seeds, and their range. f32 resolves κ up to 1e7: \
                   what is drawn there is larger or infinite."
        .to_string();
    Named { name: "kappa", plate: Plate { caption, drawing: Box::new(figure) } }
}

/// kappa of every layer at the end of training.
fn by_layer(groups: &[Runs<'_>]) -> Named {
    let panels = groups.iter().flat_map(|runs| {
        BY_LAYER.map(|(place, label)| curves::Panel {
            title: format!("{}: {label}", runs.title),
            curves: runs.curves(|run| {
                let Some((_, found)) = run.probes.last() else { return Vec::new() };
                let of = |layer| Some((layer, kappa(found, &format!("layer{layer}/{place}"))?));
                (1..=layers(found)).filter_map(of).collect()
            }),
        })
    });
    let figure = Figure {
        x: "layer".to_string(),
        y: "κ, median over sequences and heads".to_string(),
        log_y: true,
        panels: panels.filter(|panel| !panel.curves.is_empty()).collect(),
    };
    let caption = "Condition numbers of every layer after the last step: mean over seeds, and their range. What is \
                   drawn at 1e7 is larger or infinite."
        .to_string();
    Named { name: "layers", plate: Plate { caption, drawing: Box::new(figure) } }
}

/// The singular values of the tokens that enter layer 1 along training, of the first seed of every arm.
fn spectra(groups: &[Runs<'_>]) -> Named {
    let mut panels = Vec::new();
    for runs in groups {
        for (arm, of_arm) in &runs.arms {
            let Some(run) = of_arm.first() else { continue };
            let spectra: Vec<(usize, &[f32])> = run
                .probes
                .iter()
                .filter_map(|(step, found)| Some((*step, &found.spectra.get(FIRST)?[..])))
                .collect();
            // Nothing of runs without probes.
            let Some(count) = spectra.iter().map(|(_, spectrum)| spectrum.len()).min() else {
                continue;
            };
            // What f32 does not tell from zero has the last colour.
            let relative = |spectrum: &[f32], i: usize| {
                f64::from(spectrum[i] / spectrum[0]).max(1.0 / RESOLVED)
            };
            panels.push(heat::Panel {
                title: format!("{}: {arm}", runs.title),
                x: spectra.iter().map(|(step, _)| *step as f64).collect(),
                rows: (0..count)
                    .map(|i| spectra.iter().map(|(_, spectrum)| relative(spectrum, i)).collect())
                    .collect(),
            });
        }
    }
    let figure = HeatMap {
        x: "optimiser steps".to_string(),
        y: "index of the singular value".to_string(),
        value: "singular value over the largest".to_string(),
        panels,
    };
    let caption = "Spectra of the tokens that enter layer 1, of the first seed: the median over sequences of each \
                   singular value."
        .to_string();
    Named { name: "spectra", plate: Plate { caption, drawing: Box::new(figure) } }
}

/// Both sides of Proposition 4.2, a point for each layer and probe; nothing of networks that it is not about.
fn bounds(groups: &[Runs<'_>]) -> Option<Named> {
    let mut panels = Vec::new();
    // By arm: heads whose left side is the larger one, and all.
    let mut missed: Vec<(Arm, f64, f64)> = Vec::new();
    for runs in groups {
        let mut of_arms = Vec::new();
        for (arm, of_arm) in &runs.arms {
            let mut points = Vec::new();
            let probes = of_arm.iter().flat_map(|run| run.probes.iter().map(move |p| (run, p)));
            for (run, (step, found)) in probes {
                for layer in 1..=layers(found) {
                    let metric = |name: &str| found.metrics.get(&format!("layer{layer}/{name}"));
                    let (Some(&y), Some(&x), Some(share)) =
                        (metric("bound_left"), metric("bound_right"), metric("violations"))
                    else {
                        continue;
                    };
                    match missed.iter_mut().find(|(known, ..)| known == arm) {
                        Some((_, sum, all)) => (*sum, *all) = (*sum + share, *all + 1.0),
                        None => missed.push((*arm, *share, 1.0)),
                    }
                    // What is infinite has no place on the axes.
                    if x.is_finite() && y.is_finite() {
                        let label = format!("layer {layer}, step {step}, seed {}", run.cell.seed);
                        points.push(Point { x, y, label });
                    }
                }
            }
            if !points.is_empty() {
                of_arms.push(Group { name: arm.to_string(), points });
            }
        }
        if !of_arms.is_empty() {
            panels.push(scatter::Panel { title: runs.title.clone(), groups: of_arms });
        }
    }
    if panels.is_empty() {
        return None;
    }
    let shares: Vec<String> =
        missed.iter().map(|(arm, sum, all)| format!("{arm} {:.1} %", 100.0 * sum / all)).collect();
    let figure = Scatter {
        x: "κ(softmax) κ(X) κ(W_V)".to_string(),
        y: "κ of the output of a head".to_string(),
        log_x: true,
        log_y: true,
        diagonal: true,
        panels,
    };
    let caption = format!(
        "Both sides of Proposition 4.2, medians over sequences and heads of every layer and probe: above the \
         line the published bound is missed. Share of heads that miss it, over all layers, probes and seeds: {}.",
        shares.join(", ")
    );
    Some(Named { name: "bounds", plate: Plate { caption, drawing: Box::new(figure) } })
}

/// What came out against kappa of the tokens that enter layer 1 after the last step, a point for each run.
fn against_kappa<T: Table>(results: &[Finished], head: &str, metric: &str) -> Option<Named> {
    let (mut panels, mut ranks) = (Vec::new(), Vec::new());
    for row in T::Row::value_variants().iter().map(|row| name(*row)) {
        let mut groups = Vec::new();
        for arm in &Arm::all() {
            let of_arm = |run: &&Finished| {
                (run.cell.arm, &run.cell.row, run.cell.budget) == (*arm, &row, Budget::Steps)
            };
            let point = |run: &Finished| {
                let kappa = ["kappa_sequence_conditioned", "kappa_pooled_conditioned"]
                    .iter()
                    .find_map(|name| run.metrics.get(*name))?;
                let label = format!(
                    "tables {}, learning rate {}, seed {}",
                    run.tables(),
                    run.cell.learning_rate,
                    run.cell.seed
                );
                let x = resolved(kappa.unwrap_or(f64::NAN));
                Some(Point { x, y: run.metric(metric)?, label })
            };
            let points: Vec<Point> = results.iter().filter(of_arm).filter_map(point).collect();
            if !points.is_empty() {
                groups.push(Group { name: arm.to_string(), points });
            }
        }
        if !groups.is_empty() {
            ranks.extend(rank_correlation(&groups).map(|r| format!("{} {r:+.2}", T::label(&row))));
            panels.push(scatter::Panel { title: T::label(&row), groups });
        }
    }
    let figure = Scatter {
        x: "κ of the tokens that enter layer 1".to_string(),
        y: head.to_string(),
        log_x: true,
        log_y: false,
        diagonal: false,
        panels,
    };
    let ranks = match ranks.is_empty() {
        true => String::new(),
        false => {
            format!(" Rank correlation of both (Spearman) over all runs: {}.", ranks.join(", "))
        }
    };
    let caption = format!(
        "Every run of the table: does the result follow the condition number, whichever way it was lowered? κ of \
         each sequence where it was measured, else of all tokens together.{ranks}"
    );
    let drawn = !figure.panels.is_empty();
    drawn.then(|| Named {
        name: "result-by-kappa",
        plate: Plate { caption, drawing: Box::new(figure) },
    })
}

/// Spearman's rank correlation of kappa and result; none where either is the same in all runs.
fn rank_correlation(groups: &[Group]) -> Option<f64> {
    let points = || groups.iter().flat_map(|group| &group.points);
    // As logarithms, which have the same ranks and fit into f32.
    let kappas: Vec<f32> = points().map(|point| point.x.ln() as f32).collect();
    let results: Vec<f32> = points().map(|point| point.y as f32).collect();
    Metric::Spearman.compute(&kappas, &results).ok().flatten()
}
