//! The spectrum of the embedding tables in a safetensors file.
//!
//! `cargo run --release --example table_spectrum -p candle-conditioning -- [FILE [PART-OF-NAME]]`
//!
//! Every two-dimensional float tensor whose name contains PART-OF-NAME ("embed" if left out): its
//! condition number, its effective rank, and the condition number that conditioning would leave.
//! Without arguments it first writes a small file of its own to the temporary directory.
#![allow(clippy::print_stdout)]

use std::path::PathBuf;

use candle_conditioning::{ConditionedTable, spectra};
use candle_core::{DType, Device, Result, Tensor, safetensors};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = match arguments.next() {
        Some(path) => PathBuf::from(path),
        None => written_sample()?,
    };
    let part = arguments.next().unwrap_or_else(|| "embed".to_string());
    println!("{}", path.display());
    println!(
        "{:<32} {:>14} {:>10} {:>10} {:>6} {:>10} {:>9}",
        "table", "shape", "sigma_1", "sigma_min", "rank", "kappa", "at t = 1"
    );
    let mut tensors: Vec<_> = safetensors::load(&path, &Device::Cpu)?.into_iter().collect();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let is_float =
        |x: &Tensor| matches!(x.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64);
    for (name, table) in tensors {
        if name.contains(&part) && table.rank() == 2 && is_float(&table) {
            report(&name, table)?;
        }
    }
    Ok(())
}

fn report(name: &str, table: Tensor) -> Result<()> {
    let spectrum = &spectra(&table)?[0];
    let shape = format!("{:?}", table.dims());
    let low = spectrum.singular_values().last().copied().unwrap_or(0.0);
    let conditioned = &spectra(&ConditionedTable::new(table, 1.0)?.table()?)?[0];
    println!(
        "{name:<32} {shape:>14} {:>10.4} {low:>10.4} {:>6} {:>10.2} {:>9.4}",
        spectrum.spectral_norm(),
        spectrum.rank(),
        spectrum.condition_number(),
        conditioned.condition_number(),
    );
    Ok(())
}

/// A token table whose rows share a large mean, as trained ones do, and a sinusoidal position table.
fn written_sample() -> Result<PathBuf> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut draw = || -> f32 { StandardNormal.sample(&mut rng) };
    let mean: Vec<f32> = (0..32).map(|_| draw()).collect();
    let tokens: Vec<f32> = (0..200 * 32).map(|at| mean[at % 32] + 0.05 * draw()).collect();
    let angle = |at: usize| (at / 32) as f32 / 1000f32.powf((at % 32 / 2) as f32 / 16.0);
    let wave = |at: usize| if at.is_multiple_of(2) { angle(at).sin() } else { angle(at).cos() };
    let tokens = Tensor::from_vec(tokens, (200, 32), &Device::Cpu)?;
    let positions =
        Tensor::from_vec((0..64 * 32).map(wave).collect::<Vec<_>>(), (64, 32), &Device::Cpu)?;
    let path = std::env::temp_dir().join("candle-conditioning-tables.safetensors");
    let tensors = [("tokens.embedding", tokens), ("positions.embedding", positions)];
    safetensors::save(&tensors.into_iter().collect(), &path)?;
    Ok(path)
}
