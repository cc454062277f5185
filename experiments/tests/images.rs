//! The real binaries on folders of image files that are made here: fine-tuning, table 1, exports, classes,
//! errors.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use conditioned_data::Preprocessing;
use conditioned_models::Architecture;
use conditioned_models::hugging_face::vit;
use conditioned_models::vit::{Vit, VitConfig};
use conditioned_nn::Store;
use conditioned_nn::store::load_tensors;
use support::{Binary, results, text};

const FINETUNE: Binary = Binary(env!("CARGO_BIN_EXE_finetune"));
const TABLE1: Binary = Binary(env!("CARGO_BIN_EXE_table1-imagenet"));

/// Sides of the checkpoint's images and patches.
const SIDE: usize = 48;
const PATCH: usize = 12;

/// A folder with a ViT of transformers' layout, and one of images in three classes.
struct Scene {
    root: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { root: tempfile::tempdir().unwrap() };
        let config = VitConfig {
            image_size: SIDE,
            patch_size: PATCH,
            channels: 3,
            ..VitConfig::preset("vit-8-tiny").unwrap()
        };
        let store = Store::new(1, DType::F32, &Device::Cpu);
        Vit::new(&config, store.builder()).unwrap();
        let names: Vec<String> = (0..config.classes).map(|i| format!("thing {i}")).collect();
        vit::write(&scene.path("model"), &config, &names, &store).unwrap();
        Preprocessing::imagenet(SIDE).write(&scene.path("model")).unwrap();
        // The colour tells the class, and noise the image.
        for (part, count) in [("train", 16), ("val", 6)] {
            for (class, channel) in [("blue", 2), ("green", 1), ("red", 0)] {
                for i in 0..count {
                    let folder = scene.path("images").join(part).join(class);
                    fs::create_dir_all(&folder).unwrap();
                    write(&folder.join(format!("{i}.png")), channel, i);
                }
            }
        }
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn str(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    /// The arguments that fine-tune, with others after them.
    fn arguments(&self, others: &[&str]) -> Vec<String> {
        let own = ["--init", &self.str("model"), "--data", &self.str("images"), "--seeds", "1"];
        let quick = ["--set", "epochs=2", "--set", "batch_size=8"];
        [&own[..], &quick, others].concat().iter().map(ToString::to_string).collect()
    }
}

/// An image of 50 x 61 pixels in which one channel is bright.
fn write(path: &Path, channel: usize, seed: u32) {
    let image = image::RgbImage::from_fn(61, 50, |x, y| {
        let noise = (x * 31 + y * 17 + seed * 101) % 61;
        let mut pixel = [noise as u8; 3];
        pixel[channel] += 150;
        image::Rgb(pixel)
    });
    image.save(path).unwrap();
}

fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn a_checkpoint_learns_images_and_becomes_a_plain_model() {
    let scene = Scene::new();
    let out = scene.str("out");
    let arguments = scene.arguments(&["--set", "learning_rate=1e-2", "--out", &out]);
    FINETUNE.success(&strs(&arguments));
    let first = results(Path::new(&out));
    assert!(first.contains("baseline") && first.contains("pooled-current"), "{first}");
    // Again, in another folder: the same to the last digit.
    let again = scene.str("again");
    let arguments = scene.arguments(&["--set", "learning_rate=1e-2", "--out", &again]);
    FINETUNE.success(&strs(&arguments));
    assert_eq!(first, results(Path::new(&again)));

    let run = format!("{out}/vit/pooled-current-set/seed100");
    // Batches that are decoded anew go on where a killed run stopped.
    FINETUNE.resumes(Path::new(&run), &scene.path("copy"));
    // What is kept are the statistics that were evaluated: behind the 12 steps of training one of all training images.
    let kept = load_tensors(&Path::new(&run).join("model.safetensors"), &Device::Cpu).unwrap();
    let (_, weight) = kept.iter().find(|(name, _)| name.ends_with("running_weight")).unwrap();
    assert_eq!(weight.to_scalar::<f64>().unwrap(), 13.0);
    let model = scene.str("exported");
    FINETUNE.success(&["export", "--run", &run, "--out", &model]);
    let config = vit::read_config(Path::new(&model)).unwrap();
    assert!(config.conditioning.is_plain() && config.classes == 3);
    assert_eq!(vit::read_classes(Path::new(&model)).unwrap(), ["blue", "green", "red"]);
    assert_eq!(Preprocessing::read(Path::new(&model)).unwrap(), Preprocessing::imagenet(SIDE));
    let timm = scene.str("timm");
    FINETUNE.success(&["export", "--layout", "timm", "--run", &run, "--out", &timm]);
    assert_eq!(Preprocessing::read(Path::new(&timm)).unwrap(), Preprocessing::imagenet(SIDE));
    let card = text(&Path::new(&model).join("README.md"));
    assert!(card.contains("folded into patch embedding") && card.contains("image-classification"));

    // The classes of single files, by the exported model: as right as the table says.
    let summary = text(&Path::new(&run).join("summary.json"));
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let accuracy = summary["metrics"]["test_accuracy"].as_f64().unwrap();
    let mut right = 0;
    for class in ["blue", "green", "red"] {
        let files: Vec<String> =
            (0..6).map(|i| scene.str(&format!("images/val/{class}/{i}.png"))).collect();
        let arguments =
            [&["classify", "--model", &model, "--top", "1"][..], &strs(&files)].concat();
        let output = FINETUNE.success(&arguments);
        right += output.lines().filter(|line| line.contains(&format!(": {class} "))).count();
    }
    assert!((100.0 * right as f64 / 18.0 - accuracy).abs() < 1e-9, "{right} of 18, {accuracy} %");
    assert!(accuracy > 50.0, "{accuracy}");
}

#[test]
fn a_fine_tuned_vit_can_be_probed() {
    let scene = Scene::new();
    let out = scene.str("out");
    let own = ["--arms", "per-sequence", "--set", "learning_rate=1e-2"];
    let arguments =
        scene.arguments(&[&own[..], &["--set", "probe_every=5", "--out", &out]].concat());
    FINETUNE.success(&strs(&arguments));
    let found = support::probes(&scene.path("out/vit/per-sequence-set/seed100"), 5);
    assert!(found.len() > 2 && found[0].1.metrics.contains_key("layer2/bound_left"));
}

#[test]
fn other_sizes_freezing_and_layers_are_settings() {
    let scene = Scene::new();
    let out = scene.str("out");
    let settings = [
        "--set",
        "image_size=36",
        "--set",
        "frozen_layers=1",
        "--set",
        "layer_decay=0.5",
        "--set",
        "rand_augment=rand-m9-mstd0.5-inc1",
        "--set",
        "erase=0.25",
        "--set",
        "repeats=3",
        "--arms",
        "per-sequence",
        "--out",
        &out,
    ];
    FINETUNE.success(&strs(&scene.arguments(&settings)));
    let run = Path::new(&out).join("vit/per-sequence-set/seed100");
    let store = Store::new(0, DType::F32, &Device::Cpu);
    let config = VitConfig {
        image_size: 36,
        patch_size: PATCH,
        channels: 3,
        classes: 3,
        ..VitConfig::preset("vit-8-tiny").unwrap()
    };
    vit::read_encoder(&scene.path("model"), &config, &store).unwrap();
    let trained =
        candle_core::safetensors::load(run.join("model.safetensors"), &Device::Cpu).unwrap();
    let equal = |name: &str| {
        let before = store.get(name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        trained[name].flatten_all().unwrap().to_vec1::<f32>().unwrap() == before
    };
    // What is frozen is what the checkpoint has, its position table resized.
    assert!(equal("pos_embed") && equal("blocks.0.attn.qkv.weight"));
    assert!(!equal("blocks.1.attn.qkv.weight"));
}

#[test]
fn table1_trains_on_a_folder_of_images() {
    let scene = Scene::new();
    let (out, data) = (scene.str("out"), scene.str("images"));
    let arguments = [
        "--data",
        &data,
        "--models",
        "vit",
        "--arms",
        "baseline,pooled-current",
        "--seeds",
        "1",
        "--set",
        "epochs=1",
        "--set",
        "tune_images=8",
        "--set",
        "batch_size=8",
        "--out",
        &out,
    ];
    TABLE1.success(&arguments);
    let run = text(&Path::new(&out).join("vit/baseline-set/seed100/run.json"));
    let run: serde_json::Value = serde_json::from_str(&run).unwrap();
    assert_eq!(run["job"]["network"]["vit"]["classes"], 3);
    assert_eq!(run["job"]["task"]["images"]["data"]["train_images"], 40);
    let error = TABLE1.failure(&["--data", &data, "--models", "vit"]);
    assert!(
        error.contains("cannot draw") && error.contains("--set train_images and tune_images"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_trained_on_is_named() {
    let scene = Scene::new();
    let fails = |others: &[&str]| {
        let out = scene.str("unused");
        FINETUNE.failure(&strs(&scene.arguments(&[others, &["--out", &out]].concat())))
    };
    let model = scene.path("model");
    let settings = text(&model.join("config.json"));
    fs::write(model.join("config.json"), settings.replace("\"vit\"", "\"swin\"")).unwrap();
    assert!(fails(&[]).contains("swin"));
    fs::write(model.join("config.json"), &settings).unwrap();
    assert!(fails(&["--set", "image_size=50"]).contains("50"));
    assert!(fails(&["--set", "frozen_layers=9"]).contains("frozen_layers=9"));
    assert!(fails(&["--set", "rand_augment=autoaugment"]).contains("rand_augment=autoaugment"));
    assert!(fails(&["--set", "max_length=8"]).contains("unknown key"));
    let init = fails(&["--arms", "baseline,init"]);
    assert!(init.contains("arm init: a checkpoint has embedding tables of its own"), "{init}");
    assert!(fails(&["--models", "bert"]).contains("--models bert: it takes texts"));
    for of_texts in [&["--dev", "x"][..], &["--scores"]] {
        assert!(fails(of_texts).contains("--task, --dev and --scores are for texts"));
    }
    fs::rename(model.join("preprocessor_config.json"), scene.path("away")).unwrap();
    assert!(fails(&[]).contains("preprocessor_config.json"));
    fs::rename(scene.path("away"), model.join("preprocessor_config.json")).unwrap();
    let broken = scene.path("images/train/red/broken.jpg");
    fs::write(&broken, "no image").unwrap();
    assert!(fails(&[]).contains("broken.jpg: its content is that of no image"));
    let out = scene.str("out");
    let arguments = scene.arguments(&["--arms", "baseline", "--skip-broken", "--out", &out]);
    let output = FINETUNE.success(&strs(&arguments));
    assert!(output.contains("files left out because they are no images: 1"), "{output}");
    let error =
        FINETUNE.failure(&["classify", "--model", &scene.str("model"), broken.to_str().unwrap()]);
    assert!(error.contains("broken.jpg"), "{error}");
    // An encoder without a head has no classes.
    let weights = model.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    tensors.retain(|name, _| !name.starts_with("classifier"));
    candle_core::safetensors::save(&tensors, &weights).unwrap();
    let image = scene.str("images/val/red/0.png");
    let error = FINETUNE.failure(&["classify", "--model", &scene.str("model"), &image]);
    assert!(error.contains("no classifier in it") && error.contains("head.weight"), "{error}");
    let error = FINETUNE.failure(&["--data", &scene.str("images")]);
    assert!(error.contains("--init is missing: give a ViT folder"), "{error}");
}
