//! A tiny DaViT against timm's: logits, loss and every gradient, plain and conditioned.
//!
//! Windows of 4 x 4 over 8 x 8 tokens, then one over 4 x 4. The fixture is written by `make_fixture.py`
//! beside this file.

use conditioned_models::Architecture;
use conditioned_models::conditioning::{ConditioningConfig, Method};
use conditioned_models::davit::DavitConfig;

use crate::image_parity;

fn config(conditioning: ConditioningConfig) -> DavitConfig {
    DavitConfig {
        image_size: 32,
        classes: 5,
        widths: vec![6, 12],
        depths: vec![1, 1],
        heads: vec![2, 3],
        window: 4,
        mlp_ratio: 2,
        conditioning,
        ..DavitConfig::preset("davit_tiny").unwrap()
    }
}

fn compare(arm: &str, method: Method) {
    let config = config(method.into());
    let file = "davit_parity/davit.safetensors";
    image_parity::compare(file, arm, &config);
}

#[test]
fn plain() {
    compare("none", Method::None);
}

#[test]
fn conditioned_per_sequence() {
    compare("per-sequence", Method::per_sequence(1.0).unwrap());
}

#[test]
fn pooled_over_the_batch() {
    compare("pooled", Method::pooled(0.3).unwrap());
}
