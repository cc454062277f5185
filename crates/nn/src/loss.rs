//! Cross-entropy: with soft targets, and over a large vocabulary without the logits.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor};
use conditioned_threads as threads;

use crate::kernel::{self, Onto, Real, View};
use crate::{Precision, device, reference};

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
    #[inline(always)]
    fn log_sum_exp<T: Real>(x: &[T]) -> f64 {
        let max = kernel::maximum(x);
        let sum = kernel::sum_map(
            x,
            #[inline(always)]
            |v| (v - max).exp(),
        );
        max.to_f64() + sum.to_f64().ln()
    }

    /// The mean loss, accumulated in f64.
    fn loss<T: Real>(logits: &[T], targets: &[T], classes: usize) -> T {
        let mut total = 0.0;
        kernel::vectorised(
            #[inline(always)]
            || {
                let rows = logits.chunks_exact(classes).zip(targets.chunks_exact(classes));
                for (x, t) in rows {
                    let mass = kernel::sum_map(t, |t| t).to_f64();
                    let of_targets = kernel::sum_map2(x, t, |x, t| x * t).to_f64();
                    total += mass * Self::log_sum_exp(x) - of_targets;
                }
            },
        );
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

/// The label of a row that has no target, such as padding or a word that is not masked.
pub const IGNORED: u32 = u32::MAX;

/// Mean over labelled rows of -log softmax(x W^T)_label: a linear head without bias and
/// cross-entropy in one.
///
/// `x` is (..., C), `weight` W is (V, C), `labels` are u32 of the leading dimensions of `x`, each
/// below V or [`IGNORED`]; they may be on the CPU wherever x is, and are read there. The result is a
/// scalar. Products are taken in `precision`. On the CPU, in full precision, the logits (rows, V) exist for a few
/// rows at a time only: the same pass that computes them also computes the gradients of `x` and W, which
/// backward scales.
///
/// # Errors
/// When shapes do not fit, a label is not below V, or no row is labelled.
pub fn linear_cross_entropy(
    x: &Tensor,
    weight: &Tensor,
    labels: &Tensor,
    precision: Precision,
) -> Result<Tensor> {
    let (vocabulary, width) = weight.dims2()?;
    let labels: Vec<u32> = labels.flatten_all()?.to_dtype(DType::U32)?.to_vec1()?;
    let rows = labels.len();
    if x.dims().last() != Some(&width) || x.elem_count() != rows * width {
        candle_core::bail!(
            "linear-cross-entropy: input {:?}, weight {:?} and {rows} labels do not fit",
            x.dims(),
            weight.dims()
        );
    }
    let count = labels.iter().filter(|&&label| label != IGNORED).count();
    if count == 0 {
        candle_core::bail!("linear-cross-entropy: none of {rows} rows has a label");
    }
    let wrong = labels.iter().find(|&&label| label != IGNORED && label as usize >= vocabulary);
    if let Some(label) = wrong {
        candle_core::bail!("linear-cross-entropy: label {label} with {vocabulary} classes");
    }
    let x = x.reshape((rows, width))?;
    if !kernel::serves(&x) || !precision.is_full() {
        let (factor, weight) = (precision.factor(&x)?, precision.factor(weight)?);
        return device::linear_cross_entropy(&factor, &weight, &labels)?.to_dtype(x.dtype());
    }
    let tracked = x.track_op() || weight.track_op();
    let op = LinearCrossEntropyOp { labels, count, tracked, gradients: OnceLock::new() };
    x.contiguous()?.apply_op2(&weight.contiguous()?, op)
}

/// Logits that exist at a time.
const LOGITS: usize = 1 << 22;

struct LinearCrossEntropyOp {
    labels: Vec<u32>,
    /// Labelled rows.
    count: usize,
    tracked: bool,
    /// dx and dW for a gradient of one.
    gradients: OnceLock<(CpuStorage, CpuStorage)>,
}

impl LinearCrossEntropyOp {
    fn forward<T: Real>(&self, x: &[T], w: &[T], vocabulary: usize, width: usize) -> T {
        let (gradient_len, weight_len) = if self.tracked { (x.len(), w.len()) } else { (0, 0) };
        let (mut dx, mut dw) = (vec![T::ZERO; gradient_len], vec![T::ZERO; weight_len]);
        let rows = (LOGITS / vocabulary).clamp(1, self.labels.len());
        let mut logits = vec![T::ZERO; rows * vocabulary];
        let mut losses = vec![0f64; self.labels.len()];
        let weight = View::rows(vocabulary, width, 0, width);
        for (i, labels) in self.labels.chunks(rows).enumerate() {
            let (m, first) = (labels.len(), i * rows);
            let x = (x, View::rows(m, width, first * width, width));
            let block = View::rows(m, vocabulary, 0, vocabulary);
            kernel::matmul((&mut logits, block), x, (w, weight.t()), T::ONE, Onto::Nothing);
            let losses = &mut losses[first..first + m];
            self.rows(&mut logits[..m * vocabulary], labels, losses, vocabulary);
            if self.tracked {
                let g = (logits.as_slice(), block);
                kernel::matmul((&mut dx, x.1), g, (w, weight), T::ONE, Onto::Nothing);
                kernel::matmul(
                    (&mut dw, weight),
                    (g.0, g.1.t()),
                    x,
                    T::ONE,
                    Onto::itself_if(i > 0),
                );
            }
        }
        let (dx, dw) = (T::to_cpu_storage_owned(dx), T::to_cpu_storage_owned(dw));
        // A custom op runs its forward once.
        let _ = self.gradients.set((dx, dw));
        T::from_f64(losses.iter().sum::<f64>() / self.count as f64)
    }

    /// Logits to losses and, in place, to the gradient (softmax - target) / count.
    fn rows<T: Real>(&self, logits: &mut [T], labels: &[u32], losses: &mut [f64], width: usize) {
        let scale = T::from_f64(1.0 / self.count as f64);
        let each = |row: &mut [T], label: u32, loss: &mut f64| {
            if label == IGNORED {
                row.fill(T::ZERO);
                return;
            }
            let target = row[label as usize].to_f64();
            kernel::vectorised(
                #[inline(always)]
                || {
                    let max = kernel::maximum(row);
                    for v in row.iter_mut() {
                        *v = (*v - max).exp();
                    }
                    let sum = kernel::sum_map(row, |v| v);
                    *loss = max.to_f64() + sum.to_f64().ln() - target;
                    let scale = scale / sum;
                    for v in row.iter_mut() {
                        *v *= scale;
                    }
                },
            );
            row[label as usize] -= scale;
        };
        let group = kernel::rows_per_piece(width);
        let pieces = labels.chunks(group).zip(losses.chunks_mut(group));
        let pieces = logits.chunks_mut(group * width).zip(pieces);
        threads::for_each(pieces, |_, (logits, (labels, losses))| {
            let rows = logits.chunks_exact_mut(width).zip(labels).zip(losses);
            rows.for_each(|((row, &label), loss)| each(row, label, loss));
        });
    }
}

impl CustomOp2 for LinearCrossEntropyOp {
    fn name(&self) -> &'static str {
        "linear-cross-entropy"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (vocabulary, width) = w_layout.shape().dims2()?;
        kernel::dispatch!(x, self.name(), T => {
            let x = kernel::slice::<T>(x, x_layout, self.name())?;
            let w = kernel::slice::<T>(w, w_layout, self.name())?;
            let loss = self.forward(x, w, vocabulary, width);
            kernel::output(vec![loss], ())
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _loss: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some((dx, dw)) = self.gradients.get() else {
            candle_core::bail!("linear-cross-entropy: backward before forward");
        };
        match x.dtype() {
            DType::F32 => scaled::<f32>((x, dx), (w, dw), g),
            _ => scaled::<f64>((x, dx), (w, dw), g),
        }
    }
}

/// The kept gradients times the scalar `g`, each if its tensor is tracked.
fn scaled<T: Real>(
    x: (&Tensor, &CpuStorage),
    w: (&Tensor, &CpuStorage),
    g: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let g = g.to_scalar::<T>()?;
    let scaled = |(tensor, gradient): (&Tensor, &CpuStorage)| -> Result<Option<Tensor>> {
        if !tensor.track_op() {
            return Ok(None);
        }
        let gradient = kernel::map(
            gradient.as_slice::<T>()?,
            #[inline(always)]
            |v| v * g,
        );
        Ok(Some(Tensor::from_vec(gradient, tensor.shape(), tensor.device())?))
    };
    Ok((scaled(x)?, scaled(w)?))
}
