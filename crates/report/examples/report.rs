//! Writes a sample report with every kind of figure: `cargo run -p conditioned-report --example report -- FOLDER`.

use std::path::{Path, PathBuf};

use conditioned_report::curves::{self, Curve, Figure};
use conditioned_report::drawing::Drawing;
use conditioned_report::grid::Grid;
use conditioned_report::heat::{self, HeatMap};
use conditioned_report::html::{Body, Page, Plate, Section};
use conditioned_report::scatter::{self, Group, Point, Scatter};

const ARMS: [&str; 8] = [
    "baseline",
    "pooled",
    "init",
    "token graying",
    "spectral",
    "weights",
    "attention",
    "pooled-current",
];

/// A number in 0 to 1 that looks like chance.
fn noise(seed: usize) -> f64 {
    (f64::from(seed as u32) * 12.9898).sin().abs() * 43758.5453 % 1.0
}

fn losses(log_y: bool) -> Figure {
    let curve = |(arm, name): (usize, &&str)| {
        let point = |i: usize| {
            let mean = 0.02
                + 2.3 * (-(i as f64) / (9.0 + 2.0 * arm as f64)).exp()
                + 0.03 * noise(i + 50 * arm);
            let spread = 0.04 + 0.1 * mean * noise(3 * i + arm);
            // One arm diverges for a while.
            let mean = if arm == 3 && (20..26).contains(&i) { f64::NAN } else { mean };
            (250.0 * i as f64, mean, mean - spread, mean + spread)
        };
        Curve { name: (*name).to_string(), points: (0..41).map(point).collect() }
    };
    let panel = |title: &str, arms: usize| curves::Panel {
        title: title.to_string(),
        curves: ARMS.iter().take(arms).enumerate().map(curve).collect(),
    };
    Figure {
        x: "optimiser steps".into(),
        y: "training loss, mean of 10 steps".into(),
        log_y,
        panels: vec![
            panel("ViT-S on CIFAR-100, embedding tables published", 8),
            panel("ViT-S on CIFAR-100, embedding tables tuned", 3),
            panel("GPT-2 small", 5),
        ],
    }
}

fn inequality() -> Scatter {
    let group = |(arm, name): (usize, &&str)| {
        let point = |i: usize| {
            let x = 10f64.powf(1.0 + 5.0 * noise(i + 97 * arm));
            let y = x * 10f64.powf(-2.0 * noise(7 * i + arm));
            Point { x, y, label: format!("layer {i}, step {}", 1000 * i) }
        };
        Group { name: (*name).to_string(), points: (0..12).map(point).collect() }
    };
    let panel = |title: &str, arms: usize| scatter::Panel {
        title: title.to_string(),
        groups: ARMS.iter().take(arms).enumerate().map(group).collect(),
    };
    Scatter {
        x: "bound: κ(X)² · κ(W)".into(),
        y: "measured: κ(J)".into(),
        log_x: true,
        log_y: true,
        diagonal: true,
        panels: vec![panel("ViT-S", 8), panel("GPT-2 small", 3)],
    }
}

fn spectra() -> HeatMap {
    let steps: Vec<f64> = (0..40).map(|i| 250.0 * f64::from(i)).collect();
    let panel = |title: &str, decay: f64| {
        let value = |row: usize, i: usize| {
            let grown = 8.0 * (-(row as f64) / (decay * (1.0 + i as f64 / 20.0))).exp();
            if row > 58 && i < 8 { 0.0 } else { grown }
        };
        let rows = (0..64).map(|row| (0..40).map(|i| value(row, i)).collect()).collect();
        heat::Panel { title: title.to_string(), x: steps.clone(), rows }
    };
    HeatMap {
        x: "optimiser steps".into(),
        y: "index of the singular value".into(),
        value: "singular value of the embedded tokens".into(),
        panels: vec![panel("baseline", 5.0), panel("pooled", 14.0)],
    }
}

fn table() -> Grid {
    let heads = [
        "arm",
        "accuracy",
        "Δ to baseline",
        "κ, median",
        "steps",
        "learning rate",
        "seconds a step",
        "peak memory",
    ];
    let row = |(arm, name): (usize, &&str)| {
        let mut row: Vec<String> =
            vec![(*name).into(), format!("{:.1} ± 0.6, 3", 90.0 + 9.0 * noise(arm))];
        row.push(if arm == 0 {
            "–".into()
        } else {
            format!("{:+.1} [-2.3, +1.5], 3", 4.0 * noise(arm + 9) - 2.0)
        });
        row.push(if arm == 4 {
            "∞".into()
        } else {
            format!("{:.0}", 10f64.powf(1.0 + 3.0 * noise(arm + 3)))
        });
        row.extend([
            "10000".into(),
            "1e-3".into(),
            format!("{:.3}", noise(arm + 70)),
            "1.2 GiB".into(),
        ]);
        row
    };
    Grid {
        title: "ViT-S on CIFAR-100, a sample: the numbers mean nothing".into(),
        columns: heads.iter().enumerate().map(|(i, head)| ((*head).into(), i < 3)).collect(),
        rows: ARMS.iter().enumerate().map(row).collect(),
        notes: vec![
            "mean ± standard deviation, number of seeds. Δ: difference to the baseline, seed by seed, with the 95 % interval of Student's t and the number of pairs.".into(),
            "Intervals cover seeds only.".into(),
        ],
    }
}

fn main() -> conditioned_report::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".to_string()));
    let figures: [(&str, &str, Box<dyn Drawing>); 4] = [
        ("curves", "Training loss: mean and range over seeds.", Box::new(losses(false))),
        ("curves-log", "The same on a logarithmic scale.", Box::new(losses(true))),
        (
            "scatter",
            "Both sides of the inequality: no point lies above the line.",
            Box::new(inequality()),
        ),
        ("heat", "Singular values during training.", Box::new(spectra())),
    ];
    let plates = figures.map(|(name, caption, drawing)| {
        drawing.save(&folder.join(name))?;
        Ok(Plate { caption: caption.to_string(), drawing })
    });
    let page = Page {
        title: "Does conditioning help? A sample".into(),
        answer: "Pooled conditioning gains +2.1 points [+0.4, +3.8] over the baseline on 3 seeds; no other arm differs.".into(),
        table: table(),
        figures: plates.into_iter().collect::<conditioned_report::Result<_>>()?,
        sections: vec![
            Section { heading: "Configuration".into(), body: Body::Text("{\n  \"model\": \"vit-s\",\n  \"steps\": 10000,\n  \"note\": \"a line that is much longer than a telephone is wide, so that it has to scroll in its own box, as it should\"\n}".into()) },
            Section { heading: "What was searched".into(), body: Body::Table(table()) },
        ],
    };
    page.write(Path::new(&folder.join("report.html")))
}
