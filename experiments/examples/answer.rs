//! The answer in one figure and one table, from the committed results: writes `docs/answer.{svg,png}` and the
//! table of `README.md`.
//!
//! ```sh
//! cargo run --example answer
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use conditioned_nn::store::write_atomic;
use conditioned_report::forest::{Forest, Line, Panel, RGBColor};
use conditioned_report::statistics::Sample;
use experiments::arm::Arm;
use experiments::cell::Budget;
use experiments::column::{DASH, values};
use experiments::report;
use experiments::results::parse;
use experiments::search::Block;

/// Results on one scale.
struct Scale {
    heading: &'static str,
    unit: &'static str,
    axis: (f64, f64, f64, usize),
    metric: &'static str,
    /// -1 where less is better.
    sign: f64,
    decimals: usize,
    /// Name, folder, row and arms.
    cases: &'static [(&'static str, &'static str, &'static str, &'static [Arm])],
}

const IMAGES: Scale = Scale {
    heading: "Images",
    unit: "gain in accuracy on test images, percentage points",
    axis: (-5.0, 15.0, 5.0, 0),
    metric: "test_accuracy",
    sign: 1.0,
    decimals: 1,
    cases: &[
        ("ViT, UCI digits", "table1_imagenet/results/short", "vit", BOTH),
        ("DeiT, UCI digits", "table1_imagenet/results/short", "deit", BOTH),
        ("ViT, MNIST", "table1_imagenet/results/mnist-4k", "vit", BOTH),
    ],
};
const BOTH: &[Arm] = &[Arm::PER_SEQUENCE, Arm::POOLED_CURRENT];
const LANGUAGE: Scale = Scale {
    heading: "Language",
    unit: "fall of the next-token loss on test documents, nats",
    axis: (-1.0 / 3.0, 1.0, 0.25, 2),
    metric: "next_token_loss",
    sign: -1.0,
    decimals: 3,
    cases: &[
        ("GPT-2, generated stories", "table5_tinystories/results/short", "gpt2", CONTROLLED),
        ("GPT-2, tiny Shakespeare", "table5_tinystories/results/prototype", "gpt2", &[Arm::POOLED]),
    ],
};
const CONTROLLED: &[Arm] = &[Arm::POOLED, Arm::POOLED_NORM_MATCHED];

/// What an arm gains over the baseline, with embedding tables as published and tuned.
struct Effect {
    case: &'static str,
    arm: Arm,
    gains: [Sample; 2],
    baseline: [Sample; 2],
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn effects(scale: &Scale) -> Result<Vec<Effect>> {
    let mut effects = Vec::new();
    for &(case, folder, row, arms) in scale.cases {
        let path = root().join("experiments").join(folder).join("results.csv");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let results = parse(&text)?;
        let of = |block, arm| {
            values(&report::runs(&results, (row, block, Budget::Steps, arm)), scale.metric)
        };
        let sample =
            |values: Vec<f64>| Sample::of(&values).with_context(|| format!("{case}: no runs"));
        for &arm in arms {
            let pair = |block| {
                let baseline = of(block, Arm::BASELINE);
                let difference = |(seed, value)| Some(scale.sign * (value - baseline.get(&seed)?));
                let gain = sample(of(block, arm).into_iter().filter_map(difference).collect())?;
                Ok::<_, anyhow::Error>((gain, sample(baseline.into_values().collect())?))
            };
            let (published, tuned) = (pair(Block::Published)?, pair(Block::Tuned)?);
            let (gains, baseline) = ([published.0, tuned.0], [published.1, tuned.1]);
            effects.push(Effect { case, arm, gains, baseline });
        }
    }
    Ok(effects)
}

/// The table of the README: gains with their intervals, in bold where these leave zero out.
fn table() -> Result<String> {
    let mut table = String::from(
        "| model, data (seeds) | baseline | paper, as published | paper, tuned | pooled, as published | \
         pooled, tuned |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for scale @ &Scale { decimals, .. } in [&IMAGES, &LANGUAGE] {
        let gain = |gain: &Sample| {
            let text = gain.difference(decimals);
            let text = text.rsplit_once(',').map_or(&*text, |(text, _)| text);
            let clear = gain.half_width().is_some_and(|half| half < gain.mean.abs());
            if clear { format!("**{text}**") } else { text.to_string() }
        };
        let effects = effects(scale)?;
        for case in effects.chunk_by(|a, b| a.case == b.case) {
            let cells = |arms: &[Arm]| match case.iter().find(|effect| arms.contains(&effect.arm)) {
                Some(effect) => format!("{} | {}", gain(&effect.gains[0]), gain(&effect.gains[1])),
                None => format!("{DASH} | {DASH}"),
            };
            let Effect { case: name, gains, baseline: [published, tuned], .. } = &case[0];
            let baseline = format!("{:.decimals$} → {:.decimals$}", published.mean, tuned.mean);
            let (paper, pooled) =
                (cells(&[Arm::PER_SEQUENCE]), cells(&[Arm::POOLED, Arm::POOLED_CURRENT]));
            table += &format!("| {name} ({}) | {baseline} | {paper} | {pooled} |\n", gains[0].n);
            if case.iter().any(|effect| effect.arm == Arm::POOLED_NORM_MATCHED) {
                let control = cells(&[Arm::POOLED_NORM_MATCHED]);
                table +=
                    &format!("| the same, tokens only scaled | | {DASH} | {DASH} | {control} |\n");
            }
        }
    }
    Ok(table)
}

/// Puts the table into the text of the README.
fn with_table(readme: &str) -> Result<String> {
    let place = readme.split_once("<!-- answer -->\n").and_then(|(before, rest)| {
        let (_, after) = rest.split_once("<!-- end -->")?;
        Some((before, after))
    });
    let (before, after) = place.context("README.md: no lines <!-- answer --> and <!-- end -->")?;
    Ok(format!("{before}<!-- answer -->\n\n{}\n<!-- end -->{after}", table()?))
}

fn figure() -> Result<Forest> {
    let panel = |scale: &Scale| {
        let line = |Effect { case, arm, gains, .. }| {
            // Okabe & Ito 2008: they stay apart for the colour-blind.
            let (name, colour) = match arm {
                Arm::PER_SEQUENCE => ("the paper: per-sequence", RGBColor(213, 94, 0)),
                Arm::POOLED_NORM_MATCHED => ("control: only scaled", RGBColor(105, 105, 105)),
                _ => ("ours: pooled", RGBColor(0, 114, 178)),
            };
            Line { case: case.to_string(), name: name.to_string(), colour, marks: gains }
        };
        let lines = effects(scale)?.into_iter().map(line).collect();
        let (heading, unit) = (scale.heading.to_string(), scale.unit.to_string());
        Ok::<_, anyhow::Error>(Panel { heading, unit, axis: scale.axis, lines })
    };
    Ok(Forest {
        title: "What conditioned tokens gain over the baseline".to_string(),
        subtitle: "Difference to the baseline with the same embedding tables, seed by seed, with its 95 % interval"
            .to_string(),
        marks: ["embedding tables as published".to_string(), "embedding tables tuned".to_string()],
        panels: vec![panel(&IMAGES)?, panel(&LANGUAGE)?],
    })
}

fn main() -> Result<()> {
    let readme = root().join("README.md");
    write_atomic(&readme, with_table(&std::fs::read_to_string(&readme)?)?.as_bytes())?;
    Ok(figure()?.save(&root().join("docs/answer"))?)
}

#[test]
fn readme_and_figure_are_those_of_the_committed_results() {
    let again = "differs from the committed results: `cargo run --example answer` makes it again";
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    assert_eq!(read("README.md"), with_table(&read("README.md")).unwrap(), "README.md {again}");
    assert_eq!(
        read("docs/answer.svg"),
        figure().unwrap().svg().unwrap(),
        "docs/answer.svg {again}"
    );
}
