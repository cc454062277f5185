//! A language model: windows, loss, evaluation, and what it writes at the end.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use conditioned_data::{TextConfig, TextSplits, Tokenizer, WindowBatch, Windows, prefixes};
use conditioned_models::Model;
use conditioned_models::generate::Sampling;
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_nn::{Mode, Precision, Store, linear_cross_entropy};
use conditioned_train::{Batches, Findings, Metrics, Run, Task, TaskError};
use serde::{Deserialize, Serialize};

use crate::cell::RunConfig;
use crate::job::{CellTask, Extras};
use crate::kappa;
use crate::language_model::continued;
use crate::probe;

/// Seed of the prefixes, the same for all cells.
const PREFIX_SEED: u64 = 0;

/// Windows whose condition numbers are measured, those of one batch at most.
const KAPPA_WINDOWS: usize = 16;

/// The temperature of what a model writes at the end.
const TEMPERATURE: f64 = 0.8;

/// A text, and how it is served and judged by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageConfig {
    /// The text.
    pub text: TextConfig,
    /// What an n-gram model of the training tokens pays for the test documents, in nats per token.
    pub ngram_loss: f64,
    /// Tokens T of a window.
    pub window: usize,
    /// Windows per step.
    pub batch_size: usize,
    /// Windows of the tuning slice that are evaluated.
    pub tune_windows: usize,
    /// Windows of the test documents that are evaluated.
    pub test_windows: usize,
    /// Windows of the test documents whose prefixes are continued by one token.
    pub prefix_windows: usize,
    /// Lengths of the prefixes.
    pub prefix_lengths: Vec<usize>,
    /// What the model writes on from at the end.
    pub prompt: String,
}

impl LanguageConfig {
    /// The inputs (B, T) of the first training batch of a seed.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn first_batch(&self, seed: u64) -> Result<Tensor> {
        let train = self.text.load()?.train;
        let windows = Windows::new(train, self.window, self.batch_size, seed)?;
        Ok(windows.batch(0, 0, &Device::Cpu)?.inputs)
    }

    /// Numbers that the table shows.
    pub(crate) fn facts(&self) -> Vec<(&'static str, f64)> {
        vec![
            ("step_tokens", (self.batch_size * self.window) as f64),
            ("train_tokens", self.text.train_tokens as f64),
            ("test_tokens_per_byte", self.text.test_tokens_per_byte()),
            ("ngram_loss", self.ngram_loss),
        ]
    }
}

/// A model in training, its text, and how it is judged.
pub(crate) struct LanguageModel {
    network: Gpt2Config,
    model: Gpt2,
    tokenizer: Tokenizer,
    train: Windows,
    tune: Windows,
    /// Not in a search.
    test: Option<Windows>,
    config: LanguageConfig,
}

impl LanguageModel {
    /// The task of a run; the model's parameters are created in `store`.
    pub(crate) fn new(
        config: &RunConfig,
        network: &Gpt2Config,
        task: &LanguageConfig,
        store: &Store,
    ) -> Result<Self, TaskError> {
        let TextSplits { tokenizer, train, tune, test } = task.text.load()?;
        let windows =
            |sequence| Windows::new(sequence, task.window, task.batch_size, config.cell.seed);
        let train = windows(train)?;
        train.fill_a_batch()?;
        Ok(Self {
            model: Gpt2::new(network, store.builder())?,
            network: network.clone(),
            tokenizer,
            train,
            tune: windows(tune)?,
            test: match config.cell.is_search() {
                true => None,
                false => Some(windows(test)?),
            },
            config: task.clone(),
        })
    }

    /// The mean loss over the first `count` windows, in nats per token.
    fn mean_loss(&self, model: &Gpt2, windows: &Windows, count: usize) -> Result<f64, TaskError> {
        let (mut sum, mut n) = (0.0, 0);
        for index in 0..windows.evaluation_batches() {
            let WindowBatch { inputs, targets } = windows.evaluation(index, &Device::Cpu)?;
            let rows = inputs.dim(0)?.min(count - n);
            let (inputs, targets) = (inputs.narrow(0, 0, rows)?, targets.narrow(0, 0, rows)?);
            sum += rows as f64 * scalar(&model.loss(&inputs, &targets, Mode::Eval)?)?;
            n += rows;
            if n == count {
                break;
            }
        }
        Ok(sum / n as f64)
    }

    /// For each prefix length the mean loss of the next token: after the prefix alone, and at the
    /// same place inside the whole window.
    fn next_token_losses(
        &self,
        model: &Gpt2,
        test: &Windows,
    ) -> Result<Vec<(f64, f64)>, TaskError> {
        let LanguageConfig { window, batch_size, prefix_windows: count, .. } = self.config;
        // Whole windows and the token after each: their prefixes have theirs inside.
        let fixed = prefixes(test.sequence(), count, &[window], PREFIX_SEED)?;
        let (windows, after) = fixed.first().ok_or("no prefixes")?.tensors(&Device::Cpu)?; // (W, T), (W)
        let loss = |hidden: &Tensor, place: usize, targets: &Tensor| {
            let hidden = hidden.narrow(1, place, 1)?.contiguous()?;
            scalar(&linear_cross_entropy(&hidden, model.head(), targets, Precision::Full)?)
        };
        let mut sums = vec![(0.0, 0.0); self.config.prefix_lengths.len()];
        for first in (0..count).step_by(batch_size) {
            let rows = batch_size.min(count - first);
            let ids = windows.narrow(0, first, rows)?;
            let whole = model.hidden(&ids, Mode::Eval)?;
            for (sums, &length) in sums.iter_mut().zip(&self.config.prefix_lengths) {
                let targets = if length == window {
                    after.narrow(0, first, rows)?.unsqueeze(1)?
                } else {
                    ids.narrow(1, length, 1)?.contiguous()?
                };
                let prefix = ids.narrow(1, 0, length)?.contiguous()?;
                let alone = model.hidden(&prefix, Mode::Eval)?;
                let share = rows as f64 / count as f64;
                sums.0 += share * loss(&alone, length - 1, &targets)?;
                sums.1 += share * loss(&whole, length - 1, &targets)?;
            }
        }
        Ok(sums)
    }
}

impl Task for LanguageModel {
    type Batch = WindowBatch;

    fn batches_per_epoch(&self) -> usize {
        self.train.batches()
    }

    fn batches(
        &self,
        epoch: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, WindowBatch>, TaskError> {
        let indices = (first..self.train.batches()).step_by(every);
        Ok(Box::new(indices.map(move |i| Ok(self.train.batch(epoch, i, &Device::Cpu)?))))
    }

    fn loss(&self, batch: &WindowBatch, mode: Mode) -> Result<Tensor, TaskError> {
        Ok(self.model.loss(&batch.inputs, &batch.targets, mode)?)
    }

    /// Loss on the tuning slice; at the end also the test documents and the condition numbers.
    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        let model = Gpt2::new(&self.network, weights)?;
        let mut metrics = Metrics::new();
        let mut add = |name: &str, value: f64| metrics.insert(name.to_string(), value);
        add("tune_loss", self.mean_loss(&model, &self.tune, self.config.tune_windows)?);
        let Some(test) = self.test.as_ref().filter(|_| last) else { return Ok(metrics) };
        add("test_loss", self.mean_loss(&model, test, self.config.test_windows)?);
        let losses = self.next_token_losses(&model, test)?;
        let lengths = &self.config.prefix_lengths;
        for (length, (alone, _)) in lengths.iter().zip(&losses) {
            add(&format!("next_token_loss_{length}"), *alone);
        }
        let alone: Vec<f64> = losses.iter().map(|(alone, _)| *alone).collect();
        add("next_token_loss", mean(&alone));
        // The token after a whole window is not in it: there no model could find it.
        let inside =
            lengths.iter().zip(&losses).filter(|(length, _)| **length < self.config.window);
        let gaps: Vec<f64> = inside.map(|(_, (alone, inside))| alone - inside).collect();
        add("leak_gap", mean(&gaps));
        let windows = self.tune.evaluation(0, &Device::Cpu)?.inputs;
        let tokens = model.tokens(&windows.narrow(0, 0, KAPPA_WINDOWS.min(windows.dim(0)?))?)?;
        kappa::add_of_sequences(&mut metrics, &tokens)?;
        kappa::add_pooled(&mut metrics, &tokens)?;
        Ok(metrics)
    }

    /// Of the first windows of the tuning slice.
    fn probe(&self, weights: VarBuilder<'static>) -> Result<Findings, TaskError> {
        let model = Gpt2::new(&self.network, weights)?;
        let windows = self.tune.evaluation(0, &Device::Cpu)?.inputs;
        probe::findings(probe::singles(&windows).map(|window| Ok(model.probe(&window?)?)))
    }
}

impl CellTask for LanguageModel {
    /// What the model of a table writes; its tokenizer goes beside the weights.
    fn extras(&self, config: &RunConfig, run: &Run, store: &Store) -> Result<Extras> {
        if config.cell.is_search() {
            return Ok(Extras::default());
        }
        self.tokenizer.save(&run.folder)?;
        let model = Gpt2::new(&self.network, store.frozen()?)?;
        let sampling = Sampling {
            temperature: TEMPERATURE,
            seed: config.cell.seed,
            stop: self.tokenizer.ends(),
            vocabulary: Some(self.tokenizer.vocab_size()),
            ..Sampling::default()
        };
        let text = continued(&model, &self.tokenizer, &self.config.prompt, &sampling)?;
        Ok(Extras { text: Some(text), ..Extras::default() })
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// A loss as a number.
fn scalar(loss: &Tensor) -> candle_core::Result<f64> {
    // Not every device has f64.
    Ok(f64::from(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?))
}
