//! How the images of checkpoints are prepared: files of transformers and of timm.

use std::fs;
use std::path::Path;

use conditioned_data::{ImageFolder, Interpolation, Preprocessing, Resize};
use serde_json::{Value, json};
use tempfile::TempDir;

fn hugging_face(folder: &Path, fields: &Value) -> Result<Preprocessing, String> {
    fs::write(folder.join("preprocessor_config.json"), fields.to_string()).unwrap();
    Preprocessing::read(folder).map_err(|e| e.to_string())
}

fn timm(folder: &Path, fields: &Value) -> Result<Preprocessing, String> {
    let config = json!({ "architecture": "vit_small_patch16_224", "pretrained_cfg": fields });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    Preprocessing::read(folder).map_err(|e| e.to_string())
}

/// `preprocessor_config.json` of google/vit-base-patch16-224.
fn vit() -> Value {
    json!({
        "do_normalize": true, "do_rescale": true, "do_resize": true,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessor", "resample": 2, "rescale_factor": 0.00392156862745098,
        "size": { "height": 224, "width": 224 }
    })
}

#[test]
fn published_files_are_obeyed() {
    let root = TempDir::new().unwrap();
    let read = hugging_face(root.path(), &vit()).unwrap();
    let wanted = Preprocessing {
        side: 224,
        resize: Resize::Both(224),
        interpolation: Interpolation::Bilinear,
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    assert_eq!(read, wanted);
    // facebook/deit-base-distilled-patch16-224, before there were objects for sizes.
    let deit = json!({
        "crop_size": 224, "do_center_crop": true, "do_normalize": true, "do_resize": true,
        "feature_extractor_type": "DeiTFeatureExtractor", "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 256
    });
    let read = hugging_face(root.path(), &deit).unwrap();
    assert_eq!(
        (read.side, read.resize, read.interpolation),
        (224, Resize::Both(256), Interpolation::Bicubic)
    );
    let edge = json!({
        "crop_size": { "height": 224, "width": 224 }, "size": { "shortest_edge": 256 }, "resample": 3,
        "do_normalize": false
    });
    let read = hugging_face(root.path(), &edge).unwrap();
    assert_eq!((read.resize, read.mean, read.std), (Resize::Shorter(256), [0.0; 3], [1.0; 3]));
    assert_eq!(read.with_side(112).resize, Resize::Shorter(128));
    fs::remove_file(root.path().join("preprocessor_config.json")).unwrap();
    let read = timm(
        root.path(),
        &json!({
            "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "num_classes": 1000
        }),
    );
    assert_eq!(
        read.unwrap(),
        Preprocessing {
            resize: Resize::Shorter(248),
            interpolation: Interpolation::Bicubic,
            ..wanted
        }
    );
}

#[test]
fn what_is_not_done_here_is_named() {
    let root = TempDir::new().unwrap();
    let error = Preprocessing::read(root.path()).unwrap_err().to_string();
    assert!(error.contains("no preprocessor_config.json, and no `pretrained_cfg`"), "{error}");
    let changed = [
        ("do_resize", json!(false)),
        ("do_rescale", json!(false)),
        ("rescale_factor", json!(0.5)),
        ("size", json!({ "height": 224, "width": 200 })),
        ("size", json!({ "shortest_edge": 224 })),
        ("size", json!(0)),
        ("size", json!(null)),
        ("resample", json!(0)),
        ("resample", json!("bicubic")),
        ("image_mean", json!([0.5])),
        ("image_std", json!([0.5, 0.0, 0.5])),
    ];
    for (key, value) in changed {
        let mut fields = vit();
        fields[key] = value.clone();
        let error = hugging_face(root.path(), &fields).unwrap_err();
        assert!(
            error.contains("preprocessor_config.json") && error.contains(key),
            "{key} {value}: {error}"
        );
    }
    fs::write(root.path().join("preprocessor_config.json"), "[1]").unwrap();
    let error = Preprocessing::read(root.path()).unwrap_err().to_string();
    assert!(error.contains("not an object of settings"), "{error}");
    fs::remove_file(root.path().join("preprocessor_config.json")).unwrap();
    let good = json!({ "input_size": [3, 224, 224], "mean": [0, 0, 0], "std": [1, 1, 1] });
    assert_eq!(timm(root.path(), &good).unwrap().resize, Resize::Shorter(256));
    for (key, value) in [
        ("input_size", json!([3, 224, 192])),
        ("crop_pct", json!(0)),
        ("crop_mode", json!("border")),
        ("interpolation", json!("nearest")),
        ("mean", json!([0.5, 0.5])),
    ] {
        let mut fields = good.clone();
        fields[key] = value;
        let error = timm(root.path(), &fields).unwrap_err();
        assert!(error.contains("config.json") && error.contains(key), "{key}: {error}");
    }
}

#[test]
fn a_mean_or_deviation_that_makes_no_numbers_is_named() {
    let root = TempDir::new().unwrap();
    let good = Preprocessing::imagenet(8);
    for (wrong, key) in [
        (Preprocessing { mean: [0.5, f32::NAN, 0.5], ..good.clone() }, "preprocessing.mean"),
        (Preprocessing { std: [0.5, 0.0, 0.5], ..good.clone() }, "preprocessing.std"),
        (Preprocessing { std: [f32::INFINITY; 3], ..good }, "preprocessing.std"),
    ] {
        let error = ImageFolder::read(root.path(), &wrong).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

/// What timm is told, with the size that its file has beside it.
fn merged(preprocessing: &Preprocessing) -> Value {
    let mut entries = preprocessing.to_timm();
    entries.insert("input_size".into(), json!([3, preprocessing.side, preprocessing.side]));
    Value::Object(entries)
}

#[test]
fn what_is_written_is_read_again() {
    let root = TempDir::new().unwrap();
    let imagenet = Preprocessing::imagenet(224);
    let all = [
        imagenet.clone(),
        Preprocessing {
            resize: Resize::Both(224),
            interpolation: Interpolation::Lanczos,
            ..imagenet.clone()
        },
        Preprocessing { resize: Resize::Both(256), mean: [0.1, 0.2, 0.3], ..imagenet },
    ];
    fs::create_dir(root.path().join("timm")).unwrap();
    for preprocessing in all {
        preprocessing.write(root.path()).unwrap();
        assert_eq!(Preprocessing::read(root.path()).unwrap(), preprocessing);
        let text = fs::read_to_string(root.path().join("preprocessor_config.json")).unwrap();
        let config = json!({ "pretrained_cfg": merged(&preprocessing) });
        fs::write(root.path().join("timm/config.json"), config.to_string()).unwrap();
        assert_eq!(Preprocessing::read(&root.path().join("timm")).unwrap(), preprocessing);
        assert!(text.contains("0.406") == (preprocessing.mean[2] == 0.406), "{text}");
    }
}

#[test]
fn old_files_of_timm_say_it_at_their_root() {
    let root = TempDir::new().unwrap();
    let fields = json!({
        "architecture": "vit_small_patch16_224", "input_size": [3, 96, 96], "crop_pct": 1.0,
        "interpolation": "bilinear"
    });
    fs::write(root.path().join("config.json"), fields.to_string()).unwrap();
    let read = Preprocessing::read(root.path()).unwrap();
    assert_eq!(
        (read.side, read.resize, read.interpolation),
        (96, Resize::Shorter(96), Interpolation::Bilinear)
    );
    // timm's own where nothing is said.
    assert_eq!(read.mean, Preprocessing::imagenet(96).mean);
    // A folder of transformers names its model otherwise, and its images are prepared by another file.
    let other = json!({ "architecture": "x", "model_type": "vit", "input_size": [3, 96, 96] });
    fs::write(root.path().join("config.json"), other.to_string()).unwrap();
    assert!(Preprocessing::read(root.path()).is_err());
}
