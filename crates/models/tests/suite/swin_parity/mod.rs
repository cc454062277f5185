//! A tiny Swin against timm's: logits, loss and every gradient, plain and conditioned.
//!
//! Windows of 4 x 4 over 8 x 8 tokens, without and with shift, then one window over 4 x 4. The fixture is
//! written by `make_fixture.py` beside this file.

use conditioned_models::Architecture;
use conditioned_models::swin::SwinConfig;

use crate::image_parity;

#[test]
fn logits_loss_and_gradients_equal_those_of_timm() {
    let config = SwinConfig {
        image_size: 16,
        patch_size: 2,
        classes: 5,
        width: 6,
        depths: vec![2, 2],
        heads: vec![2, 3],
        window: 4,
        mlp_ratio: 2,
        ..SwinConfig::preset("swin_tiny_patch4_window7_224").unwrap()
    };
    image_parity::compare_arms("swin_parity/swin.safetensors", &config);
}
