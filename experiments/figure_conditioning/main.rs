//! The figure of condition numbers along training, with what the paper does not show: every layer, the spectra, both
//! sides of Proposition 4.2, and whether results follow the condition number whichever way it was lowered.
//!
//! It trains the ViT of table 1, at the settings that were searched there, with probes. Every table but 2 draws the same
//! figures of its own runs with `--set probe_every=STEPS`.

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use conditioned_data::ImageData;
use conditioned_models::network::Network;
use experiments::arm::Arm;
use experiments::column::{self, Column};
use experiments::job::Job;
use experiments::recipe::Shared;
use experiments::recipe::images::{DIGITS_GRID, ImageRecipe, SMOKE_GRID};
use experiments::results::Finished;
use experiments::table::{Curve, NoCommands, NoOptions, Preset, Request, Stage, Table};

struct FigureConditioning;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Row {
    Vit,
}

/// 1,100 UCI digits, a probe every 50th step.
fn digits(_: Row) -> ImageRecipe {
    let digits = ImageRecipe::digits();
    ImageRecipe { shared: Shared { probe_every: Some(50), ..digits.shared }, ..digits }
}

/// Seconds, for tests.
fn smoke(row: Row) -> ImageRecipe {
    let smoke = digits(row).smoke();
    ImageRecipe { shared: Shared { probe_every: Some(5), ..smoke.shared }, ..smoke }
}

/// What lowers kappa in three ways, and a factor that does not.
const ARMS: &[Arm] = &[
    Arm::BASELINE,
    Arm::INIT,
    Arm::PER_SEQUENCE,
    Arm::PER_SEQUENCE_NORM_MATCHED,
    Arm::POOLED_CURRENT,
];

impl Table for FigureConditioning {
    const NAME: &'static str = "figure-conditioning";
    const ABOUT: &'static str =
        "Condition numbers inside a model along training, with figures and a report";
    const TITLE: &'static str = "Conditioning along training";
    const SCORE: Option<&'static str> = Some("tune_accuracy");
    const CURVE: Curve = Curve::Evaluation("tune_accuracy", "accuracy on the tuning slice, %");
    type Row = Row;
    type Recipe = ImageRecipe;
    type Options = NoOptions;
    type Commands = NoCommands;
    type Data = ImageData;

    fn presets() -> Vec<Preset<Self>> {
        let preset = |name, recipe, grid| Preset {
            seeds: 2,
            search_seeds: 3,
            ..Preset::new(name, recipe, &[Row::Vit], ARMS, grid)
        };
        vec![
            Preset {
                tuned: Some(include_str!("../table1_imagenet/tuned/short.json")),
                timings: Some(include_str!("results/short/timings.csv")),
                ..preset("short", digits, DIGITS_GRID)
            },
            Preset {
                tuned: Some(include_str!("../table1_imagenet/tuned/smoke.json")),
                ..preset("smoke", smoke, SMOKE_GRID)
            },
        ]
    }

    fn default_preset(_: &NoOptions) -> &'static str {
        "short"
    }

    fn has_embedding_tables(recipe: &ImageRecipe) -> bool {
        recipe.has_embedding_tables()
    }

    fn data(request: &Request<'_, Self>) -> Result<ImageData> {
        request.recipe.data(None, false)
    }

    fn job(request: &Request<'_, Self>, data: &ImageData, stage: &Stage<'_>) -> Result<Job> {
        ImageRecipe::job(request, data, stage)
    }

    fn columns(_: &[Finished]) -> Vec<Column> {
        vec![
            column::model(),
            column::start(),
            column::arm(false),
            column::strength(),
            column::setting(),
            column::spread("top-1, %", "test_accuracy", 1).answer(),
            column::difference("Δ to baseline", "test_accuracy", 1),
            column::kappa("κ(X) → κ(Y)", "sequence"),
        ]
    }

    fn label(row: &str) -> String {
        Network::label(row).unwrap_or(row).to_string()
    }

    fn notes(_: &[Finished]) -> Vec<String> {
        vec![
            "κ: median over images of the tuning slice of the condition number of the tokens that enter block 1, \
             without and with the arm. per-sequence-norm-matched is a factor alone: it changes no condition number."
                .to_string(),
        ]
    }
}

fn main() -> ExitCode {
    experiments::main::<FigureConditioning>()
}
