//! A tiny XCiT against timm's: logits, loss, every gradient and the statistics of its batch norms, plain and
//! conditioned, in training and in evaluation.
//!
//! The fixture is written by `make_fixture.py` beside this file.

use conditioned_models::Architecture;
use conditioned_models::conditioning::{ConditioningConfig, Method};
use conditioned_models::xcit::XcitConfig;

use crate::image_parity;

fn config(tokens_norm: bool, conditioning: ConditioningConfig) -> XcitConfig {
    XcitConfig {
        image_size: 24,
        patch_size: 8,
        classes: 5,
        width: 8,
        depth: 2,
        heads: 2,
        class_depth: 2,
        mlp_ratio: 2,
        layer_scale: 1.0,
        tokens_norm,
        conditioning,
        ..XcitConfig::preset("xcit_small_12_p16_224").unwrap()
    }
}

fn compare(arm: &str, tokens_norm: bool, method: Method) {
    let config = config(tokens_norm, method.into());
    let file = "xcit_parity/xcit.safetensors";
    image_parity::compare(file, arm, &config);
}

#[test]
fn plain() {
    compare("none", true, Method::None);
}

#[test]
fn class_blocks_that_normalise_the_class_token_alone() {
    compare("class-norm", false, Method::None);
}

#[test]
fn conditioned_per_sequence() {
    compare("per-sequence", true, Method::per_sequence(1.0).unwrap());
}

#[test]
fn pooled_over_the_batch() {
    compare("pooled", true, Method::pooled(0.3).unwrap());
}
