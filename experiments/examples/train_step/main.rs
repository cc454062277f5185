//! Times training steps of one model: forward, backward, and AdamW or Muon, on one batch.
//!
//! ```text
//! cargo run --release --example train-step -- --model vit_small_patch16_224 --batch 8 --steps 20
//! ```
//!
//! Prints one JSON line a step (`step`, `loss`, and milliseconds `data_ms`, `forward_ms`,
//! `backward_ms`, `optimizer_ms`, and `total_ms` of the last three), and at the end one with `peak_mib`, `parameters`, `flops` per
//! step, with conditioned tokens `conditioning_ms`: what the conditioning alone takes, forward and backward, and
//! with `--products` `matmul_gflops`: the median of several large products. `--set` changes a size of the
//! model, as in `--model vit-32 --set width=384 --set heads=6`. `scripts/compare_pytorch.py` runs the same steps
//! in PyTorch, from the same `--init` and `--inputs`.

mod model;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_conditioning::Pooled;
use candle_core::{D, DType, Device, Module, Tensor, Var};
use clap::{Parser, ValueEnum};
use conditioned_models::EMBEDDING_TABLES;
use conditioned_models::conditioning::Method;
use conditioned_models::network::Network;
use conditioned_nn::store::save_tensors;
use conditioned_nn::{Linear, Mode, Precision, Store, backward};
use conditioned_report::statistics::median;
use conditioned_train::{AdamWConfig, GroupRule, Optimizer};
use experiments::cli::{print, program};
use experiments::device;
use experiments::run::worker::peak_memory;
use serde_json::json;

/// Peak learning rate of the timed steps.
const RATE: f64 = 1e-3;

/// Seed of parameters and batches.
const SEED: u64 = 0;

/// Times training steps of one model.
#[derive(Parser)]
struct Options {
    /// The preset of a model of images or of a GPT-2, or `mask_rcnn_` and that of an XCiT.
    #[arg(long, default_value = "vit-32")]
    model: String,
    /// Changes a field of the preset; a wrong key prints them all.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Sequences or images per step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Training steps.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// What is done to the tokens; a GPT-2 refuses per-sequence.
    #[arg(long, value_enum, default_value_t = Conditioning::None)]
    conditioning: Conditioning,
    /// Muon for the hidden matrices.
    #[arg(long)]
    muon: bool,
    /// What matrices are multiplied in: f32 or bf16.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    precision: Dtype,
    /// cpu, cuda:N or metal.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Parameters to start from (safetensors), instead of seeded ones.
    #[arg(long)]
    init: Option<PathBuf>,
    /// The batch (safetensors: `images` or `tokens`, and `labels`), instead of a seeded one.
    #[arg(long)]
    inputs: Option<PathBuf>,
    /// Writes the parameters and the first batch to DIR/init.safetensors and DIR/inputs.safetensors.
    #[arg(long, value_name = "DIR")]
    save_case: Option<PathBuf>,
    /// Times large matrix products too.
    #[arg(long)]
    products: bool,
}

/// The conditioning of the tokens, at strength 0.3.
#[derive(Clone, Copy, ValueEnum)]
enum Conditioning {
    None,
    PerSequence,
    Pooled,
}

/// What matrices are multiplied in.
#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::Full,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// Repetitions of the conditioning alone.
const REPETITIONS: usize = 31;

/// Between two of them.
const PAUSE: Duration = Duration::from_millis(2);

/// Side and repetitions of the large matrix product.
const PRODUCT: usize = 2048;
const PRODUCTS: usize = 20;

impl Conditioning {
    /// A GPT-2 takes the statistics of earlier batches: of its own it would see what it has to predict.
    fn method(self, network: &Network) -> Result<Method> {
        Ok(match self {
            Self::None => Method::None,
            Self::PerSequence => Method::per_sequence(0.3)?,
            Self::Pooled if matches!(network, Network::Gpt2(_)) => Method::pooled_earlier(0.3)?,
            Self::Pooled => Method::pooled(0.3)?,
        })
    }
}

/// The median milliseconds that a method adds to a training step on `tokens` (B, N, C), forward and backward, with
/// nothing around it; `None` where nothing is done.
fn conditioning_ms(method: Method, tokens: &Tensor) -> Result<Option<f64>> {
    let tokens = Var::from_tensor(tokens)?;
    let channels = tokens.dim(D::Minus1)?;
    let pooled = match method {
        Method::None => return Ok(None),
        Method::Pooled(config) => Some(Pooled::new(config, channels, tokens.device())?),
        _ => None,
    };
    let forward = |x: &Tensor| match (&pooled, &method) {
        (Some(pooled), _) => pooled.forward_train_observed(x),
        (None, Method::PerSequence(conditioner)) => conditioner.forward(x),
        _ => Ok(x.clone()),
    };
    let mut times = Vec::new();
    for _ in 0..REPETITIONS {
        // candle's threads spin for about a millisecond after the repetition before.
        thread::sleep(PAUSE);
        // candle's backward begins with a gradient of ones, which is none of the method's.
        let [without, with] = [false, true].map(|conditioned| -> Result<f64> {
            let clock = Instant::now();
            let y = if conditioned { forward(&tokens)? } else { tokens.as_tensor().clone() };
            y.backward()?;
            tokens.device().synchronize()?;
            Ok(clock.elapsed().as_secs_f64() * 1e3)
        });
        times.push(with? - without?);
    }
    Ok(median(&times))
}

/// 10^9 operations a second of the median of several products of large matrices.
fn matmul_gflops(device: &Device) -> Result<f64> {
    let matrix = || Tensor::randn(0f32, 1.0, (PRODUCT, PRODUCT), device);
    let (a, layer) = (matrix()?, Linear::new(matrix()?, None));
    let mut times = Vec::with_capacity(PRODUCTS);
    for _ in 0..PRODUCTS {
        let clock = Instant::now();
        layer.forward(&a)?;
        device.synchronize()?;
        times.push(clock.elapsed().as_secs_f64());
    }
    let seconds = median(&times).context("there are products")?;
    Ok(2.0 * (PRODUCT as f64).powi(3) / seconds * 1e-9)
}

fn main() -> ExitCode {
    program(|| run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let device = device::open(&options.device, 0)?;
    let store = Store::new(SEED, DType::F32, &device);
    let model = model::model(options, &store)?;
    if let Some(path) = &options.init {
        store.load(path)?;
    }
    if let Some(folder) = &options.save_case {
        store.save(&folder.join("init.safetensors"), &BTreeMap::new())?;
        let batch = model.batch(SEED, options.batch)?;
        save_tensors(&folder.join("inputs.safetensors"), batch, &BTreeMap::new())?;
    }
    let parameters = store.parameters();
    let groups = GroupRule::new(0.05, EMBEDDING_TABLES);
    let muon = options.muon.then(|| model.muon());
    let mut optimizer =
        Optimizer::new(&parameters, &groups, AdamWConfig::default(), muon.as_ref())?;
    let given = options.inputs.as_deref().map(model::inputs).transpose()?;
    let given = given.map(|batch| model::on(&device, batch)).transpose()?;
    for step in 0..options.steps {
        let clock = Instant::now();
        let batch = match &given {
            Some(batch) => batch.clone(),
            None => model::on(&device, model.batch(SEED + step as u64, options.batch)?)?,
        };
        device.synchronize()?;
        let data_ms = clock.elapsed().as_secs_f64() * 1e3;
        let clock = Instant::now();
        let (step_number, precision) = (step as u64, options.precision.into());
        let mode = Mode::Train { seed: SEED, step: step_number, last: true, precision };
        let loss = model.loss(&batch, mode)?;
        let value = loss.to_scalar::<f32>()?;
        let forward_ms = clock.elapsed().as_secs_f64() * 1e3;
        let grads = backward(loss)?;
        device.synchronize()?;
        let backward_ms = clock.elapsed().as_secs_f64() * 1e3 - forward_ms;
        optimizer.step(&grads, RATE, 1.0)?;
        drop(grads);
        device.synchronize()?;
        let total_ms = clock.elapsed().as_secs_f64() * 1e3;
        let optimizer_ms = total_ms - forward_ms - backward_ms;
        if !value.is_finite() {
            bail!("the loss of step {step} is {value}");
        }
        let line = json!({
            "step": step, "loss": value, "data_ms": data_ms, "forward_ms": forward_ms,
            "backward_ms": backward_ms, "optimizer_ms": optimizer_ms, "total_ms": total_ms,
        });
        print(&line.to_string())?;
    }
    // A multiply-accumulate is two operations; backward costs twice the forward.
    let flops = 6 * model.macs() * options.batch;
    let peak_mib = peak_memory();
    let tokens = model.tokens(&model::on(&device, model.batch(SEED, options.batch)?)?)?;
    let matmul_gflops = options.products.then(|| matmul_gflops(&device)).transpose()?;
    let end = json!({
        "peak_mib": peak_mib, "parameters": store.parameter_count(), "flops": flops,
        "conditioning_ms": conditioning_ms(model.method(), &tokens)?, "matmul_gflops": matmul_gflops,
    });
    print(&end.to_string())
}
