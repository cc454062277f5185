//! Table 1: image classification with and without conditioned tokens, five networks. ViT and DeiT are the
//! same network; their rows differ by recipe.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use conditioned_data::{Augment, IdxFolder, ImageData};
use conditioned_models::Architecture;
use conditioned_models::network::Network;
use experiments::arm::Arm;
use experiments::column::{self, Column};
use experiments::hub;
use experiments::job::Job;
use experiments::plan;
use experiments::recipe::images::{DIGITS_GRID, ImageRecipe, SMOKE_GRID};
use experiments::recipe::{Shared, Training, images_left};
use experiments::results::Finished;
use experiments::settings::Grid;
use experiments::table::{
    ANSWER_ARMS, ANSWER_PLACES, Change, Curve, NoCommands, Preset, Request, Stage, Table,
};

struct Table1;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Row {
    /// Plain training.
    Vit,
    /// Mixup, cutmix, label smoothing, drop path and EMA.
    Deit,
    /// Attention in shifted windows; the recipe of DeiT with clipping, without EMA.
    Swin,
    /// Attention among channels; the recipe of DeiT.
    Xcit,
    /// Attention in windows and among channels; the recipe of DeiT with clipping, without EMA.
    Davit,
}

impl Row {
    /// The family of its network.
    fn family(self) -> &'static str {
        match self {
            Self::Vit | Self::Deit => "vit",
            Self::Swin => "swin",
            Self::Xcit => "xcit",
            Self::Davit => "davit",
        }
    }

    /// The preset of its network for images of a size.
    fn model(self, size: usize) -> String {
        format!("{}-{size}", self.family())
    }
}

#[derive(Args, Clone)]
struct Options {
    /// A folder of images: IDX files (MNIST, Fashion-MNIST, KMNIST), binary files of CIFAR-10 or CIFAR-100, or JPEG,
    /// PNG and WebP files with a folder for each class, perhaps in train and val; with the feature `hub` also
    /// parquet files of images and labels, or hub:ID (uoft-cs/cifar10), which are read into memory.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Leaves out image files that cannot be read, and counts them; all are decoded once to find them.
    #[arg(long)]
    skip_broken: bool,
}

/// 1,100 UCI digits: minutes.
fn digits(row: Row) -> ImageRecipe {
    let plain = ImageRecipe { model: row.model(8), ..ImageRecipe::digits() };
    // The published values (Touvron et al. 2021, main.py), but for the EMA: 0.99996 looks back over 25,000
    // steps, more than these runs have. The others train by the same recipe with few changes (Liu et al. 2021,
    // Ding et al. 2022: clipping, no EMA); their drop path, 0.1 to 0.5, is of networks a hundred times as large.
    let training = |ema, clip| ImageRecipe {
        drop_path: 0.1,
        augment: Augment { label_smoothing: 0.1, mixup: 0.8, cutmix: 1.0, ..Augment::default() },
        training: Training { ema, clip, ..Training::default() },
        ..plain.clone()
    };
    match row {
        Row::Vit => plain,
        Row::Deit | Row::Xcit => training(Some(0.98), None),
        Row::Swin => training(None, Some(5.0)),
        Row::Davit => training(None, Some(1.0)),
    }
}

/// 4,000 images of `--data`.
fn mnist_4k(row: Row) -> ImageRecipe {
    ImageRecipe {
        model: row.model(28),
        train_images: Some(4000),
        tune_images: 2000,
        batch_size: 64,
        epochs: 12,
        target: 80.0,
        ..digits(row)
    }
}

/// The digits, two thirds as long, with everything searched.
fn answer(row: Row) -> ImageRecipe {
    ImageRecipe { epochs: 20, shared: Shared::searched(), ..digits(row) }
}

/// 4,000 images of MNIST, a third as long, with everything searched.
fn answer_mnist(row: Row) -> ImageRecipe {
    ImageRecipe { epochs: 4, shared: Shared::searched(), ..mnist_4k(row) }
}

/// 4,000 images of CIFAR-10 with everything searched.
fn answer_cifar10(row: Row) -> ImageRecipe {
    ImageRecipe {
        train_images: Some(4000),
        tune_images: 2000,
        batch_size: 64,
        epochs: 4,
        target: 30.0,
        shared: Shared::searched(),
        ..cifar10(row)
    }
}

/// 32 x 32 images in colour, such as CIFAR-10: about an hour a run on two cores.
fn cifar10(row: Row) -> ImageRecipe {
    let digits = digits(row);
    ImageRecipe {
        model: row.model(32),
        train_images: None,
        tune_images: 5000,
        batch_size: 128,
        epochs: 15,
        target: 60.0,
        augment: Augment { crop_padding: 4, flip: true, ..digits.augment },
        training: Training { ema: digits.training.ema.map(|_| 0.999), ..digits.training },
        shared: Shared { learning_rate: Some(1e-3), ..digits.shared },
        ..digits
    }
}

/// The networks of the paper with the recipes of their own code. That of ViT-B is not known; it has DeiT's.
fn paper(row: Row) -> ImageRecipe {
    let recipe = |model: &str, epochs: usize, warmup: usize, drop_path| ImageRecipe {
        model: model.to_string(),
        train_images: None,
        tune_images: IMAGENET_TUNING,
        batch_size: 1024,
        epochs,
        drop_path,
        target: 75.0,
        augment: Augment::deit(),
        training: Training {
            warmup: warmup as f64 / epochs as f64,
            floor: 0.01,
            ..Training::default()
        },
        shared: Shared { learning_rate: Some(1e-3), ..Shared::default() },
    };
    let ema = |recipe: ImageRecipe| ImageRecipe {
        training: Training { ema: Some(0.99996), ..recipe.training },
        ..recipe
    };
    // Clipped, each image once an epoch, without EMA.
    let clipped = |recipe: ImageRecipe, clip| ImageRecipe {
        augment: Augment { repeats: 1, ..recipe.augment },
        training: Training { clip: Some(clip), ..recipe.training },
        ..recipe
    };
    match row {
        Row::Vit => recipe("vit_base_patch16_224", 300, 5, 0.1),
        Row::Deit => ema(recipe("deit_base_patch16_224", 300, 5, 0.1)),
        Row::Swin => clipped(recipe("swin_base_patch4_window7_224", 300, 20, 0.5), 5.0),
        Row::Xcit => ema(recipe("xcit_medium_24_p16_224", 400, 5, 0.15)),
        Row::Davit => clipped(recipe("davit_base", 300, 20, 0.1), 1.0),
    }
}

/// Training images of ImageNet-1k.
const IMAGENET_IMAGES: usize = 1_281_167;

/// Those of them that a search would be judged by.
const IMAGENET_TUNING: usize = 10_000;

/// The paper's method, our form of it with its control, and Muon, which won the comparison of docs/ANSWER.md.
const ARMS: &[Arm] = &[Arm::BASELINE, Arm::INIT, Arm::PER_SEQUENCE, Arm::POOLED_CURRENT, Arm::MUON];

/// The same without the control.
const AT_SIZE: &[Arm] = &[Arm::BASELINE, Arm::PER_SEQUENCE, Arm::POOLED_CURRENT, Arm::MUON];

const SWEEP: &[Change] = &[
    Change {
        one_of: &["strength=0.1", "strength=0.3", "strength=1"],
        arms: &[Arm::PER_SEQUENCE, Arm::POOLED_CURRENT],
        rows: &[],
    },
    Change {
        one_of: &["placement=before-position"],
        arms: &[Arm::PER_SEQUENCE, Arm::POOLED_CURRENT],
        // The others have no position table in front.
        rows: &["vit", "deit", "xcit"],
    },
];

impl Table for Table1 {
    const NAME: &'static str = "table1-imagenet";
    const ABOUT: &'static str =
        "Image classification (ViT, DeiT, Swin, XCiT, DaViT) with and without conditioned tokens";
    const TITLE: &'static str = "Table 1";
    const PAPER: &'static str = include_str!("paper.csv");
    const SCORE: Option<&'static str> = Some("tune_accuracy");
    const CURVE: Curve = Curve::Evaluation("tune_accuracy", "accuracy on the tuning slice, %");
    type Row = Row;
    type Recipe = ImageRecipe;
    type Options = Options;
    type Commands = NoCommands;
    type Data = ImageData;

    fn presets() -> Vec<Preset<Self>> {
        let preset = |name, recipe, grid| Preset {
            search_seeds: 3,
            sweep: SWEEP,
            ..Preset::new(name, recipe, Row::value_variants(), ARMS, grid)
        };
        vec![
            Preset {
                // All arms take eleven minutes on two cores, and more where they are busy.
                left_out: &[Arm::POOLED_CURRENT],
                tuned: Some(include_str!("tuned/short.json")),
                timings: Some(include_str!("results/short/timings.csv")),
                ..preset("short", digits, DIGITS_GRID)
            },
            Preset {
                seeds: 2,
                tuned: Some(include_str!("tuned/smoke.json")),
                ..preset("smoke", |row| digits(row).smoke(), SMOKE_GRID)
            },
            Preset {
                // Muon has no recorded settings here.
                arms: &[Arm::BASELINE, Arm::INIT, Arm::PER_SEQUENCE, Arm::POOLED_CURRENT],
                rows: &[Row::Vit],
                seeds: 5,
                search_seeds: 1,
                tuned: Some(include_str!("tuned/mnist-4k.json")),
                timings: Some(include_str!("results/mnist-4k/timings.csv")),
                ..preset("mnist-4k", mnist_4k, MNIST)
            },
            Preset { arms: AT_SIZE, ..preset("cifar10", cifar10, MNIST) },
            Preset::new("answer", answer, &[Row::Vit, Row::Deit, Row::Swin], ANSWER_ARMS, ANSWER)
                .of_answer(),
            Preset::new("answer-mnist", answer_mnist, &[Row::Vit], ANSWER_ARMS, ANSWER).of_answer(),
            Preset::new("answer-cifar10", answer_cifar10, &[Row::Vit], ANSWER_ARMS, ANSWER)
                .of_answer(),
            Preset { arms: AT_SIZE, ..preset("paper", paper, MNIST) },
        ]
    }

    fn default_preset(options: &Options) -> &'static str {
        match &options.data {
            None => "short",
            Some(folder) if IdxFolder::is_in(folder) => "mnist-4k",
            Some(_) => "cifar10",
        }
    }

    fn check(request: &Request<'_, Self>) -> Result<()> {
        let (model, row) = (&request.recipe.model, request.row);
        let family = Network::preset(model)?.family().name;
        ensure!(
            family == row.family(),
            "--set model={model}: a model of family {family}, and row {} is of {}; name the rows with --models",
            plan::name(row),
            row.family()
        );
        if request.preset == "paper" && request.plan_only {
            return Ok(());
        }
        let needed = match request.preset {
            "paper" => {
                "--data DIR with the folders train and val of ImageNet's images; `plan` needs none"
            }
            "cifar10" | "answer-cifar10" => {
                "--data DIR with the binary files of CIFAR-10, or with a folder of images for each class"
            }
            _ => "--data DIR with the IDX files of MNIST (or of a set in its format)",
        };
        request.check_data(request.options.data.is_some(), &["smoke", "short", "answer"], needed)
    }

    fn has_embedding_tables(recipe: &ImageRecipe) -> bool {
        recipe.has_embedding_tables()
    }

    fn data(request: &Request<'_, Self>) -> Result<ImageData> {
        let (recipe, Options { data, skip_broken }) = (request.recipe, request.options);
        match (request.preset, data) {
            ("paper", None) => {
                let left = images_left(IMAGENET_IMAGES, recipe.tune_images)?;
                let train = recipe.train_images.unwrap_or(left);
                Ok(ImageData::announced("ImageNet-1k", [train, recipe.tune_images]))
            }
            _ => {
                let folder = data.as_deref().map(hub::images).transpose()?;
                recipe.data(folder.as_deref(), *skip_broken)
            }
        }
    }

    fn job(request: &Request<'_, Self>, data: &ImageData, stage: &Stage<'_>) -> Result<Job> {
        ImageRecipe::job(request, data, stage)
    }

    fn columns(results: &[Finished]) -> Vec<Column> {
        let target = results.first().and_then(|run| run.metric("target")).unwrap_or_default();
        let mut columns = vec![column::model(), column::start()];
        columns.extend(column::budgets(results));
        columns.extend([
            column::arm(false),
            column::strength(),
            column::setting(),
            column::spread("top-1, %", "test_accuracy", 1).answer(),
            column::difference("Δ to baseline", "test_accuracy", 1),
            column::kappa("κ(X) → κ(Y)", "sequence"),
            column::steps_to(format!("steps to {target} %"), "steps_to_target"),
            column::ms_per_step(),
            column::paper("ImageNet-1k", "test_accuracy", 1),
        ]);
        columns
    }

    fn label(row: &str) -> String {
        match row {
            // A ViT by another recipe.
            "deit" => "DeiT",
            family => Network::label(family).unwrap_or(family),
        }
        .to_string()
    }

    fn on(first: &Finished) -> String {
        let images = match (first.cell.preset.as_str(), first.metric("train_images")) {
            ("mnist-4k" | "answer-mnist" | "answer-cifar10", Some(images)) => {
                format!(", {images} training images")
            }
            _ => String::new(),
        };
        match first.cell.preset.as_str() {
            "paper" => first.data.clone(),
            _ => format!("{}{images}, stand-in for ImageNet-1k", first.data),
        }
    }

    fn notes(_: &[Finished]) -> Vec<String> {
        vec![
            "top-1: accuracy on the test images after the last step; all runs share one split. init: class \
             token and position table start at the std that makes κ of the first batch smallest. κ: median \
             over images of the tuning slice of the condition number of the tokens that enter block 1, without \
             and with the arm; the pooled arms bound the pooled tokens, not each sequence. Steps to an \
             accuracy: on the tuning slice, by epochs. ms: one thread, alone."
                .to_string(),
        ]
    }
}

const ANSWER: Grid =
    Grid { places: ANSWER_PLACES, ..Grid::new(&[2e-3, 4e-3, 8e-3], &[(1.0, 0.02), (1.0, 0.2)]) };

const MNIST: Grid = Grid::new(&[1e-3, 3e-3, 9e-3], &[(1.0, 0.02), (1.0, 0.2), (1.0, 1.0)]);

fn main() -> ExitCode {
    experiments::main::<Table1>()
}
