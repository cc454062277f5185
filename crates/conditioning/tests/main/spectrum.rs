//! Singular values, condition numbers, entropy.

use candle_conditioning::{
    condition_number, effective_condition_number, spectra, spectra_masked, spectral_norm,
};
use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use rand::Rng;

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

    #[test]
    fn entropy_and_effective_rank_are_those_of_a_given_spectrum(
        seed: u64, n in 1usize..=24, d in 1usize..=24, e in 0.0..8.0f64, exponent in -900i32..=900,
        factor in 0.1..10.0f64,
    ) {
        let (kappa, rank) = (10f64.powf(e), n.min(d));
        let x = tensor(with_kappa(seed, n, d, kappa).as_ref());
        let spectrum = &spectra(&x).unwrap()[0];
        let (entropy, effective) = (spectrum.entropy(), spectrum.effective_rank());
        let steps = (rank.max(2) - 1) as f64;
        let sigma: Vec<f64> = (0..rank).map(|i| kappa.powf(-(i as f64) / steps)).collect();
        // H = ln S - sum sigma ln sigma / S with S the sum: another way to the same number.
        let sum: f64 = sigma.iter().sum();
        let wanted = sum.ln() - sigma.iter().map(|s| s * s.ln()).sum::<f64>() / sum;
        assert_close(&[entropy], &[wanted], SPREAD, 1.0);
        assert_close(&[effective], &[wanted.exp()], SPREAD, rank as f64);
        prop_assert!((0.0..=(rank as f64).ln() + EXACT).contains(&entropy), "{}", entropy);
        prop_assert!((1.0..=rank as f64 * (1.0 + EXACT)).contains(&effective), "{}", effective);

        // Another scale: the same bits by a power of two, the same number by any other.
        let scaled = |factor: f64| spectra(&x.affine(factor, 0.0).unwrap()).unwrap()[0].entropy();
        prop_assert_eq!(scaled(2f64.powi(exponent)).to_bits(), entropy.to_bits());
        assert_close(&[scaled(-factor)], &[entropy], SPREAD, 1.0);
    }
}

/// A singular value of size 1e-16 sigma_1 that should be zero adds 1e-16 ln 1e16 to the entropy, as each error of
/// this size adds at most: 24 of them, with a factor of 10.
const SPREAD: f64 = 1e-12;

#[test]
fn equal_singular_values_have_the_largest_entropy_and_one_has_none() {
    for (n, d) in [(1, 1), (1, 7), (7, 1), (5, 5), (4, 9), (24, 6)] {
        let of = |x: &Tensor| {
            let spectrum = &spectra(x).unwrap()[0];
            [spectrum.entropy(), spectrum.effective_rank()]
        };
        let rank = n.min(d) as f64;
        let equal = tensor(with_kappa(3, n, d, 1.0).as_ref());
        assert_close(&of(&equal), &[rank.ln(), rank], SPREAD, rank);
        let single = normal(4, &[n, 1]).matmul(&normal(5, &[1, d])).unwrap();
        assert_close(&of(&single), &[0.0, 1.0], SPREAD, 1.0);
        assert_eq!(of(&Tensor::zeros((n, d), DType::F32, &Device::Cpu).unwrap()), [0.0, 0.0]);
    }
    // Exact where the decomposition is.
    let diagonal = |values: [f32; 3]| {
        let [a, b, c] = values;
        let x = Tensor::new(&[[a, 0.0, 0.0], [0.0, b, 0.0], [0.0, 0.0, c]], &Device::Cpu).unwrap();
        let spectrum = spectra(&x).unwrap().remove(0);
        (spectrum.entropy(), spectrum.effective_rank())
    };
    assert_eq!(diagonal([0.0, 3.0, 0.0]), (0.0, 1.0));
    // Shares 1/2, 1/4, 1/4: 3/2 ln 2.
    let (entropy, effective) = diagonal([2.0, 1.0, 1.0]);
    assert_close(&[entropy, effective], &[1.5 * 2f64.ln(), 2f64.powf(1.5)], EXACT, 1.0);
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
    assert_eq!((found[1].entropy(), found[1].effective_rank()), (0.0, 0.0));
    assert_eq!(found[1].condition_number(), f64::INFINITY);
}

/// Seeds and sizes where faer's division of large matrices fails on a processor with AVX-512: at the first two it does not converge for rows that are
/// all alike, at the others it has 5e-5 sigma_1 for a zero of one-hot rows.
const HARD: [(u64, [usize; 2]); 4] =
    [(14, [131, 130]), (27, [232, 199]), (213, [233, 372]), (181, [226, 230])];

#[test]
fn large_matrices_that_lack_directions_have_their_zeros() {
    for (seed, [n, d]) in HARD {
        // All rows alike: one direction, of size sqrt(n) |row|.
        let row = normal(seed, &[1, d]);
        let alike = row.broadcast_as((n, d)).unwrap().contiguous().unwrap();
        let size = (n as f64 * values(&row).iter().map(|v| v * v).sum::<f64>()).sqrt();
        let mut wanted = vec![0.0; n.min(d)];
        wanted[0] = size;
        assert_close(spectra(&alike).unwrap()[0].singular_values(), &wanted, EXACT, size);
        // One entry a row: orthogonal columns, whose norms are the singular values.
        let mut rng = rng(seed);
        let mut counts = vec![0.0f64; d];
        let mut one_hot = vec![0.0f64; n * d];
        for i in 0..n {
            let j = rng.random_range(0..d);
            one_hot[i * d + j] = 1.0;
            counts[j] += 1.0;
        }
        let one_hot = Tensor::from_vec(one_hot, (n, d), &Device::Cpu).unwrap();
        let mut wanted: Vec<f64> = counts.iter().map(|count| count.sqrt()).collect();
        wanted.sort_by(|a, b| b.total_cmp(a));
        wanted.truncate(n.min(d));
        assert_close(spectra(&one_hot).unwrap()[0].singular_values(), &wanted, EXACT, wanted[0]);
    }
}

#[test]
fn sequences_without_tokens_or_channels_have_empty_spectra() {
    for shape in [[2, 0, 4], [2, 3, 0]] {
        let x = Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(spectra(&x).unwrap().len(), 2);
        assert_eq!(values(&condition_number(&x).unwrap()), [f64::INFINITY; 2]);
        assert_eq!(values(&spectral_norm(&x).unwrap()), [0.0; 2]);
    }
}
