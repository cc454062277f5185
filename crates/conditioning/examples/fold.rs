//! Folding a pooled conditioner into the weights before it: the trained model deploys as a plain one.
//!
//! `cargo run --release --example fold -p candle-conditioning`
//!
//! Tokens are E[ids] + P, a token and a position table. With a frozen G,
//!
//! ```text
//! Y = (E[ids] + P) M = (E M)[ids] + P M
//! ```
//!
//! so replacing both tables by E M and P M removes the conditioner and changes nothing but rounding.
#![allow(non_snake_case, clippy::print_stdout)]

use candle_conditioning::{Pooled, PooledConfig, condition_number};
use candle_core::{Device, Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Vocabulary, N, d.
const SIZES: (usize, usize, usize) = (50, 24, 16);

fn main() -> Result<()> {
    let (vocabulary, tokens, channels) = SIZES;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let embedding = normal(&mut rng, vocabulary, channels, 0.5)?;
    let positions = normal(&mut rng, tokens, channels, 0.02)?;
    let config = PooledConfig { strength: 0.3, ..PooledConfig::default() };
    let pooled = Pooled::new(config, channels, &Device::Cpu)?;

    // Training: the model's forward takes M from earlier batches, then shows it this one.
    for _ in 0..20 {
        let x = embed(&embedding, &positions, &batch(&mut rng)?)?;
        let _y = pooled.forward_train(&x)?;
        pooled.observe(&x)?;
    }

    // Deployment: M is folded into both tables.
    let M = pooled.fold()?; // (d, d) f64
    let (folded_embedding, folded_positions) = (embedding.matmul(&M)?, positions.matmul(&M)?);

    let ids = batch(&mut rng)?;
    let x = embed(&embedding, &positions, &ids)?;
    let conditioned = pooled.forward(&x)?;
    let plain = embed(&folded_embedding, &folded_positions, &ids)?;
    let difference = (&conditioned - &plain)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
    let stacked =
        |y: &Tensor| -> Result<f64> { condition_number(&y.reshape(((), channels))?)?.to_scalar() };
    println!("kappa of the pooled tokens: {:.2} -> {:.2}", stacked(&x)?, stacked(&plain)?);
    println!("largest difference between conditioned and folded tokens: {difference:.1e}");
    Ok(())
}

/// E[ids] + P: ids (B, N) -> (B, N, d).
fn embed(embedding: &Tensor, positions: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (batch, tokens) = ids.dims2()?;
    let rows = embedding.index_select(&ids.flatten_all()?, 0)?;
    rows.reshape((batch, tokens, ()))?.broadcast_add(positions)
}

/// Ids of eight sequences.
fn batch(rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let (vocabulary, tokens, _) = SIZES;
    let ids: Vec<u32> = (0..8 * tokens).map(|_| rng.random_range(0..vocabulary as u32)).collect();
    Tensor::from_vec(ids, (8, tokens), &Device::Cpu)
}

fn normal(rng: &mut ChaCha8Rng, rows: usize, columns: usize, scale: f64) -> Result<Tensor> {
    let mut draw = || -> f64 { StandardNormal.sample(rng) };
    let values: Vec<f64> = (0..rows * columns).map(|_| scale * draw()).collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu)
}
