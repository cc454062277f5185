//! Matrices to test on, the oracle, and every tolerance with its reason.

use candle_core::{DType, Device, Tensor, Var};
use faer::{Mat, MatRef};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

pub(crate) use candle_conditioning::TAU;

/// C changes by at most t sigma_1 / tau for a relative change of X by 1, and a singular value
/// decomposition moves X by about size * 2e-16: 24 * 2e-16 / 1e-7 = 5e-8, with a factor of 10.
/// Relative to t sigma_1.
pub(crate) const ORACLE: f64 = 5e-7;

/// What the contract allows kappa(Y) above (1 + t)/t.
pub(crate) const BOUND: f64 = 1e-6;

/// f64 identities without an inverse: sizes up to 24, a few roundings each.
pub(crate) const EXACT: f64 = 1e-12;

/// A sum of d products in f32 of factors rounded to it: (d + 2) halves of an epsilon of the sum of
/// the magnitudes.
pub(crate) fn single_product(d: usize) -> f64 {
    (d + 2) as f64 * epsilon(DType::F32) / 2.0
}

/// Central differences in f64 at step 1e-5: the third derivative leaves 1e-10, the rounding of the
/// loss 1e-16 / 1e-5 = 1e-11; both times a condition number up to 30 of the test matrix, cubed.
pub(crate) const DIFFERENCES: f64 = 1e-5;

/// The step of the central differences.
pub(crate) const STEP: f64 = 1e-5;

/// The relative rounding of a dtype.
pub(crate) fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON,
        DType::F32 => f64::from(f32::EPSILON),
        DType::F16 => 2f64.powi(-10),
        DType::BF16 => 2f64.powi(-7),
        other => panic!("no float: {other:?}"),
    }
}

pub(crate) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

pub(crate) fn normal_values(seed: u64, count: usize) -> Vec<f64> {
    StandardNormal.sample_iter(rng(seed)).take(count).collect()
}

/// A tensor of standard normal numbers, f64.
pub(crate) fn normal(seed: u64, shape: &[usize]) -> Tensor {
    let values = normal_values(seed, shape.iter().product());
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub(crate) fn normal_matrix(seed: u64, rows: usize, columns: usize) -> Mat<f64> {
    let values = normal_values(seed, rows * columns);
    Mat::from_fn(rows, columns, |i, j| values[i * columns + j])
}

/// (rows, columns) with singular values falling from 1 to 1 / kappa, evenly in the logarithm.
pub(crate) fn with_kappa(seed: u64, rows: usize, columns: usize, kappa: f64) -> Mat<f64> {
    let rank = rows.min(columns);
    let U = normal_matrix(seed, rows, rank).qr().compute_thin_Q();
    let V = normal_matrix(seed ^ 0x5eed, columns, rank).qr().compute_thin_Q();
    let steps = (rank.max(2) - 1) as f64;
    let sigma = |i: usize| kappa.powf(-(i as f64) / steps);
    Mat::from_fn(rows, rank, |i, r| U[(i, r)] * sigma(r)) * V.transpose()
}

pub(crate) fn tensor(X: MatRef<'_, f64>) -> Tensor {
    let (n, d) = X.shape();
    let values: Vec<f64> = (0..n * d).map(|at| X[(at / d, at % d)]).collect();
    Tensor::from_vec(values, (n, d), &Device::Cpu).unwrap()
}

pub(crate) fn matrix(x: &Tensor) -> Mat<f64> {
    let (n, d) = x.dims2().unwrap();
    let values = values(x);
    Mat::from_fn(n, d, |i, j| values[i * d + j])
}

/// The entries in f64, row by row.
pub(crate) fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The bits of the entries: two tensors are the same only if these are.
pub(crate) fn bits(x: &Tensor) -> Vec<u64> {
    values(x).into_iter().map(f64::to_bits).collect()
}

pub(crate) fn singular_values(X: &Mat<f64>) -> Vec<f64> {
    X.singular_values().unwrap()
}

/// X + C by its definition, from a singular value decomposition of X.
pub(crate) fn oracle(X: &Mat<f64>, t: f64) -> Mat<f64> {
    let svd = X.thin_svd().unwrap();
    let sigma: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    let top = sigma.first().copied().unwrap_or(0.0);
    if top == 0.0 {
        return X.clone();
    }
    let added = |s: f64| t * top * (s / (TAU * top)).min(1.0);
    let scaled = Mat::from_fn(X.nrows(), sigma.len(), |i, r| svd.U()[(i, r)] * added(sigma[r]));
    X + scaled * svd.V().transpose()
}

/// |found - wanted| <= tolerance * scale for every entry; names the worst one.
#[track_caller]
pub(crate) fn assert_close(found: &[f64], wanted: &[f64], tolerance: f64, scale: f64) {
    assert_eq!(found.len(), wanted.len(), "number of entries");
    for (at, (f, w)) in found.iter().zip(wanted).enumerate() {
        let error = (f - w).abs();
        assert!(
            error <= tolerance * scale,
            "entry {at}: found {f:e}, wanted {w:e}, off by {error:e} > {tolerance:e} * {scale:e}"
        );
    }
}

/// dL/dx of L = sum of weights times f(x), by candle.
pub(crate) fn gradient(x: &Tensor, weights: &Tensor, f: impl Fn(&Tensor) -> Tensor) -> Vec<f64> {
    let x = Var::from_tensor(x).unwrap();
    let loss = (f(&x) * weights).unwrap().sum_all().unwrap();
    values(loss.backward().unwrap().get(&x).unwrap())
}

/// The same by central differences.
pub(crate) fn differences(x: &Tensor, weights: &Tensor, f: impl Fn(&Tensor) -> Tensor) -> Vec<f64> {
    let base = values(x);
    let loss = |at: usize, step: f64| -> f64 {
        let mut moved = base.clone();
        moved[at] += step;
        let x = Tensor::from_vec(moved, x.shape(), &Device::Cpu).unwrap();
        (f(&x) * weights).unwrap().sum_all().unwrap().to_scalar().unwrap()
    };
    (0..base.len()).map(|at| (loss(at, STEP) - loss(at, -STEP)) / (2.0 * STEP)).collect()
}
