//! Control arm: per-channel standardisation, that is batch normalisation without affine maps.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Module, Tensor};

use crate::blocks::check_channels;
use crate::flat::{flatten, restore, spread};
use crate::running::Running;
use crate::{Error, Result};

const MEAN: &str = "running_mean";
const VARIANCE: &str = "running_var";

/// The weight of a new observation in the running averages.
pub const MOMENTUM: f64 = 0.1;

/// Added to the variance.
pub const EPSILON: f64 = 1e-5;

/// Gives every channel mean 0 and variance 1 over the tokens.
///
/// ```text
/// Y = (X - mu) / sqrt(v + eps),   mu, v: (d,) mean and variance of each channel,   eps = 1e-5
/// ```
///
/// Training takes mu and the biased v from the batch and differentiates through both; evaluation
/// takes running averages (momentum 0.1, unbiased v), as `torch.nn.BatchNorm1d(affine=False)` does.
/// One difference: the first observation sets the averages, and before it evaluation returns X.
/// It scales channels without decorrelating them: what it gains, pooled conditioning cannot claim.
/// In training every token depends on the whole batch, so it is not for causal models.
///
/// *Several batches a step.* Each is standardised by its own statistics; the running averages move once
/// a step, see [`Standardise::collect`] and [`Standardise::commit`].
///
/// State: `running_mean` (d,), `running_var` (d,) and `running_weight` (), f64 on the CPU, shared
/// as in [`Pooled`](crate::Pooled).
#[derive(Debug)]
pub struct Standardise {
    channels: usize,
    running: Running<2>,
    /// The batches collected since the running averages last moved.
    collected: Mutex<Vec<Part>>,
}

impl Standardise {
    /// A new instance for tokens of `channels` channels with its own variables.
    ///
    /// # Errors
    ///
    /// Those of candle.
    pub fn new(channels: usize) -> Result<Self> {
        Ok(Self::over(channels, Running::new([MEAN, VARIANCE], &[channels], &Device::Cpu)?))
    }

    /// An instance over the given tensors, shared and not copied; if they are not variables it can
    /// only evaluate.
    ///
    /// # Errors
    ///
    /// Tensors other than (d,), (d,) and () f64.
    pub fn with_state(
        running_mean: Tensor,
        running_var: Tensor,
        running_weight: Tensor,
    ) -> Result<Self> {
        let channels = running_mean.elem_count();
        let averages = [running_mean, running_var];
        let running = Running::shared([MEAN, VARIANCE], averages, running_weight, &[channels])?;
        Ok(Self::over(channels, running))
    }

    fn over(channels: usize, running: Running<2>) -> Self {
        Self { channels, running, collected: Mutex::new(Vec::new()) }
    }

    /// The number of observations so far.
    ///
    /// # Errors
    ///
    /// Those of candle.
    pub fn observations(&self) -> Result<f64> {
        self.running.observations()
    }

    /// Evaluation with the running averages, x: (..., N, d) -> the same shape.
    ///
    /// # Errors
    ///
    /// Another number of channels or dtype.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.evaluate(x, None)
    }

    /// [`Standardise::forward`] that leaves padding alone; mask: (..., N) u8, 1 = real.
    ///
    /// # Errors
    ///
    /// Those of [`Standardise::forward`], and a mask of another shape.
    pub fn forward_masked(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        self.evaluate(x, Some(mask))
    }

    /// Training with the statistics of x, x: (..., N, d) -> the same shape.
    ///
    /// The averages stay as they are: call [`Standardise::observe`] once per optimiser step, or, with
    /// several batches a step, [`Standardise::collect`] for each and [`Standardise::commit`] after
    /// the last.
    ///
    /// # Errors
    ///
    /// Another number of channels or dtype; no tokens.
    pub fn forward_train(&self, x: &Tensor) -> Result<Tensor> {
        self.train(x, None)
    }

    /// [`Standardise::forward_train`] over the real tokens; mask: (..., N) u8, 1 = real. Padding
    /// takes no part and is left alone.
    ///
    /// # Errors
    ///
    /// Those of [`Standardise::forward_train`], and a mask of another shape.
    pub fn forward_train_masked(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        self.train(x, Some(mask))
    }

    /// Moves the running averages towards the statistics of x: (..., N, d), and of whatever has been
    /// collected.
    ///
    /// # Errors
    ///
    /// Frozen state; no tokens; NaN or infinity in x; another number of channels.
    pub fn observe(&self, x: &Tensor) -> Result<()> {
        self.add(x, None)?;
        self.commit()
    }

    /// [`Standardise::observe`] of the real tokens; mask: (..., N) u8, 1 = real.
    ///
    /// # Errors
    ///
    /// Those of [`Standardise::observe`], and a mask of another shape.
    pub fn observe_masked(&self, x: &Tensor, mask: &Tensor) -> Result<()> {
        self.add(x, Some(mask))?;
        self.commit()
    }

    /// Adds the tokens of x: (..., N, d), each with equal weight, to what [`Standardise::commit`] will
    /// observe; the running averages stay as they are.
    ///
    /// # Errors
    ///
    /// No tokens; another number of channels or dtype.
    pub fn collect(&self, x: &Tensor) -> Result<()> {
        self.add(x, None)
    }

    /// [`Standardise::collect`] of the real tokens; mask: (..., N) u8, 1 = real.
    ///
    /// # Errors
    ///
    /// Those of [`Standardise::collect`], and a mask of another shape.
    pub fn collect_masked(&self, x: &Tensor, mask: &Tensor) -> Result<()> {
        self.add(x, Some(mask))
    }

    /// [`Standardise::forward_train`] and then [`Standardise::collect`] of the same tokens, whose statistics are
    /// computed once. [`Standardise::commit`] ends the step.
    ///
    /// # Errors
    ///
    /// Those of the two.
    pub fn forward_train_collected(&self, x: &Tensor) -> Result<Tensor> {
        self.train_collected(x, None)
    }

    /// [`Standardise::forward_train_collected`] over the real tokens; mask: (..., N) u8, 1 = real.
    ///
    /// # Errors
    ///
    /// Those of [`Standardise::forward_train_masked`] and [`Standardise::collect_masked`].
    pub fn forward_train_collected_masked(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        self.train_collected(x, Some(mask))
    }

    /// Moves the running averages once, towards the statistics of all collected tokens; without any
    /// it does nothing.
    ///
    /// # Errors
    ///
    /// Frozen state; NaN or infinity in what was collected, which is then gone.
    pub fn commit(&self) -> Result<()> {
        let parts = std::mem::take(&mut *self.lock_collected());
        let statistics = match &*parts {
            [] => return Ok(()),
            // One batch a step, the common case: its own numbers, not rounded a second time.
            [Part { tokens, mean, variance }] => {
                let unbiased = tokens / (tokens - 1.0).max(1.0);
                [host(mean)?, host(&(variance * unbiased)?)?]
            }
            parts => statistics(parts, self.channels)?,
        };
        self.running.observe(statistics, MOMENTUM)
    }

    /// Drops what has been collected, as of a step that was broken off.
    pub fn discard(&self) {
        self.lock_collected().clear();
    }

    /// Replaces the running averages by the statistics over all tokens of `batches`, each token with
    /// equal weight; counts as one observation.
    ///
    /// # Errors
    ///
    /// The first error among the batches; those of [`Standardise::observe`].
    pub fn recalibrate<E: Into<Error>>(
        &self,
        batches: impl IntoIterator<Item = Result<Tensor, E>>,
    ) -> Result<()> {
        let mut parts = Vec::new();
        for x in batches {
            parts.push(Part::of(&x.map_err(Into::into)?, None, self.channels)?);
        }
        self.running.replace(statistics(&parts, self.channels)?)
    }

    /// The state by name: `running_mean`, `running_var`, `running_weight`. The tensors are the live
    /// ones.
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
        self.running.load(tensors)
    }

    fn evaluate(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        check_channels(x, self.channels)?;
        let Some([mean, variance]) = self.running.averages()? else {
            return Ok(x.clone());
        };
        let tokens = flatten(x, self.channels)?;
        let row = |values: Vec<f64>| -> Result<Tensor> {
            let row = Tensor::from_vec(values, (1, self.channels), &Device::Cpu)?;
            Ok(row.to_dtype(tokens.dtype())?.to_device(x.device())?)
        };
        let centred = tokens.broadcast_sub(&row(mean)?)?;
        let inverse = variance.into_iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect();
        restore(&centred.broadcast_mul(&row(inverse)?)?, x, mask)
    }

    fn train(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        Batch::new(x, mask, self.channels)?.standardised(x, mask)
    }

    fn train_collected(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let batch = Batch::new(x, mask, self.channels)?;
        let y = batch.standardised(x, mask)?;
        self.lock_collected().push(batch.into());
        Ok(y)
    }

    fn add(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<()> {
        let part = Part::of(x, mask, self.channels)?;
        self.lock_collected().push(part);
        Ok(())
    }

    fn lock_collected(&self) -> MutexGuard<'_, Vec<Part>> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The statistics of one batch, without graph.
#[derive(Debug)]
struct Part {
    tokens: f64,
    /// (1, d).
    mean: Tensor,
    /// (1, d), biased.
    variance: Tensor,
}

impl Part {
    fn of(x: &Tensor, mask: Option<&Tensor>, channels: usize) -> Result<Self> {
        Ok(Batch::new(&x.detach(), mask, channels)?.into())
    }
}

impl From<Batch> for Part {
    fn from(Batch { tokens, mean, variance, .. }: Batch) -> Self {
        Self { tokens, mean: mean.detach(), variance: variance.detach() }
    }
}

/// Mean and unbiased variance of all tokens of `parts`, d numbers each.
///
/// ```text
/// mu = sum_k n_k mu_k / n,   v = sum_k n_k (v_k + (mu_k - mu)^2) / (n - 1),   n = sum_k n_k
/// ```
fn statistics(parts: &[Part], d: usize) -> Result<[Vec<f64>; 2]> {
    let (mut tokens, mut sum, mut squares) = (0.0, vec![0.0; d], vec![0.0; d]);
    let mut hosted = Vec::with_capacity(parts.len());
    for part in parts {
        let (mean, variance) = (host(&part.mean)?, host(&part.variance)?);
        tokens += part.tokens;
        sum.iter_mut().zip(&mean).for_each(|(sum, mean)| *sum += part.tokens * mean);
        hosted.push((part.tokens, mean, variance));
    }
    if tokens == 0.0 {
        return Err(Error::NoTokens);
    }
    let mean: Vec<f64> = sum.into_iter().map(|sum| sum / tokens).collect();
    // The variance within each batch and that of its mean, both around the mean of all.
    for (n, part_mean, variance) in hosted {
        for j in 0..d {
            squares[j] += n * (variance[j] + (part_mean[j] - mean[j]).powi(2));
        }
    }
    let unbiased = (tokens - 1.0).max(1.0);
    Ok([mean, squares.into_iter().map(|s| s / unbiased).collect()])
}

/// A row of statistics in f64 on the host.
fn host(row: &Tensor) -> Result<Vec<f64>> {
    // Metal has no f64.
    Ok(row.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()?)
}

/// The statistics of one batch, with their graph.
struct Batch {
    /// X - mu: (R, d).
    centred: Tensor,
    /// mu: (1, d).
    mean: Tensor,
    /// v: (1, d), biased.
    variance: Tensor,
    /// The number of real tokens.
    tokens: f64,
}

impl Batch {
    fn new(x: &Tensor, mask: Option<&Tensor>, channels: usize) -> Result<Self> {
        check_channels(x, channels)?;
        let (x, weight) = match mask {
            // Zeros instead of padding, which may hold anything: 0 times NaN is NaN.
            Some(mask) => (spread(mask, x)?.where_cond(x, &x.zeros_like()?)?, mask.ne(0u8)?),
            None => (x.clone(), Tensor::ones(&x.dims()[..x.rank() - 1], DType::U8, x.device())?),
        };
        let tokens = flatten(&x, channels)?;
        let weight = weight.to_dtype(tokens.dtype())?.to_device(x.device())?;
        let weight = weight.reshape((1, tokens.dim(0)?))?;
        let count = weight.sum_all()?.to_device(&Device::Cpu)?;
        let count = count.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if count == 0.0 {
            return Err(Error::NoTokens);
        }
        // A mean as a product with (1, R): sums over leading dimensions are slow in candle.
        let weight = (weight / count)?;
        let mean = weight.matmul(&tokens)?;
        let centred = tokens.broadcast_sub(&mean)?;
        let variance = weight.matmul(&centred.sqr()?)?;
        Ok(Self { centred, mean, variance, tokens: count })
    }

    /// The tokens x that it was made of, standardised.
    fn standardised(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let deviation = (&self.variance + EPSILON)?.sqrt()?;
        restore(&self.centred.broadcast_div(&deviation)?, x, mask)
    }
}

impl Module for Standardise {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        Ok(self.forward(x)?)
    }
}
