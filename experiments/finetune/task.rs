//! Fine-tuning as a task: batches, loss, evaluation.

use std::collections::BTreeMap;

use candle_conditioning::condition_number;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use conditioned_data::{Labels, Metric, TextBatch, TextLoader, TextLoaderConfig, Tokenizer};
use conditioned_models::bert::{BertConfig, BertInput};
use conditioned_models::bert_heads::{BertClassifier, classification_loss};
use conditioned_nn::{Mode, Store};
use conditioned_train::{Batches, Metrics, Task, TaskError};

use crate::cell::RunConfig;
use crate::data::Data;

/// Texts of a batch in an evaluation.
const EVALUATION_BATCH: usize = 64;

/// A model in training, its texts, and how it is judged.
pub(crate) struct Classification {
    network: BertConfig,
    outputs: usize,
    model: BertClassifier,
    train: TextLoader,
    dev: Vec<(String, TextLoader)>,
    metrics: Vec<Metric>,
}

impl Classification {
    /// The task of a run; the model is over `store` and has the checkpoint's weights.
    pub(crate) fn new(
        config: &RunConfig,
        model: BertClassifier,
        data: &Data,
        tokenizer: &Tokenizer,
        store: &Store,
    ) -> Result<Self, TaskError> {
        let loader = |texts: &std::sync::Arc<_>, config| {
            TextLoader::new(std::sync::Arc::clone(texts), tokenizer, config, store.device())
        };
        let training =
            TextLoaderConfig::training(config.batch_size, config.longest, config.cell.seed);
        let evaluation = TextLoaderConfig::evaluation(EVALUATION_BATCH, config.longest);
        let dev =
            data.dev.iter().map(|(name, texts)| Ok((name.clone(), loader(texts, evaluation)?)));
        Ok(Self {
            network: config.network.clone(),
            outputs: config.data.outputs(),
            model,
            train: loader(&data.train, training)?,
            dev: dev.collect::<Result<_, TaskError>>()?,
            metrics: data.metrics.clone(),
        })
    }

    /// The first `count` training batches: what a comparison with another program trains on.
    pub(crate) fn first_batches(&self, count: usize) -> Result<Vec<TextBatch>, TaskError> {
        let epochs = 0..count.div_ceil(self.train.batches());
        let batches = epochs.flat_map(|epoch| self.train.epoch(epoch)).take(count);
        Ok(batches.collect::<Result<_, _>>()?)
    }
}

/// What the model reads of a batch.
fn input(batch: &TextBatch) -> Result<BertInput, TaskError> {
    Ok(BertInput::padded(batch.ids.clone(), batch.types.clone(), &batch.mask)?)
}

/// Predicted and true labels of a set, the mean loss, and the condition number of the tokens of the
/// last full batch, those of the longest texts, without and with conditioning.
struct Judged {
    predictions: Vec<f32>,
    labels: Vec<f32>,
    loss: f64,
    kappa: (f64, f64),
}

fn judge(model: &BertClassifier, loader: &TextLoader) -> Result<Judged, TaskError> {
    let classes = matches!(loader.texts().labels(), Labels::Classes(_));
    let mut judged = Judged {
        predictions: Vec::new(),
        labels: Vec::new(),
        loss: 0.0,
        kappa: (f64::NAN, f64::NAN),
    };
    for (index, batch) in loader.epoch(0).enumerate() {
        let batch = batch?;
        let input = input(&batch)?;
        let last_full = loader.texts().len() / EVALUATION_BATCH;
        if index + 1 == last_full.max(1) {
            let tokens = model.bert().tokens(&input)?;
            let kappa = |x: &Tensor| condition_number(x)?.to_scalar::<f64>();
            judged.kappa = (kappa(&tokens.plain)?, kappa(&tokens.conditioned)?);
        }
        let logits = model.logits(&input, Mode::Eval)?;
        let predicted = match classes {
            true => logits.argmax(D::Minus1)?.to_dtype(DType::F32)?,
            false => logits.squeeze(1)?,
        };
        let rows = batch.indices.len() as f64;
        let loss = classification_loss(&logits, &batch.labels)?.to_scalar::<f32>()?;
        judged.loss += rows * f64::from(loss);
        judged.predictions.extend(predicted.to_device(&Device::Cpu)?.to_vec1::<f32>()?);
        judged.labels.extend(batch.labels.to_dtype(DType::F32)?.to_vec1::<f32>()?);
    }
    judged.loss /= judged.labels.len() as f64;
    Ok(judged)
}

impl Task for Classification {
    type Batch = TextBatch;

    fn batches_per_epoch(&self) -> usize {
        self.train.batches()
    }

    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_, TextBatch>, TaskError> {
        Ok(Box::new(self.train.epoch_from(epoch, first).map(|batch| Ok(batch?))))
    }

    fn loss(&self, batch: &TextBatch, mode: Mode) -> Result<Tensor, TaskError> {
        Ok(self.model.loss(&input(batch)?, &batch.labels, mode)?)
    }

    /// Every metric of every set, after the last step only: no choice is made on the way.
    fn evaluate(&self, weights: VarBuilder<'static>, _last: bool) -> Result<Metrics, TaskError> {
        let model = BertClassifier::new(&self.network, self.outputs, weights)?;
        let mut all = BTreeMap::new();
        let mut means: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, loader) in &self.dev {
            let judged = judge(&model, loader)?;
            all.insert(format!("{name}_loss"), judged.loss);
            for metric in &self.metrics {
                // A correlation with a constant has no value.
                let value =
                    metric.compute(&judged.predictions, &judged.labels)?.unwrap_or(f64::NAN);
                all.insert(format!("{name}_{}", metric.name()), 100.0 * value);
                means.entry(metric.name()).or_default().push(100.0 * value);
            }
            all.insert("kappa_plain".to_string(), judged.kappa.0);
            all.insert("kappa_conditioned".to_string(), judged.kappa.1);
            all.insert(format!("{name}_truncated"), loader.truncated() as f64);
        }
        all.insert("train_truncated".to_string(), self.train.truncated() as f64);
        for (name, values) in means {
            all.insert(name.to_string(), values.iter().sum::<f64>() / values.len() as f64);
        }
        Ok(all)
    }
}
