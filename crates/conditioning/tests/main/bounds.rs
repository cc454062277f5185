//! Both sides of Proposition 4.2.

use candle_conditioning::Error;
use candle_conditioning::bounds::{linear_attention, softmax_attention};
use candle_core::{Device, Tensor};
use proptest::prelude::*;

use crate::support::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn both_hold_for_tall_tokens_and_square_weights(
        seed: u64, d in 1usize..=10, more in 0usize..=14, e in 0.0..2.0f64,
    ) {
        let x = tensor(with_kappa(seed, d + more, d, 10f64.powf(e)).as_ref());
        let w = |k: u64| normal(seed.wrapping_add(k), &[d, d]);
        let (q, k, v) = (w(1), w(2), w(3));
        for bound in
            [linear_attention(&x, &q, &k, &v).unwrap(), softmax_attention(&x, &q, &k, &v).unwrap()]
        {
            prop_assert!(bound.left >= 1.0 - EXACT);
            // Beyond 1e10 the small singular values are rounding.
            prop_assert!(bound.right > 1e10 || bound.ratio <= 1.0 + 1e-5, "{:?}", bound);
            let ratio = bound.left / bound.right;
            prop_assert!(bound.right.is_infinite() || bound.ratio == ratio);
        }
    }
}

#[test]
fn the_counterexample_for_fewer_tokens_than_channels() {
    // X = [1 0] and a skew-symmetric W_Q W_K^T: the output is zero.
    let x = Tensor::new(&[[1.0, 0.0]], &Device::Cpu).unwrap();
    let q = Tensor::new(&[[0.0, 1.0], [-1.0, 0.0]], &Device::Cpu).unwrap();
    let eye = Tensor::new(&[[1.0, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
    let bound = linear_attention(&x, &q, &eye, &eye).unwrap();
    assert_eq!((bound.left, bound.right, bound.ratio), (f64::INFINITY, 1.0, f64::INFINITY));
}

#[test]
fn narrow_heads_miss_the_linear_bound_most_of_the_time() {
    let missed = (0..50)
        .filter(|&seed| {
            let w = |k: u64| normal(seed * 10 + k, &[64, 16]);
            let x = normal(seed * 10, &[17, 64]);
            linear_attention(&x, &w(1), &w(2), &w(3)).unwrap().ratio > 1.0
        })
        .count();
    assert!(missed > 40, "{missed} of 50");
}

#[test]
fn shapes_are_checked_by_name() {
    let (x, w) = (normal(1, &[5, 3]), normal(2, &[3, 2]));
    let refused = |name, x: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor| {
        let result = linear_attention(x, q, k, v);
        assert!(matches!(result, Err(Error::Shape { tensor, .. }) if tensor == name), "{result:?}");
    };
    let (wide, batch) = (normal(3, &[3, 4]), normal(4, &[1, 5, 3]));
    refused("w_k", &x, &w, &wide, &w);
    refused("w_v", &x, &w, &w, &w.t().unwrap());
    refused("x", &batch, &w, &w, &w);
    assert!(linear_attention(&x, &w, &w, &wide).is_ok());
}
