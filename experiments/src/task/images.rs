//! Image classification: loaders, loss, evaluation.

use anyhow::Result;
use candle_core::{D, Device, Tensor};
use candle_nn::VarBuilder;
use conditioned_data::{Augment, Batch, ImageData, ImageSet, Loader, LoaderConfig};
use conditioned_models::network::Network;
use conditioned_models::{Architecture, Model};
use conditioned_nn::{Mode, Store, cross_entropy, upload};
use conditioned_train::{Batches, Event, Findings, Metrics, Run, Task, TaskError, record};
use serde::{Deserialize, Serialize};

use crate::cell::RunConfig;
use crate::job::{CellTask, Extras};
use crate::kappa;
use crate::probe;
use crate::run::worker::boxed;

/// Images per batch of an evaluation, and their values, of which large images have fewer.
const EVALUATION_BATCH: usize = 256;
const EVALUATION_VALUES: usize = 1 << 22;

/// Training images that running statistics are recalibrated on.
const RECALIBRATION_IMAGES: usize = 4096;

/// Threads that decode image files ahead of a run.
const DECODERS: usize = 2;

/// Images of the tuning slice whose condition numbers are measured.
const KAPPA_IMAGES: usize = 64;

/// Images and how they are served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesConfig {
    /// The images.
    pub data: ImageData,
    /// Images per step.
    pub batch_size: usize,
    /// What is done to training images.
    pub augment: Augment,
    /// Tuning accuracy in % whose first step is recorded as `steps_to_target`; null records none.
    pub target: Option<f64>,
}

impl ImagesConfig {
    /// The images of the first training batch of a seed, not augmented: (B, C, H, W).
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn first_batch(&self, seed: u64) -> Result<Tensor> {
        let splits = self.data.load()?;
        let normalisation = splits.train.normalisation()?;
        let order = LoaderConfig::training(self.batch_size, seed);
        let loader = Loader::new(splits.train, order, &normalisation, &Device::Cpu)?;
        first_images(&loader).map_err(boxed)
    }

    /// Numbers that the table shows.
    pub(crate) fn facts(&self) -> Vec<(&'static str, f64)> {
        let mut facts = vec![("train_images", self.data.train_images as f64)];
        facts.extend(self.target.map(|target| ("target", target)));
        if self.data.preprocessing().is_some() {
            facts.push(("broken", self.data.broken() as f64));
        }
        facts
    }
}

/// A model in training, its images, and how it is judged.
pub(crate) struct ImageClassification {
    network: Network,
    model: Box<dyn Model>,
    device: Device,
    /// On the CPU.
    train: Loader,
    recalibration: Loader,
    tune: Loader,
    /// Not in a search.
    test: Option<Loader>,
    /// The images whose condition numbers are measured.
    kappa: Tensor,
    target: Option<f64>,
}

impl ImageClassification {
    /// The task of a run; the model's parameters are created in `store`.
    pub(crate) fn new(
        config: &RunConfig,
        network: &Network,
        task: &ImagesConfig,
        store: &Store,
    ) -> Result<Self, TaskError> {
        let splits = task.data.load()?;
        let device = store.device();
        let workers = if task.data.preprocessing().is_some() { DECODERS } else { 0 };
        let values: usize = splits.train.shape().iter().product();
        let batch = (EVALUATION_VALUES / values).clamp(1, EVALUATION_BATCH);
        let normalisation = splits.train.normalisation()?;
        let training = LoaderConfig {
            augment: task.augment.clone(),
            workers,
            ..LoaderConfig::training(task.batch_size, config.cell.seed)
        };
        let evaluation = |images: ImageSet, batch: usize| {
            let config = LoaderConfig { workers, ..LoaderConfig::evaluation(batch) };
            Loader::new(images, config, &normalisation, device)
        };
        let some = splits.train.len().min(RECALIBRATION_IMAGES);
        let recalibration = splits.train.take(some)?;
        let tune = evaluation(splits.tune.clone(), batch)?;
        let images = splits.tune.len().min(KAPPA_IMAGES).min(batch);
        Ok(Self {
            kappa: first_images(&evaluation(splits.tune.clone(), images)?)?,
            model: network.build(store.builder())?,
            network: network.clone(),
            device: device.clone(),
            train: Loader::new(splits.train.clone(), training, &normalisation, &Device::Cpu)?,
            recalibration: evaluation(recalibration, batch)?,
            test: match config.cell.is_search() {
                true => None,
                false => Some(evaluation(splits.test.clone(), batch)?),
            },
            tune,
            target: task.target,
        })
    }
}

impl ImageClassification {
    /// The model of some weights, its running statistics those of clean training images under them.
    fn recalibrated(&self, weights: VarBuilder<'static>) -> Result<Box<dyn Model>, TaskError> {
        let model = self.network.build(weights)?;
        let images = self.recalibration.epoch(0);
        model.recalibrate(images.map(|batch| Ok::<_, TaskError>(batch?.images)))?;
        Ok(model)
    }

    /// The first `count` training batches: what a comparison with another program trains on.
    pub(crate) fn first_batches(&self, count: usize) -> Result<Vec<Batch>, TaskError> {
        let epochs = 0..count.div_ceil(self.train.batches());
        let batches = epochs.flat_map(|epoch| self.train.epoch(epoch)).take(count);
        Ok(batches.collect::<Result<_, _>>()?)
    }
}

impl Task for ImageClassification {
    type Batch = Batch;

    fn batches_per_epoch(&self) -> usize {
        self.train.batches()
    }

    fn batches(
        &self,
        epoch: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, Batch>, TaskError> {
        let on_device = |batch: conditioned_data::Result<Batch>| {
            let Batch { images, targets, labels } = batch?;
            let [images, targets] =
                [upload(&images, &self.device)?, upload(&targets, &self.device)?];
            Ok(Batch { images, targets, labels })
        };
        Ok(Box::new(self.train.epoch_from(epoch, first, every).map(on_device)))
    }

    fn loss(&self, batch: &Batch, mode: Mode) -> Result<Tensor, TaskError> {
        Ok(cross_entropy(&self.model.forward(&batch.images, mode.into())?, &batch.targets)?)
    }

    /// Loss and accuracy on the tuning slice and kappa of the tokens; at the end also the test.
    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        let model = self.recalibrated(weights)?;
        let mut metrics = Metrics::new();
        let mut judge = |set: &str, images: &Loader| -> Result<(), TaskError> {
            let (loss, accuracy) = score(&*model, images)?;
            metrics.insert(format!("{set}_loss"), loss);
            metrics.insert(format!("{set}_accuracy"), accuracy);
            Ok(())
        };
        judge("tune", &self.tune)?;
        if let Some(test) = self.test.as_ref().filter(|_| last) {
            judge("test", test)?;
        }
        kappa::add_of_sequences(&mut metrics, &model.tokens(&self.kappa)?)?;
        Ok(metrics)
    }

    /// Of the first images of the tuning slice.
    fn probe(&self, weights: VarBuilder<'static>) -> Result<Findings, TaskError> {
        let model = self.recalibrated(weights)?;
        probe::findings(probe::singles(&self.kappa).map(|image| Ok(model.probe(&image?)?)))
    }
}

impl CellTask for ImageClassification {
    /// The first evaluated step at which the tuning accuracy reached the target; NaN where none did.
    fn extras(&self, _: &RunConfig, run: &Run, store: &Store) -> Result<Extras> {
        // In the store itself, so that the statistics that are kept are those that were evaluated.
        self.recalibrated(store.builder()).map_err(boxed)?;
        let Some(target) = self.target else { return Ok(Extras::default()) };
        let reached = record::read(&run.metrics())?.into_iter().find_map(|event| match event {
            Event::Evaluation { step, metrics, .. } => {
                metrics.get("tune_accuracy").is_some_and(|a| *a >= target).then_some(step)
            }
            _ => None,
        });
        let steps = reached.map_or(f64::NAN, |step| step as f64);
        Ok(Extras { metrics: [("steps_to_target".to_string(), steps)].into(), text: None })
    }
}

/// Mean cross-entropy and accuracy in %.
fn score(model: &dyn Model, images: &Loader) -> Result<(f64, f64), TaskError> {
    let (mut loss, mut right, mut n) = (0.0, 0.0, 0.0);
    for batch in images.epoch(0) {
        let batch = batch?;
        let count = batch.labels.len() as f64;
        let logits = model.forward(&batch.images, Mode::Eval.into())?;
        loss += count * f64::from(cross_entropy(&logits, &batch.targets)?.to_scalar::<f32>()?);
        let guesses: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
        right += guesses.iter().zip(&batch.labels).filter(|(guess, label)| guess == label).count()
            as f64;
        n += count;
    }
    Ok((loss / n, 100.0 * right / n))
}

fn first_images(loader: &Loader) -> Result<Tensor, TaskError> {
    Ok(loader.epoch(0).next().ok_or("no images")??.images)
}
