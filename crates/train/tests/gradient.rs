//! Norm, clipping, accumulation and coverage of gradients.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use conditioned_train::{GradientNorms, TrainError, accumulate, coverage};

use crate::support::{assert_close, noise, parameter, values};

/// A sum of fewer than 2^16 squares in f64, in any order.
const ROUNDING: f64 = 1e-13;
/// More than one parallel chunk (16,384), with a rest in the last lane.
const LARGE: usize = 40_003;

fn with_gradients(gradients: &[(&str, Tensor)]) -> (Vec<(String, Var)>, GradStore) {
    let (mut parameters, mut grads) = (Vec::new(), GradStore::default());
    for (name, grad) in gradients {
        let var = Var::zeros(grad.shape(), grad.dtype(), grad.device()).unwrap();
        grads.insert(&var, grad.clone());
        parameters.push(((*name).to_string(), var));
    }
    (parameters, grads)
}

fn large(dtype: DType) -> Tensor {
    let values: Vec<f64> = (0..LARGE).map(noise).collect();
    Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

#[test]
fn the_norm_and_the_factor_are_torchs() {
    let small = Tensor::new(&[[3.0f64], [-4.0]], &Device::Cpu).unwrap();
    let (parameters, grads) = with_gradients(&[("a", small.clone())]);
    let norms = GradientNorms::new(&parameters, &grads).unwrap();
    assert_eq!(norms.total(), 5.0);
    assert_eq!(norms.clip(1.0), 1.0 / (5.0 + 1e-6));
    assert_eq!(norms.clip(7.0), 1.0);

    for dtype in [DType::F32, DType::F64] {
        let strided = small.to_dtype(dtype).unwrap().broadcast_as((2, 3)).unwrap();
        let (parameters, grads) = with_gradients(&[("a", large(dtype)), ("b", strided)]);
        let norms = GradientNorms::new(&parameters, &grads).unwrap();
        let squares = values(&large(dtype)).iter().map(|x| x * x).sum::<f64>() + 3.0 * 25.0;
        assert_close("norm", &[norms.total()], &[squares.sqrt()], ROUNDING, 0.0);
    }
}

#[test]
fn the_norm_does_not_depend_on_the_number_of_threads() {
    let (parameters, grads) = with_gradients(&[("a", large(DType::F32))]);
    let total = |threads| {
        conditioned_threads::with_count(threads, || {
            GradientNorms::new(&parameters, &grads).unwrap().total()
        })
    };
    assert_eq!(total(1).to_bits(), total(2).to_bits());
}

#[test]
fn zero_and_non_finite_gradients_are_named() {
    let tensor = |values: [f32; 2]| Tensor::new(&values, &Device::Cpu).unwrap();
    let (parameters, grads) = with_gradients(&[
        ("fine", tensor([0.0, 1e-30])),
        ("infinite", tensor([f32::INFINITY, 0.0])),
        ("nan", tensor([0.0, f32::NAN])),
        ("zero", tensor([0.0, -0.0])),
    ]);
    let norms = GradientNorms::new(&parameters, &grads).unwrap();
    assert_eq!(norms.zeros(), ["zero"]);
    assert_eq!(norms.first_non_finite(), Some("infinite"));
    assert!(norms.total().is_nan());
}

#[test]
fn micro_batches_accumulate_to_the_gradient_of_the_big_batch() {
    let (name, var) = parameter("w", &[0.3, -0.7]);
    let parameters = [(name, var.clone())];
    let x: Vec<f64> = (0..24).map(noise).collect();
    let x = Tensor::from_vec(x, (12, 2), &Device::Cpu).unwrap();
    let loss = |rows: &Tensor| -> candle_core::Result<Tensor> {
        rows.broadcast_mul(&var)?.sum(1)?.tanh()?.sqr()?.mean_all()
    };
    let (big, wanted) = accumulate(&parameters, 1, &[0], |_| Ok(loss(&x)?)).unwrap();
    let micro = |i| Ok(loss(&x.narrow(0, 4 * i, 4)?)?);
    let (mean, found) = accumulate(&parameters, 3, &[0, 1, 2], micro).unwrap();
    assert_close("loss", &[mean], &[big], ROUNDING, 0.0);
    let gradient = |grads: &GradStore| values(grads.get(&var).unwrap());
    assert_close("gradient", &gradient(&found), &gradient(&wanted), ROUNDING, ROUNDING);
    assert_eq!(found.get_ids().count(), 1, "gradients of constants are dropped");
}

#[test]
fn a_loss_that_is_not_a_scalar_is_refused() {
    let parameters = [parameter("w", &[1.0, 2.0])];
    let error = accumulate(&parameters, 1, &[0], |_| Ok(parameters[0].1.sqr()?)).unwrap_err();
    assert!(matches!(error, TrainError::LossShape { found } if found == [2]));
}

#[test]
fn every_missing_gradient_is_named() {
    let (mut parameters, grads) = with_gradients(&[("a", large(DType::F32))]);
    coverage::check(&parameters, &grads).unwrap();
    parameters.push(parameter("b.weight", &[1.0]));
    parameters.push(parameter("c.bias", &[1.0]));
    let error = coverage::check(&parameters, &grads).unwrap_err().to_string();
    assert!(error.starts_with("no gradient for 2 of 3 parameters: b.weight, c.bias."), "{error}");
}

#[test]
fn a_gradient_of_another_shape_is_named() {
    let (name, var) = parameter("w", &[1.0, 2.0]);
    let mut grads = GradStore::default();
    grads.insert(&var, var.unsqueeze(0).unwrap());
    let error = coverage::check(&[(name, var)], &grads).unwrap_err().to_string();
    assert_eq!(error, "the gradient of `w` has shape [1, 2], the parameter [2]");
}
