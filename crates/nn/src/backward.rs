//! The backward pass of a graph that is differentiated once.

use std::cell::RefCell;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor};

thread_local! {
    /// Gradients of parameters found by the [`backward`] that runs on this thread.
    static FOUND: RefCell<Option<Vec<(Tensor, Tensor)>>> = const { RefCell::new(None) };
}

/// The gradients of `loss`, as [`Tensor::backward`] gives them, in less time and memory.
///
/// candle adds the gradient of every parameter to a tensor of zeros: three more passes over memory. Here the
/// parameters of a [`Sequence`](crate::Sequence) get theirs as they are, and what its layers kept for the
/// backward pass is freed as soon as it has been used. So the graph can be differentiated only once, while
/// `loss.backward()` may be called again and again.
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
    let outer = FOUND.replace(Some(Vec::new()));
    let grads = loss.backward();
    let found = FOUND.replace(outer).unwrap_or_default();
    let mut grads = grads?;
    for (parameter, gradient) in found {
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
pub(crate) fn take(parameter: &Tensor, gradient: Tensor) -> Option<Tensor> {
    FOUND.with_borrow_mut(|found| match found {
        // candle goes on from the gradient of a tensor that was computed.
        Some(found) if parameter.is_variable() => {
            found.push((parameter.clone(), gradient));
            None
        }
        _ => Some(gradient),
    })
}
