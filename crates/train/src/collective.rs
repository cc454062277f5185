//! Several processes that train one model: each takes its share of the micro-batches of a step, and all end
//! it with the same sums.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use conditioned_nn::Store;
use safetensors::View;

use crate::error::{Result, TrainError};

/// The processes that train one model together; this is number `rank` of `size`.
///
/// Micro-batch i of a run belongs to process i mod `size`. With A micro-batches a step the processes compute the
/// gradient of one process; only the order of the sum differs, and with two of each not even that.
///
/// Buffers end a step with the mean of their changes. Running averages that move once a step, by the mean of all
/// micro-batches (pooled statistics without padding), become those of one process; those that move on every pass
/// (batch normalisation) do not.
pub trait Collective: Debug {
    /// The number of this process, from 0. The first writes records and checkpoints, and evaluates.
    fn rank(&self) -> usize;

    /// The number of this process among those on the same machine: that of its GPU.
    fn local_rank(&self) -> usize;

    /// The number of processes, at least 1.
    fn size(&self) -> usize;

    /// The sum of each tensor over all processes, with the same bits in each. Shapes and dtypes are the same in
    /// every process.
    ///
    /// # Errors
    /// When the processes cannot reach each other.
    fn sum(&self, tensors: Vec<Tensor>) -> Result<Vec<Tensor>>;

    /// Waits until all processes are here.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    fn wait(&self) -> Result<()> {
        self.any(false).map(drop)
    }

    /// Whether something `holds` in any process; waits until all are here.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    fn any(&self, holds: bool) -> Result<bool> {
        Ok(sum_of(self, f64::from(u8::from(holds)))? > 0.0)
    }
}

/// The sum of a number over all processes; waits until all are here.
fn sum_of(collective: &(impl Collective + ?Sized), value: f64) -> Result<f64> {
    if collective.size() == 1 {
        return Ok(value);
    }
    let mut sums = collective.sum(vec![Tensor::new(value, &Device::Cpu)?])?;
    Ok(sums.remove(0).to_scalar()?)
}

/// One process that trains alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn local_rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn sum(&self, tensors: Vec<Tensor>) -> Result<Vec<Tensor>> {
        Ok(tensors)
    }
}

/// What [`fit`](crate::fit()) does with the other processes; nothing at all where there are none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Together<'a>(pub(crate) &'a dyn Collective);

impl Together<'_> {
    /// Whether this is the first process.
    pub(crate) fn leads(self) -> bool {
        self.0.rank() == 0
    }

    /// Those of the micro-batches `before..before + count` of the run that this process takes.
    pub(crate) fn share(self, before: usize, count: usize) -> Vec<usize> {
        let mine = |number: &usize| number % self.0.size() == self.0.rank();
        (before..before + count).filter(mine).collect()
    }

    /// The sum of a number over all processes.
    pub(crate) fn sum(self, value: f64) -> Result<f64> {
        sum_of(self.0, value)
    }

    /// Whether any process is to stop.
    pub(crate) fn any(self, stop: &AtomicBool) -> Result<bool> {
        self.0.any(stop.load(Ordering::Relaxed))
    }

    /// The sums of the gradients over all processes; a process without a share gives zeros.
    pub(crate) fn sum_gradients(
        self,
        parameters: &[(String, Var)],
        mut grads: GradStore,
    ) -> Result<GradStore> {
        if self.0.size() == 1 {
            return Ok(grads);
        }
        let mut own = Vec::with_capacity(parameters.len());
        for (_, var) in parameters {
            let grad = grads.remove(var);
            own.push(grad.map_or_else(|| var.zeros_like(), |grad| Ok(grad.detach()))?);
        }
        let mut all = GradStore::default();
        for ((_, var), sum) in parameters.iter().zip(self.0.sum(own)?) {
            all.insert(var, sum);
        }
        Ok(all)
    }

    /// The buffers of `store` as they are before a step, where other processes will change theirs.
    pub(crate) fn buffers(self, store: &Store) -> Result<Vec<(Var, Tensor)>> {
        if self.0.size() == 1 {
            return Ok(Vec::new());
        }
        store
            .buffers()
            .into_iter()
            .map(|(_, var)| Ok((var.clone(), var.copy()?.detach())))
            .collect()
    }

    /// Moves every buffer from its value before the step by the mean of the processes' changes, each with the
    /// weight of its share: `taken` of `count` micro-batches. What nobody moved keeps its bits.
    pub(crate) fn merge_buffers(
        self,
        before: &[(Var, Tensor)],
        taken: usize,
        count: usize,
    ) -> Result<()> {
        if before.is_empty() {
            return Ok(());
        }
        let weight = taken as f64 / count as f64;
        let change = |(var, old): &(Var, Tensor)| (var.as_detached_tensor() - old)? * weight;
        let own = before.iter().map(change).collect::<candle_core::Result<Vec<_>>>()?;
        for ((var, old), change) in before.iter().zip(self.0.sum(own)?) {
            var.set(&(old + change)?)?;
        }
        Ok(())
    }

    /// That all processes stand at the same step with the same bits in their parameters: processors of
    /// different kinds may round differently, and nothing else would tell.
    pub(crate) fn require_same(self, step: usize, parameters: &[(String, Var)]) -> Result<()> {
        if self.0.size() == 1 {
            return Ok(());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&step.to_le_bytes());
        for (_, var) in parameters {
            hasher.update(&View::data(var.as_tensor()));
        }
        let mut digest = [0; 4];
        hasher.finalize_xof().fill(&mut digest);
        // 32 bits add up without rounding; where not all are equal, some process differs from the mean.
        let own = f64::from(u32::from_le_bytes(digest));
        if self.sum(own)? == own * self.0.size() as f64 {
            return Ok(());
        }
        Err(TrainError::Apart { step, rank: self.0.rank() })
    }
}
