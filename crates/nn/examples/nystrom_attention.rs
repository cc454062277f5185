//! Times attention by landmarks, forward and backward, over sequences of growing length.
//!
//! ```sh
//! cargo run --release -p conditioned-nn --example nystrom_attention
//! python scripts/compare_nystrom.py    # the same beside PyTorch
//! ```
//!
//! Prints a line of JSON for each length: milliseconds of the median pass, and how much the peak memory of the process
//! grew at this length. Options: `--lengths 512,1024,2048,4096`, `--batch 4`, `--exact` for softmax attention.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor, Var};
use conditioned_nn::{Attention, Mode, NystromAttention, Sequence};

const WIDTH: usize = 64;
const HEADS: usize = 2;
const LANDMARKS: usize = 64;
const TAPS: usize = 35;
const PASSES: usize = 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let lengths = option("--lengths").unwrap_or("512,1024,2048,4096".to_string());
    let batch: usize = option("--batch").map_or(4, |batch| batch.parse().unwrap());
    let exact = arguments.iter().any(|argument| argument == "--exact");
    for length in lengths.split(',') {
        let n: usize = length.parse().unwrap();
        let before = peak_mib();
        let mut times = Vec::new();
        let random = |shape: &[usize]| Var::rand(-1f32, 1f32, shape, &Device::Cpu);
        let (qkv, weight) = (random(&[batch, n, 3 * WIDTH])?, random(&[HEADS, 1, TAPS, 1])?);
        let layer = match exact {
            true => Attention { heads: HEADS, causal: false }.into(),
            false => NystromAttention::new(HEADS, LANDMARKS)
                .convolution_from(weight.as_tensor().clone())
                .into(),
        };
        let layer = Sequence::new([layer]);
        let g = Tensor::rand(-1f32, 1f32, (batch, n, WIDTH), &Device::Cpu)?.to_dtype(DType::F32)?;
        for _ in 0..PASSES {
            let clock = Instant::now();
            let loss = (layer.forward(&qkv, Mode::Eval)? * &g)?.sum_all()?;
            let grads = loss.backward()?;
            assert!(grads.get(&qkv).is_some());
            times.push(clock.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let (ms, grown) = (times[PASSES / 2], peak_mib() - before);
        println!("{{\"tokens\": {n}, \"ms\": {ms:.2}, \"peak_mib\": {grown:.1}}}");
    }
    Ok(())
}

/// The largest memory that the process has had, in MiB, where Linux tells.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}
