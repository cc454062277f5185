//! What cannot be read is one clear error.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use conditioned_models::hugging_face::vit::{
    read_classes, read_config, read_encoder, read_weights,
};
use conditioned_nn::store::{load_tensors, save_tensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{fixture, store};

/// A copy of a folder of the fixture that a test may damage.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture(name)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

/// The error of reading a folder.
fn message(folder: &Path) -> String {
    let config = match read_config(folder) {
        Err(error) => return error.to_string(),
        Ok(config) => config,
    };
    read_weights(folder, &config, &store(DType::F32)).unwrap_err().to_string()
}

/// The error where one setting has another value; null takes it away.
fn with(name: &str, key: &str, value: Value) -> String {
    let folder = copy(name);
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let place = match key.split_once('.') {
        Some((section, key)) => (&mut config[section], key),
        None => (&mut config, key),
    };
    match value {
        Value::Null => drop(place.0.as_object_mut().unwrap().remove(place.1).unwrap()),
        value => place.0[place.1] = value,
    }
    std::fs::write(&path, config.to_string()).unwrap();
    let error = message(folder.path());
    assert!(error.contains("config.json"), "{error}");
    error
}

#[test]
fn a_configuration_that_cannot_be_is_named() {
    for (name, key, value, found) in [
        ("vit", "model_type", json!("bert"), r#"`model_type` is "bert", which is not supported"#),
        (
            "vit",
            "model_type",
            Value::Null,
            r#"`model_type` is missing; this ViT wants "vit" or "deit""#,
        ),
        ("vit", "hidden_act", json!("relu"), r#"`hidden_act` is "relu", which is not supported"#),
        ("vit", "qkv_bias", json!(false), "`qkv_bias` is false, which is not supported"),
        ("vit", "head_dim", json!(16), "`head_dim` is 16, which is not supported"),
        (
            "vit",
            "intermediate_size",
            json!(40),
            "`intermediate_size` is 40; this ViT wants a multiple of `hidden_size`, which is 16",
        ),
        (
            "vit",
            "image_size",
            json!([32, 24]),
            "`image_size` is [32,24]; this ViT wants the side of a square",
        ),
        ("vit", "image_size", json!(30), "patches of 8 do not tile images of 30"),
        ("vit", "patch_size", json!(0), "patch_size must be at least 1"),
        ("vit", "hidden_size", Value::Null, "`hidden_size` is missing"),
        ("vit", "hidden_size", json!(0), "wants a multiple of `hidden_size`, which is 0"),
        ("vit", "num_attention_heads", json!(3), "3 heads do not divide width 16"),
        ("vit", "layer_norm_eps", json!(-1), "eps -1 must be finite and > 0"),
        ("vit", "num_hidden_layers", json!(1 << 29), "the weights beside it are"),
        (
            "timm",
            "architecture",
            json!("vit_base_patch16_clip_224"),
            "this ViT wants vit_SIZE_patchP_S",
        ),
        ("timm", "architecture", json!("swin_tiny_patch4_window7_224"), "SIZE one of tiny, small"),
        ("timm", "global_pool", json!("avg"), r#"`global_pool` is "avg", which is not supported"#),
        (
            "timm",
            "model_args.init_values",
            json!(0.1),
            "`model_args.init_values` is 0.1, which is not supported",
        ),
        ("timm", "model_args.reg_tokens", json!(4), "`model_args.reg_tokens` is 4"),
        ("timm", "model_args.embed_dim", json!("x"), "`model_args.embed_dim` is \"x\""),
        ("timm", "model_args.mlp_ratio", json!(2.5), "`model_args.mlp_ratio` is 2.5"),
        ("timm", "model_args.img_size", json!([32, 16]), "`model_args.img_size` is [32,16]"),
        (
            "timm",
            "model_args.rope",
            json!(true),
            "`model_args.rope` is true; this ViT wants no such",
        ),
        ("timm", "model_args", json!(3), "`model_args` is 3; this ViT wants an object"),
        (
            "timm",
            "pretrained_cfg.input_size",
            json!([3, 32]),
            "`pretrained_cfg.input_size` is [3,32]",
        ),
    ] {
        let error = with(name, key, value);
        assert!(error.contains(found), "{key}: {error}");
    }
    let folder = copy("vit");
    let path = folder.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"4\"", "\"5\"");
    std::fs::write(&path, text).unwrap();
    let error = read_classes(folder.path()).unwrap_err().to_string();
    assert!(error.contains("a name for each class, by the numbers 0, 1, 2"), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert!(message(folder.path()).contains("config.json: "));
    let folder = copy("timm");
    let path = folder.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"eel\"", "\"eel\", \"fox\"");
    std::fs::write(&path, text).unwrap();
    let error = read_classes(folder.path()).unwrap_err().to_string();
    assert!(error.contains("`label_names` names 6 classes of 5"), "{error}");
}

/// The error of weights that a change has been made to.
fn changed(name: &str, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> String {
    let folder = copy(name);
    edit(folder.path(), change);
    message(folder.path())
}

fn edit(folder: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    let path = folder.join("model.safetensors");
    let mut tensors = load_tensors(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    save_tensors(&path, tensors, &BTreeMap::new()).unwrap();
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn tensors_that_do_not_fit_are_named_as_in_the_file() {
    let key = "vit.encoder.layer.1.attention.attention.key.weight";
    let error = changed("vit", |t| drop(t.insert(key.into(), zeros(&[16, 8]))));
    let wanted = format!("tensor `{key}` has shape [16, 8], the model wants [16, 16]");
    assert!(error.contains(&wanted), "{error}");
    let error = changed("vit", |t| drop(t.remove(key)));
    assert!(error.contains(&format!("missing {key}; unexpected none")), "{error}");
    let other = "vit.encoder.layer.2.output.dense.bias";
    let error = changed("vit", |t| drop(t.insert(other.into(), zeros(&[16]))));
    assert!(error.contains(&format!("missing none; unexpected {other}")), "{error}");
    let error = changed("timm", |t| drop(t.insert("fc_norm.weight".into(), zeros(&[16]))));
    assert!(error.contains("missing none; unexpected fc_norm.weight"), "{error}");
    let error = changed("vit", |t| drop(t.insert(key.replace("vit.", ""), zeros(&[16, 16]))));
    assert!(error.contains(&format!("`{key}` is there as `{}` too", &key[4..])), "{error}");
    let bad = Tensor::full(f32::NAN, 16, &Device::Cpu).unwrap();
    let error = changed("vit", |t| drop(t.insert("vit.layernorm.bias".into(), bad)));
    assert!(error.contains("model.safetensors: `vit.layernorm.bias` holds NaN"), "{error}");
    // A table that is not of the folder's image size is not resized.
    let table = "vit.embeddings.position_embeddings";
    let folder = copy("vit");
    edit(folder.path(), |t| drop(t.insert(table.into(), zeros(&[1, 10, 16]))));
    for image_size in [32, 48] {
        let mut config = read_config(folder.path()).unwrap();
        config.image_size = image_size;
        let error = read_weights(folder.path(), &config, &store(DType::F32)).unwrap_err();
        assert!(error.to_string().contains(&format!("`{table}` has shape [1, 10, 16]")), "{error}");
    }
    // Masks and decoders of pretraining are passed over.
    let folder = copy("vit");
    let others = ["decoder.0.weight", "vit.embeddings.mask_token", "vit.pooler.dense.bias"];
    edit(folder.path(), |t| {
        for other in others {
            t.insert(other.into(), zeros(&[1, 1, 16]));
        }
    });
    let config = read_config(folder.path()).unwrap();
    let loaded = read_weights(folder.path(), &config, &store(DType::F32)).unwrap();
    assert_eq!(loaded.unused, others);
}

#[test]
fn the_one_head_of_a_deit_is_for_a_new_task_only() {
    let folder = copy("deit");
    edit(folder.path(), |tensors| {
        for end in ["bias", "weight"] {
            let head = tensors.remove(&format!("cls_classifier.{end}")).unwrap();
            tensors.insert(format!("classifier.{end}"), head);
            tensors.remove(&format!("distillation_classifier.{end}")).unwrap();
        }
    });
    let error = message(folder.path());
    assert!(error.contains("the one head of a DeiTForImageClassification"), "{error}");
    let config = read_config(folder.path()).unwrap();
    let loaded = read_encoder(folder.path(), &config, &store(DType::F32)).unwrap();
    assert_eq!(loaded.unused, ["classifier.bias", "classifier.weight"]);
    assert_eq!(loaded.fresh.len(), 4);
}

#[test]
fn files_that_are_missing_damaged_or_hold_code_are_named() {
    let folder = copy("sharded");
    let shard = "model-00002-of-00003.safetensors";
    std::fs::remove_file(folder.path().join(shard)).unwrap();
    let error = message(folder.path());
    assert!(error.contains("model.safetensors.index.json: names the shard"), "{error}");
    assert!(error.contains(shard), "{error}");

    for (name, file, kind) in
        [("vit", "model.safetensors", "safetensors"), ("base", "pytorch_model.bin", "PyTorch")]
    {
        let folder = copy(name);
        let path = folder.path().join(file);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = message(folder.path());
        assert!(error.contains(&format!("{file}: not a complete {kind} file")), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(message(folder.path()).contains("no weights in this folder"));
    }

    let error = message(copy("code").path());
    assert!(error.contains("pytorch_model.bin: it names posix.system"), "{error}");
    assert!(error.contains("Nothing of it was run"), "{error}");
    assert!(!Path::new("executed").exists(), "the code in the file");
}
