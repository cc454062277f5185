//! A tiny ViT against timm's: logits, loss and every gradient, plain and conditioned.
//!
//! The fixture is written by `make_fixture.py` beside this file.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement};
use conditioned_models::vit::{Vit, VitConfig};
use conditioned_models::{Architecture, Model};
use conditioned_nn::{Mode, Store, cross_entropy};

use crate::distance;

/// f64 against PyTorch's f64: roundings of 1e-16 through two blocks, times kappa of the tiny Gram
/// matrices (below 1e4) in the conditioned arms.
const F64_TOLERANCE: f64 = 1e-10;

/// f32: roundings of 6e-8 through the same, relative to the larger of 1 and the value.
const F32_TOLERANCE: f64 = 1e-4;

fn fixture() -> BTreeMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/vit_parity/vit.safetensors");
    conditioned_nn::store::load_tensors(&path, &Device::Cpu).unwrap()
}

fn config(conditioning: ConditioningConfig) -> VitConfig {
    VitConfig {
        image_size: 16,
        patch_size: 4,
        width: 8,
        depth: 2,
        heads: 2,
        mlp_ratio: 2,
        classes: 5,
        conditioning,
        ..VitConfig::preset("vit-8").unwrap()
    }
}

/// Runs one arm in f64 and f32 and compares logits, loss and every gradient.
fn compare(arm: &str, method: Method, placement: Placement) {
    let fixture = fixture();
    for (dtype, tolerance) in [(DType::F64, F64_TOLERANCE), (DType::F32, F32_TOLERANCE)] {
        let store = Store::new(0, dtype, &Device::Cpu);
        let vit = Vit::new(
            &config(ConditioningConfig { method, placement, ..Default::default() }),
            store.builder(),
        );
        let vit = vit.unwrap();
        for (name, var) in store.parameters() {
            let value =
                fixture.get(&format!("parameter/{name}")).unwrap_or_else(|| panic!("{name}"));
            var.set(&value.to_dtype(dtype).unwrap()).unwrap();
        }
        let images = fixture["images"].to_dtype(dtype).unwrap();
        let logits =
            vit.forward(&images, Mode::Train { seed: 0, step: 0, last: true }.into()).unwrap();
        let loss = cross_entropy(&logits, &fixture["targets"]).unwrap();
        let close = |what: &str, got: &Tensor| {
            let d = distance(got, &fixture[&format!("{arm}/{what}")]).unwrap();
            assert!(d < tolerance, "{arm} {dtype:?}: {what} differs by {d:e}");
        };
        close("logits", &logits);
        close("loss", &loss);
        let grads = loss.backward().unwrap();
        let parameters = store.parameters();
        let expected = fixture.keys().filter(|k| k.starts_with(&format!("{arm}/gradient/")));
        assert_eq!(parameters.len(), expected.count());
        for (name, var) in parameters {
            close(&format!("gradient/{name}"), grads.get(&var).expect(&name));
        }
    }
}

#[test]
fn plain() {
    compare("none", Method::None, Placement::AfterPosition);
}

#[test]
fn conditioned_per_sequence() {
    compare("per-sequence", Method::per_sequence(1.0).unwrap(), Placement::AfterPosition);
}

#[test]
fn conditioned_before_the_position_table() {
    compare("per-sequence-before", Method::per_sequence(0.3).unwrap(), Placement::BeforePosition);
}

#[test]
fn norm_matched_control() {
    compare("norm-matched", Method::norm_matched(1.0).unwrap(), Placement::AfterPosition);
}

#[test]
fn pooled_over_the_batch() {
    compare("pooled", Method::pooled(0.3).unwrap(), Placement::AfterPosition);
}

#[test]
fn standardised_control() {
    compare("standardised", Method::Standardised, Placement::AfterPosition);
}
