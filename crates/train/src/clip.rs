//! The global norm of the gradient, and clipping by it.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, D, DType, Storage, Tensor, Var};
use conditioned_threads as threads;

use crate::error::{Result, TrainError};

/// Elements per parallel task: sums have this grouping for any number of threads.
const CHUNK: usize = 1 << 14;

/// Independent partial sums per chunk, so that the loop vectorises.
const LANES: usize = 8;

/// torch's guard against a division by a zero norm.
const EPS: f64 = 1e-6;

/// The squared norm of each parameter's gradient, accumulated in f64 in a fixed order.
///
/// `norm = sqrt(sum_p sum_i g_pi^2)`, over parameters in name order.
#[derive(Debug)]
pub struct GradientNorms<'a> {
    parameters: &'a [(String, Var)],
    squares: Vec<f64>,
}

impl<'a> GradientNorms<'a> {
    /// Measures the gradients of `parameters`.
    ///
    /// # Errors
    /// When a parameter has no gradient.
    pub fn new(parameters: &'a [(String, Var)], grads: &GradStore) -> Result<Self> {
        let missing = |name: &String| TrainError::MissingGradients {
            names: vec![name.clone()],
            total: parameters.len(),
        };
        let grads =
            parameters.iter().map(|(name, var)| grads.get(var).ok_or_else(|| missing(name)));
        let grads: Vec<&Tensor> = grads.collect::<Result<_>>()?;
        let squares = match grads.first() {
            Some(first) if !first.device().is_cpu() => by_tensors(&grads)?,
            _ => grads.into_iter().map(squared_norm).collect::<Result<_>>()?,
        };
        Ok(Self { parameters, squares })
    }

    /// The global norm.
    pub fn total(&self) -> f64 {
        self.squares.iter().sum::<f64>().sqrt()
    }

    /// The factor that clips the gradient to the norm `max`, as `torch.nn.utils.clip_grad_norm_`:
    /// `min(1, max / (norm + 1e-6))`.
    pub fn clip(&self, max: f64) -> f64 {
        (max / (self.total() + EPS)).min(1.0)
    }

    /// The parameters whose gradient is zero in every entry (key biases are, exactly: softmax is
    /// invariant to a shift).
    pub fn zeros(&self) -> Vec<String> {
        self.select(|square| square == 0.0).map(str::to_string).collect()
    }

    /// The first parameter, in name order, whose gradient has a NaN or an infinity.
    pub fn first_non_finite(&self) -> Option<&'a str> {
        self.select(|square| !square.is_finite()).next()
    }

    fn select(&self, keep: impl Fn(f64) -> bool) -> impl Iterator<Item = &'a str> {
        let all = self.parameters.iter().zip(&self.squares);
        all.filter(move |(_, square)| keep(**square)).map(|((name, _), _)| name.as_str())
    }
}

/// The sums of squares on a device without a kernel here: one transfer for all, since each waits
/// for the device.
fn by_tensors(grads: &[&Tensor]) -> Result<Vec<f64>> {
    // candle sums each number of a result on one multiprocessor of a GPU: rows first, which are many.
    let sum =
        |grad: &&Tensor| grad.to_dtype(DType::F32)?.sqr()?.unsqueeze(0)?.sum(D::Minus1)?.sum_all();
    let sums = grads.iter().map(sum).collect::<candle_core::Result<Vec<_>>>()?;
    let sums = Tensor::stack(&sums, 0)?.to_vec1::<f32>()?;
    Ok(sums.into_iter().map(f64::from).collect())
}

/// The sum of squares of one gradient on the CPU.
fn squared_norm(grad: &Tensor) -> Result<f64> {
    let grad = grad.contiguous()?;
    let (storage, layout) = grad.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(g)), Some((from, to))) => {
            Ok(sum_of_squares(&g[from..to], f64::from))
        }
        (Storage::Cpu(CpuStorage::F64(g)), Some((from, to))) => {
            Ok(sum_of_squares(&g[from..to], |x| x))
        }
        _ => Err(candle_core::Error::msg(format!(
            "gradients are f32 or f64, found {:?}",
            grad.dtype()
        ))
        .into()),
    }
}

fn sum_of_squares<T: Copy + Sync>(values: &[T], wide: impl Fn(T) -> f64 + Sync) -> f64 {
    let chunk = |chunk: &[T]| {
        let mut lanes = [0.0; LANES];
        for group in chunk.chunks(LANES) {
            for (lane, &value) in lanes.iter_mut().zip(group) {
                let value = wide(value);
                *lane += value * value;
            }
        }
        lanes.iter().sum::<f64>()
    };
    threads::map(values.chunks(CHUNK), chunk).iter().sum()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn tensor_operations_equal_the_kernel() -> Result<()> {
        let a = Tensor::new(&[[1f32, -2.0], [3.0, 0.5]], &Device::Cpu)?;
        let b = Tensor::new(&[0f32, 4.0], &Device::Cpu)?;
        let c = Tensor::new(3f32, &Device::Cpu)?;
        // Exact in f32.
        let want = [squared_norm(&a)?, squared_norm(&b)?, squared_norm(&c)?];
        assert_eq!(by_tensors(&[&a, &b, &c])?, want);
        Ok(())
    }
}
