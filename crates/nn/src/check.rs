//! Gradients against central differences: one check for every op, layer and model.

use candle_core::{DType, Result, Tensor, Var};

/// The largest disagreement between a gradient and its central difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Disagreement {
    /// The variable, by position.
    pub variable: usize,
    /// The element, in row-major order.
    pub element: usize,
    /// What backward gave.
    pub analytic: f64,
    /// (f(x + h) - f(x - h)) / 2h.
    pub numeric: f64,
    /// |analytic - numeric| / (1 + |numeric|).
    pub error: f64,
}

/// Compares the gradient of a scalar function with central differences.
///
/// For every variable, at most `samples` elements spread over it are moved by +-h with
/// h = 1e-5 max(1, |x|): in f64 the difference has a truncation error of order h^2 = 1e-10 and a
/// rounding error of order 1e-16 / h = 1e-11, both relative to the function's size.
///
/// Returns the largest disagreement.
///
/// # Errors
/// When a variable is not f64, has no gradient, or `f` fails.
pub fn central_differences(
    variables: &[Var],
    samples: usize,
    f: impl Fn() -> Result<Tensor>,
) -> Result<Disagreement> {
    let grads = f()?.backward()?;
    let mut worst =
        Disagreement { variable: 0, element: 0, analytic: 0.0, numeric: 0.0, error: -1.0 };
    for (variable, var) in variables.iter().enumerate() {
        if var.dtype() != DType::F64 {
            candle_core::bail!("central differences want f64, variable {variable} is not");
        }
        let Some(grad) = grads.get(var) else {
            candle_core::bail!("variable {variable} {:?} has no gradient", var.dims());
        };
        if grad.dims() != var.dims() {
            candle_core::bail!(
                "variable {variable}: gradient {:?} for shape {:?}",
                grad.dims(),
                var.dims()
            );
        }
        let grad: Vec<f64> = grad.flatten_all()?.to_vec1()?;
        let base: Vec<f64> = var.flatten_all()?.to_vec1()?;
        let stride = base.len().div_ceil(samples.max(1)).max(1);
        for element in (0..base.len()).step_by(stride) {
            let numeric = difference(var, &base, element, &f)?;
            let error = (grad[element] - numeric).abs() / (1.0 + numeric.abs());
            if error.is_nan() || error > worst.error {
                worst = Disagreement { variable, element, analytic: grad[element], numeric, error };
            }
        }
    }
    Ok(worst)
}

/// The central difference of `f` in one element; the variable is restored.
fn difference(
    var: &Var,
    base: &[f64],
    element: usize,
    f: &impl Fn() -> Result<Tensor>,
) -> Result<f64> {
    let h = 1e-5 * base[element].abs().max(1.0);
    let at = |value: f64| -> Result<f64> {
        let mut moved = base.to_vec();
        moved[element] = value;
        var.set(&Tensor::from_vec(moved, var.shape(), var.device())?)?;
        f()?.to_scalar::<f64>()
    };
    let (up, down) = (base[element] + h, base[element] - h);
    let numeric = (at(up)? - at(down)?) / (up - down);
    var.set(&Tensor::from_vec(base.to_vec(), var.shape(), var.device())?)?;
    Ok(numeric)
}
