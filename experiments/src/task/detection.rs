//! Objects in images: loaders, losses, evaluation by COCO's metrics.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use conditioned_data::{
    Detection, DetectionAugment, DetectionBatch, DetectionData, DetectionKind, DetectionLoader,
    DetectionLoaderConfig, DetectionTarget, Examples, Instance, score_detections, write_detections,
};
use conditioned_models::detection::{DetectorConfig, Mask, MaskRcnn, Target};
use conditioned_models::xcit::XcitConfig;
use conditioned_nn::store::write_atomic;
use conditioned_nn::{Mode, Store, upload};
use conditioned_report::pictures::{Picture, png, sheet};
use conditioned_train::{Batches, Metrics, Run, Task, TaskError};
use serde::{Deserialize, Serialize};

use crate::cell::RunConfig;
use crate::detector::{found, found_in_all, normalisation, sizes};
use crate::job::{CellTask, Extras};
use crate::kappa;
use crate::pictures::{self, LEAST_SCORE};
use crate::run::folder::PICTURES;
use crate::run::worker::boxed;

/// Threads that decode image files, or draw images, ahead of a run.
const DECODERS: usize = 1;

/// What is found in the test images, as results of COCO.
pub const BOXES: &str = "boxes.json";
/// The masks of the same.
pub const MASKS: &str = "masks.json";

/// Batches of training images that running statistics are recalibrated on.
const RECALIBRATION_BATCHES: usize = 64;

/// Tuning images that a finished run draws, the length of a picture in pixels, and pictures in a row, two for an image.
const DRAWN: usize = 8;
const PIXELS: u32 = 256;
const IN_ROW: usize = 4;

/// Images with objects, how they are served, and what stands on the backbone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionConfig {
    /// The images.
    pub data: DetectionData,
    /// Images per step.
    pub batch_size: usize,
    /// What is done to training images.
    pub augment: DetectionAugment,
    /// What is done to other images.
    pub evaluation: DetectionAugment,
    /// The detector on the backbone.
    pub detector: DetectorConfig,
}

impl DetectionConfig {
    /// Multiply-accumulates of one image: of 1024 x 1024 pixels, about the published size, or of its own.
    pub(crate) fn macs(&self, backbone: &XcitConfig) -> usize {
        let side = match self.evaluation.resize {
            Some(_) => 1024,
            None => backbone.image_size,
        };
        self.detector.macs(backbone, side)
    }

    /// Numbers that the table shows.
    pub(crate) fn facts(&self) -> Vec<(&'static str, f64)> {
        let [train, _, test] = self.data.images.map(|images| images as f64);
        vec![("train_images", train), ("test_images", test), ("broken", self.data.broken as f64)]
    }
}

/// A detector in training, its images, and how it is judged.
pub(crate) struct ObjectDetection {
    backbone: XcitConfig,
    detector: DetectorConfig,
    model: MaskRcnn,
    device: Device,
    /// On the CPU.
    train: DetectionLoader,
    recalibration: DetectionLoader,
    tune: Scored,
    /// Not in a search.
    test: Option<Scored>,
}

/// Images to be judged by, and what is in them.
struct Scored {
    images: Arc<dyn Examples>,
    loader: DetectionLoader,
    truth: Vec<(u64, Vec<Instance>)>,
}

impl ObjectDetection {
    /// The task of a run; the model's parameters are created in `store`.
    pub(crate) fn new(
        config: &RunConfig,
        backbone: &XcitConfig,
        task: &DetectionConfig,
        store: &Store,
    ) -> Result<Self, TaskError> {
        let splits = task.data.load()?;
        let device = store.device();
        let normalisation = normalisation();
        let loader = |images: &Arc<dyn Examples>, config: DetectionLoaderConfig, device| {
            let config = DetectionLoaderConfig { workers: DECODERS, ..config };
            DetectionLoader::new(images.clone(), config, &normalisation, device)
        };
        let training = DetectionLoaderConfig {
            augment: task.augment.clone(),
            ..DetectionLoaderConfig::training(task.batch_size, config.cell.seed)
        };
        let evaluation = DetectionLoaderConfig {
            augment: task.evaluation.clone(),
            ..DetectionLoaderConfig::evaluation(task.batch_size)
        };
        let scored = |images: &Arc<dyn Examples>| -> Result<Scored, TaskError> {
            let truth = (0..images.len()).map(|i| images.objects(i));
            Ok(Scored {
                images: images.clone(),
                truth: truth.collect::<conditioned_data::Result<_>>()?,
                loader: loader(images, evaluation.clone(), device)?,
            })
        };
        Ok(Self {
            model: MaskRcnn::new(backbone, &task.detector, store.builder())?,
            backbone: backbone.clone(),
            detector: task.detector.clone(),
            device: device.clone(),
            train: loader(&splits.train, training, &Device::Cpu)?,
            recalibration: loader(&splits.train, evaluation.clone(), device)?,
            tune: scored(&splits.tune)?,
            test: match config.cell.is_search() {
                true => None,
                false => Some(scored(&splits.test)?),
            },
        })
    }

    /// A model over weights, with running averages of its conditioning over training images as they are.
    fn recalibrated(&self, weights: VarBuilder<'static>) -> Result<MaskRcnn, TaskError> {
        let model = MaskRcnn::new(&self.backbone, &self.detector, weights)?;
        let batches = self.recalibration.epoch(0).take(RECALIBRATION_BATCHES);
        let mut tokens = batches.map(|batch| {
            let DetectionBatch { images, targets } = batch.map_err(candle_core::Error::wrap)?;
            model.conditioned_tokens(&images, &sizes(&targets))
        });
        model.recalibrate(&mut tokens)?;
        drop(tokens);
        Ok(model)
    }
}

/// What the model learns from the objects of an image; crowds are no objects.
fn target(target: &DetectionTarget) -> Target {
    let objects = (0..target.boxes.len()).filter(|&i| !target.crowd[i]);
    let mut found = Target { size: target.size, boxes: vec![], classes: vec![], masks: vec![] };
    for i in objects {
        let [height, width] = target.masks[i].size();
        found.boxes.push(target.boxes[i]);
        found.classes.push(target.classes[i] as usize);
        found.masks.push(Mask { height, width, pixels: target.masks[i].to_mask() });
    }
    found
}

impl Scored {
    /// The mean loss, and everything that is found.
    fn look(&self, model: &MaskRcnn) -> Result<(f64, Vec<Detection>), TaskError> {
        let (mut loss, mut n, mut detections) = (0.0, 0.0, Vec::new());
        for batch in self.loader.epoch(0) {
            let batch = batch?;
            let objects: Vec<Target> = batch.targets.iter().map(target).collect();
            let total = model.losses(&batch.images, &objects, Mode::Eval)?.total()?;
            loss += f64::from(total.to_scalar::<f32>()?) * objects.len() as f64;
            n += objects.len() as f64;
            detections.extend(found(model, &batch)?);
        }
        Ok((loss / n, detections))
    }

    /// The first images, each twice: with the truth, and with what is found.
    fn pictures(&self, model: &MaskRcnn) -> Result<Vec<Picture>> {
        let (mut seen, mut detections) = (0, Vec::new());
        for batch in self.loader.epoch(0) {
            let batch = batch?;
            seen += batch.targets.len();
            detections.extend(found(model, &batch)?);
            if seen >= DRAWN {
                break;
            }
        }
        let (mut drawn, categories) = (Vec::new(), self.loader.categories());
        for index in 0..seen.min(DRAWN) {
            let example = self.images.example(index)?;
            drawn.push(pictures::truth(&example, categories)?);
            drawn.push(pictures::found(&example, &detections, categories, LEAST_SCORE)?);
        }
        Ok(drawn)
    }

    /// Adds loss, and AP, AP50 and AP75 of boxes and masks in %.
    fn judge(&self, set: &str, model: &MaskRcnn, metrics: &mut Metrics) -> Result<(), TaskError> {
        let (loss, detections) = self.look(model)?;
        metrics.insert(format!("{set}_loss"), loss);
        let truth: Vec<_> = self.truth.iter().map(|(id, objects)| (*id, &**objects)).collect();
        let categories = self.loader.categories().len();
        for (name, kind) in [("box", DetectionKind::Boxes), ("mask", DetectionKind::Masks)] {
            let scores = score_detections(&truth, categories, &detections, kind)?;
            let named = [("ap", scores.ap), ("ap50", scores.ap50), ("ap75", scores.ap75)];
            for (score, value) in named {
                let value = value.map_or(f64::NAN, |value| 100.0 * value);
                metrics.insert(format!("{set}_{name}_{score}"), value);
            }
        }
        Ok(())
    }
}

impl Task for ObjectDetection {
    type Batch = DetectionBatch;

    fn batches_per_epoch(&self) -> usize {
        self.train.batches()
    }

    fn batches(
        &self,
        epoch: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, DetectionBatch>, TaskError> {
        let on_device = |batch: conditioned_data::Result<DetectionBatch>| {
            let DetectionBatch { images, targets } = batch?;
            Ok(DetectionBatch { images: upload(&images, &self.device)?, targets })
        };
        Ok(Box::new(self.train.epoch_from(epoch, first, every).map(on_device)))
    }

    fn loss(&self, batch: &DetectionBatch, mode: Mode) -> Result<Tensor, TaskError> {
        let targets: Vec<Target> = batch.targets.iter().map(target).collect();
        Ok(self.model.losses(&batch.images, &targets, mode)?.total()?)
    }

    /// Loss, AP of boxes and masks on the tuning images and kappa of the tokens; at the end also the test.
    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        let model = self.recalibrated(weights)?;
        let mut metrics = Metrics::new();
        self.tune.judge("tune", &model, &mut metrics)?;
        if let Some(test) = self.test.as_ref().filter(|_| last) {
            test.judge("test", &model, &mut metrics)?;
        }
        let batch = self.tune.loader.epoch(0).next().ok_or("no images")??;
        // Of the first image, without tokens of padding.
        let patch = self.backbone.patch_size;
        let [h, w] = batch.targets[0].size.map(|side| side.next_multiple_of(patch));
        let first = batch.images.narrow(0, 0, 1)?.narrow(2, 0, h)?.narrow(3, 0, w)?;
        kappa::add_of_sequences(&mut metrics, &model.tokens(&first.contiguous()?)?)?;
        Ok(metrics)
    }
}

impl CellTask for ObjectDetection {
    /// Everything that is found in the test images, as results of COCO, and a sheet of tuning images, the truth left of
    /// what is found.
    fn extras(&self, _: &RunConfig, run: &Run, store: &Store) -> Result<Extras> {
        let Some(test) = &self.test else { return Ok(Extras::default()) };
        // In the store itself, so that the weights that are kept are those that are reported.
        let model = self.recalibrated(store.builder()).map_err(boxed)?;
        let detections = found_in_all(&model, &test.loader)?;
        let categories = test.loader.categories();
        for (file, kind) in [(BOXES, DetectionKind::Boxes), (MASKS, DetectionKind::Masks)] {
            write_detections(&run.folder.join(file), &detections, categories, kind)?;
        }
        let sheet = sheet(&self.tune.pictures(&model)?, IN_ROW, PIXELS)?;
        write_atomic(&run.folder.join(PICTURES), &png(&sheet)?)?;
        Ok(Extras::default())
    }
}
