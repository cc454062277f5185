//! Image classification as a task: loaders, loss, evaluation.

use std::sync::Arc;

use candle_conditioning::condition_number;
use candle_core::{D, Device, Tensor};
use candle_nn::VarBuilder;
use conditioned_data::{Batch, Images, Loader, LoaderConfig, Normalisation, Splits};
use conditioned_models::vit::{Vit, VitConfig};
use conditioned_nn::{Mode, Store, cross_entropy};
use conditioned_train::{Batches, Metrics, Task, TaskError};
use experiments::statistics::median;

use crate::cell::RunConfig;

/// Images per batch of an evaluation.
const EVALUATION_BATCH: usize = 256;

/// Training images that running statistics are recalibrated on.
const RECALIBRATION_IMAGES: usize = 4096;

/// Images of the tuning slice whose condition numbers are measured.
const KAPPA_IMAGES: usize = 64;

/// A model in training, its images, and how it is judged.
pub(crate) struct Classification {
    network: VitConfig,
    model: Vit,
    train: Loader,
    recalibration: Loader,
    tune: Loader,
    test: Option<Loader>,
    /// The images whose condition numbers are measured.
    kappa: Tensor,
}

impl Classification {
    /// The task of a run; the model's parameters are created in `store`.
    pub(crate) fn new(
        config: &RunConfig,
        network: VitConfig,
        splits: &Splits,
        store: &Store,
    ) -> Result<Self, TaskError> {
        let device = store.device();
        let normalisation = Normalisation::measure(&splits.train)?;
        let training = LoaderConfig {
            augment: config.data.augment.clone(),
            ..LoaderConfig::training(config.data.batch_size, config.cell.seed)
        };
        let evaluation = |images: Arc<Images>, batch: usize| {
            Loader::new(images, LoaderConfig::evaluation(batch), &normalisation, device)
        };
        let some = splits.train.len().min(RECALIBRATION_IMAGES);
        let recalibration = Arc::new(splits.train.take(some)?);
        let tune = evaluation(splits.tune.clone(), EVALUATION_BATCH)?;
        let images = splits.tune.len().min(KAPPA_IMAGES);
        Ok(Self {
            kappa: first_batch(&evaluation(splits.tune.clone(), images)?)?.images,
            model: Vit::new(&network, store.builder())?,
            network,
            train: Loader::new(splits.train.clone(), training, &normalisation, device)?,
            recalibration: evaluation(recalibration, EVALUATION_BATCH)?,
            test: match config.test {
                true => Some(evaluation(splits.test.clone(), EVALUATION_BATCH)?),
                false => None,
            },
            tune,
        })
    }
}

impl Task for Classification {
    type Batch = Batch;

    fn batches_per_epoch(&self) -> usize {
        self.train.batches()
    }

    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_, Batch>, TaskError> {
        Ok(Box::new(self.train.epoch_from(epoch, first).map(|batch| Ok(batch?))))
    }

    fn loss(&self, batch: &Batch, mode: Mode) -> Result<Tensor, TaskError> {
        Ok(cross_entropy(&self.model.forward(&batch.images, mode)?, &batch.targets)?)
    }

    /// Loss and accuracy on the tuning slice and kappa of the tokens; at the end also the test.
    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        let model = Vit::new(&self.network, weights)?;
        model.recalibrate(
            self.recalibration.epoch(0).map(|batch| Ok::<_, TaskError>(batch?.images)),
        )?;
        let mut metrics = Metrics::new();
        let mut add = |name: &str, value: f64| metrics.insert(name.to_string(), value);
        let (loss, accuracy) = score(&model, &self.tune)?;
        add("tune_loss", loss);
        add("tune_accuracy", accuracy);
        let tokens = model.tokens(&self.kappa)?;
        add("kappa_plain", median_kappa(&tokens.plain)?);
        add("kappa_conditioned", median_kappa(&tokens.conditioned)?);
        if let Some(test) = self.test.as_ref().filter(|_| last) {
            let (loss, accuracy) = score(&model, test)?;
            add("test_loss", loss);
            add("test_accuracy", accuracy);
        }
        Ok(metrics)
    }
}

/// Mean cross-entropy and accuracy in %.
fn score(model: &Vit, images: &Loader) -> Result<(f64, f64), TaskError> {
    let (mut loss, mut right, mut n) = (0.0, 0.0, 0.0);
    for batch in images.epoch(0) {
        let batch = batch?;
        let count = batch.labels.len() as f64;
        let logits = model.forward(&batch.images, Mode::Eval)?;
        loss += count * f64::from(cross_entropy(&logits, &batch.targets)?.to_scalar::<f32>()?);
        let guesses: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
        right += guesses.iter().zip(&batch.labels).filter(|(guess, label)| guess == label).count()
            as f64;
        n += count;
    }
    Ok((loss / n, 100.0 * right / n))
}

/// The median over sequences of kappa, (B, N, C) -> one number.
pub(crate) fn median_kappa(tokens: &Tensor) -> Result<f64, TaskError> {
    let kappas: Vec<f64> = condition_number(tokens)?.to_vec1()?;
    Ok(median(&kappas).unwrap_or(f64::NAN))
}

/// The images of the first training batch, not augmented.
pub(crate) fn first_images(
    config: &RunConfig,
    splits: &Splits,
    device: &Device,
) -> Result<Tensor, TaskError> {
    let normalisation = Normalisation::measure(&splits.train)?;
    let order = LoaderConfig::training(config.data.batch_size, config.cell.seed);
    Ok(first_batch(&Loader::new(splits.train.clone(), order, &normalisation, device)?)?.images)
}

fn first_batch(loader: &Loader) -> Result<Batch, TaskError> {
    Ok(loader.epoch(0).next().ok_or("no images")??)
}
