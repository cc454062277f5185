//! Tests of the layers, from cheap to dear.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod atomic;
mod backward;
mod cache;
mod corruption;
#[cfg(unix)]
mod cuda_kernels;
#[path = "../../../data/tests/support/corruption.rs"]
mod damage;
mod depthwise;
mod determinism;
#[cfg(feature = "cuda")]
mod gpu;
mod gradients;
mod images;
mod layers_parity;
mod limits;
mod networks;
mod nystrom;
mod oracle;
mod precision;
mod probe;
mod roi_align;
mod softmax;
mod spatial_attention;
mod store;
mod vocabulary;

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static ALLOCATOR: damage::Counting = damage::Counting;

/// Fused f64 kernels against the definition: a few hundred roundings of size 1e-16.
pub const F64_TOLERANCE: f64 = 1e-12;

/// f32 kernels against f64 references: rounding 6e-8 times sums of up to a few hundred terms.
pub const F32_TOLERANCE: f64 = 2e-5;

/// Half precision against f64: eight bits of bf16 through a few operations on values near one.
pub const HALF_TOLERANCE: f64 = 5e-2;

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
    let a: Vec<f64> = a.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let b: Vec<f64> = b.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let worst = |worst: f64, (a, b): (f64, f64)| {
        let d = (a - b).abs();
        if d.is_nan() { f64::INFINITY } else { worst.max(d) }
    };
    Ok(a.into_iter().zip(b).fold(0.0, worst))
}

/// Asserts that two functions of the same variables agree in value and in every gradient, in f64
/// and (value) in f32.
pub fn agree(
    variables: &[Var],
    fused: impl Fn(&[Tensor]) -> Result<Tensor>,
    definition: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let inputs: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
    let (a, b) = (fused(&inputs)?, definition(&inputs)?);
    assert!(distance(&a, &b)? < F64_TOLERANCE, "forward differs by {}", distance(&a, &b)?);
    // A random cotangent, so that no symmetric error cancels.
    let cotangent = uniform(a.dims(), 99)?;
    let grads = (&a * &cotangent)?.sum_all()?.backward()?;
    let expected = (&b * &cotangent)?.sum_all()?.backward()?;
    for (i, var) in variables.iter().enumerate() {
        let (got, want) = (grads.get(var), expected.get(var));
        let (got, want) = (got.expect("a gradient"), want.expect("a reference gradient"));
        let d = distance(got, want)?;
        assert!(d < F64_TOLERANCE, "gradient {i} differs by {d}");
    }
    let singles: Vec<Var> =
        inputs.iter().map(|x| Var::from_tensor(&x.to_dtype(DType::F32)?)).collect::<Result<_>>()?;
    let inputs: Vec<Tensor> = singles.iter().map(|v| v.as_tensor().clone()).collect();
    let y = fused(&inputs)?;
    let d = distance(&y, &b)?;
    assert!(d < F32_TOLERANCE, "f32 forward differs by {d}");
    let grads = (y * cotangent.to_dtype(DType::F32)?)?.sum_all()?.backward()?;
    for (i, (single, var)) in singles.iter().zip(variables).enumerate() {
        let want = expected.get(var).expect("a reference gradient");
        let scale = want.abs()?.max_all()?.to_scalar::<f64>()?.max(1.0);
        let d = distance(grads.get(single).expect("a gradient"), want)? / scale;
        assert!(d < F32_TOLERANCE, "f32 gradient {i} differs by {d} of its maximum");
    }
    Ok(())
}
