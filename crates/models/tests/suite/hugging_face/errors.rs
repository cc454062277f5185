//! What cannot be read is one clear error.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use conditioned_models::hugging_face::gpt2::read_config;
use conditioned_nn::StoreError;
use conditioned_nn::store::{load_tensors, save_tensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{fixture, open};

/// A copy of a layout that a test may damage.
fn copy(layout: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture(layout)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

fn message(folder: &Path) -> String {
    open(folder).err().expect("an error").to_string()
}

/// Changes one tensor file.
fn edit(path: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    let mut tensors = load_tensors(path, &Device::Cpu).unwrap();
    change(&mut tensors);
    save_tensors(path, tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn a_configuration_that_cannot_be_is_named() {
    let folder = copy("safetensors");
    let path = folder.path().join("config.json");
    let original: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let with = |key: &str, value: Value| {
        let mut config = original.clone();
        match value {
            Value::Null => config.as_object_mut().unwrap().remove(key).map(|_| ()).unwrap(),
            value => config[key] = value,
        }
        std::fs::write(&path, config.to_string()).unwrap();
        read_config(folder.path())
    };
    for (key, value, found) in [
        ("model_type", json!("llama"), r#"`model_type` is "llama""#),
        ("vocab_size", json!("many"), r#"`vocab_size` is "many""#),
        ("n_embd", Value::Null, "`n_embd` is missing"),
        ("n_positions", Value::Null, "`n_positions` is missing"),
        ("n_layer", json!(-1), "`n_layer` is -1"),
        ("n_head", json!(3), "3 heads do not divide width 8"),
        (
            "n_inner",
            json!(30),
            "`n_inner` is 30, which is not supported: a GPT-2 computes here with null or 32",
        ),
        (
            "activation_function",
            json!("relu"),
            "`activation_function` is \"relu\", which is not supported",
        ),
        ("layer_norm_epsilon", json!(1e-6), "`layer_norm_epsilon` is 1e-6"),
        ("scale_attn_weights", json!(false), "`scale_attn_weights` is false"),
        ("scale_attn_by_inverse_layer_idx", json!(true), "`scale_attn_by_inverse_layer_idx`"),
        ("add_cross_attention", json!(true), "`add_cross_attention` is true"),
        ("tie_word_embeddings", json!("yes"), "`tie_word_embeddings` is"),
        ("embd_pdrop", json!("x"), "`embd_pdrop` is \"x\"; this GPT-2 wants a number"),
        ("resid_pdrop", json!([]), "`resid_pdrop` is []; this GPT-2 wants a number"),
    ] {
        let error = with(key, value).unwrap_err().to_string();
        assert!(error.contains(found) && error.contains("config.json"), "{error}");
    }
    // Dropout that differs is that of the branches. Old files have no model type, and tell by architecture.
    for (key, value) in [
        ("n_inner", json!(32)),
        ("attn_pdrop", json!(0.0)),
        ("activation_function", json!("gelu_fast")),
        ("other", json!({})),
        ("model_type", Value::Null),
        ("embd_pdrop", json!(0.2)),
    ] {
        assert_eq!(with(key, value).unwrap().dropout, 0.1);
    }
    let mut common = original.clone();
    let fields = common.as_object_mut().unwrap();
    for (own, name) in [("n_embd", "hidden_size"), ("n_layer", "num_hidden_layers")] {
        let value = fields.remove(own).unwrap();
        fields.insert(name.to_string(), value);
    }
    // Null is as good as absent.
    let context = fields.insert("n_positions".to_string(), Value::Null).unwrap();
    fields.insert("n_ctx".to_string(), context);
    fields.insert("resid_pdrop".to_string(), Value::Null);
    std::fs::write(&path, common.to_string()).unwrap();
    let read = read_config(folder.path()).unwrap();
    assert_eq!((read.width, read.dropout), (8, 0.1));
    // Sizes that no weights beside the file can have are found before a model of them is made.
    for (key, value) in
        [("n_layer", 1_000_000_000u64), ("n_embd", 1 << 20), ("vocab_size", 1 << 29)]
    {
        let error = with(key, json!(value)).unwrap_err().to_string();
        assert!(error.contains("the weights beside it are"), "{error}");
    }
    let error = with("n_embd", json!(1u64 << 62)).unwrap_err().to_string();
    assert!(
        error.contains(
            "`n_embd` is 4611686018427387904; this GPT-2 wants a whole number from 0 to 2^30"
        ),
        "{error}"
    );
    let mut old = original.clone();
    drop(old.as_object_mut().unwrap().remove("model_type"));
    old["architectures"] = json!(["LlamaForCausalLM"]);
    std::fs::write(&path, old.to_string()).unwrap();
    let error = read_config(folder.path()).unwrap_err().to_string();
    assert!(error.contains("the architecture is LlamaForCausalLM"), "{error}");
    assert!(error.contains(r#"add "model_type": "gpt2""#), "{error}");
    std::fs::write(&path, "[1]").unwrap();
    let error = read_config(folder.path()).unwrap_err().to_string();
    assert!(error.contains("not an object of settings"), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = read_config(folder.path()).unwrap_err();
    assert!(matches!(&error, StoreError::Io { path, .. } if path.ends_with("config.json")));
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let folder = copy("safetensors");
    let file = folder.path().join("model.safetensors");
    let reset = || std::fs::copy(fixture("safetensors/model.safetensors"), &file).unwrap();
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();

    edit(&file, |tensors| drop(tensors.remove("transformer.h.1.ln_2.weight")));
    let error = message(folder.path());
    assert!(error.contains("missing h.1.ln_2.weight; unexpected none"), "{error}");
    reset();
    edit(&file, |tensors| drop(tensors.insert("transformer.h.2.ln_1.bias".into(), zeros((1, 8)))));
    let error = message(folder.path());
    assert!(error.contains("missing none; unexpected h.2.ln_1.bias"), "{error}");
    reset();
    edit(&file, |tensors| drop(tensors.insert("transformer.wpe.weight".into(), zeros((16, 8)))));
    let error = message(folder.path());
    assert!(error.contains("`wpe.weight` has shape [16, 8], the model wants [32, 8]"), "{error}");
    reset();
    edit(&file, |tensors| drop(tensors.insert("wpe.weight".into(), zeros((32, 8)))));
    assert!(message(folder.path()).contains("a second tensor `wpe.weight`"));
    reset();
    edit(&file, |tensors| drop(tensors.insert("lm_head.weight".into(), zeros((48, 8)))));
    let error = message(folder.path());
    assert!(error.contains("`lm_head.weight` differs from `wte.weight`"), "{error}");
    reset();
    edit(&file, |tensors| {
        let table = tensors["transformer.wte.weight"].clone();
        tensors.insert("lm_head.weight".into(), table);
    });
    open(folder.path()).unwrap();
    // The head of another task is passed over.
    edit(&file, |tensors| drop(tensors.insert("score.weight".into(), zeros((3, 8)))));
    open(folder.path()).unwrap();
    reset();
    for (value, dtype) in [(f32::NAN, DType::F32), (f32::INFINITY, DType::F16)] {
        let bad = Tensor::full(value, 8, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        edit(&file, |tensors| drop(tensors.insert("transformer.ln_f.bias".into(), bad)));
        let error = message(folder.path());
        let wanted = format!("model.safetensors: `ln_f.bias` holds {value}");
        assert!(error.contains(&wanted), "{error}");
        reset();
    }
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
    let error = message(folder.path());
    assert!(error.contains("model.safetensors: not a complete safetensors file"), "{error}");
    std::fs::remove_file(&file).unwrap();
    let error = message(folder.path());
    assert!(error.contains("no weights in this folder; looked for model.safetensors"), "{error}");
}

#[test]
fn shards_and_pickles_that_are_missing_or_damaged_are_named() {
    for (layout, index, shard) in [
        ("sharded", "model.safetensors.index.json", "model-00002-of-00002.safetensors"),
        ("bin_sharded", "pytorch_model.bin.index.json", "pytorch_model-00002-of-00002.bin"),
    ] {
        let folder = copy(layout);
        std::fs::remove_file(folder.path().join(shard)).unwrap();
        let error = message(folder.path());
        let names = error.contains(index) && error.contains(&format!("the shard {shard}"));
        assert!(names, "{error}");
        std::fs::write(folder.path().join(index), "{}").unwrap();
        let error = message(folder.path());
        assert!(error.contains("not an index of shards"), "{error}");
    }
    let folder = copy("bin");
    let file = folder.path().join("pytorch_model.bin");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let error = message(folder.path());
    assert!(error.contains("pytorch_model.bin: not a complete PyTorch file"), "{error}");
    // The start of a file of PyTorch before 1.6: a pickled number, and no zip archive.
    std::fs::write(&file, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.").unwrap();
    let error = message(folder.path());
    assert!(error.contains("written by PyTorch before 1.6"), "{error}");
    assert!(error.contains("torch.save(torch.load('pytorch_model.bin'"), "{error}");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    std::fs::write(folder.path().join("model.safetensors"), pointer).unwrap();
    let error = message(folder.path());
    assert!(error.contains("model.safetensors: a pointer of Git LFS"), "{error}");
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
}
