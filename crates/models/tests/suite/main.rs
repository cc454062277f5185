//! Tests of the model zoo.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod accumulation;
mod bert;
mod bert_parity;
mod causality;
mod corruption;
mod crammed_bert;
mod crammed_parity;
#[path = "../../../data/tests/support/corruption.rs"]
mod damage;
mod davit_parity;
mod detection;
mod generate;
mod gpt2;
mod gpt2_parity;
#[cfg(feature = "cuda")]
mod gpu;
mod gradients;
mod hugging_face;
mod hugging_face_bert;
mod hugging_face_vit;
mod image_parity;
mod mask_rcnn_parity;
mod nystromformer;
mod nystromformer_parity;
mod open;
mod pooled_parts;
mod precision;
mod published_sizes;
mod registry;
mod siblings;
mod swin_parity;
mod timm_export;
mod vit;
mod vit_parity;
mod xcit_parity;

use candle_core::{DType, Device, Result, Tensor};
use conditioned_nn::Store;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static ALLOCATOR: damage::Counting = damage::Counting;

/// Values uniform in +-1, f64, from a seed.
pub fn uniform(shape: &[usize], seed: u64) -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = shape.iter().product();
    let values: Vec<f64> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Moves a learned map away from the identity, where there is one.
pub fn learn_map(store: &Store) {
    let parameters = store.parameters().into_iter();
    for (_, map) in parameters.filter(|(name, _)| name.ends_with("conditioner.map.weight")) {
        let noise = uniform(map.dims(), 5).unwrap().to_dtype(map.dtype()).unwrap();
        map.set(&(noise * 0.2).unwrap()).unwrap();
    }
}

/// The largest |a - b| over max(1, |b|); shapes must agree, NaN counts as infinite.
pub fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    assert_eq!(a.dims(), b.dims());
    let a: Vec<f64> = a.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let b: Vec<f64> = b.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let worst = |worst: f64, (a, b): (f64, f64)| {
        let d = (a - b).abs() / b.abs().max(1.0);
        if d.is_nan() { f64::INFINITY } else { worst.max(d) }
    };
    Ok(a.into_iter().zip(b).fold(0.0, worst))
}
