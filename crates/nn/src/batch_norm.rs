//! Batch normalisation (Ioffe & Szegedy 2015) of channels-last images.

use std::borrow::Cow;

use candle_core::{DType, Result, Tensor, Var};
use candle_nn::VarBuilder;

use crate::kernel::{self, Real};
use crate::layer::{At, Gradients, Input, Kernel, Wanted};
use crate::{Mode, Pass, reference, sequence};

/// Added to every variance, as PyTorch does by default.
const EPSILON: f64 = 1e-5;

/// The share of the new statistics in the running ones, as in PyTorch by default.
const MOMENTUM: f64 = 0.1;

/// Batch normalisation over the last dimension: y = (x - mean) / sqrt(var + 1e-5) * weight + bias.
///
/// x is (..., C), such as (B, H, W, C). In training, mean and (biased) variance of every channel are
/// those of x, with the gradient through them, and every pass moves the running ones by
/// running <- 0.9 running + 0.1 new, `running_var` with the unbiased variance. In evaluation they
/// are the running ones. So it is with PyTorch's `BatchNorm2d`, which sees (B, C, H, W), also in
/// micro-batches: each of them has statistics of its own.
///
/// `weight`, `bias`, `running_mean` and `running_var` are (C,); the last two are buffers of the
/// [`Store`](crate::Store). PyTorch's `num_batches_tracked` is nothing that the layer needs.
#[derive(Debug, Clone)]
pub struct BatchNorm2d {
    weight: Tensor,
    bias: Tensor,
    running_mean: Running,
    running_var: Running,
    frozen: bool,
}

impl BatchNorm2d {
    /// A layer over given tensors, all (C,). A training pass writes to the running ones, which are
    /// variables then.
    pub fn from_tensors(
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
    ) -> Self {
        let (running_mean, running_var) = (Running::new(running_mean), Running::new(running_var));
        Self { weight, bias, running_mean, running_var, frozen: false }
    }

    /// A layer of `channels`: `weight` and `running_var` start at one, `bias` and `running_mean` at
    /// zero.
    ///
    /// # Errors
    /// When the tensors cannot be created or have another shape.
    pub fn new(vb: VarBuilder, channels: usize) -> Result<Self> {
        let (zero, one) = (candle_nn::init::ZERO, candle_nn::init::ONE);
        let get = |name: &str, start| vb.get_with_hints(channels, name, start);
        Ok(Self::from_tensors(
            get("weight", one)?,
            get("bias", zero)?,
            get("running_mean", zero)?,
            get("running_var", one)?,
        ))
    }

    /// The same layer with the running statistics always, which stay as they are.
    pub fn frozen(self) -> Self {
        Self { frozen: true, ..self }
    }

    /// (..., C) -> (..., C).
    ///
    /// # Errors
    /// When shapes or dtypes do not fit; in training, when a channel has a single value or the
    /// running statistics cannot be written.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        sequence::single(x, self.clone(), mode)
    }

    /// Whether the statistics are those of the batch.
    fn is_training(&self, mode: Mode) -> bool {
        mode.is_train() && !self.frozen
    }

    /// Moves the running statistics to those of a batch of `rows`, both (C,).
    fn keep(&self, mean: &Tensor, variance: &Tensor, rows: usize) -> Result<()> {
        self.running_mean.approach(mean)?;
        // The unbiased variance.
        self.running_var.approach(&(variance * (rows as f64 / (rows as f64 - 1.0)))?)
    }
}

/// A running statistic.
#[derive(Debug, Clone)]
struct Running {
    /// As it is written: a variable in training.
    written: Tensor,
    /// As it is read: the same storage without gradient.
    read: Tensor,
}

impl Running {
    fn new(written: Tensor) -> Self {
        Self { read: written.detach(), written }
    }

    /// running <- 0.9 running + 0.1 new.
    fn approach(&self, new: &Tensor) -> Result<()> {
        let new = new.detach();
        let old = self.read.to_dtype(new.dtype())?;
        let moved = ((old * (1.0 - MOMENTUM))? + (new * MOMENTUM)?)?;
        Var::from_tensor(&self.written)?.set(&moved.to_dtype(self.written.dtype())?)
    }
}

/// Mean and variance of every channel, in f64.
struct Statistics {
    mean: Vec<f64>,
    variance: Vec<f64>,
}

impl Statistics {
    /// Those of the rows of `x`, `c` channels each: mean and squared deviations of each piece of
    /// rows, which are joined in order (Chan, Golub & LeVeque 1983).
    fn of<T: Real>(x: &[T], c: usize) -> Self {
        let piece = kernel::rows_per_piece(c) * c;
        let mut parts = vec![0.0; x.len().div_ceil(piece) * 2 * c];
        kernel::for_pieces(&mut parts, 2 * c, |i, part| {
            let x = &x[i * piece..((i + 1) * piece).min(x.len())];
            let (mean, squares) = part.split_at_mut(c);
            kernel::vectorised(
                #[inline(always)]
                || {
                    for x in x.chunks_exact(c) {
                        for j in 0..c {
                            mean[j] += x[j].wide();
                        }
                    }
                    let scale = c as f64 / x.len() as f64;
                    mean.iter_mut().for_each(|m| *m *= scale);
                    for x in x.chunks_exact(c) {
                        for j in 0..c {
                            let d = x[j].wide() - mean[j];
                            squares[j] += d * d;
                        }
                    }
                },
            );
        });
        let (mut mean, mut squares) = (vec![0.0; c], vec![0.0; c]);
        let mut rows = 0.0;
        for (i, part) in parts.chunks_exact(2 * c).enumerate() {
            let more = (((i + 1) * piece).min(x.len()) - i * piece) as f64 / c as f64;
            let share = more / (rows + more);
            for j in 0..c {
                let d = part[j] - mean[j];
                mean[j] += d * share;
                squares[j] += part[c + j] + d * d * rows * share;
            }
            rows += more;
        }
        squares.iter_mut().for_each(|s| *s /= rows);
        Self { mean, variance: squares }
    }

    /// Mean and 1/sqrt(var + eps).
    fn normal<T: Real>(&self) -> (Vec<T>, Vec<T>) {
        let mean = self.mean.iter().map(|&m| T::from_f64(m)).collect();
        let scale = self.variance.iter().map(|&v| T::from_f64(1.0 / (v + EPSILON).sqrt()));
        (mean, scale.collect())
    }

    /// Given ones.
    fn given<T: Real>(mean: &[T], variance: &[T]) -> Self {
        let wide = |x: &[T]| x.iter().map(|v| v.wide()).collect();
        Self { mean: wide(mean), variance: wide(variance) }
    }
}

/// The sums over rows of g and of g (x - mean), (2c), in f64.
fn sums<T: Real>(x: &[T], g: &[T], mean: &[T]) -> Vec<f64> {
    let c = mean.len();
    let piece = kernel::rows_per_piece(c) * c;
    let mut parts = vec![0.0; x.len().div_ceil(piece) * 2 * c];
    kernel::for_pieces(&mut parts, 2 * c, |i, part| {
        let range = i * piece..((i + 1) * piece).min(x.len());
        let (plain, weighted) = part.split_at_mut(c);
        kernel::vectorised(
            #[inline(always)]
            || {
                let rows = x[range.clone()].chunks_exact(c).zip(g[range.clone()].chunks_exact(c));
                for (x, g) in rows {
                    for j in 0..c {
                        plain[j] += g[j].wide();
                        weighted[j] += (g[j] * (x[j] - mean[j])).wide();
                    }
                }
            },
        );
    });
    kernel::column_sums(&parts, 2 * c)
}

impl Kernel for BatchNorm2d {
    const NAME: &'static str = "batch-norm";

    fn parameters(&self, mode: Mode) -> Vec<&Tensor> {
        let mut parameters = vec![&self.weight, &self.bias];
        if !self.is_training(mode) {
            parameters.extend([&self.running_mean.read, &self.running_var.read]);
        }
        parameters
    }

    fn output(&self, At { dims, pass }: At<'_>) -> Result<Vec<usize>> {
        let all = [&self.weight, &self.bias, &self.running_mean.read, &self.running_var.read];
        let width = &dims[dims.len().saturating_sub(1)..];
        if width.is_empty() || all.iter().any(|tensor| tensor.dims() != width) {
            candle_core::bail!(
                "batch-norm: input {dims:?} and weight, bias, running_mean, running_var {:?} do not \
                 share the last dimension",
                all.map(Tensor::dims)
            );
        }
        if self.is_training(pass.mode) {
            if dims[..dims.len() - 1].iter().product::<usize>() == 1 {
                candle_core::bail!(
                    "batch-norm: one value a channel, {dims:?}, has no variance to train with"
                );
            }
            let written = [&self.running_mean.written, &self.running_var.written];
            if !written.iter().all(|tensor| tensor.is_variable()) {
                candle_core::bail!(
                    "batch-norm: running_mean and running_var cannot be written: the model is built \
                     over frozen tensors; train one that is built over a store, or take frozen()"
                );
            }
        }
        Ok(dims.to_vec())
    }

    /// In half precision the statistics are taken in f32.
    fn on_device(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        if x.elem_count() == 0 {
            return Ok(x.clone());
        }
        let dtype = match x.dtype() {
            DType::F16 | DType::BF16 => DType::F32,
            dtype => dtype,
        };
        let wide = |tensor: &Tensor| tensor.to_dtype(dtype);
        let (rows, weight, bias) = (wide(x)?, wide(&self.weight)?, wide(&self.bias)?);
        let y = if self.is_training(pass.mode) {
            let (y, mean, variance) = reference::batch_norm(&rows, &weight, &bias, EPSILON)?;
            self.keep(&mean, &variance, x.elem_count() / mean.elem_count())?;
            y
        } else {
            let (mean, variance) = (wide(&self.running_mean.read)?, wide(&self.running_var.read)?);
            reference::batch_norm_by(&rows, &mean, &variance, &weight, &bias, EPSILON)?
        };
        y.to_dtype(x.dtype())
    }

    fn forward<T: Real>(&self, input: Input<'_, T>) -> Result<Vec<T>> {
        let Input { x, parameters, at } = input;
        let (c, w, b) = (at.rows().width, parameters[0], parameters[1]);
        let statistics = match parameters[2..] {
            [mean, variance] => Statistics::given(mean, variance),
            _ => {
                let statistics = Statistics::of(x, c);
                let device = self.weight.device();
                let mean = Tensor::from_slice(&statistics.mean, c, device)?;
                let variance = Tensor::from_slice(&statistics.variance, c, device)?;
                self.keep(&mean, &variance, x.len() / c)?;
                statistics
            }
        };
        let (mean, mut scale) = statistics.normal::<T>();
        scale.iter_mut().zip(w).for_each(|(scale, &w)| *scale *= w);
        Ok(kernel::map_rows(
            x,
            c,
            #[inline(always)]
            |x, y| {
                let channels = mean.iter().zip(&scale).zip(b);
                for ((y, &x), ((&mean, &scale), &b)) in y.iter_mut().zip(x).zip(channels) {
                    *y = (x - mean) * scale + b;
                }
            },
        ))
    }

    /// With n = (x - mean) r and r = 1/sqrt(var + eps): dw = sum over rows of g n, db = sum over rows
    /// of g, and over N rows dx = w r (g - db/N - n dw/N); dx = w r g with running statistics.
    fn backward<T: Real>(
        &self,
        input: Input<'_, T>,
        g: Cow<'_, [T]>,
        wanted: Wanted<'_>,
    ) -> Gradients<T> {
        let Input { x, parameters, at } = input;
        let (c, w) = (at.rows().width, parameters[0]);
        let (statistics, training) = match parameters[2..] {
            [mean, variance] => (Statistics::given(mean, variance), false),
            _ => (Statistics::of(x, c), true),
        };
        let (mean, r) = statistics.normal::<T>();
        let sums = sums(x, &g, &mean);
        let (db, dw) = sums.split_at(c);
        let dw: Vec<f64> = dw.iter().zip(&r).map(|(dw, r)| dw * r.wide()).collect();
        let narrow = |sums: &[f64]| sums.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
        let mut gradients = Gradients { input: None, parameters: vec![narrow(&dw), narrow(db)] };
        if !wanted.input {
            return gradients;
        }
        // dx = a (g - shift - (x - mean) slope).
        let rows = (x.len() / c) as f64;
        let of_batch = |sum: f64| if training { sum / rows } else { 0.0 };
        let a: Vec<T> = r.iter().zip(w).map(|(&r, &w)| r * w).collect();
        let shift: Vec<T> = db.iter().map(|&db| T::from_f64(of_batch(db))).collect();
        let slope: Vec<T> =
            dw.iter().zip(&r).map(|(&dw, r)| T::from_f64(of_batch(dw) * r.wide())).collect();
        let piece = kernel::rows_per_piece(c) * c;
        let mut dx = g.into_owned();
        kernel::for_pieces(&mut dx, piece, |i, dx| {
            let (mean, a, shift, slope) = (&mean[..c], &a[..c], &shift[..c], &slope[..c]);
            kernel::vectorised(
                #[inline(always)]
                || {
                    let rows = x[i * piece..].chunks_exact(c);
                    for (x, g) in rows.zip(dx.chunks_exact_mut(c)) {
                        for j in 0..c {
                            g[j] = a[j] * (g[j] - shift[j] - (x[j] - mean[j]) * slope[j]);
                        }
                    }
                },
            );
        });
        gradients.input = Some(dx);
        gradients
    }
}
