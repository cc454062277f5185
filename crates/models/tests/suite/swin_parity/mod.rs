//! A tiny Swin against timm's: logits, loss and every gradient, plain and conditioned.
//!
//! Windows of 4 x 4 over 8 x 8 tokens, without and with shift, then one window over 4 x 4. The fixture is
//! written by `make_fixture.py` beside this file.

use conditioned_models::Architecture;
use conditioned_models::conditioning::{ConditioningConfig, Method};
use conditioned_models::swin::SwinConfig;

use crate::image_parity;

fn config(conditioning: ConditioningConfig) -> SwinConfig {
    SwinConfig {
        image_size: 16,
        patch_size: 2,
        classes: 5,
        width: 6,
        depths: vec![2, 2],
        heads: vec![2, 3],
        window: 4,
        mlp_ratio: 2,
        conditioning,
        ..SwinConfig::preset("swin_tiny_patch4_window7_224").unwrap()
    }
}

fn compare(arm: &str, method: Method) {
    let config = config(method.into());
    let file = "swin_parity/swin.safetensors";
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
