//! Pre-training of an encoder: hidden tokens, loss, evaluation.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use conditioned_data::{
    MaskedBatch, MaskedWindows, Masking, Sequence, TextConfig, Tokenizer, Windows,
};
use conditioned_models::bert::BertInput;
use conditioned_models::conditioning::Tokens;
use conditioned_models::encoder::{EncoderConfig, MaskedLm};
use conditioned_nn::{Mode, Store};
use conditioned_train::{Batches, Findings, Metrics, Run, Task, TaskError};
use serde::{Deserialize, Serialize};

use crate::cell::RunConfig;
use crate::job::{CellTask, Extras};
use crate::kappa;
use crate::probe;

/// Windows whose condition numbers are measured, those of one batch at most.
const KAPPA_WINDOWS: usize = 16;

/// A text, and how it is served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskedConfig {
    /// The text.
    pub text: TextConfig,
    /// Tokens T of a window.
    pub window: usize,
    /// Windows of a micro-batch.
    pub batch_size: usize,
    /// Share of the tokens that are hidden.
    pub mask: f64,
    /// Windows of an evaluation, at most, rounded up to whole micro-batches.
    pub evaluation_windows: usize,
}

impl MaskedConfig {
    /// The inputs (B, T) of the first training batch of a seed, nothing hidden.
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
        vec![("micro_batch_tokens", (self.batch_size * self.window) as f64)]
    }
}

/// A model in training, its text, and how it is judged.
pub(crate) struct MaskedLanguageModel {
    network: EncoderConfig,
    model: MaskedLm,
    train: MaskedWindows,
    tune: MaskedWindows,
    /// Not in a search.
    test: Option<MaskedWindows>,
    evaluation_windows: usize,
    tokenizer: Tokenizer,
}

impl MaskedLanguageModel {
    /// The task of a run; the model's parameters are created in `store`.
    pub(crate) fn new(
        config: &RunConfig,
        network: &EncoderConfig,
        task: &MaskedConfig,
        store: &Store,
    ) -> Result<Self, TaskError> {
        let (text, seed) = (task.text.load()?, config.cell.seed);
        let masked = |sequence: &Sequence| {
            let windows = Windows::new(sequence.clone(), task.window, task.batch_size, seed)?;
            MaskedWindows::new(windows, Masking { share: task.mask, seed }, &text.tokenizer)
        };
        let train = masked(&text.train)?;
        train.windows().fill_a_batch()?;
        Ok(Self {
            model: network.masked_lm(store.builder())?,
            network: network.clone(),
            train,
            tune: masked(&text.tune)?,
            test: match config.cell.is_search() {
                true => None,
                false => Some(masked(&text.test)?),
            },
            evaluation_windows: task.evaluation_windows,
            tokenizer: text.tokenizer,
        })
    }

    /// The mean loss over the first windows, in nats per hidden token.
    fn mean_loss(&self, model: &MaskedLm, windows: &MaskedWindows) -> Result<f64, TaskError> {
        let (mut sum, mut n) = (0.0, 0);
        for index in 0..windows.windows().evaluation_batches() {
            let batch = windows.evaluation(index, &Device::Cpu)?;
            let rows = batch.inputs.dim(0)?;
            let loss = loss(model, &batch, Mode::Eval)?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
            sum += rows as f64 * f64::from(loss);
            n += rows;
            if n >= self.evaluation_windows {
                break;
            }
        }
        Ok(sum / n as f64)
    }
}

fn loss(model: &MaskedLm, batch: &MaskedBatch, mode: Mode) -> candle_core::Result<Tensor> {
    let input = BertInput::new(batch.inputs.clone())?;
    model.loss(&input, &batch.positions, &batch.targets, mode)
}

impl Task for MaskedLanguageModel {
    type Batch = MaskedBatch;

    fn batches_per_epoch(&self) -> usize {
        self.train.windows().batches()
    }

    fn batches(
        &self,
        epoch: usize,
        first: usize,
        every: usize,
    ) -> Result<Batches<'_, MaskedBatch>, TaskError> {
        let indices = (first..self.train.windows().batches()).step_by(every);
        Ok(Box::new(indices.map(move |i| Ok(self.train.batch(epoch, i, &Device::Cpu)?))))
    }

    fn loss(&self, batch: &MaskedBatch, mode: Mode) -> Result<Tensor, TaskError> {
        Ok(loss(&self.model, batch, mode)?)
    }

    /// Loss on the tuning slice; at the end also that of the test documents, and the condition numbers.
    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        let model = self.network.masked_lm(weights)?;
        let mut metrics = Metrics::new();
        metrics.insert("tune_loss".to_string(), self.mean_loss(&model, &self.tune)?);
        let Some(test) = self.test.as_ref().filter(|_| last) else { return Ok(metrics) };
        metrics.insert("test_loss".to_string(), self.mean_loss(&model, test)?);
        let windows = self.tune.evaluation(0, &Device::Cpu)?.inputs;
        let (rows, length) = windows.dims2()?;
        let rows = KAPPA_WINDOWS.min(rows);
        let tokens = model.real_tokens(&BertInput::new(windows.narrow(0, 0, rows)?)?)?;
        let sequences = Tokens {
            plain: tokens.plain.reshape((rows, length, ()))?,
            conditioned: tokens.conditioned.reshape((rows, length, ()))?,
        };
        kappa::add_of_sequences(&mut metrics, &sequences)?;
        kappa::add_pooled(&mut metrics, &tokens)?;
        Ok(metrics)
    }

    /// Of the first windows of the tuning slice, some of their tokens hidden.
    fn probe(&self, weights: VarBuilder<'static>) -> Result<Findings, TaskError> {
        let model = self.network.masked_lm(weights)?;
        let windows = self.tune.evaluation(0, &Device::Cpu)?.inputs;
        let windows = probe::singles(&windows).map(|window| BertInput::new(window?));
        probe::findings(windows.map(|input| Ok(model.probe(&input?)?)))
    }
}

impl CellTask for MaskedLanguageModel {
    /// The tokenizer goes beside the weights.
    fn extras(&self, config: &RunConfig, run: &Run, _: &Store) -> Result<Extras> {
        if !config.cell.is_search() {
            self.tokenizer.save(&run.folder)?;
        }
        Ok(Extras::default())
    }
}
