//! A tiny Nystromformer against PyTorch, attention by transformers: padding, hidden states, logits, losses and every
//! gradient, of a classifier of sequences and of one of pairs.
//!
//! The fixture is written by `make_fixture.py` beside this file.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use conditioned_models::Architecture;
use conditioned_models::nystromformer::{LongAttention, NystromformerConfig, Sequences};
use conditioned_models::nystromformer_heads::NystromformerClassifier;
use conditioned_nn::{InverseScale, Mode, Store};

use crate::distance;

/// f64 against PyTorch's f64: roundings of 1e-16 through two layers, each with an inverse that multiplies some
/// forty matrices.
const F64_TOLERANCE: f64 = 1e-11;

/// f32: roundings of 6e-8 through the same, relative to the larger of 1 and the value.
const F32_TOLERANCE: f64 = 1e-4;

const MODE: Mode = Mode::train(0, 0);

fn config(scale: InverseScale) -> NystromformerConfig {
    NystromformerConfig {
        attention: LongAttention::Nystrom { landmarks: 3, convolution: 5, scale },
        dropout: 0.0,
        ..NystromformerConfig::preset("nystromformer-tiny").unwrap()
    }
}

fn compare(kind: &str, scale: InverseScale, classes: usize, pairs: bool) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/suite/nystromformer_parity/nystromformer.safetensors");
    let tensors = conditioned_nn::store::load_tensors(&path, &Device::Cpu).unwrap();
    let prefix = format!("{kind}/");
    let tensors: BTreeMap<String, Tensor> = tensors
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_string(), tensor)))
        .collect();
    let input = Sequences::padded(tensors["ids"].clone(), None, &tensors["mask"]).unwrap();
    assert_eq!(input.padding.is_some(), !pairs);
    for (dtype, tolerance) in [(DType::F64, F64_TOLERANCE), (DType::F32, F32_TOLERANCE)] {
        let store = Store::new(0, dtype, &Device::Cpu);
        let model =
            NystromformerClassifier::new(&config(scale), classes, pairs, store.builder()).unwrap();
        for (name, var) in store.parameters() {
            let value = &tensors[&format!("parameter/{name}")];
            var.set(&value.to_dtype(dtype).unwrap()).unwrap();
        }
        let close = |what: &str, got: &Tensor| {
            let d = distance(got, &tensors[what]).unwrap();
            assert!(d < tolerance, "{kind} {dtype:?}: {what} differs by {d:e}");
        };
        let hidden = model.nystromformer().hidden(&input, MODE).unwrap();
        let rows = tensors["mask"].sum_keepdim(1).unwrap().flatten_all().unwrap();
        for (i, length) in rows.to_vec1::<u8>().unwrap().into_iter().enumerate() {
            let real = |x: &Tensor| x.get(i).unwrap().narrow(0, 0, length.into()).unwrap();
            let d = distance(&real(&hidden), &real(&tensors["hidden"])).unwrap();
            assert!(d < tolerance, "{kind} {dtype:?}: hidden {i} differs by {d:e}");
        }
        close("logits", &model.logits(&input, MODE).unwrap());
        let loss = model.loss(&input, &tensors["labels"], MODE).unwrap();
        close("loss", &loss);
        let grads = loss.backward().unwrap();
        let count = tensors.keys().filter(|key| key.starts_with("gradient/")).count();
        assert_eq!(store.parameters().len(), count);
        for (name, var) in store.parameters() {
            close(&format!("gradient/{name}"), grads.get(&var).expect(&name));
        }
    }
}

#[test]
fn a_classifier_of_padded_sequences_equals_pytorch() {
    compare("classifier", InverseScale::Head, 3, false);
}

#[test]
fn a_classifier_of_pairs_equals_pytorch() {
    compare("pairs", InverseScale::Batch, 2, true);
}
