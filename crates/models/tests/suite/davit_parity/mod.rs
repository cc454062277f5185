//! A tiny DaViT against timm's: logits, loss and every gradient, plain and conditioned.
//!
//! Windows of 4 x 4 over 8 x 8 tokens, then one over 4 x 4. The fixture is written by `make_fixture.py`
//! beside this file.

use conditioned_models::Architecture;
use conditioned_models::davit::DavitConfig;

use crate::image_parity;

#[test]
fn logits_loss_and_gradients_equal_those_of_timm() {
    let config = DavitConfig {
        image_size: 32,
        classes: 5,
        widths: vec![6, 12],
        depths: vec![1, 1],
        heads: vec![2, 3],
        window: 4,
        mlp_ratio: 2,
        ..DavitConfig::preset("davit_tiny").unwrap()
    };
    image_parity::compare_arms("davit_parity/davit.safetensors", &config);
}
