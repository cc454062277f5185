//! The backward pass of a graph that is differentiated once.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, TensorId};

/// Gradients of parameters, each with its parameter.
type Found = HashMap<TensorId, (Tensor, Tensor)>;

thread_local! {
    /// What the [`backward`] that runs on this thread has found.
    static FOUND: RefCell<Option<Found>> = const { RefCell::new(None) };
}

/// A pass of [`backward`], which ends with this value, also in a panic.
struct Final {
    outer: Option<Found>,
}

impl Final {
    fn begin() -> Self {
        Self { outer: FOUND.replace(Some(Found::new())) }
    }

    fn found() -> Found {
        FOUND.with_borrow_mut(Option::take).unwrap_or_default()
    }
}

impl Drop for Final {
    fn drop(&mut self) {
        FOUND.replace(self.outer.take());
    }
}

/// The gradients of `loss`, as [`Tensor::backward`] gives them, in less time and memory.
///
/// candle adds the gradient of every parameter to a tensor of zeros: three more passes over memory. Here the
/// parameters of a [`Sequence`](crate::Sequence) get theirs as they are, and what its layers kept for the
/// backward pass is freed as soon as it has been used. So the graph can be differentiated only once, while
/// `loss.backward()` may be called again and again. On other devices than the CPU and in half precision it is
/// `loss.backward()`.
///
/// The backward of an operation of your own, if it differentiates a graph inside, calls this function too:
/// `Tensor::backward` there would leave the gradients of parameters to the outer pass.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use conditioned_nn::{Store, backward, linear};
/// # fn main() -> candle_core::Result<()> {
/// let store = Store::new(0, DType::F32, &Device::Cpu);
/// let layer = linear(store.builder(), 3, 2)?;
/// let loss = Tensor::ones((4, 3), DType::F32, &Device::Cpu)?.apply(&layer)?.sum_all()?;
/// let grads = backward(loss)?;
/// for (_, parameter) in store.parameters() {
///     assert!(grads.get(&parameter).is_some());
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When an operation of the graph has no gradient, or the graph was differentiated by this function before.
pub fn backward(loss: Tensor) -> Result<GradStore> {
    let pass = Final::begin();
    let mut grads = loss.backward()?;
    let found = Final::found();
    drop(pass);
    for (parameter, gradient) in found.into_values() {
        let sum = match grads.remove(&parameter) {
            Some(before) => (before + gradient)?,
            None => gradient,
        };
        grads.insert(&parameter, sum);
    }
    Ok(grads)
}

/// Whether the graph is differentiated only once.
pub(crate) fn is_final() -> bool {
    FOUND.with_borrow(Option::is_some)
}

/// Takes the gradient of a parameter to the end of [`backward`]; gives it back where candle has to add it.
pub(crate) fn take(parameter: &Tensor, gradient: Tensor) -> Result<Option<Tensor>> {
    FOUND.with_borrow_mut(|found| match found {
        // candle goes on from the gradient of a tensor that was computed.
        Some(found) if parameter.is_variable() => {
            let sum = match found.remove(&parameter.id()) {
                Some((_, before)) => (before + gradient)?,
                None => gradient,
            };
            found.insert(parameter.id(), (parameter.clone(), sum));
            Ok(None)
        }
        _ => Ok(Some(gradient)),
    })
}
