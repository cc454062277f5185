//! A tiny XCiT against timm's: logits, loss, every gradient and the statistics of its batch norms, plain and
//! conditioned, in training and in evaluation.
//!
//! The fixture is written by `make_fixture.py` beside this file.

use conditioned_models::Architecture;
use conditioned_models::xcit::XcitConfig;

use crate::image_parity;

const FIXTURE: &str = "xcit_parity/xcit.safetensors";

fn config(tokens_norm: bool) -> XcitConfig {
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
        ..XcitConfig::preset("xcit_small_12_p16_224").unwrap()
    }
}

#[test]
fn logits_loss_gradients_and_statistics_equal_those_of_timm() {
    image_parity::compare_arms(FIXTURE, &config(true));
}

#[test]
fn class_blocks_that_normalise_the_class_token_alone() {
    image_parity::compare(FIXTURE, "class-norm", &config(false));
}
