//! Classification of long sequences: batches, loss, evaluation.

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_conditioning::condition_number;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use conditioned_data::{
    SequenceBatch, SequenceData, SequenceLoader, SequenceLoaderConfig, SequenceSet,
};
use conditioned_models::bert_heads::classification_loss;
use conditioned_models::nystromformer::{NystromformerConfig, Sequences};
use conditioned_models::nystromformer_heads::NystromformerClassifier;
use conditioned_nn::{Mode, Padding, Store};
use conditioned_report::statistics::median;
use conditioned_train::{Batches, Findings, Metrics, Task, TaskError};
use serde::{Deserialize, Serialize};

use crate::cell::RunConfig;
use crate::job::CellTask;
use crate::probe;

/// Sequences of the tuning set whose condition numbers are measured.
const KAPPA_SEQUENCES: usize = 16;

/// Sequences, and how they are served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequencesConfig {
    /// The sequences.
    pub data: SequenceData,
    /// Sequences, or pairs of them, per step.
    pub batch_size: usize,
    /// The token that is left out of every sequence, the places of the others kept; null leaves out none.
    pub leave_out: Option<u16>,
}

impl SequencesConfig {
    /// The ids (B, N) of the first training batch of a seed, N those of its shortest sequence.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn first_batch(&self, seed: u64) -> Result<Tensor> {
        let train = Arc::new(self.data.load()?.train);
        let order = SequenceLoaderConfig {
            leave_out: self.leave_out,
            ..SequenceLoaderConfig::training(self.batch_size, seed)
        };
        let loader = SequenceLoader::new(train, order, &Device::Cpu)?;
        let batch = loader.epoch(0).next().context("no sequences")??;
        let lengths: Vec<f32> = batch.mask.to_dtype(DType::F32)?.sum(1)?.to_vec1()?;
        let shortest = lengths.into_iter().fold(f32::INFINITY, f32::min) as usize;
        Ok(batch.ids.narrow(1, 0, shortest)?.contiguous()?)
    }

    /// Numbers that the table shows.
    pub(crate) fn facts(&self) -> Vec<(&'static str, f64)> {
        let SequenceData { longest, train_len, test_len, .. } = self.data;
        let number = |count: usize| count as f64;
        vec![
            ("train_rows", number(train_len)),
            ("test_rows", number(test_len)),
            ("longest", number(longest)),
        ]
    }
}

/// A model in training, its sequences, and how it is judged.
pub(crate) struct SequenceClassification {
    network: NystromformerConfig,
    classes: usize,
    pairs: bool,
    model: NystromformerClassifier,
    train: SequenceLoader,
    tune: SequenceLoader,
    /// Not in a search.
    test: Option<SequenceLoader>,
}

impl SequenceClassification {
    /// The task of a run over `store`.
    pub(crate) fn new(
        config: &RunConfig,
        network: &NystromformerConfig,
        task: &SequencesConfig,
        store: &Store,
    ) -> Result<Self, TaskError> {
        let SequencesConfig { data, batch_size, leave_out } = task;
        let splits = data.load()?;
        let loader = |set: SequenceSet, config| {
            let config = SequenceLoaderConfig { leave_out: *leave_out, ..config };
            SequenceLoader::new(Arc::new(set), config, &Device::Cpu)
        };
        let training = SequenceLoaderConfig::training(*batch_size, config.cell.seed);
        let evaluation = SequenceLoaderConfig::evaluation(*batch_size);
        let (classes, pairs) = (data.classes, data.pairs);
        Ok(Self {
            network: network.clone(),
            classes,
            pairs,
            model: NystromformerClassifier::new(network, classes, pairs, store.builder())?,
            train: loader(splits.train, training)?,
            tune: loader(splits.tune, evaluation)?,
            test: match config.cell.is_search() {
                true => None,
                false => Some(loader(splits.test, evaluation)?),
            },
        })
    }
}

/// What the model reads of a batch.
fn input(batch: &SequenceBatch) -> candle_core::Result<Sequences> {
    Sequences::padded(batch.ids.clone(), Some(batch.positions.clone()), &batch.mask)
}

/// Mean loss and accuracy in %.
fn score(
    model: &NystromformerClassifier,
    loader: &SequenceLoader,
) -> Result<(f64, f64), TaskError> {
    let (mut loss, mut right, mut n) = (0.0, 0.0, 0.0);
    for batch in loader.epoch(0) {
        let batch = batch?;
        let logits = model.logits(&input(&batch)?, Mode::Eval)?;
        let labels: Vec<u32> = batch.labels.to_vec1()?;
        let count = labels.len() as f64;
        let mean = classification_loss(&logits, &batch.labels)?.to_scalar::<f32>()?;
        loss += count * f64::from(mean);
        let guesses: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
        right += guesses.iter().zip(&labels).filter(|(guess, label)| guess == label).count() as f64;
        n += count;
    }
    Ok((loss / n, 100.0 * right / n))
}

/// The median over sequences of kappa of their real tokens, without and with conditioning.
fn add_kappa(
    metrics: &mut Metrics,
    model: &NystromformerClassifier,
    loader: &SequenceLoader,
) -> Result<(), TaskError> {
    // Spread over the set, which is sorted by length.
    let (mut plain, mut conditioned) = (Vec::new(), Vec::new());
    let every = loader.batches().div_ceil(KAPPA_SEQUENCES).max(1);
    for batch in loader.epoch(0).step_by(every) {
        let input = input(&batch?)?;
        let tokens = model.nystromformer().padded_tokens(&input)?;
        let length = match &input.padding {
            Some(padding) => padding.lengths().first().copied().unwrap_or_default(),
            None => input.ids.dim(1)?,
        };
        for (kappas, tokens) in [(&mut plain, tokens.plain), (&mut conditioned, tokens.conditioned)]
        {
            let first = tokens.get(0)?.narrow(0, 0, length)?.contiguous()?;
            kappas.push(condition_number(&first)?.to_scalar::<f64>()?);
        }
    }
    for (side, kappas) in [("plain", plain), ("conditioned", conditioned)] {
        let median = median(&kappas).unwrap_or(f64::NAN);
        metrics.insert(format!("kappa_sequence_{side}"), median);
    }
    Ok(())
}

impl Task for SequenceClassification {
    type Batch = SequenceBatch;

    fn batches_per_epoch(&self) -> usize {
        self.train.batches()
    }

    fn batches(
        &self,
        epoch: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, SequenceBatch>, TaskError> {
        Ok(Box::new(self.train.epoch_from(epoch, first, every).map(|batch| Ok(batch?))))
    }

    fn loss(&self, batch: &SequenceBatch, mode: Mode) -> Result<Tensor, TaskError> {
        Ok(self.model.loss(&input(batch)?, &batch.labels, mode)?)
    }

    /// Loss and accuracy on the tuning set and kappa of the tokens; at the end also the test.
    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        let model = NystromformerClassifier::new(&self.network, self.classes, self.pairs, weights)?;
        let mut metrics = Metrics::new();
        let sets = [("tune", Some(&self.tune)), ("test", self.test.as_ref().filter(|_| last))];
        for (set, loader) in sets {
            if let Some(loader) = loader {
                let (loss, accuracy) = score(&model, loader)?;
                metrics.insert(format!("{set}_loss"), loss);
                metrics.insert(format!("{set}_accuracy"), accuracy);
            }
        }
        add_kappa(&mut metrics, &model, &self.tune)?;
        Ok(metrics)
    }

    /// Of sequences spread over the tuning set, which is sorted by length.
    fn probe(&self, weights: VarBuilder<'static>) -> Result<Findings, TaskError> {
        let model = NystromformerClassifier::new(&self.network, self.classes, self.pairs, weights)?;
        let every = self.tune.batches().div_ceil(probe::SEQUENCES).max(1);
        probe::findings(self.tune.epoch(0).step_by(every).map(|batch| {
            let SequenceBatch { ids, positions, mask, .. } = batch?;
            let length = Padding::of(&mask)?.lengths()[0];
            let first = |x: &Tensor| x.narrow(0, 0, 1)?.narrow(1, 0, length)?.contiguous();
            let positions = Some(first(&positions)?);
            let input = Sequences { ids: first(&ids)?, positions, padding: None };
            Ok(model.nystromformer().probe_input(&input)?)
        }))
    }
}

impl CellTask for SequenceClassification {}
