//! Singular values and condition numbers.

use candle_conditioning::{condition_number, effective_condition_number, spectra, spectra_masked};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::support::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_given_spectrum_is_found(
        seed: u64, n in 1usize..=24, d in 1usize..=24, e in 0.0..8.0f64, exponent in -900i32..=900,
    ) {
        let kappa = 10f64.powf(e);
        let x = tensor(with_kappa(seed, n, d, kappa).as_ref());
        let x = x.affine(2f64.powi(exponent), 0.0).unwrap();
        let spectrum = &spectra(&x).unwrap()[0];
        let steps = (n.min(d).max(2) - 1) as f64;
        let found: Vec<f64> =
            spectrum.singular_values().iter().map(|s| s * 2f64.powi(-exponent)).collect();
        let wanted: Vec<f64> = (0..n.min(d)).map(|i| kappa.powf(-(i as f64) / steps)).collect();
        assert_close(&found, &wanted, EXACT, 1.0);
        let wanted = if n.min(d) == 1 { 1.0 } else { kappa };
        // sigma_min is good to EXACT sigma_1, so kappa to EXACT kappa, relatively.
        assert_close(&[spectrum.condition_number()], &[wanted], EXACT * kappa, kappa);
    }
}

#[test]
fn shapes_and_singular_matrices() {
    let x = normal(1, &[3, 4, 6]);
    let kappa = condition_number(&x).unwrap();
    assert_eq!((kappa.dims(), kappa.dtype()), (&[3][..], DType::F64));
    let kappa = condition_number(&x.get(0).unwrap()).unwrap();
    assert_eq!(kappa.dims(), &[] as &[usize]);

    let singular =
        Tensor::new(&[[3.0f32, 0.0, 0.0], [0.0, 1.5, 0.0], [0.0, 0.0, 0.0]], &Device::Cpu);
    let singular = singular.unwrap();
    assert_eq!(values(&condition_number(&singular).unwrap()), [f64::INFINITY]);
    assert_eq!(values(&effective_condition_number(&singular).unwrap()), [2.0]);
    let spectrum = &spectra(&singular).unwrap()[0];
    assert_eq!((spectrum.rank(), spectrum.spectral_norm()), (2, 3.0));

    let zero = Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(spectra(&zero).unwrap()[0].rank(), 0);
    assert_eq!(values(&effective_condition_number(&zero).unwrap()), [f64::INFINITY]);
}

#[test]
fn masked_spectra_are_those_of_the_real_rows() {
    let x = normal(2, &[2, 5, 3]);
    let mask = Tensor::new(&[[1u8, 1, 0, 1, 0], [0, 0, 0, 0, 0]], &Device::Cpu).unwrap();
    let found = spectra_masked(&x, &mask).unwrap();
    let rows = Tensor::new(&[0u32, 1, 3], &Device::Cpu).unwrap();
    let real = x.get(0).unwrap().index_select(&rows, 0).unwrap();
    assert_eq!(found[0], spectra(&real).unwrap()[0]);
    assert!(found[1].singular_values().is_empty());
    assert_eq!(found[1].condition_number(), f64::INFINITY);
}
