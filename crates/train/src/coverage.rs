//! Every parameter has a gradient: what candle does not check.
//!
//! Several fused operations of candle cut the graph without an error; an optimiser then skips the
//! parameters above the cut and the loss still falls. (A product with the constant 0 has no gradient
//! in candle either.)

use candle_core::Var;
use candle_core::backprop::GradStore;

use crate::error::{Result, TrainError};

/// Checks that every parameter has a gradient of its own shape.
///
/// # Errors
/// Names all parameters without a gradient, or the first whose gradient has another shape.
pub fn check(parameters: &[(String, Var)], grads: &GradStore) -> Result<()> {
    let mut names = Vec::new();
    for (name, var) in parameters {
        match grads.get(var) {
            None => names.push(name.clone()),
            Some(grad) if grad.dims() != var.dims() => {
                return Err(TrainError::GradientShape {
                    name: name.clone(),
                    found: grad.dims().to_vec(),
                    expected: var.dims().to_vec(),
                });
            }
            Some(_) => {}
        }
    }
    if names.is_empty() {
        Ok(())
    } else {
        Err(TrainError::MissingGradients { names, total: parameters.len() })
    }
}
