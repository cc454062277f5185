//! Table 2: Mask R-CNN on XCiT with and without conditioned tokens.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use conditioned_data::DetectionData;
use experiments::arm::Arm;
use experiments::column::{self, Column};
use experiments::job::Job;
use experiments::recipe::detection::DetectionRecipe;
use experiments::recipe::{Shared, Training, images_left};
use experiments::results::Finished;
use experiments::settings::Grid;
use experiments::table::{Curve, NoCommands, Preset, Request, Stage, Table};

struct Table2;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Row {
    /// The smaller backbone, XCiT-S12/16 in the paper.
    XcitS,
    /// The larger one, XCiT-M24/16 in the paper.
    XcitM,
}

#[derive(Args, Clone)]
struct Options {
    /// A folder of images with objects: COCO's annotations, train2017 and val2017, or a coco.json and images, each
    /// with the key `split`, train or val.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Leaves out annotations and images that cannot be used, and counts them.
    #[arg(long)]
    skip_broken: bool,
}

/// Generated shapes of 64 x 64 pixels, four categories: minutes.
fn shapes(row: Row) -> DetectionRecipe {
    let model = match row {
        Row::XcitS => "xcit-64",
        Row::XcitM => "xcit-64-medium",
    };
    DetectionRecipe {
        model: model.to_string(),
        published: false,
        train_images: 2560,
        tune_images: 128,
        test_images: 128,
        batch_size: 8,
        epochs: 2,
        evaluations: 1,
        anchor_samples: 64,
        region_samples: 32,
        proposals: 100,
        drop_path: 0.0,
        training: Training { beta2: 0.95, clip: Some(1.0), ..Training::default() },
        shared: Shared::default(),
    }
}

/// A few steps, for tests.
fn smoke(row: Row) -> DetectionRecipe {
    DetectionRecipe {
        model: "xcit-64-tiny".to_string(),
        train_images: 16,
        tune_images: 4,
        test_images: 4,
        batch_size: 4,
        evaluations: 2,
        shared: Shared { learning_rate: Some(1e-3), ..Shared::default() },
        ..shapes(row)
    }
}

/// Nuclei of 256 x 256 pixels (334 images of the Data Science Bowl 2018): 20 minutes.
fn nuclei(row: Row) -> DetectionRecipe {
    let model = match row {
        Row::XcitS => "xcit-256",
        Row::XcitM => "xcit-256-medium",
    };
    DetectionRecipe {
        model: model.to_string(),
        train_images: 0,
        tune_images: 26,
        test_images: 0,
        batch_size: 2,
        epochs: 6,
        evaluations: 2,
        anchor_samples: 256,
        region_samples: 64,
        proposals: 300,
        // The same for all arms, and not searched.
        shared: Shared { learning_rate: Some(1e-3), ..Shared::default() },
        ..shapes(row)
    }
}

/// 36 epochs of COCO with the numbers of XCiT's own detection code (`3x` schedule, mmdetection 2.11).
fn paper(row: Row) -> DetectionRecipe {
    let (model, drop_path) = match row {
        Row::XcitS => ("xcit_small_12_p16_224", 0.05),
        Row::XcitM => ("xcit_medium_24_p16_224", 0.15),
    };
    DetectionRecipe {
        model: model.to_string(),
        published: true,
        train_images: 0,
        tune_images: 2000,
        test_images: 0,
        batch_size: 16,
        epochs: 36,
        evaluations: 12,
        anchor_samples: 256,
        region_samples: 512,
        proposals: 1000,
        drop_path,
        // 500 steps of warm-up.
        training: Training { warmup: 0.002, ..Training::default() },
        shared: Shared { learning_rate: Some(1e-4), ..Shared::default() },
    }
}

/// Images of COCO's train2017 and val2017, and its categories.
const COCO: ([usize; 2], usize) = ([118_287, 5_000], 80);

const ARMS: &[Arm] = &[Arm::BASELINE, Arm::PER_SEQUENCE, Arm::POOLED_CURRENT];

const GRID: Grid = Grid::new(&[1e-3, 2e-3, 4e-3], &[(1.0, 0.02)]);

impl Table for Table2 {
    const NAME: &'static str = "table2-coco";
    const ABOUT: &'static str =
        "Detection of objects (Mask R-CNN on XCiT) with and without conditioned tokens";
    const TITLE: &'static str = "Table 2";
    const PAPER: &'static str = include_str!("paper.csv");
    const TAKES_INIT: bool = true;
    const SCORE: Option<&'static str> = Some("tune_box_ap");
    const CURVE: Curve = Curve::Evaluation("tune_box_ap", "box AP on the tuning images, %");
    type Row = Row;
    type Recipe = DetectionRecipe;
    type Options = Options;
    type Commands = NoCommands;
    type Data = DetectionData;

    fn presets() -> Vec<Preset<Self>> {
        let rows = Row::value_variants();
        vec![
            Preset {
                seeds: 2,
                // All arms take twelve minutes on two cores.
                left_out: &[Arm::POOLED_CURRENT],
                tuned: Some(include_str!("tuned/short.json")),
                ..Preset::new("short", shapes, rows, ARMS, GRID)
            },
            Preset { seeds: 2, ..Preset::new("smoke", smoke, rows, ARMS, GRID) },
            Preset {
                seeds: 3,
                ..Preset::new(
                    "nuclei",
                    nuclei,
                    &rows[..1],
                    &[Arm::BASELINE, Arm::POOLED_CURRENT],
                    GRID,
                )
            },
            Preset::new("paper", paper, rows, ARMS, GRID),
        ]
    }

    fn default_preset(options: &Options) -> &'static str {
        match &options.data {
            None => "short",
            Some(_) => "paper",
        }
    }

    fn check(request: &Request<'_, Self>) -> Result<()> {
        if request.preset == "paper" || request.options.data.is_some() {
            request.refuse_sizes(&["train_images", "test_images"])?;
        }
        if request.preset == "paper" && request.plan_only {
            return Ok(());
        }
        let needed = "--data DIR with COCO's annotations, train2017 and val2017; `plan` needs none";
        request.check_data(request.options.data.is_some(), &["smoke", "short"], needed)
    }

    fn data(request: &Request<'_, Self>) -> Result<DetectionData> {
        let (recipe, Options { data, skip_broken }) = (request.recipe, request.options);
        match (request.preset, data) {
            ("paper", None) => {
                let ([train, test], categories) = COCO;
                let images = [images_left(train, recipe.tune_images)?, recipe.tune_images, test];
                Ok(DetectionData::announced("COCO 2017", categories, images))
            }
            _ => recipe.data(data.as_deref(), *skip_broken),
        }
    }

    /// None: the positions of an XCiT are a function of the place.
    fn has_embedding_tables(_: &DetectionRecipe) -> bool {
        false
    }

    fn job(request: &Request<'_, Self>, data: &DetectionData, stage: &Stage<'_>) -> Result<Job> {
        DetectionRecipe::job(request, data, stage)
    }

    fn columns(_: &[Finished]) -> Vec<Column> {
        vec![
            column::model(),
            column::arm(false),
            column::strength(),
            column::learning_rate(),
            column::spread("box AP, %", "test_box_ap", 1).answer(),
            column::difference("Δ to baseline", "test_box_ap", 1),
            column::spread("box AP50", "test_box_ap50", 1),
            column::spread("mask AP, %", "test_mask_ap", 1),
            column::difference("Δ to baseline", "test_mask_ap", 1),
            column::spread("mask AP50", "test_mask_ap50", 1),
            column::kappa("κ(X) → κ(Y)", "sequence"),
            column::ms_per_step(),
            column::paper("COCO box AP", "test_box_ap", 1),
            column::paper("COCO mask AP", "test_mask_ap", 1),
        ]
    }

    fn label(row: &str) -> String {
        match row {
            "xcit-s" => "XCiT-S",
            _ => "XCiT-M",
        }
        .to_string()
    }

    fn on(first: &Finished) -> String {
        match first.cell.preset.as_str() {
            "paper" => first.data.clone(),
            _ => format!("{}, stand-in for COCO", first.data),
        }
    }

    fn notes(_: &[Finished]) -> Vec<String> {
        vec![
            "AP: mean over overlaps from 0.5 to 0.95 and over categories of the test images after the last step, as \
             COCO's evaluation computes it; AP50: at overlap 0.5. κ: of the tokens of one tuning image. ms: one \
             thread, alone."
                .to_string(),
        ]
    }
}

fn main() -> ExitCode {
    experiments::main::<Table2>()
}
