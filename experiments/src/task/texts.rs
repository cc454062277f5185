//! A classifier of texts: batches, loss, evaluation.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use conditioned_data::{
    LabelledData, LabelledTexts, Labels, Metric, TextBatch, TextLoader, TextLoaderConfig, Texts,
    Tokenizer,
};
use conditioned_models::bert::BertInput;
use conditioned_models::bert_heads::classification_loss;
use conditioned_models::encoder::{Classifier, EncoderConfig};
use conditioned_nn::{Mode, Padding, Store};
use conditioned_train::{Batches, Findings, Metrics, Run, Task, TaskError};
use serde::{Deserialize, Serialize};

use crate::cell::RunConfig;
use crate::job::{CellTask, Extras};
use crate::kappa;
use crate::probe;

/// Texts of a batch in an evaluation.
const EVALUATION_BATCH: usize = 64;

/// Labelled texts, and how they are served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextsConfig {
    /// The texts.
    pub data: LabelledData,
    /// Text to tokens.
    pub tokenizer: TokenizerFile,
    /// Texts per step.
    pub batch_size: usize,
    /// Tokens of the longest text, special ones included; longer ones are cut.
    pub max_length: usize,
    /// Whether a part of the training texts is held out to judge by, as in a search, and the dev sets are not
    /// read.
    pub search: bool,
}

/// A tokenizer on disk, known by its content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerFile {
    /// Its file or folder.
    path: PathBuf,
    /// Its hash.
    hash: String,
}

impl PartialEq for TokenizerFile {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl TokenizerFile {
    /// The tokenizer at `path`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        Ok(Self { hash: Tokenizer::read(&path)?.hash(), path })
    }

    /// Reads it again, for a model that knows `vocabulary` tokens.
    ///
    /// # Errors
    /// When it is not the one that a run was planned with, or knows more tokens than the model.
    pub fn load(&self, vocabulary: usize) -> Result<Tokenizer> {
        let (tokenizer, path) = (Tokenizer::read(&self.path)?, self.path.display());
        ensure!(
            tokenizer.hash() == self.hash,
            "{path}: the tokenizer is not the one that this run was planned with; choose another --out"
        );
        tokenizer.check_rows(vocabulary)?;
        Ok(tokenizer)
    }
}

impl TextsConfig {
    /// Texts that are trained on.
    pub(crate) fn train_rows(&self) -> usize {
        self.data.train_rows(self.search)
    }

    /// Numbers that the table shows.
    pub(crate) fn facts(&self) -> Vec<(&'static str, f64)> {
        vec![("train_rows", self.train_rows() as f64), ("skipped", self.data.skipped as f64)]
    }
}

/// A model in training, its texts, and how it is judged.
pub(crate) struct TextClassification {
    network: EncoderConfig,
    outputs: usize,
    model: Classifier,
    tokenizer: Tokenizer,
    train: TextLoader,
    dev: Vec<(&'static str, TextLoader)>,
    metrics: Vec<Metric>,
    search: bool,
}

impl TextClassification {
    /// The task of a run over `store`, whose weights may be set before training.
    pub(crate) fn new(
        config: &RunConfig,
        network: &EncoderConfig,
        task: &TextsConfig,
        store: &Store,
    ) -> Result<Self, TaskError> {
        let LabelledTexts { train, dev, .. } = task.data.load(task.search)?;
        let tokenizer = task.tokenizer.load(network.vocabulary())?;
        let loader = |texts: Texts, config| {
            let loader = TextLoader::new(Arc::new(texts), &tokenizer, config, &Device::Cpu)?;
            tokenizer.check_ids(&[loader.largest_id()], network.vocabulary())?;
            Ok::<_, TaskError>(loader)
        };
        let TextsConfig { batch_size, max_length, search, .. } = *task;
        let training = TextLoaderConfig::training(batch_size, max_length, config.cell.seed);
        let evaluation = TextLoaderConfig::evaluation(EVALUATION_BATCH, max_length);
        let dev = dev.into_iter().map(|(name, texts)| Ok((name, loader(texts, evaluation)?)));
        let outputs = train.labels().outputs();
        Ok(Self {
            network: network.clone(),
            outputs,
            model: network.classifier(outputs, store.builder())?,
            train: loader(train, training)?,
            dev: dev.collect::<Result<_, TaskError>>()?,
            metrics: task.data.metrics(),
            tokenizer,
            search,
        })
    }

    /// The first `count` training batches: what a comparison with another program trains on.
    pub(crate) fn first_batches(&self, count: usize) -> Result<Vec<TextBatch>, TaskError> {
        let epochs = 0..count.div_ceil(self.train.batches());
        let batches = epochs.flat_map(|epoch| self.train.epoch(epoch)).take(count);
        Ok(batches.collect::<Result<_, _>>()?)
    }

    /// The batches of all sets to report on.
    pub(crate) fn dev_batches(&self) -> Result<Vec<TextBatch>, TaskError> {
        let batches = self.dev.iter().flat_map(|(_, loader)| loader.epoch(0));
        Ok(batches.collect::<Result<_, _>>()?)
    }
}

/// What the model reads of a batch.
fn input(batch: &TextBatch) -> Result<BertInput, TaskError> {
    Ok(BertInput::padded(batch.ids.clone(), batch.types.clone(), &batch.mask)?)
}

/// Predicted and true labels of a set, the mean loss, and kappa of all tokens of the last full batch, that of
/// the longest texts.
struct Judged {
    predictions: Vec<f32>,
    labels: Vec<f32>,
    loss: f64,
    kappas: Metrics,
}

fn judge(model: &Classifier, loader: &TextLoader) -> Result<Judged, TaskError> {
    let classes = matches!(loader.texts().labels(), Labels::Classes(_));
    let (predictions, labels, kappas) = (Vec::new(), Vec::new(), Metrics::new());
    let mut judged = Judged { predictions, labels, loss: 0.0, kappas };
    for (index, batch) in loader.epoch(0).enumerate() {
        let batch = batch?;
        let input = input(&batch)?;
        let last_full = loader.texts().len() / EVALUATION_BATCH;
        if index + 1 == last_full.max(1) {
            kappa::add_pooled(&mut judged.kappas, &model.real_tokens(&input)?)?;
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

impl Task for TextClassification {
    type Batch = TextBatch;

    fn batches_per_epoch(&self) -> usize {
        self.train.batches()
    }

    fn batches(
        &self,
        epoch: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, TextBatch>, TaskError> {
        Ok(Box::new(self.train.epoch_from(epoch, first, every).map(|batch| Ok(batch?))))
    }

    fn loss(&self, batch: &TextBatch, mode: Mode) -> Result<Tensor, TaskError> {
        Ok(self.model.loss(&input(batch)?, &batch.labels, mode)?)
    }

    /// Every metric of every set, their means over the sets, and `score`, the mean of these. Dev sets are read
    /// after the last step only.
    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        let model = self.network.classifier(self.outputs, weights)?;
        let mut all = Metrics::new();
        let mut means: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, loader) in self.dev.iter().filter(|_| last || self.search) {
            let judged = judge(&model, loader)?;
            all.insert(format!("{name}_loss"), judged.loss);
            for metric in &self.metrics {
                // A correlation with a constant has no value.
                let value =
                    metric.compute(&judged.predictions, &judged.labels)?.unwrap_or(f64::NAN);
                all.insert(format!("{name}_{}", metric.name()), 100.0 * value);
                means.entry(metric.name()).or_default().push(100.0 * value);
            }
            all.extend(judged.kappas);
            all.insert(format!("{name}_truncated"), loader.truncated() as f64);
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let means = means.into_iter().map(|(name, values)| (name, mean(&values)));
        let means: BTreeMap<&str, f64> = means.collect();
        if !means.is_empty() {
            all.insert("train_truncated".to_string(), self.train.truncated() as f64);
            all.insert("score".to_string(), mean(&means.values().copied().collect::<Vec<_>>()));
        }
        all.extend(means.into_iter().map(|(name, value)| (name.to_string(), value)));
        Ok(all)
    }

    /// Of the first training texts: dev sets are not read before the end.
    fn probe(&self, weights: VarBuilder<'static>) -> Result<Findings, TaskError> {
        let model = self.network.classifier(self.outputs, weights)?;
        let TextBatch { ids, types, mask, .. } = self.train.epoch(0).next().ok_or("no texts")??;
        let padding = Padding::of(&mask)?;
        probe::findings(padding.lengths().iter().enumerate().map(|(row, &length)| {
            let text = |x: &Tensor| x.narrow(0, row, 1)?.narrow(1, 0, length)?.contiguous();
            let input = BertInput { ids: text(&ids)?, types: text(&types)?, padding: None };
            Ok(model.probe(&input)?)
        }))
    }
}

impl CellTask for TextClassification {
    /// The tokenizer goes beside the weights.
    fn extras(&self, config: &RunConfig, run: &Run, _: &Store) -> Result<Extras> {
        if !config.cell.is_search() {
            self.tokenizer.save(&run.folder)?;
        }
        Ok(Extras::default())
    }
}
