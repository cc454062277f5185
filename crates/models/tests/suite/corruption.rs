//! Damaged folders of Hugging Face.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use conditioned_models::Architecture;
use conditioned_models::bert_heads::BertClassifier;
use conditioned_models::conditioning::{ConditioningConfig, Method};
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_models::hugging_face::{bert, gpt2, vit};
use conditioned_nn::{Store, StoreError};
use tempfile::TempDir;

use crate::damage::{Cut, allocated, corrupt};

/// A copy of a fixture, and its files of these names.
fn copy(fixture: &str, files: &[&str]) -> (TempDir, Vec<PathBuf>) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite").join(fixture);
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let files = files.iter().map(|file| folder.path().join(file)).collect();
    (folder, files)
}

/// Damages files over which `read` is run.
fn check<T>(
    reader: &str,
    files: impl Into<Vec<PathBuf>>,
    read: impl Fn() -> Result<T, StoreError> + Send + 'static,
) {
    corrupt(reader, files, Cut::Known, allocated, move || {
        read().map(drop).map_err(|error| error.to_string())
    });
}

/// Without white space at the end, which may be cut off.
fn trim(file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, text.trim_end()).unwrap();
}

#[test]
fn configurations() {
    let (folder, files) = copy("hugging_face/fixture/safetensors", &["config.json"]);
    trim(&files[0]);
    let path = folder.path().to_path_buf();
    check("config.json (GPT-2)", files, move || gpt2::read_config(&path));

    let (folder, files) = copy("hugging_face_bert/fixture/classifier", &["config.json"]);
    trim(&files[0]);
    let path = folder.path().to_path_buf();
    check("config.json (BERT)", files, move || bert::read_config(&path));

    for layout in ["vit", "timm"] {
        let (folder, files) = copy(&format!("hugging_face_vit/fixture/{layout}"), &["config.json"]);
        trim(&files[0]);
        let path = folder.path().to_path_buf();
        check(&format!("config.json (ViT, {layout})"), files, move || {
            let classes = vit::read_classes(&path)?;
            Ok((vit::read_config(&path)?, classes))
        });
    }
}

#[test]
fn a_configuration_of_a_conditioned_model() {
    let folder = tempfile::tempdir().unwrap();
    let config = Gpt2Config {
        vocabulary: 11,
        context: 8,
        width: 8,
        depth: 1,
        heads: 2,
        conditioning: ConditioningConfig {
            method: Method::pooled_earlier(0.5).unwrap(),
            ..Default::default()
        },
        ..Gpt2Config::preset("gpt2").unwrap()
    };
    let store = Store::new(7, DType::F32, &Device::Cpu);
    Gpt2::new(&config, store.builder()).unwrap();
    gpt2::write(folder.path(), &config, &store, None).unwrap();
    let files = ["config.json", "model.safetensors"].map(|file| folder.path().join(file));
    trim(&files[0]);
    let path = folder.path().to_path_buf();
    check("config.json (conditioned GPT-2)", &files[..1], move || gpt2::read_config(&path));
    let path = folder.path().to_path_buf();
    check("model.safetensors (conditioned GPT-2)", &files[1..], move || {
        let store = Store::new(7, DType::F32, &Device::Cpu);
        gpt2::read_weights(&path, &config, &store)
    });
}

#[test]
fn weights() {
    let shards: [(&str, &[&str]); 4] = [
        ("safetensors", &["model.safetensors"]),
        (
            "sharded",
            &[
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ],
        ),
        ("bin", &["pytorch_model.bin"]),
        (
            "bin_sharded",
            &[
                "pytorch_model.bin.index.json",
                "pytorch_model-00001-of-00002.bin",
                "pytorch_model-00002-of-00002.bin",
            ],
        ),
    ];
    for (layout, names) in shards {
        let (folder, files) = copy(&format!("hugging_face/fixture/{layout}"), names);
        if names[0].ends_with(".json") {
            trim(&files[0]);
        }
        let config = gpt2::read_config(folder.path()).unwrap();
        let path = folder.path().to_path_buf();
        check(&names.join(", "), files, move || {
            let store = Store::new(7, DType::F32, &Device::Cpu);
            gpt2::read_weights(&path, &config, &store)
        });
    }
}

#[test]
fn weights_of_a_bert() {
    for (layout, name) in [("classifier", "model.safetensors"), ("base", "pytorch_model.bin")] {
        let (folder, files) = copy(&format!("hugging_face_bert/fixture/{layout}"), &[name]);
        let config = bert::read_config(folder.path()).unwrap();
        let path = folder.path().to_path_buf();
        check(&format!("{name} (BERT)"), files, move || {
            let store = Store::new(7, DType::F32, &Device::Cpu);
            BertClassifier::new(&config, 3, store.builder())?;
            bert::read_weights(&path, &store)
        });
    }
}

#[test]
fn weights_of_a_vit() {
    for (layout, name) in [("vit", "model.safetensors"), ("base", "pytorch_model.bin")] {
        let (folder, files) = copy(&format!("hugging_face_vit/fixture/{layout}"), &[name]);
        let config = vit::read_config(folder.path()).unwrap();
        let path = folder.path().to_path_buf();
        check(&format!("{name} (ViT)"), files, move || {
            let store = Store::new(7, DType::F32, &Device::Cpu);
            vit::read_weights(&path, &config, &store)
        });
    }
}
