//! U V^T by both ways.

use candle_conditioning::{Conditioner, Error, Polar, TOLERANCE, orthogonalise};
use candle_core::{DType, Device, IndexOp, Tensor, Var};
use proptest::prelude::*;

use crate::support::*;

/// The exact way: rounding of a Gram matrix of up to 24 rows in f64, times a condition number of up to 1e3, squared.
const F64: f64 = 1e-8;

/// The iterative way in f32: its tolerance, the bound that stands for sigma_1, and rounding.
const F32: f64 = 5e-3;

const ITERATIVE: Polar = Polar::Iterative { tolerance: TOLERANCE };

fn apart(a: &Tensor, b: &Tensor) -> f64 {
    let difference = (a.to_dtype(DType::F64).unwrap() - b.to_dtype(DType::F64).unwrap()).unwrap();
    values(&difference).into_iter().fold(0.0, |most: f64, d| most.max(d.abs()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() })]

    #[test]
    fn it_is_the_polar_factor_by_either_way(
        seed: u64, n in 1usize..=24, d in 1usize..=24, e in 0.0..3.0f64, exponent in -100i32..=100,
    ) {
        let X = with_kappa(seed, n, d, 10f64.powf(e));
        let svd = X.thin_svd().unwrap();
        let wanted = tensor((svd.U() * svd.V().transpose()).as_ref());
        let x = (tensor(X.as_ref()) * 2f64.powi(exponent)).unwrap();
        let exact = orthogonalise(&x, Polar::Automatic).unwrap();
        prop_assert!(apart(&exact, &wanted) <= F64, "{}", apart(&exact, &wanted));

        let x = x.to_dtype(DType::F32).unwrap();
        for polar in [Polar::Exact, ITERATIVE] {
            let y = orthogonalise(&x, polar).unwrap();
            prop_assert_eq!(y.dtype(), DType::F32);
            prop_assert!(apart(&y, &wanted) <= F32, "{polar:?} {}", apart(&y, &wanted));
        }
    }
}

/// Where the exact way lets go of a direction, in sigma_1.
const LOST: f64 = 1.0 / 1024.0;

/// With weak directions, the sum of inverses: four times the worst of 400 random matrices.
const WEAK: f64 = 2e-6;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Sizes on both sides of 16, below which the eigenvectors are taken.
    #[test]
    fn weak_directions_fade_out(seed: u64, n in 1usize..=80, d in 1usize..=80, e in 3.0..12.0f64) {
        let X = with_kappa(seed, n, d, 10f64.powf(e));
        let svd = X.thin_svd().unwrap();
        let sigma: Vec<f64> = svd.S().column_vector().iter().copied().collect();
        let y = orthogonalise(&tensor(X.as_ref()), Polar::Exact).unwrap();
        let f = svd.U().transpose() * matrix(&y) * svd.V();
        for (i, sigma) in sigma.iter().map(|s| s / sigma[0]).enumerate() {
            for j in (0..i).filter(|_| sigma > LOST) {
                let mixed = f[(i, j)].abs().max(f[(j, i)].abs());
                prop_assert!(mixed <= WEAK, "directions {i} and {j}: {mixed}");
            }
            // Below, in proportion to sigma, by at most the value of the sum at zero.
            let s = sigma / LOST;
            let range = if s >= 1.0 { 1.0..=1.0 } else { s * 0.99..=(10.6 * s).min(1.0) };
            let at = f[(i, i)];
            prop_assert!(*range.start() - WEAK <= at && at <= range.end() + WEAK, "{at} at {sigma}");
        }
    }
}

#[test]
fn the_correction_is_sigma_1_times_it() {
    let x = tensor(with_kappa(3, 9, 5, 100.0).as_ref());
    let y = Conditioner::default().forward(&x).unwrap();
    let q = orthogonalise(&x, Polar::Exact).unwrap();
    // with_kappa has sigma_1 = 1.
    assert!(apart(&(y - x).unwrap(), &q) <= F64);
}

#[test]
fn zeros_single_rows_and_matrices_of_rank_one() {
    for polar in [Polar::Exact, ITERATIVE] {
        let zero = Tensor::zeros((3, 4), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(apart(&orthogonalise(&zero, polar).unwrap(), &zero), 0.0);
        for shape in [[1, 5], [5, 1]] {
            let x = normal(1, &shape).to_dtype(DType::F32).unwrap();
            let norm = x.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
            let wanted = x.broadcast_div(&norm).unwrap();
            assert!(apart(&orthogonalise(&x, polar).unwrap(), &wanted) <= F32, "{polar:?}");
        }
    }
    // Exact numbers, so that the rank is exactly one: 3 u v^T of the norms 3 and 5.
    let x = Tensor::new(&[[3.0, 4.0], [6.0, 8.0], [6.0, 8.0]], &Device::Cpu).unwrap();
    let wanted = (&x / 15.0).unwrap();
    assert!(apart(&orthogonalise(&x, Polar::Exact).unwrap(), &wanted) <= F64);
}

#[test]
fn a_matrix_has_the_same_bits_alone_and_in_a_batch() {
    let x = normal(7, &[3, 20, 17]).to_dtype(DType::F32).unwrap();
    let together = orthogonalise(&x, Polar::Exact).unwrap();
    for i in 0..3 {
        let alone = orthogonalise(&x.i(i).unwrap(), Polar::Exact).unwrap();
        assert_eq!(values(&alone), values(&together.i(i).unwrap()));
    }
    let empty = Tensor::zeros((0, 4), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(orthogonalise(&empty, Polar::Exact).unwrap().dims(), [0, 4]);
}

#[test]
fn bad_input_is_named_and_no_graph_is_made() {
    for polar in [Polar::Exact, ITERATIVE] {
        let x = Tensor::new(&[[1f32, 2.0], [3.0, f32::NAN]], &Device::Cpu).unwrap();
        let error = orthogonalise(&x, polar).unwrap_err();
        assert!(matches!(error, Error::NonFinite { token: 1, channel: 1, .. }), "{error}");
        assert!(
            orthogonalise(&Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap(), polar).is_err()
        );
        let whole = Tensor::zeros((2, 2), DType::U8, &Device::Cpu).unwrap();
        assert!(orthogonalise(&whole, polar).is_err());
        let x = Var::from_tensor(&normal(1, &[3, 4])).unwrap();
        assert!(!orthogonalise(&x, polar).unwrap().track_op());
    }
    let x = normal(1, &[3, 4]);
    let error = orthogonalise(&x, Polar::Iterative { tolerance: 2.0 }).unwrap_err();
    assert!(matches!(error, Error::Fraction { .. }), "{error}");
}
