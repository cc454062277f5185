//! Folders of any family by one function.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use conditioned_models::hugging_face::open;
use conditioned_models::network::Network;
use conditioned_models::{Architecture, Model};
use conditioned_nn::store::save_tensors;
use conditioned_nn::{Mode, Store};

const SWIN: &str = "swin_tiny_patch4_window7_224";
const CLASSES: usize = 3;

fn logits(model: &dyn Model) -> Result<Vec<f32>> {
    let image = Tensor::arange(0f32, 3.0 * 224.0 * 224.0, &Device::Cpu)?.sin()?;
    model.forward(&image.reshape((1, 3, 224, 224))?, Mode::Eval.into())?.flatten_all()?.to_vec1()
}

/// A folder as timm writes it, with the buffers of its older versions.
#[test]
fn a_swin_of_timm_is_read_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(3, DType::F32, &Device::Cpu);
    let mut network = Network::preset(SWIN).unwrap();
    network.set_classes(CLASSES).unwrap();
    let model = network.build(store.builder()).unwrap();
    let mut tensors: Vec<(String, Tensor)> =
        store.tensors().into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect();
    let index = Tensor::zeros((49, 49), DType::U32, &Device::Cpu).unwrap();
    tensors.push(("layers.0.blocks.0.attn.relative_position_index".to_string(), index));
    save_tensors(&folder.path().join("model.safetensors"), tensors, &BTreeMap::new()).unwrap();
    // What `save_for_hf` of timm 1.0.31 writes for a model made with another drop path, without entries for the hub.
    let config = serde_json::json!({
        "architecture": SWIN,
        "num_classes": CLASSES,
        "num_features": 768,
        "global_pool": "avg",
        "model_args": {
            "num_classes": CLASSES,
            "drop_path_rate": 0.1,
            "in_chans": 3,
            "global_pool": "avg",
            "img_size": [224, 224],
        },
        "pretrained_cfg": { "tag": "ms_in1k", "input_size": [3, 224, 224], "num_classes": CLASSES },
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();

    let other = Store::new(4, DType::F32, &Device::Cpu);
    let found = open(folder.path(), &other).unwrap();
    assert_eq!(found, network);
    let read = found.build(other.frozen().unwrap()).unwrap();
    assert_eq!(logits(&*read).unwrap(), logits(&*model).unwrap());

    // Of another pooling it would be another network.
    let mut other = config.clone();
    other["model_args"]["global_pool"] = "max".into();
    std::fs::write(folder.path().join("config.json"), other.to_string()).unwrap();
    let error =
        open(folder.path(), &Store::new(5, DType::F32, &Device::Cpu)).unwrap_err().to_string();
    assert!(error.contains("`model_args.global_pool` is \"max\""), "{error}");

    // Weights of other classes do not fit.
    std::fs::write(folder.path().join("config.json"), format!(r#"{{"architecture": "{SWIN}"}}"#))
        .unwrap();
    let error =
        open(folder.path(), &Store::new(5, DType::F32, &Device::Cpu)).unwrap_err().to_string();
    assert!(error.contains("head.fc"), "{error}");
}

/// Files of BERT and GPT-2 from before there was a `model_type` say it in `architectures`.
#[test]
fn an_old_folder_is_told_by_its_architecture() {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite");
    for (fixture, family) in
        [("hugging_face/fixture/base", "gpt2"), ("hugging_face_bert/fixture/classifier", "bert")]
    {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (suite.join(fixture), folder.path());
        std::fs::copy(from.join("model.safetensors"), to.join("model.safetensors")).unwrap();
        let text = std::fs::read(from.join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(config["model_type"], family);
        let store = || Store::new(5, DType::F32, &Device::Cpu);
        config.as_object_mut().unwrap().remove("model_type");
        std::fs::write(to.join("config.json"), config.to_string()).unwrap();
        assert_eq!(open(to, &store()).unwrap().family().name, family);
        config.as_object_mut().unwrap().remove("architectures");
        std::fs::write(to.join("config.json"), config.to_string()).unwrap();
        let error = open(to, &store()).unwrap_err().to_string();
        assert!(error.contains("where it is missing, add it"), "{error}");
    }
}
