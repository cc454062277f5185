//! A tiny GPT-2 against transformers': logits, loss and every gradient.
//!
//! The fixture is written by `make_fixture.py` beside this file.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use conditioned_models::Architecture;
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_nn::{Mode, Store};

use crate::distance;

/// f64 against PyTorch's f64: roundings of 1e-16 through two blocks.
const F64_TOLERANCE: f64 = 1e-12;

/// f32: roundings of 6e-8 through the same, relative to the larger of 1 and the value.
const F32_TOLERANCE: f64 = 2e-5;

fn fixture() -> BTreeMap<String, Tensor> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/gpt2_parity/gpt2.safetensors");
    conditioned_nn::store::load_tensors(&path, &Device::Cpu).unwrap()
}

#[test]
fn logits_loss_and_gradients_equal_those_of_transformers() {
    let fixture = fixture();
    let config = Gpt2Config {
        vocabulary: 19,
        context: 12,
        width: 12,
        depth: 2,
        heads: 3,
        ..Gpt2Config::preset("gpt2").unwrap()
    };
    for (dtype, tolerance) in [(DType::F64, F64_TOLERANCE), (DType::F32, F32_TOLERANCE)] {
        let store = Store::new(0, dtype, &Device::Cpu);
        let model = Gpt2::new(&config, store.builder()).unwrap();
        for (name, var) in store.parameters() {
            let value = &fixture[&format!("parameter/{name}")];
            var.set(&value.to_dtype(dtype).unwrap()).unwrap();
        }
        let tokens = &fixture["tokens"];
        let (ids, targets) = (tokens.narrow(1, 0, 9).unwrap(), tokens.narrow(1, 1, 9).unwrap());
        let mode = Mode::train(0, 0);
        let close = |what: &str, got: &Tensor| {
            let d = distance(got, &fixture[what]).unwrap();
            assert!(d < tolerance, "{dtype:?}: {what} differs by {d:e}");
        };
        close("logits", &model.logits(&ids, mode).unwrap());
        let loss = model.loss(&ids, &targets, mode).unwrap();
        close("loss", &loss);
        let grads = loss.backward().unwrap();
        let parameters = store.parameters();
        assert_eq!(
            parameters.len(),
            fixture.keys().filter(|key| key.starts_with("gradient/")).count()
        );
        for (name, var) in parameters {
            close(&format!("gradient/{name}"), grads.get(&var).expect(&name));
        }
    }
}
