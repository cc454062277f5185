//! What the map does to a matrix, against its definition.

use candle_conditioning::{Conditioner, condition_number};
use candle_core::{DType, Tensor};
use faer::Mat;
use proptest::prelude::*;

use crate::support::*;

/// The kinds of matrices that a token matrix can be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Kappa(f64),
    RepeatedRows,
    RankOne,
    Zero,
    OneRow,
}

pub(crate) fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => (0.0..12.0f64).prop_map(|e| Kind::Kappa(10f64.powf(e))),
        2 => Just(Kind::RepeatedRows),
        1 => Just(Kind::RankOne),
        1 => Just(Kind::Zero),
        1 => Just(Kind::OneRow),
    ]
}

pub(crate) fn build(kind: Kind, seed: u64, n: usize, d: usize) -> Mat<f64> {
    let X = normal_matrix(seed, n, d);
    match kind {
        Kind::Kappa(kappa) => with_kappa(seed, n, d, kappa),
        Kind::RepeatedRows => Mat::from_fn(n, d, |i, j| X[(i / 2, j)]),
        Kind::RankOne => Mat::from_fn(n, d, |i, j| X[(i, 0)] * X[(0, j)]),
        Kind::Zero => Mat::zeros(n, d),
        Kind::OneRow => Mat::from_fn(n, d, |i, j| if i == n / 2 { X[(i, j)] } else { 0.0 }),
    }
}

fn conditioned(x: &Tensor, t: f64) -> Tensor {
    Conditioner::default().with_strength(t).unwrap().forward(x).unwrap()
}

/// kappa(Y) over the directions in which X is not degenerate.
pub(crate) fn kappa_over_rank(X: &Mat<f64>, Y: &Mat<f64>) -> f64 {
    let (before, after) = (singular_values(X), singular_values(Y));
    // A direction within rounding of the threshold may fall on either side of it.
    let rank = before.iter().filter(|&&s| s > 0.0 && s >= TAU * (1.0 + 1e-3) * before[0]).count();
    if rank == 0 { 1.0 } else { after[0] / after[rank - 1] }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn singular_vectors_stay_and_values_shift(
        kind in kinds(), seed: u64, n in 1usize..=24, d in 1usize..=24, t in 0.05..3.0f64,
        exponent in -300i32..=300,
    ) {
        let scale = 2f64.powi(exponent);
        let X = build(kind, seed, n, d);
        let x = (tensor(X.as_ref()) * scale).unwrap();
        let y = values(&(conditioned(&x, t) / scale).unwrap());
        let top = singular_values(&X)[0];
        assert_close(&y, &values(&tensor(oracle(&X, t).as_ref())), ORACLE, (1.0 + t) * top);
    }

    #[test]
    fn kappa_is_bounded(
        kind in kinds(), seed: u64, n in 1usize..=24, d in 1usize..=24, t in 0.1..3.0f64,
        single: bool,
    ) {
        let dtype = if single { DType::F32 } else { DType::F64 };
        let x = tensor(build(kind, seed, n, d).as_ref()).to_dtype(dtype).unwrap();
        let y = conditioned(&x, t);
        prop_assert_eq!(y.dtype(), dtype);
        let kappa = kappa_over_rank(&matrix(&x), &matrix(&y));
        // The rounding of Y alone moves a singular value by epsilon sigma_1(Y) sqrt(rank) / 2.
        let bound = (1.0 + t) / t;
        let rounding = epsilon(dtype) / 2.0 * (n.min(d) as f64).sqrt() * bound;
        prop_assert!(kappa <= bound * (1.0 + BOUND + rounding), "{} > {}", kappa, bound);
    }

    #[test]
    fn with_and_without_eigenvectors(
        seed: u64, n in 15usize..=48, d in 15usize..=48, e in 3.0..4.2f64, exponent in -300i32..=300,
    ) {
        // kappa of 1e3 to 1.6e4: the ways meet at 4096, where both have the error of a Gram matrix.
        let (X, kappa) = (with_kappa(seed, n, d, 10f64.powf(e)), 10f64.powf(e));
        let y = conditioned(&(tensor(X.as_ref()) * 2f64.powi(exponent)).unwrap(), 1.0);
        let y = values(&(y * 2f64.powi(-exponent)).unwrap());
        assert_close(&y, &values(&tensor(oracle(&X, 1.0).as_ref())), 1e-15 * kappa * kappa, 1.0);
    }

    #[test]
    fn orthogonal_maps_commute(seed: u64, n in 1usize..=12, d in 1usize..=12) {
        // C(Q X P) = Q C(X) P: the correction knows no basis of tokens or channels.
        let (Q, P) = (normal_matrix(seed, n, n), normal_matrix(seed ^ 1, d, d));
        let (Q, P) = (Q.qr().compute_thin_Q(), P.qr().compute_thin_Q());
        let X = with_kappa(seed ^ 2, n, d, 1e3);
        let Y = &Q * matrix(&conditioned(&tensor(X.as_ref()), 1.0)) * &P;
        let rotated = conditioned(&tensor((&Q * &X * &P).as_ref()), 1.0);
        // The polar factor amplifies the rounding of the rotation by kappa.
        assert_close(&values(&rotated), &values(&tensor(Y.as_ref())), EXACT * 1e3, 1.0);
    }
}

#[test]
fn wide_dynamic_range_of_strengths() {
    let x = tensor(with_kappa(5, 9, 20, 1e4).as_ref());
    for t in [1e-3, 1e-2, 0.3, 1.0, 10.0, 1e4] {
        let kappa: f64 = condition_number(&conditioned(&x, t)).unwrap().to_scalar().unwrap();
        let wanted = (1.0 + t) / (1e-4 + t);
        assert_close(&[kappa], &[wanted], 1e-9, wanted);
    }
}

#[test]
fn directions_around_the_threshold_keep_their_digits() {
    // A Gram matrix alone gets sigma = 1e-7 sigma_1 wrong by tens of percent.
    for (n, d) in [(24, 40), (40, 24), (30, 30)] {
        let X = with_kappa(11, n, d, 1e8);
        let y = values(&conditioned(&tensor(X.as_ref()), 1.0));
        assert_close(&y, &values(&tensor(oracle(&X, 1.0).as_ref())), ORACLE, 1.0);
    }
}

#[test]
fn larger_matrices_meet_the_bound_too() {
    for (n, d) in [(197, 192), (65, 192), (197, 64)] {
        let x = tensor(with_kappa(3, n, d, 1e6).as_ref()).to_dtype(DType::F32).unwrap();
        let kappa: f64 = condition_number(&conditioned(&x, 1.0)).unwrap().to_scalar().unwrap();
        assert!(kappa <= 2.0 * (1.0 + BOUND), "{kappa}");
    }
}

#[test]
fn strength_zero_returns_the_same_bits() {
    let x = normal(7, &[3, 5, 4]).to_dtype(DType::F32).unwrap();
    assert_eq!(bits(&conditioned(&x, 0.0)), bits(&x));
}
