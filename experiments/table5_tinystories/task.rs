//! A language model as a task: windows, loss, evaluation.

use candle_conditioning::condition_number;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use conditioned_data::{WindowBatch, Windows, prefixes};
use conditioned_models::gpt2::{Gpt2, Gpt2Config};
use conditioned_nn::{Mode, Store, linear_cross_entropy};
use conditioned_train::{Batches, Metrics, Task, TaskError};
use experiments::corpus::Text;
use experiments::statistics::median;

use crate::cell::{Measure, RunConfig};

/// Seed of the prefixes, the same for all cells.
const PREFIX_SEED: u64 = 0;

/// Windows whose condition numbers are measured, those of one batch at most.
const KAPPA_WINDOWS: usize = 16;

/// A model in training, its text, and how it is judged.
pub(crate) struct LanguageModel {
    network: Gpt2Config,
    model: Gpt2,
    /// Micro-batches between two evaluations.
    batches: usize,
    train: Windows,
    tune: Windows,
    test: Windows,
    measure: Measure,
    window: usize,
    batch_size: usize,
    device: Device,
}

impl LanguageModel {
    /// The task of a run; the model's parameters are created in `store`.
    pub(crate) fn new(
        config: &RunConfig,
        network: Gpt2Config,
        text: &Text,
        store: &Store,
    ) -> Result<Self, TaskError> {
        let windows = |sequence: &conditioned_data::Sequence| {
            Windows::new(sequence.clone(), config.window, config.batch_size, config.cell.seed)
        };
        let train = windows(&text.train)?;
        if train.batches() == 0 {
            let problem = format!(
                "{} training tokens do not fill a batch of {} windows of {}",
                text.train.len(),
                config.batch_size,
                config.window
            );
            return Err(problem.into());
        }
        Ok(Self {
            model: Gpt2::new(&network, store.builder())?,
            batches: config.steps / config.fit.epochs,
            train,
            tune: windows(&text.tune)?,
            test: windows(&text.test)?,
            measure: config.measure.clone(),
            window: config.window,
            batch_size: config.batch_size,
            device: store.device().clone(),
            network,
        })
    }

    /// The mean loss over the first `count` windows, in nats per token.
    fn mean_loss(&self, model: &Gpt2, windows: &Windows, count: usize) -> Result<f64, TaskError> {
        let (mut sum, mut n) = (0.0, 0);
        for index in 0..windows.evaluation_batches() {
            let WindowBatch { inputs, targets } = windows.evaluation(index, &self.device)?;
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
    fn next_token_losses(&self, model: &Gpt2) -> Result<Vec<(f64, f64)>, TaskError> {
        // Whole windows and the token after each: their prefixes have theirs inside.
        let (count, lengths) = (self.measure.prefix_windows, [self.window]);
        let fixed = prefixes(self.test.sequence(), count, &lengths, PREFIX_SEED)?;
        let (windows, after) = fixed.first().ok_or("no prefixes")?.tensors(&self.device)?; // (W, T), (W)
        let loss = |hidden: &Tensor, place: usize, targets: &Tensor| {
            let hidden = hidden.narrow(1, place, 1)?.contiguous()?;
            scalar(&linear_cross_entropy(&hidden, model.head(), targets)?)
        };
        let mut sums = vec![(0.0, 0.0); self.measure.prefix_lengths.len()];
        for first in (0..count).step_by(self.batch_size) {
            let rows = self.batch_size.min(count - first);
            let ids = windows.narrow(0, first, rows)?;
            let whole = model.hidden(&ids, Mode::Eval)?;
            for (sums, &length) in sums.iter_mut().zip(&self.measure.prefix_lengths) {
                let targets = if length == self.window {
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
        self.batches
    }

    /// An epoch is the way between two evaluations: the windows have epochs of their own.
    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_, WindowBatch>, TaskError> {
        Ok(Box::new((first..self.batches).map(move |i| {
            let batch = epoch * self.batches + i;
            let (epoch, index) = (batch / self.train.batches(), batch % self.train.batches());
            Ok(self.train.batch(epoch, index, &self.device)?)
        })))
    }

    fn loss(&self, batch: &WindowBatch, mode: Mode) -> Result<Tensor, TaskError> {
        Ok(self.model.loss(&batch.inputs, &batch.targets, mode)?)
    }

    /// Loss on the tuning slice; at the end also the test documents and the condition numbers.
    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        let model = Gpt2::new(&self.network, weights)?;
        let mut metrics = Metrics::new();
        let mut add = |name: &str, value: f64| metrics.insert(name.to_string(), value);
        add("tune_loss", self.mean_loss(&model, &self.tune, self.measure.tune_windows)?);
        let Some(test_windows) = self.measure.test_windows.filter(|_| last) else {
            return Ok(metrics);
        };
        add("test_loss", self.mean_loss(&model, &self.test, test_windows)?);
        let losses = self.next_token_losses(&model)?;
        let lengths = &self.measure.prefix_lengths;
        for (length, (alone, _)) in lengths.iter().zip(&losses) {
            add(&format!("next_loss_{length}"), *alone);
        }
        let alone: Vec<f64> = losses.iter().map(|(alone, _)| *alone).collect();
        add("next_loss", mean(&alone));
        // The token after a whole window is not in it: there no model could find it.
        let inside = lengths.iter().zip(&losses).filter(|(length, _)| **length < self.window);
        let gaps: Vec<f64> = inside.map(|(_, (alone, inside))| alone - inside).collect();
        add("leak_gap", mean(&gaps));
        let windows = self.tune.evaluation(0, &self.device)?.inputs;
        let tokens = model.tokens(&windows.narrow(0, 0, KAPPA_WINDOWS.min(windows.dim(0)?))?)?;
        add("kappa_plain", median_kappa(&tokens.plain)?);
        add("kappa_conditioned", median_kappa(&tokens.conditioned)?);
        add("pooled_kappa_plain", pooled_kappa(&tokens.plain)?);
        add("pooled_kappa_conditioned", pooled_kappa(&tokens.conditioned)?);
        Ok(metrics)
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

/// The median over sequences of kappa, (B, T, C) -> one number.
pub(crate) fn median_kappa(tokens: &Tensor) -> Result<f64, TaskError> {
    let kappas: Vec<f64> = condition_number(tokens)?.to_vec1()?;
    Ok(median(&kappas).unwrap_or(f64::NAN))
}

/// kappa of all tokens stacked, (B, T, C) -> one number.
fn pooled_kappa(tokens: &Tensor) -> Result<f64, TaskError> {
    Ok(condition_number(&tokens.flatten_to(1)?)?.to_scalar()?)
}
