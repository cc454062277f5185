//! How long conditioning takes, one JSON line a run: forward, detached, t = 1.
//!
//! ```text
//! cargo run --release --example time_exact -p candle-conditioning -- \
//!     [--shape 32,197,768] [--kappa 1e3] [--seed 0] [--runs 9] [--polar '"exact"'] [--input FILE]
//! ```
//!
//! `--input` reads the tensor `x` of a safetensors file instead of making one, so that another
//! program can be timed on the same bits: `scripts/compare_conditioning.py` does.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use candle_conditioning::{Conditioner, Polar, condition_number};
use candle_core::{DType, Device, Error, Result, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

struct Options {
    shape: Vec<usize>,
    kappa: f64,
    seed: u64,
    runs: usize,
    polar: Option<Polar>,
    input: Option<String>,
}

fn main() -> Result<()> {
    let options = parse(std::env::args().skip(1))?;
    let x = match &options.input {
        Some(path) => candle_core::safetensors::load(path, &Device::Cpu)?
            .remove("x")
            .ok_or_else(|| Error::msg(format!("{path} has no tensor x")))?,
        None => decaying(&options)?,
    };
    let conditioner = match options.polar {
        Some(polar) => Conditioner::default().with_polar(polar)?,
        None => Conditioner::default(),
    };
    let y = conditioner.forward(&x)?;
    let kappa = worst(&condition_number(&y)?)?;
    for _ in 0..options.runs {
        let start = Instant::now();
        let y = conditioner.forward(&x)?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        drop(y);
        let line = serde_json::json!({
            "shape": x.dims(), "milliseconds": milliseconds, "kappa": kappa,
        });
        println!("{line}");
    }
    Ok(())
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Options> {
    let (shape, polar, input) = (vec![32, 197, 768], None, None);
    let mut options = Options { shape, kappa: 1e3, seed: 0, runs: 9, polar, input };
    let mut arguments = arguments;
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| Error::msg(format!("{name} lacks a value")))?;
        match name.as_str() {
            "--shape" => {
                let sizes = value.split(',').map(|size| size.parse().map_err(Error::wrap));
                options.shape = sizes.collect::<Result<_>>()?;
            }
            "--kappa" => options.kappa = value.parse().map_err(Error::wrap)?,
            "--seed" => options.seed = value.parse().map_err(Error::wrap)?,
            "--runs" => options.runs = value.parse().map_err(Error::wrap)?,
            "--polar" => options.polar = Some(serde_json::from_str(&value).map_err(Error::wrap)?),
            "--input" => options.input = Some(value),
            _ => return Err(Error::msg(format!("unknown option {name}"))),
        }
    }
    Ok(options)
}

/// Normal numbers whose channels decay from 1 to 1 / kappa: f32, about that condition number.
fn decaying(options: &Options) -> Result<Tensor> {
    let count = options.shape.iter().product();
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let values: Vec<f64> = (0..count).map(|_| StandardNormal.sample(&mut rng)).collect();
    let x = Tensor::from_vec(values, options.shape.as_slice(), &Device::Cpu)?;
    let d = options.shape.last().copied().unwrap_or(1);
    let decay = |c: usize| options.kappa.powf(-(c as f64) / d as f64);
    let decay = Tensor::from_vec((0..d).map(decay).collect::<Vec<_>>(), d, &Device::Cpu)?;
    x.broadcast_mul(&decay)?.to_dtype(DType::F32)
}

fn worst(kappa: &Tensor) -> Result<f64> {
    Ok(kappa.flatten_all()?.to_vec1::<f64>()?.into_iter().fold(0.0, f64::max))
}
