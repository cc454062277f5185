//! A tiny ViT and a tiny distilled DeiT against timm's: logits, loss and every gradient, plain and
//! conditioned.
//!
//! The fixture is written by `make_fixture.py` beside this file.

use conditioned_models::Architecture;
use conditioned_models::conditioning::{ConditioningConfig, Method, Placement};
use conditioned_models::vit::{Vit, VitConfig};

use crate::image_parity;

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

fn compare(arm: &str, method: Method, placement: Placement) {
    let config = config(ConditioningConfig { method, placement, ..Default::default() });
    let file = "vit_parity/vit.safetensors";
    image_parity::compare(file, arm, &config);
}

/// Both heads of a distilled DeiT, each with its loss.
fn compare_distilled(arm: &str, method: Method) {
    let config = VitConfig { distilled: true, ..config(method.into()) };
    let file = "vit_parity/deit.safetensors";
    image_parity::compare_heads(file, arm, |vb| Vit::new(&config, vb), Vit::heads);
}

#[test]
fn distilled() {
    compare_distilled("none", Method::None);
}

#[test]
fn distilled_and_conditioned_per_sequence() {
    compare_distilled("per-sequence", Method::per_sequence(1.0).unwrap());
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
