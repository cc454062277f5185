//! Gradient accumulation: several micro-batches, one gradient.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use conditioned_nn::backward;

use crate::error::{Result, TrainError};

/// The share of the micro-batches `numbers` in the mean of `count` losses and in its gradient, with one graph
/// alive at a time.
///
/// ```text
/// L = (1/count) sum_i loss(i),    dL/dtheta = sum_i d(loss(i)/count)/dtheta,    i in numbers
/// ```
///
/// Where `numbers` are all `count`, these are the mean and its gradient; else the sums of all shares are.
///
/// With equal micro-batches and mean losses this is the gradient of the one big batch. Only
/// gradients of `parameters` are kept: candle also returns those of constants, such as images and
/// masks, which would pile up. A loss that is not finite ends the sum on the CPU: it is returned, and what has
/// no meaning is not differentiated. From a GPU losses are read at the end, as reading one waits for it.
///
/// # Errors
/// When a loss fails, is not a scalar, or cannot be differentiated.
pub fn accumulate(
    parameters: &[(String, Var)],
    count: usize,
    numbers: &[usize],
    mut loss: impl FnMut(usize) -> Result<Tensor>,
) -> Result<(f64, GradStore)> {
    let mut mean = 0.0;
    let mut sum = GradStore::default();
    let mut unread = Vec::new();
    for &number in numbers {
        let loss = loss(number)?;
        if loss.rank() != 0 {
            return Err(TrainError::LossShape { found: loss.dims().to_vec() });
        }
        if loss.device().is_cpu() {
            mean += scalar(&loss)? / count as f64;
            if !mean.is_finite() {
                break;
            }
        } else {
            unread.push(loss.detach());
        }
        let share = if count == 1 { loss } else { (loss * (1.0 / count as f64))? };
        let mut all = backward(share)?;
        let mut grads = GradStore::default();
        for (_, var) in parameters {
            if let Some(grad) = all.remove(var) {
                grads.insert(var, grad);
            }
        }
        sum.extend(grads)?;
    }
    for loss in unread {
        mean += scalar(&loss)? / count as f64;
    }
    Ok((mean, sum))
}

/// The value of a loss.
fn scalar(loss: &Tensor) -> Result<f64> {
    // Not every device has f64, and f32 holds every narrower type.
    Ok(match loss.dtype() {
        DType::F64 => loss.to_scalar()?,
        _ => f64::from(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?),
    })
}
