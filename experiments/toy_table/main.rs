//! A table in one file: does a ViT gain from conditioned tokens on a handful of digits? CONTRIBUTING.md shows
//! this file, and a test takes it through every command.

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use conditioned_data::ImageData;
use experiments::arm::Arm;
use experiments::column::{self, Column};
use experiments::job::Job;
use experiments::recipe::images::ImageRecipe;
use experiments::results::Finished;
use experiments::settings::Grid;
use experiments::table::{Curve, NoCommands, NoOptions, Preset, Request, Stage, Table};

struct Toy;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Row {
    Vit,
}

impl Table for Toy {
    const NAME: &'static str = "toy-table";
    const ABOUT: &'static str = "Does a ViT gain from conditioned tokens on a handful of digits?";
    const TITLE: &'static str = "A toy table";
    const CURVE: Curve = Curve::Evaluation("tune_loss", "loss on the tuning slice");
    type Row = Row;
    type Recipe = ImageRecipe;
    type Options = NoOptions;
    type Commands = NoCommands;
    type Data = ImageData;

    fn presets() -> Vec<Preset<Self>> {
        let small =
            |_| ImageRecipe { model: "vit-8-tiny".to_string(), epochs: 2, ..ImageRecipe::digits() };
        let grid = Grid::new(&[1e-3, 4e-3], &[(1.0, 0.02)]);
        let preset = Preset::new("small", small, &[Row::Vit], &[Arm::BASELINE, Arm::POOLED], grid);
        vec![Preset { seeds: 2, ..preset }]
    }

    fn default_preset(_: &NoOptions) -> &'static str {
        "small"
    }

    fn data(request: &Request<'_, Self>) -> Result<ImageData> {
        request.recipe.data(None, false)
    }

    fn job(request: &Request<'_, Self>, data: &ImageData, stage: &Stage<'_>) -> Result<Job> {
        ImageRecipe::job(request, data, stage)
    }

    fn columns(_: &[Finished]) -> Vec<Column> {
        let accuracy = column::spread("top-1, %", "test_accuracy", 1).answer();
        let gain = column::difference("Δ to baseline", "test_accuracy", 1);
        vec![column::model(), column::start(), column::arm(false), accuracy, gain]
    }
}

fn main() -> ExitCode {
    experiments::main::<Toy>()
}
