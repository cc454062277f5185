//! The iterative way against the exact one.

use candle_conditioning::{
    Conditioner, Error, Gradient, Polar, Spectrum, TOLERANCE, condition_number, spectra,
    spectral_norm,
};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::support::*;

fn iterative(tolerance: f64) -> Conditioner {
    Conditioner::default().with_polar(Polar::Iterative { tolerance }).unwrap()
}

fn kappa(y: &Tensor) -> f64 {
    values(&condition_number(y).unwrap()).into_iter().fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn single_precision_reaches_two_point_zero_one(
        seed: u64, n in 1usize..=40, d in 1usize..=40, e in 0.0..6.0f64, exponent in -100i32..=100,
    ) {
        let x = tensor(with_kappa(seed, n, d, 10f64.powf(e)).as_ref());
        let x = (x * 2f64.powi(exponent)).unwrap().to_dtype(DType::F32).unwrap();
        let y = iterative(TOLERANCE).forward(&x).unwrap();
        prop_assert_eq!(y.dtype(), DType::F32);
        prop_assert!(kappa(&y) <= 2.01, "{}", kappa(&y));
    }

    #[test]
    fn double_precision_agrees_with_the_exact_way(
        seed: u64, n in 1usize..=24, d in 1usize..=24, e in 0.0..5.0f64, t in 0.1..2.0f64,
    ) {
        let X = with_kappa(seed, n, d, 10f64.powf(e));
        let x = tensor(X.as_ref());
        let y = iterative(1e-8).with_strength(t).unwrap().forward(&x).unwrap();
        // The bound taken for sigma_1 is at most k^(1/(4 * 4096)) too large.
        let off = t * ((n.min(d) as f64).ln() / 16384.0 + 1e-7);
        assert_close(&singular_values(&matrix(&y)), &singular_values(&oracle(&X, t)), off, 1.0);
    }

    #[test]
    fn the_spectral_norm_is_never_above_and_hardly_below(
        seed: u64, n in 1usize..=40, d in 1usize..=40, e in 0.0..8.0f64, exponent in -900i32..=900,
    ) {
        let X = with_kappa(seed, n, d, 10f64.powf(e));
        let x = (tensor(X.as_ref()) * 2f64.powi(exponent)).unwrap();
        let found = values(&spectral_norm(&x).unwrap())[0] * 2f64.powi(-exponent);
        let low = 1.0 - (n.min(d) as f64).ln() / 8192.0;
        prop_assert!(found <= 1.0 + EXACT && found >= low - EXACT, "{}", found);
    }
}

#[test]
fn a_thousand_channels() {
    for (shape, e) in [((1024, 64), 6.0), ((64, 1024), 6.0), ((130, 130), 5.5)] {
        let x = tensor(with_kappa(3, shape.0, shape.1, 10f64.powf(e)).as_ref());
        let y = iterative(TOLERANCE).forward(&x.to_dtype(DType::F32).unwrap()).unwrap();
        assert!(kappa(&y) <= 2.01, "{shape:?}: {}", kappa(&y));
    }
}

#[test]
fn spectral_norms_by_the_batch_and_of_hard_matrices() {
    let x = normal(1, &[3, 5, 7]);
    let found = spectral_norm(&x).unwrap();
    assert_eq!(found.dims(), [3]);
    let wanted: Vec<f64> = spectra(&x).unwrap().iter().map(Spectrum::spectral_norm).collect();
    assert_close(&values(&found), &wanted, 1e-10, 10.0);
    let zero = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(values(&spectral_norm(&zero).unwrap()), [0.0]);
    let eye = Tensor::eye(6, DType::F32, &Device::Cpu).unwrap();
    assert_close(&values(&spectral_norm(&eye).unwrap()), &[1.0], 1e-12, 1.0);
    assert!(matches!(spectral_norm(&normal(2, &[4])), Err(Error::Shape { .. })));
}

#[test]
fn a_sequence_has_the_same_bits_in_any_batch_and_on_any_number_of_threads() {
    let x = normal(4, &[5, 11, 13]).to_dtype(DType::F32).unwrap();
    let run = |threads: usize| {
        conditioned_threads::with_count(threads, || bits(&iterative(1e-3).forward(&x).unwrap()))
    };
    assert_eq!(run(1), run(3));
    let alone: Vec<u64> =
        (0..5).flat_map(|b| bits(&iterative(1e-3).forward(&x.get(b).unwrap()).unwrap())).collect();
    assert_eq!(run(1), alone);
}

#[test]
fn padding_takes_no_part_and_keeps_its_bits() {
    let x = normal(5, &[2, 6, 4]);
    let mask = Tensor::new(&[[1u8, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], &Device::Cpu).unwrap();
    let y = iterative(1e-6).forward_masked(&x, &mask).unwrap();
    let real = x.get(1).unwrap().narrow(0, 0, 3).unwrap();
    let wanted = iterative(1e-6).forward(&real).unwrap();
    // Zero rows change the order of sums, not their values: not the same bits, as the exact way has.
    let found = y.get(1).unwrap().narrow(0, 0, 3).unwrap();
    assert_close(&values(&found), &values(&wanted), 1e-9, 10.0);
    let rest = |x: &Tensor| bits(&x.get(1).unwrap().narrow(0, 3, 3).unwrap());
    assert_eq!(rest(&y), rest(&x));
}

#[test]
fn hard_inputs() {
    let zero = Tensor::zeros((2, 3, 4), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(bits(&iterative(1e-3).forward(&zero).unwrap()), bits(&zero));
    for shape in [[0, 3, 4], [2, 0, 4], [2, 3, 0]] {
        let x = Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(iterative(1e-3).forward(&x).unwrap().dims(), shape);
    }
    let nan = Tensor::new(&[[1.0, f64::NAN]], &Device::Cpu).unwrap();
    let result = iterative(1e-3).forward(&nan);
    assert!(matches!(result, Err(Error::NonFinite { token: 0, channel: 1, .. })), "{result:?}");
    let half = Tensor::full(60_000f32, (4, 4), &Device::Cpu).unwrap().to_dtype(DType::F16);
    assert!(matches!(iterative(1e-3).forward(&half.unwrap()), Err(Error::NonFinite { .. })));
    let ids = Tensor::zeros((3, 4), DType::U32, &Device::Cpu).unwrap();
    assert!(matches!(iterative(1e-3).forward(&ids), Err(Error::Dtype { .. })));
    let view = normal(6, &[3, 8, 5]).transpose(0, 1).unwrap();
    let (a, b) = (iterative(1e-3).forward(&view), iterative(1e-3).forward(&view.copy().unwrap()));
    assert_eq!(bits(&a.unwrap()), bits(&b.unwrap()));
}

#[test]
fn gradients_are_those_of_the_exact_way() {
    let (x, weights) = (normal(7, &[2, 4, 6]), normal(8, &[2, 4, 6]));
    let found = gradient(&x, &weights, |x| iterative(1e-3).forward(x).unwrap());
    assert_eq!(found, values(&weights));
    let full = |polar| {
        let conditioner = Conditioner::default().with_gradient(Gradient::Full);
        let conditioner = conditioner.with_polar(polar).unwrap();
        gradient(&x, &weights, |x| conditioner.forward(x).unwrap())
    };
    assert_eq!(full(Polar::Exact), full(Polar::Iterative { tolerance: 1e-3 }));
}

#[test]
fn the_cpu_takes_the_exact_way() {
    assert_eq!(Polar::choose(197, 768, &Device::Cpu), Polar::Exact);
    let x = normal(9, &[3, 5]);
    let exact = Conditioner::default().with_polar(Polar::Exact).unwrap();
    let automatic = Conditioner::default();
    assert_eq!(bits(&automatic.forward(&x).unwrap()), bits(&exact.forward(&x).unwrap()));
}

#[test]
fn invalid_tolerances_are_refused() {
    for tolerance in [0.0, 1.0, -1.0, f64::NAN] {
        let result = Conditioner::default().with_polar(Polar::Iterative { tolerance });
        assert!(matches!(result, Err(Error::Fraction { setting: "tolerance", .. })));
    }
    let parse = serde_json::from_str::<Conditioner>;
    let json = r#"{"polar":{"iterative":{"tolerance":0.01}}}"#;
    assert_eq!(parse(json).unwrap().polar(), Polar::Iterative { tolerance: 0.01 });
    assert!(parse(r#"{"polar":{"iterative":{"tolerance":0}}}"#).is_err());
    assert!(parse(r#"{"polar":{"iterative":{"tolerance":0.1,"steps":3}}}"#).is_err());
    assert!(parse(r#"{"polar":"fast"}"#).is_err());
}
