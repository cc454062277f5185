//! What a Mask R-CNN spends its time on, forward and backward in f32, at the sizes of a batch of one.
//!
//! `cargo bench -p conditioned-nn --bench detector`
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Module, Result, Tensor, Var};
use conditioned_nn::roi_align::{Roi, roi_align};
use conditioned_nn::{Conv2d, ConvTranspose2d};
use divan::Bencher;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// As in the training binaries: candle allocates every result anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// A variable uniform in +-1.
fn variable(shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| rng.random_range(-1.0..1.0)).collect();
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    Var::from_tensor(&tensor).unwrap().into_inner()
}

/// Times `f` and the backward pass of its result, whose gradient is one everywhere.
fn pass(bencher: Bencher<'_, '_>, f: impl Fn() -> Result<Tensor>) {
    bencher.bench_local(|| f().unwrap().backward().unwrap());
}

/// 512 boxes for classes, 128 for masks, with sides of 8 to 264 pixels in an image of 512.
#[divan::bench(args = [(512, 7), (128, 14)], sample_count = 10)]
fn roi_align_both(bencher: Bencher<'_, '_>, (count, size): (usize, usize)) {
    let x = variable(&[1, 128, 128, 256]);
    let rois = boxes(count);
    pass(bencher, || roi_align(&x, &rois, size, 0.25, 0));
}

#[divan::bench(args = [(512, 7), (128, 14)], sample_count = 10)]
fn roi_align_forward(bencher: Bencher<'_, '_>, (count, size): (usize, usize)) {
    let x = variable(&[1, 128, 128, 256]).detach();
    let rois = boxes(count);
    bencher.bench_local(|| roi_align(&x, &rois, size, 0.25, 0).unwrap());
}

/// Spread over the image by fixed steps, so that another program can have the same.
fn boxes(count: usize) -> Vec<Roi> {
    let at = |i: usize| {
        let part = |step: f64| (i as f64 * step).fract();
        let (x, y) = (part(0.618_034) * 512.0, part(0.414_214) * 512.0);
        let (w, h) = (8.0 + 256.0 * part(0.732_051), 8.0 + 256.0 * part(0.236_068));
        Roi { image: 0, corners: [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0] }
    };
    (0..count).map(at).collect()
}

#[divan::bench(sample_count = 10)]
fn conv_transpose2d(bencher: Bencher<'_, '_>) {
    let (x, w, b) = (variable(&[100, 14, 14, 256]), variable(&[256, 256, 2, 2]), variable(&[256]));
    let layer = ConvTranspose2d::from_tensors(w, b);
    pass(bencher, || layer.forward(&x));
}

#[divan::bench(args = [(1, 128), (128, 14)], sample_count = 5)]
fn conv2d(bencher: Bencher<'_, '_>, (images, side): (usize, usize)) {
    let (x, w) = (variable(&[images, side, side, 256]), variable(&[256, 256, 3, 3]));
    let layer = Conv2d::from_tensors(w, Some(variable(&[256]))).padding(1);
    pass(bencher, || layer.forward(&x));
}

#[divan::bench(args = [(1, 128), (128, 14)], sample_count = 5)]
fn conv2d_forward(bencher: Bencher<'_, '_>, (images, side): (usize, usize)) {
    let (x, w) =
        (variable(&[images, side, side, 256]).detach(), variable(&[256, 256, 3, 3]).detach());
    let layer = Conv2d::from_tensors(w, Some(variable(&[256]).detach())).padding(1);
    bencher.bench_local(|| layer.forward(&x).unwrap());
}
