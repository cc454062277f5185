//! Pooled conditioning: one matrix for all sequences.

mod map;

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Module, Tensor};
use faer::{Mat, MatRef};

use self::map::{Collected, Kept, Map, Step};
use crate::conditioner::checked_strength;
use crate::gram::GramSum;
use crate::iterative_map::LEAST_FLOOR;
use crate::map::tensor;
use crate::pooled_config::{PooledConfig, Source};
use crate::power;
use crate::running::{Running, checked_fraction};
use crate::{Error, Result};

const GRAM: &str = "running_gram";

/// Conditions the tokens of all sequences by one matrix.
///
/// ```text
/// G = X^T X / R                    (d, d), X: (R, d) the tokens of a batch, or a running average
/// M = I + t sigma_1 E diag(1 / max(sigma_i, floor sigma_1)) E^T,   G = E diag(sigma_i^2) E^T
/// Y = X M
/// ```
///
/// At full rank `M = I + t sigma_1 G^(-1/2)`, and the pooled tokens get singular values
/// sigma_i + t sigma_1: their condition number is at most (1 + t)/t. That bounds the pooled tokens,
/// not each sequence, whose own condition number is usually larger. With a frozen G, M folds into
/// whatever linear maps produce the tokens ([`Pooled::fold`]).
///
/// M acts on tokens that G has not seen: later ones of the same sequence, those after the next
/// step. Directions in which G is weak are stretched by up to 1 + t / floor whatever the new tokens
/// hold there, see [`PooledConfig::floor`].
///
/// Nothing flows back through G: dL/dX = dL/dY M. G and M are computed in f64.
///
/// | | M | products with M | NaN, overflow |
/// | --- | --- | --- | --- |
/// | CPU | from the eigenproblem | f32 for f32 tokens, else f64 | errors |
/// | CUDA | by matrix products alone, sigma_1 to 4e-4: the host waits for no training step. With a floor below 1e-5 on the CPU | f32, f64 for f64 tokens | pass through |
/// | Metal, which has no f64 | on the CPU | f32 | pass through |
///
/// [`Pooled::fold`] takes the eigenproblem on every device. On CUDA, with a floor of 1e-5 or more, a batch of padding alone
/// is no error and no observation, and what others write into the state amid a step counts from the next one on.
///
/// *Several batches a step.* With gradient accumulation the running average must stand still within a
/// step and move once, at its end: [`Pooled::forward_train_collected`] for every micro-batch and
/// [`Pooled::commit`] after the last. What is collected is no state: a checkpoint stands between
/// steps.
///
/// State: `running_gram` (d, d) and `running_weight` (), the number of observations, both f64, for tokens on CUDA
/// on their device, else on the CPU. Before the first observation M = I. Give a training store's variables to
/// [`Pooled::with_state`] and they are saved and resumed with the model; give its frozen tensors of
/// the same storage to a second instance and it evaluates with what the first has learnt.
///
/// Source: ours; the paper's C for X pooled over batches, with the running average of batch
/// normalisation.
#[derive(Debug)]
pub struct Pooled {
    config: PooledConfig,
    channels: usize,
    running: Running<1>,
    /// Whether M is made on the device of the state.
    on_device: bool,
    step: Mutex<Step>,
    folded: Kept<Arc<Mat<f64>>>,
    /// The same on the device of the state.
    resident: Kept<Tensor>,
}

impl Pooled {
    /// A new instance with its own variables, for tokens of `channels` channels on `device`.
    ///
    /// # Errors
    ///
    /// An invalid strength, momentum or floor.
    pub fn new(config: PooledConfig, channels: usize, device: &Device) -> Result<Self> {
        let running = Running::new([GRAM], &[channels, channels], Self::state_device(device))?;
        Self::over(config, channels, running)
    }

    /// Where the state of tokens on `device` lies: there on CUDA, else on the CPU.
    pub fn state_device(device: &Device) -> &Device {
        if device.is_cuda() { device } else { &Device::Cpu }
    }

    /// An instance over the given tensors on [`Pooled::state_device`], shared and not copied; if they are not
    /// variables it can only evaluate.
    ///
    /// # Errors
    ///
    /// An invalid strength, momentum or floor; tensors other than (d, d) and () f64 on one device.
    pub fn with_state(
        config: PooledConfig,
        running_gram: Tensor,
        running_weight: Tensor,
    ) -> Result<Self> {
        let channels = running_gram.dims().last().copied().unwrap_or(0);
        let shape = [channels, channels];
        let running = Running::shared([GRAM], [running_gram], running_weight, &shape)?;
        Self::over(config, channels, running)
    }

    fn over(config: PooledConfig, channels: usize, running: Running<1>) -> Result<Self> {
        checked_strength(config.strength)?;
        checked_fraction("momentum", config.momentum)?;
        checked_fraction("floor", config.floor)?;
        let on_device = !running.device().is_cpu() && config.floor >= LEAST_FLOOR;
        let (step, folded, resident) = Default::default();
        Ok(Self { config, channels, running, on_device, step, folded, resident })
    }

    /// The settings.
    pub fn config(&self) -> &PooledConfig {
        &self.config
    }

    /// The number of observations so far: zero means that M = I.
    ///
    /// # Errors
    ///
    /// Those of candle.
    pub fn observations(&self) -> Result<f64> {
        self.running.observations()
    }

    /// Evaluation: Y = X M with M of the running average, x: (..., N, d) -> the same shape.
    ///
    /// # Errors
    ///
    /// Another number of channels or dtype; NaN or infinity in x, by position; a result beyond the
    /// range of the dtype; no convergence.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, None, self.running_map()?)
    }

    /// [`Pooled::forward`] that leaves padding alone; mask: (..., N) u8, 1 = real.
    ///
    /// # Errors
    ///
    /// Those of [`Pooled::forward`], and a mask of another shape or dtype.
    pub fn forward_masked(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        self.apply(x, Some(mask), self.running_map()?)
    }

    /// Training: Y = X M with M of this batch (`Current`) or of earlier ones (`Earlier`).
    ///
    /// The running average stays as it is: call [`Pooled::observe`] afterwards, once per optimiser
    /// step, or [`Pooled::forward_train_observed`] for both, or, with several batches a step,
    /// [`Pooled::forward_train_collected`] and [`Pooled::commit`].
    ///
    /// # Errors
    ///
    /// Those of [`Pooled::forward`].
    pub fn forward_train(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, None, self.training_map(x, None)?)
    }

    /// [`Pooled::forward_train`] over the real tokens; mask: (..., N) u8, 1 = real. Padding takes no
    /// part and is left alone.
    ///
    /// # Errors
    ///
    /// Those of [`Pooled::forward_train`], and a mask of another shape or dtype.
    pub fn forward_train_masked(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        self.apply(x, Some(mask), self.training_map(x, Some(mask))?)
    }

    /// Moves the running average towards G of x: (..., N, d), and of whatever has been collected; the
    /// first observation sets it.
    ///
    /// # Errors
    ///
    /// Frozen state; no tokens; NaN or infinity in x, by position; another number of channels.
    pub fn observe(&self, x: &Tensor) -> Result<()> {
        self.collect(x)?;
        self.commit()
    }

    /// [`Pooled::observe`] of the real tokens; mask: (..., N) u8, 1 = real.
    ///
    /// # Errors
    ///
    /// Those of [`Pooled::observe`], and a mask of another shape or dtype.
    pub fn observe_masked(&self, x: &Tensor, mask: &Tensor) -> Result<()> {
        self.collect_masked(x, mask)?;
        self.commit()
    }

    /// Adds the tokens of x: (..., N, d), each with equal weight, to what [`Pooled::commit`] will
    /// observe; the running average stays as it is.
    ///
    /// # Errors
    ///
    /// No tokens; NaN or infinity in x, by position; another number of channels; tokens elsewhere than state on CUDA.
    pub fn collect(&self, x: &Tensor) -> Result<()> {
        self.add(self.sum(x, None)?)
    }

    /// [`Pooled::collect`] of the real tokens; mask: (..., N) u8, 1 = real.
    ///
    /// # Errors
    ///
    /// Those of [`Pooled::collect`], and a mask of another shape or dtype.
    pub fn collect_masked(&self, x: &Tensor, mask: &Tensor) -> Result<()> {
        self.add(self.sum(x, Some(mask))?)
    }

    /// Moves the running average once, towards G of all collected tokens; without any it does
    /// nothing.
    ///
    /// # Errors
    ///
    /// Frozen state. What was collected is then gone.
    pub fn commit(&self) -> Result<()> {
        let step = std::mem::take(&mut *self.lock_step());
        match step.collected {
            Some(Collected::Host(sum)) => self.running.observe([sum.mean()?], self.config.momentum),
            Some(Collected::Device(sum)) => {
                self.running.observe_tensors(&[sum.mean()?], sum.tokens(), self.config.momentum)
            }
            None => Ok(()),
        }
    }

    /// Drops what has been collected, as of a step that was broken off.
    pub fn discard(&self) {
        *self.lock_step() = Step::default();
    }

    /// Replaces the running average by G over all tokens of `batches`, each token with equal weight;
    /// counts as one observation.
    ///
    /// Needed before an evaluation in mid-run with [`Source::Current`]: the average lags behind
    /// tokens that still move. Drop padding from the batches: any (R, d) will do.
    ///
    /// # Errors
    ///
    /// The first error among the batches; those of [`Pooled::observe`].
    pub fn recalibrate<E: Into<Error>>(
        &self,
        batches: impl IntoIterator<Item = Result<Tensor, E>>,
    ) -> Result<()> {
        let mut total = GramSum::zero(self.channels);
        for batch in batches {
            total.add(&GramSum::of(&batch.map_err(Into::into)?, None, self.channels)?);
        }
        self.replace(total.mean()?)
    }

    /// Sets the running average to G of tokens that are sums of one row of each of `tables` (V_k, d),
    /// as if every row were equally frequent and the rows independent with mean zero; counts as one
    /// observation.
    ///
    /// ```text
    /// G = sum_k W_k^T W_k / V_k
    /// ```
    ///
    /// A causal model must not take the first M from the first batch, and M = I would change into M
    /// of that batch with the second step.
    ///
    /// # Errors
    ///
    /// No tables; frozen state; NaN or infinity in a table; another number of channels.
    pub fn start_from_tables(&self, tables: &[&Tensor]) -> Result<()> {
        let mut sum = vec![0.0; self.channels * self.channels];
        for table in tables {
            let gram = GramSum::of_named("table", table, None, self.channels)?.mean()?;
            sum.iter_mut().zip(&gram).for_each(|(sum, entry)| *sum += entry);
        }
        if tables.is_empty() {
            return Err(Error::NoTokens);
        }
        self.replace(sum)
    }

    /// M of the running average: (d, d) f64 on the CPU, for folding it into the maps before it.
    ///
    /// # Errors
    ///
    /// No convergence.
    pub fn fold(&self) -> Result<Tensor> {
        let identity = || Arc::new(Mat::identity(self.channels, self.channels));
        tensor(&self.running_matrix()?.unwrap_or_else(identity))
    }

    /// f of the control Y = f X with the size of pooled conditioning and without its effect on kappa.
    ///
    /// ```text
    /// f^2 = ||X M||_F^2 / ||X||_F^2 = tr(M G M) / tr(G)
    /// ```
    ///
    /// over the tokens of the running average: 1 before the first observation and for zero tokens.
    /// It is as causal as `Source::Earlier`, where the scale of [`NormMatched`](crate::NormMatched)
    /// depends on the whole sequence.
    ///
    /// # Errors
    ///
    /// No convergence.
    pub fn norm_matched_scale(&self) -> Result<f64> {
        let map = self.running_map()?;
        if let Some(Map::Device(M)) = map {
            let [gram] = self.running.tensors()?;
            let trace = |A: Tensor| -> Result<f64> { Ok(A.sum_all()?.to_scalar()?) };
            // M and G are symmetric.
            let before = trace((power::identity(self.channels, DType::F64, M.device())? * &gram)?)?;
            let after = trace((M.matmul(&gram)? * &M)?)?;
            return Ok(if before == 0.0 { 1.0 } else { (after / before).sqrt() });
        }
        let (Some(Map::Host(M)), Some([gram])) = (map, self.running.averages()?) else {
            return Ok(1.0);
        };
        let G = MatRef::from_row_major_slice(&gram, self.channels, self.channels);
        let trace = |A: MatRef<'_, f64>| A.diagonal().column_vector().sum();
        if trace(G) == 0.0 {
            return Ok(1.0);
        }
        Ok((trace((&*M * G * &*M).as_ref()) / trace(G)).sqrt())
    }

    /// The state by name: `running_gram`, `running_weight`. The tensors are the live ones.
    pub fn named_tensors(&self) -> Vec<(&'static str, Tensor)> {
        self.running.named_tensors()
    }

    /// Sets the state from tensors of those names, for example of a checkpoint.
    ///
    /// # Errors
    ///
    /// Frozen state; a missing or unknown name; another shape or dtype.
    pub fn load<S: AsRef<str>>(
        &self,
        tensors: impl IntoIterator<Item = (S, Tensor)>,
    ) -> Result<()> {
        self.discard_map();
        self.running.load(tensors)
    }

    /// [`Pooled::forward_train`] and then [`Pooled::observe`] of the same tokens, whose Gram matrix is
    /// computed once: for models that see one batch an optimiser step.
    ///
    /// # Errors
    ///
    /// Those of the two.
    pub fn forward_train_observed(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.forward_train_collected(x)?;
        self.commit()?;
        Ok(y)
    }

    /// [`Pooled::forward_train_observed`] over the real tokens; mask: (..., N) u8, 1 = real.
    ///
    /// # Errors
    ///
    /// Those of [`Pooled::forward_train_masked`] and [`Pooled::observe_masked`].
    pub fn forward_train_observed_masked(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let y = self.forward_train_collected_masked(x, mask)?;
        self.commit()?;
        Ok(y)
    }

    /// [`Pooled::forward_train`] and then [`Pooled::collect`] of the same tokens, whose Gram matrix is
    /// computed once: for one of several batches of an optimiser step. [`Pooled::commit`] ends the
    /// step.
    ///
    /// With [`Source::Earlier`] all batches of a step share M; with [`Source::Current`] each has its
    /// own.
    ///
    /// # Errors
    ///
    /// Those of the two.
    pub fn forward_train_collected(&self, x: &Tensor) -> Result<Tensor> {
        self.train_collected(x, None)
    }

    /// [`Pooled::forward_train_collected`] over the real tokens; mask: (..., N) u8, 1 = real.
    ///
    /// # Errors
    ///
    /// Those of [`Pooled::forward_train_masked`] and [`Pooled::collect_masked`].
    pub fn forward_train_collected_masked(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        self.train_collected(x, Some(mask))
    }

    fn train_collected(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let sum = self.sum(x, mask)?;
        let M = match self.config.source {
            Source::Current if self.config.strength > 0.0 => Some(self.map_of(&sum)?),
            _ if self.on_device => self.step_map()?,
            _ => self.running_map()?,
        };
        let y = self.apply(x, mask, M)?;
        self.add(sum)?;
        Ok(y)
    }
}

impl Module for Pooled {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.forward(x)?)
    }
}
