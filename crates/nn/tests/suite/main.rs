//! Tests of the layers, from cheap to dear.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod determinism;
#[cfg(feature = "cuda")]
mod gpu;
mod gradients;
mod oracle;
mod store;

use candle_core::{Device, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Fused f64 kernels against the definition: a few hundred roundings of size 1e-16.
pub const F64_TOLERANCE: f64 = 1e-12;

/// f32 kernels against f64 references: rounding 6e-8 times sums of up to a few hundred terms.
pub const F32_TOLERANCE: f64 = 2e-5;

/// Central differences in f64: see `check::central_differences`.
pub const DIFFERENCE_TOLERANCE: f64 = 1e-7;

/// Values uniform in +-1, f64, from a seed.
pub fn uniform(shape: &[usize], seed: u64) -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = shape.iter().product();
    let values: Vec<f64> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// The same as a variable.
pub fn variable(shape: &[usize], seed: u64) -> Result<Var> {
    Var::from_tensor(&uniform(shape, seed)?)
}

/// The largest |a - b|; shapes must agree, NaN counts as infinite.
pub fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    assert_eq!(a.dims(), b.dims());
    let a: Vec<f64> = a.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1()?;
    let b: Vec<f64> = b.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1()?;
    let worst = |worst: f64, (a, b): (f64, f64)| {
        let d = (a - b).abs();
        if d.is_nan() { f64::INFINITY } else { worst.max(d) }
    };
    Ok(a.into_iter().zip(b).fold(0.0, worst))
}
