//! `detect`: finds objects in images of any size, draws them, and writes them as results of COCO.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use conditioned_data::{Category, Detection, DetectionKind, Example, ExampleSet, write_detections};
use conditioned_nn::store::write_atomic;
use conditioned_report::pictures::png;
use experiments::cli::{print, program};
use experiments::detector::Detector;
use experiments::pictures::{LEAST_SCORE, found};
use experiments::task::detection::{BOXES, MASKS};
use serde_json::json;

/// The images by their ids, and the categories: a file of COCO without annotations.
const IMAGES: &str = "images.json";

/// Pixels that the longer side of a picture has at least.
const PIXELS: u32 = 512;

/// Finds objects in images: a PNG with boxes and masks of each, and all of them as results of COCO.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The folder of a finished run of table2-coco.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// JPEG, PNG or WebP files, of any size.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Where pictures and results go.
    #[arg(long, value_name = "DIR", default_value = "runs/detect")]
    out: PathBuf,
    /// The score from which on an object is drawn and counted; the results hold all that are found.
    #[arg(long, default_value_t = LEAST_SCORE)]
    score: f64,
}

fn main() -> ExitCode {
    program(|| run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let Options { model, images, out, score } = options;
    ensure!((0.0..=1.0).contains(score), "--score {score}: must be in [0, 1]");
    let pictures = names(images)?;
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    for (file, picture) in images.iter().zip(&pictures) {
        let same = out.join(picture).canonicalize().ok() == file.canonicalize().ok();
        ensure!(
            !(file.exists() && same),
            "--out {}: the picture of {} would replace it; choose another",
            out.display(),
            file.display()
        );
    }
    let detector = Detector::open(model)?;
    let categories = detector.categories();

    let (mut all, mut entries) = (Vec::new(), Vec::new());
    for ((file, picture), id) in images.iter().zip(&pictures).zip(1..) {
        let example = Example::read(file, id)?;
        let image = ExampleSet::new(vec![example.clone()], categories.to_vec())?;
        let detections =
            detector.find(Arc::new(image)).with_context(|| file.display().to_string())?;
        let drawn = found(&example, &detections, categories, *score)?;
        let path = out.join(picture);
        write_atomic(&path, &png(&drawn.draw(drawn.zoom(PIXELS))?)?)
            .with_context(|| path.display().to_string())?;
        let counts = counted(&detections, categories, *score);
        print(&format!("{}: {counts} -> {}", file.display(), path.display()))?;
        let Example { height, width, .. } = example;
        entries.push(json!({"id": id, "file_name": file, "height": height, "width": width}));
        all.extend(detections);
    }
    for (name, kind) in [(BOXES, DetectionKind::Boxes), (MASKS, DetectionKind::Masks)] {
        write_detections(&out.join(name), &all, categories, kind)?;
    }
    let path = out.join(IMAGES);
    let list = json!({"images": entries, "categories": categories});
    write_atomic(&path, &serde_json::to_vec_pretty(&list)?)
        .with_context(|| path.display().to_string())?;
    print(&format!("{}/{{{BOXES},{MASKS}}} by the ids in {IMAGES}", out.display()))
}

/// The name of the picture of each image: that of its file, with the extension `png`.
fn names(images: &[PathBuf]) -> Result<Vec<String>> {
    let mut first: BTreeMap<String, &Path> = BTreeMap::new();
    let mut names = Vec::new();
    for file in images {
        let stem = file.file_stem().with_context(|| format!("{}: no file", file.display()))?;
        let name = format!("{}.png", stem.to_string_lossy());
        if let Some(other) = first.insert(name.clone(), file) {
            anyhow::bail!(
                "{} and {}: both pictures would be {name}; call `detect` once for each, with another --out",
                other.display(),
                file.display()
            );
        }
        names.push(name);
    }
    Ok(names)
}

/// How many objects of which category have a score.
fn counted(detections: &[Detection], categories: &[Category], score: f64) -> String {
    let of = |i: usize| {
        detections.iter().filter(|found| found.category == i && found.score >= score).count()
    };
    let counts: Vec<String> = (0..categories.len())
        .filter(|&i| of(i) > 0)
        .map(|i| format!("{} {}", of(i), categories[i].name))
        .collect();
    match counts.is_empty() {
        true => "nothing".to_string(),
        false => counts.join(", "),
    }
}
