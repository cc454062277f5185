//! The models that are timed, each with its batches and its loss.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use conditioned_models::Architecture;
use conditioned_models::architecture::Input;
use conditioned_models::conditioning::Method;
use conditioned_models::detection::{DetectorConfig, Mask, MaskRcnn, Target};
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_models::network::Network;
use conditioned_models::xcit::XcitConfig;
use conditioned_nn::{Mode, Store, cross_entropy};
use conditioned_train::MuonRule;
use experiments::overrides;
use experiments::recipe::muon_rule;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Options;

/// What the name of a detector begins with; that of its backbone follows.
const DETECTOR: &str = "mask_rcnn_";

/// A model with its loss on one batch.
pub(crate) trait Model {
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

/// The model that a command names.
///
/// # Errors
/// When there is none of this name, or a field of it cannot be changed so.
pub(crate) fn model(options: &Options, store: &Store) -> Result<Box<dyn Model>> {
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

/// A batch of a file.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn inputs(path: &Path) -> Result<HashMap<String, Tensor>> {
    candle_core::safetensors::load(path, &Device::Cpu).with_context(|| path.display().to_string())
}

/// A batch on the device, but for tokens.
///
/// # Errors
/// When the device fails.
pub(crate) fn on(
    device: &Device,
    batch: HashMap<String, Tensor>,
) -> Result<HashMap<String, Tensor>> {
    let moved = batch.into_iter().map(|(name, tensor)| {
        let tensor = if name == TOKENS { tensor } else { tensor.to_device(device)? };
        Ok((name, tensor))
    });
    moved.collect()
}
