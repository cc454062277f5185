//! Training steps of a ViT built from plain differentiable candle operations.
//!
//! ```text
//! plain-candle MODEL BATCH STEPS INIT.safetensors INPUTS.safetensors
//! ```
//!
//! The yardstick for `train-step`: same weights, same batch, same lines of JSON. Layer norm and
//! softmax are candle's slow forms, because the fast ones cut the graph; patches are a convolution,
//! the optimiser is candle-nn's. Built with `--features tuned` it has this project's matrix kernels
//! and allocator, without it is candle as it comes. `scripts/compare_plain.py` runs all three.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{D, DType, Device, Module, Tensor, Var};
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use candle_nn::{Conv2d, Conv2dConfig, Linear, loss, ops};
use serde_json::json;

#[cfg(feature = "tuned")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps freed memory, as the project's binaries do (option 15: the purge delay).
#[cfg(feature = "tuned")]
fn keep_memory() {
    // SAFETY: sets an integer option from one thread.
    unsafe { libmimalloc_sys::mi_option_set_default(15, -1) }
}

#[cfg(not(feature = "tuned"))]
fn keep_memory() {}

/// Parameters by timm's names.
struct Weights(HashMap<String, Var>);

impl Weights {
    fn get(&self, name: &str) -> Result<Tensor> {
        let var = self.0.get(name).with_context(|| format!("no parameter `{name}`"))?;
        Ok(var.as_tensor().clone())
    }

    fn linear(&self, name: &str) -> Result<Linear> {
        let weight = self.get(&format!("{name}.weight"))?;
        Ok(Linear::new(weight, Some(self.get(&format!("{name}.bias"))?)))
    }

    fn layer_norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.get(&format!("{name}.weight"))?;
        let bias = self.get(&format!("{name}.bias"))?;
        Ok(ops::layer_norm_slow(x, &weight, &bias, 1e-6)?)
    }
}

struct Sizes {
    patch: usize,
    depth: usize,
    heads: usize,
}

fn attention(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, c3) = x.dims3()?;
    let (c, d) = (c3 / 3, c3 / 3 / heads);
    let qkv = x.reshape((b, n, 3, heads, d))?.permute((2, 0, 3, 1, 4))?;
    let [q, k, v] = [0, 1, 2].map(|i| qkv.get(i).and_then(|t| t.contiguous()));
    let scores = (q?.matmul(&k?.t()?)? * (1.0 / (d as f64).sqrt()))?;
    let y = ops::softmax(&scores, D::Minus1)?.matmul(&v?)?;
    Ok(y.transpose(1, 2)?.contiguous()?.reshape((b, n, c))?)
}

fn logits(w: &Weights, sizes: &Sizes, images: &Tensor) -> Result<Tensor> {
    let config = Conv2dConfig { stride: sizes.patch, ..Default::default() };
    let weight = w.get("patch_embed.proj.weight")?;
    let conv = Conv2d::new(weight, Some(w.get("patch_embed.proj.bias")?), config);
    let patches = conv.forward(images)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
    let (b, _, c) = patches.dims3()?;
    let cls = w.get("cls_token")?.broadcast_as((b, 1, c))?;
    let mut x = Tensor::cat(&[&cls, &patches], 1)?.broadcast_add(&w.get("pos_embed")?)?;
    for i in 0..sizes.depth {
        let at = |name: &str| format!("blocks.{i}.{name}");
        let y = w.layer_norm(&at("norm1"), &x)?;
        let y = attention(&w.linear(&at("attn.qkv"))?.forward(&y)?, sizes.heads)?;
        x = (x + w.linear(&at("attn.proj"))?.forward(&y)?)?;
        let y = w.layer_norm(&at("norm2"), &x)?;
        let y = w.linear(&at("mlp.fc1"))?.forward(&y)?.gelu_erf()?;
        x = (x + w.linear(&at("mlp.fc2"))?.forward(&y)?)?;
    }
    let cls = w.layer_norm("norm", &x)?.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
    Ok(w.linear("head")?.forward(&cls)?)
}

/// One AdamW per weight decay: candle's has no parameter groups.
fn optimizers(w: &Weights) -> Result<Vec<AdamW>> {
    let tables = ["pos_embed", "cls_token"];
    let decays = |name: &str, var: &Var| var.rank() > 1 && !tables.contains(&name);
    [0.05, 0.0]
        .into_iter()
        .map(|weight_decay| {
            let vars = w.0.iter().filter(|(name, var)| decays(name, var) == (weight_decay > 0.0));
            let parameters = ParamsAdamW { lr: 1e-3, weight_decay, ..Default::default() };
            Ok(AdamW::new(vars.map(|(_, var)| var.clone()).collect(), parameters)?)
        })
        .collect()
}

fn main() -> Result<()> {
    keep_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, _batch, steps, init, inputs] = arguments.as_slice() else {
        bail!("usage: plain-candle MODEL BATCH STEPS INIT.safetensors INPUTS.safetensors");
    };
    let sizes = match model.as_str() {
        "vit_small_patch16_224" => Sizes { patch: 16, depth: 12, heads: 6 },
        "vit-32" => Sizes { patch: 4, depth: 6, heads: 3 },
        other => bail!("unknown model {other}"),
    };
    let cpu = &Device::Cpu;
    let tensors = candle_core::safetensors::load(init, cpu)?;
    let vars = tensors.into_iter().map(|(name, t)| Ok((name, Var::from_tensor(&t)?)));
    let weights = Weights(vars.collect::<Result<_>>()?);
    let batch = candle_core::safetensors::load(inputs, cpu)?;
    let labels = batch["labels"].to_dtype(DType::U32)?;
    let mut optimizers = optimizers(&weights)?;
    for step in 0..steps.parse()? {
        let clock = Instant::now();
        let loss = loss::cross_entropy(&logits(&weights, &sizes, &batch["images"])?, &labels)?;
        let value = loss.to_scalar::<f32>()?;
        let grads = loss.backward()?;
        drop(loss);
        for optimizer in &mut optimizers {
            optimizer.step(&grads)?;
        }
        drop(grads);
        let total_ms = clock.elapsed().as_secs_f64() * 1e3;
        println!("{}", json!({ "step": step, "loss": value, "total_ms": total_ms }));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = peak.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    println!("{}", json!({ "peak_mib": kib.map(|kib| kib / 1024.0) }));
    Ok(())
}
