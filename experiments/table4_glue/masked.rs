//! Pre-training as a task: hidden words, loss, evaluation.

use candle_conditioning::condition_number;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use conditioned_data::{MaskedBatch, MaskedWindows, Masking, Sequence, Windows};
use conditioned_models::bert::BertInput;
use conditioned_nn::{Mode, Store};
use conditioned_train::{Batches, Metrics, Task, TaskError};
use experiments::corpus::Text;
use experiments::encoder::{EncoderConfig, MaskedLm};
use experiments::statistics::median;

use crate::cell::Pretraining;

/// Windows whose condition numbers are measured, those of one batch at most.
const KAPPA_WINDOWS: usize = 16;

/// A model in training, its text, and how it is judged.
pub(crate) struct MaskedLanguageModel {
    network: EncoderConfig,
    model: MaskedLm,
    /// Micro-batches between two evaluations.
    batches: usize,
    train: MaskedWindows,
    tune: MaskedWindows,
    /// Read in a table only.
    test: Option<MaskedWindows>,
    evaluation_windows: usize,
    device: Device,
}

impl MaskedLanguageModel {
    /// The task of a run; the model's parameters are created in `store`.
    pub(crate) fn new(config: &Pretraining, text: &Text, store: &Store) -> Result<Self, TaskError> {
        let (batch_size, seed) = (config.batch_size, config.cell.seed);
        let masked = |sequence: &Sequence| {
            let windows = Windows::new(sequence.clone(), config.window, batch_size, seed)?;
            MaskedWindows::new(windows, Masking { share: config.mask, seed }, &text.tokenizer)
        };
        let train = masked(&text.train)?;
        if train.windows().batches() == 0 {
            let problem = format!(
                "{} training tokens do not fill a batch of {batch_size} windows of {}",
                text.train.len(),
                config.window
            );
            return Err(problem.into());
        }
        Ok(Self {
            model: config.network.masked_lm(store.builder())?,
            network: config.network.clone(),
            batches: config.micro_batches / config.fit.epochs,
            train,
            tune: masked(&text.tune)?,
            test: config.test.then(|| masked(&text.test)).transpose()?,
            evaluation_windows: config.evaluation_windows,
            device: store.device().clone(),
        })
    }

    /// The mean loss over the first windows, in nats per hidden token.
    fn mean_loss(&self, model: &MaskedLm, windows: &MaskedWindows) -> Result<f64, TaskError> {
        let (mut sum, mut n) = (0.0, 0);
        for index in 0..windows.windows().evaluation_batches() {
            let batch = windows.evaluation(index, &self.device)?;
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
        self.batches
    }

    /// An epoch is the way between two evaluations: the windows have epochs of their own.
    fn batches(&self, epoch: usize, first: usize) -> Result<Batches<'_, MaskedBatch>, TaskError> {
        Ok(Box::new((first..self.batches).map(move |i| {
            let batch = epoch * self.batches + i;
            let all = self.train.windows().batches();
            Ok(self.train.batch(batch / all, batch % all, &self.device)?)
        })))
    }

    fn loss(&self, batch: &MaskedBatch, mode: Mode) -> Result<Tensor, TaskError> {
        Ok(loss(&self.model, batch, mode)?)
    }

    /// Loss on the tuning slice; at the end also that of the test documents, and the condition numbers.
    fn evaluate(&self, weights: VarBuilder<'static>, last: bool) -> Result<Metrics, TaskError> {
        let model = self.network.masked_lm(weights)?;
        let mut metrics = Metrics::new();
        let mut add = |name: &str, value: f64| metrics.insert(name.to_string(), value);
        add("tune_loss", self.mean_loss(&model, &self.tune)?);
        let Some(test) = self.test.as_ref().filter(|_| last) else { return Ok(metrics) };
        add("test_loss", self.mean_loss(&model, test)?);
        let windows = self.tune.evaluation(0, &self.device)?.inputs;
        let (rows, length) = windows.dims2()?;
        let rows = KAPPA_WINDOWS.min(rows);
        let tokens = model.tokens(&BertInput::new(windows.narrow(0, 0, rows)?)?)?;
        for (name, tokens) in [("plain", tokens.plain), ("conditioned", tokens.conditioned)] {
            let kappas = condition_number(&tokens.reshape((rows, length, ()))?)?.to_vec1()?;
            add(&format!("kappa_{name}"), median(&kappas).unwrap_or(f64::NAN));
            add(&format!("pooled_kappa_{name}"), condition_number(&tokens)?.to_scalar()?);
        }
        Ok(metrics)
    }
}
