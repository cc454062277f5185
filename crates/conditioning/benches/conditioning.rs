//! One bench per public way of conditioning, at the shapes that enter the first layer of a few models.
//!
//! `cargo bench -p candle-conditioning`
#![allow(clippy::unwrap_used)]

use candle_conditioning::{
    Conditioner, Gradient, NormMatched, Polar, Pooled, PooledConfig, Source, Standardise,
    TOLERANCE, TokenGraying, condition_number, spectral_norm,
};
use candle_core::{Device, Tensor, Var};
use divan::{Bencher, black_box};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// (B, N, d): digits, small images, ViT-Ti at 32 pixels, ViT-B at 224 pixels, ListOps of the Long Range Arena.
const SHAPES: [(usize, usize, usize); 5] =
    [(65, 17, 64), (128, 50, 64), (64, 65, 192), (32, 197, 768), (32, 1024, 64)];

/// Channels decay by this factor from first to last, so that kappa is that of tokens, not of noise.
const DECAY: f64 = 1e3;

fn main() {
    divan::main();
}

fn tokens((b, n, d): (usize, usize, usize)) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut draw = || -> f64 { StandardNormal.sample(&mut rng) };
    let scale = |c: usize| DECAY.powf(-(c as f64) / d as f64);
    let values: Vec<f32> = (0..b * n * d).map(|at| (draw() * scale(at % d)) as f32).collect();
    Tensor::from_vec(values, (b, n, d), &Device::Cpu).unwrap()
}

fn pooled(x: &Tensor) -> Pooled {
    let config = PooledConfig { source: Source::Current, ..PooledConfig::default() };
    let pooled = Pooled::new(config, x.dim(2).unwrap(), x.device()).unwrap();
    pooled.observe(x).unwrap();
    pooled
}

#[divan::bench(args = SHAPES)]
fn exact(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
    let (x, layer) = (tokens(shape), Conditioner::default());
    bencher.bench_local(|| layer.forward(black_box(&x)).unwrap());
}

#[divan::bench(args = SHAPES, sample_count = 10)]
fn iterative(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
    let polar = Polar::Iterative { tolerance: TOLERANCE };
    let (x, layer) = (tokens(shape), Conditioner::default().with_polar(polar).unwrap());
    bencher.bench_local(|| layer.forward(black_box(&x)).unwrap());
}

/// Forward and backward: the backward decomposes again.
#[divan::bench(args = SHAPES, sample_count = 10)]
fn full_gradient(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
    let x = Var::from_tensor(&tokens(shape)).unwrap();
    let layer = Conditioner::default().with_gradient(Gradient::Full);
    bencher.bench_local(|| layer.forward(&x).unwrap().backward().unwrap());
}

#[divan::bench(args = SHAPES)]
fn norm_matched(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
    let (x, layer) = (tokens(shape), NormMatched::default());
    bencher.bench_local(|| layer.forward(black_box(&x)).unwrap());
}

#[divan::bench(args = SHAPES)]
fn pooled_train(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
    let x = tokens(shape);
    let layer = pooled(&x);
    bencher.bench_local(|| layer.forward_train(black_box(&x)).unwrap());
}

#[divan::bench(args = SHAPES)]
fn pooled_eval(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
    let x = tokens(shape);
    let layer = pooled(&x);
    bencher.bench_local(|| layer.forward(black_box(&x)).unwrap());
}

#[divan::bench(args = SHAPES)]
fn pooled_observe(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
    let x = tokens(shape);
    let layer = pooled(&x);
    bencher.bench_local(|| layer.observe(black_box(&x)).unwrap());
}

#[divan::bench(args = SHAPES)]
fn standardise_train(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
    let x = tokens(shape);
    let layer = Standardise::new(shape.2).unwrap();
    bencher.bench_local(|| layer.forward_train(black_box(&x)).unwrap());
}

#[divan::bench(args = SHAPES, sample_count = 10)]
fn graying_by_svd(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
    let x = tokens(shape);
    bencher.bench_local(|| TokenGraying::SVD.forward(black_box(&x)).unwrap());
}

#[divan::bench(args = SHAPES)]
fn graying_by_dct(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
    let x = tokens(shape);
    bencher.bench_local(|| TokenGraying::DCT.forward(black_box(&x)).unwrap());
}

#[divan::bench(args = SHAPES, sample_count = 10)]
fn kappa(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
    let x = tokens(shape);
    bencher.bench_local(|| condition_number(black_box(&x)).unwrap());
}

#[divan::bench(args = SHAPES, sample_count = 10)]
fn sigma_1(bencher: Bencher<'_, '_>, shape: (usize, usize, usize)) {
    let x = tokens(shape);
    bencher.bench_local(|| spectral_norm(black_box(&x)).unwrap());
}
