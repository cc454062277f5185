//! How often, and how far, random attention misses the bounds of Proposition 4.2.
//!
//! `cargo run --release --example bounds -p candle-conditioning`
//!
//! Gaussian X: (N, d), W_Q, W_K, W_V: (d, d_k), 300 seeded draws a shape. "missed" counts draws with
//! kappa(attention) above its published bound, "worst" is the largest quotient of the two sides. The
//! proposition needs N >= d and square weights (first two rows: never missed). In the shapes of ViT and BERT,
//! N < d and d_k < d, it is a heuristic.
#![allow(clippy::print_stdout)]

use candle_conditioning::bounds::{Bound, linear_attention, softmax_attention};
use candle_core::{Device, Result, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

const DRAWS: usize = 300;

/// (N, d, d_k).
const SHAPES: [(usize, usize, usize); 7] =
    [(24, 16, 16), (16, 16, 16), (24, 16, 4), (8, 16, 16), (8, 16, 8), (8, 16, 4), (17, 64, 16)];

fn main() -> Result<()> {
    println!(
        "{:>14} {:>16} {:>12} {:>16} {:>12}",
        "(N, d, d_k)", "linear: missed", "worst", "softmax: missed", "worst"
    );
    for (n, d, k) in SHAPES {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let (mut linear, mut softmax) = (Vec::new(), Vec::new());
        for _ in 0..DRAWS {
            let x = normal(&mut rng, n, d, 1.0)?;
            // Logits of order one, as a model's 1 / sqrt(d_k) would give them.
            let scale = 1.0 / (d as f64 * (k as f64).sqrt()).sqrt();
            let (q, key) = (normal(&mut rng, d, k, scale)?, normal(&mut rng, d, k, scale)?);
            let v = normal(&mut rng, d, k, 1.0)?;
            linear.push(linear_attention(&x, &q, &key, &v)?);
            softmax.push(softmax_attention(&x, &q, &key, &v)?);
        }
        let ((missed, worst), (softly, softly_worst)) = (summary(&linear), summary(&softmax));
        let shape = format!("({n}, {d}, {k})");
        println!("{shape:>14} {missed:>16} {worst:>12.3} {softly:>16} {softly_worst:>12.3}");
    }
    Ok(())
}

/// How many bounds are missed, beyond rounding, and the largest ratio of the sides.
fn summary(bounds: &[Bound]) -> (String, f64) {
    let missed = bounds.iter().filter(|bound| bound.ratio > 1.0 + 1e-6).count();
    let worst = bounds.iter().fold(0.0, |worst: f64, bound| worst.max(bound.ratio));
    (format!("{missed} of {}", bounds.len()), worst)
}

fn normal(rng: &mut ChaCha8Rng, rows: usize, columns: usize, scale: f64) -> Result<Tensor> {
    let mut draw = || -> f64 { StandardNormal.sample(rng) };
    let values: Vec<f64> = (0..rows * columns).map(|_| scale * draw()).collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu)
}
