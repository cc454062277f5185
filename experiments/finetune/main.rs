//! Fine-tuning: a checkpoint on texts or images, with and without conditioned tokens.

mod classify;
mod images;
mod texts;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use experiments::arm::Arm;
use experiments::column::Column;
use experiments::export::{self, Case};
use experiments::job::Job;
use experiments::recipe::image_tuning::{ImageTuning, TunedImages};
use experiments::recipe::texts::{TextData, TextRecipe};
use experiments::recipe::{Recipe, Shared};
use experiments::results::Finished;
use experiments::settings::Grid;
use experiments::table::{Change, Command, Curve, Preset, Request, Stage, Table};
use serde::{Deserialize, Deserializer, Serialize};

use classify::Classify;

struct Finetune;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Row {
    /// A BERT, on texts.
    Bert,
    /// A ViT or DeiT, on images.
    Vit,
}

#[derive(Args, Clone)]
struct Options {
    /// A task of GLUE (cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte; with --data), or a .csv, .tsv or
    /// .jsonl file with the columns text, perhaps text2, and label (with --dev).
    #[arg(long)]
    task: Option<String>,
    /// The folder with the files of a GLUE task, or hub:ID (nyu-mll/glue). Without --task a folder of images:
    /// JPEG, PNG and WebP files with a folder for each class, perhaps in train and val; with the feature `hub`
    /// also parquet files of images and labels, or hub:ID (uoft-cs/cifar10), which are read into memory.
    #[arg(long)]
    data: Option<PathBuf>,
    /// The texts to report on, of a task in a file of your own.
    #[arg(long)]
    dev: Option<PathBuf>,
    /// The labels of a file are scores, not classes.
    #[arg(long)]
    scores: bool,
    /// Leaves out image files that cannot be read, and counts them; all are decoded once to find them.
    #[arg(long)]
    skip_broken: bool,
}

#[derive(Subcommand)]
enum Commands {
    /// Print the classes of images.
    Classify(Classify),
    /// Write parameters and batches with which a run starts, for a comparison with another program.
    Case(Case),
}

impl Command for Commands {
    fn run(self) -> Result<()> {
        match self {
            Self::Classify(classify) => classify.run(),
            Self::Case(case) => export::case(&case),
        }
    }
}

/// The recipe of either kind; its keys tell which.
#[derive(Clone, Serialize)]
#[serde(untagged)]
enum FinetuneRecipe {
    Texts(TextRecipe),
    Images(ImageTuning),
}

impl<'de> Deserialize<'de> for FinetuneRecipe {
    /// Of the kind that its keys are of, so that an error names the key at fault.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let recipe = match value.get("max_length") {
            Some(_) => serde_json::from_value(value).map(Self::Texts),
            None => serde_json::from_value(value).map(Self::Images),
        };
        recipe.map_err(serde::de::Error::custom)
    }
}

impl Recipe for FinetuneRecipe {
    fn shared(&self) -> &Shared {
        match self {
            Self::Texts(recipe) => recipe.shared(),
            Self::Images(recipe) => recipe.shared(),
        }
    }

    fn validate(&self) -> Result<()> {
        match self {
            Self::Texts(recipe) => recipe.validate(),
            Self::Images(recipe) => recipe.validate(),
        }
    }
}

enum Data {
    Texts(TextData),
    Images(TunedImages),
}

impl Table for Finetune {
    const NAME: &'static str = "finetune";
    const ABOUT: &'static str = "Fine-tuning of a BERT on texts, or of a ViT on images, with and without conditioned tokens";
    const TITLE: &'static str = "Fine-tuned";
    const TAKES_INIT: bool = true;
    const CURVE: Curve = Curve::TrainingLoss;
    type Row = Row;
    type Recipe = FinetuneRecipe;
    type Options = Options;
    type Commands = Commands;
    type Data = Data;

    fn presets() -> Vec<Preset<Self>> {
        // A checkpoint has embedding tables of its own: their learning rate alone is searched.
        let embeddings = &[(1.0, 0.02), (4.0, 0.02)];
        let texts = Preset::new(
            "finetune",
            |_| FinetuneRecipe::Texts(texts::recipe()),
            &[Row::Bert],
            &[Arm::BASELINE, Arm::POOLED],
            Grid::new(&[3e-5, 1e-4, 3e-4], embeddings),
        );
        let images = Preset::new(
            "images",
            |_| FinetuneRecipe::Images(images::recipe()),
            &[Row::Vit],
            &[Arm::BASELINE, Arm::POOLED_CURRENT],
            Grid::new(&[1e-4, 3e-4, 1e-3], embeddings),
        );
        vec![Preset { sweep: TEXTS, ..texts }, Preset { sweep: IMAGES, ..images }]
    }

    fn default_preset(options: &Options) -> &'static str {
        if options.task.is_none() && options.data.is_some() { "images" } else { "finetune" }
    }

    fn check(request: &Request<'_, Self>) -> Result<()> {
        let wanted = match (request.recipe, request.row) {
            (FinetuneRecipe::Texts(_), Row::Bert) => {
                "a BERT folder of Hugging Face with its tokenizer"
            }
            (FinetuneRecipe::Images(_), Row::Vit) => "a ViT folder of Hugging Face or timm",
            (FinetuneRecipe::Texts(_), Row::Vit) => {
                bail!("--models vit: it takes images; leave out --task")
            }
            (FinetuneRecipe::Images(_), Row::Bert) => {
                bail!("--models bert: it takes texts; --task names them")
            }
        };
        ensure!(request.init.is_some(), "--init is missing: give {wanted}, or hub:ID");
        ensure!(
            request.row == Row::Vit || request.options.task.is_some(),
            "--task is missing: give a task of GLUE with --data FOLDER, or a file of texts with --dev FILE; a ViT takes \
             --data FOLDER of images and no --task"
        );
        ensure!(
            request.recipe.shared().embedding_std.is_none(),
            "--set embedding_std: the checkpoint has embedding tables of its own"
        );
        let Options { task, dev, scores, skip_broken, .. } = request.options;
        match request.row {
            Row::Bert => {
                ensure!(!skip_broken, "--skip-broken: is for images");
                // The layer norm of its embedding follows.
                request.check_norm_matched()
            }
            Row::Vit => {
                ensure!(
                    task.is_none() && dev.is_none() && !scores,
                    "--task, --dev and --scores are for texts; images to report on are those in `val` or `test` of --data, or drawn from it"
                );
                Ok(())
            }
        }
    }

    fn data(request: &Request<'_, Self>) -> Result<Data> {
        Ok(match request.recipe {
            FinetuneRecipe::Texts(recipe) => Data::Texts(texts::data(request, recipe)?),
            FinetuneRecipe::Images(recipe) => Data::Images(images::data(request, recipe)?),
        })
    }

    fn job(request: &Request<'_, Self>, data: &Data, stage: &Stage<'_>) -> Result<Job> {
        match (request.recipe, data) {
            (FinetuneRecipe::Texts(recipe), Data::Texts(data)) => recipe.job(request, data, stage),
            (FinetuneRecipe::Images(recipe), Data::Images(data)) => {
                recipe.job(request, data, stage)
            }
            _ => bail!("the data are not of the kind that the recipe takes"),
        }
    }

    fn columns(results: &[Finished]) -> Vec<Column> {
        if is_images(results) { images::columns() } else { texts::columns(results) }
    }

    fn on(first: &Finished) -> String {
        let (metric, what) = match is_images(std::slice::from_ref(first)) {
            true => ("train_images", "images"),
            false => ("train_rows", "texts"),
        };
        format!("{}, {} training {what}", first.data, first.metric(metric).unwrap_or_default())
    }

    fn notes(results: &[Finished]) -> Vec<String> {
        if is_images(results) { images::notes(results) } else { texts::notes(results) }
    }
}

fn is_images(results: &[Finished]) -> bool {
    results.first().is_some_and(|run| run.metrics.contains_key("train_images"))
}

const TEXTS: &[Change] = &[
    Change {
        one_of: &["learning_rate=3e-5", "learning_rate=1e-4", "learning_rate=3e-4"],
        arms: &[Arm::BASELINE, Arm::POOLED, Arm::PER_SEQUENCE, Arm::POOLED_NORM_MATCHED],
        rows: &[],
    },
    Change {
        one_of: &[
            "strength=0.01",
            "strength=0.03",
            "strength=0.1",
            "strength=0.3",
            "strength=1",
            "placement=before-position",
            "placement=after-norm",
            "ramp=0",
        ],
        arms: &[Arm::POOLED, Arm::PER_SEQUENCE, Arm::POOLED_NORM_MATCHED],
        rows: &[],
    },
];

const IMAGES: &[Change] = &[
    Change {
        one_of: &["learning_rate=1e-4", "learning_rate=3e-4", "learning_rate=1e-3"],
        arms: &[Arm::BASELINE, Arm::POOLED_CURRENT, Arm::PER_SEQUENCE],
        rows: &[],
    },
    Change {
        one_of: &[
            "strength=0.01",
            "strength=0.03",
            "strength=0.1",
            "strength=0.3",
            "strength=1",
            "ramp=0",
        ],
        arms: &[Arm::POOLED_CURRENT, Arm::PER_SEQUENCE],
        rows: &[],
    },
];

fn main() -> ExitCode {
    experiments::main::<Finetune>()
}
