//! Gradients against central differences in f64.

use candle_conditioning::{
    Conditioner, Gradient, NormMatched, Pooled, PooledConfig, Source, Standardise,
};
use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use crate::support::*;

fn full(t: f64) -> Conditioner {
    Conditioner::default().with_strength(t).unwrap().with_gradient(Gradient::Full)
}

#[test]
fn detached_is_the_gradient_with_the_correction_frozen() {
    let (x, weights) = (normal(1, &[2, 4, 6]), normal(2, &[2, 4, 6]));
    let conditioner = Conditioner::default();
    let C = (conditioner.forward(&x).unwrap() - &x).unwrap();
    let found = gradient(&x, &weights, |x| conditioner.forward(x).unwrap());
    let wanted = differences(&x, &weights, |x| (x + &C).unwrap());
    assert_close(&found, &wanted, DIFFERENCES, 1.0);
    assert_eq!(found, values(&weights));
}

#[test]
fn full_is_the_gradient_of_the_map() {
    for (seed, shape) in
        [&[5usize, 9][..], &[9, 5], &[6, 6], &[1, 7], &[7, 1], &[3, 4, 8], &[2, 8, 4]]
            .into_iter()
            .enumerate()
    {
        let (x, weights) = (normal(seed as u64, shape), normal(90, shape));
        for t in [0.3, 1.0] {
            let f = |x: &Tensor| full(t).forward(x).unwrap();
            let (found, wanted) = (gradient(&x, &weights, f), differences(&x, &weights, f));
            let size = wanted.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            assert_close(&found, &wanted, DIFFERENCES, size);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() })]

    #[test]
    fn both_gradients_of_ill_conditioned_tokens(
        seed: u64, n in 1usize..=6, d in 1usize..=6, e in 0.7..2.3f64, t in 0.1..2.0f64,
    ) {
        let kappa = 10f64.powf(e);
        let x = tensor(with_kappa(seed, n, d, kappa).as_ref());
        let weights = normal(seed ^ 1, &[n, d]);
        let f = |x: &Tensor| full(t).forward(x).unwrap();
        let (found, wanted) = (gradient(&x, &weights, f), differences(&x, &weights, f));
        // dC/dX is at most t kappa, the norm of the weights about 6; the third derivative is kappa^2
        // times the first, and the rounding of C, which a difference divides by the step, kappa.
        let size = 6.0 * (1.0 + t * kappa);
        let tolerance = 10.0 * (STEP * kappa).powi(2) + 1e-15 * kappa / STEP;
        assert_close(&found, &wanted, tolerance, size);

        let detached = full(t).with_gradient(Gradient::Detached);
        let C = (detached.forward(&x).unwrap() - &x).unwrap();
        let found = gradient(&x, &weights, |x| detached.forward(x).unwrap());
        assert_close(&found, &differences(&x, &weights, |x| (x + &C).unwrap()), 1e-8, 10.0);
    }
}

#[test]
fn full_has_the_detached_gradient_as_its_limit() {
    let (x, weights) = (normal(3, &[4, 6]), normal(4, &[4, 6]));
    let found = gradient(&x, &weights, |x| full(1e-9).forward(x).unwrap());
    assert_close(&found, &values(&weights), 1e-6, 1.0);
}

#[test]
fn full_differentiates_the_rule_for_degenerate_directions() {
    // sigma = (1, 0.5, 3e-8): the last is inside the ramp f = sigma / (tau sigma_1). Steps must
    // stay inside it too, so the check is linear in closed form: along u_3 v_3^T, C moves by t/tau.
    let x =
        Tensor::new(&[[1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 3e-8]], &Device::Cpu).unwrap();
    let weights = Tensor::new(&[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]], &Device::Cpu);
    let found = gradient(&x, &weights.unwrap(), |x| full(1.0).forward(x).unwrap());
    assert_close(&[found[8]], &[1.0 + 1.0 / TAU], 1e-9, 1.0 / TAU);
    // sigma_1 sigma_3 / (tau sigma_1) does not depend on sigma_1.
    assert_close(&[found[0]], &[0.0], 1e-9, 1.0);
}

#[test]
fn padding_gets_the_upstream_gradient_and_gives_none() {
    let (x, weights) = (normal(5, &[2, 5, 3]), normal(6, &[2, 5, 3]));
    let mask = Tensor::new(&[[1u8, 1, 1, 1, 0], [0, 1, 0, 1, 0]], &Device::Cpu).unwrap();
    let f = |x: &Tensor| full(1.0).forward_masked(x, &mask).unwrap();
    let (found, wanted) = (gradient(&x, &weights, f), differences(&x, &weights, f));
    let size = wanted.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    assert_close(&found, &wanted, DIFFERENCES, size);
}

#[test]
fn zero_sequences_have_the_identity_as_gradient() {
    let (x, weights) = (normal(0, &[3, 4]).zeros_like().unwrap(), normal(7, &[3, 4]));
    assert_eq!(gradient(&x, &weights, |x| full(1.0).forward(x).unwrap()), values(&weights));
}

#[test]
fn strided_inputs_and_single_precision_get_gradients() {
    let x = Var::from_tensor(&normal(8, &[6, 4]).to_dtype(DType::F32).unwrap()).unwrap();
    for conditioner in [Conditioner::default(), full(1.0)] {
        let y = conditioner.forward(&x.t().unwrap()).unwrap();
        let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let g = grads.get(&x).unwrap();
        assert_eq!((g.dims(), g.dtype()), (x.dims(), DType::F32));
        assert!(values(g).iter().all(|v| v.is_finite() && *v != 0.0));
    }
}

#[test]
fn norm_matched_has_a_frozen_correction() {
    let (x, weights) = (normal(9, &[2, 4, 3]), normal(10, &[2, 4, 3]));
    let control = NormMatched::default();
    assert_eq!(gradient(&x, &weights, |x| control.forward(x).unwrap()), values(&weights));
}

#[test]
fn pooled_has_a_frozen_matrix() {
    let (x, weights) = (normal(11, &[2, 5, 4]), normal(12, &[2, 5, 4]));
    for source in [Source::Earlier, Source::Current] {
        let config = PooledConfig { source, ..PooledConfig::default() };
        let pooled = Pooled::new(config, 4, &Device::Cpu).unwrap();
        pooled.observe(&x).unwrap();
        let found = gradient(&x, &weights, |x| pooled.forward_train(x).unwrap());
        // Evaluation keeps M of the base point while x moves.
        let wanted = differences(&x, &weights, |x| pooled.forward(x).unwrap());
        let size = wanted.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        assert_close(&found, &wanted, DIFFERENCES, size);
    }
}

#[test]
fn pooled_padding_passes_its_gradient_unchanged() {
    let (x, weights) = (normal(17, &[2, 4, 3]), normal(18, &[2, 4, 3]));
    let mask = Tensor::new(&[[1u8, 1, 1, 0], [1, 0, 0, 1]], &Device::Cpu).unwrap();
    let pooled = Pooled::new(PooledConfig::default(), 3, &Device::Cpu).unwrap();
    pooled.observe_masked(&x, &mask).unwrap();
    let f = |x: &Tensor| pooled.forward_masked(x, &mask).unwrap();
    assert_close(&gradient(&x, &weights, f), &differences(&x, &weights, f), DIFFERENCES, 10.0);
}

#[test]
fn standardisation_is_differentiated_through_its_statistics() {
    let (x, weights) = (normal(13, &[3, 4, 2]), normal(14, &[3, 4, 2]));
    let layer = Standardise::new(2).unwrap();
    let mask = Tensor::new(&[[1u8, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], &Device::Cpu).unwrap();
    let plain = |x: &Tensor| layer.forward_train(x).unwrap();
    let masked = |x: &Tensor| layer.forward_train_masked(x, &mask).unwrap();
    for f in [&plain as &dyn Fn(&Tensor) -> Tensor, &masked] {
        let (found, wanted) = (gradient(&x, &weights, f), differences(&x, &weights, f));
        assert_close(&found, &wanted, DIFFERENCES, 1.0);
    }
}
