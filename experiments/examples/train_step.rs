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

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_conditioning::Pooled;
use candle_core::{D, DType, Device, Module, Tensor, Var};
use clap::{Parser, ValueEnum};
use conditioned_models::architecture::Input;
use conditioned_models::conditioning::Method;
use conditioned_models::detection::{DetectorConfig, Mask, MaskRcnn, Target};
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_models::network::Network;
use conditioned_models::xcit::XcitConfig;
use conditioned_models::{Architecture, EMBEDDING_TABLES};
use conditioned_nn::store::save_tensors;
use conditioned_nn::{Linear, Mode, Precision, Store, backward, cross_entropy};
use conditioned_report::statistics::median;
use conditioned_train::{AdamWConfig, GroupRule, MuonRule, Optimizer};
use experiments::cli::{print, program};
use experiments::recipe::muon_rule;
use experiments::run::worker::peak_memory;
use experiments::{device, overrides};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
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

/// What the name of a detector begins with; that of its backbone follows.
const DETECTOR: &str = "mask_rcnn_";

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

/// A model with its loss on one batch.
trait Model {
    /// The batch of a seed, as tensors by name.
    fn batch(&self, seed: u64, batch: usize) -> Result<HashMap<String, Tensor>>;
    /// Multiply-accumulates of one forward pass of one sequence or image.
    fn macs(&self) -> usize;
    /// What Muon moves.
    fn muon(&self) -> MuonRule;
    /// The mean loss.
    fn loss(&self, batch: &HashMap<String, Tensor>, mode: Mode) -> Result<Tensor>;
    /// What is done to the tokens.
    fn method(&self) -> Method;
    /// The tokens that it is done to, (B, N, C).
    fn tokens(&self, batch: &HashMap<String, Tensor>) -> Result<Tensor>;
}

struct Image {
    config: Network,
    channels: usize,
    side: usize,
    classes: usize,
    model: Box<dyn conditioned_models::Model>,
}

impl Model for Image {
    fn macs(&self) -> usize {
        self.config.macs(0)
    }

    fn muon(&self) -> MuonRule {
        muon_rule(&self.config)
    }

    fn batch(&self, seed: u64, batch: usize) -> Result<HashMap<String, Tensor>> {
        let Self { channels, side, classes, .. } = *self;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let pixels = (0..batch * channels * side * side)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect::<Vec<f32>>();
        let labels = (0..batch).map(|_| rng.random_range(0..classes as u32)).collect::<Vec<_>>();
        let shape = (batch, channels, side, side);
        Ok(HashMap::from([
            ("images".to_string(), Tensor::from_vec(pixels, shape, &Device::Cpu)?),
            ("labels".to_string(), Tensor::from_vec(labels, batch, &Device::Cpu)?),
        ]))
    }

    fn loss(&self, batch: &HashMap<String, Tensor>, mode: Mode) -> Result<Tensor> {
        let logits = self.model.forward(named(batch, "images")?, mode.into())?;
        let labels = named(batch, "labels")?;
        let classes = Tensor::arange(0u32, self.classes as u32, labels.device())?;
        let targets = labels.unsqueeze(1)?.broadcast_eq(&classes.unsqueeze(0)?)?;
        Ok(cross_entropy(&logits, &targets.to_dtype(DType::F32)?)?)
    }

    fn method(&self) -> Method {
        self.config.conditioning().method
    }

    fn tokens(&self, batch: &HashMap<String, Tensor>) -> Result<Tensor> {
        Ok(self.model.tokens(named(batch, "images")?)?.plain)
    }
}

struct Text {
    config: Gpt2Config,
    model: Gpt2,
    device: Device,
}

impl Text {
    /// Tokens without the last one, on the device, and those that follow each of them, on the CPU: the loss reads
    /// them there, and a step does not wait for them.
    fn ids_and_targets(&self, batch: &HashMap<String, Tensor>) -> Result<(Tensor, Tensor)> {
        let tokens = named(batch, TOKENS)?;
        let length = tokens.dim(1)? - 1;
        let ids = tokens.narrow(1, 0, length)?.to_device(&self.device)?;
        Ok((ids, tokens.narrow(1, 1, length)?))
    }
}

/// The batch of a language model, which stays on the CPU.
const TOKENS: &str = "tokens";

impl Model for Text {
    fn macs(&self) -> usize {
        self.config.macs(self.config.context)
    }

    fn muon(&self) -> MuonRule {
        muon_rule(&self.config)
    }

    fn batch(&self, seed: u64, batch: usize) -> Result<HashMap<String, Tensor>> {
        let Gpt2Config { vocabulary, context, .. } = self.config;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let tokens = (0..batch * (context + 1))
            .map(|_| rng.random_range(0..vocabulary as u32))
            .collect::<Vec<_>>();
        let tokens = Tensor::from_vec(tokens, (batch, context + 1), &Device::Cpu)?;
        Ok(HashMap::from([(TOKENS.to_string(), tokens)]))
    }

    fn loss(&self, batch: &HashMap<String, Tensor>, mode: Mode) -> Result<Tensor> {
        let (ids, targets) = self.ids_and_targets(batch)?;
        Ok(self.model.loss(&ids, &targets, mode)?)
    }

    fn method(&self) -> Method {
        self.config.conditioning.method
    }

    fn tokens(&self, batch: &HashMap<String, Tensor>) -> Result<Tensor> {
        let (ids, _) = self.ids_and_targets(batch)?;
        Ok(conditioned_models::Model::tokens(&self.model, &ids)?.plain)
    }
}

/// A published detector on an XCiT, and images with as many objects each.
struct Detector {
    backbone: XcitConfig,
    config: DetectorConfig,
    model: MaskRcnn,
}

/// Side of the images of a detector, their objects, and COCO's categories.
const SIDE: usize = 512;
const OBJECTS: usize = 8;
const CATEGORIES: usize = 80;

impl Model for Detector {
    fn macs(&self) -> usize {
        self.config.macs(&self.backbone, SIDE)
    }

    fn muon(&self) -> MuonRule {
        muon_rule(&self.backbone)
    }

    /// Images (B, 3, 512, 512), and of each the boxes (B, 8, 4), classes (B, 8) and masks (B, 8, 512, 512) of its objects.
    fn batch(&self, seed: u64, batch: usize) -> Result<HashMap<String, Tensor>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let pixels: Vec<f32> =
            (0..batch * 3 * SIDE * SIDE).map(|_| rng.random_range(-1.0..1.0)).collect();
        let (mut boxes, mut classes, mut masks) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..batch * OBJECTS {
            let [x, y] = [(); 2].map(|()| rng.random_range(0..SIDE - 200));
            let [w, h] = [(); 2].map(|()| rng.random_range(20..200));
            boxes.extend([x, y, x + w, y + h].map(|at| at as f32));
            classes.push(rng.random_range(0..CATEGORIES as u32));
            let inside =
                |at: usize| (y..y + h).contains(&(at / SIDE)) && (x..x + w).contains(&(at % SIDE));
            masks.extend((0..SIDE * SIDE).map(|at| u8::from(inside(at))));
        }
        let (n, device) = (OBJECTS, &Device::Cpu);
        Ok(HashMap::from([
            ("images".into(), Tensor::from_vec(pixels, (batch, 3, SIDE, SIDE), device)?),
            ("boxes".into(), Tensor::from_vec(boxes, (batch, n, 4), device)?),
            ("classes".into(), Tensor::from_vec(classes, (batch, n), device)?),
            ("masks".into(), Tensor::from_vec(masks, (batch, n, SIDE, SIDE), device)?),
        ]))
    }

    fn loss(&self, batch: &HashMap<String, Tensor>, mode: Mode) -> Result<Tensor> {
        let images = named(batch, "images")?;
        let [boxes, classes, masks] =
            [named(batch, "boxes")?, named(batch, "classes")?, named(batch, "masks")?];
        let (b, _, height, width) = images.dims4()?;
        let target = |i: usize| -> Result<Target> {
            let corners = boxes.get(i)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
            let masks = masks.get(i)?.flatten_from(1)?.to_dtype(DType::U8)?.to_vec2::<u8>()?;
            let mask = |pixels: Vec<u8>| Mask {
                height,
                width,
                pixels: pixels.into_iter().map(|pixel| pixel != 0).collect(),
            };
            Ok(Target {
                size: [height, width],
                boxes: corners.into_iter().map(|c| [c[0], c[1], c[2], c[3]]).collect(),
                classes: classes
                    .get(i)?
                    .to_vec1::<u32>()?
                    .into_iter()
                    .map(|k| k as usize)
                    .collect(),
                masks: masks.into_iter().map(mask).collect(),
            })
        };
        let targets: Vec<Target> = (0..b).map(target).collect::<Result<_>>()?;
        Ok(self.model.losses(images, &targets, mode)?.total()?)
    }

    fn method(&self) -> Method {
        self.backbone.conditioning.method
    }

    fn tokens(&self, batch: &HashMap<String, Tensor>) -> Result<Tensor> {
        Ok(self.model.tokens(named(batch, "images")?)?.plain)
    }
}

fn named<'a>(tensors: &'a HashMap<String, Tensor>, name: &str) -> Result<&'a Tensor> {
    tensors.get(name).with_context(|| format!("--inputs holds no tensor `{name}`"))
}

/// A preset with some of its fields changed.
fn network(preset: &str, set: &[String]) -> Result<Network> {
    Ok(match Network::preset(preset)? {
        Network::Vit(config) => overrides::apply(config, set)?.into(),
        Network::Gpt2(config) => overrides::apply(config, set)?.into(),
        Network::Encoder(config) => overrides::apply(config, set)?.into(),
        Network::Nystromformer(config) => overrides::apply(config, set)?.into(),
        Network::Swin(config) => overrides::apply(config, set)?.into(),
        Network::Xcit(config) => overrides::apply(config, set)?.into(),
        Network::Davit(config) => overrides::apply(config, set)?.into(),
    })
}

fn model(options: &Options, store: &Store) -> Result<Box<dyn Model>> {
    let backbone = options.model.strip_prefix(DETECTOR);
    let mut config = network(backbone.unwrap_or(&options.model), &options.set)?;
    config.set_conditioning(options.conditioning.method(&config)?.into());
    if backbone.is_some() {
        let Network::Xcit(backbone) = config else {
            bail!("--model {}: a detector stands on an XCiT", options.model);
        };
        let config = DetectorConfig::published(backbone.depth, CATEGORIES);
        let model = MaskRcnn::new(&backbone, &config, store.builder())?;
        return Ok(Box::new(Detector { backbone, config, model }));
    }
    if let Network::Gpt2(config) = config {
        let (model, device) = (Gpt2::new(&config, store.builder())?, store.device().clone());
        return Ok(Box::new(Text { config, model, device }));
    }
    let Input::Images { channels, side, classes } = config.input() else {
        bail!("--model {}: neither a model of images nor a GPT-2", options.model);
    };
    let model = config.build(store.builder())?;
    Ok(Box::new(Image { config, channels, side, classes, model }))
}

fn inputs(path: &Path) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(path, &Device::Cpu).with_context(|| path.display().to_string())
}

/// A batch on the device, but for tokens.
fn on(device: &Device, batch: HashMap<String, Tensor>) -> Result<HashMap<String, Tensor>> {
    let moved = batch.into_iter().map(|(name, tensor)| {
        let tensor = if name == TOKENS { tensor } else { tensor.to_device(device)? };
        Ok((name, tensor))
    });
    moved.collect()
}

fn main() -> ExitCode {
    program(|| run(&Options::parse()))
}

fn run(options: &Options) -> Result<()> {
    let device = device::open(&options.device, 0)?;
    let store = Store::new(SEED, DType::F32, &device);
    let model = model(options, &store)?;
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
    let given = options.inputs.as_deref().map(inputs).transpose()?;
    let given = given.map(|batch| on(&device, batch)).transpose()?;
    for step in 0..options.steps {
        let clock = Instant::now();
        let batch = match &given {
            Some(batch) => batch.clone(),
            None => on(&device, model.batch(SEED + step as u64, options.batch)?)?,
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
    let tokens = model.tokens(&on(&device, model.batch(SEED, options.batch)?)?)?;
    let matmul_gflops = options.products.then(|| matmul_gflops(&device)).transpose()?;
    let end = json!({
        "peak_mib": peak_mib, "parameters": store.parameter_count(), "flops": flops,
        "conditioning_ms": conditioning_ms(model.method(), &tokens)?, "matmul_gflops": matmul_gflops,
    });
    print(&end.to_string())
}
