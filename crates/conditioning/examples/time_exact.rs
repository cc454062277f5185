//! How long conditioning takes at the shapes that enter the first layer of a few models.
//!
//! `cargo run --release --example time_exact -p candle-conditioning`
#![allow(clippy::print_stdout)]

use std::time::Instant;

use candle_conditioning::{Conditioner, Pooled, PooledConfig, Result, Source};
use candle_core::{Device, Tensor};

const REPETITIONS: usize = 9;

/// (B, N, d): digits, small images, ViT-Ti at 32 pixels, ViT-B at 224 pixels.
const SHAPES: [(usize, usize, usize); 4] =
    [(65, 17, 64), (128, 50, 64), (64, 65, 192), (32, 197, 768)];

/// Channel scales falling by this factor from first to last, so that the condition number is that of
/// real tokens and not of white noise.
const DECAY: f64 = 1e3;

fn main() -> Result<()> {
    println!(
        "{:>16} {:>12} {:>12} {:>12} {:>12}  ms",
        "(B, N, d)", "exact", "train", "eval", "observe"
    );
    for (b, n, d) in SHAPES {
        let scales: Vec<f32> = (0..d).map(|c| DECAY.powf(-(c as f64) / d as f64) as f32).collect();
        let x = Tensor::randn(0f32, 1.0, (b, n, d), &Device::Cpu)?;
        let x = x.broadcast_mul(&Tensor::from_vec(scales, d, &Device::Cpu)?)?;
        let conditioner = Conditioner::default();
        let config = PooledConfig { source: Source::Current, ..PooledConfig::default() };
        let pooled = Pooled::new(config, d)?;
        pooled.observe(&x)?;
        println!(
            "{:>16} {:>12.2} {:>12.2} {:>12.2} {:>12.2}",
            format!("({b}, {n}, {d})"),
            best(|| conditioner.forward(&x).map(drop))?,
            best(|| pooled.forward_train(&x).map(drop))?,
            best(|| pooled.forward(&x).map(drop))?,
            best(|| pooled.observe(&x))?,
        );
    }
    Ok(())
}

/// The shortest of a few runs, in milliseconds.
fn best(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut shortest = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let start = Instant::now();
        run()?;
        shortest = shortest.min(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(shortest)
}
