//! The exponential moving average of the parameters.

use std::collections::HashMap;

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor, Var};
use candle_nn::VarBuilder;
use conditioned_nn::Store;
use conditioned_threads as threads;

use crate::config::require_below_one;
use crate::error::Result;

/// Elements per parallel task; every element is computed alone.
const CHUNK: usize = 1 << 14;

/// A moving average of all parameters of a store.
///
/// With `n` updates done before this one,
///
/// ```text
/// d       = min(decay, (1 + n)/(10 + n))
/// average <- average + (1 - d) (theta - average)
/// ```
///
/// The warm-up of `d` is that of TensorFlow's `ExponentialMovingAverage(num_updates)`: without it
/// the random start would weigh `decay^n`. Buffers are *not* averaged (a mean of two pooled
/// statistics belongs to neither set of weights).
#[derive(Debug)]
pub struct Ema {
    averages: Vec<(String, Var, Var)>,
    decay: f64,
    updates: usize,
}

impl Ema {
    /// An average that starts at the present parameters of `store`.
    ///
    /// # Errors
    /// When `decay` lies outside [0, 1), or a parameter cannot be copied.
    pub fn new(store: &Store, decay: f64) -> Result<Self> {
        require_below_one("ema", decay)?;
        let mut averages = Vec::new();
        for (name, var) in store.parameters() {
            // Detached, because `Var::from_tensor` of a variable is the variable itself.
            let average = Var::from_tensor(&var.as_detached_tensor())?;
            averages.push((name, var, average));
        }
        Ok(Self { averages, decay, updates: 0 })
    }

    /// The number of updates done.
    pub fn updates(&self) -> usize {
        self.updates
    }

    /// Moves the average towards the present parameters.
    ///
    /// # Errors
    /// When a parameter is neither f32 nor f64.
    pub fn update(&mut self) -> Result<()> {
        let n = self.updates as f64;
        let rest = 1.0 - self.decay.min((1.0 + n) / (10.0 + n));
        for (_, var, average) in &self.averages {
            if var.device().is_cpu() {
                average.inplace_op2(var, &Towards { rest })?;
            } else {
                let old = average.as_detached_tensor();
                average.set(&(&old + ((var.as_detached_tensor() - &old)? * rest)?)?)?;
            }
        }
        self.updates += 1;
        Ok(())
    }

    /// A [`VarBuilder`] over the averages and over copies of the buffers of `store`, for evaluation. Buffers, such
    /// as the running statistics of batch norms, are those of the present parameters, not averaged.
    ///
    /// # Errors
    /// When a buffer cannot be copied.
    pub fn builder(&self, store: &Store) -> Result<VarBuilder<'static>> {
        let mut tensors: HashMap<String, Tensor> = self.tensors().into_iter().collect();
        for (name, buffer) in store.buffers() {
            let copy = Var::from_tensor(&buffer.as_detached_tensor())?;
            tensors.insert(name, copy.into_inner());
        }
        Ok(VarBuilder::from_tensors(tensors, store.builder().dtype(), store.device()))
    }

    /// The averages under the names of their parameters, sharing storage.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let averages = self.averages.iter();
        averages.map(|(name, _, average)| (name.clone(), average.as_detached_tensor())).collect()
    }

    /// Continues from a saved state: `take` gives the average of a name, in the shape of the
    /// second argument.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn load(
        &mut self,
        updates: usize,
        mut take: impl FnMut(&str, &Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        for (name, _, average) in &self.averages {
            average.set(&take(name, average)?.to_device(average.device())?)?;
        }
        self.updates = updates;
        Ok(())
    }
}

/// `average += rest * (theta - average)`, in place.
struct Towards {
    rest: f64,
}

impl InplaceOp2 for Towards {
    fn name(&self) -> &'static str {
        "ema"
    }

    fn cpu_fwd(
        &self,
        average: &mut CpuStorage,
        average_layout: &Layout,
        theta: &CpuStorage,
        theta_layout: &Layout,
    ) -> candle_core::Result<()> {
        let ranges = (average_layout.contiguous_offsets(), theta_layout.contiguous_offsets());
        let (Some((a0, a1)), Some((t0, t1))) = ranges else {
            candle_core::bail!("ema: parameters must be contiguous")
        };
        match (average, theta) {
            (CpuStorage::F32(a), CpuStorage::F32(t)) => {
                let rest = self.rest as f32;
                towards(&mut a[a0..a1], &t[t0..t1], |a, t| a + rest * (t - a));
            }
            (CpuStorage::F64(a), CpuStorage::F64(t)) => {
                towards(&mut a[a0..a1], &t[t0..t1], |a, t| a + self.rest * (t - a));
            }
            _ => candle_core::bail!("ema: parameters must be f32 or f64"),
        }
        Ok(())
    }
}

fn towards<T: Copy + Send + Sync>(average: &mut [T], theta: &[T], mix: impl Fn(T, T) -> T + Sync) {
    let pieces = average.chunks_mut(CHUNK).zip(theta.chunks(CHUNK));
    threads::for_each(pieces, |_, (average, theta)| {
        for (a, &t) in average.iter_mut().zip(theta) {
            *a = mix(*a, t);
        }
    });
}
