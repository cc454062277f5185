//! Cross-entropy with soft targets.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::kernel::{self, Real};
use crate::reference;

/// Mean over rows of -sum_k target_k log softmax(logits)_k.
///
/// `logits` is (B, K); `targets` is (B, K), a distribution in every row (mixup and smoothing give
/// soft ones). The result is a scalar. Targets are constants.
///
/// # Errors
/// When shapes differ.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    if logits.dims() != targets.dims() || logits.rank() != 2 {
        candle_core::bail!(
            "cross-entropy: logits {:?} and targets {:?} must both be (batch, classes)",
            logits.dims(),
            targets.dims()
        );
    }
    let targets = targets.detach().to_dtype(logits.dtype())?.contiguous()?;
    if !kernel::serves(logits) {
        return reference::cross_entropy(logits, &targets);
    }
    logits.contiguous()?.apply_op1(CrossEntropyOp { targets })
}

struct CrossEntropyOp {
    targets: Tensor,
}

impl CrossEntropyOp {
    /// log sum_k exp(x_k) of a row, stable.
    fn log_sum_exp<T: Real>(x: &[T]) -> f64 {
        let max = kernel::maximum(x);
        let sum = kernel::sum_map(x, |v| (v - max).exp());
        max.to_f64() + sum.to_f64().ln()
    }

    /// The mean loss, accumulated in f64.
    fn loss<T: Real>(logits: &[T], targets: &[T], classes: usize) -> T {
        let rows = logits.chunks_exact(classes).zip(targets.chunks_exact(classes));
        let total: f64 = rows
            .map(|(x, t)| {
                let total_target = kernel::sum_map(t, |t| t).to_f64();
                total_target * Self::log_sum_exp(x) - kernel::sum_map2(x, t, |x, t| x * t).to_f64()
            })
            .sum();
        T::from_f64(total / (logits.len() / classes) as f64)
    }
}

impl CustomOp1 for CrossEntropyOp {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, classes) = layout.shape().dims2()?;
        let (targets, targets_layout) = self.targets.storage_and_layout();
        let candle_core::Storage::Cpu(targets) = &*targets else {
            candle_core::bail!("cross-entropy: logits are on the CPU and targets are not");
        };
        kernel::dispatch!(logits, self.name(), T => {
            let logits: &[T] = kernel::slice(logits, layout, self.name())?;
            let targets: &[T] = kernel::slice(targets, targets_layout, self.name())?;
            let loss = Self::loss(logits, targets, classes);
            kernel::output(vec![loss], Shape::from(()))
        })
    }

    /// d logits = g / B (softmax(logits) sum(target) - target).
    fn bwd(&self, logits: &Tensor, _loss: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let probabilities = candle_nn::ops::softmax_last_dim(&logits.detach())?;
        let mass = self.targets.sum_keepdim(1)?;
        let difference = (probabilities.broadcast_mul(&mass)? - &self.targets)?;
        let scale = (g / logits.dim(0)? as f64)?;
        Ok(Some(difference.broadcast_mul(&scale)?))
    }
}
