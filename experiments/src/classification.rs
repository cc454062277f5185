//! A classifier of texts as a task: batches, loss, evaluation.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_conditioning::condition_number;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use conditioned_data::{Labels, Metric, TextBatch, TextLoader, TextLoaderConfig, Texts, Tokenizer};
use conditioned_models::bert::BertInput;
use conditioned_models::bert_heads::classification_loss;
use conditioned_nn::{Mode, Store};
use conditioned_train::{Batches, Metrics, Task, TaskError};

use crate::encoder::{Classifier, EncoderConfig};

/// Texts of a batch in an evaluation.
const EVALUATION_BATCH: usize = 64;

/// Texts to train on and to report on.
pub struct LabelledTexts {
    /// To train on.
    pub train: Arc<Texts>,
    /// To report on, by name.
    pub dev: Vec<(String, Arc<Texts>)>,
    /// What they are judged by.
    pub metrics: Vec<Metric>,
}

impl LabelledTexts {
    /// Outputs of a model for them: one for scores.
    pub fn outputs(&self) -> usize {
        match self.train.labels() {
            Labels::Classes(names) => names.len(),
            Labels::Score => 1,
        }
    }
}

/// BLAKE3 of all texts and labels of some sets.
pub fn content_hash<'a>(sets: impl Iterator<Item = &'a Texts>) -> String {
    let mut hasher = blake3::Hasher::new();
    for texts in sets {
        hasher.update(&(texts.len() as u64).to_le_bytes());
        for row in texts.rows() {
            hasher.update(row.text.as_bytes()).update(b"\0");
            hasher.update(row.second.as_deref().unwrap_or("\0").as_bytes()).update(b"\0");
            hasher.update(&row.label.to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// A model in training, its texts, and how it is judged.
pub struct Classification {
    network: EncoderConfig,
    outputs: usize,
    model: Classifier,
    train: TextLoader,
    dev: Vec<(String, TextLoader)>,
    metrics: Vec<Metric>,
}

impl Classification {
    /// A model over `store`, whose weights may be set before training, on batches as `training` says.
    ///
    /// # Errors
    /// When network and texts do not fit together.
    pub fn new(
        network: &EncoderConfig,
        data: &LabelledTexts,
        tokenizer: &Tokenizer,
        training: TextLoaderConfig,
        store: &Store,
    ) -> Result<Self, TaskError> {
        let loader = |texts: &Arc<Texts>, config| {
            TextLoader::new(texts.clone(), tokenizer, config, store.device())
        };
        let evaluation = TextLoaderConfig::evaluation(EVALUATION_BATCH, training.longest);
        let dev =
            data.dev.iter().map(|(name, texts)| Ok((name.clone(), loader(texts, evaluation)?)));
        Ok(Self {
            network: network.clone(),
            outputs: data.outputs(),
            model: network.classifier(data.outputs(), store.builder())?,
            train: loader(&data.train, training)?,
            dev: dev.collect::<Result<_, TaskError>>()?,
            metrics: data.metrics.clone(),
        })
    }

    /// The first `count` training batches: what a comparison with another program trains on.
    ///
    /// # Errors
    /// When a batch cannot be made.
    pub fn first_batches(&self, count: usize) -> Result<Vec<TextBatch>, TaskError> {
        let epochs = 0..count.div_ceil(self.train.batches());
        let batches = epochs.flat_map(|epoch| self.train.epoch(epoch)).take(count);
        Ok(batches.collect::<Result<_, _>>()?)
    }

    /// The batches of all sets to report on.
    ///
    /// # Errors
    /// When a batch cannot be made.
    pub fn dev_batches(&self) -> Result<Vec<TextBatch>, TaskError> {
        let batches = self.dev.iter().flat_map(|(_, loader)| loader.epoch(0));
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

fn judge(model: &Classifier, loader: &TextLoader) -> Result<Judged, TaskError> {
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
            let tokens = model.tokens(&input)?;
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
        let model = self.network.classifier(self.outputs, weights)?;
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
